// What may stand in the header of a frame, in either direction.
//
// Document: VIRTIO 1.2, sections 5.1.6.2 (transmission), 5.1.6.4 (reception). Pure functions; nothing is trusted.
#pragma once

#include <cstdint>

#include "devproc/models/virtio_net/spec.h"

namespace bulkhead::devproc {

// Which offloads were agreed on for this direction.
struct OffloadRules {
  bool checksum = false;
  bool tso4 = false;
  bool tso6 = false;
  bool ecn = false;
  bool data_valid = false;         // DATA_VALID means something: received frames only
  bool gso_needs_checksum = true;  // "the driver MUST also set NEEDS_CSUM"; a TAP's frames may be complete already
};

enum class HeaderVerdict : std::uint8_t { kGood, kNotAgreed, kMalformed };

// Checks the header of a frame of `length` bytes (without the header), and clears what means nothing in it.
HeaderVerdict clean_header(virtio_net_spec::NetHdr& header, std::uint64_t length, const OffloadRules& rules);

}  // namespace bulkhead::devproc
