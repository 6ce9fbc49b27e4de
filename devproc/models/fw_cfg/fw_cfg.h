// FwCfg: QEMU's firmware configuration device.
//
// Chip:        none (see spec.h)
// Implemented: selector and data port; the DMA interface, whose transfers the VMM does (it has guest memory, this
//              process has not): the write that starts one is answered with a redirect that says where the selected
//              item stands, and the VMM tells where it stands afterwards
// Missing:     items that a guest may write: there is none, so the data port ignores writes, as QEMU's has since 2.4,
//              and a DMA write is refused with the error bit
// Ignored:     nothing
// Wires:       redirect; a region of read-only data (ipc/roles/fw_cfg_decl.h)
// Threading:   single-threaded
// Trust:       guest: any access; the region is the VMM's
// Config:      {"fw_cfg", FwCfgConfig{}} at ports 510h and 514h
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "devproc/core/device.h"
#include "devproc/core/persistent.h"
#include "devproc/core/wires.h"
#include "devproc/models/fw_cfg/spec.h"

namespace bulkhead::devproc {

struct FwCfgState {
  std::uint32_t offset = 0;        // of the next byte of the selected item
  std::uint32_t address_high = 0;  // upper half of the DMA address
  std::uint16_t selector = 0;
  std::uint16_t unused[3] = {};

  bool operator==(const FwCfgState&) const = default;
};
static_assert(std::has_unique_object_representations_v<FwCfgState>, "no hidden padding");

class FwCfg final : public Device {
 public:
  using State = FwCfgState;
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::uint16_t kLines = 0;
  static constexpr std::uint16_t kStreams = 0;
  static constexpr std::uint16_t kTimers = 0;

  enum Region : RegionIndex { kSelectorAndData, kDmaAddress };

  FwCfg(Persistent<State> state, std::span<const std::byte> data, Redirect& redirect)
      : state_(state), data_(data), redirect_(redirect) {}

  [[nodiscard]] std::string_view name() const override { return "fw_cfg"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  void on_transfer_done(std::uint32_t selector, std::uint32_t offset) override;
  void inspect(Inspector& inspector) const override;

 private:
  std::uint8_t next_byte();
  bool write_address(const Access& access, std::uint64_t value);

  Persistent<State> state_;
  std::span<const std::byte> data_;
  Redirect& redirect_;
};

}  // namespace bulkhead::devproc
