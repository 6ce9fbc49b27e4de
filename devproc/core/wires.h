// The wires of a device model: the few small interfaces through which it reaches the world.
//
// A model's constructor takes exactly the wires that it needs, by reference. All of them record what the
// model asked for as part of the current input; the host acts on it after the commit, so a model that is
// killed half-way has done nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "devproc/core/block_backend.h"
#include "devproc/core/clock.h"
#include "devproc/core/entropy.h"
#include "devproc/core/frame_backend.h"
#include "devproc/core/guest_memory.h"
#include "devproc/core/packet_link.h"
#include "devproc/core/persistent.h"
#include "devproc/core/ram_release.h"
#include "devproc/core/screen.h"
#include "devproc/core/stream_sockets.h"
#include "devproc/core/user_network.h"
#include "ipc/roles/bar_access.h"
#include "ipc/roles/device_config.h"
#include "ipc/roles/fw_cfg_decl.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc {

// An interrupt wire. Models never know interrupt numbers. Repeats are dropped.
class IrqLine {
 public:
  virtual ~IrqLine() = default;
  virtual void set_level(bool asserted) = 0;
};

// Message-signalled interrupts of one function. Whether a vector is enabled, masked, or where it goes is
// the VMM's business: a masked one stays pending.
class MsiSender {
 public:
  virtual ~MsiSender() = default;
  virtual void send(std::uint16_t vector) = 0;
};

// Stores that tell a guest of what an input has done, where the guest may use the place for something else as soon as
// it has seen them: each is made once, whatever dies, in order, after the commit and before interrupts.
class GuestPublisher {
 public:
  virtual ~GuestPublisher() = default;
  // 8 bytes at a multiple of 8; a place that is no RAM is passed over. At most room() an input.
  virtual void publish(GuestPhys address, std::uint64_t value) = 0;
  [[nodiscard]] virtual std::size_t room() const = 0;
};

// Effects of the input being handled. At most kMaxEffects an input; further ones are dropped and counted.
class EffectSink {
 public:
  virtual ~EffectSink() = default;
  virtual void emit(const Effect& effect) = 0;
};

// A byte stream in each direction, whose indexes are committed with the device's state.
class CharBackend {
 public:
  virtual ~CharBackend() = default;
  // False when there is no room; the byte is then not taken, and on_stream() tells of room.
  virtual bool put(std::uint8_t byte) = 0;
  [[nodiscard]] virtual std::size_t room() const = 0;
  // The next byte, taken; nullopt when there is none.
  virtual std::optional<std::uint8_t> get() = 0;
  [[nodiscard]] virtual bool readable() const = 0;
};

// For the few accesses whose answer lives outside the process: the VMM completes them. At most one an
// input; the model's own return value is then ignored. Of string I/O, the model redirects the first element or none.
class Redirect {
 public:
  virtual ~Redirect() = default;
  // A read of the pending bits of MSI-X vectors first_vector ... first_vector + 63 of a function; the VMM
  // takes the bytes that the access asked for out of that quadword.
  virtual void pending_bits(std::uint8_t devfn, std::uint16_t first_vector, std::uint8_t byte_offset) = 0;
  // A read or write of pci_cfg_data is one of a BAR. What is left of string I/O comes again as a new request.
  virtual void bar_access(const BarAccess& access) = 0;
  // A write that starts fw_cfg's DMA. The VMM does it and then says so (Device::on_transfer_done).
  virtual void fw_cfg_transfer(const FwCfgTransfer& transfer) = 0;
};

// Everything a host offers for the construction of one device. Models do not see it: the registry's
// create functions pick the wires that a constructor names. All references outlive the device.
struct Wires {
  StateAllocator& state;
  Clock& clock;
  TimerQueue& timers;
  EffectSink& effects;
  std::span<IrqLine* const> lines;
  std::span<CharBackend* const> streams;
  Redirect* redirect = nullptr;             // `pci_bus`, `fw_cfg`
  MsiSender* msi = nullptr;                 // PCI functions with MSI or MSI-X
  GuestMemory* memory = nullptr;            // device types that declare guest memory
  RamRelease* ram = nullptr;                // device types that declare SyscallGroup::kReleaseRam
  Entropy* entropy = nullptr;               // device types that declare BackingKind::kEntropy
  BlockBackend* block = nullptr;            // block device types
  PacketLink* link = nullptr;               // virtio_vsock and vsock_relay
  StreamSockets* sockets = nullptr;         // vsock_relay
  std::span<FrameBackend* const> frames{};  // NICs: one a queue pair
  GuestPublisher* publisher = nullptr;      // device types that declare `publishes`
  UserNetwork* network = nullptr;           // usernet
  Screen* screen = nullptr;                 // device types that declare `screen`
  std::span<const std::byte> data{};        // device types that declare a region of data
};

}  // namespace bulkhead::devproc
