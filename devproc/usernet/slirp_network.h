// SlirpNetwork: a user network made by libslirp, on sockets of the host's network namespace.
//
// libslirp opens its sockets itself, so the descriptors to wait for change from input to input: they are kept in an
// epoll descriptor of its own, which the event loop watches in their place. Listening sockets of port forwards that a
// predecessor still holds (it is dead, and on its way out) are tried again a few times a second.
//
// Threading: single-threaded; libslirp keeps some of its state in globals, so there is one of these in a process.
// Errors: of the start, one sentence; later ones are libslirp's to deal with, and the guest sees what a router would
// tell it. Trust: frames and what comes from sockets are hostile; that is why this is in a jail without guest memory.
// Source: libslirp.h (version 4.7).
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "devproc/backends/user_network_backend.h"
#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

struct Slirp;

namespace bulkhead::devproc {

class SlirpNetwork final : public UserNetworkBackend {
 public:
  // Before the jail closes: what libslirp and its library do at first use and could not do later.
  static void prepare_process();

  // `resumed`: ports that cannot be had now are waited for; otherwise they are an error.
  static Result<std::unique_ptr<UserNetworkBackend>> create(const UsernetConfig& config, bool resumed);
  ~SlirpNetwork() override;

  void input(std::span<const std::byte> frame, VmTime now, Output& output) override;
  std::optional<VmTime> run(VmTime now, Output& output) override;

  [[nodiscard]] BorrowedFd watched() const override { return epoll_.borrow(); }
  void on_events(std::uint32_t /*epoll_events*/) override { stirs_ = true; }
  [[nodiscard]] bool ready() const override { return stirs_; }

 private:
  struct Callbacks;
  struct Socket {
    std::uint32_t wanted = 0;      // epoll events
    std::uint32_t registered = 0;  // what the epoll descriptor watches
    std::uint32_t seen = 0;        // events that came
    std::uint64_t turn = 0;        // when it was wanted last
  };

  explicit SlirpNetwork(const UsernetConfig& config) : config_(config) {}
  Status open(bool resumed);
  // 0 or errno.
  int forward(const PortForward& forward);
  void retry_forwards(VmTime now);
  void take_events();
  void watch_sockets();
  int want(int fd, int slirp_events);
  [[nodiscard]] int revents(int fd) const;
  std::optional<VmTime> next_run(VmTime now, std::uint32_t timeout_ms);

  UsernetConfig config_;
  Slirp* slirp_ = nullptr;
  UniqueFd epoll_;
  std::unordered_map<int, Socket> sockets_;
  std::size_t wanted_ = 0;  // sockets of this turn
  std::uint64_t turn_ = 0;
  std::vector<PortForward> waiting_;  // forwards whose ports are not free yet
  std::size_t listening_ = 0;
  VmTime now_{};
  VmTime last_active_{};
  Output* output_ = nullptr;  // within input() and run()
  bool stirs_ = true;
};

}  // namespace bulkhead::devproc
