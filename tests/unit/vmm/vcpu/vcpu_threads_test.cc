// VcpuThreads: the gate. Nobody is in the guest while it is closed, with nothing half finished; everybody goes on when
// it opens; stop() ends them from anywhere.
#include "vmm/vcpu/vcpu_threads.h"

#include <gtest/gtest.h>

#include <random>

#include "ipc/ring/adaptive_wait.h"
#include "tests/fakes/scripted_vcpu.h"

namespace bulkhead::vmm {
namespace {

constexpr std::int64_t kLongNs = 30'000'000'000;

class CallbackChannel final : public DeviceChannel {
 public:
  void read(std::uint32_t vcpu, const BusAccess&, std::span<std::byte>) override {
    if (on_access) on_access(vcpu);
  }
  void write(std::uint32_t vcpu, const BusAccess&, std::span<const std::byte>) override {
    if (on_access) on_access(vcpu);
  }
  std::function<void(std::uint32_t)> on_access;
};

class VcpuThreadsTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kVcpus = 3;

  VcpuThreadsTest() {
    EXPECT_TRUE(
        space.publish({{.space = Space::kPort, .base = 0, .length = 0x10000, .channel = &channel, .owner = "all"}}));
  }
  void make() {
    std::vector<Vcpu*> pointers;
    for (ScriptedVcpu& vcpu : vcpus) pointers.push_back(&vcpu);
    threads = std::make_unique<VcpuThreads>(pointers, space,
                                            [this](std::uint32_t vcpu, ExitAction action, std::string report) {
                                              const std::lock_guard lock(ends_lock);
                                              ends.push_back({vcpu, action, std::move(report)});
                                              ended.fetch_add(1);
                                            });
    ASSERT_TRUE(threads->start(std::nullopt));
  }
  void wait_until_all_run() {
    for (const ScriptedVcpu& vcpu : vcpus) {
      while (vcpu.inside.load() == 0) ::sched_yield();
    }
  }
  [[nodiscard]] bool anybody_inside() const {
    return std::any_of(vcpus.begin(), vcpus.end(), [](const ScriptedVcpu& vcpu) { return vcpu.inside.load() != 0; });
  }

  AddressSpace space;
  CallbackChannel channel;
  std::array<ScriptedVcpu, kVcpus> vcpus;
  std::array<std::byte, 8> data{};
  struct End {
    std::uint32_t vcpu;
    ExitAction action;
    std::string report;
  };
  std::mutex ends_lock;
  std::vector<End> ends;
  std::atomic<int> ended{0};
  std::unique_ptr<VcpuThreads> threads;
};

TEST_F(VcpuThreadsTest, they_start_held_and_run_when_the_gate_opens) {
  make();
  EXPECT_TRUE(threads->close(kLongNs));
  for (const ScriptedVcpu& vcpu : vcpus) EXPECT_EQ(vcpu.runs.load(), 0U);
  threads->open();
  wait_until_all_run();
}

TEST_F(VcpuThreadsTest, close_brings_everybody_out_of_the_guest) {
  make();
  threads->open();
  wait_until_all_run();
  ASSERT_TRUE(threads->close(kLongNs));
  EXPECT_FALSE(anybody_inside());
  const std::uint64_t runs = vcpus[0].runs.load();
  EXPECT_TRUE(threads->close(kLongNs)) << "closed is closed";
  EXPECT_EQ(vcpus[0].runs.load(), runs);
}

TEST_F(VcpuThreadsTest, exits_are_served_and_counted) {
  std::atomic<int> served{0};
  channel.on_access = [&](std::uint32_t) { served.fetch_add(1); };
  vcpus[1].script = [this](ScriptedVcpu& self) -> std::optional<Exit> {
    if (self.runs.load() > 50) return std::nullopt;
    return PioOut{0x80, 1, 1, std::span(data).first(1)};
  };
  make();
  threads->open();
  while (served.load() < 50) ::sched_yield();
  ASSERT_TRUE(threads->close(kLongNs));
  EXPECT_EQ(threads->exits(), 50U);
}

TEST_F(VcpuThreadsTest, a_change_is_made_while_nobody_is_in_the_guest_and_all_go_on) {
  make();
  threads->open();
  wait_until_all_run();
  for (int i = 0; i < 200; ++i) {
    bool clear = false;
    threads->while_none_runs([&] { clear = !anybody_inside(); });
    ASSERT_TRUE(clear);
  }
  wait_until_all_run();
}

// As an effect of its own access: the vCPU that asks is not waited for.
TEST_F(VcpuThreadsTest, a_vcpu_may_ask_for_a_change_and_several_at_once) {
  std::atomic<int> changes{0};
  std::atomic<int> wrong{0};
  channel.on_access = [&](std::uint32_t) {
    threads->while_none_runs([&] {
      if (anybody_inside()) wrong.fetch_add(1);
      changes.fetch_add(1);
    });
  };
  for (ScriptedVcpu* vcpu : {&vcpus[0], &vcpus[1]}) {
    vcpu->script = [this](ScriptedVcpu& self) -> std::optional<Exit> {
      if (self.runs.load() > 300) return std::nullopt;
      return PioOut{0x80, 1, 1, std::span(data).first(1)};
    };
  }
  make();
  threads->open();
  while (changes.load() < 600) ::sched_yield();
  EXPECT_EQ(wrong.load(), 0);
  wait_until_all_run();
}

// Whoever pauses meanwhile gets all of them, and nobody is left behind when it opens again.
TEST_F(VcpuThreadsTest, changes_and_pauses_do_not_lose_each_other) {
  make();
  threads->open();
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::thread changer([&] {
    while (!stop.load()) {
      threads->while_none_runs([&] {
        if (anybody_inside()) wrong.fetch_add(1);
      });
    }
  });
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(threads->close(kLongNs));
    EXPECT_FALSE(anybody_inside());
    threads->open();
  }
  stop.store(true);
  changer.join();
  EXPECT_EQ(wrong.load(), 0);
  wait_until_all_run();
}

// The rest of a wide access comes out as further exits; they are answered before the vCPU counts as held.
TEST_F(VcpuThreadsTest, no_instruction_is_half_finished_while_the_gate_is_closed) {
  std::atomic<int> served{0};
  std::atomic<bool> may_finish{false};
  channel.on_access = [&](std::uint32_t) {
    served.fetch_add(1);
    while (!may_finish.load()) ::sched_yield();
  };
  vcpus[0].script = [this](ScriptedVcpu& self) -> std::optional<Exit> {
    if (self.runs.load() != 1) return std::nullopt;
    self.follow_ups = {PioIn{0x80, 1, 1, std::span(data).first(1)}, PioIn{0x80, 1, 1, std::span(data).first(1)}};
    return PioIn{0x80, 1, 1, std::span(data).first(1)};
  };
  make();
  threads->open();
  while (served.load() == 0) ::sched_yield();
  EXPECT_FALSE(threads->close(5'000'000)) << "a vCPU waits for a device";
  may_finish = true;
  ASSERT_TRUE(threads->close(kLongNs));
  EXPECT_EQ(served.load(), 3);
  EXPECT_FALSE(vcpus[0].io_pending.load());
}

TEST_F(VcpuThreadsTest, an_end_is_reported_once_with_its_state_and_the_vcpu_waits) {
  vcpus[2].script = [](ScriptedVcpu& self) -> std::optional<Exit> {
    if (self.runs.load() == 1) return Shutdown{};
    return std::nullopt;
  };
  make();
  threads->open();
  while (ended.load() == 0) ::sched_yield();
  ASSERT_TRUE(threads->close(kLongNs));
  ASSERT_EQ(ends.size(), 1U);
  EXPECT_EQ(ends[0].vcpu, 2U);
  EXPECT_EQ(ends[0].action, ExitAction::kShutdown);
  EXPECT_NE(ends[0].report.find("RIP 1234"), std::string::npos);
  EXPECT_EQ(vcpus[2].runs.load(), 1U);
  // After a reset of the machine it runs again.
  threads->open();
  while (vcpus[2].runs.load() < 2) ::sched_yield();
  EXPECT_EQ(ended.load(), 1);
}

TEST_F(VcpuThreadsTest, each_end_has_its_own_action) {
  vcpus[0].script = [](ScriptedVcpu& self) -> std::optional<Exit> {
    return self.runs.load() == 1 ? std::optional<Exit>(SystemEvent{.kind = SystemEvent::Kind::kReset}) : std::nullopt;
  };
  vcpus[1].script = [](ScriptedVcpu& self) -> std::optional<Exit> {
    return self.runs.load() == 1 ? std::optional<Exit>(InternalError{.suberror = 1}) : std::nullopt;
  };
  make();
  threads->open();
  while (ended.load() < 2) ::sched_yield();
  const std::lock_guard lock(ends_lock);
  for (const End& end : ends) EXPECT_EQ(end.action, end.vcpu == 0 ? ExitAction::kReset : ExitAction::kFailed);
}

// An access that asks for power-off: not one guest instruction runs after it on that vCPU.
TEST_F(VcpuThreadsTest, a_vcpu_that_closes_the_gate_from_within_an_access_runs_no_further) {
  channel.on_access = [&](std::uint32_t) { threads->hold_soon(); };
  vcpus[0].script = [this](ScriptedVcpu& self) -> std::optional<Exit> {
    if (self.runs.load() > 1) return std::nullopt;
    return PioOut{0x604, 2, 1, std::span(data).first(2)};
  };
  make();
  threads->open();
  while (vcpus[0].completions.load() < 2) ::sched_yield();  // one at the start, one for the access
  EXPECT_EQ(vcpus[0].runs.load(), 1U);
  ASSERT_TRUE(threads->close(kLongNs));
  EXPECT_EQ(vcpus[0].runs.load(), 1U);
}

TEST_F(VcpuThreadsTest, the_gate_holds_however_often_and_fast_it_moves) {
  for (ScriptedVcpu& vcpu : vcpus) {
    vcpu.script = [this, n = 0](ScriptedVcpu&) mutable -> std::optional<Exit> {
      if (++n % 3 == 0) return std::nullopt;
      return PioOut{0x80, 1, 1, std::span(data).first(1)};
    };
  }
  make();
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    threads->open();
    for (std::uint32_t spin = random() % 3000; spin > 0; --spin) ipc::cpu_relax();
    if (random() % 8 == 0) threads->hold_soon();
    ASSERT_TRUE(threads->close(kLongNs));
    ASSERT_FALSE(anybody_inside());
    for (const ScriptedVcpu& vcpu : vcpus) ASSERT_FALSE(vcpu.io_pending.load());
    if (random() % 4 == 0) {
      threads->open();
      ASSERT_TRUE(threads->close(kLongNs));
      ASSERT_FALSE(anybody_inside());
    }
  }
  // And the guest still gets on.
  const std::uint64_t before = vcpus[1].runs.load();
  threads->open();
  while (vcpus[1].runs.load() == before) ::sched_yield();
}

TEST(VcpuThreadsLife, they_can_be_stopped_at_any_moment) {
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    AddressSpace space;
    std::array<std::byte, 8> data{};
    std::array<ScriptedVcpu, 2> vcpus;
    vcpus[0].script = [&](ScriptedVcpu& self) -> std::optional<Exit> {
      if (self.runs.load() > 20) return std::nullopt;
      return PioIn{0x80, 1, 1, std::span(data).first(1)};
    };
    vcpus[1].script = [&](ScriptedVcpu& self) -> std::optional<Exit> {
      return self.runs.load() == 3 ? std::optional<Exit>(Shutdown{}) : std::nullopt;
    };
    VcpuThreads threads({&vcpus[0], &vcpus[1]}, space, [](std::uint32_t, ExitAction, const std::string&) {});
    if (i % 10 != 0) {
      ASSERT_TRUE(threads.start(std::nullopt));
    }
    if (i % 3 != 0) threads.open();
    for (std::uint32_t spin = random() % 5000; spin > 0; --spin) ipc::cpu_relax();
    if (i % 5 == 0) threads.hold_soon();
    if (i % 2 == 0) threads.stop();
    threads.stop();
  }
}

}  // namespace
}  // namespace bulkhead::vmm
