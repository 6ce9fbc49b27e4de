// UnixSockets: real sockets: programs that connect, talk and leave, and connections that somebody else made.
#include "devproc/backends/unix_sockets.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>

namespace bulkhead::devproc {
namespace {

using Result_ = StreamSockets::Moved::Result;

class UnixSocketsTest : public ::testing::Test {
 protected:
  UnixSocketsTest() {
    // An address without a file.
    const std::string name = "bulkhead-test-" + std::to_string(::getpid()) + "-" +
                             ::testing::UnitTest::GetInstance()->current_test_info()->name();
    address_.sun_family = AF_UNIX;
    std::memcpy(address_.sun_path + 1, name.data(), std::min(name.size(), sizeof address_.sun_path - 2));
    length_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address_), length_), 0);
    EXPECT_EQ(::listen(listener_.get(), 64), 0);
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    vmm_.reset(ends[0]);
    relay_.reset(ends[1]);
    sockets_ = UnixSockets::create(listener_.borrow(), relay_.borrow()).value();
  }
  UniqueFd connect() {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address_), length_), 0);
    return fd;
  }
  // The next event of a kind, within the time that any host needs.
  std::optional<SocketEvent> await(SocketEvent::Kind kind) {
    for (;;) {
      while (const auto event = sockets_->next_event()) {
        if (event->kind == kind) return event;
      }
      pollfd poll{sockets_->watched().get(), POLLIN, 0};
      if (::poll(&poll, 1, 20'000) != 1) return std::nullopt;
    }
  }
  void answer(std::uint32_t tag, std::uint32_t error, int fd) {
    std::uint32_t words[] = {tag, error};
    iovec bytes{words, sizeof words};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    if (fd >= 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    ASSERT_EQ(::sendmsg(vmm_.get(), &message, 0), static_cast<ssize_t>(sizeof words));
  }

  sockaddr_un address_{};
  socklen_t length_ = 0;
  UniqueFd listener_;
  UniqueFd vmm_;
  UniqueFd relay_;
  std::unique_ptr<UnixSockets> sockets_;
};

TEST_F(UnixSocketsTest, a_program_connects_talks_and_leaves) {
  UniqueFd program = connect();
  const auto accepted = await(SocketEvent::Kind::kAccepted);
  ASSERT_TRUE(accepted);
  std::array<std::byte, 64> buffer{};
  EXPECT_EQ(sockets_->read(accepted->socket, buffer).result, Result_::kWait);
  ASSERT_EQ(::write(program.get(), "hello", 5), 5);
  const auto ready = await(SocketEvent::Kind::kReady);
  ASSERT_TRUE(ready);
  EXPECT_EQ(ready->socket, accepted->socket);
  const auto moved = sockets_->read(accepted->socket, buffer);
  EXPECT_EQ(moved.result, Result_::kDone);
  EXPECT_EQ(moved.bytes, 5U);
  EXPECT_EQ(sockets_->write(accepted->socket, std::span(buffer).first(3)).bytes, 3U);
  char heard[8] = {};
  EXPECT_EQ(::read(program.get(), heard, sizeof heard), 3);
  program.reset();
  for (;;) {
    const auto gone = await(SocketEvent::Kind::kReady);
    ASSERT_TRUE(gone);
    if (gone->gone) break;
  }
  EXPECT_EQ(sockets_->read(accepted->socket, buffer).result, Result_::kEnd);
  EXPECT_EQ(sockets_->write(accepted->socket, buffer).result, Result_::kError) << "and no SIGPIPE";
  sockets_->close(accepted->socket);
  EXPECT_EQ(sockets_->read(accepted->socket, buffer).result, Result_::kError);
}

TEST_F(UnixSocketsTest, news_of_an_earlier_user_of_a_number_are_nobodys) {
  UniqueFd first = connect();
  const auto one = await(SocketEvent::Kind::kAccepted);
  ASSERT_TRUE(one);
  ASSERT_EQ(::write(first.get(), "x", 1), 1);
  sockets_->close(one->socket);
  UniqueFd second = connect();
  const auto two = await(SocketEvent::Kind::kAccepted);
  ASSERT_TRUE(two);
  EXPECT_EQ(two->socket, one->socket);
  while (const auto event = sockets_->next_event()) EXPECT_FALSE(event->gone);
}

TEST_F(UnixSocketsTest, who_waited_for_a_free_number_is_taken_when_there_is_one) {
  constexpr rlim_t kNeeded = 2 * kMostSockets + 64;
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_max < kNeeded) GTEST_SKIP() << "this host lets a process open too few files";
  files.rlim_cur = std::max(files.rlim_cur, kNeeded);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  std::vector<UniqueFd> programs;
  std::optional<SocketEvent> last;
  for (std::uint32_t i = 0; i < kMostSockets; ++i) {
    programs.push_back(connect());
    last = await(SocketEvent::Kind::kAccepted);
    ASSERT_TRUE(last) << i;
  }
  programs.push_back(connect());
  while (const auto event = sockets_->next_event()) EXPECT_NE(event->kind, SocketEvent::Kind::kAccepted);
  EXPECT_FALSE(sockets_->ready());
  sockets_->close(last->socket);
  EXPECT_TRUE(sockets_->ready()) << "nothing else would have it look";
  EXPECT_TRUE(await(SocketEvent::Kind::kAccepted));
  EXPECT_FALSE(sockets_->ready());
}

TEST_F(UnixSocketsTest, connections_come_from_whoever_may_make_them) {
  ASSERT_TRUE(sockets_->connect(52, 7));
  std::uint32_t question[2] = {};
  ASSERT_EQ(::recv(vmm_.get(), question, sizeof question, 0), static_cast<ssize_t>(sizeof question));
  EXPECT_EQ(question[0], 52U);
  EXPECT_EQ(question[1], 7U);
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
  UniqueFd mine(ends[0]);
  answer(7, 0, ends[1]);
  ::close(ends[1]);
  const auto connected = await(SocketEvent::Kind::kConnected);
  ASSERT_TRUE(connected);
  EXPECT_EQ(connected->tag, 7U);
  ASSERT_EQ(::write(mine.get(), "abc", 3), 3);
  std::array<std::byte, 8> buffer{};
  EXPECT_EQ(sockets_->read(connected->socket, buffer).bytes, 3U);

  answer(8, ECONNREFUSED, -1);
  const auto refused = await(SocketEvent::Kind::kRefused);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->tag, 8U);
  answer(9, 0, -1);
  ASSERT_TRUE(await(SocketEvent::Kind::kRefused)) << "without a socket it is none";
}

TEST_F(UnixSocketsTest, a_socket_that_nobody_reads_makes_its_writer_wait) {
  UniqueFd program = connect();
  const auto accepted = await(SocketEvent::Kind::kAccepted);
  ASSERT_TRUE(accepted);
  const std::vector<std::byte> block(65536);
  StreamSockets::Moved moved;
  do moved = sockets_->write(accepted->socket, block);
  while (moved.result == Result_::kDone);
  EXPECT_EQ(moved.result, Result_::kWait);
  while (sockets_->next_event()) {
  }
  std::vector<char> buffer(1 << 20);
  ASSERT_GT(::read(program.get(), buffer.data(), buffer.size()), 0);
  while (::recv(program.get(), buffer.data(), buffer.size(), MSG_DONTWAIT) > 0) {
  }
  ASSERT_TRUE(await(SocketEvent::Kind::kReady)) << "there is room again";
  sockets_->shut_write(accepted->socket);
  EXPECT_EQ(::read(program.get(), buffer.data(), buffer.size()), 0);
}

}  // namespace
}  // namespace bulkhead::devproc
