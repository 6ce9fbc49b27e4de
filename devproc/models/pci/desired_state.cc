#include "devproc/models/pci/desired_state.h"

#include <cstddef>

#include "devproc/models/pci/chipset_spec.h"
#include "devproc/models/pci/spec.h"

namespace bulkhead::devproc {
namespace {

namespace spec = pci_spec;
namespace chipset = chipset_spec;

[[nodiscard]] bool in_d3(const FunctionRules& rules, const ConfigBytes& bytes) {
  return rules.pm != 0 && (bytes[rules.pm + spec::kPmControl] & spec::kPmStateMask) == spec::kPmStateD3hot;
}

// A window that decodes at `base`. Base 0 is how an unassigned BAR reads, and x86 has 64 KiB of ports:
// neither is ever claimed.
void place(Effect& window, std::uint64_t base) {
  const bool io = (window.flags & kEffectIoSpace) != 0;
  if (base == 0 || (io && base > 0x10000 - window.size)) return;
  window.address = base;
  window.flags |= kEffectEnabled;
}

[[nodiscard]] Effect bar_window(const FunctionRules& rules, std::uint8_t devfn, const BarDecl& bar,
                                const ConfigBytes& bytes) {
  const bool io = bar.kind == BarKind::kIo;
  Effect window{.kind = static_cast<std::uint16_t>(EffectKind::kWindow),
                .function = devfn,
                .index = bar.bar,
                .size = bar.size,
                .flags = io ? kEffectIoSpace : 0U};
  const std::uint16_t command = load_config16(bytes, spec::kCommand);
  if ((command & (io ? spec::kCommandIo : spec::kCommandMemory)) == 0) return window;
  // PM 1.2, chapter 5: a function in D3hot answers configuration accesses only.
  if (in_d3(rules, bytes)) return window;
  const std::uint8_t at = bar_offset(bar.bar);
  const std::uint32_t low = load_config32(bytes, at);
  if (bar.bar == kRomBar && (low & spec::kRomEnable) == 0) return window;
  std::uint64_t base = low & ~(bar.size - 1);
  if (bar.kind == BarKind::kMemory64) base |= std::uint64_t{load_config32(bytes, at + 4U)} << 32;
  place(window, base);
  return window;
}

[[nodiscard]] Effect pm_window(std::uint8_t devfn, const ConfigBytes& bytes) {
  Effect window{.kind = static_cast<std::uint16_t>(EffectKind::kWindow),
                .function = devfn,
                .index = kPmWindow,
                .size = kPmWindowSize,
                .flags = kEffectIoSpace};
  if ((bytes[chipset::kPmregmisc] & chipset::kPmiose) != 0)
    place(window, load_config32(bytes, chipset::kPmba) & chipset::kPmbaBase);
  return window;
}

[[nodiscard]] Effect control(const FunctionRules& rules, std::uint8_t devfn, const ConfigBytes& bytes) {
  const std::uint16_t command = load_config16(bytes, spec::kCommand);
  std::uint32_t bits = 0;
  if ((command & spec::kCommandIo) != 0) bits |= kControlIoEnable;
  if ((command & spec::kCommandMemory) != 0) bits |= kControlMemoryEnable;
  if ((command & spec::kCommandBusMaster) != 0) bits |= kControlBusMaster;
  if ((command & spec::kCommandIntxDisable) != 0) bits |= kControlIntxDisable;
  if (rules.msi != 0 && (load_config16(bytes, rules.msi + spec::kMsiControl) & spec::kMsiEnable) != 0)
    bits |= kControlMsiEnable;
  if (rules.msix != 0) {
    const std::uint16_t msix = load_config16(bytes, rules.msix + spec::kMsixControl);
    if ((msix & spec::kMsixEnable) != 0) bits |= kControlMsixEnable;
    if ((msix & spec::kMsixFunctionMask) != 0) bits |= kControlMsixMask;
  }
  if (in_d3(rules, bytes)) bits |= kControlPowerD3;
  return Effect{.kind = static_cast<std::uint16_t>(EffectKind::kFunctionControl), .function = devfn, .flags = bits};
}

[[nodiscard]] Effect msi_routes(const FunctionRules& rules, std::uint8_t devfn, const ConfigBytes& bytes) {
  Effect route{.kind = static_cast<std::uint16_t>(EffectKind::kMsiRoute), .function = devfn};
  const std::uint16_t control = load_config16(bytes, rules.msi + spec::kMsiControl);
  if ((control & spec::kMsiEnable) == 0) return route;
  const std::uint32_t log2 = (control >> spec::kMsiEnabledShift) & spec::kMsiLog2Mask;
  route.index = log2;
  route.address = load_config32(bytes, rules.msi + spec::kMsiAddress) |
                  (std::uint64_t{load_config32(bytes, rules.msi + spec::kMsiAddressHigh)} << 32);
  // PCI 3.0, section 6.8.1.6: the function changes the low-order bits of the message data to tell its
  // vectors apart.
  route.data = load_config16(bytes, rules.msi + spec::kMsiData) & ~((1U << log2) - 1);
  route.size = load_config32(bytes, rules.msi + spec::kMsiMask);
  route.flags = kEffectEnabled;
  return route;
}

[[nodiscard]] Effect pirq_route(std::uint8_t pirq, const ConfigBytes& bytes) {
  Effect route{.kind = static_cast<std::uint16_t>(EffectKind::kIntxRoute), .index = pirq};
  const std::uint8_t value = bytes[static_cast<std::size_t>(chipset::kPirqrc) + pirq];
  const std::uint8_t irq = value & chipset::kPirqrcIrq;
  // 82371SB, section 2.2, register PIRQRC: the other IRQ numbers are reserved; they route nowhere.
  if ((value & chipset::kPirqrcDisable) == 0 && ((chipset::kPirqrcIrqs >> irq) & 1) != 0) {
    route.data = irq;
    route.flags = kEffectEnabled;
  }
  return route;
}

// 82441FX, section 3.2, registers PAM0-PAM6: bit 0 of a nibble enables reads of RAM, bit 1 writes to it. The high
// nibble of PAM0 is F0000h-FFFFFh; those of PAM1-PAM6 are 16 KiB pieces from C0000h on, the low nibble first.
[[nodiscard]] Effect shadow(const ConfigBytes& bytes) {
  Effect wanted{.kind = static_cast<std::uint16_t>(EffectKind::kShadow)};
  const auto set = [&](std::uint32_t segment, unsigned nibble) {
    wanted.data |= (nibble & (kShadowRead | kShadowWrite)) << (2 * segment);
  };
  for (unsigned i = 1; i < chipset::kPamCount; ++i) {
    const std::uint8_t pam = bytes[chipset::kPam0 + i];
    set(2 * (i - 1), pam);
    set(2 * (i - 1) + 1, pam >> 4);
  }
  set(kShadowSegments - 1, bytes[chipset::kPam0] >> 4);
  if ((bytes[chipset::kSmram] & chipset::kSmramOpen) != 0) wanted.data |= kShadowVgaOpen;
  return wanted;
}

}  // namespace

std::vector<DesiredObject> objects_of(const FunctionRules& rules) {
  std::vector<DesiredObject> objects;
  switch (rules.part) {
    case ChipsetPart::kHostBridge: objects.push_back({ObjectKind::kShadow, 0}); break;
    case ChipsetPart::kIsaBridge:
      for (std::uint8_t pirq = 0; pirq < kPirqCount; ++pirq) objects.push_back({ObjectKind::kPirq, pirq});
      break;
    case ChipsetPart::kPm: objects.push_back({ObjectKind::kPmWindow, 0}); break;
    case ChipsetPart::kNone:
      for (std::uint8_t i = 0; i < rules.decl->bars.size(); ++i) objects.push_back({ObjectKind::kBarWindow, i});
      objects.push_back({ObjectKind::kControl, 0});
      if (rules.msi != 0) objects.push_back({ObjectKind::kMsi, 0});
      break;
  }
  return objects;
}

Effect desired(const FunctionRules& rules, std::uint8_t devfn, DesiredObject object, const ConfigBytes& bytes) {
  switch (object.kind) {
    case ObjectKind::kBarWindow: return bar_window(rules, devfn, rules.decl->bars[object.index], bytes);
    case ObjectKind::kPmWindow: return pm_window(devfn, bytes);
    case ObjectKind::kControl: return control(rules, devfn, bytes);
    case ObjectKind::kMsi: return msi_routes(rules, devfn, bytes);
    case ObjectKind::kShadow: return shadow(bytes);
    case ObjectKind::kPirq: break;
  }
  return pirq_route(object.index, bytes);
}

Effect msix_route(std::uint8_t devfn, std::uint16_t vector, const MsixEntry& entry) {
  Effect route{.kind = static_cast<std::uint16_t>(EffectKind::kMsiRoute),
               .function = devfn,
               .index = vector,
               .flags = kEffectMsix};
  if ((entry.control & spec::kMsixVectorMask) != 0) return route;
  route.address = entry.address | (std::uint64_t{entry.address_high} << 32);
  route.data = entry.data;
  route.flags |= kEffectEnabled;
  return route;
}

}  // namespace bulkhead::devproc
