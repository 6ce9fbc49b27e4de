#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "ipc/control/channel.h"

namespace bulkhead::control {
namespace {

using namespace std::chrono_literals;

struct Ends {
  ControlChannel a;
  ControlChannel b;
};

Ends make_ends() {
  auto pair = ControlChannel::create_pair().value();
  return {std::move(pair.first), std::move(pair.second)};
}

std::vector<std::byte> bytes_of(std::size_t count, std::uint8_t value = 7) {
  return std::vector<std::byte>(count, std::byte{value});
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

// Sends with the raw call, as a peer that keeps no rules would.
void send_raw(BorrowedFd socket, std::size_t byte_count, std::size_t fd_count) {
  const std::vector<char> bytes(byte_count, 'x');
  std::vector<char> control(CMSG_SPACE(fd_count * sizeof(int)));
  iovec part{.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (fd_count != 0) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* item = CMSG_FIRSTHDR(&header);
    item->cmsg_level = SOL_SOCKET;
    item->cmsg_type = SCM_RIGHTS;
    item->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
    const int fd = STDIN_FILENO;
    for (std::size_t i = 0; i < fd_count; ++i) std::memcpy(CMSG_DATA(item) + i * sizeof fd, &fd, sizeof fd);
  }
  ASSERT_EQ(::sendmsg(socket.get(), &header, 0), static_cast<ssize_t>(byte_count)) << std::strerror(errno);
}

TEST(ControlChannel, carries_whole_messages_in_order) {
  Ends ends = make_ends();
  ASSERT_TRUE(ends.a.send(bytes_of(5, 1), deadline_in(1s)));
  ASSERT_TRUE(ends.a.send(bytes_of(kMaxMessageBytes, 2), deadline_in(1s)));
  EXPECT_EQ(ends.b.receive(deadline_in(1s))->bytes, bytes_of(5, 1));
  EXPECT_EQ(ends.b.receive(no_deadline())->bytes, bytes_of(kMaxMessageBytes, 2));
}

TEST(ControlChannel, carries_descriptors_with_close_on_exec) {
  Ends ends = make_ends();
  const auto event = UniqueFd::create_eventfd().value();
  const std::vector<BorrowedFd> fds(kMaxMessageFds, event.borrow());
  ASSERT_TRUE(ends.a.send(bytes_of(1), fds, deadline_in(1s)));
  const auto message = ends.b.receive(deadline_in(1s), kMaxMessageFds);
  ASSERT_TRUE(message);
  ASSERT_EQ(message->fds.size(), kMaxMessageFds);
  for (const UniqueFd& fd : message->fds) EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
  signal_eventfd(message->fds.back().borrow());
  EXPECT_EQ(drain_eventfd(event.borrow()), 1U);
}

TEST(ControlChannel, message_with_too_many_descriptors_is_refused_and_leaks_none) {
  for (const std::size_t allowed : {std::size_t{0}, std::size_t{1}, std::size_t{3}, kMaxMessageFds}) {
    Ends ends = make_ends();
    const std::size_t before = open_descriptors();
    send_raw(ends.a.fd(), 8, allowed + 1);
    const auto message = ends.b.receive(deadline_in(1s), allowed);
    ASSERT_FALSE(message) << allowed;
    EXPECT_EQ(message.error().error_number, kBadMessage);
    EXPECT_NE(message.error().message.find("descriptors"), std::string::npos) << message.error().message;
    EXPECT_EQ(open_descriptors(), before) << allowed;
  }
}

TEST(ControlChannel, oversized_message_is_refused) {
  Ends ends = make_ends();
  send_raw(ends.a.fd(), kMaxMessageBytes + 1, 0);
  const auto message = ends.b.receive(deadline_in(1s));
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().error_number, kBadMessage);
  EXPECT_EQ(message.error().message, "bad control message: 65537 bytes, at most 65536 allowed");
}

TEST(ControlChannel, send_refuses_what_the_peer_would) {
  Ends ends = make_ends();
  EXPECT_FALSE(ends.a.send(bytes_of(0), no_wait()));
  EXPECT_FALSE(ends.a.send(bytes_of(kMaxMessageBytes + 1), no_wait()));
  const std::vector<BorrowedFd> fds(kMaxMessageFds + 1, BorrowedFd(STDIN_FILENO));
  EXPECT_FALSE(ends.a.send(bytes_of(1), fds, no_wait()));
}

TEST(ControlChannel, end_of_file_is_told_apart) {
  Ends ends = make_ends();
  ends.a = ControlChannel();
  const auto message = ends.b.receive(no_deadline());
  ASSERT_FALSE(message);
  EXPECT_EQ(message.error().error_number, kPeerClosed);
  EXPECT_EQ(ends.b.send(bytes_of(1), no_deadline()).error().error_number, kPeerClosed);
}

TEST(ControlChannel, last_words_arrive_though_the_peer_left_something_unread) {
  Ends ends = make_ends();
  ASSERT_TRUE(ends.b.send(bytes_of(1), no_wait()));
  ASSERT_TRUE(ends.a.send(bytes_of(2), no_wait()));
  ends.a = ControlChannel();
  EXPECT_EQ(ends.b.receive(no_wait())->bytes, bytes_of(2));
  EXPECT_EQ(ends.b.receive(no_wait()).error().error_number, kPeerClosed);
  EXPECT_EQ(ends.b.send(bytes_of(1), no_wait()).error().error_number, kPeerClosed);
}

TEST(ControlChannel, empty_packet_counts_as_end_of_file) {
  Ends ends = make_ends();
  send_raw(ends.a.fd(), 0, 0);
  EXPECT_EQ(ends.b.receive(no_deadline()).error().error_number, kPeerClosed);
}

TEST(ControlChannel, receive_keeps_its_deadline) {
  Ends ends = make_ends();
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(ends.b.receive(deadline_in(30ms)).error().error_number, kTimedOut);
  const auto waited = std::chrono::steady_clock::now() - before;
  EXPECT_GE(waited, 30ms);
  EXPECT_LT(waited, 2s);
  EXPECT_EQ(ends.b.receive(no_wait()).error().error_number, kTimedOut);
}

TEST(ControlChannel, send_keeps_its_deadline_when_the_peer_does_not_read) {
  Ends ends = make_ends();
  Status sent = ok();
  for (int i = 0; i < 1000 && sent; ++i) sent = ends.a.send(bytes_of(kMaxMessageBytes), deadline_in(20ms));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().error_number, kTimedOut);
}

TEST(ControlChannel, message_that_arrives_late_ends_the_wait) {
  Ends ends = make_ends();
  std::jthread sender([&] {
    std::this_thread::sleep_for(20ms);
    ASSERT_TRUE(ends.a.send(bytes_of(3), deadline_in(1s)));
  });
  EXPECT_TRUE(ends.b.receive(deadline_in(10s)));
}

TEST(ControlChannel, adopts_seqpacket_sockets_only) {
  EXPECT_FALSE(ControlChannel::adopt(UniqueFd::create_eventfd().value()));
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  EXPECT_FALSE(ControlChannel::adopt(UniqueFd(ends[0])));
  ::close(ends[1]);
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
  const UniqueFd other(ends[1]);
  const auto channel = ControlChannel::adopt(UniqueFd(ends[0]));
  ASSERT_TRUE(channel);
  EXPECT_NE(::fcntl(channel->fd().get(), F_GETFD) & FD_CLOEXEC, 0);
}

}  // namespace
}  // namespace bulkhead::control
