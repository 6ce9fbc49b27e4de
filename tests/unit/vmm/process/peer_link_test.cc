// PeerLink and FrameCable: two VMs that meet, part and meet again; and strangers who do not keep to the rules.
#include "vmm/process/peer_link.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>

#include "ipc/ring/frame_ring.h"

namespace bulkhead::vmm {
namespace {

using ipc::kFrameRingAreaSize;

// What a VM is told, in order.
class Card {
 public:
  PeerLink::Handler handler() {
    return [this](std::shared_ptr<FrameCable> cable) {
      const std::lock_guard lock(lock_);
      cables_.push_back(std::move(cable));
      changed_.notify_all();
    };
  }
  // The nth cable that it was given.
  std::shared_ptr<FrameCable> cable(std::size_t nth) {
    std::unique_lock lock(lock_);
    if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return cables_.size() > nth; })) return nullptr;
    return cables_[nth];
  }
  std::size_t count() {
    const std::lock_guard lock(lock_);
    return cables_.size();
  }

 private:
  std::mutex lock_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<FrameCable>> cables_;
};

std::string fresh_path() {
  static int n = 0;
  return "/tmp/bulkhead-peer-" + std::to_string(::getpid()) + "-" + std::to_string(n++);
}

UniqueFd open_socket(const std::string& path, bool listening) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  const auto* where = reinterpret_cast<const sockaddr*>(&address);
  const int result = listening ? ::bind(socket.get(), where, sizeof address) | ::listen(socket.get(), 4)
                               : ::connect(socket.get(), where, sizeof address);
  EXPECT_EQ(result, 0) << std::strerror(errno);
  return socket;
}

bool link_up(const FrameCable& cable) {
  auto area = ipc::ReadOnlyRegion::import(UniqueFd::duplicate(cable.end().peer).value(), kFrameRingAreaSize);
  return area && area->as<ipc::FrameRingArea>()->link.load() == 1;
}

class PeerLinkTest : public ::testing::Test {
 protected:
  ~PeerLinkTest() override { ::unlink(path_.c_str()); }
  std::unique_ptr<PeerLink> start(Card& card, bool listening) {
    return PeerLink::start(open_socket(path_, listening), path_, "test", card.handler()).value();
  }
  // A stranger's greeting.
  void greet(std::span<const std::byte> bytes, std::span<const BorrowedFd> fds) {
    auto channel = control::ControlChannel::adopt(open_socket(path_, false)).value();
    ASSERT_TRUE(channel.send(bytes, fds, control::deadline_in(std::chrono::seconds(5))));
    // Refused: the connection's end is all that follows.
    Result<control::Message> answer = channel.receive(control::deadline_in(std::chrono::seconds(10)), 2);
    while (answer) answer = channel.receive(control::deadline_in(std::chrono::seconds(10)), 2);
    EXPECT_EQ(answer.error().error_number, control::kPeerClosed);
  }
  std::string path_ = fresh_path();
};

TEST_F(PeerLinkTest, two_vms_see_each_others_areas_and_bells) {
  Card a;
  Card b;
  const auto first = start(a, true);
  const auto second = start(b, false);
  const auto left = a.cable(0);
  const auto right = b.cable(0);
  ASSERT_TRUE(left && right);
  EXPECT_TRUE(link_up(*left));
  EXPECT_TRUE(link_up(*right));
  auto mine = ipc::WritableRegion::import(UniqueFd::duplicate(left->end().own).value(), kFrameRingAreaSize).value();
  auto theirs = ipc::ReadOnlyRegion::import(UniqueFd::duplicate(right->end().peer).value(), kFrameRingAreaSize).value();
  mine.as<ipc::FrameRingArea>()->produced.store(4242);
  EXPECT_EQ(theirs.as<ipc::FrameRingArea>()->produced.load(), 4242U);
  drain_eventfd(right->end().bell);  // it has rung once for the link
  signal_eventfd(left->end().peer_bell);
  EXPECT_EQ(drain_eventfd(right->end().bell), 1U);
  EXPECT_FALSE(ipc::WritableRegion::import(UniqueFd::duplicate(right->end().peer).value(), kFrameRingAreaSize))
      << "for reading only";
}

TEST_F(PeerLinkTest, link_goes_down_with_the_other_vm_and_comes_up_with_the_next) {
  Card a;
  const auto first = start(a, true);
  for (std::size_t round = 0; round < 3; ++round) {
    Card b;
    {
      const auto second = start(b, false);
      ASSERT_TRUE(a.cable(2 * round));
      EXPECT_TRUE(link_up(*a.cable(2 * round)));
      ASSERT_TRUE(b.cable(0));
    }
    ASSERT_TRUE(a.cable(2 * round + 1));
    EXPECT_FALSE(link_up(*a.cable(2 * round + 1)));
  }
}

TEST_F(PeerLinkTest, whoever_comes_and_goes_in_a_loop_is_slowed_down) {
  Card a;
  const auto first = start(a, true);
  Card b;
  std::unique_ptr<PeerLink> second = start(b, false);
  ASSERT_TRUE(a.cable(0) && b.cable(0));
  const auto parted = std::chrono::steady_clock::now();
  second.reset();
  second = start(b, false);
  ASSERT_TRUE(a.cable(2));
  EXPECT_GE(std::chrono::steady_clock::now() - parted, PeerLink::kPause);
}

TEST_F(PeerLinkTest, who_had_connected_meets_the_next_one_that_listens) {
  Card b;
  std::unique_ptr<PeerLink> second;
  {
    Card a;
    const auto first = start(a, true);
    second = start(b, false);
    ASSERT_TRUE(b.cable(0));
    ASSERT_TRUE(a.cable(0));
  }
  ASSERT_TRUE(b.cable(1));
  EXPECT_FALSE(link_up(*b.cable(1)));
  EXPECT_NE(::access(path_.c_str(), F_OK), 0) << "the listener took its socket away";
  Card c;
  const auto third = start(c, true);
  ASSERT_TRUE(b.cable(2));
  EXPECT_TRUE(link_up(*b.cable(2)));
  ASSERT_TRUE(c.cable(0));
}

TEST_F(PeerLinkTest, third_one_is_turned_away) {
  Card a;
  Card b;
  const auto first = start(a, true);
  const auto second = start(b, false);
  ASSERT_TRUE(a.cable(0) && b.cable(0));
  const auto stranger = control::ControlChannel::adopt(open_socket(path_, false));
  ASSERT_TRUE(stranger);
  auto& channel = const_cast<control::ControlChannel&>(*stranger);
  const auto answer = channel.receive(control::deadline_in(std::chrono::seconds(10)), 2);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().error_number, control::kPeerClosed);
  EXPECT_EQ(a.count(), 1U);
}

TEST_F(PeerLinkTest, greetings_that_are_none_are_refused_and_the_next_good_one_is_heard) {
  Card a;
  const auto first = start(a, true);
  const auto good = FrameCable::create().value();
  const UniqueFd small(::memfd_create("small", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(small.get(), kFrameRingAreaSize - 1), 0);
  const UniqueFd unsealed(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), kFrameRingAreaSize), 0);
  const UniqueFd file = UniqueFd::open("/dev/null", O_RDWR).value();
  const auto hello = std::as_bytes(std::span(kPeerHello));
  const BorrowedFd area = good->readable_area();
  const BorrowedFd bell = good->bell();
  using Fds = std::vector<BorrowedFd>;
  greet(hello, Fds{});
  greet(hello, Fds{area});
  greet(hello, Fds{bell, area});
  greet(hello, Fds{small.borrow(), bell});
  greet(hello, Fds{unsealed.borrow(), bell});
  greet(hello, Fds{file.borrow(), bell});
  greet(hello, Fds{area, file.borrow()});
  greet(hello.first(8), Fds{area, bell});
  const std::array<std::uint64_t, 2> other{kPeerHello[0], kPeerHello[1] + 1};
  greet(std::as_bytes(std::span(other)), Fds{area, bell});
  EXPECT_EQ(a.count(), 0U);
  Card b;
  const auto second = start(b, false);
  ASSERT_TRUE(a.cable(0) && b.cable(0));
}

TEST_F(PeerLinkTest, word_after_the_greeting_ends_the_cable) {
  Card a;
  const auto first = start(a, true);
  const auto good = FrameCable::create().value();
  auto channel = control::ControlChannel::adopt(open_socket(path_, false)).value();
  const std::array<BorrowedFd, 2> fds{good->readable_area(), good->bell()};
  ASSERT_TRUE(channel.send(std::as_bytes(std::span(kPeerHello)), fds, control::deadline_in(std::chrono::seconds(5))));
  ASSERT_TRUE(a.cable(0));
  ASSERT_TRUE(channel.send(std::as_bytes(std::span(kPeerHello)), control::deadline_in(std::chrono::seconds(5))));
  ASSERT_TRUE(a.cable(1));
  EXPECT_FALSE(link_up(*a.cable(1)));
}

TEST(FrameCable, each_has_a_number_of_its_own) {
  const auto number = [](const FrameCable& cable) {
    auto area = ipc::ReadOnlyRegion::import(UniqueFd::duplicate(cable.readable_area()).value(), kFrameRingAreaSize);
    return area.value().as<ipc::FrameRingArea>()->epoch;
  };
  const auto one = FrameCable::create().value();
  EXPECT_NE(number(*one), number(*FrameCable::create().value()));
  EXPECT_FALSE(link_up(*one));
}

}  // namespace
}  // namespace bulkhead::vmm
