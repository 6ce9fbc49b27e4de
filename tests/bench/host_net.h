// The host's side of the network figures: a network namespace with TAPs in it, and what goes in and comes out there.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "tests/bench/guest/net_messages.h"

namespace bulkhead::bench {

// The calling thread's network namespace is a new one while this lives. Programs started meanwhile are in it.
class NetNamespace {
 public:
  static Result<NetNamespace> enter();
  NetNamespace(NetNamespace&&) noexcept = default;
  NetNamespace& operator=(NetNamespace&&) = delete;
  ~NetNamespace();

 private:
  explicit NetNamespace(UniqueFd before) : before_(std::move(before)) {}
  UniqueFd before_;
};

inline constexpr unsigned kTapQueue = 2500;  // frames that a TAP holds for its reader

// A TAP that goes with its namespace, and packet sockets on its other side.
class HostTap {
 public:
  // Makes the interface, without addresses, and takes it up.
  static Result<HostTap> make(const std::string& name);

  [[nodiscard]] const std::string& name() const { return name_; }
  // Frames that came out of it so far.
  [[nodiscard]] Result<std::uint64_t> came_out() const;
  Status tell(const NetMessage& message);
  // nullopt: none in time.
  std::optional<NetMessage> hear(std::chrono::milliseconds patience);
  // kSegments full frames, as one that the host's kernel cuts, as it does with what TCP sends.
  Status inject();

 private:
  HostTap() = default;
  std::string name_;
  UniqueFd messages_;
  UniqueFd load_;
};

}  // namespace bulkhead::bench
