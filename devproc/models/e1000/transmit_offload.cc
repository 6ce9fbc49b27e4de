#include "devproc/models/e1000/transmit_offload.h"

#include <algorithm>

#include "devproc/core/checksum.h"

namespace bulkhead::devproc {

using namespace e1000_spec;

namespace {

// Places in headers.
constexpr std::size_t kIp4Header = 20;
constexpr std::size_t kIp4Length = 2;
constexpr std::size_t kIp4Id = 4;
constexpr std::size_t kIp4Checksum = 10;
constexpr std::size_t kIp6Header = 40;
constexpr std::size_t kIp6Length = 4;
constexpr std::size_t kTcpHeader = 20;
constexpr std::size_t kTcpSequence = 4;
constexpr std::size_t kTcpDataOffset = 12;
constexpr std::size_t kTcpFlags = 13;
constexpr std::size_t kTcpChecksum = 16;
constexpr std::byte kTcpFinPsh{0x09};
constexpr std::size_t kUdpHeader = 8;
constexpr std::size_t kUdpLength = 4;

std::size_t ip_header(const TransmitContext& context) { return context.ipv4 ? kIp4Header : kIp6Header; }

void set_lengths(std::span<std::byte> frame, const TransmitContext& context) {
  const std::size_t behind_link = frame.size() - context.ip.start;
  if (context.ipv4)
    store_be16(frame, context.ip.start + kIp4Length, static_cast<std::uint32_t>(behind_link));
  else
    store_be16(frame, context.ip.start + kIp6Length, static_cast<std::uint32_t>(behind_link - kIp6Header));
}

// The driver's pseudo-header has no length: it differs by segment (SDM, 3.5.7).
void add_length_to_pseudo_header(std::span<std::byte> frame, const TransmitContext& context) {
  const std::size_t at = context.payload.offset;
  std::uint32_t sum = load_be16(frame, at) + static_cast<std::uint32_t>(frame.size() - context.payload.start);
  sum = (sum & 0xffff) + (sum >> 16);
  store_be16(frame, at, (sum & 0xffff) + (sum >> 16));
}

}  // namespace

TransmitContext TransmitContext::parse(const Descriptor& descriptor) {
  const auto byte = [&](unsigned at) { return static_cast<std::uint32_t>(descriptor.address >> at) & 0xff; };
  const auto half = [&](unsigned at) { return static_cast<std::uint32_t>(descriptor.address >> at) & 0xffff; };
  const auto command = static_cast<std::uint8_t>(descriptor.rest >> kTxCmdShift);
  return {.ip = {byte(0), byte(8), half(16)},
          .payload = {byte(32), byte(40), half(48)},
          .header = static_cast<std::uint32_t>(descriptor.rest >> 40) & 0xff,
          .mss = static_cast<std::uint32_t>(descriptor.rest >> 48) & 0xffff,
          .ipv4 = (command & kTucmdIp) != 0,
          .tcp = (command & kTucmdTcp) != 0};
}

TransmitContext TransmitContext::behind_tag() const {
  TransmitContext moved = *this;
  for (ChecksumPlace* place : {&moved.ip, &moved.payload}) {
    place->start += kVlanTag;
    place->offset += kVlanTag;
    if (place->end != 0) place->end += kVlanTag;
  }
  moved.header += kVlanTag;
  return moved;
}

bool insert_checksum(std::span<std::byte> frame, const ChecksumPlace& place, bool zero_is_ones) {
  const std::size_t end = place.end == 0 ? frame.size() : std::min<std::size_t>(place.end + 1U, frame.size());
  if (place.start >= end || place.offset + 2U > frame.size()) return false;
  std::uint32_t checksum = static_cast<std::uint16_t>(~internet_sum(frame.subspan(place.start, end - place.start)));
  if (checksum == 0 && zero_is_ones) checksum = 0xffff;
  store_be16(frame, place.offset, checksum);
  return true;
}

bool checksum_to_header(std::span<const std::byte> frame, const ChecksumPlace& place, FrameHeader& header) {
  if ((place.end != 0 && place.end + 1U < frame.size()) || place.offset < place.start ||
      place.offset + 2U > frame.size())
    return false;
  header.flags = kFrameNeedsChecksum;
  header.csum_start = static_cast<std::uint16_t>(place.start);
  header.csum_offset = static_cast<std::uint16_t>(place.offset - place.start);
  return true;
}

bool can_segment(std::span<const std::byte> frame, const TransmitContext& context) {
  const std::size_t transport = context.tcp ? kTcpHeader : kUdpHeader;
  return context.mss != 0 && context.header <= frame.size() && context.ip.start >= kEthernetHeader &&
         context.ip.start + ip_header(context) <= context.payload.start &&
         context.payload.start + transport <= context.header && context.ip.offset + 2U <= context.header &&
         context.payload.offset >= context.payload.start && context.payload.offset + 2U <= context.header;
}

std::size_t segment_count(std::size_t frame, const TransmitContext& context) {
  const std::size_t payload = frame - context.header;
  return std::max<std::size_t>((payload + context.mss - 1) / context.mss, 1);
}

void finish_segment(std::span<std::byte> segment, const TransmitContext& context, std::uint8_t popts, std::size_t index,
                    std::size_t count) {
  set_lengths(segment, context);
  if (context.ipv4) {
    const std::size_t at = context.ip.start + kIp4Id;
    store_be16(segment, at, static_cast<std::uint32_t>(load_be16(segment, at) + index));
  }
  if (context.tcp) {
    const std::size_t at = context.payload.start + kTcpSequence;
    store_be32(segment, at, static_cast<std::uint32_t>(load_be32(segment, at) + index * context.mss));
    if (index + 1 < count) segment[context.payload.start + kTcpFlags] &= ~kTcpFinPsh;
  } else {
    store_be16(segment, context.payload.start + kUdpLength,
               static_cast<std::uint32_t>(segment.size() - context.payload.start));
  }
  if ((popts & kTxPoptsTxsm) != 0) {
    add_length_to_pseudo_header(segment, context);
    insert_checksum(segment, context.payload, !context.tcp);
  }
  if ((popts & kTxPoptsIxsm) != 0) insert_checksum(segment, context.ip);
}

bool segments_to_header(std::span<std::byte> frame, const TransmitContext& context, std::uint8_t popts,
                        FrameHeader& header) {
  const std::size_t tcp = context.payload.start;
  // Whoever segments looks at the headers himself: they must be what the driver says they are.
  if (!context.tcp || (popts & kTxPoptsTxsm) == 0 || context.payload.end != 0 ||
      context.payload.offset != tcp + kTcpChecksum || frame.size() - context.ip.start > 0xffff)
    return false;
  const auto version = std::to_integer<unsigned>(frame[context.ip.start]) >> 4;
  const std::size_t data_offset = std::size_t{std::to_integer<unsigned>(frame[tcp + kTcpDataOffset]) >> 4} * 4;
  if (version != (context.ipv4 ? 4U : 6U) || tcp + data_offset != context.header) return false;
  if (context.ipv4) {
    const std::size_t length = std::size_t{std::to_integer<unsigned>(frame[context.ip.start]) & 0xf} * 4;
    if ((popts & kTxPoptsIxsm) == 0 || context.ip.offset != context.ip.start + kIp4Checksum ||
        context.ip.start + length != tcp)
      return false;
  }
  set_lengths(frame, context);
  add_length_to_pseudo_header(frame, context);
  if (context.ipv4) insert_checksum(frame, {context.ip.start, context.ip.offset, static_cast<std::uint32_t>(tcp - 1)});
  header = {.flags = kFrameNeedsChecksum,
            .gso_type = context.ipv4 ? kFrameGsoTcp4 : kFrameGsoTcp6,
            .hdr_len = static_cast<std::uint16_t>(context.header),
            .gso_size = static_cast<std::uint16_t>(context.mss),
            .csum_start = static_cast<std::uint16_t>(tcp),
            .csum_offset = kTcpChecksum};
  return true;
}

}  // namespace bulkhead::devproc
