// A frame ring between two processes, each of which is killed again and again: numbered frames go both ways, and each
// side's successor goes on from its committed indexes. Whenever they die, every frame arrives once, whole and in order.
// TORTURE_SEED=N repeats a run's choices, TORTURE_KILLS=N makes it longer.
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>

#include "devproc/backends/ring_frames.h"
#include "ipc/state/checkpoint.h"

namespace bulkhead::devproc {
namespace {

constexpr std::int64_t kPatienceMs = 60'000;

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

// What one side has sent and taken, committed together with the ring's indexes.
struct Tally {
  std::uint64_t sent = 0;
  std::uint64_t taken = 0;
};

struct Shared {
  ipc::FrameRingArea areas[2];
  std::atomic<std::uint64_t> sent[2];
  std::atomic<std::uint64_t> taken[2];
  std::atomic<std::uint64_t> wrong[2];  // the first frame that was not what it should be, plus one
  std::atomic<std::uint64_t> sleeps[2];
  std::atomic<std::uint64_t> started[2];  // it has committed once: who starts afresh takes nothing that came before
};

std::size_t length_of(std::uint64_t number) {
  std::uint64_t mixed = (number + 1) * 0x9e3779b97f4a7c15;
  mixed ^= mixed >> 29;
  return mixed % 50 == 0 ? 8 + mixed % 65'000 : 8 + mixed % 1'500;
}

void fill(std::span<std::byte> frame, std::uint64_t number) {
  std::memcpy(frame.data(), &number, sizeof number);
  for (std::size_t i = sizeof number; i < frame.size(); ++i) frame[i] = static_cast<std::byte>(number * 7 + i);
}

class Side {
 public:
  Side(Shared& shared, std::size_t side, std::span<std::byte> state, std::array<BorrowedFd, 2> bells)
      : shared_(shared),
        side_(side),
        bells_(bells),
        checkpoint_(state),
        tally_(allocate_state<Tally>(checkpoint_)),
        ring_({&shared.areas[side], &shared.areas[1 - side], bells[side], bells[1 - side]},
              allocate_state<ipc::FrameRingState>(checkpoint_), nullptr) {}

  [[noreturn]] void run() {
    const bool resumed = checkpoint_.open().value();
    ring_.set_wanted(true);
    ring_.start(resumed);
    finish();
    shared_.started[side_].store(1, std::memory_order_release);
    while (shared_.started[1 - side_].load(std::memory_order_acquire) == 0) ::sched_yield();
    for (;;) {
      bool did = send_some();
      did = take_some() || did;
      if (did) continue;
      ring_.set_asleep(true);
      if (!ring_.ready()) {
        shared_.sleeps[side_].fetch_add(1, std::memory_order_relaxed);
        pollfd poll{bells_[side_].get(), POLLIN, 0};
        ::poll(&poll, 1, -1);  // without end: a wake-up that is lost stops the test
        drain_eventfd(bells_[side_]);
      }
      ring_.set_asleep(false);
    }
  }

 private:
  void finish() {
    checkpoint_.commit();
    ring_.begin();
    checkpoint_.sync();
  }
  bool send_some() {
    bool sent = false;
    for (int i = 0; i < 5; ++i) {
      const std::uint64_t number = tally_->sent;
      const std::span<std::byte> frame = std::span(buffer_).first(length_of(number));
      fill(frame, number);
      if (ring_.send(frame, {}) == FrameBackend::Sent::kFull) break;
      tally_.mut().sent = number + 1;
      sent = true;
    }
    if (!sent) return false;
    finish();
    shared_.sent[side_].store(tally_->sent, std::memory_order_relaxed);
    return true;
  }
  bool take_some() {
    bool took = false;
    for (int i = 0; i < 7; ++i) {
      const std::span<const std::byte> got = ring_.receive();
      if (got.empty()) break;
      const std::uint64_t number = tally_->taken;
      const std::span<std::byte> wanted = std::span(buffer_).first(length_of(number));
      fill(wanted, number);
      std::uint64_t none = 0;
      if (got.size() != wanted.size() || std::memcmp(got.data(), wanted.data(), got.size()) != 0)
        shared_.wrong[side_].compare_exchange_strong(none, number + 1);
      ring_.consume();
      tally_.mut().taken = number + 1;
      took = true;
    }
    if (!took) return false;
    finish();
    shared_.taken[side_].store(tally_->taken, std::memory_order_relaxed);
    return true;
  }

  Shared& shared_;
  std::size_t side_;
  std::array<BorrowedFd, 2> bells_;
  ipc::Checkpoint checkpoint_;
  Persistent<Tally> tally_;
  RingFrames ring_;
  std::array<std::byte, 70'000> buffer_;
};

template <class T>
T* map_shared(std::size_t size) {
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  EXPECT_NE(at, MAP_FAILED);
  return static_cast<T*>(at);
}

TEST(FrameRingTorture, nothing_is_lost_or_doubled_however_often_both_sides_die) {
  const std::uint64_t seed = number_from("TORTURE_SEED", static_cast<std::uint64_t>(::getpid()));
  const std::uint64_t kills = number_from("TORTURE_KILLS", 400);
  SCOPED_TRACE("TORTURE_SEED=" + std::to_string(seed));
  auto& shared = *new (map_shared<void>(sizeof(Shared))) Shared{};
  const std::array<UniqueFd, 2> bells{UniqueFd::create_eventfd().value(), UniqueFd::create_eventfd().value()};
  std::array<std::span<std::byte>, 2> states;
  for (auto& state : states) state = {map_shared<std::byte>(ipc::kStateRegionSize), ipc::kStateRegionSize};
  std::array<pid_t, 2> pids{};
  const auto start = [&](std::size_t side) {
    pids[side] = ::fork();
    if (pids[side] == 0) {
      auto playing =
          std::make_unique<Side>(shared, side, states[side], std::array{bells[0].borrow(), bells[1].borrow()});
      playing->run();
    }
    ASSERT_GT(pids[side], 0);
  };
  start(0);
  start(1);
  while (shared.started[0] + shared.started[1] != 2) ::usleep(1'000);
  std::mt19937_64 random(seed);
  for (std::uint64_t kill = 0; kill < kills && shared.wrong[0] + shared.wrong[1] == 0; ++kill) {
    const std::size_t side = random() % 2;
    const std::uint64_t before = shared.taken[0] + shared.taken[1];
    ::usleep(static_cast<useconds_t>(random() % 3'000));
    // Now and then only after something has moved: what stands still for ever has lost a wake-up.
    for (std::int64_t waited = 0; kill % 8 == 0 && shared.taken[0] + shared.taken[1] == before; ++waited) {
      ASSERT_LT(waited, kPatienceMs) << "nothing moves any more";
      ::usleep(1'000);
    }
    ::kill(pids[side], SIGKILL);
    ::waitpid(pids[side], nullptr, 0);
    start(side);
  }
  for (const pid_t pid : pids) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  EXPECT_EQ(shared.wrong[0], 0U);
  EXPECT_EQ(shared.wrong[1], 0U);
  EXPECT_GT(shared.taken[0], kills);
  EXPECT_GT(shared.taken[1], kills);
  std::printf("%llu kills, %llu and %llu frames taken, %llu and %llu sleeps\n", static_cast<unsigned long long>(kills),
              static_cast<unsigned long long>(shared.taken[0]), static_cast<unsigned long long>(shared.taken[1]),
              static_cast<unsigned long long>(shared.sleeps[0]), static_cast<unsigned long long>(shared.sleeps[1]));
}

}  // namespace
}  // namespace bulkhead::devproc
