#include "devproc/models/pci/firmware.h"

#include <algorithm>
#include <vector>

#include "devproc/models/pci/chipset_spec.h"
#include "devproc/models/pci/spec.h"
#include "ipc/base/checked.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc {
namespace {

namespace spec = pci_spec;
namespace chipset = chipset_spec;

// The PIIX4 raises its SCI on IRQ 9.
constexpr std::uint8_t kSciIrq = 9;

struct Request {
  const FirmwareTarget* target;
  const BarDecl* bar;
};

[[nodiscard]] bool is_io(const BarDecl& bar) { return bar.kind == BarKind::kIo; }

void enable(FunctionRules& rules, std::uint16_t command) {
  const auto allowed = static_cast<std::uint16_t>(command & load_config16(rules.writable, spec::kCommand));
  store_config(rules.reset, spec::kCommand, 2, load_config16(rules.reset, spec::kCommand) | allowed);
}

void disable(FunctionRules& rules, std::uint16_t command) {
  store_config(rules.reset, spec::kCommand, 2, load_config16(rules.reset, spec::kCommand) & ~command);
}

// Largest first, so that alignment wastes nothing; equals in the order of the bus.
void assign_bars(std::span<const FirmwareTarget> functions, bool io, std::uint64_t base, std::uint64_t end) {
  std::vector<Request> requests;
  for (const FirmwareTarget& target : functions) {
    for (const BarDecl& bar : target.rules->decl->bars) {
      if (is_io(bar) == io && bar.bar != kRomBar) requests.push_back({&target, &bar});
    }
  }
  std::stable_sort(requests.begin(), requests.end(),
                   [](const Request& a, const Request& b) { return a.bar->size > b.bar->size; });
  std::uint64_t next = base;
  for (const Request& request : requests) {
    FunctionRules& rules = *request.target->rules;
    const std::uint64_t at = align_up(next, request.bar->size);
    if (!fits(at, request.bar->size, end)) {
      disable(rules, io ? spec::kCommandIo : spec::kCommandMemory);
      continue;
    }
    const std::uint8_t offset = bar_offset(request.bar->bar);
    store_config(rules.reset, offset, 4, load_config32(rules.reset, offset) | static_cast<std::uint32_t>(at));
    next = at + request.bar->size;
  }
}

void leave_host_bridge(FunctionRules& rules) {
  enable(rules, spec::kCommandSerr);
  rules.reset[chipset::kPam0] = chipset::kPam0Writable;
  for (unsigned i = 1; i < chipset::kPamCount; ++i) rules.reset[chipset::kPam0 + i] = chipset::kPamWritable;
}

void leave_isa_bridge(FunctionRules& rules) {
  for (unsigned i = 0; i < kPirqCount; ++i) rules.reset[chipset::kPirqrc + i] = kFirmwarePirqRoutes[i];
}

void leave_pm(FunctionRules& rules, std::uint16_t pm_base) {
  store_config(rules.reset, chipset::kPmba, 4, (pm_base & chipset::kPmbaBase) | spec::kBarIo);
  rules.reset[chipset::kPmregmisc] = chipset::kPmiose;
  rules.reset[spec::kInterruptLine] = kSciIrq;
}

void leave_function(std::uint8_t devfn, FunctionRules& rules) {
  enable(rules, spec::kCommandIo | spec::kCommandMemory | spec::kCommandSerr);
  if (rules.decl->interrupt_pin != 0)
    rules.reset[spec::kInterruptLine] = kFirmwarePirqRoutes[pirq_of(devfn, rules.decl->interrupt_pin)];
}

}  // namespace

void leave_as_firmware(std::span<const FirmwareTarget> functions, std::uint16_t pm_base, std::uint64_t ram_below_4g) {
  for (const FirmwareTarget& target : functions) {
    switch (target.rules->part) {
      case ChipsetPart::kHostBridge: leave_host_bridge(*target.rules); break;
      case ChipsetPart::kIsaBridge: leave_isa_bridge(*target.rules); break;
      case ChipsetPart::kPm: leave_pm(*target.rules, pm_base); break;
      case ChipsetPart::kNone: leave_function(target.devfn, *target.rules); break;
    }
  }
  assign_bars(functions, true, kFirmwareIoBase, kFirmwareIoEnd);
  assign_bars(functions, false, std::max(kFirmwareMemoryBase, ram_below_4g), kFirmwareMemoryEnd);
}

}  // namespace bulkhead::devproc
