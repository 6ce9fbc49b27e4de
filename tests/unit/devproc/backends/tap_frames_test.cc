// TapFrames, on a pair of sockets that stands in for a TAP, and on a TAP in a network namespace of its own.
#include "devproc/backends/tap_frames.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "devproc/host/mapped_guest_memory.h"

namespace bulkhead::devproc {
namespace {

using Frame = std::vector<std::byte>;
using Sent = FrameBackend::Sent;

constexpr GuestPhys kHigh = 0x1'0000'0000;

Frame counting(std::size_t length, unsigned first = 0) {
  Frame frame(length);
  for (std::size_t i = 0; i < length; ++i) frame[i] = static_cast<std::byte>(first + i);
  return frame;
}

class TapFramesTest : public ::testing::Test {
 protected:
  TapFramesTest() {
    EXPECT_TRUE(memory_.add(0, 4096, 0, region_));
    EXPECT_TRUE(memory_.add(4096, 4096, 2 * 4096, region_));  // adjoins the first, but lies elsewhere
    EXPECT_TRUE(memory_.add(kHigh, 4096, 4096, region_));
    int pair[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    mine_ = UniqueFd(pair[0]);
    peer_ = UniqueFd(pair[1]);
  }
  Frame from_peer() {
    Frame frame(kMostFrame + 1);
    const ssize_t got = ::read(peer_.get(), frame.data(), frame.size());
    frame.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return frame;
  }
  void to_tap(const Frame& frame) {
    EXPECT_EQ(::write(peer_.get(), frame.data(), frame.size()), static_cast<ssize_t>(frame.size()));
  }

  ipc::WritableRegion region_ = ipc::WritableRegion::create("ram", 4 * 4096, ipc::PeerRights::kReadWrite).value();
  MappedGuestMemory memory_;
  std::atomic<std::uint64_t> taken_{0};
  UniqueFd mine_;
  UniqueFd peer_;
};

TEST_F(TapFramesTest, frame_is_gathered_from_wherever_it_lies) {
  TapFrames tap(BorrowedFd(mine_.get()), memory_, taken_);
  ASSERT_TRUE(memory_.write(4094, counting(8, 100)));
  ASSERT_TRUE(memory_.write(kHigh, counting(3, 200)));
  const Segment segments[] = {{4094, 8}, {kHigh, 3}};
  EXPECT_EQ(tap.send(counting(12), segments), Sent::kSent);
  Frame expected = counting(12);
  for (const Frame& part : {counting(8, 100), counting(3, 200)})
    expected.insert(expected.end(), part.begin(), part.end());
  EXPECT_EQ(from_peer(), expected);
  EXPECT_EQ(tap.dropped(), 0U);
}

TEST_F(TapFramesTest, frame_that_leaves_ram_is_dropped) {
  TapFrames tap(BorrowedFd(mine_.get()), memory_, taken_);
  const std::vector<std::vector<Segment>> bad{{{8190, 4}}, {{0, 10}, {1 << 20, 4}}, {{UINT64_MAX - 3, 4}}};
  for (const auto& segments : bad) EXPECT_EQ(tap.send(counting(12), segments), Sent::kSent);
  for (const std::size_t pieces : {1024, 50'000})
    EXPECT_EQ(tap.send(counting(12), std::vector<Segment>(pieces, {0, 1})), Sent::kSent) << "too many pieces";
  EXPECT_EQ(tap.dropped(), 5U);
  EXPECT_TRUE(from_peer().empty());
  EXPECT_TRUE(tap.link());
}

TEST_F(TapFramesTest, frame_stays_the_next_one_until_it_is_consumed) {
  TapFrames tap(BorrowedFd(mine_.get()), memory_, taken_);
  EXPECT_TRUE(tap.receive().empty());
  to_tap(counting(60, 1));
  to_tap(counting(70, 2));
  for (int i = 0; i < 2; ++i) {
    const auto frame = tap.receive();
    EXPECT_EQ(Frame(frame.begin(), frame.end()), counting(60, 1));
  }
  EXPECT_EQ(tap.taken(), 0U);
  EXPECT_EQ(taken_, 1U) << "a successor finds it taken";
  tap.consume();
  const auto frame = tap.receive();
  EXPECT_EQ(Frame(frame.begin(), frame.end()), counting(70, 2));
  tap.consume();
  EXPECT_EQ(tap.taken(), 2U);
  EXPECT_TRUE(tap.receive().empty());
  EXPECT_EQ(taken_, 2U) << "there was none to take";
  EXPECT_TRUE(tap.link());
}

TEST_F(TapFramesTest, what_a_dead_process_held_counts_as_taken) {
  to_tap(counting(60));
  to_tap(counting(61));
  {
    TapFrames dead(BorrowedFd(mine_.get()), memory_, taken_);
    EXPECT_EQ(dead.receive().size(), 60U);
  }
  TapFrames successor(BorrowedFd(mine_.get()), memory_, taken_);
  EXPECT_EQ(successor.taken(), 1U);
  EXPECT_EQ(successor.receive().size(), 61U);
  EXPECT_EQ(successor.taken(), 1U) << "this one it may yet deliver";
  successor.consume();
  EXPECT_EQ(successor.taken(), 2U);
}

TEST_F(TapFramesTest, full_queue_takes_no_frame_until_there_is_room) {
  TapFrames tap(BorrowedFd(mine_.get()), memory_, taken_);
  const Segment segments[] = {{0, 4000}};
  int sent = 0;
  while (sent < 10'000 && tap.send(counting(12), segments) == Sent::kSent) ++sent;
  ASSERT_LT(sent, 10'000);
  EXPECT_EQ(tap.dropped(), 0U);
  EXPECT_TRUE(tap.link());
  while (!from_peer().empty()) continue;
  EXPECT_EQ(tap.send(counting(12), segments), Sent::kSent);
}

TEST_F(TapFramesTest, is_ready_while_frames_are_wanted_and_may_be_there) {
  TapFrames tap(BorrowedFd(mine_.get()), memory_, taken_);
  EXPECT_FALSE(tap.ready()) << "nobody wants any";
  tap.set_wanted(true);
  EXPECT_TRUE(tap.ready()) << "its predecessor may have left some";
  EXPECT_TRUE(tap.receive().empty());
  EXPECT_FALSE(tap.ready());
  tap.on_events(EPOLLOUT);
  EXPECT_FALSE(tap.ready());
  to_tap(counting(60));
  tap.on_events(EPOLLIN | EPOLLOUT);
  EXPECT_TRUE(tap.ready());
  tap.set_wanted(false);
  EXPECT_FALSE(tap.ready());
  tap.set_wanted(true);
  EXPECT_EQ(tap.receive().size(), 60U);
  EXPECT_TRUE(tap.ready()) << "the one that it holds";
  tap.consume();
  EXPECT_TRUE(tap.ready()) << "more may have come: one edge may be that of many frames";
  EXPECT_TRUE(tap.receive().empty());
  EXPECT_FALSE(tap.ready());
}

TEST_F(TapFramesTest, other_end_that_is_gone_is_a_pulled_cable) {
  TapFrames tap(BorrowedFd(mine_.get()), memory_, taken_);
  tap.set_wanted(true);
  EXPECT_TRUE(tap.link());
  peer_.reset();
  EXPECT_TRUE(tap.receive().empty());
  EXPECT_FALSE(tap.link());
  EXPECT_FALSE(tap.ready());
  tap.on_events(EPOLLOUT);
  EXPECT_TRUE(tap.link());
  tap.on_events(EPOLLIN | EPOLLOUT | EPOLLHUP);
  EXPECT_FALSE(tap.link());
  EXPECT_TRUE(tap.receive().empty());
  EXPECT_FALSE(tap.ready()) << "it would be looked at without end";
}

// ---- A TAP ----

struct RealTap {
  UniqueFd tap;
  UniqueFd wire;     // AF_PACKET: the host's side
  UniqueFd control;  // for ioctls on the interface
  static constexpr const char* kName = "bulkhead0";

  void set_up(bool up) const {
    ifreq request{};
    std::strncpy(request.ifr_name, kName, IFNAMSIZ - 1);
    ASSERT_EQ(::ioctl(control.get(), SIOCGIFFLAGS, &request), 0);
    request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    ASSERT_EQ(::ioctl(control.get(), SIOCSIFFLAGS, &request), 0) << std::strerror(errno);
  }
  bool has(std::uint32_t command) const {
    ethtool_value value{.cmd = command, .data = 0};
    ifreq request{};
    std::strncpy(request.ifr_name, kName, IFNAMSIZ - 1);
    request.ifr_data = reinterpret_cast<char*>(&value);
    EXPECT_EQ(::ioctl(control.get(), SIOCETHTOOL, &request), 0) << std::strerror(errno);
    return value.data != 0;
  }
};

// In the child: everything that needs the namespace. Its descriptors go to the test; they keep the namespace alive.
bool make_tap(int (&fds)[3]) {
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return false;
  const int tap = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ifreq request{};
  std::strncpy(request.ifr_name, RealTap::kName, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
  const int header = kFrameHeader;
  if (tap < 0 || ::ioctl(tap, TUNSETIFF, &request) != 0 || ::ioctl(tap, TUNSETVNETHDRSZ, &header) != 0) return false;
  const int wire = ::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_802_EX1));
  const int control = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_802_EX1);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(RealTap::kName));
  if (::bind(wire, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return false;
  fds[0] = tap;
  fds[1] = wire;
  fds[2] = control;
  return control >= 0;
}

std::optional<RealTap> real_tap() {
  int pair[2] = {-1, -1};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd parent(pair[0]);
  UniqueFd child(pair[1]);
  int fds[3] = {-1, -1, -1};
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(fds))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof(space);
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (!make_tap(fds)) ::_exit(1);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(fds));
    std::memcpy(CMSG_DATA(header), fds, sizeof(fds));
    ::_exit(::sendmsg(child.get(), &message, 0) == 1 ? 0 : 1);
  }
  child.reset();
  const bool got = ::recvmsg(parent.get(), &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message) != nullptr;
  if (got) std::memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fds));
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (!got) return std::nullopt;
  return RealTap{UniqueFd(fds[0]), UniqueFd(fds[1]), UniqueFd(fds[2])};
}

class TapFramesKernelTest : public TapFramesTest {
 protected:
  void SetUp() override {
    real_ = real_tap();
    if (!real_) GTEST_SKIP() << "no network namespace or no TAP here";
  }
  // To everybody, of a type that nobody else speaks.
  static Frame ethernet(std::size_t length) {
    Frame frame = counting(length);
    for (std::size_t i = 0; i < 6; ++i) frame[i] = std::byte{0xff};
    frame[6] = std::byte{2};
    frame[12] = std::byte{0x88};
    frame[13] = std::byte{0xb5};
    return frame;
  }
  static bool wait_for(int fd, short events) {
    pollfd one{.fd = fd, .events = events, .revents = 0};
    return ::poll(&one, 1, 2000) == 1 && (one.revents & events) != 0;
  }
  Sent send(TapFrames& tap, const Frame& frame) {
    EXPECT_TRUE(memory_.write(0, frame));
    const Segment segments[] = {{0, static_cast<std::uint32_t>(frame.size())}};
    return tap.send(Frame(kFrameHeader), segments);
  }
  std::optional<RealTap> real_;
};

TEST_F(TapFramesKernelTest, frames_go_both_ways) {
  real_->set_up(true);
  TapFrames tap(BorrowedFd(real_->tap.get()), memory_, taken_);
  EXPECT_TRUE(tap.link());
  Frame got(3000);
  EXPECT_LT(::read(real_->wire.get(), got.data(), got.size()), 0) << "that the interface was down when it was bound";
  EXPECT_EQ(send(tap, ethernet(200)), Sent::kSent);
  ASSERT_TRUE(wait_for(real_->wire.get(), POLLIN));
  got.resize(static_cast<std::size_t>(std::max<ssize_t>(0, ::read(real_->wire.get(), got.data(), got.size()))));
  EXPECT_EQ(got, ethernet(200));

  ASSERT_EQ(::write(real_->wire.get(), ethernet(300).data(), 300), 300);
  Frame expected(kFrameHeader);
  const Frame sent = ethernet(300);
  expected.insert(expected.end(), sent.begin(), sent.end());
  bool arrived = false;
  while (!arrived && wait_for(real_->tap.get(), POLLIN)) {
    // The host's own frames (IPv6 begins to talk) are skipped.
    while (!tap.receive().empty()) {
      const auto frame = tap.receive();
      arrived |= Frame(frame.begin(), frame.end()) == expected;
      tap.consume();
    }
  }
  EXPECT_TRUE(arrived);
}

TEST_F(TapFramesKernelTest, interface_that_is_down_is_a_pulled_cable) {
  {
    const TapFrames early(BorrowedFd(real_->tap.get()), memory_, taken_);
    EXPECT_FALSE(early.link()) << "it never was up";
  }
  real_->set_up(true);
  TapFrames tap(BorrowedFd(real_->tap.get()), memory_, taken_);
  EXPECT_TRUE(tap.link());
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{.events = EPOLLOUT | static_cast<std::uint32_t>(EPOLLET), .data = {}};
  ASSERT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, real_->tap.get(), &event), 0);
  while (::epoll_wait(epoll.get(), &event, 1, 0) == 1) continue;
  real_->set_up(false);
  EXPECT_EQ(send(tap, ethernet(200)), Sent::kSent);
  EXPECT_FALSE(tap.link());
  EXPECT_EQ(tap.dropped(), 1U);
  EXPECT_FALSE(tap.receive().empty() && tap.link());
  // As the event loop watches it, from before the interface came up; it must not take the host's first frames to tell.
  real_->set_up(true);
  std::uint32_t seen = 0;
  while ((seen & EPOLLOUT) == 0 && ::epoll_wait(epoll.get(), &event, 1, 2000) == 1) tap.on_events(seen = event.events);
  EXPECT_TRUE(tap.link());
  EXPECT_EQ(send(tap, ethernet(200)), Sent::kSent);
  EXPECT_EQ(tap.dropped(), 1U);
}

TEST_F(TapFramesKernelTest, frame_that_the_kernel_refuses_is_dropped_and_the_link_stays) {
  real_->set_up(true);
  TapFrames tap(BorrowedFd(real_->tap.get()), memory_, taken_);
  EXPECT_EQ(send(tap, Frame(13)), Sent::kSent) << "no Ethernet header";
  EXPECT_EQ(tap.dropped(), 1U);
  EXPECT_TRUE(tap.link());
}

TEST_F(TapFramesKernelTest, offloads_are_the_interfaces) {
  TapFrames tap(BorrowedFd(real_->tap.get()), memory_, taken_);
  tap.set_offloads({.checksum = true, .tso4 = true, .tso6 = true, .ecn = true});
  EXPECT_TRUE(real_->has(ETHTOOL_GTXCSUM));
  EXPECT_TRUE(real_->has(ETHTOOL_GTSO));
  for (const bool six : {false, true}) {
    tap.set_offloads({.checksum = true, .tso4 = !six, .tso6 = six});
    EXPECT_TRUE(real_->has(ETHTOOL_GTSO)) << six;
  }
  tap.set_offloads({.checksum = true});
  EXPECT_TRUE(real_->has(ETHTOOL_GTXCSUM));
  EXPECT_FALSE(real_->has(ETHTOOL_GTSO));
  tap.set_offloads({});
  EXPECT_FALSE(real_->has(ETHTOOL_GTXCSUM));
  // A successor tells the kernel, whatever its predecessor told it.
  tap.set_offloads({.checksum = true});
  TapFrames successor(BorrowedFd(real_->tap.get()), memory_, taken_);
  successor.set_offloads({});
  EXPECT_FALSE(real_->has(ETHTOOL_GTXCSUM));
}

}  // namespace
}  // namespace bulkhead::devproc
