// RestartPolicy: what a device process's death leads to, and when.
//
// A device that dies now and then is started again at once. One that keeps dying is given longer and longer pauses
// (exponential backoff) and, once its budget for a minute is used up, is given up: isolated, or the VM stops. Deaths
// that somebody asked for (fault drills, upgrades) are not counted.
// Threading: none. Pure: the caller brings the time.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "ipc/control/vm_config.h"

namespace bulkhead::vmm {

using control::OnCrash;

class RestartPolicy {
 public:
  static constexpr std::uint32_t kBudget = 10;  // counted deaths within kWindowNs
  static constexpr std::int64_t kWindowNs = 60'000'000'000;
  static constexpr std::uint32_t kAtOnce = 3;  // the first of them cost no pause
  static constexpr std::int64_t kFirstPauseNs = 10'000'000;
  static constexpr std::int64_t kLongestPauseNs = 1'000'000'000;

  // `essential`: a device that the machine cannot be without; it is never isolated.
  RestartPolicy(OnCrash on_crash, bool essential) : on_crash_(on_crash), essential_(essential) {}

  struct Decision {
    enum class Kind : std::uint8_t { kRestart, kIsolate, kStop } kind = Kind::kRestart;
    std::int64_t pause_ns = 0;  // before a restart
  };
  // A death that counts. `hopeless`: a successor said that it cannot play the role.
  Decision on_death(std::int64_t now_ns, bool hopeless);
  // What giving up means.
  [[nodiscard]] bool stops_the_vm() const { return give_up().kind == Decision::Kind::kStop; }
  // Somebody brought the device back: its history is forgotten.
  void forgive() { deaths_.clear(); }

 private:
  [[nodiscard]] Decision give_up() const {
    const bool isolate = on_crash_ != OnCrash::kStop && !essential_;
    return {isolate ? Decision::Kind::kIsolate : Decision::Kind::kStop, 0};
  }

  OnCrash on_crash_;
  bool essential_;
  std::deque<std::int64_t> deaths_;
};

}  // namespace bulkhead::vmm
