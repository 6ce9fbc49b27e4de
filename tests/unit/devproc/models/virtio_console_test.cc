// The virtio console, driven as a driver does: VIRTIO 1.2, section 5.3.
#include "devproc/models/virtio_console/virtio_console.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <tuple>

#include "devproc/models/virtio/transport_spec.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/virtio_start.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;
using namespace virtio_console_spec;

constexpr GuestPhys kRing = 0x1000;
constexpr GuestPhys kBuffers = 0x10000;
constexpr std::uint32_t kStep = 0x400;  // from buffer to buffer

struct Rig {
  explicit Rig(bool packed = false, bool event_idx = false, VirtioConsoleConfig size = {})
      : fakes({.lines = 1, .streams = 1, .queues = kVirtioConsoleQueues, .memory_bytes = 2 * 1024 * 1024}),
        device(TransportStorage::allocate(fakes.state, kVirtioConsoleQueues), make(size), fakes.lines[0], fakes.msi,
               fakes.memory),
        drivers{VirtioDriver(fakes.memory, {.packed = packed, .event_idx = event_idx, .at = kRing}),
                VirtioDriver(fakes.memory, {.packed = packed, .event_idx = event_idx, .at = kRing + 0x4000})} {
    fakes.clock.attach(device);
    device.reset();
    device.on_function_control(kControlMemoryEnable | kControlBusMaster);
  }
  std::unique_ptr<VirtioConsole> make(VirtioConsoleConfig size) {
    auto made = std::make_unique<VirtioConsole>(allocate_state<VirtioConsoleState>(fakes.state), size, fakes.memory,
                                                fakes.streams[0], fakes.clock, fakes.clock);
    return made;
  }
  void start(std::uint64_t features = 0) {
    ASSERT_TRUE(start_virtio(device, drivers, features | feature_bit(kVirtioFIndirectDesc)));
    settle();
  }
  void show() {
    if (device.show(false, fakes.msi)) device.after_show();
  }
  // What the host does until nothing is left.
  void kick(QueueId queue) {
    for (bool more = true; more;) {
      more = device.on_queue(queue);
      show();
    }
    settle();
  }
  void stream() {
    device.on_stream(0);
    show();
    settle();
  }
  void settle() {
    while (fakes.clock.armed_count() != 0) {
      fakes.clock.advance(std::chrono::nanoseconds(0));
      show();
    }
  }
  // A chain with `text` in buffers of `piece` bytes.
  bool write(std::string_view text, std::size_t piece = 100, bool indirect = false) {
    std::vector<VirtioDriver::Buffer> buffers;
    for (std::size_t at = 0; at < text.size(); at += piece) {
      const std::string_view part = text.substr(at, piece);
      const GuestPhys where = next_buffer();
      fakes.memory.write(where, std::as_bytes(std::span(part.data(), part.size())));
      buffers.push_back({where, static_cast<std::uint32_t>(part.size()), false});
    }
    return drivers[kTransmitq].add(buffers, indirect).has_value();
  }
  bool offer(std::uint32_t bytes) {
    const GuestPhys where = next_buffer();
    const std::vector<VirtioDriver::Buffer> one{{where, bytes, true}};
    const auto id = drivers[kReceiveq].add(one);
    if (id) places[*id] = where;
    return id.has_value();
  }
  std::string read() {
    std::string all;
    while (const auto used = drivers[kReceiveq].take_used()) {
      std::string part(used->written, '\0');
      fakes.memory.read(places[used->id], std::as_writable_bytes(std::span(part.data(), part.size())));
      all += part;
    }
    return all;
  }
  GuestPhys next_buffer() { return kBuffers + kStep * (next++ % 1000); }

  FakeWires fakes;
  VirtioPci device;
  VirtioRegisters registers{device};
  std::vector<VirtioDriver> drivers;
  std::map<std::uint16_t, GuestPhys> places;
  unsigned next = 0;
};

std::uint32_t config(Rig& rig, std::uint32_t offset, std::uint8_t size) {
  return static_cast<std::uint32_t>(
      rig.device.read({kVirtioRegisters, kVirtioDeviceOffset + offset, size}).value_or(0));
}

std::string numbered(std::size_t count) {
  std::string bytes(count, '\0');
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i * 131 + i / 251);
  return bytes;
}

class VirtioConsoleLayouts : public ::testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(VirtioConsoleLayouts, carries_bytes_both_ways) {
  const auto [packed, event_idx] = GetParam();
  Rig rig(packed, event_idx);
  rig.start();
  ASSERT_TRUE(rig.write("hello, ", 3));
  ASSERT_TRUE(rig.write("world"));
  rig.kick(kTransmitq);
  EXPECT_EQ(rig.fakes.streams[0].output, "hello, world");
  EXPECT_TRUE(rig.drivers[kTransmitq].take_used());
  EXPECT_TRUE(rig.drivers[kTransmitq].take_used());

  ASSERT_TRUE(rig.offer(4));
  ASSERT_TRUE(rig.offer(64));
  rig.kick(kReceiveq);
  EXPECT_EQ(rig.read(), "");
  rig.fakes.streams[0].feed("typed in");
  rig.stream();
  EXPECT_EQ(rig.read(), "typed in");
  EXPECT_EQ(rig.drivers[0].complaint(), "");
}

INSTANTIATE_TEST_SUITE_P(Rings, VirtioConsoleLayouts, ::testing::Combine(::testing::Bool(), ::testing::Bool()));

TEST(VirtioConsole, output_that_has_no_room_goes_out_piece_by_piece) {
  Rig rig;
  rig.start();
  const std::string text = numbered(700);
  ASSERT_TRUE(rig.write(text, 300));
  rig.fakes.streams[0].room_left = 5;
  rig.kick(kTransmitq);
  EXPECT_EQ(rig.fakes.streams[0].output, text.substr(0, 5));
  EXPECT_FALSE(rig.drivers[kTransmitq].take_used()) << "not all of it is taken";
  for (int i = 0; i < 100 && rig.fakes.streams[0].output.size() < text.size(); ++i) {
    rig.fakes.streams[0].room_left = 37;
    rig.device.restore();  // its process is another one each time
    rig.stream();
  }
  EXPECT_EQ(rig.fakes.streams[0].output, text);
  EXPECT_TRUE(rig.drivers[kTransmitq].take_used());
}

TEST(VirtioConsole, input_waits_for_buffers_and_the_driver_is_asked_for_more) {
  Rig rig;
  rig.start();
  rig.fakes.streams[0].feed("early");
  rig.stream();
  ASSERT_TRUE(rig.offer(2));
  EXPECT_TRUE(rig.drivers[kReceiveq].must_kick());
  rig.kick(kReceiveq);
  EXPECT_EQ(rig.read(), "ea");
  ASSERT_TRUE(rig.offer(2));
  EXPECT_TRUE(rig.drivers[kReceiveq].must_kick()) << "bytes are left";
  rig.kick(kReceiveq);
  ASSERT_TRUE(rig.offer(2));
  rig.kick(kReceiveq);
  EXPECT_EQ(rig.read(), "rly");
}

TEST(VirtioConsole, input_that_came_before_the_driver_is_there_for_it) {
  Rig rig;
  rig.fakes.streams[0].feed("early");
  rig.stream();
  ASSERT_TRUE(rig.offer(64));  // before DRIVER_OK, and without a kick after it
  rig.start();
  EXPECT_EQ(rig.read(), "early");
}

TEST(VirtioConsole, emergency_write_needs_no_driver) {
  Rig rig;
  for (const char c : std::string("panic"))
    rig.device.write({kVirtioRegisters, kVirtioDeviceOffset + offsetof(ConsoleConfig, emerg_wr), 4},
                     0xffffff00U | static_cast<std::uint8_t>(c));
  EXPECT_EQ(rig.fakes.streams[0].output, "panic");
  rig.fakes.streams[0].room_left = 0;
  rig.device.write({kVirtioRegisters, kVirtioDeviceOffset + offsetof(ConsoleConfig, emerg_wr), 4}, '!');
  EXPECT_EQ(rig.fakes.streams[0].output, "panic");
}

TEST(VirtioConsole, size_is_offered_when_the_terminal_has_one) {
  Rig without;
  EXPECT_FALSE(has_feature(without.registers.offered(), kConsoleFSize));
  EXPECT_FALSE(has_feature(without.registers.offered(), kConsoleFMultiport));
  EXPECT_TRUE(has_feature(without.registers.offered(), kConsoleFEmergWrite));
  Rig rig(false, false, {.columns = 132, .rows = 50});
  EXPECT_TRUE(has_feature(rig.registers.offered(), kConsoleFSize));
  rig.start(feature_bit(kConsoleFSize));
  EXPECT_EQ(config(rig, 0, 2), 132U);
  EXPECT_EQ(config(rig, 2, 2), 50U);
  rig.device.on_setting(Setting::kTerminalSize, 80 | 25 << 16);
  EXPECT_EQ(rig.registers.isr(), kIsrConfig);
  EXPECT_EQ(config(rig, 0, 2), 80U);
  EXPECT_EQ(config(rig, 2, 2), 25U);
  rig.device.on_setting(Setting::kTerminalSize, 80 | 25 << 16);
  EXPECT_EQ(rig.registers.isr(), 0U) << "nothing has changed";
  rig.device.on_setting(Setting::kBalloonTarget, 1);
  EXPECT_EQ(config(rig, 0, 2), 80U);
  rig.device.reset();
  EXPECT_EQ(config(rig, 0, 2), 80U) << "the terminal did not shrink";
}

TEST(VirtioConsole, buffer_outside_ram_needs_a_reset) {
  for (const QueueId queue : {kReceiveq, kTransmitq}) {
    Rig rig;
    rig.start();
    const std::vector<VirtioDriver::Buffer> outside{{std::uint64_t{1} << 40, 4, queue == kReceiveq}};
    ASSERT_TRUE(rig.drivers[queue].add(outside));
    rig.fakes.streams[0].feed("x");
    rig.kick(queue);
    EXPECT_NE(rig.registers.get(kDeviceStatus, 1) & kStatusNeedsReset, 0U) << queue;
  }
}

TEST(VirtioConsole, reset_forgets_a_chain_that_was_half_sent) {
  Rig rig;
  rig.start();
  ASSERT_TRUE(rig.write("abcdef"));
  rig.fakes.streams[0].room_left = 2;
  rig.kick(kTransmitq);
  rig.registers.set(kDeviceStatus, 1, 0);
  rig.drivers.clear();
  for (const GuestPhys at : {kRing, kRing + 0x4000})
    rig.drivers.emplace_back(rig.fakes.memory, VirtioDriver::Layout{.at = at});
  rig.fakes.streams[0].room_left = 100;
  rig.start();
  ASSERT_TRUE(rig.write("xyz"));
  rig.kick(kTransmitq);
  EXPECT_EQ(rig.fakes.streams[0].output, "abxyz");
}

// Whatever is written, typed, offered and drained, in whatever order, and however often the process is another one.
TEST(VirtioConsole, every_byte_once_and_in_order) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    Rig rig((seed & 1) != 0, (seed & 2) != 0);
    rig.start();
    FakeCharBackend& stream = rig.fakes.streams[0];
    stream.room_left = 0;
    std::string written;
    std::string typed;
    std::string read;
    for (int step = 0; step < 300; ++step) {
      switch (random() % 6) {
        case 0: {
          const std::string text = numbered(1 + random() % 300).substr(random() % 7 % 1);
          if (rig.write(text, 1 + random() % 150, random() % 2 != 0)) written += text;
          if (rig.drivers[kTransmitq].must_kick()) rig.kick(kTransmitq);
          break;
        }
        case 1:
          stream.room_left += random() % 200;
          rig.stream();
          break;
        case 2: {
          const std::string text = numbered(1 + random() % 90);
          typed += text;
          stream.feed(text);
          rig.stream();
          break;
        }
        case 3:
          rig.offer(1 + static_cast<std::uint32_t>(random() % 50));
          if (rig.drivers[kReceiveq].must_kick()) rig.kick(kReceiveq);
          break;
        case 4:
          read += rig.read();
          while (rig.drivers[kTransmitq].take_used()) {
          }
          break;
        default:
          rig.device.restore();
          if (rig.device.show(true, rig.fakes.msi)) rig.device.after_show();
          for (const QueueId queue : {kReceiveq, kTransmitq}) rig.kick(queue);
      }
    }
    stream.room_left = 1'000'000;
    rig.stream();
    rig.kick(kTransmitq);
    for (int i = 0; i < 10'000 && read.size() < typed.size(); ++i) {
      rig.offer(50);
      if (rig.drivers[kReceiveq].must_kick()) rig.kick(kReceiveq);
      read += rig.read();
    }
    ASSERT_EQ(stream.output, written) << "seed " << seed;
    ASSERT_EQ(read, typed) << "seed " << seed;
    ASSERT_EQ(rig.drivers[0].complaint() + rig.drivers[1].complaint(), "") << "seed " << seed;
  }
}

}  // namespace
}  // namespace bulkhead::devproc
