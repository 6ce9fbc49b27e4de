#include "devproc/models/vsock_relay/vsock_relay.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace bulkhead::devproc {

using namespace virtio_vsock_spec;
using namespace vsock_relay_spec;

namespace {

constexpr std::uint16_t kNobody = 0xffff;
static_assert(kMostSockets < kNobody);
// Of a question's tag: which connection, how often that was somebody's, and whose question it was. What a predecessor
// asked may be answered only now, and must not be taken for an answer to us.
constexpr unsigned kIndexBits = 10;
constexpr unsigned kTurnBits = 14;
static_assert(kMostSockets == 1U << kIndexBits);
// How much of a buffer the program must have taken before the guest is told by a packet of its own.
constexpr std::uint32_t kTellAfter = kBufAlloc / 4;
constexpr std::array<std::uint32_t, 3> kPieces = {kMostPayload, 16384, 4096};
constexpr std::size_t kMostAtOnce = 262'144;  // of one connection in one input

constexpr std::uint64_t key(std::uint32_t host_port, std::uint32_t guest_port) {
  return std::uint64_t{host_port} << 32 | guest_port;
}

}  // namespace

VsockRelay::VsockRelay(Persistent<VsockRelayState> state, const VsockRelayConfig& config, PacketLink& link,
                       StreamSockets& sockets)
    : state_(state),
      config_(config),
      link_(link),
      sockets_(sockets),
      connections_(kMostSockets),
      by_socket_(kMostSockets, kNobody),
      scratch_(kMostPayload) {
  for (std::uint16_t i = kMostSockets; i > 0; --i) free_.push_back(static_cast<std::uint16_t>(i - 1));
  by_ports_.reserve(kMostSockets);
}

// ---- Life ----

void VsockRelay::forget_all() {
  for (Connection& one : connections_) {
    if (one.state != State::kFree) free(one);
  }
  orphans_.clear();
  blocked_ = false;
}

void VsockRelay::reset() {
  forget_all();
  link_.restore();
  link_.begin_epoch();
  state_.mut().peer_epoch = link_.peer_epoch();
}

// Another process: its predecessor's sockets are closed, and what the guest says of their connections is answered by
// resets. The guest hears of the new epoch first.
void VsockRelay::restore() {
  forget_all();
  if (state_->reserved != 0) state_.mut().reserved = 0;
  link_.restore();
  link_.begin_epoch();
}

bool VsockRelay::on_backend(BackendId backend) {
  if (const std::uint32_t epoch = link_.peer_epoch(); epoch != state_->peer_epoch) {
    state_.mut().peer_epoch = epoch;
    forget_all();  // the guest has: its driver or its machine was reset
  }
  bool more = backend == kLink ? take_packets() : take_events();
  if (blocked_) more |= pump_all();
  return more;
}

void VsockRelay::on_backend_poisoned(BackendId backend) {
  if (backend == kLink && !link_.receive().empty()) link_.consume();
}

// ---- The table ----

VsockRelay::Connection* VsockRelay::find(std::uint32_t host_port, std::uint32_t guest_port) {
  const auto at = by_ports_.find(key(host_port, guest_port));
  return at == by_ports_.end() ? nullptr : &connections_[at->second];
}

VsockRelay::Connection* VsockRelay::of_socket(SocketId socket) {
  return socket < by_socket_.size() && by_socket_[socket] != kNobody ? &connections_[by_socket_[socket]] : nullptr;
}

VsockRelay::Connection* VsockRelay::take_free() {
  if (free_.empty()) return nullptr;
  Connection& one = connections_[free_.back()];
  free_.pop_back();
  return &one;
}

void VsockRelay::name_it(Connection& one, std::uint32_t host_port, std::uint32_t guest_port) {
  one.host_port = host_port;
  one.guest_port = guest_port;
  by_ports_[key(host_port, guest_port)] = static_cast<std::uint16_t>(&one - connections_.data());
}

void VsockRelay::close_socket(Connection& one) {
  if (!one.socket) return;
  by_socket_[*one.socket] = kNobody;
  sockets_.close(*one.socket);
  one.socket.reset();
}

void VsockRelay::free(Connection& one) {
  close_socket(one);
  const auto index = static_cast<std::uint16_t>(&one - connections_.data());
  const auto at = by_ports_.find(key(one.host_port, one.guest_port));
  if (at != by_ports_.end() && at->second == index) by_ports_.erase(at);
  const std::uint32_t turn = one.turn + 1;
  one = Connection{};
  one.turn = turn;
  free_.push_back(index);
}

std::uint32_t VsockRelay::tag_of(const Connection& one) const {
  const auto index = static_cast<std::uint32_t>(&one - connections_.data());
  const std::uint32_t turn = one.turn & ((1U << kTurnBits) - 1);
  return link_.own_epoch() << (kIndexBits + kTurnBits) | turn << kIndexBits | index;
}

void VsockRelay::fail(Connection& one) {
  ++(one.state == State::kOpen ? state_.mut().resets : state_.mut().refused);
  close_socket(one);
  const bool guest_knows = one.state != State::kHello && (one.owed & kRequest) == 0;
  if (!guest_knows) return free(one);
  one.state = State::kEnded;
  one.owed = kReset;
  pay(one);
}

// ---- From the guest ----

bool VsockRelay::take_packets() {
  if (!send_orphans()) blocked_ = true;
  for (int i = 0; i < kMostInputs; ++i) {
    const std::span<const std::byte> packet = link_.receive();
    if (packet.empty()) return false;
    on_packet(packet);
    link_.consume();
  }
  return true;
}

void VsockRelay::on_packet(std::span<const std::byte> packet) {
  Header header;
  if (packet.size() < sizeof header) {
    ++state_.mut().bad_packets;
    return;
  }
  std::memcpy(&header, packet.data(), sizeof header);
  if (header.len != packet.size() - sizeof header) {
    ++state_.mut().bad_packets;
    return;
  }
  Connection* one = header.type == kTypeStream ? find(header.dst_port, header.src_port) : nullptr;
  if (one != nullptr) return on_packet_of(*one, header, packet.subspan(sizeof header));
  if (header.op == kOpRst) return;
  if (header.op != kOpRequest || header.type != kTypeStream) return refuse(header);
  on_request(header);
}

// Section 5.10.6.4: what belongs to no connection is answered by a reset.
void VsockRelay::refuse(const Header& header) {
  if (orphans_.size() == kMostOrphans) return;
  Header reset;
  reset.src_cid = header.dst_cid;
  reset.dst_cid = header.src_cid;
  reset.src_port = header.dst_port;
  reset.dst_port = header.src_port;
  reset.type = header.type;
  reset.op = kOpRst;
  orphans_.push_back(reset);
  if (!send_orphans()) blocked_ = true;
}

bool VsockRelay::send_orphans() {
  while (!orphans_.empty()) {
    if (!link_.has_room(sizeof(Header))) return false;
    link_.send(std::as_bytes(std::span(&orphans_.front(), 1)), {});
    orphans_.pop_front();
  }
  return true;
}

void VsockRelay::on_request(const Header& header) {
  Connection* one = take_free();
  if (one == nullptr) {
    ++state_.mut().refused;
    return refuse(header);
  }
  one->state = State::kConnecting;
  one->peer_alloc = header.buf_alloc;
  one->peer_passed = header.fwd_cnt;
  name_it(*one, header.dst_port, header.src_port);
  if (!sockets_.connect(header.dst_port, tag_of(*one))) fail(*one);
}

void VsockRelay::on_packet_of(Connection& one, const Header& header, std::span<const std::byte> payload) {
  one.peer_alloc = header.buf_alloc;
  one.peer_passed = header.fwd_cnt;
  const bool open = one.state == State::kOpen;
  switch (header.op) {
    case kOpRst:
      if (one.state == State::kAsked) ++state_.mut().refused;
      if (open && one.guest_shut != (kShutdownReceive | kShutdownSend) && one.our_shut == 0) ++state_.mut().resets;
      return free(one);
    case kOpResponse: {
      if (one.state != State::kAsked) return fail(one);
      one.state = State::kOpen;
      ++state_.mut().from_host;
      const std::string ok = fmt::format("OK {}\n", one.host_port);
      const auto bytes = std::as_bytes(std::span(ok));
      one.waiting.assign(bytes.begin(), bytes.end());
      one.greeting = ok.size();
      break;
    }
    case kOpShutdown:
      if (!open) return fail(one);
      one.guest_shut |= static_cast<std::uint8_t>(header.flags & (kShutdownReceive | kShutdownSend));
      break;
    case kOpRw:
      if (!open) return fail(one);
      on_data(one, payload);
      break;
    case kOpCreditUpdate: break;
    case kOpCreditRequest: one.owed |= kCredit; break;
    default: return fail(one);  // a second request, or nothing that there is
  }
  if (one.state != State::kFree && !pump(one)) blocked_ = true;
}

void VsockRelay::on_data(Connection& one, std::span<const std::byte> payload) {
  const std::size_t waiting = one.waiting.size() - one.waiting_done - one.greeting;
  if (payload.size() > kBufAlloc - std::min<std::size_t>(waiting, kBufAlloc)) return fail(one);  // beyond its credit
  if (!one.socket || one.gone) return;  // nobody reads it any more; the guest has been told
  if (one.waiting_done != 0) {
    one.waiting.erase(one.waiting.begin(), one.waiting.begin() + static_cast<std::ptrdiff_t>(one.waiting_done));
    one.waiting_done = 0;
  }
  one.waiting.insert(one.waiting.end(), payload.begin(), payload.end());
}

// ---- From the host's programs ----

bool VsockRelay::take_events() {
  for (int i = 0; i < kMostInputs; ++i) {
    const std::optional<SocketEvent> event = sockets_.next_event();
    if (!event) return false;
    on_event(*event);
  }
  return true;
}

void VsockRelay::on_event(const SocketEvent& event) {
  switch (event.kind) {
    case SocketEvent::Kind::kAccepted: return on_accepted(event.socket);
    case SocketEvent::Kind::kConnected:
    case SocketEvent::Kind::kRefused: return on_answer(event);
    case SocketEvent::Kind::kReady: break;
  }
  Connection* one = of_socket(event.socket);
  if (one == nullptr) return;
  one->readable = one->writable = true;
  one->gone |= event.gone;
  if (!pump(*one)) blocked_ = true;
}

void VsockRelay::on_accepted(SocketId socket) {
  Connection* one = take_free();
  if (one == nullptr || socket >= by_socket_.size()) {
    ++state_.mut().refused;
    return sockets_.close(socket);
  }
  one->state = State::kHello;
  one->from_host = true;
  one->socket = socket;
  one->readable = one->writable = true;
  by_socket_[socket] = static_cast<std::uint16_t>(one - connections_.data());
  if (!pump(*one)) blocked_ = true;
}

void VsockRelay::on_answer(const SocketEvent& event) {
  Connection& one = connections_[event.tag % kMostSockets];
  const bool waits = one.state == State::kConnecting && event.tag == tag_of(one);
  if (event.kind == SocketEvent::Kind::kRefused) {
    if (waits) fail(one);
    return;
  }
  if (!waits || event.socket >= by_socket_.size()) return sockets_.close(event.socket);  // the guest has given up
  one.socket = event.socket;
  by_socket_[event.socket] = static_cast<std::uint16_t>(&one - connections_.data());
  one.state = State::kOpen;
  one.owed |= kResponse;
  one.readable = one.writable = true;
  ++state_.mut().from_guest;
  if (!pump(one)) blocked_ = true;
}

void VsockRelay::read_hello(Connection& one) {
  // Byte by byte: what follows the line is the guest's.
  while (one.readable) {
    std::byte byte{};
    const StreamSockets::Moved moved = sockets_.read(*one.socket, std::span(&byte, 1));
    if (moved.result == StreamSockets::Moved::Result::kWait) {
      one.readable = false;
      return;
    }
    if (moved.result != StreamSockets::Moved::Result::kDone || one.hello_size == one.hello.size()) return fail(one);
    if (byte != std::byte{'\n'}) {
      one.hello[one.hello_size++] = static_cast<char>(byte);
      continue;
    }
    const std::string_view line(one.hello.data(), one.hello_size);
    std::uint32_t port = 0;
    const char* const end = line.data() + line.size();
    if (!line.starts_with(kConnect)) return fail(one);
    const auto parsed = std::from_chars(line.data() + kConnect.size(), end, port);
    if (parsed.ec != std::errc{} || parsed.ptr != end) return fail(one);
    while (find(next_host_port_, port) != nullptr) ++next_host_port_;  // there are more than connections
    name_it(one, next_host_port_++, port);
    if (next_host_port_ < kFirstHostPort) next_host_port_ = kFirstHostPort;
    one.state = State::kAsked;
    one.owed |= kRequest;
    return;
  }
}

// ---- Between the two ----

std::uint32_t VsockRelay::credit(const Connection& one) const {
  const std::uint32_t in_flight = one.sent - one.peer_passed;
  return in_flight < one.peer_alloc ? one.peer_alloc - in_flight : 0;
}

bool VsockRelay::send(Connection& one, std::uint16_t op, std::span<const std::byte> payload, std::uint32_t flags) {
  if (!link_.has_room(sizeof(Header) + payload.size())) {
    blocked_ = true;
    return false;
  }
  Header header;
  header.src_cid = to_cid(kHostCid);
  header.dst_cid = to_cid(config_.guest_cid);
  header.src_port = one.host_port;
  header.dst_port = one.guest_port;
  header.len = static_cast<std::uint32_t>(payload.size());
  header.type = kTypeStream;
  header.op = op;
  header.flags = flags;
  header.buf_alloc = kBufAlloc;
  header.fwd_cnt = one.passed;
  link_.send(std::as_bytes(std::span(&header, 1)), payload);
  one.told = one.passed;
  one.owed &= static_cast<std::uint8_t>(~kCredit);
  return true;
}

// Frees one that has nothing left but to say so.
void VsockRelay::pay(Connection& one) {
  const auto paid = [&one](Owed what) { one.owed &= static_cast<std::uint8_t>(~what); };
  if ((one.owed & kReset) != 0) {
    if (send(one, kOpRst)) free(one);
    return;
  }
  if ((one.owed & kRequest) != 0 && send(one, kOpRequest)) paid(kRequest);
  if ((one.owed & kResponse) != 0 && send(one, kOpResponse)) paid(kResponse);
  if (one.passed - one.told >= kTellAfter) one.owed |= kCredit;
  if ((one.owed & kCredit) != 0) (void)send(one, kOpCreditUpdate);
  if ((one.owed & kShutdown) != 0 && send(one, kOpShutdown, {}, one.our_shut)) paid(kShutdown);
}

bool VsockRelay::pump(Connection& one) {
  if (one.state == State::kHello) read_hello(one);
  pay(one);
  if (one.state == State::kAsked && one.gone && one.owed == 0) {
    fail(one);  // whoever asked has left
    return true;
  }
  if (one.state != State::kOpen || (one.owed & kResponse) != 0) return true;
  move_to_program(one);
  const bool done = one.state != State::kOpen || move_to_guest(one);
  if (one.state == State::kOpen) settle(one);
  if (one.state != State::kFree) pay(one);
  return done;
}

void VsockRelay::move_to_program(Connection& one) {
  while (one.socket && one.writable && one.waiting_done < one.waiting.size()) {
    const auto piece = std::span<const std::byte>(one.waiting).subspan(one.waiting_done);
    const StreamSockets::Moved moved = sockets_.write(*one.socket, piece);
    if (moved.result == StreamSockets::Moved::Result::kWait) {
      one.writable = false;
      break;
    }
    if (moved.result != StreamSockets::Moved::Result::kDone) {
      one.gone = true;
      break;
    }
    const std::size_t greeted = std::min(moved.bytes, one.greeting);
    one.greeting -= greeted;
    one.waiting_done += moved.bytes;
    one.passed += static_cast<std::uint32_t>(moved.bytes - greeted);
    state_.mut().to_host_bytes += moved.bytes - greeted;
  }
  if (!one.gone && one.waiting_done < one.waiting.size()) return;
  one.waiting.clear();
  one.waiting_done = one.greeting = 0;
}

// False: there may be more, and others are to have their turn.
bool VsockRelay::move_to_guest(Connection& one) {
  const bool wanted = (one.guest_shut & kShutdownReceive) == 0;
  for (std::size_t moved_bytes = 0; one.socket && one.readable && !one.ended && wanted;) {
    const std::uint32_t most = credit(one);
    if (most == 0) return true;  // the guest tells of more
    const auto piece = std::find_if(kPieces.begin(), kPieces.end(),
                                    [&](std::uint32_t size) { return link_.has_room(sizeof(Header) + size); });
    if (piece == kPieces.end()) {
      blocked_ = true;
      return true;
    }
    if (moved_bytes >= kMostAtOnce) return false;
    const auto out = std::span(scratch_).first(std::min(*piece, most));
    const StreamSockets::Moved moved = sockets_.read(*one.socket, out);
    switch (moved.result) {
      case StreamSockets::Moved::Result::kWait: one.readable = false; return true;
      case StreamSockets::Moved::Result::kDone: break;
      case StreamSockets::Moved::Result::kEnd: one.ended = true; return true;
      case StreamSockets::Moved::Result::kError: fail(one); return true;
    }
    (void)send(one, kOpRw, out.first(moved.bytes));
    one.sent += static_cast<std::uint32_t>(moved.bytes);
    moved_bytes += moved.bytes;
    state_.mut().to_guest_bytes += moved.bytes;
  }
  return true;
}

// Ends what has ended, on either side.
void VsockRelay::settle(Connection& one) {
  const bool all_passed = one.waiting.empty();
  const bool guest_done = (one.guest_shut & kShutdownSend) != 0 && all_passed;
  if (guest_done && !one.write_shut && one.socket) {
    sockets_.shut_write(*one.socket);
    one.write_shut = true;
  }
  const bool guest_left = one.guest_shut == (kShutdownReceive | kShutdownSend) && all_passed;
  if (guest_left || (guest_done && one.ended)) {
    // Section 5.10.6.5: a clean end is confirmed by a reset.
    close_socket(one);
    one.state = State::kEnded;
    one.owed = kReset;
    return;
  }
  // What it has still said is for a guest that does not listen any more.
  if (one.gone && (one.guest_shut & kShutdownReceive) != 0) one.ended = true;
  std::uint8_t shut = one.our_shut;
  if (one.ended) shut |= kShutdownSend;
  if (one.gone && one.ended) shut |= kShutdownReceive;
  if (shut == one.our_shut) return;
  one.our_shut = shut;
  one.owed |= kShutdown;
  if (shut == (kShutdownReceive | kShutdownSend)) close_socket(one);
}

bool VsockRelay::pump_all() {
  blocked_ = false;
  if (!send_orphans()) blocked_ = true;
  bool more = false;
  // Each time from another one on, so that none takes all the room.
  next_pumped_ = (next_pumped_ + 1) % connections_.size();
  for (std::size_t i = 0; i < connections_.size(); ++i) {
    Connection& one = connections_[(next_pumped_ + i) % connections_.size()];
    if (one.state == State::kFree) continue;
    if (!pump(one)) more = blocked_ = true;
  }
  return more;
}

void VsockRelay::inspect(Inspector& inspector) const {
  const VsockRelayState& s = state_.get();
  inspector.field("connections", connections_.size() - free_.size());
  inspector.field("from_host", s.from_host);
  inspector.field("from_guest", s.from_guest);
  inspector.field("refused", s.refused);
  inspector.field("resets", s.resets);
  inspector.field("to_host_bytes", s.to_host_bytes);
  inspector.field("to_guest_bytes", s.to_guest_bytes);
  inspector.field("bad_packets", s.bad_packets);
}

}  // namespace bulkhead::devproc
