// TokenBucket: how much of something may be done, in the long run and at once. A plain value, part of a device's
// committed state; it has no clock of its own.
//
// A cost passes when the bucket holds it, and is taken out. A cost that no bucket of this size ever holds passes when
// the bucket is full, and leaves a debt. So within any time t pass at most max(burst, largest cost) + rate * t, and
// whoever waits for as long as ready_at() says waits no longer than that. Fractions of a token are kept: nothing is
// lost however often one looks. VM time stands still while the VM is paused, and so does the bucket.
//
// Units: tokens; nanoseconds of VM time. Errors: none; every number is bounded (RateLimit::kMost), nothing overflows.
// Trust: after a take-over the bytes may be anything: sanitize().
#pragma once

#include <algorithm>
#include <cstdint>

#include "devproc/core/clock.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

struct TokenBucket {
  static constexpr std::uint64_t kSecond = 1'000'000'000;
  static constexpr std::int64_t kLongestWait = 3'600'000'000'000;  // then one looks again

  std::uint64_t rate = 0;      // tokens a second; 0: no limit
  std::int64_t burst = 0;      // the most that it holds
  std::int64_t tokens = 0;     // below 0: a debt
  std::uint64_t fraction = 0;  // of a token, in billionths
  VmTime filled{};             // up to when
  bool operator==(const TokenBucket&) const = default;

  [[nodiscard]] bool limited() const { return rate != 0; }

  // The bucket begins full; one that was limited keeps what it holds, or owes, as far as it fits.
  void configure(std::uint64_t new_rate, std::uint64_t new_burst, VmTime now) {
    const bool was_limited = limited();
    if (was_limited) fill(now);
    rate = std::min(new_rate, RateLimit::kMost);
    if (new_burst == 0) new_burst = std::max<std::uint64_t>(rate / 10, 1);
    burst = rate == 0 ? 0 : static_cast<std::int64_t>(std::min(new_burst, RateLimit::kMost));
    tokens = was_limited ? std::min(tokens, burst) : burst;
    if (tokens == burst) fraction = 0;
    filled = now;
  }

  // What flowed in since.
  void fill(VmTime now) {
    if (!limited() || now <= filled) return;
    using Wide = unsigned __int128;
    const Wide flowed =
        Wide{static_cast<std::uint64_t>(now.ns) - static_cast<std::uint64_t>(filled.ns)} * rate + fraction;
    filled = now;
    const Wide whole = flowed / kSecond;
    const auto room = static_cast<std::uint64_t>(burst) - static_cast<std::uint64_t>(tokens);
    if (whole >= room) {
      tokens = burst;
      fraction = 0;
      return;
    }
    tokens += static_cast<std::int64_t>(whole);
    fraction = static_cast<std::uint64_t>(flowed % kSecond);
  }

  // After fill().
  [[nodiscard]] bool allows(std::uint64_t cost) const { return !limited() || tokens >= needed(cost); }
  void take(std::uint64_t cost) {
    if (limited()) tokens = std::max(tokens - bounded(cost), -bounded(RateLimit::kMost));
  }
  void give(std::uint64_t cost) {
    if (limited()) tokens = std::min(tokens + bounded(cost), burst);
  }
  // When allows() will be true if nothing is taken meanwhile, or in an hour.
  [[nodiscard]] VmTime ready_at(std::uint64_t cost) const {
    if (allows(cost)) return limited() ? filled : VmTime{};
    const unsigned __int128 missing =
        static_cast<unsigned __int128>(static_cast<std::uint64_t>(needed(cost)) - static_cast<std::uint64_t>(tokens)) *
            kSecond -
        fraction;
    const unsigned __int128 wait = (missing + rate - 1) / rate;
    return VmTime{filled.ns + (wait > kLongestWait ? kLongestWait : static_cast<std::int64_t>(wait))};
  }

  // Brings every field into its range; an honest bucket stays as it is.
  void sanitize(VmTime now) {
    rate = std::min(rate, RateLimit::kMost);
    burst = limited() ? std::clamp(burst, std::int64_t{1}, bounded(RateLimit::kMost)) : 0;
    tokens = limited() ? std::clamp(tokens, -bounded(RateLimit::kMost), burst) : 0;
    if (fraction >= kSecond || tokens == burst) fraction = 0;
    if (filled > now || filled.ns < 0) filled = now;
  }

 private:
  static constexpr std::int64_t bounded(std::uint64_t cost) {
    return static_cast<std::int64_t>(std::min(cost, RateLimit::kMost));
  }
  [[nodiscard]] std::int64_t needed(std::uint64_t cost) const { return std::min(bounded(cost), burst); }
};

}  // namespace bulkhead::devproc
