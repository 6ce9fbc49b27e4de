#include "vmm/process/peer_link.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "ipc/base/log.h"

namespace bulkhead::vmm {
namespace {

constexpr std::chrono::seconds kGreetingDeadline{2};
constexpr int kRetryMs = 1000;

Status check_credentials(BorrowedFd socket) {
  ucred who{};
  socklen_t size = sizeof who;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0)
    return make_errno_error("cannot tell whose process is at the other end");
  if (who.uid != ::geteuid() && who.uid != 0)
    return make_error(fmt::format("the process at the other end belongs to user {}", who.uid));
  return ok();
}

bool listens(BorrowedFd socket) {
  int value = 0;
  socklen_t size = sizeof value;
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0 && value != 0;
}

}  // namespace

Result<std::unique_ptr<PeerLink>> PeerLink::start(UniqueFd socket, std::string path, std::string name,
                                                  Handler handler) {
  std::unique_ptr<PeerLink> link(new PeerLink(std::move(path), std::move(name), std::move(handler)));
  ASSIGN_OR_RETURN(link->stop_, UniqueFd::create_eventfd());
  (listens(socket.borrow()) ? link->listener_ : link->first_) = std::move(socket);
  link->thread_ = std::thread([raw = link.get()] { raw->thread_main(); });
  return link;
}

PeerLink::~PeerLink() {
  signal_eventfd(stop_.borrow());
  if (thread_.joinable()) thread_.join();
  if (listener_.valid()) ::unlink(path_.c_str());
}

void PeerLink::thread_main() {
  if (first_.valid()) greet(std::exchange(first_, {}));
  for (;;) {
    const int pause = pause_left();
    std::array<pollfd, 3> polls{pollfd{stop_.get(), POLLIN, 0}, pollfd{pause == 0 ? listener_.get() : -1, POLLIN, 0},
                                pollfd{peer_.valid() ? peer_.fd().get() : -1, POLLIN, 0}};
    const bool retries = !listener_.valid() && !peer_.valid();
    if (::poll(polls.data(), polls.size(), pause != 0 ? pause : retries ? kRetryMs : -1) < 0) continue;
    if (polls[0].revents != 0) return;
    // Nothing is said after the greeting: whatever comes is the end.
    if (polls[2].revents != 0) hang_up();
    if (polls[1].revents != 0 && pause_left() == 0) {
      UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      // Of two that want in, the first one stays; the other sees its connection end.
      if (socket.valid() && !peer_.valid()) greet(std::move(socket));
    }
    if (!listener_.valid() && !peer_.valid() && pause_left() == 0) try_to_connect();
  }
}

int PeerLink::pause_left() const {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(pause_end_ - std::chrono::steady_clock::now());
  return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

void PeerLink::try_to_connect() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
  if (socket.valid() && ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
    greet(std::move(socket));
}

void PeerLink::greet(UniqueFd socket) {
  if (const Status known = check_credentials(socket.borrow()); !known) return say(known.error().message);
  Result<control::ControlChannel> channel = control::ControlChannel::adopt(std::move(socket));
  if (!channel) return say(channel.error().message);
  Result<std::shared_ptr<FrameCable>> cable = exchange(*channel);
  if (!cable) return say(cable.error().message);
  peer_ = std::move(*channel);
  handler_(std::move(*cable));
}

Result<std::shared_ptr<FrameCable>> PeerLink::exchange(control::ControlChannel& channel) const {
  ASSIGN_OR_RETURN(std::shared_ptr<FrameCable> cable, FrameCable::create());
  const std::array<BorrowedFd, 2> given{cable->readable_area(), cable->bell()};
  RETURN_IF_ERROR(channel.send(std::as_bytes(std::span(kPeerHello)), given, control::deadline_in(kGreetingDeadline)));
  ASSIGN_OR_RETURN(control::Message hello, channel.receive(control::deadline_in(kGreetingDeadline), given.size()));
  std::array<std::uint64_t, 2> words{};
  if (hello.bytes.size() != sizeof words || hello.fds.size() != given.size())
    return make_error("the other VM's greeting is none");
  std::memcpy(words.data(), hello.bytes.data(), sizeof words);
  if (words != kPeerHello) return make_error("the other VM speaks another protocol");
  RETURN_IF_ERROR(cable->plug(std::move(hello.fds[0]), std::move(hello.fds[1])));
  return cable;
}

void PeerLink::hang_up() {
  peer_ = {};
  pause_end_ = std::chrono::steady_clock::now() + kPause;
  Result<std::shared_ptr<FrameCable>> cable = FrameCable::create();
  if (cable) handler_(std::move(*cable));
}

void PeerLink::say(const std::string& what) {
  if (limiter_.allow()) log(LogLevel::kInfo, "{}: {}", name_, what);
}

}  // namespace bulkhead::vmm
