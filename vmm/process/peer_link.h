// PeerLink: finds the other VM at the end of a card's cable, exchanges areas and bells with it, and notices when it
// goes.
//
// The two VMMs meet at a Unix socket: who came first listens, the other one connects. When the other VM ends, a
// listener waits for the next one; who had connected tries again once a second, and so meets whoever listens there
// then. Each coming and going costs the card a new process, so after a cable has ended nobody is greeted for a second:
// a VM that comes and goes in a loop cannot keep the other one's card busy. Protocol, SOCK_SEQPACKET, both sides at
// once: one message of kPeerHello, with two descriptors: the sender's area, for reading, and the bell that rings for
// it. Nothing follows; the connection's end is the cable's. A third VM that connects is turned away. Both sides must be
// of one user, or of root.
//
// Threading: a thread of its own; the handler is called there. Errors: what the other VM does wrong is logged and ends
// that connection. Trust: the other VM is hostile (frame_cable.h).
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "ipc/base/log.h"
#include "ipc/control/channel.h"
#include "vmm/process/frame_cable.h"

namespace bulkhead::vmm {

inline constexpr std::array<std::uint64_t, 2> kPeerHello = {0x3152'4545'504b'4c42, 1};  // "BLKPEER1", version

class PeerLink {
 public:
  static constexpr std::chrono::seconds kPause{1};  // between the end of a cable and the next one
  // The cable that the card is to hold from now on.
  using Handler = std::function<void(std::shared_ptr<FrameCable>)>;

  // `socket`: listens, or is connected already, at `path`. `name`: of the card, for messages.
  static Result<std::unique_ptr<PeerLink>> start(UniqueFd socket, std::string path, std::string name, Handler handler);
  // Whoever listens takes its socket away.
  ~PeerLink();
  PeerLink(const PeerLink&) = delete;
  PeerLink& operator=(const PeerLink&) = delete;

 private:
  PeerLink(std::string path, std::string name, Handler handler)
      : path_(std::move(path)), name_(std::move(name)), handler_(std::move(handler)) {}

  void thread_main();
  void greet(UniqueFd socket);
  Result<std::shared_ptr<FrameCable>> exchange(control::ControlChannel& channel) const;
  void hang_up();
  void try_to_connect();
  void say(const std::string& what);
  [[nodiscard]] int pause_left() const;  // milliseconds

  std::string path_;
  std::string name_;
  Handler handler_;
  UniqueFd stop_;
  UniqueFd listener_;
  UniqueFd first_;                // the launcher's connection, not greeted yet
  control::ControlChannel peer_;  // valid while the cable is plugged in
  std::chrono::steady_clock::time_point pause_end_{};
  LogLimiter limiter_;
  std::thread thread_;
};

}  // namespace bulkhead::vmm
