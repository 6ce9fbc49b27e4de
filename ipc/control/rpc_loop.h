// What Cap'n Proto RPC needs underneath, with bounds of our own: an event port over poll(2), and a stream
// of messages on a Unix socket. Internal to the management client and server.
//
// KJ's own event port and network would take over a signal and pull in name resolution, and its message
// stream believes the peer's sizes up to gigabytes; these use poll, read, send and nothing else.
// Trust: the peer may be broken or hostile. Exceptions (kj::Exception) are the failure path here, as KJ
// expects of a stream; whoever owns the loop catches them. Threading: everything belongs to the thread of
// its PollPort.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <capnp/serialize-async.h>
#include <kj/async.h>
#include <kj/timer.h>

#include <functional>
#include <list>
#include <string>
#include <vector>

#include "ipc/base/unique_fd.h"

// KJ's interfaces have no virtual destructors; nothing here is destroyed through one.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnon-virtual-dtor"

namespace bulkhead::control::rpc {

class PollPort final : public kj::EventPort {
 public:
  PollPort();
  // Resolves once `fd`, which must stay open until then, has one of `events`, an error or a hang-up.
  [[nodiscard]] kj::Promise<void> when_ready(BorrowedFd fd, short events);
  [[nodiscard]] kj::Timer& timer() { return timer_; }

  bool wait() override { return run(true); }
  bool poll() override { return run(false); }

 private:
  struct Waiter;
  class Adapter;
  bool run(bool may_sleep);
  kj::TimerImpl timer_;
  std::list<Waiter*> waiters_;
};

struct StreamLimits {
  std::size_t message_bytes = std::size_t{64} << 10;  // that the peer may send at once
  std::size_t unread_bytes = std::size_t{4} << 20;    // that may wait for the peer to read them
  unsigned open_questions = 64;                       // calls and bootstraps that the peer has not finished
  kj::Duration unread_time = 10 * kj::SECONDS;        // for which the peer may read nothing
};

class RpcStream final : public capnp::MessageStream {
 public:
  // `socket`: non-blocking. `on_error` hears, once, why the stream failed; not of an orderly end.
  RpcStream(PollPort& port, UniqueFd socket, const StreamLimits& limits,
            std::function<void(const std::string&)> on_error);

  kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> tryReadMessage(kj::ArrayPtr<kj::AutoCloseFd> fd_space,
                                                                    capnp::ReaderOptions options,
                                                                    kj::ArrayPtr<capnp::word> scratch_space) override;
  kj::Promise<void> writeMessage(kj::ArrayPtr<const int> fds,
                                 kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) override;
  kj::Promise<void> writeMessages(kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) override;
  kj::Maybe<int> getSendBufferSize() override { return nullptr; }
  kj::Promise<void> end() override;

  [[nodiscard]] bool has_unsent() const { return sent_ < output_.size(); }

 private:
  [[noreturn]] void fail(const std::string& why);
  // The next whole message in input_; null when there is more to come.
  kj::Maybe<kj::Own<capnp::MessageReader>> take_message();
  void count_questions(capnp::MessageReader& message);
  bool read_more();  // false at the end of the stream
  void write_some();
  [[nodiscard]] kj::Promise<void> flush();
  void note_abort(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments);

  PollPort& port_;
  UniqueFd socket_;
  StreamLimits limits_;
  std::function<void(const std::string&)> on_error_;
  std::vector<char> input_;
  std::string output_;
  std::size_t sent_ = 0;  // of output_
  unsigned open_questions_ = 0;
  kj::ForkedPromise<void> flushing_;
  bool is_flushing_ = false;
};

}  // namespace bulkhead::control::rpc

#pragma GCC diagnostic pop
