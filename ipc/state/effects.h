// Effects: what a device process asks of the VMM, as typed, bounded records (DESIGN.md, idea 3).
//
// Trust: written by a device process, which may be hostile. The VMM copies a record once, parses the
// copy with parse_effect(), checks it against what the role was granted (ipc/roles) and then applies or
// refuses it. Window and route effects carry the whole desired state of one object, never a change to
// it, so that applying one twice is harmless and a refused one can take hold later.
#pragma once

#include <cstdint>
#include <optional>

namespace bulkhead {

enum class EffectKind : std::uint16_t {
  kNone = 0,
  kWindow = 1,           // where a BAR decodes
  kIntxRoute = 2,        // the GSI that a PIRQ pin is routed to
  kFunctionControl = 3,  // command register bits and MSI-X state that the function's owner must know
  kMsiRoute = 4,         // one MSI-X vector's message, or the messages of all MSI vectors of a function
  kPower = 5,            // power off, reset, debug exit
  kPause = 6,            // the VM is to stand still until a person has helped
  kShadow = 7,           // what of C0000h-FFFFFh is RAM, and the window at A0000h (i440FX: PAM and SMRAM registers)
  kVgaWindow = 8,        // what of the video memory lies at A0000h, as memory
};

// The wire record. 32 bytes; fields that a kind does not name are zero.
struct Effect {
  std::uint16_t kind = 0;
  std::uint16_t function = 0;  // devfn (device << 3 | function) on bus 0
  std::uint32_t index = 0;     // BAR number, PIRQ number or vector
  std::uint64_t address = 0;   // window base, message address
  std::uint64_t size = 0;      // window length, bytes
  std::uint32_t data = 0;      // message data, GSI, power action, debug-exit value
  std::uint32_t flags = 0;     // EffectFlag or FunctionControl bits
  bool operator==(const Effect&) const = default;
};
static_assert(sizeof(Effect) == 32);

// What each kind carries:
//   kWindow      function, index = BAR number, size, kEffectIoSpace; while it decodes: address and
//                kEffectEnabled. The PIIX4 PM block is index 0 of its function (kPmWindow).
//   kIntxRoute   index = PIRQ (0-3); while it is routed: data = IRQ and kEffectEnabled.
//   kFunctionControl  function, flags = FunctionControl bits.
//   kMsiRoute with kEffectMsix  function, index = vector; while the vector's own mask bit is clear:
//   address,
//                data and kEffectEnabled. MSI-X enable and function mask are bits of kFunctionControl; the
//                VMM combines the three, so that enabling a function of 2048 vectors is one effect.
//   kMsiRoute without it  all MSI vectors of the function in one record; while MSI is enabled: index = log2
//                of the number of vectors in use (0-5), address, data = message data with the low `index`
//                bits clear, size = mask bits (bit v: vector v is masked) and kEffectEnabled.
//                msi_message() derives vector v's message.
//   kShadow      data = for each segment of kShadowSegments two bits, kShadowRead and kShadowWrite, the lowest
//   segment's
//                lowest; kShadowVgaOpen.
//   kVgaWindow   while there is one: address = offset in the video memory, size = 64 KiB or 128 KiB, kEffectEnabled.
//   kPower       data = PowerAction; kDebugExit: address = the value that the guest wrote.
//   kPause       data = PauseReason. Asked for again and again while the reason lasts and the VM runs.
// Of a window, pin or vector that is off, the fields after "while" are zero: that is also its state after
// a reset, which nobody reports. MSI and MSI-X both need kControlBusMaster and no kControlPowerD3.

// Effect::flags of kWindow, kIntxRoute and kMsiRoute.
enum EffectFlag : std::uint32_t {
  kEffectEnabled = 1U << 0,  // the window decodes, the pin is routed, the vector is unmasked
  kEffectIoSpace = 1U << 1,  // kWindow: I/O ports rather than memory
  kEffectMsix = 1U << 2,     // kMsiRoute: one MSI-X vector (else all MSI vectors)
};

// Effect::flags of kFunctionControl, and the data of a RequestKind::kFunctionControl.
enum FunctionControl : std::uint32_t {
  kControlIoEnable = 1U << 0,
  kControlMemoryEnable = 1U << 1,
  kControlBusMaster = 1U << 2,
  kControlIntxDisable = 1U << 3,
  kControlMsiEnable = 1U << 4,
  kControlMsixEnable = 1U << 5,
  kControlMsixMask = 1U << 6,
  kControlPowerD3 = 1U << 7,  // the function is in D3hot rather than D0
  kControlAll = (1U << 8) - 1,
};

// Effect::data of kShadow. Segments 0-11 are the 16 KiB pieces from C0000h on, segment 12 is F0000h-FFFFFh.
inline constexpr std::uint32_t kShadowSegments = 13;
inline constexpr std::uint32_t kShadowRead = 1U << 0;      // reads come from RAM, else from ROM or the PCI bus
inline constexpr std::uint32_t kShadowWrite = 1U << 1;     // writes go to RAM, else to the PCI bus
inline constexpr std::uint32_t kShadowVgaOpen = 1U << 26;  // A0000h-BFFFFh is RAM (D_OPEN of SMRAM)
inline constexpr std::uint32_t kShadowAll = (1U << 27) - 1;

// Effect::data of kPower.
enum class PowerAction : std::uint32_t {
  kPowerOff = 1,
  kReset = 2,      // the whole machine, as the reset button does
  kDebugExit = 3,  // Effect::address holds the value that the guest wrote
};

// Effect::data of kPause.
enum class PauseReason : std::uint32_t {
  kDiskFull = 1,  // the host's file system has no room for what the guest wrote
};

inline constexpr std::uint32_t kBarCount = 7;  // BAR 0-5; 6 is the expansion ROM
inline constexpr std::uint32_t kRomBar = 6;
inline constexpr std::uint32_t kPirqCount = 4;  // PIRQA-PIRQD
// IRQs that PIRQRC can route to (82371SB, section 2.2): never the timer, the cascade, the RTC or the FPU.
inline constexpr std::uint32_t kRoutableIrqs = 0xdef8;
inline constexpr std::uint32_t kMaxVectors = 2048;  // PCI 3.0, section 6.8.2: MSI-X table size
inline constexpr std::uint32_t kMaxMsiLog2 = 5;     // PCI 3.0, section 6.8.1: at most 32 MSI vectors

// The most effects that one committed input can have. Command-register writes are the widest: six BARs,
// the ROM and the function's control word.
inline constexpr std::uint32_t kMaxEffects = 14;

// Checks everything about a record that needs no knowledge of the machine; nullopt for a record that no
// honest device sends.
[[nodiscard]] inline std::optional<Effect> parse_effect(const Effect& untrusted) {
  const Effect effect = untrusted;
  if (effect.function > 0xff) return std::nullopt;
  switch (static_cast<EffectKind>(effect.kind)) {
    case EffectKind::kWindow:
      if (effect.index >= kBarCount || (effect.flags & ~(kEffectEnabled | kEffectIoSpace)) != 0) return std::nullopt;
      if (effect.size == 0 || (effect.size & (effect.size - 1)) != 0) return std::nullopt;
      if ((effect.address & (effect.size - 1)) != 0) return std::nullopt;
      return effect;
    case EffectKind::kIntxRoute:
      if (effect.index >= kPirqCount || (effect.flags & ~kEffectEnabled) != 0) return std::nullopt;
      if ((effect.flags & kEffectEnabled) != 0 && (effect.data > 15 || (kRoutableIrqs >> effect.data & 1) == 0))
        return std::nullopt;
      return effect;
    case EffectKind::kFunctionControl:
      if ((effect.flags & ~kControlAll) != 0) return std::nullopt;
      return effect;
    case EffectKind::kMsiRoute:
      if (effect.index >= kMaxVectors || (effect.flags & ~(kEffectEnabled | kEffectMsix)) != 0) return std::nullopt;
      if ((effect.address & 3) != 0) return std::nullopt;
      if ((effect.flags & kEffectMsix) != 0) {
        if (effect.size != 0) return std::nullopt;
        return effect;
      }
      if (effect.index > kMaxMsiLog2 || effect.size > 0xffffffff || effect.data > 0xffff) return std::nullopt;
      if ((effect.data & ((1U << effect.index) - 1)) != 0) return std::nullopt;
      return effect;
    case EffectKind::kVgaWindow:
      if ((effect.flags & ~kEffectEnabled) != 0 || effect.data != 0) return std::nullopt;
      if ((effect.flags & kEffectEnabled) == 0)
        return effect.address == 0 && effect.size == 0 ? std::optional(effect) : std::nullopt;
      if ((effect.size != 0x10000 && effect.size != 0x20000) || effect.address % 0x10000 != 0) return std::nullopt;
      return effect;
    case EffectKind::kPower:
      if (effect.data < 1 || effect.data > 3) return std::nullopt;
      return effect;
    case EffectKind::kPause:
      if (effect.data != static_cast<std::uint32_t>(PauseReason::kDiskFull)) return std::nullopt;
      return effect;
    case EffectKind::kShadow:
      if ((effect.data & ~kShadowAll) != 0) return std::nullopt;
      return effect;
    case EffectKind::kNone: break;
  }
  return std::nullopt;
}

struct MsiMessage {
  std::uint64_t address = 0;
  std::uint32_t data = 0;
  bool masked = false;
};

// The message of MSI vector `vector` (0-31) under `route`, a parsed kMsiRoute without kEffectMsix; nullopt
// when MSI is off or fewer vectors are in use.
[[nodiscard]] constexpr std::optional<MsiMessage> msi_message(const Effect& route, std::uint32_t vector) {
  if ((route.flags & kEffectEnabled) == 0 || vector >= (1U << route.index)) return std::nullopt;
  return MsiMessage{route.address, route.data | vector, ((route.size >> vector) & 1) != 0};
}

}  // namespace bulkhead
