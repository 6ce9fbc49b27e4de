// E1000's interrupts: SDM, sections 3.2.7 and 3.4.3 (delays), 13.4.17 to 13.4.21 (ICR, ITR, ICS, IMS, IMC).
#include <algorithm>

#include "devproc/models/e1000/e1000.h"
#include "devproc/models/e1000/timers.h"

namespace bulkhead::devproc {

using namespace e1000_spec;

void E1000::raise(std::uint32_t causes) {
  if ((causes & ~state_->icr) != 0) state_.mut().icr |= causes;
  update_line();
}

// INTx follows ICR and IMS, but does not rise within ITR's interval after it rose.
void E1000::update_line() {
  const bool usable = (setup_->control & (kControlIntxDisable | kControlPowerD3)) == 0;
  bool asserted = usable && (state_->icr & state_->ims) != 0;
  const std::uint32_t interval = plain(kItr);
  if (asserted && state_->line == 0 && (interval != 0 || state_->throttled_until != 0)) {
    const std::int64_t now = clock_.now().ns;
    if (interval != 0 && now < state_->throttled_until) {
      timers_.arm(kThrottleTimer, VmTime{state_->throttled_until});
      if (state_->held_back == 0) {
        state_.mut().held_back = 1;
        count(&E1000Counters::throttled);
      }
      asserted = false;
    } else {
      state_.mut().throttled_until = interval == 0 ? 0 : now + interval * kItrUnitNs;
    }
  }
  if (asserted != (state_->line != 0)) state_.mut().line = asserted ? 1 : 0;
  if (asserted && state_->held_back != 0) state_.mut().held_back = 0;
  intx_.set_level(asserted);
}

// A frame of `size` bytes is in the driver's memory.
void E1000::delay_receive_interrupt(std::size_t size) {
  const std::int64_t delay = plain(kRdtr);
  if (size <= plain(kRsrpd)) raise(kIntSrpd);
  if (delay == 0) return receive_interrupt();
  const std::int64_t now = clock_.now().ns;
  E1000State& s = state_.mut();
  s.receive_deadline = now + delay * kDelayUnitNs;
  const std::int64_t most = plain(kRadv);
  if (most != 0 && s.receive_last == 0) s.receive_last = now + most * kDelayUnitNs;
  arm_timers();
}

void E1000::receive_interrupt() {
  if (state_->receive_deadline != 0 || state_->receive_last != 0) {
    E1000State& s = state_.mut();
    s.receive_deadline = 0;
    s.receive_last = 0;
    timers_.cancel(kReceiveTimer);
  }
  raise(kIntRxt0);
}

// Descriptors that asked for it were written back.
void E1000::delay_transmit_interrupt(bool at_once) {
  const std::int64_t delay = plain(kTidv);
  if (at_once || delay == 0) return transmit_interrupt();
  const std::int64_t now = clock_.now().ns;
  E1000State& s = state_.mut();
  s.transmit_deadline = now + delay * kDelayUnitNs;
  const std::int64_t most = plain(kTadv);
  if (most != 0 && s.transmit_last == 0) s.transmit_last = now + most * kDelayUnitNs;
  arm_timers();
}

void E1000::transmit_interrupt() {
  if (state_->transmit_deadline != 0 || state_->transmit_last != 0) {
    E1000State& s = state_.mut();
    s.transmit_deadline = 0;
    s.transmit_last = 0;
    timers_.cancel(kTransmitTimer);
  }
  raise(kIntTxdw);
}

void E1000::arm_timers() {
  const auto arm = [this](TimerId timer, std::int64_t one, std::int64_t other) {
    if (one == 0 && other == 0) return timers_.cancel(timer);
    if (one == 0 || other == 0) return timers_.arm(timer, VmTime{std::max(one, other)});
    timers_.arm(timer, VmTime{std::min(one, other)});
  };
  arm(kReceiveTimer, state_->receive_deadline, state_->receive_last);
  arm(kTransmitTimer, state_->transmit_deadline, state_->transmit_last);
}

}  // namespace bulkhead::devproc
