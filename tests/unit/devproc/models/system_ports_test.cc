#include "devproc/models/system_ports/system_ports.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/fakes/fake_wires.h"
#include "tests/fakes/register_access.h"

namespace bulkhead::devproc {
namespace {

using namespace system_ports;

class SystemPortsTest : public ::testing::Test {
 protected:
  SystemPortsTest() { ports.reset(); }
  std::uint64_t in(RegionIndex region) { return regs.in(0, 1, region); }
  void out(RegionIndex region, std::uint8_t value) { EXPECT_TRUE(regs.out(0, value, 1, region)); }

  FakeWires fakes{{.streams = 1}};
  FakeCharBackend& debug = fakes.streams[0];
  Persistent<SystemPortsState> state = allocate_state<SystemPortsState>(fakes.state);
  SystemPorts ports{state, debug, fakes.effects};
  RegisterAccess regs{ports, fakes};
};

TEST_F(SystemPortsTest, a20_starts_on_and_is_remembered) {
  EXPECT_EQ(in(SystemPorts::kPort92), kFastA20);
  out(SystemPorts::kPort92, 0);
  EXPECT_EQ(in(SystemPorts::kPort92), 0U);
}

TEST_F(SystemPortsTest, seabios_a20_sequence_resets_nothing) {
  const std::uint64_t old = in(SystemPorts::kPort92);
  out(SystemPorts::kPort92, static_cast<std::uint8_t>((old & ~kFastInit) | kFastA20));
  out(SystemPorts::kPort92, static_cast<std::uint8_t>(old & ~(kFastInit | kFastA20)));
  EXPECT_TRUE(fakes.effects.emitted.empty());
}

TEST_F(SystemPortsTest, fast_init_resets_on_its_rising_edge) {
  out(SystemPorts::kPort92, kFastInit | kFastA20);
  EXPECT_EQ(fakes.effects.count(PowerAction::kReset), 1U);
  out(SystemPorts::kPort92, kFastInit);
  EXPECT_EQ(fakes.effects.count(PowerAction::kReset), 1U) << "no edge";
  out(SystemPorts::kPort92, 0);
  out(SystemPorts::kPort92, kFastInit);
  EXPECT_EQ(fakes.effects.count(PowerAction::kReset), 2U);
}

TEST_F(SystemPortsTest, reserved_bits_of_port_92_read_as_zero) {
  out(SystemPorts::kPort92, 0xfe);
  EXPECT_EQ(in(SystemPorts::kPort92), kFastA20);
}

TEST_F(SystemPortsTest, post_code_reads_back) {
  out(SystemPorts::kPost, 0x42);
  EXPECT_EQ(in(SystemPorts::kPost), 0x42U);
  EXPECT_EQ(debug.output, "");
}

TEST_F(SystemPortsTest, io_delay_writes_change_no_state) {
  out(SystemPorts::kPost, 0);
  fakes.state.reset_dirty();
  for (int i = 0; i < 10; ++i) out(SystemPorts::kPost, 0);
  EXPECT_FALSE(state.segment().dirty);
}

TEST_F(SystemPortsTest, debug_ports_write_the_stream_and_say_they_are_there) {
  out(SystemPorts::kDebugConsole, 'a');
  out(SystemPorts::kFirmwareDebug, 'b');
  EXPECT_EQ(debug.output, "ab");
  EXPECT_EQ(in(SystemPorts::kDebugConsole), 0xe9U);
  EXPECT_EQ(in(SystemPorts::kFirmwareDebug), 0xe9U);
}

TEST_F(SystemPortsTest, debug_output_without_room_is_dropped_and_counted) {
  debug.room_left = 1;
  for (const char c : std::string_view("abc")) out(SystemPorts::kDebugConsole, static_cast<std::uint8_t>(c));
  EXPECT_EQ(debug.output, "a");
  EXPECT_EQ(state->debug_dropped, 2U);
}

TEST_F(SystemPortsTest, restore_brings_every_field_into_range) {
  std::ranges::fill(fakes.state.bytes(0), std::byte{0xff});
  ports.restore();
  EXPECT_EQ(state->port92, kPort92Mask);
  EXPECT_TRUE(fakes.effects.emitted.empty());
}

}  // namespace
}  // namespace bulkhead::devproc
