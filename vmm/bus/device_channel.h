// DeviceChannel: the seam between the vCPU loop and a device, wherever that device lives.
//
// Implementations: RemoteChannel (a jailed process behind a request ring), the in-process channel of the
// benchmark's baseline, and scripted ones in tests.
// Threading: any vCPU thread, several at once. Errors: none; a device that does not answer reads all ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace bulkhead::vmm {

struct BusAccess {
  std::uint16_t instance = 0;  // which device of the channel's role
  std::uint16_t region = 0;
  std::uint8_t size = 1;    // bytes of one element: 1, 2, 4, 8
  std::uint32_t count = 1;  // elements, all at the same offset (string I/O)
  std::uint64_t offset = 0;
  bool posted = false;      // a write that need not wait
  bool redirected = false;  // completes another access: is not redirected again
};

class DeviceChannel {
 public:
  virtual ~DeviceChannel() = default;
  // Fills all of `out` (size * count bytes). `vcpu` is the calling vCPU's index.
  virtual void read(std::uint32_t vcpu, const BusAccess& access, std::span<std::byte> out) = 0;
  virtual void write(std::uint32_t vcpu, const BusAccess& access, std::span<const std::byte> in) = 0;
};

}  // namespace bulkhead::vmm
