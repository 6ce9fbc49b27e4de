// Device: the interface that every device model implements.
//
// A model is a pure state machine: (state, input) -> (state', reply, effects). It makes no system call,
// starts no thread, reads no clock but the one it is given, and links neither the VMM nor the jail. The
// same library runs in a jailed process, in unit tests and fuzzers, and in the benchmark's baseline.
//
// Threading: single-threaded; only the event loop of its host calls a model.
// Trust: the guest chooses every access and every byte of guest memory. Nothing it does may abort, throw,
// loop or allocate without bound: a guest's mistake gets the hardware's answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "devproc/core/access.h"
#include "ipc/roles/device_config.h"
#include "ipc/roles/settings.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc {

class Inspector;
class MsiSender;

using TimerId = std::uint16_t;    // index among the device's own timers
using StreamId = std::uint16_t;   // index among the device's own byte streams
using QueueId = std::uint16_t;    // index among the device's own queues in guest memory
using BackendId = std::uint16_t;  // index among the device's own block or frame backends

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual std::span<const RegionSpec> regions() const = 0;

  // The low `access.size` bytes are the answer. nullopt: no such register, the bus answers ones.
  virtual std::optional<std::uint64_t> read(const Access& access) = 0;
  // `value` has no bits beyond access.size. False: no such register; the write is dropped and counted.
  virtual bool write(const Access& access, std::uint64_t value) = 0;

  // Puts the device into its power-on state (RESET# asserted): interrupt lines low, timers off.
  virtual void reset() = 0;

  // The state was put in place by somebody else (take-over, restore) and may hold anything: brings every
  // field into its range, then derives lines again. Must not change a state that an honest model wrote.
  virtual void restore() = 0;

  // A timer that the device armed is due. Firing disarmed it.
  virtual void on_timer(TimerId) {}
  // A stream has bytes to take, or room again.
  virtual void on_stream(StreamId) {}
  // The guest may have put something into a queue. True: there is more to do; asked again after the commit.
  virtual bool on_queue(QueueId) { return false; }
  // Whoever calls this looks at queues by itself: from now on, a queue that on_queue() has emptied stays without kicks
  // until ask_for_kicks(), which hold_kicks() takes back. In between, queue_stirs() tells whether on_queue() would find
  // something. All of them come between two inputs and change no state; ask_for_kicks() answers true when something
  // came before the guest knew.
  virtual void let_kicks_wait() {}
  [[nodiscard]] virtual bool queue_stirs(QueueId) { return false; }
  virtual bool ask_for_kicks(QueueId) { return false; }
  virtual void hold_kicks(QueueId) {}
  // Work on a queue has ended three processes: it is not to be tried again.
  virtual void on_queue_poisoned(QueueId) {}
  // Called after each commit of an input of a device that has queues or a screen: puts into guest memory what that
  // input shows the guest (or into the scan-out block what it shows those who draw), then sends the messages that tell
  // of it. `again`: a successor's call, for what its predecessor may have shown or not; doing it twice is harmless.
  // Changes no state. True: after_show() is to follow, as an input.
  virtual bool show(bool /*again*/, MsiSender& /*interrupts*/) { return false; }
  virtual void after_show() {}
  // A backend has something (frames, room for frames, completions), or may have: at a take-over each is asked for.
  // True: there is more to do; asked again after the commit.
  virtual bool on_backend(BackendId) { return false; }
  // What a backend has, has ended three processes: it is not to be worked on again.
  virtual void on_backend_poisoned(BackendId) {}
  // Host events that are not register accesses.
  virtual void on_power_button() {}
  // What the device's user has changed while it runs.
  virtual void on_setting(Setting, std::uint64_t /*value*/) {}
  // PCI functions: FunctionControl bits (ipc/state/effects.h) as config space now has them.
  virtual void on_function_control(std::uint32_t /*bits*/) {}
  // A limit that its type declares is to be another one; fields that are RateLimit::kUnchanged stay. False: it has
  // none.
  virtual bool on_limit(LimitId, const RateLimit&) { return false; }
  // `fw_cfg` alone: the VMM has done the transfer that a write was redirected for; where it left the item.
  virtual void on_transfer_done(std::uint32_t /*selector*/, std::uint32_t /*offset*/) {}
  // `pci_bus` alone: the function's device was isolated, or came back.
  virtual void on_function_presence(std::uint8_t /*devfn*/, bool /*present*/) {}

  // The whole desired state of what this device asks of the VMM, as effects (ipc/state/effects.h): what the
  // VMM asks for after a reset and after a take-over. Empty for most devices.
  [[nodiscard]] virtual std::size_t desired_effect_count() const { return 0; }
  [[nodiscard]] virtual Effect desired_effect(std::size_t /*index*/) const { return {}; }

  // Shows state and counters by name. Changes nothing.
  virtual void inspect(Inspector&) const {}
};

// What Device::inspect() writes to.
class Inspector {
 public:
  virtual ~Inspector() = default;
  virtual void field(std::string_view name, std::uint64_t value) = 0;
};

}  // namespace bulkhead::devproc
