#include "devproc/models/virtio/transport.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "devproc/models/virtio/spec.h"
#include "devproc/models/virtio/transport_spec.h"
#include "ipc/roles/virtio_decl.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc::virtio {
namespace {

constexpr RegionSpec kRegions[] = {
    {"configuration", AddressKind::kMemory, kVirtioRegistersSize, kSizeUpTo4},
    {"doorbells", AddressKind::kMemory, kVirtioDoorbellsSize, kSizeUpTo4, true},
};

constexpr std::uint64_t kTransportFeatures = feature_bit(kVirtioFVersion1) | feature_bit(kVirtioFIndirectDesc) |
                                             feature_bit(kVirtioFEventIdx) | feature_bit(kVirtioFRingPacked) |
                                             feature_bit(kVirtioFRingReset);

constexpr std::uint8_t kStatusBits =
    kStatusAcknowledge | kStatusDriver | kStatusDriverOk | kStatusFeaturesOk | kStatusNeedsReset | kStatusFailed;

bool is_power_of_two(std::uint32_t n) { return n != 0 && (n & (n - 1)) == 0; }

void set_half(std::uint64_t& word, bool high, std::uint32_t value) {
  word = high ? (word & 0xffffffff) | (std::uint64_t{value} << 32) : (word & ~std::uint64_t{0xffffffff}) | value;
}

}  // namespace

TransportStorage TransportStorage::allocate(StateAllocator& allocator, std::uint16_t queues) {
  TransportStorage storage{allocate_state<TransportState>(allocator), {}};
  for (std::uint16_t i = 0; i < queues; ++i) storage.queues.push_back(allocate_state<QueueState>(allocator));
  return storage;
}

VirtioPci::VirtioPci(const TransportStorage& storage, std::unique_ptr<VirtioModel> model, IrqLine& intx,
                     MsiSender& messages, GuestMemory& memory)
    : state_(storage.state), model_(std::move(model)), intx_(intx), messages_(messages) {
  for (const Persistent<QueueState>& queue : storage.queues)
    queues_.push_back(std::make_unique<VirtQueue>(queue, memory));
  begun_.resize(queues_.size());
  silent_.resize(queues_.size());
}

std::span<const RegionSpec> VirtioPci::regions() const { return kRegions; }

// ---- Registers ----

std::optional<std::uint64_t> VirtioPci::read(const Access& access) {
  if (access.region == kVirtioDoorbells) return 0;
  const auto offset = static_cast<std::uint32_t>(access.offset);
  if (offset + access.size <= kVirtioCommonLength) return read_common(offset, access.size);
  if (offset >= kVirtioIsrOffset && offset < kVirtioIsrOffset + kVirtioIsrLength) {
    if (offset != kVirtioIsrOffset) return 0;
    // "Reading ISR status ... resets it to 0 and causes the device to de-assert the interrupt."
    const std::uint8_t isr = state_->isr;
    if (isr != 0) state_.mut().isr = 0;
    update_line();
    return isr;
  }
  if (offset >= kVirtioDeviceOffset && offset + access.size <= kVirtioDeviceOffset + kVirtioDeviceLength) {
    std::uint64_t value = 0;
    for (std::uint8_t i = 0; i < access.size; ++i)
      value |= std::uint64_t{model_->read_config(offset - kVirtioDeviceOffset + i)} << (8 * i);
    return value;
  }
  return std::nullopt;
}

bool VirtioPci::write(const Access& access, std::uint64_t value) {
  const auto offset = static_cast<std::uint32_t>(access.offset);
  if (access.region == kVirtioDoorbells) {
    // A kick that came as a request, since no ioeventfd was there: the host sees to it.
    return offset / kDoorbellStride < queues_.size();
  }
  if (offset + access.size <= kVirtioCommonLength) {
    write_common(offset, access.size, static_cast<std::uint32_t>(value));
    return true;
  }
  if (offset >= kVirtioDeviceOffset && offset + access.size <= kVirtioDeviceOffset + kVirtioDeviceLength) {
    for (std::uint8_t i = 0; i < access.size; ++i)
      model_->write_config(*this, offset - kVirtioDeviceOffset + i, static_cast<std::uint8_t>(value >> (8 * i)));
    return true;
  }
  return offset >= kVirtioIsrOffset && offset < kVirtioIsrOffset + kVirtioIsrLength;
}

// Fields have their own widths; the specification has drivers use these (4.1.3.1). Whatever else comes is taken apart.
std::uint64_t VirtioPci::read_common(std::uint32_t offset, std::uint8_t size) const {
  std::uint64_t value = 0;
  for (std::uint8_t i = 0; i < size; ++i) {
    const std::uint32_t at = offset + i;
    value |= (common_register(at & ~3U) >> (8 * (at & 3)) & 0xff) << (8 * i);
  }
  return value;
}

// The aligned dword of the structure.
std::uint64_t VirtioPci::common_register(std::uint32_t offset) const {
  const TransportState& s = state_.get();
  const VirtQueue* queue = selected();
  const QueueState none{};
  const QueueState& q = queue == nullptr ? none : queue->state();
  switch (offset) {
    case kDeviceFeatureSelect: return s.device_feature_select;
    case kDeviceFeature: return s.device_feature_select < 2 ? offered() >> (32 * s.device_feature_select) : 0;
    case kDriverFeatureSelect: return s.driver_feature_select;
    case kDriverFeature: return s.driver_feature_select < 2 ? s.driver_features >> (32 * s.driver_feature_select) : 0;
    case kConfigMsixVector: return s.config_vector | (queues_.size() << 16);
    case kDeviceStatus: {
      // "The driver SHOULD ... wait until a read of device_status returns 0" (4.1.4.3.2). What else it reads says
      // nothing.
      const std::uint8_t status = s.device_status == 0 && draining() ? kStatusNeedsReset : s.device_status;
      return status | (s.config_generation << 8) | (std::uint32_t{s.queue_select} << 16);
    }
    case kQueueSize: return q.size | (std::uint32_t{queue == nullptr ? kNoVector : q.vector} << 16);
    case kQueueEnable: return q.enabled | (std::uint32_t{queue == nullptr ? std::uint16_t{0} : s.queue_select} << 16);
    case kQueueDesc: return q.desc;
    case kQueueDesc + 4: return q.desc >> 32;
    case kQueueDriver: return q.driver;
    case kQueueDriver + 4: return q.driver >> 32;
    case kQueueDevice: return q.device;
    case kQueueDevice + 4: return q.device >> 32;
    case kQueueNotifyData:  // queue_notify_data: as queue_notify_off, without VIRTIO_F_NOTIF_CONFIG_DATA; queue_reset
      return queue != nullptr && model_->draining(s.queue_select) ? 1U << 16 : 0;
    default: return 0;
  }
}

void VirtioPci::write_common(std::uint32_t offset, std::uint8_t size, std::uint32_t value) {
  switch (offset) {
    case kDeviceFeatureSelect: state_.mut().device_feature_select = value; return;
    case kDriverFeatureSelect: state_.mut().driver_feature_select = value; return;
    case kDriverFeature: set_driver_features(value); return;
    case kConfigMsixVector: state_.mut().config_vector = checked_vector(value); return;
    case kDeviceStatus: write_status(static_cast<std::uint8_t>(value)); return;
    case kQueueSelect: state_.mut().queue_select = static_cast<std::uint16_t>(value); return;
    default: break;
  }
  // A 64-bit field is written by halves (4.1.3.1); an access of another width than the field's is dropped.
  if (size >= 2) write_queue_register(offset, value);
}

void VirtioPci::write_queue_register(std::uint32_t offset, std::uint32_t value) {
  VirtQueue* queue = selected();
  if (queue == nullptr) return;
  const auto word = static_cast<std::uint16_t>(value);
  if (offset == kQueueMsixVector) {
    queue->mut().vector = checked_vector(word);
    return;
  }
  if (offset == kQueueReset) {
    if (word == 1 && (features() & feature_bit(kVirtioFRingReset)) != 0) reset_queue(*queue, state_->queue_select);
    return;
  }
  // "The driver MUST configure the other virtqueue fields before enabling the virtqueue": afterwards they stay.
  if (queue->state().enabled != 0 || model_->draining(state_->queue_select)) return;
  switch (offset) {
    case kQueueSize: {
      const bool packed = (features() & feature_bit(kVirtioFRingPacked)) != 0;
      if (word != 0 && word <= model_->queue_size(state_->queue_select) && (packed || is_power_of_two(word)))
        queue->mut().size = word;
      return;
    }
    case kQueueEnable:
      if (word != 1) return;
      queue->enable();
      check_broken();
      return;
    case kQueueDesc: set_half(queue->mut().desc, false, value); return;
    case kQueueDesc + 4: set_half(queue->mut().desc, true, value); return;
    case kQueueDriver: set_half(queue->mut().driver, false, value); return;
    case kQueueDriver + 4: set_half(queue->mut().driver, true, value); return;
    case kQueueDevice: set_half(queue->mut().device, false, value); return;
    case kQueueDevice + 4: set_half(queue->mut().device, true, value); return;
    default: return;
  }
}

std::uint64_t VirtioPci::offered() const { return kTransportFeatures | model_->features(); }

void VirtioPci::set_driver_features(std::uint32_t value) {
  if (state_->driver_feature_select > 1 || (state_->device_status & kStatusFeaturesOk) != 0) return;
  set_half(state_.mut().driver_features, state_->driver_feature_select == 1, value);
}

// Section 2.1: bits are only ever set, but for the reset by 0; FEATURES_OK stays clear when the features are refused.
void VirtioPci::write_status(std::uint8_t value) {
  if (value == 0) return reset_device();
  if (state_->device_status == 0 && draining()) return;  // its reset is not over
  std::uint8_t status = static_cast<std::uint8_t>((state_->device_status | value) & kStatusBits);
  if ((value & ~state_->device_status & kStatusFeaturesOk) != 0) {
    const bool known = (features() & ~offered()) == 0 && (features() & feature_bit(kVirtioFVersion1)) != 0;
    if (!known) status &= static_cast<std::uint8_t>(~kStatusFeaturesOk);
  }
  if ((value & kStatusNeedsReset & ~state_->device_status) != 0)
    status &= static_cast<std::uint8_t>(~kStatusNeedsReset);
  const bool before = may_work();
  state_.mut().device_status = status;
  apply_features();
  if (!before && may_work()) model_->on_ready(*this);
}

std::uint16_t VirtioPci::checked_vector(std::uint32_t value) const {
  return value <= queues_.size() ? static_cast<std::uint16_t>(value) : kNoVector;
}

VirtQueue* VirtioPci::selected() const {
  return state_->queue_select < queues_.size() ? queues_[state_->queue_select].get() : nullptr;
}

// ---- Life ----

bool VirtioPci::draining() const {
  for (QueueId queue = 0; queue < queues_.size(); ++queue) {
    if (model_->draining(queue)) return true;
  }
  return false;
}

void VirtioPci::reset() {
  state_.mut().control = 0;
  state_.mut().needs_reset_count = 0;
  reset_device();
}

void VirtioPci::reset_device() {
  TransportState& s = state_.mut();
  s = TransportState{.control = s.control, .needs_reset_count = s.needs_reset_count, .config_vector = kNoVector};
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    start_over(*queues_[i], static_cast<QueueId>(i), kNoVector);
  }
  std::fill(begun_.begin(), begun_.end(), false);
  apply_features();
  model_->reset();
  update_line();
}

void VirtioPci::start_over(VirtQueue& queue, QueueId index, std::uint16_t vector) {
  const std::uint32_t faults = queue.state().faults;
  QueueState& state = queue.mut();
  state = QueueState{};
  state.size = model_->queue_size(index);
  state.vector = vector;
  state.faults = faults;
}

// Section 2.6.1: as after the device's reset, with the driver's vector kept.
void VirtioPci::reset_queue(VirtQueue& queue, QueueId index) {
  model_->on_queue_reset(index);
  start_over(queue, index, queue.state().vector);
  begun_[index] = false;
}

void VirtioPci::apply_features() {
  const bool agreed = (state_->device_status & kStatusFeaturesOk) != 0;
  const std::uint64_t bits = agreed ? features() : 0;
  for (const std::unique_ptr<VirtQueue>& queue : queues_) {
    queue->set_features({.packed = (bits & feature_bit(kVirtioFRingPacked)) != 0,
                         .indirect = (bits & feature_bit(kVirtioFIndirectDesc)) != 0,
                         .event_idx = (bits & feature_bit(kVirtioFEventIdx)) != 0,
                         .in_order = (bits & feature_bit(kVirtioFInOrder)) != 0});
  }
}

void VirtioPci::restore() {
  TransportState clean = state_.get();
  clean.control &= kControlAll;
  clean.device_status &= kStatusBits;
  clean.isr &= kIsrQueue | kIsrConfig;
  clean.reserved = 0;
  clean.config_vector = checked_vector(clean.config_vector);
  if ((clean.device_status & kStatusFeaturesOk) != 0 &&
      ((clean.driver_features & ~offered()) != 0 || (clean.driver_features & feature_bit(kVirtioFVersion1)) == 0))
    clean.device_status = kStatusNeedsReset;
  if (clean != state_.get()) state_.mut() = clean;
  apply_features();
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    queues_[i]->restore();
    const QueueState& q = queues_[i]->state();
    if (q.vector != checked_vector(q.vector)) queues_[i]->mut().vector = kNoVector;
    begun_[i] = true;  // its last commit may be shown or not
  }
  model_->restore();
  model_->resume(*this);
  update_line();
}

void VirtioPci::on_function_control(std::uint32_t bits) {
  const bool before = may_work();
  if (bits != state_->control) state_.mut().control = bits;
  update_line();
  if (!before && may_work()) model_->on_ready(*this);
}

// ---- Queues ----

bool VirtioPci::may_work() const {
  return running() && (state_->control & kControlBusMaster) != 0 && (state_->control & kControlPowerD3) == 0;
}

bool VirtioPci::running() const {
  return (state_->device_status & (kStatusDriverOk | kStatusNeedsReset)) == kStatusDriverOk;
}

VirtQueue& VirtioPci::queue(QueueId queue) {
  if (!begun_[queue]) queues_[queue]->begin();
  begun_[queue] = true;
  return *queues_[queue];
}

bool VirtioPci::on_queue(QueueId index) {
  begin_input();
  // The type may have more queues than this device was configured with.
  if (index >= queues_.size()) return false;
  silent_[index] = false;
  if (!may_work() || !queues_[index]->usable()) return false;
  VirtQueue& own = queue(index);
  own.set_kicks(false);
  const QueueWork work = model_->on_queue(*this, index);
  bool more = work == QueueWork::kMore;
  if (work == QueueWork::kDrained) {
    silent_[index] = kicks_wait_;
    if (!kicks_wait_) own.set_kicks(true);
    more = own.has_more();  // what came while kicks were off did not ring
  }
  check_broken();
  return more;
}

bool VirtioPci::queue_stirs(QueueId index) {
  return index < queues_.size() && silent_[index] && may_work() && queues_[index]->has_more();
}

bool VirtioPci::ask_for_kicks(QueueId index) {
  if (index >= queues_.size() || !silent_[index]) return false;
  silent_[index] = false;
  return may_work() && queues_[index]->ask_for_kicks();
}

void VirtioPci::hold_kicks(QueueId index) {
  if (index >= queues_.size() || silent_[index] || !may_work()) return;
  silent_[index] = true;
  queues_[index]->hold_kicks();
}

void VirtioPci::begin_input() { std::fill(begun_.begin(), begun_.end(), false); }

void VirtioPci::on_queue_poisoned(QueueId index) {
  begin_input();
  if (index < queues_.size() && queues_[index]->usable()) queues_[index]->mut().broken = 1;
  check_broken();
}

void VirtioPci::on_timer(TimerId timer) {
  begin_input();
  model_->on_timer(*this, timer);
  check_broken();
}

void VirtioPci::on_stream(StreamId stream) {
  begin_input();
  model_->on_stream(*this, stream);
  check_broken();
}

void VirtioPci::on_setting(Setting setting, std::uint64_t value) {
  begin_input();
  model_->on_setting(*this, setting, value);
  check_broken();
}

bool VirtioPci::on_backend(BackendId backend) {
  begin_input();
  const bool more = model_->on_backend(*this, backend);
  check_broken();
  return more;
}

void VirtioPci::on_backend_poisoned(BackendId backend) {
  begin_input();
  model_->on_backend_poisoned(*this, backend);
  check_broken();
}

void VirtioPci::check_broken() {
  const auto broken = [](const std::unique_ptr<VirtQueue>& queue) { return queue->state().broken != 0; };
  if (std::any_of(queues_.begin(), queues_.end(), broken)) needs_reset();
}

// Section 2.1.2. The driver hears of it by a configuration change.
void VirtioPci::needs_reset() {
  if ((state_->device_status & kStatusNeedsReset) != 0) return;
  TransportState& s = state_.mut();
  s.device_status |= kStatusNeedsReset;
  ++s.needs_reset_count;
  if ((s.device_status & kStatusDriverOk) != 0) config_changed();
}

void VirtioPci::config_changed() {
  TransportState& s = state_.mut();
  ++s.config_generation;
  if ((s.device_status & kStatusDriverOk) == 0) return;
  if (msix()) {
    if (s.config_vector != kNoVector) messages_.send(s.config_vector);
  } else {
    set_isr(kIsrConfig);
  }
}

// ---- After the commit ----

bool VirtioPci::show(bool again, MsiSender& interrupts) {
  bool line = false;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    if (!begun_[i]) continue;
    if (!queues_[i]->show(again)) continue;
    if (!msix()) {
      line = true;
    } else if (const std::uint16_t vector = queues_[i]->state().vector; vector != kNoVector) {
      interrupts.send(vector);
    }
  }
  std::fill(begun_.begin(), begun_.end(), false);
  // Whether the predecessor got as far as after_show() is not known: at a take-over the driver is told to look.
  return line || (again && !msix() && running());
}

// INTx: the ISR bit is state, and must not be seen before what it tells of.
void VirtioPci::after_show() {
  // The driver may have reset the device meanwhile: it would find its line up and its handler gone.
  if ((state_->device_status & kStatusDriverOk) != 0) set_isr(kIsrQueue);
}

void VirtioPci::set_isr(std::uint8_t bits) {
  if ((state_->isr & bits) != bits) state_.mut().isr |= bits;
  update_line();
}

void VirtioPci::update_line() {
  intx_.set_level(state_->isr != 0 && !msix() && (state_->control & kControlIntxDisable) == 0);
}

void VirtioPci::inspect(Inspector& inspector) const {
  const TransportState& s = state_.get();
  inspector.field("device_status", s.device_status);
  inspector.field("driver_features", s.driver_features);
  inspector.field("isr", s.isr);
  inspector.field("config_vector", s.config_vector);
  inspector.field("needs_reset", s.needs_reset_count);
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    const QueueState& q = queues_[i]->state();
    const auto field = [&](const char* name, std::uint64_t value) {
      inspector.field(fmt::format("queue{}_{}", i, name), value);
    };
    field("size", q.size);
    field("enable", q.enabled);
    field("next_avail", q.next_avail);
    field("next_used", q.next_used);
    field("broken", q.broken);
  }
  model_->inspect(inspector);
}

}  // namespace bulkhead::devproc::virtio
