// FrameHeader: what stands in front of each frame of a FrameBackend: struct virtio_net_hdr_v1.
//
// Document: VIRTIO 1.2, section 5.1.6; little-endian, as is this host.
#pragma once

#include <cstdint>
#include <type_traits>

#include "devproc/core/frame_backend.h"

namespace bulkhead::devproc {

struct FrameHeader {
  std::uint8_t flags = 0;
  std::uint8_t gso_type = 0;
  std::uint16_t hdr_len = 0;      // of the link, network and transport headers
  std::uint16_t gso_size = 0;     // payload of each segment
  std::uint16_t csum_start = 0;   // from the frame's begin
  std::uint16_t csum_offset = 0;  // from csum_start
  std::uint16_t num_buffers = 0;
};
static_assert(sizeof(FrameHeader) == kFrameHeader && std::has_unique_object_representations_v<FrameHeader>);

inline constexpr std::uint8_t kFrameNeedsChecksum = 1;  // flags
inline constexpr std::uint8_t kFrameDataValid = 2;
inline constexpr std::uint8_t kFrameGsoNone = 0;
inline constexpr std::uint8_t kFrameGsoTcp4 = 1;
inline constexpr std::uint8_t kFrameGsoTcp6 = 4;

}  // namespace bulkhead::devproc
