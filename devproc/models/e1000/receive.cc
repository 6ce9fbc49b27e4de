// E1000's reception: SDM, section 3.2.
#include <algorithm>
#include <cstring>

#include "devproc/core/checksum.h"
#include "devproc/models/e1000/e1000.h"

namespace bulkhead::devproc {

using namespace e1000_spec;

namespace {

constexpr std::uint16_t kTypeIp4 = 0x0800;
constexpr std::uint16_t kTypeIp6 = 0x86dd;
constexpr std::uint8_t kProtocolTcp = 6;
constexpr std::uint8_t kProtocolUdp = 17;
constexpr std::uint64_t status_bits(std::uint8_t status) { return std::uint64_t{status} << 32; }
constexpr std::uint64_t error_bits(std::uint8_t errors) { return std::uint64_t{errors} << 40; }

// The transport's bytes and the sum of its pseudo-header.
struct Transport {
  std::span<const std::byte> bytes;
  std::uint32_t pseudo = 0;
  std::uint8_t protocol = 0;
};

}  // namespace

bool E1000::may_receive() const { return (plain(kRctl) & kRctlEn) != 0 && may_work(); }

// True: there may be more frames than one input handles.
bool E1000::receive() {
  if (!may_receive() || loops_back()) {
    frames_.set_wanted(false);
    return false;
  }
  std::uint64_t bytes = 0;
  for (unsigned i = 0; i < kMostFrames && bytes < kMostBytes; ++i) {
    const std::span<const std::byte> frame = frames_.receive();
    if (frame.empty()) return false;
    bytes += frame.size();
    switch (take(frame)) {
      case Receiving::kTaken:
      case Receiving::kDropped: break;
      case Receiving::kNoRoom: return true;
      case Receiving::kNoBuffers:
        if (state_->starved == 0) {
          state_.mut().starved = 1;
          count_statistic(kRnbc);
          raise(kIntRxo);
        }
        frames_.set_wanted(false);  // until the driver moves RDT
        return false;
    }
    frames_.consume();
  }
  return true;
}

// `frame` with the backend's header. What it changes, but for kTaken and kDropped, it changes in scratch memory alone.
E1000::Receiving E1000::take(std::span<const std::byte> frame) {
  const std::uint32_t rctl = plain(kRctl);
  FrameHeader header;
  if (frame.size() < sizeof(header) + kEthernetHeader) {
    count(&E1000Counters::received_bad_length);
    count_statistic(kRuc);
    return Receiving::kDropped;
  }
  std::memcpy(&header, frame.data(), sizeof(header));
  frame = frame.subspan(sizeof(header));
  // The backend was told that nothing of the kind is taken.
  const std::size_t csum_end = std::size_t{header.csum_start} + header.csum_offset + 2;
  const bool partial = (header.flags & kFrameNeedsChecksum) != 0;
  if (header.gso_type != kFrameGsoNone || (partial && (csum_end > frame.size() || header.csum_start == 0))) {
    count(&E1000Counters::received_bad_header);
    return Receiving::kDropped;
  }
  const std::size_t on_wire = std::max(frame.size(), kLeastFrame) + kFcs;
  if (on_wire > ((rctl & kRctlLpe) != 0 ? kMostLong : kMostPlain)) {
    count(&E1000Counters::received_bad_length);
    count_statistic(kRoc);
    return Receiving::kDropped;
  }
  const std::uint32_t vet = plain(kVet);
  const E1000Filter::Verdict verdict = filter_->judge(frame, rctl, vet);
  if (verdict == E1000Filter::Verdict::kRefused) {
    count_statistic(kTpr);
    count_statistic_64(kTorl, on_wire);
    count(&E1000Counters::received_filtered);
    return Receiving::kDropped;
  }

  std::span<std::byte> own(*received_);
  std::memcpy(own.data(), frame.data(), frame.size());
  std::fill(own.begin() + static_cast<std::ptrdiff_t>(frame.size()), own.begin() + static_cast<std::ptrdiff_t>(on_wire),
            std::byte{0});
  own = own.first(on_wire - kFcs);
  if (partial) {
    const auto rest = own.subspan(header.csum_start, frame.size() - header.csum_start);
    store_be16(own, header.csum_start + std::size_t{header.csum_offset}, ~std::uint32_t{internet_sum(rest)});
  }
  std::uint32_t fcs = 0;
  if ((rctl & kRctlSecrc) == 0) fcs = frame_check_sequence(own);
  std::uint64_t rest = status_bits(kRxDd | kRxEop);
  if (verdict == E1000Filter::Verdict::kInexact) rest |= status_bits(kRxPif);
  rest |= judge_checksums(own, partial || (header.flags & kFrameDataValid) != 0);
  if (load_be16(own, kEthernetType) == vet && (plain(kCtrl) & kCtrlVme) != 0) {
    rest |= status_bits(kRxVp) | std::uint64_t{load_be16(own, kEthernetHeader)} << 48;
    std::memmove(own.data() + kVlanTag, own.data(), kEthernetType);
    own = own.subspan(kVlanTag);
  }
  const auto sum_from = std::min<std::size_t>(plain(kRxcsum) & kRxcsumPcss, own.size());
  rest |= std::uint64_t{internet_sum(own.subspan(sum_from))} << 16;
  // Behind the frame, in place of the padding.
  if ((rctl & kRctlSecrc) == 0) std::memcpy(own.data() + own.size(), &fcs, kFcs);
  const auto offset = static_cast<std::size_t>(own.data() - received_->data());
  const std::size_t size = own.size() + ((rctl & kRctlSecrc) == 0 ? kFcs : 0);
  if (offset != 0) std::memmove(received_->data(), own.data(), size);

  const Receiving result = deliver(size, rest);
  if (result == Receiving::kNoBuffers || result == Receiving::kNoRoom) return result;
  count_statistic(kTpr);
  count_statistic_64(kTorl, on_wire);
  if (result == Receiving::kDropped) {
    count_statistic(kMpc);
    count(&E1000Counters::received_no_fit);
    return result;
  }
  count(&E1000Counters::received_frames);
  count(&E1000Counters::received_bytes, frame.size());
  count_statistic(kGprc);
  count_statistic_64(kGorcl, on_wire);
  count_frame(frame, on_wire, kBprc, kMprc, kPrc64);
  delay_receive_interrupt(size);
  return result;
}

// The bytes in received_ into as many descriptors' buffers as they take; `last_rest` is what the last one tells but
// for its length.
E1000::Receiving E1000::deliver(std::size_t size, std::uint64_t last_rest) {
  const E1000Ring& ring = state_->receive;
  const std::uint32_t buffer = buffer_size(plain(kRctl));
  const std::size_t pieces = (size + buffer - 1) / buffer;
  if (!ring.usable() || pieces > ring.available()) {
    const bool never = ring.usable() && pieces >= ring.count();
    return never ? Receiving::kDropped : Receiving::kNoBuffers;
  }
  if (pieces > publisher_.room()) return Receiving::kNoRoom;
  const std::uint32_t before = ring.available();
  std::uint32_t head = ring.head;
  bool bad_memory = false;
  for (std::size_t done = 0; done < size; done += buffer) {
    const auto piece = std::span(*received_).subspan(done, std::min<std::size_t>(buffer, size - done));
    const std::uint64_t where = ring.descriptor(head);
    const auto descriptor = memory_.load<Descriptor>(where);
    if (!descriptor || !memory_.write(descriptor->address, piece)) bad_memory = true;
    const bool last = done + buffer >= size;
    const std::uint64_t rest = last ? last_rest : status_bits(kRxDd);
    publisher_.publish(where + offsetof(Descriptor, rest), rest | piece.size());
    head = ring.next(head);
  }
  if (bad_memory) count(&E1000Counters::received_bad_memory);
  state_.mut().receive.head = head;
  // The threshold is told of when it is reached, not all the time below it.
  const std::uint32_t threshold = ring.count() >> (1 + std::min(plain(kRctl) >> kRctlRdmtsShift & 3, 2U));
  const std::uint32_t now = ring.available();
  if (before > threshold && now <= threshold) raise(kIntRxdmt0);
  return Receiving::kTaken;
}

// Status and errors about checksums (SDM, 3.2.9). `known_good`: the backend has looked at them, or made them.
std::uint64_t E1000::judge_checksums(std::span<const std::byte> frame, bool known_good) const {
  const std::uint32_t rxcsum = plain(kRxcsum);
  constexpr std::uint64_t kIgnore = status_bits(kRxIxsm);
  if ((rxcsum & (kRxcsumIpofl | kRxcsumTuofl)) == 0) return kIgnore;
  std::size_t type = kEthernetType;
  if (load_be16(frame, type) == plain(kVet)) type += kVlanTag;
  if (type + 2 > frame.size()) return kIgnore;
  const std::uint16_t ethertype = load_be16(frame, type);
  const std::span<const std::byte> ip = frame.subspan(type + 2);
  std::uint64_t bits = 0;
  Transport transport;
  if (ethertype == kTypeIp4) {
    if (ip.size() < 20) return kIgnore;
    const std::size_t header = (std::to_integer<std::size_t>(ip[0]) & 0xf) * 4;
    const std::size_t total = load_be16(ip, 2);
    if (header < 20 || total < header || total > ip.size()) return kIgnore;
    if ((rxcsum & kRxcsumIpofl) != 0)
      bits |= status_bits(kRxIpcs) | (internet_sum(ip.first(header)) == 0xffff ? 0 : error_bits(kRxIpe));
    if ((load_be16(ip, 6) & 0x3fff) == 0) {  // no fragment
      transport.protocol = std::to_integer<std::uint8_t>(ip[9]);
      transport.bytes = ip.subspan(header, total - header);
      transport.pseudo = internet_sum(ip.subspan(12, 8));
    }
  } else if (ethertype == kTypeIp6) {
    if (ip.size() < 40 || std::size_t{load_be16(ip, 4)} + 40 > ip.size()) return kIgnore;
    transport.protocol = std::to_integer<std::uint8_t>(ip[6]);
    transport.bytes = ip.subspan(40, load_be16(ip, 4));
    transport.pseudo = internet_sum(ip.subspan(8, 32));
  } else {
    return kIgnore;
  }
  const std::size_t place = transport.protocol == kProtocolTcp ? 16 : 6;
  const bool known = transport.protocol == kProtocolTcp || transport.protocol == kProtocolUdp;
  if ((rxcsum & kRxcsumTuofl) == 0 || !known || transport.bytes.size() < place + 2) return bits != 0 ? bits : kIgnore;
  if (transport.protocol == kProtocolUdp && load_be16(transport.bytes, place) == 0) return bits != 0 ? bits : kIgnore;
  const std::uint32_t pseudo =
      transport.pseudo + transport.protocol + static_cast<std::uint32_t>(transport.bytes.size());
  const bool good = known_good || internet_sum(transport.bytes, pseudo) == 0xffff;
  return bits | status_bits(kRxTcpcs) | (good ? 0 : error_bits(kRxTcpe));
}

}  // namespace bulkhead::devproc
