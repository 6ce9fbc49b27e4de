#include "tests/bench/host_net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <sstream>

namespace bulkhead::bench {
namespace {

using Frame = std::array<std::uint8_t, kFullFrame>;

// `type` 0: hears nothing.
Result<UniqueFd> packet_socket(const std::string& interface, std::uint16_t type) {
  UniqueFd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return make_errno_error("cannot open a packet socket");
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(type);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return make_errno_error("cannot bind a packet socket to " + interface);
  return socket;
}

Status make_interface(const std::string& name) {
  const UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  if (!tap.valid()) return make_errno_error("cannot open /dev/net/tun");
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), std::min<std::size_t>(name.size(), IFNAMSIZ - 1));
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (::ioctl(tap.get(), TUNSETIFF, &request) != 0 || ::ioctl(tap.get(), TUNSETPERSIST, 1) != 0)
    return make_errno_error("cannot make a TAP");
  // What the host's IPv6 would send of itself is not part of what is measured. A host without it has no such file.
  std::ofstream("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6") << 1;
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  request.ifr_flags = IFF_UP;
  if (!socket.valid() || ::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0)
    return make_errno_error("cannot take a TAP up");
  request.ifr_qlen = kTapQueue;
  if (::ioctl(socket.get(), SIOCSIFTXQLEN, &request) != 0) return make_errno_error("cannot make a TAP's queue longer");
  return ok();
}

}  // namespace

Result<NetNamespace> NetNamespace::enter() {
  UniqueFd before(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!before.valid()) return make_errno_error("cannot open this thread's network namespace");
  if (::unshare(CLONE_NEWNET) != 0) return make_errno_error("cannot make a network namespace (is this root?)");
  return NetNamespace(std::move(before));
}

NetNamespace::~NetNamespace() {
  if (before_.valid()) (void)::setns(before_.get(), CLONE_NEWNET);
}

Result<HostTap> HostTap::make(const std::string& name) {
  RETURN_IF_ERROR(make_interface(name));
  HostTap tap;
  tap.name_ = name;
  ASSIGN_OR_RETURN(tap.messages_, packet_socket(name, kMessageType));
  ASSIGN_OR_RETURN(tap.load_, packet_socket(name, 0));
  const int on = 1;
  if (::setsockopt(tap.load_.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) != 0)
    return make_errno_error("cannot make a packet socket take large frames");
  return tap;
}

Result<std::uint64_t> HostTap::came_out() const {
  std::ifstream file("/proc/thread-self/net/dev");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || line.substr(0, colon).find(name_) == std::string::npos) continue;
    std::istringstream numbers(line.substr(colon + 1));
    std::uint64_t bytes = 0;
    std::uint64_t packets = 0;
    if (numbers >> bytes >> packets) return packets;
  }
  return make_error("/proc/net/dev does not tell of " + name_);
}

Status HostTap::tell(const NetMessage& message) {
  Frame frame{};
  put_ethernet(frame.data(), kMessageType);
  std::memcpy(frame.data() + kEthernetBytes, &message, sizeof message);
  if (::send(messages_.get(), frame.data(), kSmallFrame, 0) != kSmallFrame)
    return make_errno_error("cannot send a frame into a TAP");
  return ok();
}

std::optional<NetMessage> HostTap::hear(std::chrono::milliseconds patience) {
  Frame frame;
  ssize_t got = ::recv(messages_.get(), frame.data(), frame.size(), MSG_DONTWAIT);
  if (got < 0 && patience.count() != 0) {
    pollfd poll{messages_.get(), POLLIN, 0};
    if (::poll(&poll, 1, static_cast<int>(patience.count())) == 1)
      got = ::recv(messages_.get(), frame.data(), frame.size(), MSG_DONTWAIT);
  }
  NetMessage message;
  if (got < static_cast<ssize_t>(kEthernetBytes + sizeof message)) return std::nullopt;
  std::memcpy(&message, frame.data() + kEthernetBytes, sizeof message);
  return message;
}

Status HostTap::inject() {
  static const auto frame = [] {
    std::array<std::uint8_t, sizeof(NetHeader) + kBigFrame> bytes{};
    std::memcpy(bytes.data(), &kBigHeader, sizeof kBigHeader);
    put_big(bytes.data() + sizeof kBigHeader);
    return bytes;
  }();
  if (::send(load_.get(), frame.data(), frame.size(), 0) != static_cast<ssize_t>(frame.size()))
    return make_errno_error("cannot send a large frame into a TAP");
  return ok();
}

}  // namespace bulkhead::bench
