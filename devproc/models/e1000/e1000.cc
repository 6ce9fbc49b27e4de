#include "devproc/models/e1000/e1000.h"

#include <algorithm>
#include <cstring>

#include "devproc/core/checksum.h"
#include "devproc/models/e1000/timers.h"
#include "ipc/roles/e1000_decl.h"

namespace bulkhead::devproc {

using namespace e1000_spec;

namespace {

constexpr std::array<RegionSpec, 2> kRegions{{
    {"registers", AddressKind::kMemory, kE1000RegistersSize, kSizeUpTo4, true},
    {"ports", AddressKind::kPort, kE1000PortsSize, kSizeUpTo4},
}};

}  // namespace

E1000::E1000(const E1000Storage& storage, const E1000Config& config, IrqLine& intx, GuestMemory& memory,
             GuestPublisher& publisher, FrameBackend& frames, Clock& clock, TimerQueue& timers)
    : state_(storage.state),
      setup_(storage.setup),
      filter_(storage.filter),
      config_(config),
      intx_(intx),
      memory_(memory),
      publisher_(publisher),
      limits_(storage.limits, clock, timers, std::array{&frames}),
      frames_(*limits_.frames().front()),
      clock_(clock),
      timers_(timers),
      sent_(std::make_unique_for_overwrite<decltype(sent_)::element_type>()),
      segment_(std::make_unique_for_overwrite<decltype(segment_)::element_type>()),
      received_(std::make_unique_for_overwrite<decltype(received_)::element_type>()) {}

std::span<const RegionSpec> E1000::regions() const { return kRegions; }

// ---- Accesses ----

std::optional<std::uint64_t> E1000::read(const Access& access) {
  const std::uint64_t lane = access.offset % 4;
  if (lane + access.size > 4) return std::nullopt;
  const auto offset = static_cast<std::uint32_t>(access.offset - lane);
  std::uint32_t value = 0;
  if (access.region == kE1000Registers) {
    value = read_register(offset);
  } else if (offset == kIoAddr) {
    value = setup_->io_address;
  } else if (offset == kIoData) {
    value = setup_->io_address < kE1000RegistersSize ? read_register(setup_->io_address & ~3U) : 0;
  } else {
    return std::nullopt;
  }
  return (value >> (8 * lane)) & all_ones(access.size);
}

bool E1000::write(const Access& access, std::uint64_t value) {
  if (access.size != 4 || access.offset % 4 != 0) return false;  // registers take whole dwords
  const auto offset = static_cast<std::uint32_t>(access.offset);
  const auto dword = static_cast<std::uint32_t>(value);
  if (access.region == kE1000Registers) return write_register(offset, dword);
  if (offset == kIoAddr) {
    setup_.mut().io_address = dword;
    return true;
  }
  return offset == kIoData && setup_->io_address < kE1000RegistersSize &&
         write_register(setup_->io_address & ~3U, dword);
}

// ---- Life ----

void E1000::reset() {
  E1000Setup& setup = setup_.mut();
  setup.control = 0;
  setup.io_address = 0;
  setup.phy.cable = frames_.link() ? 1 : 0;
  setup.phy.reset();
  if (setup.eeprom.loaded == 0) setup.eeprom.load(config_.nic.mac);
  device_reset();
}

// What CTRL.RST resets: everything but the PHY and what configuration space said. The EEPROM is read again.
void E1000::device_reset() {
  const E1000Counters counters = state_->counters;
  E1000State& state = state_.mut();
  state = E1000State{};
  state.counters = counters;
  E1000Setup& setup = setup_.mut();
  for (std::size_t i = 0; i < kE1000Plain.size(); ++i) setup.plain[i] = kE1000Plain[i].reset;
  setup.eerd = 0;
  setup.mdic = 0;
  setup.phy.set_cable(frames_.link());
  E1000Filter& filter = filter_.mut();
  filter = E1000Filter{};
  filter.set_address(0, setup.eeprom.mac());
  for (TimerId timer = LimitedFrames::kTimers; timer < kE1000Timers; ++timer) timers_.cancel(timer);
  limits_.start(config_.nic.limits);
  frames_.set_offloads({});
  frames_.set_wanted(false);
  update_line();
}

void E1000::restore() {
  E1000State state = state_.get();
  const std::int64_t now = clock_.now().ns;
  const auto mend = [now](std::int64_t& deadline, std::int64_t unit) {
    deadline = std::clamp<std::int64_t>(deadline, 0, now + kDelayMask * unit);
  };
  mend(state.throttled_until, kItrUnitNs);
  for (std::int64_t* deadline :
       {&state.receive_deadline, &state.receive_last, &state.transmit_deadline, &state.transmit_last})
    mend(*deadline, kDelayUnitNs);
  for (E1000Ring* ring : {&state.receive, &state.transmit}) {
    ring->low &= kRingAddressMask;
    ring->length &= kRingLengthMask;
    ring->head &= kRingIndexMask;
    ring->tail &= kRingIndexMask;
  }
  state.icr &= kIntAll;
  state.ims &= kIntAll;
  for (std::uint8_t* flag : {&state.line, &state.dropping, &state.send_blocked, &state.starved, &state.held_back})
    *flag = *flag != 0 ? 1 : 0;
  state.reserved = {};
  if (!(state == state_.get())) state_.mut() = state;
  E1000Setup setup = setup_.get();
  setup.control &= kControlAll;
  for (std::size_t i = 0; i < kE1000Plain.size(); ++i) setup.plain[i] &= kE1000Plain[i].mask | kE1000Plain[i].reset;
  setup.phy.cable = setup.phy.cable != 0 ? 1 : 0;
  setup.eeprom.sanitize();
  if (!(setup == setup_.get())) setup_.mut() = setup;
  limits_.restore();
  // A backend that is new knows nothing.
  frames_.set_offloads({});
  want_frames();
  arm_timers();
  if (!state_->transmit.empty() && state_->send_blocked == 0) transmit_later();
  // What is held back goes on being held back until its timer says otherwise, even if that is due by now.
  if (state_->held_back != 0) return timers_.arm(kThrottleTimer, VmTime{state_->throttled_until});
  update_line();
}

void E1000::on_function_control(std::uint32_t bits) {
  if (bits == setup_->control) return;
  setup_.mut().control = bits;
  update_line();
  want_frames();
  if (may_work() && !state_->transmit.empty()) transmit_later();
}

bool E1000::may_work() const { return (setup_->control & (kControlBusMaster | kControlPowerD3)) == kControlBusMaster; }

bool E1000::loops_back() const { return (plain(kRctl) & kRctlLbm) != 0 || setup_->phy.loopback(); }

void E1000::want_frames() { frames_.set_wanted(may_receive() && !loops_back() && state_->starved == 0); }

// `renewed`: the PHY has negotiated again, as drivers wait for.
void E1000::update_link(bool renewed) {
  const bool plugged = frames_.link();
  const bool before = setup_->phy.link();
  if (plugged != (setup_->phy.cable != 0)) setup_.mut().phy.set_cable(plugged);
  if (!renewed && setup_->phy.link() == before) return;
  const bool asked = (setup_->phy.registers[kPhyIntEnable] & setup_->phy.registers[kPhyIntStatus]) != 0;
  raise(asked ? kIntLsc | kIntPhy : kIntLsc);
}

bool E1000::on_backend(BackendId backend) {
  if (backend != 0) return false;
  update_link(false);
  if (state_->send_blocked != 0 && transmit()) transmit_later();
  const bool more = receive();
  update_link(false);
  return more;
}

// The frame at hand, or work on the packet that is blocked, ends processes.
void E1000::on_backend_poisoned(BackendId backend) {
  if (backend != 0) return;
  if (!frames_.receive().empty()) {
    frames_.consume();
    count(&E1000Counters::received_bad_header);
  }
  if (state_->send_blocked == 0) return;
  // Transmission stops until the driver has set the ring up again; a driver does that when its watchdog barks.
  E1000State& state = state_.mut();
  state.send_blocked = 0;
  state.transmit.length = 0;
}

void E1000::on_timer(TimerId timer) {
  switch (timer) {
    case kThrottleTimer: update_line(); return;
    case kReceiveTimer: receive_interrupt(); return;
    case kTransmitTimer: transmit_interrupt(); return;
    case kWorkTimer:
      if (transmit()) transmit_later();
      return;
    default: limits_.on_timer(timer, [this](BackendId backend) { return on_backend(backend); }); return;
  }
}

// ---- Statistics ----

void E1000::count_statistic(std::uint32_t offset, std::uint64_t by) {
  std::uint32_t& value = state_.mut().statistics[(offset - kStatistics) / 4];
  value = static_cast<std::uint32_t>(std::min<std::uint64_t>(value + by, UINT32_MAX));  // they stick
}

void E1000::count_statistic_64(std::uint32_t offset, std::uint64_t by) {
  const std::size_t index = (offset - kStatistics) / 4;
  auto& all = state_.mut().statistics;
  const std::uint64_t before = all[index] | std::uint64_t{all[index + 1]} << 32;
  const std::uint64_t after = before + by < before ? UINT64_MAX : before + by;
  all[index] = static_cast<std::uint32_t>(after);
  all[index + 1] = static_cast<std::uint32_t>(after >> 32);
}

void E1000::count_frame(std::span<const std::byte> frame, std::size_t size, std::uint32_t broadcasts,
                        std::uint32_t multicasts, std::uint32_t sizes) {
  constexpr std::array<std::size_t, 5> kBounds{64, 127, 255, 511, 1023};
  const auto bucket = std::find_if(kBounds.begin(), kBounds.end(), [size](std::size_t most) { return size <= most; });
  count_statistic(sizes + 4 * static_cast<std::uint32_t>(bucket - kBounds.begin()));
  if ((frame[0] & std::byte{1}) == std::byte{0}) return;
  const bool all = std::all_of(frame.begin(), frame.begin() + 6, [](std::byte one) { return one == std::byte{0xff}; });
  count_statistic(all ? broadcasts : multicasts);
}

void E1000::inspect(Inspector& inspector) const {
  const E1000State& s = state_.get();
  const E1000Counters& c = s.counters;
  inspector.field("link", (status() & kStatusLu) != 0 ? 1 : 0);
  inspector.field("ctrl", plain(kCtrl));
  inspector.field("rctl", plain(kRctl));
  inspector.field("tctl", plain(kTctl));
  inspector.field("icr", s.icr);
  inspector.field("ims", s.ims);
  inspector.field("rdh", s.receive.head);
  inspector.field("rdt", s.receive.tail);
  inspector.field("tdh", s.transmit.head);
  inspector.field("tdt", s.transmit.tail);
  inspector.field("sent_frames", c.sent_frames);
  inspector.field("sent_bytes", c.sent_bytes);
  inspector.field("received_frames", c.received_frames);
  inspector.field("received_bytes", c.received_bytes);
  inspector.field("sent_bad", c.sent_bad);
  inspector.field("sent_bad_memory", c.sent_bad_memory);
  inspector.field("received_bad_header", c.received_bad_header);
  inspector.field("received_bad_length", c.received_bad_length);
  inspector.field("received_filtered", c.received_filtered);
  inspector.field("received_no_fit", c.received_no_fit);
  inspector.field("received_bad_memory", c.received_bad_memory);
  // What a process had taken when it died, and had not committed.
  const std::uint64_t known =
      c.received_frames + c.received_bad_header + c.received_bad_length + c.received_filtered + c.received_no_fit;
  const std::uint64_t taken = frames_.taken();
  inspector.field("received_lost", taken > known ? taken - known : 0);
  inspector.field("throttled", c.throttled);
  limits_.inspect(inspector);
}

}  // namespace bulkhead::devproc
