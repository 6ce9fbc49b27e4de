#include "vmm/process/device_child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "sandbox/policies.h"

namespace bulkhead::vmm {
namespace {

constexpr std::chrono::seconds kSendDeadline{1};
constexpr std::size_t kLongestLogLine = 512;
constexpr std::size_t kLogRation = 262'144;  // bytes a second

}  // namespace

Result<std::unique_ptr<DeviceChild>> DeviceChild::spawn(const Spawn& how) {
  auto child = std::make_unique<DeviceChild>();
  ASSIGN_OR_RETURN(auto channels, control::ControlChannel::create_pair());
  child->control_ = std::move(channels.first);
  const UniqueFd peer = channels.second.take_socket();
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0) return make_errno_error("cannot create a log pipe");
  child->log_.reset(pipe_fds[0]);
  const UniqueFd log_writer(pipe_fds[1]);
  child->name = how.name;
  child->ration_ = kLogRation;
  child->identity_ = how.identity;
  child->jail = how.jail;
  sandbox::SpawnOptions options;
  options.arguments = {how.executable->name(), "--vm", how.vm, "--role", how.name};
  options.descriptors = {{log_writer.borrow(), STDERR_FILENO},
                         {peer.borrow(), sandbox::kControlFd},
                         {how.standby_filter, sandbox::kStandbyFilterFd}};
  if (!how.jail.tftp.empty()) {
    options.arguments.emplace_back("--tftp");
    options.arguments.push_back(how.jail.tftp);
  }
  options.namespaces.network = !how.jail.host_network;
  for (std::size_t i = 0; i < how.rings.size(); ++i)
    options.descriptors.push_back({how.rings[i], sandbox::kFirstRingFd + static_cast<int>(i)});
  options.identity_index = how.identity;
  options.tracer = how.tracer;
  ASSIGN_OR_RETURN(child->process_, sandbox::spawn(*how.executable, options));
  return child;
}

Status DeviceChild::send(std::span<const std::byte> bytes, std::span<const BorrowedFd> fds) {
  if (!control_.valid()) return make_error("the device process has closed its control channel");
  return control_.send(bytes, fds, control::deadline_in(kSendDeadline));
}

Status DeviceChild::send_signal(int signal) {
  if (!process_.valid() || ::syscall(SYS_pidfd_send_signal, process_.pidfd().get(), signal, nullptr, 0) != 0)
    return make_errno_error("cannot signal the device process");
  return ok();
}

Status DeviceChild::limit_file_size(std::uint64_t bytes) {
  const rlimit limit{bytes, bytes};
  if (::prlimit(pid(), RLIMIT_FSIZE, &limit, nullptr) != 0)
    return make_errno_error("cannot limit the length of a device process's files");
  return ok();
}

void DeviceChild::kill(std::string why) {
  if (!lives() || killed) return;
  killed = true;
  reason = std::move(why);
  (void)process_.kill();
}

std::optional<control::FromDevice> DeviceChild::receive() {
  Result<control::Message> message = control_.receive(control::no_wait());
  if (!message) {
    if (message.error().error_number == control::kTimedOut) return std::nullopt;
    // An honest process closes it only by dying, and then its exit stop comes first.
    const bool closed = message.error().error_number == control::kPeerClosed;
    return refuse(closed ? "it closed its control channel" : message.error().message);
  }
  Result<control::FromDevice> decoded = control::decode_from_device(message->bytes);
  if (!decoded) return refuse(decoded.error().message);
  if (killed) return std::nullopt;
  if (!asked && owed_answers == 0 && state != State::kStarting && state != State::kChecking)
    return refuse("it spoke without being asked");
  return std::move(*decoded);
}

std::optional<control::FromDevice> DeviceChild::refuse(std::string why) {
  kill(std::move(why));  // first: one that finds its channel closed ends by itself
  close_channel();
  return std::nullopt;
}

void DeviceChild::read_log() {
  char buffer[4096];
  const ssize_t n = ::read(log_.get(), buffer, std::min(sizeof buffer, std::max<std::size_t>(ration_, 1)));
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) log_.reset();
  for (ssize_t i = 0; i < n; ++i) log_byte(buffer[i]);
  if (n > 0) ration_ -= std::min(ration_, static_cast<std::size_t>(n));
}

void DeviceChild::log_byte(char byte) {
  if (byte != '\n' && log_line_.size() < kLongestLogLine) {
    log_line_ += byte;
    return;
  }
  if (log_limiter_.allow()) log(LogLevel::kInfo, "[{}] {}", name, log_line_);
  log_line_.clear();
  if (byte != '\n') log_line_ += byte;
}

void DeviceChild::refill_log_ration() { ration_ = kLogRation; }

}  // namespace bulkhead::vmm
