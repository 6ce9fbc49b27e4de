// Kills while a real client waits: the VMM's own end of the ring sleeps on its futex, or polls, while the
// device process works on its request under a tracer, is killed by SIGKILL after its k-th instruction and
// replaced. Other vCPUs may be busy on the same ring. A wake-up that a kill loses shows here alone: as a
// call that is overdue.
//
// FAULT_SEED=N repeats a run's choices, FAULT_KILLS=N makes it longer.
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <random>
#include <thread>

#include "devproc/models/pci_test/spec.h"
#include "ipc/ring/request_producer.h"
#include "tests/fakes/single_step.h"
#include "tests/faults/child.h"
#include "tests/faults/inputs.h"

namespace bulkhead::devproc {
namespace {

namespace test_spec = pci_test_spec;

constexpr std::uint64_t kNever = ~std::uint64_t{0};
constexpr std::uint16_t kTest = 0;
constexpr std::uint16_t kExit = 1;

// What test, zygote and device process say to one another.
struct Orders {
  std::atomic<std::uint64_t> kill_after;   // instructions of the next marked request; kNever: it may live
  std::atomic<std::uint32_t> armed;        // the next marked request is to be stepped through
  std::atomic<std::uint32_t> for_sleeper;  // and only once its waiter has said that it sleeps
  std::atomic<std::uint64_t> length;       // of the request that was last stepped through to its end
};

enum class Client { kSleeping, kPolling };

RoleSetup client_setup() {
  RoleSetup setup;
  setup.add("test", "pci_test", PciTestConfig{}).add("exit", "debug_exit", DebugExitConfig{});
  return setup;
}

// The requests that processes are killed on; what other vCPUs ask for is not among them.
bool is_marked(const ipc::Request& request) {
  return request.instance == kExit || request.region == 1 ||
         (request.region == 0 && request.offset == test_spec::kCounter);
}

class Effects final : public ipc::EffectReceiver {
 public:
  bool apply_effect(const Effect&) override {
    applied.fetch_add(1);
    return true;
  }
  std::atomic<std::uint64_t> applied{0};
};

class FaultKillWithClient : public ::testing::TestWithParam<Client> {
 protected:
  FaultKillWithClient() {
    int sockets[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    ipc::RequestProducer::Options options;
    options.deadline_ns = 5'000'000'000;
    options.on_overdue = [this](ipc::Ticket ticket, std::uint32_t) {
      fail("ticket " + std::to_string(ticket) + " waits for ever");
    };
    options.on_violation = [this](const char* what, std::uint32_t) { fail(what); };
    ring_.emplace(rig_->requests(), rig_->replies(), BorrowedFd(), effects_, std::move(options));
    orders_.kill_after.store(kNever);
    zygote_ = ::fork();  // before the first thread
    if (zygote_ == 0) {
      ::close(sockets[0]);
      zygote(sockets[1]);
    }
    ::close(sockets[1]);
    socket_.reset(sockets[0]);
    supervisor_ = std::thread([this] { supervise(); });
  }
  ~FaultKillWithClient() override {
    ::shutdown(socket_.get(), SHUT_RDWR);
    supervisor_.join();
    ring_->close();
    // It may be in waitpid() on a device process that lives.
    ::kill(zygote_, SIGKILL);
    wait_for(zygote_);
  }

  void fail(const std::string& what) {
    const std::lock_guard lock(failure_lock_);
    if (failure_.empty()) failure_ = what;
    over_.store(true);
    ring_->close();
  }

  // As the VMM's supervisor: a death, the next incarnation's number, its start.
  void supervise() {
    std::uint32_t incarnation = 0;
    while (::recv(socket_.get(), &incarnation, sizeof incarnation, 0) == sizeof incarnation) {
      ring_->set_incarnation(incarnation);
      deaths_.fetch_add(1);
      ::send(socket_.get(), &incarnation, sizeof incarnation, MSG_NOSIGNAL);
    }
  }

  [[noreturn]] void zygote(int socket);
  bool kill_during_marked_request(pid_t child);
  [[noreturn]] void play(std::uint32_t incarnation);

  std::optional<ipc::Reply> ask(const ipc::Request& request) {
    ipc::AdaptiveWait wait;
    const auto reply = ring_->call(request, wait);
    if (reply && reply->status != ipc::ReplyStatus::kDone) fail("a request was dropped");
    return reply;
  }
  std::uint32_t read(std::uint16_t region, std::uint64_t offset) {
    std::uint32_t value = ~0U;
    if (const auto reply = ask(reads(kTest, region, offset, 4))) std::memcpy(&value, reply->payload, sizeof value);
    return value;
  }

  // One marked request, killed after `k` instructions.
  void one_death(std::uint64_t n, std::uint64_t k);
  // A vCPU that asks for something else on the same ring, all the time.
  void be_busy() {
    for (std::uint32_t n = 0; !over_.load(); ++n) {
      if (read(2, test_spec::kPortCounter) != n && !over_.load()) fail("another vCPU's read was lost or made twice");
    }
  }

  std::unique_ptr<RoleRig> rig_ = RoleRig::on(client_setup(), SharedResource::instance());
  Orders& orders_ = *static_cast<Orders*>(SharedResource::instance()->allocate(4096));
  Effects effects_;
  std::optional<ipc::RequestProducer> ring_;
  UniqueFd socket_;
  pid_t zygote_ = -1;
  std::thread supervisor_;
  std::atomic<std::uint64_t> deaths_{0};
  std::atomic<bool> over_{false};
  std::mutex failure_lock_;
  std::string failure_;
  std::uint32_t counted_ = 0;
  std::uint32_t posted_ = 0;
  std::uint64_t caused_ = 0;
};

void FaultKillWithClient::zygote(int socket) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (std::uint32_t incarnation = 1;; ++incarnation) {
    const pid_t child = ::fork();
    if (child == 0) play(incarnation);
    while (!kill_during_marked_request(child)) {
    }
    std::uint32_t next = incarnation + 1;
    if (::send(socket, &next, sizeof next, MSG_NOSIGNAL) != sizeof next) break;
    if (::recv(socket, &next, sizeof next, 0) != sizeof next) break;
  }
  ::_exit(0);
}

// The device process stops itself before a marked request and after it. True when it is dead.
bool FaultKillWithClient::kill_during_marked_request(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) return true;
  const std::uint64_t k = orders_.kill_after.load();
  std::uint64_t steps = 0;
  for (; steps < k; ++steps) {
    ::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr);
    ::waitpid(child, &status, 0);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) == SIGSTOP) break;
  }
  if (k == kNever) {
    orders_.length.store(steps);
    ::ptrace(PTRACE_CONT, child, nullptr, nullptr);
    return false;
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  return true;
}

void FaultKillWithClient::play(std::uint32_t incarnation) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
  if (incarnation == 1 ? !rig_->start() : !rig_->succeed(incarnation, false)) ::_exit(1);
  const ipc::RequestArea& requests = rig_->requests();
  for (;;) {
    if (!rig_->host->request_waiting()) {
      ::sched_yield();
      continue;
    }
    const std::uint32_t slot = ipc::slot_of(rig_->host->last_ticket() + 1);
    const bool stepped = orders_.armed.load() != 0 && is_marked(requests.slots[slot].request);
    if (!stepped) {
      rig_->host->handle_request();
      continue;
    }
    while (orders_.for_sleeper.load() != 0 && requests.waiter_asleep[slot].load() == 0) ::sched_yield();
    orders_.armed.store(0);
    ::raise(SIGSTOP);
    rig_->host->handle_request();
    ::raise(SIGSTOP);
  }
}

void FaultKillWithClient::one_death(std::uint64_t n, std::uint64_t k) {
  const std::uint64_t before = deaths_.load();
  orders_.kill_after.store(k);
  orders_.for_sleeper.store(GetParam() == Client::kSleeping ? 1 : 0);
  orders_.armed.store(1);
  if (GetParam() == Client::kPolling) {
    ring_->post(writes(kTest, 1, 0x10, 4, ++posted_));
    if (!ring_->drain(5'000'000'000)) fail("a posted request was never done");
  } else if (n % 2 == 0) {
    if (read(0, test_spec::kCounter) != counted_++ && !over_.load()) fail("a read was lost or made twice");
  } else {
    ask(writes(kExit, 0, 0, 4, static_cast<std::uint32_t>(n)));
    if (effects_.applied.load() != ++caused_) fail("an effect was lost or applied twice");
  }
  if (k == kNever) return;
  // A client may have its reply before the process that sent it is dead.
  const std::int64_t until = ipc::monotonic_ns() + 5'000'000'000;
  while (deaths_.load() == before && !over_.load() && ipc::monotonic_ns() < until) ::sched_yield();
  if (deaths_.load() != before + 1) fail("no process died");
}

TEST_P(FaultKillWithClient, a_client_gets_its_answer_once_wherever_the_process_dies) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const std::uint64_t seed = number_from("FAULT_SEED", std::random_device{}());
  const std::uint64_t kills = number_from("FAULT_KILLS", 12) * 15;
  SCOPED_TRACE("FAULT_SEED=" + std::to_string(seed));
  std::printf("FAULT_SEED=%lu\n", seed);
  std::mt19937_64 random(seed);
  std::uint64_t lengths[2];
  for (std::uint64_t n = 0; n < 2; ++n) {
    one_death(n, kNever);
    while (orders_.length.load() == 0 && !over_.load()) ::sched_yield();  // the client may be ahead of the tracer
    lengths[n] = orders_.length.exchange(0);
  }
  std::thread busy([this] { be_busy(); });
  for (std::uint64_t n = 0; n < kills && !over_.load(); ++n) {
    // Every other one in the last third, where replies and wake-ups go out.
    const std::uint64_t length = lengths[n % 2];
    const std::uint64_t from = n % 4 < 2 ? 0 : length * 2 / 3;
    one_death(n, 1 + from + random() % (length - from));
  }
  over_.store(true);
  busy.join();
  EXPECT_EQ(failure_, "");
  if (!ring_->closed()) {
    EXPECT_EQ(read(0, test_spec::kPostedCount), posted_);
    EXPECT_EQ(read(0, test_spec::kCounter), counted_);
  }
  std::printf("%lu kills within %lu and %lu instructions\n", deaths_.load(), lengths[0], lengths[1]);
  EXPECT_EQ(deaths_.load(), kills);
}

INSTANTIATE_TEST_SUITE_P(Clients, FaultKillWithClient, ::testing::Values(Client::kSleeping, Client::kPolling),
                         [](const ::testing::TestParamInfo<Client>& client) {
                           return client.param == Client::kSleeping ? "one_that_sleeps" : "one_that_polls";
                         });

}  // namespace
}  // namespace bulkhead::devproc
