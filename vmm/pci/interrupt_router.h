// InterruptRouter: from a device process's eventfds to KVM's interrupt controllers.
//
// Lines: an ISA line is an edge irqfd on its GSI; a level line (SCI, INTx) is an irqfd with a resample
// eventfd. INTx lines sit on the GSI that their PIRQ is routed to; functions that share a PIRQ share the
// GSI. When a route changes, the irqfd moves and the resample eventfd is signalled, so that a device that
// still asserts its line asserts it again. Messages: each MSI or MSI-X vector is an eventfd. While it is
// enabled and unmasked an irqfd delivers it; while it is masked the irqfd is taken away and the eventfd's
// own state is the vector's pending bit.
//
// Threading: any thread; locked inside. Errors: what KVM refuses is logged and counted, never fatal: it can
// be caused by a guest. Trust: effects were parsed (parse_effect) but say whatever a hostile process wants;
// functions, vectors and lines are the plan's.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "ipc/base/unique_fd.h"
#include "ipc/roles/pci_decl.h"
#include "ipc/state/effects.h"
#include "vmm/bus/remote_channel.h"
#include "vmm/hypervisor/hypervisor.h"

namespace bulkhead::vmm {

class InterruptRouter final : public PendingBits {
 public:
  explicit InterruptRouter(Vm& vm) : vm_(vm) {}

  // A line with a GSI of its own. `resample` invalid: an edge line.
  Status add_fixed_line(std::uint32_t gsi, BorrowedFd event, BorrowedFd resample);
  // INTx of a function: unrouted until the guest (or firmware's state) routes its PIRQ.
  void add_intx_line(std::uint8_t devfn, std::uint8_t pin, BorrowedFd event, BorrowedFd resample);
  void add_messages(std::uint8_t devfn, std::vector<BorrowedFd> events);

  // kIntxRoute, kMsiRoute, and the MSI bits of kFunctionControl. False: no such function or vector.
  bool apply(const Effect& effect);
  // An isolated function raises nothing: its irqfds are taken away and what it asserted is lowered.
  void set_present(std::uint8_t devfn, bool present);
  // No PIRQ routed, MSI and MSI-X off, nothing pending.
  void reset();

  std::uint64_t pending_bits(std::uint8_t devfn, std::uint16_t first_vector) override;

  [[nodiscard]] std::optional<std::uint32_t> gsi_of_pirq(std::uint32_t pirq) const;

 private:
  struct IntxLine {
    std::uint8_t devfn;
    std::uint32_t pirq;
    BorrowedFd event;
    BorrowedFd resample;
    std::optional<std::uint32_t> gsi;  // where its irqfd is now
    bool present = true;
  };
  struct Vector {
    BorrowedFd event;
    MsiRoute::Message message{};  // MSI-X: the table entry
    bool unmasked = false;        // MSI-X: the entry's own mask bit is clear
    std::optional<std::uint32_t> gsi{};
    std::optional<MsiRoute::Message> delivered{};  // set while the irqfd is assigned
  };
  struct Function {
    std::uint8_t devfn;
    bool present = true;
    std::uint32_t control = 0;
    Effect msi{};  // the last kMsiRoute without kEffectMsix
    std::vector<Vector> vectors;
  };

  Function* find(std::uint8_t devfn);
  void move_line(IntxLine& line, std::optional<std::uint32_t> gsi);
  [[nodiscard]] static std::optional<MsiRoute::Message> wanted(const Function& function, std::uint32_t vector);
  void update_function(Function& function);
  void clear(Function& function);
  void deliver(Vector& vector, const std::optional<MsiRoute::Message>& message);

  Vm& vm_;
  mutable std::mutex lock_;
  std::optional<std::uint32_t> pirq_gsi_[kPirqCount];
  std::vector<IntxLine> lines_;
  std::vector<Function> functions_;
};

}  // namespace bulkhead::vmm
