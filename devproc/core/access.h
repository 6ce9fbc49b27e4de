// What a guest access looks like to a device model.
//
// A region is a run of ports or of memory that a device decodes: a fixed port range or a BAR. The model
// sees offsets within its region, never addresses. The host has checked, before a model is called, that
// the whole access lies inside the region and that its size is one that the region allows; a wider port
// access was split as the bus does.
#pragma once

#include <cstdint>
#include <string_view>

namespace bulkhead::devproc {

enum class AddressKind : std::uint8_t { kPort, kMemory };

// Sizes of an access, in bytes, as a set: kSize1 | kSize2 ...
enum AccessSizes : std::uint8_t {
  kSize1 = 1,
  kSize2 = 2,
  kSize4 = 4,
  kSize8 = 8,
  kSizeUpTo2 = 3,
  kSizeUpTo4 = 7,
  kSizeUpTo8 = 15,
};

using RegionIndex = std::uint16_t;  // index into Device::regions()

struct RegionSpec {
  std::string_view name;
  AddressKind kind;
  std::uint64_t length;  // bytes, at least 1
  AccessSizes sizes;     // what the registers take; wider accesses are split, narrower ones never made
  bool posted = false;   // memory writes do not wait for the device (only interrupts may follow)
};

struct Access {
  RegionIndex region = 0;
  std::uint64_t offset = 0;  // bytes from the region's start
  std::uint8_t size = 1;     // 1, 2, 4 or 8 bytes
};

// What a bus that nobody drives reads as: `size` bytes of ones.
[[nodiscard]] constexpr std::uint64_t all_ones(std::uint8_t size) {
  return size >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * size)) - 1;
}

}  // namespace bulkhead::devproc
