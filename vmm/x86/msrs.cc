#include "vmm/x86/msrs.h"

#include <algorithm>

namespace bulkhead::vmm {

namespace {

constexpr std::uint32_t kMiscEnable = 0x1A0;
constexpr std::uint32_t kMtrrBase0 = 0x200;
constexpr std::uint32_t kMtrrMask0 = 0x201;
constexpr std::uint32_t kVariableMtrrs = 8;  // as many as KVM has
constexpr std::uint32_t kMtrrFix64K00000 = 0x250;
constexpr std::uint32_t kMtrrFix16K80000 = 0x258;
constexpr std::uint32_t kMtrrFix16KA0000 = 0x259;
constexpr std::uint32_t kMtrrFix4KC0000 = 0x268;  // to 26Fh, 32 KiB each
constexpr std::uint32_t kMtrrDefType = 0x2FF;

constexpr std::uint64_t kFastStrings = 1;
constexpr std::uint64_t kUncached = 0;
constexpr std::uint64_t kWriteBack = 6;
constexpr std::uint64_t kAllWriteBack = 0x0606060606060606;
constexpr std::uint64_t kAllUncached = 0;
constexpr std::uint64_t kAllWriteProtected = 0x0505050505050505;
constexpr std::uint64_t kMtrrEnable = 1U << 11;
constexpr std::uint64_t kMtrrFixedEnable = 1U << 10;
constexpr std::uint64_t kMtrrMaskValid = 1U << 11;

constexpr std::uint32_t kTsc = 0x10;
constexpr std::uint32_t kTscAdjust = 0x3B;

constexpr std::uint64_t kFourGiB = std::uint64_t{1} << 32;

// The smallest power of two that is not below `size`.
constexpr std::uint64_t power_above(std::uint64_t size) {
  std::uint64_t power = 1;
  while (power < size) power <<= 1;
  return power;
}

}  // namespace

std::vector<MsrValue> initial_msrs(const MsrOptions& options) {
  std::vector<MsrValue> msrs = {{kMiscEnable, kFastStrings}};
  // What SeaBIOS sets up: write-back everywhere but in the VGA window and the PCI hole; ROM is read-only.
  msrs.push_back({kMtrrFix64K00000, kAllWriteBack});
  msrs.push_back({kMtrrFix16K80000, kAllWriteBack});
  msrs.push_back({kMtrrFix16KA0000, kAllUncached});
  for (std::uint32_t n = 0; n < 8; ++n) msrs.push_back({kMtrrFix4KC0000 + n, kAllWriteProtected});
  for (std::uint32_t n = 1; n < kVariableMtrrs; ++n) {
    msrs.push_back({kMtrrBase0 + 2 * n, 0});
    msrs.push_back({kMtrrMask0 + 2 * n, 0});
  }
  if (options.hole_base != 0) {
    // One variable range must be a power of two that ends at 4 GiB: the hole's bases are chosen so.
    const std::uint64_t size = power_above(kFourGiB - options.hole_base);
    const std::uint64_t address_mask = (std::uint64_t{1} << options.physical_address_bits) - 1;
    msrs.push_back({kMtrrBase0, (kFourGiB - size) | kUncached});
    msrs.push_back({kMtrrMask0, (~(size - 1) & address_mask) | kMtrrMaskValid});
  }
  msrs.push_back({kMtrrDefType, kMtrrEnable | kMtrrFixedEnable | kWriteBack});
  return msrs;
}

std::vector<MsrValue> supported_msrs(std::span<const MsrValue> wanted, std::span<const std::uint32_t> known) {
  std::vector<MsrValue> supported;
  for (const MsrValue& msr : wanted) {
    // KVM_GET_MSR_INDEX_LIST leaves the MTRRs out although KVM has them.
    const bool is_mtrr = msr.index >= kMtrrBase0 && msr.index <= kMtrrDefType;
    if (is_mtrr || std::binary_search(known.begin(), known.end(), msr.index)) supported.push_back(msr);
  }
  return supported;
}

bool keeps_value_over_reset(std::uint32_t index) { return index == kTsc || index == kTscAdjust; }

}  // namespace bulkhead::vmm
