// EventLoop: a whole device process but for the process, served by its own loop on a thread; the test is the VMM.
#include "devproc/host/event_loop.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>

#include <random>
#include <thread>

#include "devproc/models/pci_test/spec.h"
#include "devproc/models/uart16550/spec.h"
#include "ipc/ring/request_producer.h"
#include "ipc/ring/stream.h"
#include "tests/fakes/vector_memory.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

namespace test_spec = pci_test_spec;
namespace uart = uart16550;

constexpr int kLostMs = 20'000;  // no host is this late: a wake-up was lost

class NoEffects final : public ipc::EffectReceiver {
 public:
  bool apply_effect(const Effect&) override { return true; }
};

bool becomes_readable(BorrowedFd fd, int milliseconds = kLostMs) {
  pollfd poll{fd.get(), POLLIN, 0};
  return ::poll(&poll, 1, milliseconds) == 1;
}

// Regions, descriptors and the loop's thread.
class LoopRig {
 public:
  explicit LoopRig(const RoleSetup& setup) : setup_(setup) {
    requests().magic = ipc::kAreaMagic;
    requests().time.frozen_at.store(ipc::kVmTimeRuns);
    requests().time.base_ns.store(ipc::monotonic_ns());
    for (std::uint32_t i = 0; i < setup.lines; ++i) lines.push_back(UniqueFd::create_eventfd().value());
    for (std::uint32_t i = 0; i < setup.lines; ++i) resamples.push_back(UniqueFd::create_eventfd().value());
    for (std::uint32_t i = 0; i < setup.vectors; ++i) messages.push_back(UniqueFd::create_eventfd().value());
    ipc::RequestProducer::Options options;
    options.deadline_ns = kLostMs * 1'000'000LL;
    options.on_overdue = [this](ipc::Ticket, std::uint32_t) {
      ADD_FAILURE() << "a request was not answered";
      ring->close();
    };
    ring =
        std::make_unique<ipc::RequestProducer>(requests(), replies(), doorbell.borrow(), effects_, std::move(options));
    RoleWorld world;
    world.requests = &requests();
    world.replies = &replies();
    world.state = {regions_.state[0].bytes, kRigStateSize};
    world.output_doorbell = output_doorbell.borrow();
    for (const UniqueFd& fd : lines) world.line_assert.push_back(fd.borrow());
    for (const UniqueFd& fd : resamples) world.line_resample.push_back(fd.borrow());
    for (const UniqueFd& fd : messages) world.messages.push_back(fd.borrow());
    world.memory = &memory_;
    auto channels = control::ControlChannel::create_pair().value();
    control = std::move(channels.first);
    device_end_ = std::move(channels.second);
    host_ = std::move(RoleHost::create(setup_.role, world).value());
    thread_ = std::thread([this, resample = world.line_resample] {
      auto loop = EventLoop::create(*host_, requests(), doorbell.borrow(), resample, {}, device_end_);
      ended = loop ? loop->run() : Status(loop.error());
    });
  }
  ~LoopRig() { stop(); }
  void stop() {
    if (!thread_.joinable()) return;
    control = {};
    thread_.join();
  }

  // The VMM's requests.
  std::uint64_t read(std::uint16_t instance, std::uint16_t region, std::uint64_t offset, std::uint8_t size) {
    const auto reply = ring->call(reads(instance, region, offset, size), wait);
    std::uint64_t value = 0;
    if (reply) std::memcpy(&value, reply->payload, size);
    return value;
  }
  void write(std::uint16_t instance, std::uint16_t region, std::uint64_t offset, std::uint8_t size,
             std::uint64_t value) {
    EXPECT_TRUE(ring->call(writes(instance, region, offset, size, value), wait));
  }
  Result<control::FromDevice> ask(const control::ToDevice& message) {
    ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, control::encode(message));
    RETURN_IF_ERROR(control.send(bytes, control::deadline_in(std::chrono::milliseconds(kLostMs))));
    ASSIGN_OR_RETURN(const control::Message answer,
                     control.receive(control::deadline_in(std::chrono::milliseconds(kLostMs))));
    return control::decode_from_device(answer.bytes);
  }
  // As the VMM does.
  void pause() {
    ipc::VmTimeline& time = requests().time;
    time.frozen_at.store(ipc::monotonic_ns() - time.base_ns.load());
    ring->ring_doorbell();
  }
  void resume() {
    ipc::VmTimeline& time = requests().time;
    time.base_ns.store(ipc::monotonic_ns() - time.frozen_at.load());
    time.frozen_at.store(ipc::kVmTimeRuns, std::memory_order_seq_cst);
    ring->ring_doorbell();
  }
  void wait_until_asleep() {
    while (replies().asleep.load() == 0) ::sched_yield();
  }

  [[nodiscard]] ipc::RequestArea& requests() {
    return *reinterpret_cast<ipc::RequestArea*>(regions_.requests[0].bytes);
  }
  [[nodiscard]] ipc::ReplyArea& replies() { return *reinterpret_cast<ipc::ReplyArea*>(regions_.replies[0].bytes); }

  UniqueFd doorbell = UniqueFd::create_eventfd().value();
  UniqueFd output_doorbell = UniqueFd::create_eventfd().value();
  std::vector<UniqueFd> lines;
  std::vector<UniqueFd> resamples;
  std::vector<UniqueFd> messages;
  control::ControlChannel control;
  std::unique_ptr<ipc::RequestProducer> ring;
  ipc::AdaptiveWait wait;
  Status ended = make_error("it runs");

 private:
  RoleSetup setup_;
  RoleRig::Regions regions_;
  VectorMemory memory_{kRigMemory};
  NoEffects effects_;
  control::ControlChannel device_end_;
  std::unique_ptr<RoleHost> host_;
  std::thread thread_;
};

TEST(EventLoop, it_serves_requests_awake_and_asleep) {
  LoopRig rig(pci_test_setup());
  for (std::uint64_t i = 0; i < 300; ++i) {
    ASSERT_EQ(rig.read(0, 0, test_spec::kCounter, 4), i);
    if (i % 10 == 0) rig.wait_until_asleep();
  }
  EXPECT_GT(rig.replies().counters.sleeps.load(), 0U);
}

TEST(EventLoop, it_ends_when_the_vmm_closes_the_channel) {
  LoopRig rig(pci_test_setup());
  rig.wait_until_asleep();
  rig.stop();
  EXPECT_TRUE(rig.ended);
}

TEST(EventLoop, it_ends_when_the_vmm_closes_the_channel_while_it_is_busy) {
  LoopRig rig(pci_test_setup());
  std::thread vcpu([&] {
    ipc::AdaptiveWait wait;
    while (rig.ring->call(reads(0, 0, test_spec::kCounter, 4), wait)) {
    }
  });
  rig.control = {};
  // The last request may be left without an answer, as with a process that dies; the ring's end releases the vCPU.
  rig.stop();
  rig.ring->close();
  vcpu.join();
  EXPECT_TRUE(rig.ended);
}

TEST(EventLoop, a_message_out_of_place_ends_it_with_an_error) {
  LoopRig rig(pci_test_setup());
  const std::vector<std::byte> noise(40, std::byte{0x5a});
  ASSERT_TRUE(rig.control.send(noise, control::deadline_in(std::chrono::seconds(1))));
  rig.stop();
  EXPECT_FALSE(rig.ended);
}

TEST(EventLoop, it_shows_its_devices_without_disturbing_them) {
  LoopRig rig(pci_test_setup());
  rig.read(0, 0, test_spec::kCounter, 4);
  const auto answer = rig.ask(control::Inspect{"test0"});
  ASSERT_TRUE(answer);
  const auto* reply = std::get_if<control::InspectReply>(&*answer);
  ASSERT_NE(reply, nullptr);
  ASSERT_EQ(reply->instances.size(), 1U);
  EXPECT_FALSE(reply->instances[0].fields.empty());
  EXPECT_EQ(rig.read(0, 0, test_spec::kCounter, 4), 1U);
}

TEST(EventLoop, quiesced_it_takes_no_more_requests) {
  LoopRig rig(pci_test_setup());
  rig.read(0, 0, test_spec::kCounter, 4);
  const auto answer = rig.ask(control::Quiesce{});
  ASSERT_TRUE(answer);
  const auto* quiesced = std::get_if<control::Quiesced>(&*answer);
  ASSERT_NE(quiesced, nullptr);
  EXPECT_EQ(quiesced->last_ticket, 1U);
  ASSERT_TRUE(rig.ring->post(writes(0, 1, 0, 4, 1)));
  EXPECT_FALSE(rig.ring->drain(20'000'000));
  EXPECT_EQ(rig.replies().slots[2].ticket.load(), 0U);
}

TEST(EventLoop, an_eoi_of_the_guest_is_noticed_asleep_and_busy) {
  LoopRig rig(pci_test_setup());
  rig.write(0, 0, test_spec::kIntRaise, 4, 1);
  ASSERT_TRUE(becomes_readable(rig.lines[0].borrow()));
  drain_eventfd(rig.lines[0].borrow());
  rig.wait_until_asleep();
  signal_eventfd(rig.resamples[0].borrow());
  ASSERT_TRUE(becomes_readable(rig.lines[0].borrow()));
  drain_eventfd(rig.lines[0].borrow());

  std::atomic<bool> stop{false};
  std::thread vcpu([&] {
    ipc::AdaptiveWait wait;
    while (!stop.load()) (void)rig.ring->call(reads(0, 0, test_spec::kId, 4), wait);
  });
  for (int i = 0; i < 20; ++i) {
    signal_eventfd(rig.resamples[0].borrow());
    ASSERT_TRUE(becomes_readable(rig.lines[0].borrow()));
    drain_eventfd(rig.lines[0].borrow());
  }
  stop = true;
  vcpu.join();
}

TEST(EventLoop, timers_fire_asleep_and_busy) {
  LoopRig rig(pci_test_setup());
  std::atomic<bool> stop{false};
  std::vector<std::thread> vcpus;
  for (int busy = 0; busy < 2; ++busy) {
    for (int i = 0; busy == 1 && i < 3; ++i) {
      vcpus.emplace_back([&] {
        ipc::AdaptiveWait wait;
        while (!stop.load()) (void)rig.ring->call(reads(0, 0, test_spec::kId, 4), wait);
      });
    }
    for (int i = 0; i < 20; ++i) {
      rig.write(0, 0, test_spec::kTimerDelay, 4, 200'000);
      ASSERT_TRUE(becomes_readable(rig.lines[0].borrow()));
      drain_eventfd(rig.lines[0].borrow());
      rig.write(0, 0, test_spec::kIntStatus, 4, ~0U);
    }
  }
  stop = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
}

// A guest that polls without a pause from several CPUs must still get what is typed.
TEST(EventLoop, console_input_comes_through_to_a_guest_that_never_stops_asking) {
  LoopRig rig(platform_setup());
  std::atomic<bool> stop{false};
  std::vector<std::thread> vcpus;
  for (int i = 0; i < 6; ++i) {
    vcpus.emplace_back([&] {
      while (!stop.load()) (void)rig.ring->post(reads(kRtc, 0, 1, 1));
    });
  }
  rig.write(kCom1, 0, uart::kIer, 1, uart::kIerErbfi);
  ipc::StreamEnd end(rig.requests(), rig.replies(), 0);
  end.give(std::vector<std::uint8_t>{'x'});
  rig.ring->ring_doorbell();
  // Heard of without a single access to the port.
  EXPECT_TRUE(becomes_readable(rig.lines[0].borrow()));
  stop = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
}

// The console's reader takes everything just while the device goes to sleep over a full stream.
TEST(EventLoop, a_device_that_falls_asleep_over_a_full_stream_is_woken_by_room) {
  LoopRig rig(platform_setup());
  ipc::StreamEnd end(rig.requests(), rig.replies(), 0);
  std::vector<std::uint8_t> buffer(4096);
  std::mt19937 random(1);
  rig.write(kCom1, 0, uart::kIer, 1, uart::kIerEtbei);
  for (int round = 0; round < 60; ++round) {
    // One string write of 32 bytes at a time, until the transmitter keeps its byte.
    ipc::Request chunk = access_request(ipc::RequestKind::kWrite, kCom1, 0, uart::kThr, 1, 0, 32);
    for (int i = 0; i < 2000 && (rig.read(kCom1, 0, uart::kLsr, 1) & uart::kLsrThre) != 0; ++i)
      ASSERT_TRUE(rig.ring->call(chunk, rig.wait));
    ASSERT_EQ(rig.read(kCom1, 0, uart::kLsr, 1) & uart::kLsrThre, 0U);
    rig.read(kCom1, 0, uart::kIir, 1);
    drain_eventfd(rig.lines[0].borrow());
    // Around the moment when the loop gives up spinning (some 50 us from here).
    const std::int64_t until = ipc::monotonic_ns() + random() % 120'000;
    while (ipc::monotonic_ns() < until) ipc::cpu_relax();
    for (;;) {
      const auto n = end.take(buffer);
      ASSERT_TRUE(n);
      if (*n == 0) break;
      if (*n == buffer.size()) rig.ring->ring_doorbell();  // StreamPump's rule
    }
    ASSERT_TRUE(becomes_readable(rig.lines[0].borrow()))
        << "round " << round << ": nobody told the transmitter of room";
  }
}

// A pause and its end in quick succession, around the moment when the loop arms its timer and falls asleep.
TEST(EventLoop, no_timer_is_forgotten_over_a_pause) {
  LoopRig rig(pci_test_setup());
  std::mt19937 random(2);
  for (int round = 0; round < 200; ++round) {
    rig.write(0, 0, test_spec::kTimerDelay, 4, 300'000);
    for (int pauses = 0; pauses < 3; ++pauses) {
      rig.pause();
      for (std::uint32_t i = random() % 2000; i > 0; --i) ipc::cpu_relax();
      rig.resume();
      for (std::uint32_t i = random() % 500; i > 0; --i) ipc::cpu_relax();
    }
    ASSERT_TRUE(becomes_readable(rig.lines[0].borrow())) << "round " << round;
    drain_eventfd(rig.lines[0].borrow());
    rig.write(0, 0, test_spec::kIntStatus, 4, ~0U);
  }
}

}  // namespace
}  // namespace bulkhead::devproc
