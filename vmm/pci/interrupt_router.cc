#include "vmm/pci/interrupt_router.h"

#include <poll.h>

#include <algorithm>

#include "ipc/base/log.h"

namespace bulkhead::vmm {
namespace {

constinit LogLimiter refusal_limiter{};

void note(const Status& status) {
  if (!status && refusal_limiter.allow()) log(LogLevel::kWarning, "{}", status.error().message);
}

bool is_signalled(BorrowedFd fd) {
  pollfd poll{fd.get(), POLLIN, 0};
  return ::poll(&poll, 1, 0) == 1 && (poll.revents & POLLIN) != 0;
}

}  // namespace

Status InterruptRouter::add_fixed_line(std::uint32_t gsi, BorrowedFd event, BorrowedFd resample) {
  return vm_.assign_irqfd(event, gsi, resample);
}

void InterruptRouter::add_intx_line(std::uint8_t devfn, std::uint8_t pin, BorrowedFd event, BorrowedFd resample) {
  lines_.push_back({devfn, pirq_of(devfn, pin), event, resample, std::nullopt});
}

void InterruptRouter::add_messages(std::uint8_t devfn, std::vector<BorrowedFd> events) {
  Function function{.devfn = devfn, .vectors = {}};
  for (const BorrowedFd event : events) function.vectors.push_back({.event = event});
  functions_.push_back(std::move(function));
}

InterruptRouter::Function* InterruptRouter::find(std::uint8_t devfn) {
  const auto at = std::find_if(functions_.begin(), functions_.end(),
                               [devfn](const Function& function) { return function.devfn == devfn; });
  return at == functions_.end() ? nullptr : &*at;
}

bool InterruptRouter::apply(const Effect& effect) {
  const std::lock_guard lock(lock_);
  const auto kind = static_cast<EffectKind>(effect.kind);
  const bool enabled = (effect.flags & kEffectEnabled) != 0;
  if (kind == EffectKind::kIntxRoute) {
    pirq_gsi_[effect.index] = enabled ? std::optional<std::uint32_t>(effect.data) : std::nullopt;
    for (IntxLine& line : lines_) {
      if (line.pirq == effect.index) move_line(line, pirq_gsi_[effect.index]);
    }
    return true;
  }
  Function* function = find(static_cast<std::uint8_t>(effect.function));
  if (kind == EffectKind::kFunctionControl) {
    if (function == nullptr) return true;  // a function without messages
    function->control = effect.flags;
  } else if ((effect.flags & kEffectMsix) != 0) {
    if (function == nullptr || effect.index >= function->vectors.size()) return false;
    Vector& vector = function->vectors[effect.index];
    vector.unmasked = enabled;
    if (enabled) vector.message = {effect.address, effect.data};
  } else {
    if (function == nullptr) return false;
    function->msi = effect;
  }
  update_function(*function);
  return true;
}

void InterruptRouter::move_line(IntxLine& line, std::optional<std::uint32_t> gsi) {
  if (!line.present) gsi.reset();
  if (line.gsi == gsi) return;
  if (line.gsi) note(vm_.deassign_irqfd(line.event, *line.gsi));
  line.gsi.reset();
  if (!gsi) return;
  const Status status = vm_.assign_irqfd(line.event, *gsi, line.resample);
  note(status);
  if (!status) return;
  line.gsi = gsi;
  // What the line asserted on the old GSI is gone: let its device look, and assert again.
  signal_eventfd(line.resample);
}

std::optional<MsiRoute::Message> InterruptRouter::wanted(const Function& function, std::uint32_t index) {
  if (!function.present || (function.control & kControlBusMaster) == 0 || (function.control & kControlPowerD3) != 0)
    return std::nullopt;
  if ((function.control & kControlMsixEnable) != 0) {
    const Vector& vector = function.vectors[index];
    if ((function.control & kControlMsixMask) != 0 || !vector.unmasked) return std::nullopt;
    return vector.message;
  }
  if ((function.control & kControlMsiEnable) == 0) return std::nullopt;
  const std::optional<MsiMessage> message = msi_message(function.msi, index);
  if (!message || message->masked) return std::nullopt;
  return MsiRoute::Message{message->address, message->data};
}

void InterruptRouter::update_function(Function& function) {
  // One KVM_SET_GSI_ROUTING for all vectors that change: it replaces the whole table each time.
  std::vector<MsiRoute> routes;
  for (std::uint32_t i = 0; i < function.vectors.size(); ++i) {
    Vector& vector = function.vectors[i];
    const std::optional<MsiRoute::Message> message = wanted(function, i);
    if (!message || vector.delivered == message) continue;
    if (!vector.gsi) {
      const Result<std::uint32_t> gsi = vm_.allocate_msi_gsi();
      if (!gsi) {
        note(gsi.error());
        continue;
      }
      vector.gsi = *gsi;
    }
    routes.push_back({*vector.gsi, message});
  }
  std::vector<std::uint32_t> refused;  // GSIs
  if (!routes.empty() && !vm_.set_msi_routes(routes)) {
    // One address that KVM does not take must not hold up the other vectors.
    for (const MsiRoute& route : routes) {
      const Status status = vm_.set_msi_routes(std::span(&route, 1));
      note(status);
      if (!status) refused.push_back(route.gsi);
    }
  }
  const bool any_enabled = (function.control & (kControlMsiEnable | kControlMsixEnable)) != 0;
  for (std::uint32_t i = 0; i < function.vectors.size(); ++i) {
    Vector& vector = function.vectors[i];
    std::optional<MsiRoute::Message> message = wanted(function, i);
    // A message that goes nowhere: the vector stays pending.
    if (vector.gsi && std::find(refused.begin(), refused.end(), *vector.gsi) != refused.end()) message.reset();
    deliver(vector, message);
    // With MSI and MSI-X off there are no pending bits that could be read or delivered later.
    if (!any_enabled) drain_eventfd(vector.event);
  }
}

void InterruptRouter::deliver(Vector& vector, const std::optional<MsiRoute::Message>& message) {
  if (!vector.gsi) return;
  if (!message && vector.delivered) note(vm_.deassign_irqfd(vector.event, *vector.gsi));
  if (message && !vector.delivered) {
    // An eventfd that was signalled while masked fires as soon as its irqfd is assigned.
    const Status status = vm_.assign_irqfd(vector.event, *vector.gsi);
    note(status);
    if (!status) return;
  }
  vector.delivered = message;
}

void InterruptRouter::set_present(std::uint8_t devfn, bool present) {
  const std::lock_guard lock(lock_);
  for (IntxLine& line : lines_) {
    if (line.devfn != devfn) continue;
    line.present = present;
    move_line(line, pirq_gsi_[line.pirq]);
    if (!present) drain_eventfd(line.event);
  }
  Function* function = find(devfn);
  if (function == nullptr) return;
  function->present = present;
  clear(*function);  // it comes back from reset
  for (const Vector& vector : function->vectors) drain_eventfd(vector.event);
}

void InterruptRouter::clear(Function& function) {
  function.control = 0;
  function.msi = {};
  for (Vector& vector : function.vectors) vector.unmasked = false;
  update_function(function);
}

void InterruptRouter::reset() {
  const std::lock_guard lock(lock_);
  for (std::optional<std::uint32_t>& gsi : pirq_gsi_) gsi.reset();
  for (IntxLine& line : lines_) {
    move_line(line, std::nullopt);
    drain_eventfd(line.event);
  }
  for (Function& function : functions_) clear(function);
}

std::uint64_t InterruptRouter::pending_bits(std::uint8_t devfn, std::uint16_t first_vector) {
  const std::lock_guard lock(lock_);
  const Function* function = find(devfn);
  std::uint64_t bits = 0;
  if (function == nullptr) return bits;
  for (std::uint32_t i = 0; i < 64 && first_vector + i < function->vectors.size(); ++i) {
    const Vector& vector = function->vectors[first_vector + i];
    if (!vector.delivered && is_signalled(vector.event)) bits |= std::uint64_t{1} << i;
  }
  return bits;
}

std::optional<std::uint32_t> InterruptRouter::gsi_of_pirq(std::uint32_t pirq) const {
  const std::lock_guard lock(lock_);
  return pirq_gsi_[pirq & (kPirqCount - 1)];
}

}  // namespace bulkhead::vmm
