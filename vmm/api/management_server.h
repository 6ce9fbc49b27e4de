// ManagementServer: serves the management interface (ipc/control/management.capnp) on a listening socket,
// in a thread of its own with a KJ event loop.
//
// Trust: a client must have this process's uid or be root (SO_PEERCRED); beyond that it may be broken or
// hostile. Bounds: kMaxClients connections (the next one is closed), and per connection a limit on message
// size, nesting, calls in flight and unread answers; whoever breaks one loses the connection, with a logged
// reason. A client that does not read blocks nobody but itself.
// Threading: start and stop from any one thread; VmControl is called on the server's thread, but for
// upgrade() and restore(), which a worker thread calls, and pause(), resume() and reset(), which another one calls: the
// server answers others meanwhile.
#pragma once

#include <functional>
#include <memory>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "vmm/api/vm_control.h"

namespace bulkhead::vmm {

inline constexpr unsigned kMaxClients = 16;
inline constexpr unsigned kMaxWaiters = 32;  // calls that wait for events, of all clients

class ManagementServer {
 public:
  // `listener`: from ClaimedName::listen(). `vm` must outlive the server. `on_thread` runs first on the
  // server's thread (its seccomp filter, its name). The thread has every signal blocked. It uses poll,
  // accept4, getsockopt, recvfrom, sendto, shutdown, close, futex, and what malloc and the log need.
  static Result<std::unique_ptr<ManagementServer>> start(UniqueFd listener, VmControl& vm,
                                                         std::function<void()> on_thread = {});
  ManagementServer(const ManagementServer&) = delete;
  ManagementServer& operator=(const ManagementServer&) = delete;
  // Lets answers that are on their way go out (at most 200 ms), then closes every connection and joins.
  ~ManagementServer();

 private:
  struct Impl;
  explicit ManagementServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bulkhead::vmm
