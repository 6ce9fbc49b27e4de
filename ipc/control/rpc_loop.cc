#include "ipc/control/rpc_loop.h"

#include <capnp/rpc.capnp.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "ipc/control/capnp_codec.h"

namespace bulkhead::control::rpc {
namespace {

constexpr std::size_t kReadOnce = std::size_t{16} << 10;
constexpr std::uint32_t kMaxSegments = 64;

kj::TimePoint monotonic_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return kj::origin<kj::TimePoint>() + now.tv_sec * kj::SECONDS + now.tv_nsec * kj::NANOSECONDS;
}

std::uint32_t load_u32(const char* bytes) {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

}  // namespace

struct PollPort::Waiter {
  BorrowedFd fd;
  short events;
  kj::PromiseFulfiller<void>& fulfiller;
};

// Lives inside the promise; dropping the promise takes the waiter off the list.
class PollPort::Adapter {
 public:
  Adapter(kj::PromiseFulfiller<void>& fulfiller, PollPort& port, BorrowedFd fd, short events)
      : port_(port), waiter_{fd, events, fulfiller}, position_(port.waiters_.insert(port.waiters_.end(), &waiter_)) {}
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;
  ~Adapter() { port_.waiters_.erase(position_); }

 private:
  PollPort& port_;
  Waiter waiter_;
  std::list<Waiter*>::iterator position_;
};

PollPort::PollPort() : timer_(monotonic_now()) {}

kj::Promise<void> PollPort::when_ready(BorrowedFd fd, short events) {
  return kj::newAdaptedPromise<void, Adapter>(*this, fd, events);
}

bool PollPort::run(bool may_sleep) {
  // What resolves now may add and remove waiters, but only once the loop runs again: not during this
  // function.
  std::vector<pollfd> entries;
  std::vector<Waiter*> asked;
  for (Waiter* waiter : waiters_) {
    if (!waiter->fulfiller.isWaiting()) continue;
    entries.push_back({.fd = waiter->fd.get(), .events = waiter->events, .revents = 0});
    asked.push_back(waiter);
  }
  int timeout = may_sleep ? -1 : 0;
  if (may_sleep) {
    KJ_IF_MAYBE (left, timer_.timeoutToNextEvent(monotonic_now(), kj::MILLISECONDS, 1'000'000))
      timeout = static_cast<int>(*left);
  }
  const int ready = ::poll(entries.data(), entries.size(), timeout);
  if (ready < 0 && errno != EINTR) KJ_FAIL_SYSCALL("poll", errno);
  for (std::size_t i = 0; ready > 0 && i < entries.size(); ++i) {
    if (entries[i].revents != 0) asked[i]->fulfiller.fulfill();
  }
  timer_.advanceTo(monotonic_now());
  return false;
}

RpcStream::RpcStream(PollPort& port, UniqueFd socket, const StreamLimits& limits,
                     std::function<void(const std::string&)> on_error)
    : port_(port),
      socket_(std::move(socket)),
      limits_(limits),
      on_error_(std::move(on_error)),
      flushing_(kj::Promise<void>(kj::READY_NOW).fork()) {}

void RpcStream::fail(const std::string& why) {
  if (on_error_) std::exchange(on_error_, nullptr)(why);
  kj::throwFatalException(kj::Exception(kj::Exception::Type::DISCONNECTED, __FILE__, __LINE__, kj::heapString(why)));
}

kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> RpcStream::tryReadMessage(kj::ArrayPtr<kj::AutoCloseFd> fd_space,
                                                                             capnp::ReaderOptions options,
                                                                             kj::ArrayPtr<capnp::word> scratch_space) {
  KJ_IF_MAYBE (reader, take_message()) {
    return kj::Maybe<capnp::MessageReaderAndFds>(capnp::MessageReaderAndFds{.reader = kj::mv(*reader), .fds = nullptr});
  }
  return port_.when_ready(socket_.borrow(), POLLIN)
      .then([this, fd_space, options, scratch_space]() -> kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> {
        if (read_more()) return tryReadMessage(fd_space, options, scratch_space);
        if (!input_.empty()) fail("the connection ended in the middle of a message");
        return kj::Maybe<capnp::MessageReaderAndFds>(nullptr);
      });
}

bool RpcStream::read_more() {
  const std::size_t before = input_.size();
  input_.resize(before + kReadOnce);
  // recv takes no descriptors: the kernel drops those that a peer sends along.
  const ssize_t got = ::recv(socket_.get(), input_.data() + before, kReadOnce, MSG_DONTWAIT);
  input_.resize(before + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR))) return true;
  return false;  // the end, or a reset connection, which is as good
}

// The framing of capnp's "serialization over a stream": segment count - 1, each segment's size in words,
// padding to a word, the segments.
kj::Maybe<kj::Own<capnp::MessageReader>> RpcStream::take_message() {
  if (input_.size() < sizeof(std::uint32_t)) return nullptr;
  const std::uint32_t segments = load_u32(input_.data()) + 1;
  if (segments == 0 || segments > kMaxSegments) fail(fmt::format("a message of {} segments", std::uint64_t{segments}));
  const std::size_t header = (1 + segments + 1) / 2 * sizeof(capnp::word);
  if (input_.size() < header) return nullptr;
  std::uint64_t size = header;
  for (std::uint32_t i = 0; i < segments; ++i)
    size += std::uint64_t{load_u32(input_.data() + sizeof(std::uint32_t) * (i + std::size_t{1}))} * sizeof(capnp::word);
  if (size > limits_.message_bytes)
    fail(fmt::format("a message of {} bytes, at most {} allowed", size, limits_.message_bytes));
  if (input_.size() < size) return nullptr;

  auto words = kj::heapArray<capnp::word>(size / sizeof(capnp::word));
  std::memcpy(static_cast<void*>(words.begin()), input_.data(), size);
  input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(size));
  const auto options = codec::reader_options(words.size());
  kj::Own<capnp::MessageReader> reader =
      kj::heap<capnp::FlatArrayMessageReader>(words.asPtr(), options).attach(kj::mv(words));
  count_questions(*reader);
  return reader;
}

void RpcStream::count_questions(capnp::MessageReader& message) {
  // Read from a copy of the root: the RPC system's own reading has the traversal limit to itself.
  const auto which = message.getRoot<capnp::rpc::Message>().which();
  if (which == capnp::rpc::Message::FINISH && open_questions_ > 0) --open_questions_;
  if (which != capnp::rpc::Message::CALL && which != capnp::rpc::Message::BOOTSTRAP) return;
  if (++open_questions_ > limits_.open_questions)
    fail(fmt::format("more than {} calls without taking their answers", limits_.open_questions));
}

kj::Promise<void> RpcStream::writeMessage(kj::ArrayPtr<const int> fds,
                                          kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  if (fds.size() != 0) fail("descriptors in an RPC message");
  note_abort(segments);
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(segments);
  const auto bytes = words.asBytes();
  if (output_.size() - sent_ + bytes.size() > limits_.unread_bytes)
    fail(fmt::format("more than {} bytes of answers that it does not read", limits_.unread_bytes));
  if (!has_unsent()) {
    output_.clear();
    sent_ = 0;
  }
  output_.append(bytes.asChars().begin(), bytes.size());
  write_some();
  if (has_unsent() && !is_flushing_) {
    is_flushing_ = true;
    flushing_ = flush().then([this] { is_flushing_ = false; }).eagerlyEvaluate(nullptr).fork();
  }
  return kj::READY_NOW;
}

kj::Promise<void> RpcStream::writeMessages(kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) {
  for (auto& message : messages) static_cast<void>(writeMessage(nullptr, message));
  return kj::READY_NOW;
}

void RpcStream::write_some() {
  while (has_unsent()) {
    const ssize_t written =
        ::send(socket_.get(), output_.data() + sent_, output_.size() - sent_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (written < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return;
      // The peer is gone; reading will tell.
      sent_ = output_.size();
      return;
    }
    sent_ += static_cast<std::size_t>(written);
  }
}

kj::Promise<void> RpcStream::flush() {
  if (!has_unsent()) return kj::READY_NOW;
  auto too_slow = port_.timer().afterDelay(limits_.unread_time).then([this] {
    // Nothing more is written, and the peer sees the end of the stream.
    ::shutdown(socket_.get(), SHUT_RDWR);
    sent_ = output_.size();
    if (on_error_) std::exchange(on_error_, nullptr)("it does not read its answers");
  });
  return port_.when_ready(socket_.borrow(), POLLOUT).exclusiveJoin(kj::mv(too_slow)).then([this] {
    write_some();
    return flush();
  });
}

kj::Promise<void> RpcStream::end() {
  auto sent = is_flushing_ ? flushing_.addBranch() : kj::Promise<void>(kj::READY_NOW);
  return sent.then([this] { ::shutdown(socket_.get(), SHUT_WR); });
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks): the analyser loses track of kj::Own
}

// The RPC system tells a peer that broke the protocol so before it gives up; the reason is wanted here too.
void RpcStream::note_abort(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  if (!on_error_) return;
  capnp::SegmentArrayMessageReader reader(segments);
  const auto message = reader.getRoot<capnp::rpc::Message>();
  if (!message.isAbort()) return;
  if (message.getAbort().getType() == capnp::rpc::Exception::Type::DISCONNECTED) return;
  std::exchange(on_error_, nullptr)(std::string(codec::view(message.getAbort().getReason())));
}

}  // namespace bulkhead::control::rpc
