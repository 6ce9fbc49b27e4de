// The memory balloon device (VIRTIO 1.2, section 5.5): queues, feature bits, configuration and statistics, spelled as
// C++ spells names.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bulkhead::devproc::virtio_balloon_spec {

// Queues (5.5.2) when all of them are there.
inline constexpr std::uint16_t kInflateq = 0;
inline constexpr std::uint16_t kDeflateq = 1;
inline constexpr std::uint16_t kStatsq = 2;
inline constexpr std::uint16_t kReportingVq = 4;

// Feature bits (5.5.3).
inline constexpr unsigned kBalloonFMustTellHost = 0;
inline constexpr unsigned kBalloonFStatsVq = 1;
inline constexpr unsigned kBalloonFDeflateOnOom = 2;
inline constexpr unsigned kBalloonFFreePageHint = 3;
inline constexpr unsigned kBalloonFPagePoison = 4;
inline constexpr unsigned kBalloonFPageReporting = 5;

// struct virtio_balloon_config (5.5.4), little-endian.
struct BalloonConfig {
  std::uint32_t num_pages = 0;  // that the driver is to give up: the target
  std::uint32_t actual = 0;     // that it has given up, as it says itself
  std::uint32_t free_page_hint_cmd_id = 0;
  std::uint32_t poison_val = 0;  // what it fills free pages with
};
static_assert(sizeof(BalloonConfig) == 16);

// Whatever the guest's page size is, the device counts in these.
inline constexpr std::uint32_t kPfnShift = 12;
inline constexpr std::uint64_t kPageBytes = std::uint64_t{1} << kPfnShift;

// struct virtio_balloon_stat (5.5.6.3), packed.
inline constexpr std::size_t kStatBytes = 10;  // le16 tag, le64 val
inline constexpr std::uint16_t kStatTags = 10;
inline constexpr const char* kStatNames[kStatTags] = {
    "stat_swap_in",      "stat_swap_out",         "stat_major_faults", "stat_minor_faults",   "stat_free_memory",
    "stat_total_memory", "stat_available_memory", "stat_disk_caches",  "stat_hugetlb_allocs", "stat_hugetlb_failures"};

}  // namespace bulkhead::devproc::virtio_balloon_spec
