#include "devproc/usernet/slirp_network.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <glib.h>
#include <netinet/in.h>
#include <slirp/libslirp.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "ipc/base/log.h"
#include "sandbox/enter.h"

namespace bulkhead::devproc {
namespace {

constexpr std::int64_t kMsNs = 1'000'000;
constexpr std::int64_t kRetryNs = 20 * kMsNs;
constexpr std::uint32_t kIdleTimeoutMs = 1000;                     // what libslirp asks for when nothing is to be timed
constexpr std::int64_t kLingerNs = 240'000 * std::int64_t{kMsNs};  // its longest timeout: of connections that are gone
constexpr std::size_t kLeastFrame = 60;                            // Ethernet, without the check sequence

in_addr address(std::uint32_t host_order) { return {htonl(host_order)}; }

std::string text_of(std::uint32_t host_order) {
  return fmt::format("{}.{}.{}.{}", host_order >> 24, host_order >> 16 & 255, host_order >> 8 & 255, host_order & 255);
}

constexpr std::array<std::pair<int, std::uint32_t>, 5> kEvents = {{{SLIRP_POLL_IN, EPOLLIN},
                                                                   {SLIRP_POLL_OUT, EPOLLOUT},
                                                                   {SLIRP_POLL_PRI, EPOLLPRI},
                                                                   {SLIRP_POLL_ERR, EPOLLERR},
                                                                   {SLIRP_POLL_HUP, EPOLLHUP}}};

GLogWriterOutput drop_log(GLogLevelFlags /*level*/, const GLogField* /*fields*/, gsize /*count*/, gpointer /*data*/) {
  return G_LOG_WRITER_HANDLED;
}

}  // namespace

struct SlirpNetwork::Callbacks {
  static SlirpNetwork& self(void* opaque) { return *static_cast<SlirpNetwork*>(opaque); }

  static ssize_t send_packet(const void* bytes, size_t length, void* opaque) {
    SlirpNetwork& network = self(opaque);
    if (network.output_ == nullptr) return static_cast<ssize_t>(length);
    const std::span frame(static_cast<const std::byte*>(bytes), length);
    if (length >= kLeastFrame) {
      network.output_->frame(frame);
    } else {
      // No shorter frame was ever on a wire; there are drivers that take none.
      std::array<std::byte, kLeastFrame> padded{};
      std::ranges::copy(frame, padded.begin());
      network.output_->frame(padded);
    }
    return static_cast<ssize_t>(length);
  }
  static void guest_error(const char* message, void* /*opaque*/) {
    static constinit LogLimiter limiter{8};
    if (limiter.allow()) log(LogLevel::kInfo, "the guest sent what makes no sense: {}", message);
  }
  static std::int64_t clock_get_ns(void* opaque) { return self(opaque).now_.ns; }
  // Timers are of IPv6 router advertisements alone, which are off.
  static void* timer_new_opaque(SlirpTimerId /*id*/, void* /*cb_opaque*/, void* opaque) { return opaque; }
  static void timer_free(void* /*timer*/, void* /*opaque*/) {}
  static void timer_mod(void* /*timer*/, std::int64_t /*expire_ms*/, void* /*opaque*/) {}
  // A descriptor that is closed leaves the epoll descriptor by itself; its number may come back as another socket.
  static void forget(int fd, void* opaque) { self(opaque).sockets_.erase(fd); }
  static void notify(void* opaque) { self(opaque).stirs_ = true; }

  static int add_poll(int fd, int events, void* opaque) { return self(opaque).want(fd, events); }
  static int get_revents(int fd, void* opaque) { return self(opaque).revents(fd); }
};

void SlirpNetwork::prepare_process() { g_log_set_writer_func(drop_log, nullptr, nullptr); }

Result<std::unique_ptr<UserNetworkBackend>> SlirpNetwork::create(const UsernetConfig& config, bool resumed) {
  std::unique_ptr<SlirpNetwork> network(new SlirpNetwork(config));
  RETURN_IF_ERROR(network->open(resumed));
  return std::unique_ptr<UserNetworkBackend>(std::move(network));
}

SlirpNetwork::~SlirpNetwork() {
  if (slirp_ != nullptr) slirp_cleanup(slirp_);
}

Status SlirpNetwork::open(bool resumed) {
  static constexpr SlirpCb kCallbacks = {.send_packet = Callbacks::send_packet,
                                         .guest_error = Callbacks::guest_error,
                                         .clock_get_ns = Callbacks::clock_get_ns,
                                         .timer_new = nullptr,
                                         .timer_free = Callbacks::timer_free,
                                         .timer_mod = Callbacks::timer_mod,
                                         .register_poll_fd = Callbacks::forget,
                                         .unregister_poll_fd = Callbacks::forget,
                                         .notify = Callbacks::notify,
                                         .init_completed = nullptr,
                                         .timer_new_opaque = Callbacks::timer_new_opaque};
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return make_errno_error("cannot create an epoll descriptor");
  SlirpConfig config{};
  config.version = SLIRP_CONFIG_VERSION_MAX;
  config.restricted = config_.restricted ? 1 : 0;
  config.in_enabled = true;
  config.vnetwork = address(config_.network);
  config.vnetmask = address(config_.mask);
  config.vhost = address(config_.host);
  config.vdhcp_start = address(config_.guest);
  config.vnameserver = address(config_.dns);
  config.vhostname = config_.hostname.empty() ? nullptr : config_.hostname.c_str();
  config.tftp_path = config_.tftp ? sandbox::kTftpInJail : nullptr;
  config.bootfile = config_.bootfile.empty() ? nullptr : config_.bootfile.c_str();
  config.if_mtu = config_.mtu;
  config.if_mru = config_.mtu;
  config.disable_host_loopback = !config_.host_loopback;
  slirp_ = slirp_new(&config, &kCallbacks, this);
  if (slirp_ == nullptr) return make_error("libslirp refuses this configuration of a user network");
  for (const PortForward& one : config_.forwards) {
    const int error = forward(one);
    if (error == 0) continue;
    if (!resumed)
      return make_error(fmt::format("hostfwd={}:{}:{}: {}", one.udp ? "udp" : "tcp", text_of(one.host_address),
                                    one.host_port, std::strerror(error)));
    waiting_.push_back(one);
  }
  return ok();
}

int SlirpNetwork::forward(const PortForward& one) {
  const int result = slirp_add_hostfwd(slirp_, one.udp ? 1 : 0, address(one.host_address), one.host_port,
                                       address(one.guest_address), one.guest_port);
  if (result < 0) return errno != 0 ? errno : EADDRINUSE;
  ++listening_;
  return 0;
}

void SlirpNetwork::retry_forwards(VmTime /*now*/) {
  std::erase_if(waiting_, [this](const PortForward& one) { return forward(one) == 0; });
}

void SlirpNetwork::input(std::span<const std::byte> frame, VmTime now, Output& output) {
  now_ = last_active_ = now;
  output_ = &output;
  slirp_input(slirp_, reinterpret_cast<const std::uint8_t*>(frame.data()), static_cast<int>(frame.size()));
  output_ = nullptr;
}

std::optional<VmTime> SlirpNetwork::run(VmTime now, Output& output) {
  now_ = now;
  output_ = &output;
  stirs_ = false;
  take_events();
  slirp_pollfds_poll(slirp_, 0, Callbacks::get_revents, this);
  retry_forwards(now);
  ++turn_;
  wanted_ = 0;
  std::uint32_t timeout_ms = UINT32_MAX;
  slirp_pollfds_fill(slirp_, &timeout_ms, Callbacks::add_poll, this);
  watch_sockets();
  output_ = nullptr;
  return next_run(now, timeout_ms);
}

// The index that libslirp keeps of a descriptor is the descriptor itself.
int SlirpNetwork::want(int fd, int slirp_events) {
  Socket& socket = sockets_[fd];
  socket.wanted = 0;
  for (const auto& [slirp, epoll] : kEvents) {
    if ((slirp_events & slirp) != 0) socket.wanted |= epoll;
  }
  socket.turn = turn_;
  ++wanted_;
  return fd;
}

int SlirpNetwork::revents(int fd) const {
  const auto at = sockets_.find(fd);
  if (at == sockets_.end()) return 0;
  int events = 0;
  for (const auto& [slirp, epoll] : kEvents) {
    if ((at->second.seen & epoll) != 0) events |= slirp;
  }
  return events;
}

void SlirpNetwork::take_events() {
  for (auto& [fd, socket] : sockets_) socket.seen = 0;
  std::array<epoll_event, 256> events{};
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    const auto at = sockets_.find(event.data.fd);
    if (at != sockets_.end()) at->second.seen = event.events;
  }
  if (count <= 0) return;
  // Only a look that finds nothing makes sure that the next news will be told of.
  stirs_ = true;
  last_active_ = now_;
}

void SlirpNetwork::watch_sockets() {
  for (auto at = sockets_.begin(); at != sockets_.end();) {
    auto& [fd, socket] = *at;
    if (socket.turn != turn_) socket.wanted = 0;
    if (socket.wanted == socket.registered) {
      at = socket.wanted == 0 ? sockets_.erase(at) : std::next(at);
      continue;
    }
    epoll_event event{};
    event.events = socket.wanted;
    event.data.fd = fd;
    if (socket.wanted == 0) {
      ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);  // of one that is closed it fails, as it may
      at = sockets_.erase(at);
      continue;
    }
    const int first = socket.registered == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (::epoll_ctl(epoll_.get(), first, fd, &event) != 0 && (errno == EEXIST || errno == ENOENT))
      ::epoll_ctl(epoll_.get(), first == EPOLL_CTL_ADD ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
    socket.registered = socket.wanted;
    ++at;
  }
}

std::optional<VmTime> SlirpNetwork::next_run(VmTime now, std::uint32_t timeout_ms) {
  if (!waiting_.empty()) return VmTime{now.ns + kRetryNs};
  // A guest that sleeps is not to be kept awake by listening sockets.
  const bool quiet = wanted_ <= listening_ && now.ns - last_active_.ns > kLingerNs;
  if (quiet || (wanted_ == 0 && timeout_ms >= kIdleTimeoutMs)) return std::nullopt;
  return VmTime{now.ns + std::max<std::int64_t>(timeout_ms, 1) * kMsNs};
}

}  // namespace bulkhead::devproc
