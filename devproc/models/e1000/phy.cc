#include "devproc/models/e1000/phy.h"

namespace bulkhead::devproc {

using namespace e1000_spec;

namespace {

// Register 1: what the PHY can do (10 and 100 Mbit/s, register 15 is there, preambles may be left out, it negotiates).
constexpr std::uint16_t kAbilities = 0x7949;
constexpr std::uint16_t kStatusNegotiated = 1U << 5;
constexpr std::uint16_t kStatusLink = 1U << 2;

// Register 4 and 5: 10 and 100 Mbit/s in both modes, and PAUSE.
constexpr std::uint16_t kAdvertiseDefault = 0x0de1;
constexpr std::uint16_t kAdvertise100 = 0x0180;
constexpr std::uint16_t kPartner = 0x4de1;  // acknowledged
constexpr std::uint16_t kPartnerNegotiates = 1U << 0;

constexpr std::uint16_t k1000Default = 0x0e00;
constexpr std::uint16_t kAdvertise1000 = 0x0300;
constexpr std::uint16_t k1000StatusLinked = 0x3c00;  // both receivers good; the partner does 1000BASE-T
constexpr std::uint16_t kExtStatus = 0x3000;         // 1000BASE-T, full and half duplex

constexpr std::uint16_t kSpecControlDefault = 0x0068;
constexpr std::uint16_t kExtSpecControlDefault = 0x0c60;
constexpr unsigned kSpecSpeedShift = 14;
constexpr std::uint16_t kSpecDuplex = 1U << 13;
constexpr std::uint16_t kSpecResolved = 1U << 11;
constexpr std::uint16_t kSpecLink = 1U << 10;

constexpr std::uint16_t kIntLinkChanged = 1U << 10;
constexpr std::uint16_t kIntNegotiated = 1U << 11;

}  // namespace

void E1000Phy::reset() {
  registers = {};
  registers[kPhyControl] = kPhyCtlAneg | kPhyCtlDuplex | kPhyCtlSpeedHigh;
  registers[kPhyAdvertise] = kAdvertiseDefault;
  registers[kPhy1000Control] = k1000Default;
  registers[kPhySpecControl] = kSpecControlDefault;
  registers[kPhyExtSpecControl] = kExtSpecControlDefault;
  link_failed = 0;
}

bool E1000Phy::loopback() const { return (registers[kPhyControl] & kPhyCtlLoopback) != 0; }

bool E1000Phy::link() const {
  if ((registers[kPhyControl] & (kPhyCtlPowerDown | kPhyCtlIsolate)) != 0) return false;
  return cable != 0 || loopback();
}

std::uint32_t E1000Phy::speed() const {
  const std::uint16_t control = registers[kPhyControl];
  if (!negotiates()) {
    if ((control & kPhyCtlSpeedHigh) != 0) return 2;
    return (control & kPhyCtlSpeedLow) != 0 ? 1 : 0;
  }
  if ((registers[kPhy1000Control] & kAdvertise1000) != 0) return 2;
  return (registers[kPhyAdvertise] & kAdvertise100) != 0 ? 1 : 0;
}

bool E1000Phy::full_duplex() const { return negotiates() || (registers[kPhyControl] & kPhyCtlDuplex) != 0; }

void E1000Phy::set_cable(bool plugged) {
  if (plugged == (cable != 0)) return;
  const bool before = link();
  cable = plugged ? 1 : 0;
  if (link() == before) return;
  if (before) link_failed = 1;
  note(kIntLinkChanged);
  if (link() && negotiates()) note(kIntNegotiated);
}

std::uint16_t E1000Phy::read(std::uint8_t reg) {
  const bool up = link();
  const bool negotiated = up && negotiates();
  switch (reg & 31) {
    case kPhyStatus: {
      // The link's failure is latched until it was seen.
      const bool shown = up && link_failed == 0;
      if (link_failed != 0) link_failed = 0;
      return static_cast<std::uint16_t>(kAbilities | (negotiated ? kStatusNegotiated : 0) | (shown ? kStatusLink : 0));
    }
    case kPhyId1: return 0x0141;
    case kPhyId2: return 0x0c20;
    case kPhyPartner: return negotiated ? kPartner : std::uint16_t{0};
    case kPhyExpansion: return negotiated ? kPartnerNegotiates : std::uint16_t{0};
    case kPhy1000Status: return negotiated ? k1000StatusLinked : std::uint16_t{0};
    case kPhyExtStatus: return kExtStatus;
    case kPhySpecStatus:
      if (!up) return 0;
      return static_cast<std::uint16_t>(speed() << kSpecSpeedShift | (full_duplex() ? kSpecDuplex : 0) | kSpecResolved |
                                        kSpecLink);
    case kPhyIntStatus: {
      const std::uint16_t value = registers[kPhyIntStatus];
      if (value != 0) registers[kPhyIntStatus] = 0;
      return value;
    }
    default: return registers[reg & 31];
  }
}

bool E1000Phy::write(std::uint8_t reg, std::uint16_t value) {
  switch (reg & 31) {
    case kPhyControl: {
      if ((value & kPhyCtlReset) != 0) {
        // It keeps what was written beside the bit; what is negotiated is so anew.
        registers[kPhyControl] = static_cast<std::uint16_t>(value & ~(kPhyCtlReset | kPhyCtlRestart));
        note(kIntLinkChanged | kIntNegotiated);
        return true;
      }
      const std::uint16_t before = registers[kPhyControl];
      registers[kPhyControl] = static_cast<std::uint16_t>(value & ~kPhyCtlRestart);
      const bool restarted = (value & kPhyCtlRestart) != 0 && (value & kPhyCtlAneg) != 0;
      if (restarted) note(kIntLinkChanged | kIntNegotiated);
      return restarted || registers[kPhyControl] != before;
    }
    case kPhyStatus:
    case kPhyId1:
    case kPhyId2:
    case kPhyPartner:
    case kPhyExpansion:
    case kPhy1000Status:
    case kPhyExtStatus:
    case kPhySpecStatus:
    case kPhyIntStatus: return false;  // read-only
    default: registers[reg & 31] = value; return false;
  }
}

}  // namespace bulkhead::devproc
