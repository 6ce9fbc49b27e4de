// What a virtio_vsock's two processes need of the VMM: the memory that they share, and somebody who connects to the
// host's programs for a relay whose jail has no file system.
//
// The relay sends {port, tag}, two u32, on a SOCK_SEQPACKET socket, and gets {tag, errno} back, with the connected
// socket when errno is 0. Where it may go is PATH_PORT and nothing else; nothing is waited for: a program whose backlog
// is full counts as one that is not there. Threading: a thread of its own, from start() to the destructor. Trust: the
// relay is hostile: eight bytes are read, any eight bytes are a question, and an answer that it does not take is
// dropped.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::vmm {

struct VsockLink {
  static Result<VsockLink> create();
  UniqueFd device_area, device_wake, device_peer;
  UniqueFd relay_area, relay_wake, relay_peer;
  UniqueFd connector;        // the VMM's end
  UniqueFd relay_connector;  // the relay's
};

class VsockConnector {
 public:
  static Result<std::unique_ptr<VsockConnector>> start(UniqueFd channel, std::string path);
  ~VsockConnector();
  VsockConnector(const VsockConnector&) = delete;
  VsockConnector& operator=(const VsockConnector&) = delete;

 private:
  VsockConnector(UniqueFd channel, std::string path) : channel_(std::move(channel)), path_(std::move(path)) {}
  void thread_main();
  void answer(std::uint32_t port, std::uint32_t tag);
  // The socket, or an errno.
  [[nodiscard]] Result<UniqueFd> connect_to(std::uint32_t port) const;

  UniqueFd channel_;
  std::string path_;
  UniqueFd wake_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace bulkhead::vmm
