// read_limits(): what properties of a device say about its rate limits. The same keys on the command line (--disk,
// --net) and for a running VM (`bulkhead limit`):
//
//   a disk             bps, bps-burst, iops, iops-burst
//   a network card     bps, bps-burst, pps, pps-burst: each of its two directions; with rx- or tx- in front: that one
//
// Values are whole numbers with an optional K, M, G or T (powers of 1024); 0 takes a limit away, and a burst of 0 is a
// tenth of a second's worth. Errors: one sentence. Threading: pure.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/control/vm_config.h"
#include "ipc/roles/device_types.h"

namespace bulkhead::vmm {

using Limits = std::array<RateLimit, 2>;  // by LimitId
enum class LimitKeys : std::uint8_t { kDisk, kNetwork };

inline constexpr RateLimit kNoLimit{};
inline constexpr RateLimit kLimitUnchanged{RateLimit::kUnchanged, RateLimit::kUnchanged, RateLimit::kUnchanged,
                                           RateLimit::kUnchanged};

// `take` gives a key's value, once, if it is there. `otherwise`: what is not named.
[[nodiscard]] Result<Limits> read_limits(LimitKeys keys, const RateLimit& otherwise,
                                         const std::function<std::optional<std::string>(const std::string&)>& take);

// For a running device of this type.
[[nodiscard]] Result<Limits> read_limits_change(const DeviceTypeDecl& type,
                                                const std::vector<control::Property>& properties);

// `old` with everything of `change` that is not RateLimit::kUnchanged.
[[nodiscard]] RateLimit merged(const RateLimit& old, const RateLimit& change);

}  // namespace bulkhead::vmm
