// VsockConnector: eight bytes ask, a connected socket answers; whatever else comes is nothing.
#include "vmm/process/vsock_connector.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <span>

namespace bulkhead::vmm {
namespace {

class VsockConnectorTest : public ::testing::Test {
 protected:
  VsockConnectorTest() {
    char name[] = "/tmp/bulkhead-vsock.XXXXXX";
    directory_ = ::mkdtemp(name);
    link_ = VsockLink::create().value();
    connector_ = VsockConnector::start(std::move(link_.connector), directory_ + "/sock").value();
  }
  ~VsockConnectorTest() override {
    ::unlink((directory_ + "/sock_52").c_str());
    ::rmdir(directory_.c_str());
  }
  void listen() {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = directory_ + "/sock_52";
    std::memcpy(address.sun_path, path.data(), path.size());
    listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(listener_.get(), 8), 0);
  }
  struct Answer {
    std::array<std::uint32_t, 2> words{};
    UniqueFd socket;
  };
  Answer ask(std::span<const std::uint32_t> words) {
    EXPECT_GT(::send(link_.relay_connector.get(), words.data(), words.size_bytes(), 0), 0);
    Answer answer;
    pollfd poll{link_.relay_connector.get(), POLLIN, 0};
    if (::poll(&poll, 1, 20'000) != 1) return answer;
    iovec bytes{answer.words.data(), sizeof answer.words};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    EXPECT_EQ(::recvmsg(link_.relay_connector.get(), &message, MSG_CMSG_CLOEXEC), 8);
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
      answer.socket.reset(fd);
    }
    return answer;
  }

  std::string directory_;
  VsockLink link_;
  std::unique_ptr<VsockConnector> connector_;
  UniqueFd listener_;
};

TEST_F(VsockConnectorTest, connects_to_the_ports_socket) {
  listen();
  const Answer answer = ask(std::array<std::uint32_t, 2>{52, 7});
  EXPECT_EQ(answer.words, (std::array<std::uint32_t, 2>{7, 0}));
  ASSERT_TRUE(answer.socket.valid());
  const UniqueFd peer(::accept(listener_.get(), nullptr, nullptr));
  ASSERT_EQ(::send(answer.socket.get(), "x", 1, 0), 1);
  char byte = 0;
  EXPECT_EQ(::read(peer.get(), &byte, 1), 1);
}

TEST_F(VsockConnectorTest, says_why_not) {
  const Answer answer = ask(std::array<std::uint32_t, 2>{53, 8});
  EXPECT_EQ(answer.words, (std::array<std::uint32_t, 2>{8, ENOENT}));
  EXPECT_FALSE(answer.socket.valid());
}

TEST_F(VsockConnectorTest, what_is_no_question_gets_no_answer) {
  ASSERT_EQ(::send(link_.relay_connector.get(), "abc", 3, 0), 3);
  const std::array<std::uint32_t, 3> long_one{1, 2, 3};
  // Cut to eight bytes, it is a question like any other.
  EXPECT_EQ(ask(long_one).words, (std::array<std::uint32_t, 2>{2, ENOENT}));
  EXPECT_EQ(ask(std::array<std::uint32_t, 2>{54, 9}).words[0], 9U);
}

TEST_F(VsockConnectorTest, an_empty_message_is_not_the_end) {
  ASSERT_EQ(::send(link_.relay_connector.get(), "", 0, 0), 0);
  EXPECT_EQ(ask(std::array<std::uint32_t, 2>{54, 9}).words, (std::array<std::uint32_t, 2>{9, ENOENT}));
}

}  // namespace
}  // namespace bulkhead::vmm
