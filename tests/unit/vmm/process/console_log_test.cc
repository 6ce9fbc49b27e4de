#include "vmm/process/console_log.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace bulkhead::vmm {
namespace {

// Whoever follows from the start and often enough has every byte once; whoever comes late has the last kKept.
TEST(ConsoleLog, positions_count_from_the_beginning) {
  std::mt19937 random(1);
  ConsoleLog log;
  std::vector<std::uint8_t> all;
  std::vector<std::byte> followed;
  std::uint64_t next = 0;
  for (int i = 0; i < 200; ++i) {
    std::vector<std::uint8_t> piece(random() % 3000);
    for (auto& byte : piece) byte = static_cast<std::uint8_t>(random());
    log.append(piece);
    all.insert(all.end(), piece.begin(), piece.end());
    for (;;) {
      const ConsoleLog::Part part = log.since(next, 1000);
      if (part.bytes.empty()) break;
      followed.insert(followed.end(), part.bytes.begin(), part.bytes.end());
      next = part.next;
    }
  }
  ASSERT_EQ(followed.size(), all.size());
  EXPECT_EQ(std::memcmp(followed.data(), all.data(), all.size()), 0);
  EXPECT_EQ(next, all.size());
  const ConsoleLog::Part late = log.since(0, ConsoleLog::kKept);
  ASSERT_EQ(late.bytes.size(), ConsoleLog::kKept);
  EXPECT_EQ(std::memcmp(late.bytes.data(), all.data() + all.size() - ConsoleLog::kKept, ConsoleLog::kKept), 0);
  EXPECT_EQ(late.next, all.size());
  EXPECT_EQ(log.since(UINT64_MAX, 10).next, all.size()) << "a position of another VM's";
}

}  // namespace
}  // namespace bulkhead::vmm
