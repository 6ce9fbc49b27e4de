#include "devproc/models/debug_exit/debug_exit.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/fakes/fake_wires.h"
#include "tests/fakes/register_access.h"

namespace bulkhead::devproc {
namespace {

class DebugExitTest : public ::testing::Test {
 protected:
  FakeWires fakes;
  DebugExit device{fakes.effects};
  RegisterAccess regs{device, fakes};
};

TEST_F(DebugExitTest, a_write_of_each_width_ends_the_vm_with_its_value) {
  const struct {
    std::uint8_t size;
    std::uint64_t value;
  } writes[] = {{1, 0x5a}, {2, 0x1234}, {4, 0xfedcba98}};
  for (const auto& write : writes) {
    fakes.effects.clear();
    EXPECT_TRUE(regs.out(0, write.value, write.size));
    ASSERT_EQ(fakes.effects.count(PowerAction::kDebugExit), 1U);
    EXPECT_EQ(fakes.effects.emitted[0].address, write.value);
  }
  EXPECT_EQ(fakes.effects.refused, 0);
}

TEST_F(DebugExitTest, other_offsets_and_reads_find_nobody) {
  EXPECT_FALSE(regs.out(1, 0, 1));
  EXPECT_FALSE(regs.out(2, 0, 2));
  EXPECT_EQ(regs.in(0, 4), 0xffffffffU);
  EXPECT_TRUE(fakes.effects.emitted.empty());
}

}  // namespace
}  // namespace bulkhead::devproc
