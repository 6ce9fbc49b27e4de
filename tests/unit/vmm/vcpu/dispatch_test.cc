// dispatch(): scripted exits.
#include "vmm/vcpu/dispatch.h"

#include <gtest/gtest.h>

namespace bulkhead::vmm {
namespace {

class EchoChannel final : public DeviceChannel {
 public:
  void read(std::uint32_t vcpu, const BusAccess& access, std::span<std::byte> out) override {
    last_vcpu = vcpu;
    last = access;
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>(0xa0 + i);
  }
  void write(std::uint32_t vcpu, const BusAccess& access, std::span<const std::byte> in) override {
    last_vcpu = vcpu;
    last = access;
    written.assign(in.begin(), in.end());
  }
  std::uint32_t last_vcpu = 99;
  BusAccess last;
  std::vector<std::byte> written;
};

class DispatchTest : public ::testing::Test {
 protected:
  DispatchTest() {
    EXPECT_TRUE(space.publish(
        {{.space = Space::kPort, .base = 0x60, .length = 8, .channel = &channel, .instance = 1, .owner = "a"},
         {.space = Space::kMemory,
          .base = 0xe0000000,
          .length = 64,
          .channel = &channel,
          .instance = 2,
          .owner = "b"}}));
  }
  AddressSpace space;
  EchoChannel channel;
  std::array<std::byte, 16> data{};
};

TEST_F(DispatchTest, port_input_fills_the_exits_data) {
  EXPECT_EQ(dispatch(PioIn{0x62, 2, 3, std::span(data).first(6)}, space, 5), ExitAction::kContinue);
  EXPECT_EQ(channel.last_vcpu, 5U);
  EXPECT_EQ(channel.last.instance, 1);
  EXPECT_EQ(channel.last.offset, 2U);
  EXPECT_EQ(channel.last.size, 2);
  EXPECT_EQ(channel.last.count, 3U);
  EXPECT_EQ(data[5], std::byte{0xa5});
  EXPECT_EQ(data[6], std::byte{0});
}

TEST_F(DispatchTest, port_output_reaches_the_device) {
  data[0] = std::byte{7};
  EXPECT_EQ(dispatch(PioOut{0x60, 1, 4, std::span(data).first(4)}, space, 0), ExitAction::kContinue);
  EXPECT_EQ(channel.written.size(), 4U);
  EXPECT_EQ(channel.written[0], std::byte{7});
}

TEST_F(DispatchTest, memory_accesses_of_any_width_reach_the_device) {
  EXPECT_EQ(dispatch(MmioRead{0xe0000008, 8, std::span(data).first(8)}, space, 1), ExitAction::kContinue);
  EXPECT_EQ(channel.last.instance, 2);
  EXPECT_EQ(data[7], std::byte{0xa7});
  EXPECT_EQ(dispatch(MmioWrite{0xe0000000, 4, std::span(data).first(4)}, space, 1), ExitAction::kContinue);
  EXPECT_EQ(channel.written.size(), 4U);
  EXPECT_EQ(dispatch(MmioRead{0xe0000001, 3, std::span(data).first(3)}, space, 1), ExitAction::kContinue);
  EXPECT_EQ(channel.last.size, 1) << "three bytes are a word and a byte";
}

TEST_F(DispatchTest, nobodys_address_reads_ones) {
  EXPECT_EQ(dispatch(MmioRead{0xd0000000, 4, std::span(data).first(4)}, space, 1), ExitAction::kContinue);
  EXPECT_EQ(data[0], std::byte{0xff});
  EXPECT_EQ(dispatch(PioIn{0xffff, 4, 1, std::span(data).first(4)}, space, 1), ExitAction::kContinue);
  EXPECT_EQ(data[3], std::byte{0xff});
}

TEST_F(DispatchTest, everything_else_ends_the_run_in_its_own_way) {
  EXPECT_EQ(dispatch(Hlt{}, space, 0), ExitAction::kContinue);
  EXPECT_EQ(dispatch(Interrupted{}, space, 0), ExitAction::kInterrupted);
  EXPECT_EQ(dispatch(Shutdown{}, space, 0), ExitAction::kShutdown);
  EXPECT_EQ(dispatch(SystemEvent{.kind = SystemEvent::Kind::kReset}, space, 0), ExitAction::kReset);
  EXPECT_EQ(dispatch(SystemEvent{.kind = SystemEvent::Kind::kShutdown}, space, 0), ExitAction::kPowerOff);
  EXPECT_EQ(dispatch(SystemEvent{.kind = SystemEvent::Kind::kCrash}, space, 0), ExitAction::kFailed);
  EXPECT_EQ(dispatch(SystemEvent{.kind = SystemEvent::Kind::kOther}, space, 0), ExitAction::kFailed);
  EXPECT_EQ(dispatch(InternalError{.suberror = 1}, space, 0), ExitAction::kFailed);
  EXPECT_EQ(dispatch(FailEntry{.reason = 7}, space, 0), ExitAction::kFailed);
  EXPECT_EQ(dispatch(RunFailed{.error_number = 14}, space, 0), ExitAction::kFailed);
  EXPECT_EQ(dispatch(UnknownExit{.reason = 77}, space, 0), ExitAction::kFailed);
  EXPECT_EQ(space.unclaimed(), 0U);
}

}  // namespace
}  // namespace bulkhead::vmm
