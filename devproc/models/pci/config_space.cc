#include "devproc/models/pci/config_space.h"

#include <algorithm>
#include <bit>
#include <span>

#include "devproc/models/pci/chipset_spec.h"
#include "devproc/models/pci/spec.h"
#include "ipc/base/checked.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc {
namespace {

namespace spec = pci_spec;
namespace chipset = chipset_spec;

void define(FunctionRules& rules, std::size_t offset, unsigned size, std::uint32_t reset, std::uint32_t writable) {
  store_config(rules.reset, offset, size, reset);
  store_config(rules.writable, offset, size, writable);
}

// Vendor id to header type, subsystem ids, interrupt registers.
void define_header(FunctionRules& rules) {
  const PciDecl& decl = *rules.decl;
  define(rules, spec::kVendorId, 2, decl.vendor_id, 0);
  define(rules, spec::kDeviceId, 2, decl.device_id, 0);
  define(rules, spec::kRevisionId, 1, decl.revision_id, 0);
  define(rules, spec::kClassCode, 3, decl.class_code, 0);
  define(rules, spec::kHeaderType, 1, decl.multi_function ? spec::kHeaderMultiFunction : 0, 0);
  define(rules, spec::kSubsystemVendorId, 2, decl.subsystem_vendor_id, 0);
  define(rules, spec::kSubsystemId, 2, decl.subsystem_id, 0);
  define(rules, spec::kInterruptPin, 1, decl.interrupt_pin, 0);
  if (decl.interrupt_pin != 0) define(rules, spec::kInterruptLine, 1, 0, 0xff);
}

void define_bar(FunctionRules& rules, const BarDecl& bar) {
  const std::uint8_t at = bar_offset(bar.bar);
  const std::uint32_t base = ~(bar.size - 1);
  if (bar.bar == kRomBar) {
    define(rules, at, 4, 0, base | spec::kRomEnable);
    return;
  }
  if (bar.kind == BarKind::kIo) {
    define(rules, at, 4, spec::kBarIo, base);
    return;
  }
  const bool wide = bar.kind == BarKind::kMemory64;
  define(rules, at, 4, (wide ? spec::kBarMemory64 : 0) | (bar.prefetchable ? spec::kBarPrefetchable : 0), base);
  if (wide) define(rules, at + 4U, 4, 0, 0xffffffff);
}

void define_msi(FunctionRules& rules, std::uint8_t at) {
  const unsigned vectors = rules.decl->msi_vectors;
  const auto capable = static_cast<std::uint32_t>(std::countr_zero(vectors));
  define(rules, at + spec::kMsiControl, 2, (capable << spec::kMsiCapableShift) | spec::kMsi64Bit | spec::kMsiMaskable,
         spec::kMsiEnable | (spec::kMsiLog2Mask << spec::kMsiEnabledShift));
  define(rules, at + spec::kMsiAddress, 4, 0, ~3U);
  define(rules, at + spec::kMsiAddressHigh, 4, 0, ~0U);
  define(rules, at + spec::kMsiData, 4, 0, 0xffff);
  define(rules, at + spec::kMsiMask, 4, 0, vectors == 32 ? ~0U : (1U << vectors) - 1);
}

void define_msix(FunctionRules& rules, std::uint8_t at) {
  const BarDecl* bar = msix_bar(*rules.decl);
  define(rules, at + spec::kMsixControl, 2, rules.decl->msix_vectors - 1U, spec::kMsixFunctionMask | spec::kMsixEnable);
  define(rules, at + spec::kMsixTable, 4, bar->bar, 0);
  define(rules, at + spec::kMsixPba, 4, msix_pba_offset(*bar) | bar->bar, 0);
}

void define_virtio_cap(FunctionRules& rules, std::uint8_t at, const VirtioCapDecl& cap) {
  define(rules, at + spec::kVirtioCapLen, 1, virtio_cap_length(cap.cfg_type), 0);
  define(rules, at + spec::kVirtioCfgType, 1, static_cast<std::uint8_t>(cap.cfg_type), 0);
  if (cap.cfg_type == VirtioPciCap::kPciCfg) {
    rules.pci_cfg = at;
    define(rules, at + spec::kVirtioBar, 1, 0, 0xff);
    define(rules, at + spec::kVirtioOffset, 4, 0, ~0U);
    define(rules, at + spec::kVirtioLength, 4, 0, ~0U);
    define(rules, at + spec::kVirtioPciCfgData, 4, 0, ~0U);
    return;
  }
  define(rules, at + spec::kVirtioBar, 1, cap.bar, 0);
  define(rules, at + spec::kVirtioOffset, 4, cap.offset, 0);
  define(rules, at + spec::kVirtioLength, 4, cap.length, 0);
  if (cap.cfg_type == VirtioPciCap::kNotifyCfg)
    define(rules, at + spec::kVirtioNotifyOffMultiplier, 4, cap.notify_off_multiplier, 0);
}

// Capabilities follow one another from 40h, in the order PM, MSI, MSI-X, virtio; pci_decl_valid() counted their bytes.
void define_capabilities(FunctionRules& rules) {
  std::uint8_t next = spec::kDeviceSpecific;
  std::uint8_t link = spec::kCapabilities;
  const auto add = [&](std::uint8_t id, std::uint8_t length) {
    const std::uint8_t at = next;
    rules.reset[link] = at;
    rules.reset[at] = id;
    link = static_cast<std::uint8_t>(at + 1);
    next = static_cast<std::uint8_t>((at + length + 3) & ~3);
    return at;
  };
  if (rules.decl->power_management) {
    rules.pm = add(spec::kCapIdPm, spec::kPmLength);
    define(rules, rules.pm + spec::kPmCapabilities, 2, spec::kPmVersion, 0);
    define(rules, rules.pm + spec::kPmControl, 2, spec::kPmNoSoftReset, spec::kPmStateMask);
  }
  if (rules.decl->msi_vectors != 0) {
    rules.msi = add(spec::kCapIdMsi, spec::kMsiLength);
    define_msi(rules, rules.msi);
  }
  if (msix_bar(*rules.decl) != nullptr) {
    rules.msix = add(spec::kCapIdMsix, spec::kMsixLength);
    define_msix(rules, rules.msix);
  }
  for (const VirtioCapDecl& cap : rules.decl->virtio_caps)
    define_virtio_cap(rules, add(spec::kCapIdVendor, virtio_cap_length(cap.cfg_type)), cap);
  if (link != spec::kCapabilities) rules.reset[spec::kStatus] |= spec::kStatusCapabilities;
}

// 82441FX, section 3.2, register SMRAM: D_LCK stays until reset; with it D_OPEN is 0 and only D_CLS can
// change.
void legalise_smram(std::uint8_t before, std::uint8_t& smram) {
  if ((before & chipset::kSmramLock) != 0)
    smram = static_cast<std::uint8_t>((before & ~chipset::kSmramClosed) | (smram & chipset::kSmramClosed));
  if ((smram & chipset::kSmramLock) != 0) smram &= static_cast<std::uint8_t>(~chipset::kSmramOpen);
}

// Fields of which some values cannot be stored; `before` is what they fall back to.
void legalise_fields(const FunctionRules& rules, const ConfigBytes& before, ConfigBytes& bytes) {
  if (rules.pm != 0) {
    // PM 1.2, section 3.2.4: "If software attempts to write an unsupported, optional state to this field,
    // the write operation must complete normally on the bus; however, the data is discarded".
    std::uint8_t& control = bytes[rules.pm + spec::kPmControl];
    const auto state = control & spec::kPmStateMask;
    if (state != 0 && state != spec::kPmStateD3hot) control = before[rules.pm + spec::kPmControl];
  }
  if (rules.msi != 0) {
    // PCI 3.0, section 6.8.1.3: more vectors than asked for are never given; so they are not stored.
    const std::uint16_t control = load_config16(bytes, rules.msi + spec::kMsiControl);
    const unsigned capable = (control >> spec::kMsiCapableShift) & spec::kMsiLog2Mask;
    const unsigned enabled = (control >> spec::kMsiEnabledShift) & spec::kMsiLog2Mask;
    const unsigned kept = std::min(capable, enabled) << spec::kMsiEnabledShift;
    const unsigned others = control & ~(unsigned{spec::kMsiLog2Mask} << spec::kMsiEnabledShift);
    store_config(bytes, rules.msi + spec::kMsiControl, 2, others | kept);
  }
  if (rules.part == ChipsetPart::kHostBridge) legalise_smram(before[chipset::kSmram], bytes[chipset::kSmram]);
}

}  // namespace

std::uint8_t bar_offset(std::uint8_t bar) {
  if (bar == kRomBar) return spec::kRomBase;
  return static_cast<std::uint8_t>(spec::kBar0 + 4 * bar);
}

FunctionRules make_rules(const PciDecl& decl) {
  FunctionRules rules;
  rules.decl = &decl;
  define_header(rules);
  std::uint32_t command = spec::kCommandBusMaster | spec::kCommandParity | spec::kCommandSerr;
  if (decl.legacy_io) command |= spec::kCommandIo;
  for (const BarDecl& bar : decl.bars) {
    define_bar(rules, bar);
    command |= bar.kind == BarKind::kIo ? spec::kCommandIo : spec::kCommandMemory;
  }
  if (decl.interrupt_pin != 0) command |= spec::kCommandIntxDisable;
  define(rules, spec::kCommand, 2, 0, command);
  define(rules, spec::kStatus, 2, spec::kStatusFastBackToBack | spec::kStatusDevselMedium, 0);
  define(rules, spec::kCacheLineSize, 1, 0, 0xff);
  define(rules, spec::kLatencyTimer, 1, 0, 0xf8);
  define_capabilities(rules);
  return rules;
}

FunctionRules make_chipset_rules(ChipsetPart part) {
  FunctionRules rules;
  rules.part = part;
  std::span<const chipset::Register> registers;
  switch (part) {
    case ChipsetPart::kHostBridge:
      rules.decl = &chipset::kHostBridge;
      registers = chipset::kHostBridgeRegisters;
      break;
    case ChipsetPart::kIsaBridge:
      rules.decl = &chipset::kIsaBridge;
      registers = chipset::kIsaBridgeRegisters;
      break;
    case ChipsetPart::kPm:
    case ChipsetPart::kNone:
      rules.decl = &chipset::kPm;
      registers = chipset::kPmRegisters;
      break;
  }
  define_header(rules);
  for (const chipset::Register& r : registers) define(rules, r.offset, r.size, r.reset, r.writable);
  return rules;
}

ConfigBytes after_write(const FunctionRules& rules, const ConfigBytes& before, std::uint8_t offset, std::uint8_t size,
                        std::uint32_t value) {
  ConfigBytes bytes = before;
  for (unsigned i = 0; i < size; ++i) {
    const std::size_t at = (std::size_t{offset} + i) & 0xff;
    const std::uint8_t writable = rules.writable[at];
    const auto written = static_cast<std::uint8_t>(value >> (8 * i));
    bytes[at] = static_cast<std::uint8_t>((before[at] & ~writable) | (written & writable));
  }
  legalise_fields(rules, before, bytes);
  return bytes;
}

bool is_pci_cfg_data(const FunctionRules& rules, std::uint8_t offset) {
  return rules.pci_cfg != 0 && (offset & ~3) == rules.pci_cfg + spec::kVirtioPciCfgData;
}

std::optional<BarAccess> pci_cfg_access(const FunctionRules& rules, const ConfigBytes& bytes) {
  const std::uint8_t number = bytes[rules.pci_cfg + spec::kVirtioBar];
  const std::uint32_t offset = load_config32(bytes, rules.pci_cfg + spec::kVirtioOffset);
  const std::uint32_t length = load_config32(bytes, rules.pci_cfg + spec::kVirtioLength);
  if (length != 1 && length != 2 && length != 4) return std::nullopt;
  for (const BarDecl& bar : rules.decl->bars) {
    if (bar.bar != number || bar.bar == kRomBar) continue;
    if (!fits(offset, length, bar.size)) return std::nullopt;
    return BarAccess{.offset = offset,
                     .value = load_config32(bytes, rules.pci_cfg + spec::kVirtioPciCfgData),
                     .bar = number,
                     .size = static_cast<std::uint8_t>(length)};
  }
  return std::nullopt;
}

ConfigBytes legalised(const FunctionRules& rules, const ConfigBytes& bytes) {
  ConfigBytes legal;
  for (std::size_t i = 0; i < legal.size(); ++i)
    legal[i] = static_cast<std::uint8_t>((bytes[i] & rules.writable[i]) | (rules.reset[i] & ~rules.writable[i]));
  legalise_fields(rules, rules.reset, legal);
  return legal;
}

}  // namespace bulkhead::devproc
