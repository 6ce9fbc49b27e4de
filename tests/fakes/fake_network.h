// FakeNetwork: a user network that remembers what it saw and sends what it was told to.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "devproc/core/user_network.h"

namespace bulkhead::devproc {

class FakeNetwork final : public UserNetwork {
 public:
  using Frame = std::vector<std::byte>;

  void input(std::span<const std::byte> frame, VmTime /*now*/, Output& output) override {
    seen.emplace_back(frame.begin(), frame.end());
    if (echoes) output.frame(frame);
  }
  std::optional<VmTime> run(VmTime now, Output& output) override {
    ++runs;
    for (; !to_send.empty(); to_send.pop_front()) output.frame(to_send.front());
    if (again_ns < 0) return std::nullopt;
    return VmTime{now.ns + again_ns};
  }

  std::vector<Frame> seen;
  std::deque<Frame> to_send;
  std::int64_t again_ns = -1;  // when it wants to be run again; negative: not
  int runs = 0;
  bool echoes = false;
};

}  // namespace bulkhead::devproc
