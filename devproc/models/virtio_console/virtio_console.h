// VirtioConsole: the console device with one port, a byte stream each way.
//
// Document: VIRTIO 1.2, section 5.3. Layouts and bits: spec.h.
// Implemented: port 0, the terminal's size with configuration changes (offered when the user's terminal has one),
//   emergency write.
// Missing: VIRTIO_CONSOLE_F_MULTIPORT. Its ports are unnamed pipes between guest and host that vsock does better, and
//   its control queue would be a second way to open and close what is always open here.
// A byte leaves the guest's buffer when it is in the stream, whose indexes are committed with the queue's: none is lost
// or doubled, whenever the process dies. A chain that is longer than there is room goes out piece by piece.
// Units: bytes. Threading: single-threaded. Trust: rings and buffers are the guest's; what is typed is any bytes.
// Config: VirtioConsoleConfig{.columns = 80, .rows = 25}
#pragma once

#include <cstdint>
#include <type_traits>

#include "devproc/core/guest_memory.h"
#include "devproc/core/wires.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio_console/spec.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

struct VirtioConsoleState {
  std::uint64_t sent = 0;  // bytes, since the VM began, as the two that follow
  std::uint64_t received = 0;
  std::uint64_t emergency_dropped = 0;  // written in an emergency, with no room
  std::uint64_t head_done = 0;          // bytes of the first chain in transmitq that are in the stream already
  std::uint16_t columns = 0;
  std::uint16_t rows = 0;
  std::uint8_t send_blocked = 0;  // the stream was full
  std::array<std::uint8_t, 3> reserved{};
  bool operator==(const VirtioConsoleState&) const = default;
};
static_assert(std::has_unique_object_representations_v<VirtioConsoleState>);

class VirtioConsole final : public virtio::VirtioModel {
 public:
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr TimerId kGoOn = 0;  // due at once: an input that no kick brings

  VirtioConsole(Persistent<VirtioConsoleState> state, const VirtioConsoleConfig& config, GuestMemory& memory,
                CharBackend& stream, Clock& clock, TimerQueue& timers);

  [[nodiscard]] std::string_view name() const override { return "virtio_console"; }
  [[nodiscard]] std::uint16_t queues() const override { return virtio_console_spec::kTransmitq + 1; }
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::uint8_t read_config(std::uint32_t offset) const override;
  void write_config(virtio::VirtioPort& port, std::uint32_t offset, std::uint8_t value) override;
  void on_ready(virtio::VirtioPort& port) override;
  virtio::QueueWork on_queue(virtio::VirtioPort& port, QueueId queue) override;
  void on_stream(virtio::VirtioPort& port, StreamId stream) override;
  void on_timer(virtio::VirtioPort& port, TimerId timer) override;
  void on_setting(virtio::VirtioPort& port, Setting setting, std::uint64_t value) override;
  void on_queue_reset(QueueId queue) override;
  void reset() override;
  void restore() override;
  void inspect(Inspector& inspector) const override;

 private:
  enum class Sending : std::uint8_t { kDone, kFull, kBadMemory };

  [[nodiscard]] bool sized() const { return config_.columns != 0 && config_.rows != 0; }
  virtio::QueueWork transmit(virtio::VirtioPort& port);
  Sending send(const virtio::Chain& chain);
  virtio::QueueWork receive(virtio::VirtioPort& port);
  bool fill(const virtio::Chain& chain, std::uint32_t& written);
  // Work on a queue that on_queue() did not begin.
  void go_on(virtio::VirtioPort& port);

  Persistent<VirtioConsoleState> state_;
  VirtioConsoleConfig config_;
  GuestMemory& memory_;
  CharBackend& stream_;
  Clock& clock_;
  TimerQueue& timers_;
};

}  // namespace bulkhead::devproc
