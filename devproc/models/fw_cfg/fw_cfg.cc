#include "devproc/models/fw_cfg/fw_cfg.h"

#include "ipc/roles/fw_cfg_decl.h"

namespace bulkhead::devproc {

using namespace fw_cfg;

namespace {

constexpr RegionSpec kRegions[] = {
    {"selector and data", AddressKind::kPort, kSelectorPorts, kSizeUpTo2},
    {"dma address", AddressKind::kPort, kAddressPorts, kSizeUpTo4},
};

// The registers of the DMA interface are big-endian; the bus is not.
constexpr std::uint32_t swap(std::uint64_t value) { return __builtin_bswap32(static_cast<std::uint32_t>(value)); }

}  // namespace

std::span<const RegionSpec> FwCfg::regions() const { return kRegions; }

std::optional<std::uint64_t> FwCfg::read(const Access& access) {
  if (access.region == kSelectorAndData) {
    if (access.offset == kData && access.size == 1) return next_byte();
    return std::nullopt;  // the selector is write only
  }
  if (access.region != kDmaAddress) return std::nullopt;
  std::uint64_t value = 0;
  for (unsigned i = 0; i < access.size; ++i)
    value |= std::uint64_t{kDmaSignature[(access.offset + i) % kAddressPorts]} << (8 * i);
  return value;
}

bool FwCfg::write(const Access& access, std::uint64_t value) {
  if (access.region == kDmaAddress) return write_address(access, value);
  if (access.region != kSelectorAndData) return false;
  if (access.offset == kSelector && access.size == 2) {
    State& s = state_.mut();
    s.selector = static_cast<std::uint16_t>(value);
    s.offset = 0;
    return true;
  }
  return access.offset == kData && access.size == 1;  // "writes to the data register are ignored"
}

// "If the selected item has fewer bytes left, or there is no such item, the rest reads as 0."
std::uint8_t FwCfg::next_byte() {
  const std::span<const std::byte> item = fw_cfg_item(data_, state_->selector);
  const std::uint32_t at = state_->offset;
  if (at >= item.size()) return 0;
  state_.mut().offset = at + 1;
  return static_cast<std::uint8_t>(item[at]);
}

bool FwCfg::write_address(const Access& access, std::uint64_t value) {
  if (access.size != 4) return false;
  if (access.offset == kAddressHigh) {
    state_.mut().address_high = swap(value);
    return true;
  }
  if (access.offset != kAddressLow) return false;
  const FwCfgTransfer transfer{.address = std::uint64_t{state_->address_high} << 32 | swap(value),
                               .offset = state_->offset,
                               .selector = state_->selector};
  // "The address register is 0 again after a transfer."
  state_.mut().address_high = 0;
  redirect_.fw_cfg_transfer(transfer);
  return true;
}

void FwCfg::on_transfer_done(std::uint32_t selector, std::uint32_t offset) {
  State& s = state_.mut();
  s.selector = static_cast<std::uint16_t>(selector);
  s.offset = offset;
}

void FwCfg::reset() { state_.mut() = State{}; }

void FwCfg::restore() {
  // Any selector and any offset are ones that a guest can have brought about.
  State clean = state_.get();
  for (std::uint16_t& unused : clean.unused) unused = 0;
  if (clean != state_.get()) state_.mut() = clean;
}

void FwCfg::inspect(Inspector& inspector) const {
  inspector.field("selector", state_->selector);
  inspector.field("offset", state_->offset);
  inspector.field("address_high", state_->address_high);
}

}  // namespace bulkhead::devproc
