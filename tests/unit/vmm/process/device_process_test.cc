// DeviceProcess: what a role is handed, and what the VMM keeps.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <map>

#include "ipc/state/checkpoint.h"
#include "tests/unit/vmm/process/pump_rig.h"

namespace bulkhead::vmm {
namespace {

using control::FdPurpose;

std::map<FdPurpose, int> purposes(const control::TakeRole& role) {
  std::map<FdPurpose, int> count;
  for (const control::FdGrant& grant : role.fds) ++count[grant.purpose];
  return count;
}

TEST(DeviceProcess, a_role_is_handed_what_its_devices_declare_and_nothing_else) {
  const ProcessRig rig;
  const auto count = purposes(rig.message);
  EXPECT_EQ(count.at(FdPurpose::kRequestRegion), 1);
  EXPECT_EQ(count.at(FdPurpose::kReplyRegion), 1);
  EXPECT_EQ(count.at(FdPurpose::kStateRegion), 1);
  EXPECT_EQ(count.at(FdPurpose::kRequestDoorbell), 1);
  EXPECT_EQ(count.at(FdPurpose::kOutputDoorbell), 1);
  EXPECT_EQ(count.at(FdPurpose::kRoleFilter), 1);
  EXPECT_EQ(count.at(FdPurpose::kLineAssert), 6);
  EXPECT_EQ(count.at(FdPurpose::kLineResample), 1) << "only the SCI is a level";
  EXPECT_FALSE(count.contains(FdPurpose::kGuestRam)) << "the platform does no DMA";
  EXPECT_TRUE(rig.message.guest_ram.empty());
  EXPECT_FALSE(count.contains(FdPurpose::kMsiVector));
}

TEST(DeviceProcess, a_device_with_dma_gets_ram_without_the_vga_hole) {
  const ProcessRig rig({{"pci_test", {}}}, false);
  const auto count = purposes(rig.message);
  EXPECT_EQ(count.at(FdPurpose::kGuestRam), 1);
  EXPECT_EQ(count.at(FdPurpose::kMsiVector), 8);
  ASSERT_EQ(rig.message.guest_ram.size(), ram_ranges(rig.plan.memory).size());
  for (const control::GuestRange& range : rig.message.guest_ram) {
    EXPECT_TRUE(range.guest_base + range.length <= kVgaWindow || range.guest_base >= kShadowWindow);
    EXPECT_EQ(rig.message.fds[range.fd_index].purpose, FdPurpose::kGuestRam);
  }
}

TEST(DeviceProcess, indexes_of_instances_follow_each_other) {
  const ProcessRig rig;
  std::uint32_t lines = 0;
  std::uint32_t streams = 0;
  ASSERT_EQ(rig.message.instances.size(), 6U);
  for (const control::DeviceInstance& instance : rig.message.instances) {
    EXPECT_EQ(instance.lines.first, lines) << instance.name;
    EXPECT_EQ(instance.streams.first, streams) << instance.name;
    lines += instance.lines.count;
    streams += instance.streams.count;
  }
  EXPECT_EQ(lines, rig.process->lines().size());
}

// DESIGN.md: the request side is read-only for the device, the reply side read-only for the VMM.
TEST(DeviceProcess, each_side_can_write_only_its_own_area) {
  const ProcessRig rig;
  for (std::size_t i = 0; i < rig.message.fds.size(); ++i) {
    const int fd = rig.handover.fds[i].get();
    if (rig.message.fds[i].purpose == FdPurpose::kRequestRegion) {
      EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    }
  }
  // The VMM's own mapping of the replies has no write permission.
  const auto address = reinterpret_cast<std::uintptr_t>(&rig.process->replies());
  UniqueFd maps = UniqueFd::open("/proc/self/maps", O_RDONLY).value();
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(maps.get(), buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(n));
  const std::string line_start = fmt::format("{:x}-", address);
  const std::size_t at = text.find(line_start);
  ASSERT_NE(at, std::string::npos);
  const std::size_t rights = text.find(' ', at) + 1;
  EXPECT_EQ(text.substr(rights, 4), "r--s");
}

// ipc/state/publication.h: of all that a dead process leaves, its instruction pointer decides over one word of its own.
TEST(DeviceProcess, a_store_that_its_dead_process_had_not_counted_is_counted) {
  const ProcessRig rig;
  int state = -1;
  for (std::size_t i = 0; i < rig.message.fds.size(); ++i) {
    if (rig.message.fds[i].purpose == FdPurpose::kStateRegion) state = rig.handover.fds[i].get();
  }
  constexpr auto kAt = static_cast<off_t>(offsetof(ipc::StateHeader, publication));
  const auto after = [&](std::uint64_t published, std::uint64_t mark, std::uint64_t died_at) {
    std::array<std::uint64_t, 2> words{published, mark};
    EXPECT_EQ(::pwrite(state, words.data(), sizeof words, kAt), 16);
    rig.process->settle_publication(died_at);
    EXPECT_EQ(::pread(state, words.data(), sizeof words, kAt), 16);
    return words;
  };
  using Words = std::array<std::uint64_t, 2>;
  EXPECT_EQ(after(7, 0x1000, 0x1000), (Words{8, 0}));
  EXPECT_EQ(after(7, 0x1000, 0x1004), (Words{7, 0}));
  EXPECT_EQ(after(7, 0, 0), (Words{7, 0}));
  EXPECT_EQ(after(UINT64_MAX, UINT64_MAX, UINT64_MAX), (Words{0, 0}));
}

TEST(DeviceProcess, time_runs_from_the_start) {
  const ProcessRig rig;
  EXPECT_EQ(rig.process->requests().time.frozen_at.load(), ipc::kVmTimeRuns);
  EXPECT_LE(rig.process->requests().time.base_ns.load(), ipc::monotonic_ns());
}

TEST(DeviceProcess, a_successor_is_told_its_incarnation_and_the_generation_of_the_machine) {
  ProcessRig rig;
  rig.process->ring().set_generation(9);
  rig.process->ring().set_incarnation(4);
  const auto handover = rig.process->take_role("test", control::StartKind::kResume, true, rig.filter.borrow());
  ASSERT_TRUE(handover);
  const auto decoded = control::decode_to_device(handover->bytes, handover->fds.size());
  ASSERT_TRUE(decoded);
  const auto& role = std::get<control::TakeRole>(*decoded);
  EXPECT_EQ(role.incarnation, 4U);
  EXPECT_EQ(role.generation, 9U);
  EXPECT_EQ(role.start, control::StartKind::kResume);
  EXPECT_TRUE(role.blame);
  for (std::size_t i = 0; i < handover->fds.size(); ++i)
    EXPECT_EQ(handover->fds[i].get(), rig.handover.fds[i].get()) << "the very same descriptors";
}

}  // namespace
}  // namespace bulkhead::vmm
