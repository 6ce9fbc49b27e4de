// VirtioPci: a virtio device as a PCI function sees it: common configuration, ISR, device configuration, doorbells.
//
// Document: Virtual I/O Device (VIRTIO) Version 1.2, sections 2 (basic facilities), 3 (initialization), 4.1 (PCI bus).
// Implemented: modern interface only; split and packed rings, indirect descriptors, event index, in-order use,
//   queue reset (VIRTIO_F_RING_RESET), MSI-X with a vector for each queue and INTx with the ISR, configuration change
//   interrupts, DEVICE_NEEDS_RESET.
// Missing: shared memory regions, administration virtqueues (1.3), VIRTIO_F_NOTIFICATION_DATA (an ioeventfd does not
//   carry what was written), VIRTIO_F_ACCESS_PLATFORM (there is no IOMMU).
// The rest of a device is its VirtioModel. Capabilities and the MSI-X table are the `pci` process's.
// Threading: single-threaded. Trust: every access and all of guest memory come from the guest.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "devproc/core/device.h"
#include "devproc/core/guest_memory.h"
#include "devproc/core/persistent.h"
#include "devproc/core/wires.h"
#include "devproc/models/virtio/queue.h"

namespace bulkhead::devproc::virtio {

constexpr std::uint64_t feature_bit(unsigned bit) { return std::uint64_t{1} << bit; }
constexpr bool has_feature(std::uint64_t features, unsigned bit) { return (features & feature_bit(bit)) != 0; }

// What a model sees of its transport while it handles an input.
class VirtioPort {
 public:
  virtual ~VirtioPort() = default;
  // Begun for this input (VirtQueue::begin).
  virtual VirtQueue& queue(QueueId queue) = 0;
  [[nodiscard]] virtual std::uint64_t features() const = 0;  // as negotiated
  // The driver has said DRIVER_OK, and may be interrupted.
  [[nodiscard]] virtual bool running() const = 0;
  // It may use guest memory as well: bus mastering is on. What is not asked for by on_queue() looks here first.
  [[nodiscard]] virtual bool may_work() const = 0;
  // The device configuration has changed of itself.
  virtual void config_changed() = 0;
  // The device is in a state that only a reset ends.
  virtual void needs_reset() = 0;
};

// Where the work on a queue has come to.
enum class QueueWork : std::uint8_t {
  kDrained,  // nothing is left in it
  kMore,     // it goes on in the next input: this one has no room for more
  kBlocked,  // it waits for something else than the driver; kicks would be in vain
};

// What makes one virtio device differ from another.
class VirtioModel {
 public:
  VirtioModel() = default;
  VirtioModel(const VirtioModel&) = delete;
  VirtioModel& operator=(const VirtioModel&) = delete;
  virtual ~VirtioModel() = default;

  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual std::uint16_t queues() const = 0;
  [[nodiscard]] virtual std::uint16_t queue_size(QueueId) const { return 256; }
  // Device-specific feature bits that it offers (0 to 23 and 50 to 63), and VIRTIO_F_IN_ORDER if it keeps order.
  [[nodiscard]] virtual std::uint64_t features() const = 0;
  // Device-specific configuration, byte by byte; zero beyond its end.
  [[nodiscard]] virtual std::uint8_t read_config(std::uint32_t /*offset*/) const { return 0; }
  virtual void write_config(VirtioPort&, std::uint32_t /*offset*/, std::uint8_t /*value*/) {}

  // The device may work from now on: DRIVER_OK was written, or bus mastering came back. Queues are not begun here.
  virtual void on_ready(VirtioPort&) {}
  // A kick, or more to do.
  virtual QueueWork on_queue(VirtioPort& port, QueueId queue) = 0;
  virtual void on_timer(VirtioPort&, TimerId) {}
  virtual void on_stream(VirtioPort&, StreamId) {}
  // See Device::on_limit.
  virtual bool on_limit(LimitId, const RateLimit&) { return false; }
  virtual void on_setting(VirtioPort&, Setting, std::uint64_t /*value*/) {}
  // See Device::on_backend. May work on any of its queues.
  virtual bool on_backend(VirtioPort&, BackendId) { return false; }
  virtual void on_backend_poisoned(VirtioPort& port, BackendId) { port.needs_reset(); }
  // The driver is about to start a queue anew: what was taken from it is forgotten.
  virtual void on_queue_reset(QueueId) {}
  // After that, or after reset(): something of what was taken is still under way and may touch guest memory. Until it
  // is over the driver reads that its reset is not done, and cannot go on.
  [[nodiscard]] virtual bool draining(QueueId) const { return false; }
  virtual void reset() = 0;
  virtual void restore() = 0;
  // Follows restore(), with queues that can be fetched from: takes up again what is in flight. Nothing may be used
  // here.
  virtual void resume(VirtioPort&) {}
  virtual void inspect(Inspector&) const {}
};

// Committed with the device.
struct TransportState {
  std::uint64_t driver_features = 0;
  std::uint32_t device_feature_select = 0;
  std::uint32_t driver_feature_select = 0;
  std::uint32_t control = 0;            // FunctionControl bits
  std::uint32_t needs_reset_count = 0;  // how often DEVICE_NEEDS_RESET was set, since the VM began
  std::uint16_t config_vector = 0;
  std::uint16_t queue_select = 0;
  std::uint8_t device_status = 0;
  std::uint8_t config_generation = 0;
  std::uint8_t isr = 0;
  std::uint8_t reserved = 0;
  bool operator==(const TransportState&) const = default;
};

struct TransportStorage {
  Persistent<TransportState> state;
  std::vector<Persistent<QueueState>> queues;

  [[nodiscard]] static TransportStorage allocate(StateAllocator& allocator, std::uint16_t queues);
};

class VirtioPci final : public Device, private VirtioPort {
 public:
  static constexpr std::uint32_t kStateVersion = 1;

  VirtioPci(const TransportStorage& storage, std::unique_ptr<VirtioModel> model, IrqLine& intx, MsiSender& messages,
            GuestMemory& memory);

  [[nodiscard]] std::string_view name() const override { return model_->name(); }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  bool on_queue(QueueId queue) override;
  void let_kicks_wait() override { kicks_wait_ = true; }
  [[nodiscard]] bool queue_stirs(QueueId queue) override;
  bool ask_for_kicks(QueueId queue) override;
  void hold_kicks(QueueId queue) override;
  void on_queue_poisoned(QueueId queue) override;
  bool show(bool again, MsiSender& interrupts) override;
  void after_show() override;
  void on_timer(TimerId timer) override;
  void on_stream(StreamId stream) override;
  void on_setting(Setting setting, std::uint64_t value) override;
  bool on_backend(BackendId backend) override;
  void on_backend_poisoned(BackendId backend) override;
  void on_function_control(std::uint32_t bits) override;
  bool on_limit(LimitId which, const RateLimit& limit) override { return model_->on_limit(which, limit); }
  void inspect(Inspector& inspector) const override;

 private:
  VirtQueue& queue(QueueId queue) override;
  [[nodiscard]] std::uint64_t features() const override { return state_->driver_features; }
  [[nodiscard]] bool running() const override;
  [[nodiscard]] bool may_work() const override;
  void config_changed() override;
  void needs_reset() override;

  [[nodiscard]] std::uint64_t offered() const;
  // Something from before a reset is not over.
  [[nodiscard]] bool draining() const;
  std::uint64_t read_common(std::uint32_t offset, std::uint8_t size) const;
  [[nodiscard]] std::uint64_t common_register(std::uint32_t offset) const;
  void write_common(std::uint32_t offset, std::uint8_t size, std::uint32_t value);
  void write_queue_register(std::uint32_t offset, std::uint32_t value);
  void write_status(std::uint8_t value);
  void set_driver_features(std::uint32_t value);
  void reset_device();
  void reset_queue(VirtQueue& queue, QueueId index);
  void start_over(VirtQueue& queue, QueueId index, std::uint16_t vector);
  void apply_features();
  [[nodiscard]] VirtQueue* selected() const;
  [[nodiscard]] std::uint16_t checked_vector(std::uint32_t value) const;
  [[nodiscard]] bool msix() const { return (state_->control & kControlMsixEnable) != 0; }
  void set_isr(std::uint8_t bits);
  void update_line();
  void check_broken();
  void begin_input();

  Persistent<TransportState> state_;
  std::unique_ptr<VirtioModel> model_;
  IrqLine& intx_;
  MsiSender& messages_;
  std::vector<std::unique_ptr<VirtQueue>> queues_;
  std::vector<bool> begun_;   // in this input: what show() looks at
  std::vector<bool> silent_;  // emptied, and without kicks until ask_for_kicks()
  bool kicks_wait_ = false;
};

}  // namespace bulkhead::devproc::virtio
