// What a kill leaves of a role: the memory to watch while a process is stepped through, and regions put together again
// from what was seen there.
#pragma once

#include <cstdio>
#include <cstring>
#include <span>
#include <vector>

#include "tests/fakes/single_step.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {

inline std::vector<std::span<const std::byte>> watched(RoleRig& rig) {
  const auto marks = rig.wire.there() ? rig.wire.marks() : std::span<const std::byte>();
  return {rig.state_bytes(), rig.reply_bytes(), rig.memory_bytes(), rig.disk_bytes(), marks, rig.ring_bytes()};
}

// `start` with the regions that a device process writes as they were at the kill.
inline RoleRig::Regions with(const RoleRig::Regions& start, const std::vector<std::vector<std::byte>>& copies) {
  RoleRig::Regions regions = start;
  std::memcpy(regions.state[0].bytes, copies[0].data(), copies[0].size());
  std::memcpy(regions.replies[0].bytes, copies[1].data(), copies[1].size());
  std::memcpy(regions.memory[0].bytes, copies[2].data(), copies[2].size());
  regions.disk = copies[3];
  if (!copies[4].empty()) std::memcpy(&regions.wire.marks, copies[4].data(), copies[4].size());
  if (!copies[5].empty()) std::memcpy(regions.ring[0].bytes, copies[5].data(), copies[5].size());
  return regions;
}

// Every instruction is a kill point; a successor runs on each state that differs from the one before.
inline void report(const SnapshotLog& log) {
  std::printf("%zu kill points, %zu distinct states\n", log.looks(), log.snapshots());
  std::fflush(stdout);
  ::testing::Test::RecordProperty("kill_points", static_cast<int>(log.looks()));
  ::testing::Test::RecordProperty("states", static_cast<int>(log.snapshots()));
}

}  // namespace bulkhead::devproc
