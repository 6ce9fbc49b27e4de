// PciBus: configuration mechanism 1, the configuration space of every function on bus 0, and their MSI-X
// tables.
//
// Chips: 82441FX PMC (host bridge, 00:00.0), 82371SB PIIX3 (ISA bridge, 00:01.0), 82371AB PIIX4 function 3
//   (power management, 00:01.3), and any function that a PciDecl describes.
// Documents: named in spec.h and chipset_spec.h, with the sections.
// Implemented: ports CF8h-CFFh with the reset control register CF9h; the header, BARs and capabilities of
//   every function; PIRQRC routing; PMBA and PMREGMISC; PAM (shadow RAM); D_OPEN and the lock of SMRAM (there is no
//   SMM, so closed is closed); TRC; accesses of BARs through pci_cfg_data (VIRTIO 1.2, section 4.1.4.9), which the VMM
//   completes. Only bus 0 exists.
// Missing: the SMBus block; function 2 of the PIIX3.
// Ignored bits: PCICMD.MAE of the host bridge, XBCS and the timers of PIIX3, the device monitors of PIIX4:
//   stored, read back, without effect. A soft reset (CF9h or TRC without SRST) resets the whole machine.
// Regions: 0 = ports CF8h-CFFh; then one region of memory for each function with MSI-X, the MSI-X BAR's
//   whole length, in the order of config.functions (msix_region_of()). They take aligned dwords and
//   quadwords. None is posted: a write may have effects.
// Effects: what changed, as whole desired state (ipc/state/effects.h), at most kMaxEffects an input. A
// reset
//   emits none: the host enumerates desired_effect() then. With config.pm_base != 0, reset() leaves what
//   firmware would have left (firmware.h).
// Threading: single-threaded. Trust: every access comes from the guest.
// Config: PciBusConfig{.pm_base = 0x600, .ram_below_4g = ..., .functions = {{0x18, "pci_test"}}}
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devproc/core/device.h"
#include "devproc/core/persistent.h"
#include "devproc/core/wires.h"
#include "devproc/models/pci/config_space.h"
#include "devproc/models/pci/desired_state.h"
#include "devproc/models/pci/msix_table.h"
#include "ipc/roles/device_config.h"
#include "ipc/roles/pci_decl.h"

namespace bulkhead::devproc {

struct PciBusState {
  std::uint32_t confadd = 0;
  std::uint8_t reset_control = 0;
  std::array<std::uint8_t, 3> unused{};  // no padding: commits compare bytes
};
struct PciPresenceState {
  std::array<std::uint64_t, 4> absent{};  // bit d: function d is isolated; it outlives a reset
};
struct PciConfigState {
  ConfigBytes bytes{};
};

class PciBus final : public Device {
 public:
  static constexpr std::uint16_t kLines = 0;
  static constexpr std::uint16_t kStreams = 0;
  static constexpr std::uint16_t kTimers = 0;
  static constexpr std::uint32_t kStateVersion = 4;

  // `lookup` knows every type in `config`; each function is named once, none of the chipset's is named.
  PciBus(const PciBusConfig& config, PciDeclLookup lookup, StateAllocator& allocator, EffectSink& effects,
         Redirect& redirect);

  [[nodiscard]] std::string_view name() const override { return "pci_bus"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override { return regions_; }
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  void inspect(Inspector& inspector) const override;
  // An absent function's config space reads all ones. One that comes back does so from reset. The VMM takes windows
  // and interrupts away by itself, so neither has effects.
  void on_function_presence(std::uint8_t devfn, bool present) override;

  // In a fixed order and number: per function its objects, then its MSI-X vectors. Those that are off are
  // among them.
  [[nodiscard]] std::size_t desired_effect_count() const override { return desired_count_; }
  [[nodiscard]] Effect desired_effect(std::size_t index) const override;

 private:
  // A declaration with the expansion ROM that this machine's configuration adds.
  struct OwnDecl {
    PciDecl decl;
    std::vector<BarDecl> bars;
  };
  struct Function {
    std::uint8_t devfn;
    FunctionRules rules;
    std::vector<DesiredObject> objects;
    Persistent<PciConfigState> config;
    std::optional<MsixTable> msix;
    std::size_t first_desired;
    std::string label;  // "00:01.0", and its MSI-X region's name
  };

  [[nodiscard]] const PciDecl& decl_of(const PciFunctionConfig& function, const PciDecl& type);
  void add_function(std::uint8_t devfn, const FunctionRules& rules, StateAllocator& allocator);
  void finish_rules(const PciBusConfig& config);
  void build_regions();

  [[nodiscard]] bool absent(std::uint8_t devfn) const {
    return (presence_->absent[devfn / 64] >> (devfn % 64) & 1) != 0;
  }
  // The function and register that CONFADD names; nullptr: nothing answers.
  [[nodiscard]] Function* addressed();
  [[nodiscard]] std::uint8_t addressed_register() const;

  // `lead`: bytes of the same access that came before.
  std::uint32_t read_ports(std::uint32_t first, std::uint32_t count, std::uint32_t lead);
  bool write_ports(std::uint32_t first, std::uint32_t count, std::uint32_t value);
  std::uint32_t read_config(const Function& function, std::uint8_t offset, std::uint8_t size, std::uint32_t lead);
  void write_config(Function& function, std::uint8_t offset, std::uint8_t size, std::uint32_t value);
  void change_config(Function& function, const ConfigBytes& after);
  bool redirect_to_bar(const Function& function, std::uint8_t first, std::uint32_t lead);
  void write_reset_control(std::uint8_t value);
  std::optional<std::uint64_t> read_msix(const Function& function, std::uint64_t offset, std::uint8_t size);
  bool write_msix(Function& function, std::uint64_t offset, std::uint8_t size, std::uint64_t value);
  void request_reset();

  EffectSink& effects_;
  Redirect& redirect_;
  Persistent<PciBusState> bus_;
  Persistent<PciPresenceState> presence_;
  std::vector<std::unique_ptr<OwnDecl>> own_decls_;
  std::vector<Function> functions_;
  std::array<std::int16_t, 256> by_devfn_;   // index into functions_, -1: absent
  std::vector<std::size_t> msix_functions_;  // index into functions_ of region 1, 2, ...
  std::vector<RegionSpec> regions_;
  std::size_t desired_count_ = 0;
};

}  // namespace bulkhead::devproc
