// SlirpNetwork against a guest that is made of frames and a host that is made of sockets on the loopback interface.
#include "devproc/usernet/slirp_network.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace bulkhead::devproc {
namespace {

using Frame = std::vector<std::byte>;

constexpr std::array<std::uint8_t, 6> kGuestMac{0x52, 0x54, 0, 0x12, 0x34, 0x56};
constexpr std::uint32_t kGuest = 0x0a00020f;
constexpr std::uint32_t kHost = 0x0a000202;
constexpr std::int64_t kMs = 1'000'000;

class Collector final : public UserNetwork::Output {
 public:
  void frame(std::span<const std::byte> frame) override { frames.emplace_back(frame.begin(), frame.end()); }
  std::vector<Frame> frames;
};

std::uint64_t get(const Frame& frame, std::size_t at, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size; ++i) value = value << 8 | std::to_integer<std::uint64_t>(frame.at(at + i));
  return value;
}
void put(Frame& frame, std::uint64_t value, std::size_t size) {
  for (std::size_t i = size; i-- > 0;) frame.push_back(static_cast<std::byte>(value >> (8 * i)));
}
std::uint16_t checksum(std::span<const std::byte> bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 2)
    sum += std::to_integer<std::uint32_t>(bytes[i]) << 8 |
           (i + 1 < bytes.size() ? std::to_integer<std::uint32_t>(bytes[i + 1]) : 0);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

Frame ethernet(std::uint64_t to, std::uint16_t type) {
  Frame frame;
  put(frame, to, 6);
  for (const std::uint8_t byte : kGuestMac) frame.push_back(std::byte{byte});
  put(frame, type, 2);
  return frame;
}
Frame arp_request(std::uint32_t for_whom) {
  Frame frame = ethernet(0xffff'ffff'ffff, 0x0806);
  put(frame, 0x0001'0800'0604'0001, 8);
  for (const std::uint8_t byte : kGuestMac) frame.push_back(std::byte{byte});
  put(frame, kGuest, 4);
  put(frame, 0, 6);
  put(frame, for_whom, 4);
  return frame;
}
Frame udp(std::uint32_t from, std::uint32_t to, std::uint16_t source, std::uint16_t port, const Frame& payload) {
  Frame frame = ethernet(to == 0xffff'ffff ? 0xffff'ffff'ffff : 0x5255'0a00'0202, 0x0800);
  Frame header;
  put(header, 0x4500, 2);
  put(header, 28 + payload.size(), 2);
  put(header, 0x0000'4000'4011'0000, 8);
  put(header, from, 4);
  put(header, to, 4);
  const std::uint16_t sum = checksum(header);
  header[10] = static_cast<std::byte>(sum >> 8);
  header[11] = static_cast<std::byte>(sum);
  frame.insert(frame.end(), header.begin(), header.end());
  put(frame, source, 2);
  put(frame, port, 2);
  put(frame, 8 + payload.size(), 2);
  put(frame, 0, 2);  // no checksum
  frame.insert(frame.end(), payload.begin(), payload.end());
  return frame;
}

UniqueFd bound_socket(int type, std::uint16_t& port) {
  UniqueFd socket(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  socklen_t size = sizeof address;
  ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
  port = ntohs(address.sin_port);
  return socket;
}

class SlirpNetworkTest : public ::testing::Test {
 protected:
  void make(const UsernetConfig& config = {}) {
    auto made = SlirpNetwork::create(config, false);
    ASSERT_TRUE(made) << made.error().message;
    network = std::move(*made);
  }
  void send(const Frame& frame) { network->input(frame, now, out); }
  // Runs it until `done`, waiting for its sockets and its timers as the event loop does; false: nothing came for long.
  bool run_until(const std::function<bool()>& done) {
    for (int turns = 0; turns < 2000 && !done(); ++turns) {
      const auto again = network->run(now, out);
      if (done()) return true;
      if (network->ready()) continue;
      pollfd poll{network->watched().get(), POLLIN, 0};
      if (::poll(&poll, 1, 20) > 0) network->on_events(0);
      now.ns += again && again->ns <= now.ns + 20 * kMs ? again->ns - now.ns : 20 * kMs;
    }
    return done();
  }
  const Frame* find(const std::function<bool(const Frame&)>& is_it) {
    for (const Frame& frame : out.frames) {
      if (is_it(frame)) return &frame;
    }
    return nullptr;
  }
  // A frame's UDP payload begins here.
  static constexpr std::size_t kPayload = 42;

  std::unique_ptr<UserNetworkBackend> network;
  Collector out;
  VmTime now{5'000 * kMs};
};

TEST_F(SlirpNetworkTest, gateway_and_name_server_answer_arp) {
  make();
  for (const std::uint32_t who : {kHost, kHost + 1}) {
    out.frames.clear();
    send(arp_request(who));
    ASSERT_TRUE(run_until([&] { return !out.frames.empty(); }));
    EXPECT_EQ(get(out.frames[0], 20, 2), 2U) << "a reply";
    EXPECT_EQ(get(out.frames[0], 28, 4), who);
    EXPECT_GE(out.frames[0].size(), 60U) << "no shorter frame was ever on a wire";
  }
}

TEST_F(SlirpNetworkTest, dhcp_offers_the_first_address_and_names_the_boot_file) {
  make({.hostname = "inner", .bootfile = "boot.file"});
  Frame discover;
  put(discover, 0x0101'0600'1234'5678, 8);  // BOOTREQUEST, Ethernet, xid
  discover.resize(28);
  for (const std::uint8_t byte : kGuestMac) discover.push_back(std::byte{byte});
  discover.resize(236);
  put(discover, 0x6382'5363'3501'01ff, 8);  // the cookie; DHCPDISCOVER; end
  discover.resize(300);
  send(udp(0, 0xffff'ffff, 68, 67, discover));
  const auto is_offer = [](const Frame& frame) { return frame.size() > 300 && get(frame, 36, 2) == 68; };
  ASSERT_TRUE(run_until([&] { return find(is_offer) != nullptr; }));
  const Frame& offer = *find(is_offer);
  EXPECT_EQ(get(offer, kPayload + 16, 4), kGuest) << "yiaddr";
  EXPECT_EQ(get(offer, kPayload + 20, 4), kHost) << "siaddr";
  EXPECT_STREQ(reinterpret_cast<const char*>(offer.data() + kPayload + 108), "boot.file");
}

TEST_F(SlirpNetworkTest, datagrams_go_to_the_hosts_loopback_only_where_it_is_on) {
  for (const bool open : {true, false}) {
    out.frames.clear();
    make({.host_loopback = open});
    std::uint16_t port = 0;
    const UniqueFd host = bound_socket(SOCK_DGRAM | SOCK_NONBLOCK, port);
    send(arp_request(kHost));
    send(udp(kGuest, kHost, 4000, port, Frame(5, std::byte{'x'})));
    std::array<char, 64> got{};
    sockaddr_in from{};
    socklen_t size = sizeof from;
    ssize_t length = -1;
    const auto received = [&] {
      length = ::recvfrom(host.get(), got.data(), got.size(), 0, reinterpret_cast<sockaddr*>(&from), &size);
      return length > 0;
    };
    bool arrived = false;
    for (int i = 0; i < 10 && !arrived; ++i) {
      network->run(now, out);
      arrived = received();
    }
    ASSERT_EQ(arrived, open);
    if (!open) continue;
    EXPECT_EQ(std::string_view(got.data(), 5), "xxxxx");
    ASSERT_EQ(::sendto(host.get(), "answer", 6, 0, reinterpret_cast<sockaddr*>(&from), size), 6);
    const auto is_answer = [](const Frame& frame) { return get(frame, 12, 2) == 0x0800 && get(frame, 36, 2) == 4000; };
    ASSERT_TRUE(run_until([&] { return find(is_answer) != nullptr; }));
    EXPECT_EQ(std::memcmp(find(is_answer)->data() + kPayload, "answer", 6), 0);
  }
}

TEST_F(SlirpNetworkTest, forwarded_port_leads_to_the_guest) {
  std::uint16_t port = 0;
  { const UniqueFd probe = bound_socket(SOCK_DGRAM, port); }
  make({.forwards = {{true, INADDR_LOOPBACK, port, kGuest, 53}}});
  send(arp_request(kHost));
  std::uint16_t mine = 0;
  const UniqueFd client = bound_socket(SOCK_DGRAM, mine);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(port);
  ASSERT_EQ(::sendto(client.get(), "hello", 5, 0, reinterpret_cast<sockaddr*>(&to), sizeof to), 5);
  const auto is_it = [](const Frame& frame) { return get(frame, 12, 2) == 0x0800 && get(frame, 36, 2) == 53; };
  ASSERT_TRUE(run_until([&] { return find(is_it) != nullptr; }));
  EXPECT_EQ(std::memcmp(find(is_it)->data() + kPayload, "hello", 5), 0);
}

TEST_F(SlirpNetworkTest, port_in_use_is_an_error_at_first_and_waited_for_by_a_successor) {
  std::uint16_t port = 0;
  UniqueFd other = bound_socket(SOCK_STREAM, port);
  ASSERT_EQ(::listen(other.get(), 1), 0);
  const UsernetConfig config{.forwards = {{false, INADDR_LOOPBACK, port, kGuest, 22}}};
  const auto refused = SlirpNetwork::create(config, false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "hostfwd=tcp:127.0.0.1:" + std::to_string(port) + ": Address already in use");

  network = std::move(SlirpNetwork::create(config, true).value());
  ASSERT_TRUE(network->run(now, out).has_value()) << "it wants to try again";
  other.reset();
  now.ns += 1'000 * kMs;
  network->run(now, out);
  const UniqueFd client(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(port);
  EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
}

TEST_F(SlirpNetworkTest, idle_network_asks_for_nothing) {
  make();
  send(arp_request(kHost));
  network->run(now, out);
  now.ns += 2'000 * kMs;
  network->run(now, out);
  EXPECT_FALSE(network->run(now, out).has_value());
  EXPECT_FALSE(network->ready());
}

TEST_F(SlirpNetworkTest, idle_listeners_do_not_keep_a_guest_awake) {
  std::uint16_t port = 0;
  { const UniqueFd probe = bound_socket(SOCK_STREAM, port); }
  make({.forwards = {{false, INADDR_LOOPBACK, port, kGuest, 22}}});
  network->run(now, out);
  now.ns += 300'000 * kMs;
  EXPECT_FALSE(network->run(now, out).has_value());
}

TEST_F(SlirpNetworkTest, frames_of_any_length_and_content_are_taken) {
  make();
  for (std::size_t size = 0; size < 200; ++size) {
    for (const std::uint8_t fill : {0x00, 0x45, 0xff}) {
      Frame frame(size, std::byte{fill});
      if (size > 14) {
        frame[12] = std::byte{0x08};
        frame[13] = std::byte{static_cast<std::uint8_t>(size % 7 == 0 ? 6 : 0)};
      }
      send(frame);
    }
  }
  network->run(now, out);
}

}  // namespace
}  // namespace bulkhead::devproc
