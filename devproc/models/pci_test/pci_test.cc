#include "devproc/models/pci_test/pci_test.h"

#include <algorithm>

#include "ipc/base/checked.h"
#include "ipc/roles/pci_test_decl.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc {
namespace {

namespace spec = pci_test_spec;

constexpr TimerId kTimer = 0;
constexpr std::int64_t kLongestDelay = UINT32_MAX;  // ns
constexpr std::uint32_t kDmaChunk = 4096;

constexpr std::array<RegionSpec, 3> kRegions{{
    {"registers", AddressKind::kMemory, kPciTestRegistersSize, kSizeUpTo8},
    {"doorbells", AddressKind::kMemory, kPciTestDoorbellsSize, kSizeUpTo8, true},
    {"ports", AddressKind::kPort, kPciTestPortsSize, kSizeUpTo4},
}};

[[nodiscard]] std::uint32_t low_half(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
[[nodiscard]] std::uint32_t high_half(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); }

void merge(std::uint32_t& target, std::uint32_t value, std::uint32_t mask) {
  target = (target & ~mask) | (value & mask);
}
void merge_half(std::uint64_t& target, bool high, std::uint32_t value, std::uint32_t mask) {
  const unsigned shift = high ? 32 : 0;
  target = (target & ~(std::uint64_t{mask} << shift)) | (std::uint64_t{value & mask} << shift);
}

// The log is not recorded in itself.
[[nodiscard]] bool is_log(const Access& access) {
  return access.region == kPciTestRegisters &&
         ((access.offset & ~7ULL) == spec::kLogControl ||
          (access.offset >= spec::kLog && access.offset < spec::kLog + spec::kLogEntries * spec::kLogEntrySize));
}

}  // namespace

PciTestStorage PciTestStorage::allocate(StateAllocator& allocator) {
  const auto part = [&allocator] { return allocate_state<PciTestLogPart>(allocator); };
  return {allocate_state<PciTestState>(allocator), {part(), part(), part(), part()}};
}

PciTest::PciTest(const PciTestStorage& storage, IrqLine& intx, MsiSender& msi, GuestMemory& memory, Clock& clock,
                 TimerQueue& timers)
    : state_(storage.state),
      log_(storage.log),
      intx_(intx),
      msi_(msi),
      memory_(memory),
      clock_(clock),
      timers_(timers) {}

std::span<const RegionSpec> PciTest::regions() const { return kRegions; }

void PciTest::reset() {
  state_.mut() = PciTestState{};
  for (auto& part : log_) part.mut() = PciTestLogPart{};
  timers_.cancel(kTimer);
  update_irq();
}

void PciTest::restore() {
  PciTestState state = state_.get();
  state.control &= kControlAll;
  state.log_control &= 1;
  state.timer_action &= spec::kTimerMessage | spec::kTimerVector;
  state.dma_status = std::min<std::uint32_t>(state.dma_status, spec::kDmaOverlap);
  // An armed deadline is never further away than the longest delay.
  const std::int64_t now = clock_.now().ns;
  if (state.timer_deadline < 0) state.timer_deadline = 0;
  if (state.timer_deadline - now > kLongestDelay) state.timer_deadline = now + kLongestDelay;
  if (!(state == state_.get())) state_.mut() = state;
  if (state.timer_deadline != 0)
    timers_.arm(kTimer, VmTime{state.timer_deadline});
  else
    timers_.cancel(kTimer);
  update_irq();
}

std::optional<std::uint64_t> PciTest::read(const Access& access) {
  std::optional<std::uint64_t> value;
  switch (access.region) {
    case kPciTestRegisters: value = read_lanes(access, 8); break;
    case kPciTestDoorbells: value = state_->posted_count & all_ones(access.size); break;
    case kPciTestPorts:
      if (access.offset == spec::kPortStream && access.size <= 4)
        value = read_stream(access.size);
      else
        value = read_lanes(access, 4);
      break;
    default: return std::nullopt;
  }
  record(access, false, value.value_or(all_ones(access.size)));
  return value;
}

bool PciTest::write(const Access& access, std::uint64_t value) {
  bool known = true;
  switch (access.region) {
    case kPciTestRegisters: known = write_lanes(access, value, 8); break;
    case kPciTestDoorbells: ring_doorbell(access, value); break;
    case kPciTestPorts:
      if (access.offset == spec::kPortStream && access.size <= 4)
        write_stream(access.size, value);
      else
        known = write_lanes(access, value, 4);
      break;
    default: return false;
  }
  record(access, true, value);
  return known;
}

// Splits an access into the dwords that it touches; it must lie within one aligned `unit`.
std::optional<std::uint64_t> PciTest::read_lanes(const Access& access, std::uint32_t unit) {
  const std::uint64_t end = access.offset + access.size;
  if (access.offset / unit != (end - 1) / unit) return std::nullopt;
  const std::uint64_t first = access.offset & ~3ULL;
  std::uint64_t value = 0;
  bool known = false;
  for (std::uint64_t at = first; at < end; at += 4) {
    const auto offset = static_cast<std::uint32_t>(at);
    const auto dword = access.region == kPciTestPorts ? read_port(offset) : read_register(offset);
    known |= dword.has_value();
    value |= std::uint64_t{dword.value_or(~0U)} << (8 * (at - first));
  }
  if (!known) return std::nullopt;
  return (value >> (8 * (access.offset - first))) & all_ones(access.size);
}

bool PciTest::write_lanes(const Access& access, std::uint64_t value, std::uint32_t unit) {
  const std::uint64_t end = access.offset + access.size;
  if (access.offset / unit != (end - 1) / unit) return false;
  const std::uint64_t first = access.offset & ~3ULL;
  const unsigned shift = static_cast<unsigned>(8 * (access.offset - first));
  const std::uint64_t bytes = value << shift;
  const std::uint64_t mask = all_ones(access.size) << shift;
  bool known = false;
  for (std::uint64_t at = first; at < end; at += 4) {
    const auto offset = static_cast<std::uint32_t>(at);
    const auto lane = static_cast<unsigned>(8 * (at - first));
    const auto dword = static_cast<std::uint32_t>(bytes >> lane);
    const auto dword_mask = static_cast<std::uint32_t>(mask >> lane);
    known |= access.region == kPciTestPorts ? write_port(offset, dword, dword_mask)
                                            : write_register(offset, dword, dword_mask);
  }
  return known;
}

std::optional<std::uint32_t> PciTest::read_register(std::uint32_t offset) {
  if (offset >= spec::kScratch && offset < spec::kScratch + 4 * spec::kScratchCount)
    return state_->scratch[(offset - spec::kScratch) / 4];
  if (offset >= spec::kLog) return read_log(offset - spec::kLog);
  const PciTestState& state = state_.get();
  switch (offset) {
    case spec::kId: return spec::kIdValue;
    case spec::kVersion: return spec::kVersionValue;
    case spec::kLastPosted: return low_half(state.last_posted);
    case spec::kLastPosted + 4: return high_half(state.last_posted);
    case spec::kIntStatus: return state.int_status;
    case spec::kIntMask: return state.int_mask;
    case spec::kIntRaise:
    case spec::kMsiSend:
    case spec::kDmaCommand: return 0;
    case spec::kDmaSource: return low_half(state.dma_source);
    case spec::kDmaSource + 4: return high_half(state.dma_source);
    case spec::kDmaTarget: return low_half(state.dma_target);
    case spec::kDmaTarget + 4: return high_half(state.dma_target);
    case spec::kDmaLength: return state.dma_length;
    case spec::kDmaStatus: return state.dma_status;
    case spec::kTime:
      state_.mut().last_time = static_cast<std::uint64_t>(clock_.now().ns);
      return low_half(state.last_time);
    case spec::kTime + 4:
    case spec::kLastTime + 4: return high_half(state.last_time);
    case spec::kLastTime: return low_half(state.last_time);
    case spec::kTimerDelay: return state.timer_delay;
    case spec::kTimerAction: return state.timer_action;
    case spec::kTimerDeadline: return low_half(static_cast<std::uint64_t>(state.timer_deadline));
    case spec::kTimerDeadline + 4: return high_half(static_cast<std::uint64_t>(state.timer_deadline));
    case spec::kControl: return state.control;
    case spec::kLogControl: return state.log_control;
    default: return read_counter(offset);
  }
}

std::optional<std::uint32_t> PciTest::read_counter(std::uint32_t offset) {
  switch (offset) {
    case spec::kCounter: return state_.mut().counter++;
    case spec::kAccesses: return state_->accesses;
    case spec::kPostedCount: return state_->posted_count;
    case spec::kPostedWhere: return state_->posted_where;
    case spec::kDmaCount: return state_->dma_count;
    case spec::kTimerFired: return state_->timer_fired;
    case spec::kMessagesSent: return state_->messages_sent;
    case spec::kLogCount: return state_->log_count;
    default: return std::nullopt;
  }
}

// `offset` from the ring's start.
std::optional<std::uint32_t> PciTest::read_log(std::uint32_t offset) const {
  const std::uint32_t index = offset / spec::kLogEntrySize;
  if (index >= spec::kLogEntries) return std::nullopt;
  const PciTestLogPart::Entry& entry = log_[index / 16]->entries[index % 16];
  switch (offset % spec::kLogEntrySize / 4) {
    case 0: return entry.what;
    case 1: return entry.offset;
    case 2: return low_half(entry.value);
    default: return high_half(entry.value);
  }
}

bool PciTest::write_register(std::uint32_t offset, std::uint32_t value, std::uint32_t mask) {
  if (offset >= spec::kScratch && offset < spec::kScratch + 4 * spec::kScratchCount) {
    merge(state_.mut().scratch[(offset - spec::kScratch) / 4], value, mask);
    return true;
  }
  const std::uint32_t written = value & mask;
  switch (offset) {
    case spec::kCounter: merge(state_.mut().counter, value, mask); return true;
    case spec::kIntStatus:
      state_.mut().int_status &= ~written;
      update_irq();
      return true;
    case spec::kIntMask:
      merge(state_.mut().int_mask, value, mask);
      update_irq();
      return true;
    case spec::kIntRaise: raise(written); return true;
    case spec::kMsiSend: send_message(written); return true;
    case spec::kLogControl: state_.mut().log_control = (state_->log_control & ~mask & 1) | (written & 1); return true;
    case spec::kTimerDelay:
    case spec::kTimerAction: return write_timer(offset, value, mask);
    case spec::kDmaSource:
    case spec::kDmaSource + 4:
    case spec::kDmaTarget:
    case spec::kDmaTarget + 4:
    case spec::kDmaLength:
    case spec::kDmaCommand: return write_dma(offset, value, mask);
    default: return false;
  }
}

bool PciTest::write_timer(std::uint32_t offset, std::uint32_t value, std::uint32_t mask) {
  PciTestState& state = state_.mut();
  if (offset == spec::kTimerAction) {
    merge(state.timer_action, value, mask & (spec::kTimerMessage | spec::kTimerVector));
    return true;
  }
  merge(state.timer_delay, value, mask);
  arm_timer();
  return true;
}

bool PciTest::write_dma(std::uint32_t offset, std::uint32_t value, std::uint32_t mask) {
  PciTestState& state = state_.mut();
  switch (offset) {
    case spec::kDmaSource: merge_half(state.dma_source, false, value, mask); return true;
    case spec::kDmaSource + 4: merge_half(state.dma_source, true, value, mask); return true;
    case spec::kDmaTarget: merge_half(state.dma_target, false, value, mask); return true;
    case spec::kDmaTarget + 4: merge_half(state.dma_target, true, value, mask); return true;
    case spec::kDmaLength: merge(state.dma_length, value, mask); return true;
    default: start_dma(value & mask); return true;
  }
}

std::optional<std::uint32_t> PciTest::read_port(std::uint32_t offset) {
  if (offset < spec::kPortScratch + 4 * spec::kPortScratchCount) return state_->port_scratch[offset / 4];
  switch (offset) {
    case spec::kPortCounter: return state_.mut().port_counter++;
    case spec::kPortStreamIn: return state_->stream_in;
    case spec::kPortStreamOut: return state_->stream_out;
    case spec::kPortStreamHash: return state_->stream_hash;
    case spec::kPortRaise:
    case spec::kPortMsi: return 0;
    case spec::kPortId: return spec::kIdValue;
    default: return std::nullopt;
  }
}

bool PciTest::write_port(std::uint32_t offset, std::uint32_t value, std::uint32_t mask) {
  if (offset < spec::kPortScratch + 4 * spec::kPortScratchCount) {
    merge(state_.mut().port_scratch[offset / 4], value, mask);
    return true;
  }
  switch (offset) {
    case spec::kPortCounter: merge(state_.mut().port_counter, value, mask); return true;
    case spec::kPortRaise: raise(value & mask); return true;
    case spec::kPortMsi: send_message(value & mask); return true;
    default: return false;
  }
}

std::uint64_t PciTest::read_stream(std::uint8_t size) {
  PciTestState& state = state_.mut();
  std::uint64_t value = 0;
  for (unsigned i = 0; i < size; ++i) value |= std::uint64_t{state.stream_in++ & 0xff} << (8 * i);
  return value;
}

void PciTest::write_stream(std::uint8_t size, std::uint64_t value) {
  PciTestState& state = state_.mut();
  for (unsigned i = 0; i < size; ++i) {
    state.stream_hash = (state.stream_hash ^ static_cast<std::uint8_t>(value >> (8 * i))) * spec::kFnvPrime;
    ++state.stream_out;
  }
}

void PciTest::ring_doorbell(const Access& access, std::uint64_t value) {
  PciTestState& state = state_.mut();
  state.last_posted = value;
  state.posted_where = (std::uint32_t{access.size} << 16) | static_cast<std::uint32_t>(access.offset);
  ++state.posted_count;
  if (access.offset == spec::kDoorbellRaise) raise(low_half(value));
  if (access.offset == spec::kDoorbellMsi) send_message(low_half(value));
}

void PciTest::record(const Access& access, bool write, std::uint64_t value) {
  if (is_log(access)) return;
  PciTestState& state = state_.mut();
  ++state.accesses;
  if (state.log_control == 0) return;
  const std::uint32_t index = state.log_count++ % spec::kLogEntries;
  log_[index / 16].mut().entries[index % 16] = {
      access.size | (write ? spec::kLogWrite : 0) | (std::uint32_t{access.region} << spec::kLogRegionShift),
      static_cast<std::uint32_t>(access.offset), value};
}

void PciTest::raise(std::uint32_t bits) {
  state_.mut().int_status |= bits;
  update_irq();
}

void PciTest::send_message(std::uint32_t vector) {
  std::uint32_t vectors = 0;
  if ((state_->control & kControlMsiEnable) != 0) vectors = kPciTestMsiVectors;
  if ((state_->control & kControlMsixEnable) != 0) vectors = kPciTestMsixVectors;
  if (!may_master() || vector >= vectors) return;
  ++state_.mut().messages_sent;
  msi_.send(static_cast<std::uint16_t>(vector));
}

void PciTest::start_dma(std::uint32_t command) {
  if ((command & spec::kDmaCopy) == 0) return;
  const std::uint32_t status = copy();
  state_.mut().dma_status = status;
  if (status != spec::kDmaDone) return;
  ++state_.mut().dma_count;
  if ((command & spec::kDmaThenInterrupt) != 0) raise(spec::kIntDma);
  if ((command & spec::kDmaThenMessage) != 0) send_message(0);
}

std::uint32_t PciTest::copy() {
  const std::uint64_t source = state_->dma_source;
  const std::uint64_t target = state_->dma_target;
  const std::uint32_t length = state_->dma_length;
  if (!may_master()) return spec::kDmaNoBusMaster;
  if (length == 0 || length > spec::kDmaMaxLength) return spec::kDmaBadLength;
  const auto from = Range::make(source, length);
  const auto to = Range::make(target, length);
  if (!from || !to) return spec::kDmaFault;
  if (from->overlaps(*to)) return spec::kDmaOverlap;
  std::array<std::byte, kDmaChunk> buffer;
  for (std::uint32_t done = 0; done < length; done += kDmaChunk) {
    const std::span<std::byte> chunk(buffer.data(), std::min(kDmaChunk, length - done));
    if (!memory_.read(source + done, chunk) || !memory_.write(target + done, chunk)) return spec::kDmaFault;
  }
  return spec::kDmaDone;
}

void PciTest::arm_timer() {
  PciTestState& state = state_.mut();
  if (state.timer_delay == 0) {
    state.timer_deadline = 0;
    timers_.cancel(kTimer);
    return;
  }
  state.timer_deadline = clock_.now().ns + state.timer_delay;
  timers_.arm(kTimer, VmTime{state.timer_deadline});
}

void PciTest::on_timer(TimerId timer) {
  if (timer != kTimer || state_->timer_deadline == 0) return;
  if (clock_.now().ns < state_->timer_deadline) {  // it was moved while it fired
    timers_.arm(kTimer, VmTime{state_->timer_deadline});
    return;
  }
  PciTestState& state = state_.mut();
  state.timer_deadline = 0;
  ++state.timer_fired;
  raise(spec::kIntTimer);
  if ((state.timer_action & spec::kTimerMessage) != 0) send_message(state.timer_action & spec::kTimerVector);
}

void PciTest::on_function_control(std::uint32_t bits) {
  state_.mut().control = bits & kControlAll;
  update_irq();
}

bool PciTest::may_master() const {
  return (state_->control & (kControlBusMaster | kControlPowerD3)) == kControlBusMaster;
}

// PCI 3.0, section 6.8.1.3: a function that uses MSI "is prohibited from using its INTx# pin".
void PciTest::update_irq() {
  const bool usable = (state_->control & (kControlIntxDisable | kControlMsiEnable | kControlMsixEnable)) == 0;
  intx_.set_level(usable && (state_->int_status & ~state_->int_mask) != 0);
}

void PciTest::inspect(Inspector& inspector) const {
  inspector.field("accesses", state_->accesses);
  inspector.field("posted_count", state_->posted_count);
  inspector.field("int_status", state_->int_status);
  inspector.field("int_mask", state_->int_mask);
  inspector.field("control", state_->control);
  inspector.field("messages_sent", state_->messages_sent);
  inspector.field("dma_count", state_->dma_count);
  inspector.field("timer_fired", state_->timer_fired);
}

}  // namespace bulkhead::devproc
