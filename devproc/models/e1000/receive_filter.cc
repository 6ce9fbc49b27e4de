#include "devproc/models/e1000/receive_filter.h"

#include <algorithm>

#include "devproc/core/checksum.h"

namespace bulkhead::devproc {

using namespace e1000_spec;

namespace {

// Six bytes of the frame as RAL and RAH have them.
std::uint64_t address_at(std::span<const std::byte> frame, std::size_t at) {
  std::uint64_t address = 0;
  for (std::size_t i = 0; i < 6; ++i) address |= std::to_integer<std::uint64_t>(frame[at + i]) << (8 * i);
  return address;
}

constexpr std::uint64_t kBroadcast = 0xffff'ffff'ffff;
constexpr std::size_t kSource = 6;

bool bit_of(std::span<const std::uint32_t> table, std::uint32_t index) {
  return (table[index / 32] >> (index % 32) & 1) != 0;
}

// 12 bits of the address, counted from its end, as RCTL.MO says.
std::uint32_t multicast_hash(std::uint64_t address, std::uint32_t rctl) {
  constexpr std::array<unsigned, 4> kFirstBit{36, 35, 34, 32};
  return static_cast<std::uint32_t>(address >> kFirstBit[rctl >> kRctlMoShift & 3]) & 0xfff;
}

}  // namespace

void E1000Filter::set_address(std::size_t index, const std::array<std::uint8_t, 6>& mac) {
  std::uint64_t address = 0;
  for (std::size_t i = 0; i < mac.size(); ++i) address |= std::uint64_t{mac[i]} << (8 * i);
  addresses[index] = {static_cast<std::uint32_t>(address), static_cast<std::uint32_t>(address >> 32) | kRahAv};
}

bool E1000Filter::in_addresses(std::span<const std::byte> frame) const {
  const std::uint64_t to = address_at(frame, 0);
  const std::uint64_t from = address_at(frame, kSource);
  return std::any_of(addresses.begin(), addresses.end(), [&](const std::array<std::uint32_t, 2>& one) {
    if ((one[1] & kRahAv) == 0) return false;
    const std::uint64_t wanted = one[0] | std::uint64_t{one[1] & 0xffff} << 32;
    return wanted == ((one[1] & kRahAs) == 1U << 16 ? from : to);
  });
}

E1000Filter::Verdict E1000Filter::judge_address(std::span<const std::byte> frame, std::uint32_t rctl) const {
  const std::uint64_t to = address_at(frame, 0);
  const bool group = (to & 1) != 0;
  if (in_addresses(frame)) return Verdict::kExact;
  if ((rctl & (group ? kRctlMpe : kRctlUpe)) != 0) return Verdict::kExact;
  if (to == kBroadcast && (rctl & kRctlBam) != 0) return Verdict::kExact;
  return group && bit_of(multicast, multicast_hash(to, rctl)) ? Verdict::kInexact : Verdict::kRefused;
}

E1000Filter::Verdict E1000Filter::judge(std::span<const std::byte> frame, std::uint32_t rctl, std::uint32_t vet) const {
  const Verdict verdict = judge_address(frame, rctl);
  if (verdict == Verdict::kRefused || (rctl & kRctlVfe) == 0) return verdict;
  if (frame.size() < kEthernetHeader + kVlanTag || load_be16(frame, kEthernetType) != vet) return verdict;
  const std::uint16_t tag = load_be16(frame, kEthernetHeader);
  if ((rctl & kRctlCfien) != 0 && ((tag >> 12 & 1) != 0) != ((rctl & kRctlCfi) != 0)) return Verdict::kRefused;
  return bit_of(vlans, tag & 0xfff) ? verdict : Verdict::kRefused;
}

}  // namespace bulkhead::devproc
