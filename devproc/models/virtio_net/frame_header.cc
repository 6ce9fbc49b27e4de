#include "devproc/models/virtio_net/frame_header.h"

#include <algorithm>

namespace bulkhead::devproc {

using namespace virtio_net_spec;

namespace {

HeaderVerdict check_gso(const NetHdr& header, const OffloadRules& rules) {
  const auto type = static_cast<std::uint8_t>(header.gso_type & ~kNetHdrGsoEcn);
  const bool ecn = (header.gso_type & kNetHdrGsoEcn) != 0;
  if (type == kNetHdrGsoNone) return ecn ? HeaderVerdict::kMalformed : HeaderVerdict::kGood;
  const bool agreed = (type == kNetHdrGsoTcpV4 && rules.tso4) || (type == kNetHdrGsoTcpV6 && rules.tso6);
  if (!agreed || (ecn && !rules.ecn)) return HeaderVerdict::kNotAgreed;
  const bool checksum = (header.flags & kNetHdrFNeedsCsum) != 0;
  return header.gso_size == 0 || (rules.gso_needs_checksum && !checksum) ? HeaderVerdict::kMalformed
                                                                         : HeaderVerdict::kGood;
}

}  // namespace

HeaderVerdict clean_header(NetHdr& header, std::uint64_t length, const OffloadRules& rules) {
  if (const HeaderVerdict verdict = check_gso(header, rules); verdict != HeaderVerdict::kGood) return verdict;
  if (header.gso_type == kNetHdrGsoNone) {
    header.gso_size = 0;
    header.hdr_len = 0;
  }
  header.hdr_len = static_cast<std::uint16_t>(std::min<std::uint64_t>(header.hdr_len, length));
  header.num_buffers = 0;
  if ((header.flags & kNetHdrFNeedsCsum) == 0) {
    header.flags &= rules.data_valid ? kNetHdrFDataValid : 0;
    header.csum_start = 0;
    header.csum_offset = 0;
    return HeaderVerdict::kGood;
  }
  if (!rules.checksum) return HeaderVerdict::kNotAgreed;
  header.flags = kNetHdrFNeedsCsum;
  const std::uint32_t end = std::uint32_t{header.csum_start} + header.csum_offset + 2;
  return end <= length ? HeaderVerdict::kGood : HeaderVerdict::kMalformed;
}

}  // namespace bulkhead::devproc
