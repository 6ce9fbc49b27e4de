// The calls of KVM whose structs end in a flexible array, as the kernel sees them.
//
// Linux 6.1's <linux/kvm.h> declares those arrays so that C++ puts one more byte into the struct (an empty
// struct has size 0 in C and 1 in C++). That shifts the array, and since the size is part of an ioctl's
// number, KVM answers EINVAL. The layouts here are the C ones; use these names instead.
// Units: none. Errors: none. Threading: none. Trust: none needed.
// Source: Linux include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace bulkhead::vmm {

namespace kvm_abi {

struct Count32 {
  std::uint32_t count;
};
struct Count64 {
  std::uint32_t count;
  std::uint32_t padding;
};
struct Xsave {
  std::uint32_t region[1024];
};
static_assert(sizeof(Count32) == 4 && sizeof(Count64) == 8 && sizeof(Xsave) == 4096);

inline constexpr unsigned long kGetMsrIndexList = _IOWR(KVMIO, 0x02, Count32);
inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, Count64);
inline constexpr unsigned long kSetGsiRouting = _IOW(KVMIO, 0x6a, Count64);
inline constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, Count64);
inline constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, Count64);
inline constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, Count64);
inline constexpr unsigned long kGetCpuid2 = _IOWR(KVMIO, 0x91, Count64);
inline constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, Xsave);
inline constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, Xsave);
inline constexpr unsigned long kGetXsave2 = _IOR(KVMIO, 0xcf, Xsave);

// struct kvm_coalesced_mmio_ring, without its array.
struct CoalescedRingHeader {
  std::uint32_t first;
  std::uint32_t last;
};
static_assert(sizeof(CoalescedRingHeader) == 8);

// A counted list as the kernel reads and writes it: the header, then the items.
template <class Header, class Item>
class List {
 public:
  explicit List(std::size_t room) : storage_((sizeof(Header) + room * sizeof(Item) + 7) / 8), room_(room) {
    set_count(room);
  }
  explicit List(std::span<const Item> items) : List(items.size()) {
    if (!items.empty()) std::memcpy(bytes() + sizeof(Header), items.data(), items.size_bytes());
  }
  [[nodiscard]] void* argument() { return storage_.data(); }
  // What the kernel says it filled, never more than there is room for.
  [[nodiscard]] std::vector<Item> items() const {
    Header header{};
    std::memcpy(&header, storage_.data(), sizeof(header));
    std::vector<Item> items(header.count < room_ ? header.count : room_);
    if (!items.empty()) std::memcpy(items.data(), bytes() + sizeof(Header), items.size() * sizeof(Item));
    return items;
  }

 private:
  void set_count(std::size_t count) {
    Header header{};
    header.count = static_cast<std::uint32_t>(count);
    std::memcpy(bytes(), &header, sizeof(header));
  }
  [[nodiscard]] std::byte* bytes() { return reinterpret_cast<std::byte*>(storage_.data()); }
  [[nodiscard]] const std::byte* bytes() const { return reinterpret_cast<const std::byte*>(storage_.data()); }

  std::vector<std::uint64_t> storage_;
  std::size_t room_;
};

using MsrIndexList = List<Count32, std::uint32_t>;
using MsrList = List<Count64, kvm_msr_entry>;
using CpuidList = List<Count64, kvm_cpuid_entry2>;
using RoutingList = List<Count64, kvm_irq_routing_entry>;

}  // namespace kvm_abi

}  // namespace bulkhead::vmm
