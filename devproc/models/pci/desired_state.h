// What a function's configuration space asks of the VMM: a pure function of its bytes.
//
// Each thing that the VMM can be asked for (a window, a pin's route, a function's control word, its MSI
// routes) is one object, and its whole desired state one effect. A write emits the effects that it changed;
// after a reset or a take-over all of them can be read off again.
#pragma once

#include <cstdint>
#include <vector>

#include "devproc/models/pci/config_space.h"
#include "devproc/models/pci/msix_table.h"
#include "ipc/state/effects.h"

namespace bulkhead::devproc {

enum class ObjectKind : std::uint8_t { kBarWindow, kPmWindow, kControl, kMsi, kPirq, kShadow };

struct DesiredObject {
  ObjectKind kind;
  std::uint8_t index;  // kBarWindow: index into PciDecl::bars; kPirq: 0-3
};

// The objects of a function in a fixed order, at most kMaxEffects. MSI-X vectors are not among them: they
// depend on the table alone (msix_route()).
[[nodiscard]] std::vector<DesiredObject> objects_of(const FunctionRules& rules);

[[nodiscard]] Effect desired(const FunctionRules& rules, std::uint8_t devfn, DesiredObject object,
                             const ConfigBytes& bytes);

[[nodiscard]] Effect msix_route(std::uint8_t devfn, std::uint16_t vector, const MsixEntry& entry);

}  // namespace bulkhead::devproc
