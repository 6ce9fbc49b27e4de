// The entropy device (VIRTIO 1.2, section 5.4): one queue, no feature bits, no configuration.
#pragma once

#include <cstdint>

namespace bulkhead::devproc {

inline constexpr std::uint16_t kRequestq = 0;  // section 5.4.2

}  // namespace bulkhead::devproc
