// E1000's transmission: SDM, sections 3.3 to 3.6.
#include <algorithm>
#include <cstring>

#include "devproc/core/checksum.h"
#include "devproc/models/e1000/e1000.h"
#include "devproc/models/e1000/timers.h"

namespace bulkhead::devproc {

using namespace e1000_spec;

namespace {

std::uint8_t command_of(const Descriptor& descriptor) {
  return static_cast<std::uint8_t>(descriptor.rest >> kTxCmdShift);
}
bool is_extended(const Descriptor& descriptor) { return (command_of(descriptor) & kTxCmdDext) != 0; }
std::uint8_t type_of(const Descriptor& descriptor) { return static_cast<std::uint8_t>(descriptor.rest >> 20 & 0xf); }
bool is_context(const Descriptor& descriptor) {
  return is_extended(descriptor) && type_of(descriptor) == kTxTypeContext;
}
std::uint32_t length_of(const Descriptor& descriptor) {
  return static_cast<std::uint32_t>(descriptor.rest & (is_extended(descriptor) ? 0xf'ffff : 0xffff));
}
bool ends_packet(const Descriptor& descriptor) {
  return !is_context(descriptor) && (command_of(descriptor) & kTxCmdEop) != 0;
}
bool asks_for_status(const Descriptor& descriptor) { return (command_of(descriptor) & (kTxCmdRs | kTxCmdRps)) != 0; }

}  // namespace

void E1000::transmit_later() { timers_.arm(kWorkTimer, clock_.now()); }

// True: there is more to do, in an input of its own.
bool E1000::transmit() {
  if (!may_work() || (plain(kTctl) & kTctlEn) == 0) return false;
  if (state_->send_blocked != 0) state_.mut().send_blocked = 0;
  std::uint64_t bytes_before = state_->counters.sent_bytes;
  bool any = false;
  for (unsigned i = 0; i < kMostFrames && state_->counters.sent_bytes - bytes_before < kMostBytes; ++i) {
    if (!gather()) {
      if (any && state_->transmit.empty()) raise(kIntTxqe);
      return false;
    }
    // What loops back is told of in the receive ring, by at most so many stores.
    const std::size_t received = any && loops_back() ? kMostLong / buffer_size(plain(kRctl)) : 0;
    if (packet_size_ + received > publisher_.room()) return true;
    switch (send_packet()) {
      case Sending::kFull: state_.mut().send_blocked = 1; return false;
      case Sending::kMore: return true;
      case Sending::kBad: count(&E1000Counters::sent_bad); break;
      case Sending::kDone: break;
    }
    complete_packet();
    any = true;
  }
  if (state_->transmit.empty()) raise(kIntTxqe);
  return !state_->transmit.empty();
}

bool E1000::gather() {
  const E1000Ring& ring = state_->transmit;
  packet_size_ = 0;
  packet_whole_ = false;
  if (ring.empty()) return false;
  for (std::uint32_t at = ring.head; at != ring.tail; at = ring.next(at)) {
    // A ring outside RAM: nothing to send, and nothing to write back to.
    const Descriptor descriptor = memory_.load<Descriptor>(ring.descriptor(at)).value_or(Descriptor{});
    packet_[packet_size_++] = descriptor;
    // A context descriptor in front of a packet is a packet of its own, without a frame.
    if (packet_size_ == 1 && is_context(descriptor)) return true;
    packet_whole_ = ends_packet(descriptor);
    if (packet_whole_ || packet_size_ == kMostDescriptors) return true;
  }
  return false;
}

void E1000::take_context(const Descriptor& descriptor) {
  const std::size_t which = (command_of(descriptor) & kTxCmdTse) != 0 ? 2 : 0;
  auto& context = state_.mut().context;
  context[which] = descriptor.address;
  context[which + 1] = descriptor.rest;
  if (which != 0) count_statistic(kTsctc);
}

E1000::Sending E1000::send_packet() {
  const auto packet = std::span(packet_).first(packet_size_);
  if (is_context(packet.front())) {
    take_context(packet.front());
    return Sending::kDone;
  }
  if (!packet_whole_ || state_->dropping != 0) {
    state_.mut().dropping = packet_whole_ ? 0 : 1;
    return Sending::kBad;
  }
  std::uint64_t bytes = 0;
  for (const Descriptor& one : packet) {
    if (!is_context(one)) bytes += length_of(one);
  }
  const Descriptor& first = *std::find_if_not(packet.begin(), packet.end(), is_context);
  const Descriptor& last = packet.back();
  const bool extended = is_extended(first);
  const bool segments = extended && (command_of(first) & kTxCmdTse) != 0;
  if (bytes > (segments ? kMostFrame - kFrameHeader : kMostLong)) return Sending::kBad;
  if (!read_packet(bytes)) {
    count(&E1000Counters::sent_bad_memory);
    return Sending::kDone;
  }
  if ((command_of(last) & kTxCmdIfcs) == 0) bytes -= std::min<std::uint64_t>(bytes, kFcs);  // it brings its own
  if (bytes < kEthernetHeader) return Sending::kBad;
  std::span<std::byte> frame = std::span(*sent_).subspan(kHeadroom, bytes);
  // A tag goes behind both addresses, and everything else moves.
  const bool tagged = (command_of(last) & kTxCmdVle) != 0 && (plain(kCtrl) & kCtrlVme) != 0;
  if (tagged) {
    frame = std::span(*sent_).subspan(kHeadroom - kVlanTag, bytes + kVlanTag);
    std::memmove(frame.data(), frame.data() + kVlanTag, kEthernetType);
    store_be16(frame, kEthernetType, plain(kVet));
    store_be16(frame, kEthernetHeader, static_cast<std::uint32_t>(last.rest >> 48));
  }
  if (!extended) {
    FrameHeader header;
    const auto css = static_cast<std::uint32_t>(last.rest >> 40) & 0xff;
    const auto cso = static_cast<std::uint32_t>(last.rest >> 16) & 0xff;
    const std::uint32_t moved = tagged ? kVlanTag : 0;
    if ((command_of(last) & kTxCmdIc) != 0) {
      const ChecksumPlace place{.start = css + moved, .offset = cso + moved, .end = 0};
      const bool by_backend = backend_offloads() && checksum_to_header(frame, place, header);
      if (!by_backend && !insert_checksum(frame, place)) return Sending::kBad;
    }
    return put_out(frame, header);
  }
  const auto popts = static_cast<std::uint8_t>(first.rest >> 40);
  const std::size_t which = segments ? 2 : 0;
  TransmitContext context = TransmitContext::parse({state_->context[which], state_->context[which + 1]});
  if (tagged) context = context.behind_tag();
  if (segments) return send_segments(frame, context, popts);
  FrameHeader header;
  if ((popts & kTxPoptsIxsm) != 0 && !insert_checksum(frame, context.ip)) return Sending::kBad;
  if ((popts & kTxPoptsTxsm) != 0) {
    const bool by_backend = backend_offloads() && checksum_to_header(frame, context.payload, header);
    if (!by_backend && !insert_checksum(frame, context.payload, !context.tcp)) return Sending::kBad;
  }
  return put_out(frame, header);
}

// Into sent_, behind its headroom.
bool E1000::read_packet(std::size_t bytes) {
  std::span<std::byte> left = std::span(*sent_).subspan(kHeadroom, bytes);
  for (const Descriptor& one : std::span(packet_).first(packet_size_)) {
    if (is_context(one)) continue;
    if (!memory_.read(one.address, left.first(length_of(one)))) return false;
    left = left.subspan(length_of(one));
  }
  return true;
}

E1000::Sending E1000::send_segments(std::span<std::byte> frame, const TransmitContext& context, std::uint8_t popts) {
  if (!can_segment(frame, context)) {
    count_statistic(kTsctfc);
    return Sending::kBad;
  }
  const std::size_t count = segment_count(frame.size(), context);
  FrameHeader header;
  if (count > 1 && backend_offloads() && segments_to_header(frame, context, popts, header))
    return put_out(frame, header);
  for (std::size_t i = state_->segments_sent; i < count; ++i) {
    const std::size_t done = context.header + i * context.mss;
    const std::size_t here = std::min<std::size_t>(context.mss, frame.size() - done);
    const std::span<std::byte> segment = std::span(*segment_).subspan(kHeadroom, context.header + here);
    std::ranges::copy(frame.first(context.header), segment.begin());
    std::ranges::copy(frame.subspan(done, here), segment.begin() + context.header);
    finish_segment(segment, context, popts, i, count);
    const bool enough = i - state_->segments_sent == kMostSegments;
    if (enough || put_out(segment, {}) == Sending::kFull) {
      state_.mut().segments_sent = static_cast<std::uint32_t>(i);
      return enough ? Sending::kMore : Sending::kFull;
    }
  }
  return Sending::kDone;
}

// `frame` lies in a buffer with room for the backend's header in front, and for padding behind.
E1000::Sending E1000::put_out(std::span<std::byte> frame, const FrameHeader& header) {
  std::size_t size = frame.size();
  if (size < kLeastFrame && (plain(kTctl) & kTctlPsp) != 0) {
    std::memset(frame.data() + size, 0, kLeastFrame - size);
    size = kLeastFrame;
  }
  const std::span<std::byte> whole(frame.data() - sizeof(header), size + sizeof(header));
  std::memcpy(whole.data(), &header, sizeof(header));
  if (loops_back()) {
    if (may_receive() && take(whole) == Receiving::kNoBuffers) count_statistic(kMpc);
  } else if (frames_.send(whole, {}) == FrameBackend::Sent::kFull) {
    return Sending::kFull;
  }
  count(&E1000Counters::sent_frames);
  count(&E1000Counters::sent_bytes, size);
  count_statistic(kTpt);
  count_statistic(kGptc);
  count_statistic_64(kTotl, size + kFcs);
  count_statistic_64(kGotcl, size + kFcs);
  count_frame(frame, size + kFcs, kBptc, kMptc, kPtc64);
  return Sending::kDone;
}

void E1000::complete_packet() {
  E1000State& s = state_.mut();
  const std::uint32_t left_before = s.transmit.available();
  bool told = false;
  bool at_once = false;
  for (const Descriptor& one : std::span(packet_).first(packet_size_)) {
    if (asks_for_status(one)) {
      publisher_.publish(s.transmit.descriptor(s.transmit.head) + offsetof(Descriptor, rest),
                         (one.rest & ~kTxSta) | kTxDd);
      told = true;
      at_once = at_once || (command_of(one) & kTxCmdIde) == 0;
    }
    if (is_context(one) && packet_size_ > 1) take_context(one);
    s.transmit.head = s.transmit.next(s.transmit.head);
  }
  s.segments_sent = 0;
  const std::uint32_t threshold = (plain(kTxdctl) >> kTxdctlLwthreshShift & 0x7f) * 8;
  if (threshold != 0 && left_before > threshold && s.transmit.available() <= threshold) raise(kIntTxdLow);
  if (told) delay_transmit_interrupt(at_once);
}

}  // namespace bulkhead::devproc
