#include "vmm/process/vsock_connector.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "ipc/ring/packet_link.h"
#include "ipc/shm/region.h"

namespace bulkhead::vmm {

Result<VsockLink> VsockLink::create() {
  VsockLink link;
  // The mapping made here goes again at once: the VMM does not look into it.
  ASSIGN_OR_RETURN(const ipc::WritableRegion area,
                   ipc::WritableRegion::create("bulkhead-vsock", ipc::kPacketLinkSize, ipc::PeerRights::kReadWrite));
  ASSIGN_OR_RETURN(link.device_area, UniqueFd::duplicate(area.fd()));
  ASSIGN_OR_RETURN(link.relay_area, UniqueFd::duplicate(area.fd()));
  ASSIGN_OR_RETURN(link.device_wake, UniqueFd::create_eventfd());
  ASSIGN_OR_RETURN(link.relay_wake, UniqueFd::create_eventfd());
  ASSIGN_OR_RETURN(link.device_peer, UniqueFd::duplicate(link.relay_wake.borrow()));
  ASSIGN_OR_RETURN(link.relay_peer, UniqueFd::duplicate(link.device_wake.borrow()));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
    return make_errno_error("cannot create a socket pair");
  link.connector.reset(ends[0]);
  link.relay_connector.reset(ends[1]);
  return link;
}

Result<std::unique_ptr<VsockConnector>> VsockConnector::start(UniqueFd channel, std::string path) {
  std::unique_ptr<VsockConnector> connector(new VsockConnector(std::move(channel), std::move(path)));
  ASSIGN_OR_RETURN(connector->wake_, UniqueFd::create_eventfd());
  connector->thread_ = std::thread([raw = connector.get()] { raw->thread_main(); });
  return connector;
}

VsockConnector::~VsockConnector() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_release);
  signal_eventfd(wake_.borrow());
  thread_.join();
}

void VsockConnector::thread_main() {
  while (!stop_.load(std::memory_order_acquire)) {
    std::array<pollfd, 2> polls{pollfd{wake_.get(), POLLIN, 0}, pollfd{channel_.get(), POLLIN, 0}};
    ::poll(polls.data(), polls.size(), -1);
    if (polls[1].revents == 0) continue;
    std::array<std::uint32_t, 2> question{};
    // Nothing may also be an empty message. The other end is held here as well, for the relay's successors: it is never
    // closed before the VM ends.
    const ssize_t size = ::recv(channel_.get(), question.data(), sizeof question, MSG_DONTWAIT);
    if (size == sizeof question) answer(question[0], question[1]);
    if (size <= 0 && (polls[1].revents & (POLLHUP | POLLERR)) != 0) return;
  }
}

Result<UniqueFd> VsockConnector::connect_to(std::uint32_t port) const {
  const std::string path = fmt::format("{}_{}", path_, port);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return make_errno_error("too long", ENAMETOOLONG);
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return make_errno_error("no socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return make_errno_error("no connection");
  return socket;
}

void VsockConnector::answer(std::uint32_t port, std::uint32_t tag) {
  const Result<UniqueFd> socket = connect_to(port);
  std::array<std::uint32_t, 2> words{tag, socket ? 0 : static_cast<std::uint32_t>(socket.error().error_number)};
  iovec bytes{.iov_base = words.data(), .iov_len = sizeof words};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  if (socket) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = socket->get();
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  (void)::sendmsg(channel_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace bulkhead::vmm
