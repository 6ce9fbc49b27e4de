#include "vmm/process/restart_policy.h"

#include <algorithm>

namespace bulkhead::vmm {

RestartPolicy::Decision RestartPolicy::on_death(std::int64_t now_ns, bool hopeless) {
  while (!deaths_.empty() && now_ns - deaths_.front() > kWindowNs) deaths_.pop_front();
  deaths_.push_back(now_ns);
  if (hopeless || on_crash_ != OnCrash::kRestart || deaths_.size() > kBudget) return give_up();
  if (deaths_.size() <= kAtOnce) return {};
  const std::size_t doublings = std::min<std::size_t>(deaths_.size() - kAtOnce - 1, 20);
  return {Decision::Kind::kRestart, std::min(kFirstPauseNs << doublings, kLongestPauseNs)};
}

}  // namespace bulkhead::vmm
