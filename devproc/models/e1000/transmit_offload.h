// What the 82540EM does to a frame on its way out: checksums, segments, VLAN tags.
//
// Document: SDM, sections 3.3.6 (context descriptors), 3.4, 3.5 (TCP segmentation), 3.6 (checksum offloading). Pure
// functions over bytes. Trust: frames and contexts are the guest's: whatever does not fit is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "devproc/core/frame_header.h"
#include "devproc/models/e1000/spec.h"

namespace bulkhead::devproc {

// A range of the frame that is summed up, and where the checksum goes.
struct ChecksumPlace {
  std::uint32_t start = 0;
  std::uint32_t offset = 0;
  std::uint32_t end = 0;  // the last byte; 0: the frame's
};

struct TransmitContext {
  ChecksumPlace ip;
  ChecksumPlace payload;     // TCP or UDP
  std::uint32_t header = 0;  // bytes of all headers: segmentation alone
  std::uint32_t mss = 0;
  bool ipv4 = false;
  bool tcp = false;

  [[nodiscard]] static TransmitContext parse(const e1000_spec::Descriptor& descriptor);
  // The same when a tag was put in front of all that.
  [[nodiscard]] TransmitContext behind_tag() const;
};

// Puts the checksum where it belongs. False: it would lie outside; nothing was changed.
bool insert_checksum(std::span<std::byte> frame, const ChecksumPlace& place, bool zero_is_ones = false);

// Whether somebody who knows VIRTIO's frame header can do it: then fills `header`.
bool checksum_to_header(std::span<const std::byte> frame, const ChecksumPlace& place, FrameHeader& header);

// A frame that is to be segmented: whether its headers are what `context` says (false: there is nothing sensible to
// do).
[[nodiscard]] bool can_segment(std::span<const std::byte> frame, const TransmitContext& context);
[[nodiscard]] std::size_t segment_count(std::size_t frame, const TransmitContext& context);

// Segment `index` of `count`: its headers stand in `segment` as the driver wrote them, its payload behind them.
void finish_segment(std::span<std::byte> segment, const TransmitContext& context, std::uint8_t popts, std::size_t index,
                    std::size_t count);

// Likewise for whoever segments by VIRTIO's frame header: TCP over IPv4 or IPv6, as Linux takes it from a TAP.
// False: it cannot be said in `header`; the frame is as it was.
bool segments_to_header(std::span<std::byte> frame, const TransmitContext& context, std::uint8_t popts,
                        FrameHeader& header);

}  // namespace bulkhead::devproc
