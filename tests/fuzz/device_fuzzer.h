// DeviceFuzzer: drives any device model through its declared regions, timers, streams and host events, as a
// string of bytes says, and checks after each input what must hold for every model:
//   - an answer has no bits beyond its access; effects are well formed and no more than one input may have;
//   - state changes through mut() alone; time and streams never make a device loop;
//   - restore() brings any state into range, and changes none that was in range.
//
// The first thing that does not hold stays in complaint(). Used by the fuzz targets and, with pseudo-random
// bytes, by the conformance tests. No KVM, no process, no real time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "devproc/core/device.h"
#include "tests/fakes/fake_wires.h"

namespace bulkhead::devproc {

class FuzzBytes {
 public:
  explicit FuzzBytes(std::span<const std::uint8_t> bytes) : left_(bytes) {}
  [[nodiscard]] bool empty() const { return left_.empty(); }
  // A little-endian number of at most 8 bytes; what is missing is 0.
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i) value |= std::uint64_t{byte()} << (8 * i);
    return value;
  }
  std::uint8_t byte() {
    if (left_.empty()) return 0;
    const std::uint8_t value = left_.front();
    left_ = left_.subspan(1);
    return value;
  }

 private:
  std::span<const std::uint8_t> left_;
};

class DeviceFuzzer {
 public:
  DeviceFuzzer(Device& device, FakeWires& fakes) : device_(device), fakes_(fakes) {
    fakes_.clock.attach(device_);
    // The VM has run for a while, and its clock is right.
    fakes_.clock.set_now(VmTime{5'000'000'000});
    fakes_.clock.set_wall_seconds(1'700'000'000);
    device_.reset();
    commit();
  }

  [[nodiscard]] std::string_view complaint() const { return complaint_; }

  void run(std::span<const std::uint8_t> script) {
    FuzzBytes bytes(script);
    while (!bytes.empty() && complaint_.empty()) step(bytes);
  }

  // One input.
  void step(FuzzBytes& bytes) {
    fakes_.effects.clear();
    const std::uint8_t what = bytes.byte();
    switch (what % 16) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
      case 5: write(bytes); break;
      case 6:
      case 7:
      case 8: read(bytes); break;
      case 9: fakes_.clock.advance(std::chrono::nanoseconds(bytes.number(3))); break;
      case 10: fakes_.clock.skip(std::chrono::nanoseconds(bytes.number(6))); break;
      case 11: feed(bytes); break;
      case 12: give_room(bytes); break;
      case 13: host_event(bytes, what >> 4); break;
      case 14: set_wall(bytes); break;
      default: life_cycle(bytes, what >> 4); break;
    }
    finish_input();
  }

  // A kick, until the queue is empty or has had its fair share.
  void work_on_queue(std::uint16_t queue) {
    constexpr int kMostInputs = 64;
    for (int i = 0; i < kMostInputs; ++i) {
      const bool more = device_.on_queue(queue);
      finish_input();
      if (!more || !complaint_.empty()) return;
    }
  }

  // What the disk has been asked for, done one by one.
  void work_on_disk() {
    constexpr int kMostInputs = 64;
    for (int i = 0; i < kMostInputs && fakes_.block.run_one(); ++i) {
      device_.on_backend(0);
      finish_input();
    }
  }

  // A frame arrives, a queue of the network is full or takes frames again, or a cable is pulled or plugged in.
  void work_on_network(FuzzBytes& bytes) {
    constexpr int kMostInputs = 64;
    const std::uint8_t how = bytes.byte();
    const auto id = static_cast<BackendId>(how % fakes_.frames.size());
    FakeFrames& frames = fakes_.frames[id];
    frames.link_up = (how >> 2 & 7) != 0;
    frames.room = (how >> 5 & 3) == 0 ? how >> 7 : -1;
    if ((how >> 5 & 1) != 0) {
      FakeFrames::Frame frame(bytes.byte() * ((how >> 7) != 0 ? 16U : 1U));
      for (std::size_t i = 0; i < frame.size() && i < 32; ++i) frame[i] = static_cast<std::byte>(bytes.byte());
      if (!frame.empty()) frames.incoming.push_back(std::move(frame));
    }
    for (int i = 0; i < kMostInputs; ++i) {
      const bool more = device_.on_backend(id);
      finish_input();
      if (!more || !complaint_.empty()) return;
    }
  }

  // Any bytes as state, as a hostile predecessor could leave them: all of them, one value everywhere, or a
  // few wrong bytes in a good state.
  void corrupt_state(std::uint64_t seed) {
    corrupted_ = true;
    std::mt19937_64 random(seed);
    const auto kind = random() % 4;
    const auto same = static_cast<std::byte>(random());
    for (std::size_t i = 0; i < fakes_.state.count(); ++i) {
      const auto bytes = fakes_.state.bytes(i);
      if (kind >= 2) {
        for (int n = 0; n < 4; ++n) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
        continue;
      }
      for (std::byte& b : bytes) b = kind == 0 ? static_cast<std::byte>(random()) : same;
    }
    device_.restore();
    check_restore_is_stable();
  }

  void check_restore_is_stable() {
    const auto before = fakes_.state.snapshot();
    device_.restore();
    require(fakes_.state.snapshot() == before, "restore() changed a state that was in range");
  }

 private:
  Access access(FuzzBytes& bytes) {
    const auto regions = device_.regions();
    const std::uint8_t select = bytes.byte();
    const auto region = static_cast<RegionIndex>(select % regions.size());
    const RegionSpec& spec = regions[region];
    auto size = static_cast<std::uint8_t>(1U << (select >> 6));
    while ((spec.sizes & size) == 0 || size > spec.length) size = size == 1 ? 8 : size / 2;
    const std::uint64_t offset = bytes.number(spec.length > 256 ? 2 : 1) % (spec.length - size + 1);
    return {.region = region, .offset = offset, .size = size};
  }

  void write(FuzzBytes& bytes) {
    if (device_.regions().empty()) return;
    const Access a = access(bytes);
    device_.write(a, bytes.number(a.size));
  }
  void read(FuzzBytes& bytes) {
    if (device_.regions().empty()) return;
    const Access a = access(bytes);
    const auto value = device_.read(a);
    require(!value || (*value & ~all_ones(a.size)) == 0, "an answer is wider than its access");
  }
  void feed(FuzzBytes& bytes) {
    if (fakes_.streams.empty()) return;
    const std::uint8_t select = bytes.byte();
    const std::size_t stream = select % fakes_.streams.size();
    for (int i = 0; i < (select >> 2); ++i) fakes_.streams[stream].input.push_back(bytes.byte());
    if (fakes_.streams[stream].input.size() > 100'000) fakes_.streams[stream].input.clear();
    device_.on_stream(static_cast<StreamId>(stream));
  }
  void give_room(FuzzBytes& bytes) {
    if (fakes_.streams.empty()) return;
    const std::uint8_t select = bytes.byte();
    const std::size_t stream = select % fakes_.streams.size();
    fakes_.streams[stream].room_left = select >> 2;
    device_.on_stream(static_cast<StreamId>(stream));
  }
  void host_event(FuzzBytes& bytes, unsigned which) {
    const bool queues = fakes_.queues != 0;
    if (which % 8 == 6 && !fakes_.frames.empty()) {
      work_on_network(bytes);
    } else if (queues && which % 8 == 6) {
      work_on_disk();
    } else if (queues && which % 4 == 2) {
      work_on_queue(static_cast<std::uint16_t>(bytes.byte() % fakes_.queues));
    } else if (queues && which % 4 == 3) {
      device_.on_queue_poisoned(static_cast<std::uint16_t>(bytes.byte() % fakes_.queues));
    } else if (which == 5) {
      device_.on_setting(static_cast<Setting>(bytes.byte() % 4), bytes.number(8));
    } else if (which == 7) {
      const auto limit = static_cast<LimitId>(bytes.byte() % 3);
      device_.on_limit(limit, {.bytes_per_second = bytes.number(3),
                               .bytes_burst = bytes.number(2),
                               .operations_per_second = bytes.number(2),
                               .operations_burst = bytes.number(1)});
    } else if (which % 2 == 0) {
      device_.on_power_button();
    } else {
      device_.on_function_control(static_cast<std::uint32_t>(bytes.number(4)) & kControlAll);
    }
  }
  // VM time never goes back; the host's clock may be set to anything.
  void set_wall(FuzzBytes& bytes) {
    constexpr std::int64_t kFarthest = 9'000'000'000'000'000'000;
    const auto wall = static_cast<std::int64_t>(bytes.number(8));
    fakes_.clock.set_wall(WallTime{std::clamp(wall, -kFarthest, kFarthest)});
  }
  void life_cycle(FuzzBytes& bytes, unsigned which) {
    switch (which % 4) {
      case 0: device_.reset(); break;
      case 1: check_restore_is_stable(); break;
      case 2: corrupt_state(bytes.number(4)); break;
      default: write_memory(bytes); break;
    }
  }
  void write_memory(FuzzBytes& bytes) {
    const std::uint64_t at = bytes.number(2) % fakes_.memory.bytes.size();
    fakes_.memory.bytes[at] = static_cast<std::byte>(bytes.byte());
  }

  // As the host does (devproc/host/role_host.cc).
  void finish_input() {
    check();
    commit();
    fakes_.block.commit();
    require(fakes_.publisher.refused == 0, "more was published than an input has room for");
    fakes_.publisher.new_input();
    require(fakes_.block.complaint.empty(), "the disk was asked for what it cannot do");
    if (fakes_.queues == 0 || !device_.show(false, fakes_.msi)) return;
    const auto shown = fakes_.state.snapshot();
    require(shown == committed_, "show() changed state");
    device_.after_show();
    check();
    commit();
  }
  void check() {
    require(fakes_.effects.refused == 0, "an effect is malformed");
    // Several timers may have fired in one step, each an input of its own.
    if (fakes_.clock.fired == fired_) require(fakes_.effects.emitted.size() <= kMaxEffects, "too many effects");
    fired_ = fakes_.clock.fired;
    require(!fakes_.clock.storm, "a timer re-arms itself into the past");
    std::size_t at = 0;
    for (std::size_t i = 0; i < fakes_.state.count(); ++i) {
      const auto bytes = fakes_.state.bytes(i);
      const bool changed = !std::equal(bytes.begin(), bytes.end(), committed_.begin() + static_cast<long>(at));
      // Corruption writes the bytes directly; restore() then need not have changed more.
      require(!changed || fakes_.state.dirty(i) || corrupted_, "state changed without mut()");
      at += bytes.size();
    }
  }
  void commit() {
    committed_ = fakes_.state.snapshot();
    fakes_.state.reset_dirty();
    corrupted_ = false;
  }
  void require(bool holds, std::string_view what) {
    if (!holds && complaint_.empty()) complaint_ = what;
  }

  Device& device_;
  FakeWires& fakes_;
  std::string_view complaint_;
  std::vector<std::byte> committed_;
  int fired_ = 0;
  bool corrupted_ = false;
};

// What a fuzz target does with one input: a device as `make` builds it from fakes, driven by the bytes.
template <class Make>
int fuzz_device(FakeWireCounts counts, std::span<const std::uint8_t> script, Make&& make) {
  FakeWires fakes(counts);
  const auto device = make(fakes);
  DeviceFuzzer fuzzer(*device, fakes);
  fuzzer.run(script);
  if (!fuzzer.complaint().empty()) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(fuzzer.complaint().size()), fuzzer.complaint().data());
    std::abort();
  }
  return 0;
}

}  // namespace bulkhead::devproc
