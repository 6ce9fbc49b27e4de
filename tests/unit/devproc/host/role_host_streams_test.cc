// Byte streams of real devices: exact through full rings, stalls and deaths, both ways.
#include <gtest/gtest.h>

#include <random>

#include "devproc/models/uart16550/spec.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

namespace uart = uart16550;

std::string numbered_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i * 131 + i / 251);
  return bytes;
}

void let_it_work(RoleRig& rig) {
  while (rig.host->handle_request() || rig.host->handle_streams() || rig.host->handle_timers()) {
  }
}

bool may_write(RoleRig& rig) { return (rig.ask(reads(kCom1, 0, uart::kLsr, 1)).value() & uart::kLsrThre) != 0; }
bool may_read(RoleRig& rig) { return (rig.ask(reads(kCom1, 0, uart::kLsr, 1)).value() & uart::kLsrDr) != 0; }

TEST(RoleHostStreams, output_is_published_after_its_commit_and_the_pump_is_told_if_it_sleeps) {
  RoleRig rig(platform_setup());
  rig.let_time_go();
  rig.ask(writes(kCom1, 0, uart::kThr, 1, 'a'));
  EXPECT_EQ(rig.replies().output_produced[0].load(), 1U);
  EXPECT_FALSE(rig.output_signalled());
  rig.requests().pump_asleep.store(1);
  rig.ask(writes(kCom1, 0, uart::kThr, 1, 'b'));
  EXPECT_TRUE(rig.output_signalled());
  EXPECT_EQ(rig.take(0), "ab");
}

TEST(RoleHostStreams, an_input_that_moves_no_byte_tells_the_pump_nothing) {
  RoleRig rig(platform_setup());
  rig.let_time_go();
  rig.requests().pump_asleep.store(1);
  rig.ask(reads(kCom1, 0, uart::kLsr, 1));
  EXPECT_FALSE(rig.output_signalled());
}

TEST(RoleHostStreams, a_stalled_consumer_stops_the_guest_and_loses_nothing) {
  RoleRig rig(platform_setup());
  rig.let_time_go();
  rig.ask(writes(kCom1, 0, uart::kFcr, 1, uart::kFcrEnable));
  const std::string sent = numbered_bytes(3 * ipc::kOutputBytes);
  std::size_t at = 0;
  const auto write_until_stopped = [&] {
    for (int idle = 0; idle < 3 && at < sent.size();) {
      if (!may_write(rig)) {
        let_it_work(rig);
        ++idle;
        continue;
      }
      rig.ask(writes(kCom1, 0, uart::kThr, 1, static_cast<std::uint8_t>(sent[at++])));
    }
  };
  write_until_stopped();
  EXPECT_GE(at, ipc::kOutputBytes);
  EXPECT_LE(at, ipc::kOutputBytes + uart::kFifoDepth);
  std::string received;
  while (received.size() < sent.size()) {
    received += rig.take(0, 1000);
    let_it_work(rig);
    write_until_stopped();
    ASSERT_LE(at, received.size() + ipc::kOutputBytes + uart::kFifoDepth);
  }
  EXPECT_EQ(received, sent);
}

TEST(RoleHostStreams, room_again_is_work_for_a_device_that_found_none) {
  RoleRig rig(platform_setup());
  rig.let_time_go();
  const auto idle = [&] {
    let_it_work(rig);
    return !rig.host->stream_work_waiting();
  };
  // To the brim: the stream and then the transmitter.
  for (std::size_t i = 0; i < ipc::kOutputBytes + 1; ++i) rig.ask(writes(kCom1, 0, uart::kThr, 1, 'x'));
  ASSERT_TRUE(idle());
  EXPECT_FALSE(may_write(rig));
  rig.take(0, 1);
  EXPECT_TRUE(rig.host->stream_work_waiting());
  ASSERT_TRUE(idle());
  EXPECT_TRUE(may_write(rig));
  // One that found room needs not be told of more.
  rig.take(0, 100);
  EXPECT_FALSE(rig.host->stream_work_waiting());
}

TEST(RoleHostStreams, input_waits_in_the_ring_until_the_guest_reads_it) {
  RoleRig rig(platform_setup());
  rig.let_time_go();
  const std::string sent = numbered_bytes(3 * ipc::kInputBytes);
  std::size_t given = 0;
  std::string received;
  std::mt19937 random(1);
  while (received.size() < sent.size()) {
    const std::size_t n = std::min<std::size_t>({rig.input_room(0), sent.size() - given, random() % 3000});
    rig.feed(0, std::string_view(sent).substr(given, n));
    given += n;
    if (n != 0) {
      EXPECT_TRUE(rig.host->stream_work_waiting());
    }
    let_it_work(rig);
    EXPECT_FALSE(rig.host->stream_work_waiting());
    for (std::uint32_t reads_left = random() % 3000; reads_left > 0 && may_read(rig); --reads_left)
      received.push_back(static_cast<char>(rig.ask(reads(kCom1, 0, uart::kRbr, 1)).value()));
    ASSERT_LE(received.size(), given);
  }
  EXPECT_EQ(received, sent);
}

TEST(RoleHostStreams, streams_belong_to_their_devices) {
  RoleRig rig(platform_setup());
  rig.let_time_go();
  rig.ask(writes(kCom2, 0, uart::kThr, 1, '2'));
  rig.ask(writes(kPorts, 2, 0, 1, 'd'));  // port E9h
  EXPECT_EQ(rig.take(0), "");
  EXPECT_EQ(rig.take(1), "2");
  EXPECT_EQ(rig.take(3), "d");
  rig.feed(1, "z");
  let_it_work(rig);
  EXPECT_FALSE(may_read(rig));
  EXPECT_EQ(rig.ask(reads(kCom2, 0, uart::kRbr, 1)).value(), 'z');
}

// A console session in which the device process dies at random, with its spare bank in any condition. Every byte
// arrives once, in order, in both directions. The predecessor may have died between publishing an index and telling the
// pump, which then sleeps on it.
TEST(RoleHostStreams, a_successor_wakes_a_pump_that_sleeps) {
  RoleRig rig(platform_setup());
  rig.let_time_go();
  rig.ask(writes(kCom1, 0, uart::kThr, 1, 'x'));
  rig.requests().pump_asleep.store(1);
  const auto successor = rig.take_over();
  ASSERT_NE(successor, nullptr);
  EXPECT_TRUE(successor->output_signalled());
}

TEST(RoleHostStreams, deaths_neither_lose_nor_double_a_byte) {
  std::mt19937_64 random(11);
  auto rig = std::make_unique<RoleRig>(platform_setup());
  rig->let_time_go();
  rig->ask(writes(kCom1, 0, uart::kFcr, 1, uart::kFcrEnable));
  const std::string out = numbered_bytes(20'000);
  const std::string in = numbered_bytes(10'000);
  std::string shown;
  std::string read;
  std::size_t written = 0;
  std::size_t typed = 0;
  int deaths = 0;
  while (shown.size() < out.size() || read.size() < in.size()) {
    switch (random() % 6) {
      case 0: shown += rig->take(0, random() % 700); break;
      case 1: {
        const std::size_t n = std::min<std::size_t>({rig->input_room(0), in.size() - typed, random() % 300});
        rig->feed(0, std::string_view(in).substr(typed, n));
        typed += n;
        break;
      }
      case 2:
        for (std::uint64_t n = random() % 200; n > 0 && written < out.size() && may_write(*rig); --n)
          rig->ask(writes(kCom1, 0, uart::kThr, 1, static_cast<std::uint8_t>(out[written++])));
        break;
      case 3:
        for (std::uint64_t n = random() % 200; n > 0 && may_read(*rig); --n)
          read.push_back(static_cast<char>(rig->ask(reads(kCom1, 0, uart::kRbr, 1)).value()));
        break;
      case 4: let_it_work(*rig); break;
      default: {
        RoleRig::Regions regions = rig->copy();
        auto* const state = reinterpret_cast<std::byte*>(regions.state.data());
        const std::uint64_t number = reinterpret_cast<ipc::StateHeader*>(state)->commit_word.load();
        constexpr std::size_t kBank = (kRigStateSize - 4096) / 2 / 4096 * 4096;
        for (std::size_t i = 0; i < 512; ++i)
          state[4096 + ((number + 1) & 1) * kBank + random() % 8192] = static_cast<std::byte>(random());
        auto next = RoleRig::take_over(platform_setup(), static_cast<std::uint32_t>(++deaths + 1), std::move(regions),
                                       rig->submitted());
        ASSERT_NE(next, nullptr);
        rig = std::move(next);
        ASSERT_EQ(out.substr(0, shown.size()), shown);
        ASSERT_EQ(in.substr(0, read.size()), read);
      }
    }
  }
  EXPECT_EQ(shown, out);
  EXPECT_EQ(read, in);
  EXPECT_GT(deaths, 20);
}

}  // namespace
}  // namespace bulkhead::devproc
