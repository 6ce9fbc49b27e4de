// A successor on whatever a hostile predecessor left in the state region: Checkpoint::open and RoleHost's
// resume with the real models. It may refuse another layout; else it comes to rest, has answered what
// waits, and serves.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "devproc/host/role_host.h"
#include "ipc/ring/adaptive_wait.h"
#include "ipc/roles/device_types.h"
#include "tests/fakes/vector_memory.h"
#include "tests/fuzz/fuzz_script.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::devproc;
using bulkhead::fuzz::FuzzScript;
using bulkhead::fuzz::require;

constexpr std::size_t kHeader = 4096;
constexpr std::size_t kStateSize = 64 * 1024;
constexpr std::size_t kBank = (kStateSize - kHeader) / 2 / 4096 * 4096;

struct alignas(4096) Page {
  std::byte bytes[4096]{};
};

void add(control::TakeRole& role, const std::string& type, DeviceConfig config) {
  const DeviceTypeDecl& decl = *find_device_type(type);
  const auto after = [&](control::IndexRange control::DeviceInstance::*range) {
    if (role.instances.empty()) return 0U;
    return (role.instances.back().*range).first + (role.instances.back().*range).count;
  };
  control::DeviceInstance instance{.name = type, .type = type, .config = std::move(config)};
  instance.lines = {after(&control::DeviceInstance::lines), static_cast<std::uint32_t>(decl.lines.size())};
  instance.streams = {after(&control::DeviceInstance::streams), decl.streams};
  instance.vectors = {after(&control::DeviceInstance::vectors), decl.messages};
  role.instances.push_back(std::move(instance));
}

control::TakeRole role_of(std::uint8_t which) {
  control::TakeRole role{.role = "fuzz", .vm = "fuzz", .incarnation = 1, .generation = 1};
  if (which % 3 == 0) {
    add(role, "uart16550", Uart16550Config{});
    add(role, "cmos_rtc", CmosRtcConfig{.ram_below_4g = 64U << 20});
    add(role, "i8042", I8042Config{});
    add(role, "acpi_pm", AcpiPmConfig{});
    add(role, "system_ports", SystemPortsConfig{});
  } else if (which % 3 == 1) {
    add(role, "pci_bus", PciBusConfig{.ram_below_4g = 64U << 20, .functions = {{3 << 3, "pci_test"}}});
  } else {
    add(role, "pci_test", PciTestConfig{});
  }
  return role;
}

class Regions {
 public:
  explicit Regions(std::uint8_t which) : role_(role_of(which)) {
    requests().magic = ipc::kAreaMagic;
    requests().time.frozen_at.store(1'000'000'000);
  }
  bool start(std::uint32_t incarnation) {
    host_.reset();
    role_.incarnation = incarnation;
    auto made = RoleHost::create(role_, {.requests = &requests(),
                                         .replies = &replies(),
                                         .state = state(),
                                         .output_doorbell = doorbell_.borrow(),
                                         .line_assert = {},
                                         .line_resample = {},
                                         .messages = {},
                                         .memory = &memory_});
    if (!made) return false;
    host_ = std::move(*made);
    return true;
  }
  void submit(FuzzScript& script) {
    ipc::Request request{.generation = 1, .kind = ipc::RequestKind::kRead, .size = 1, .count = 1};
    if (const std::uint8_t how = script.byte(); how % 4 != 0) {
      request.kind = static_cast<ipc::RequestKind>(how >> 2 & 7);
      request.flags = how >> 7;
      request.instance = script.byte() % 6;
      request.region = script.byte() % 4;
      request.offset = script.byte();
      script.fill(std::as_writable_bytes(std::span(request.payload).first(2)));
    }
    submit(request);
  }
  void submit(const ipc::Request& request) {
    ipc::RequestSlot& slot = requests().slots[ipc::slot_of(++submitted_)];
    slot.request = request;
    slot.ticket.store(submitted_);
  }
  // Serves as the event loop does, and stops where it would sleep. False: it never would.
  bool comes_to_rest() {
    for (int i = 0; i < 5'000; ++i) {
      if (host_->handle_request() || host_->handle_streams()) continue;
      if (host_->next_deadline() > ipc::monotonic_ns()) return true;
      if (!host_->handle_timers()) return host_->next_deadline() > ipc::monotonic_ns();
    }
    return false;
  }
  [[nodiscard]] const ipc::ReplySlot& newest_reply() { return replies().slots[ipc::slot_of(submitted_)]; }
  [[nodiscard]] ipc::Ticket submitted() const { return submitted_; }
  [[nodiscard]] std::span<std::byte> state() { return {state_[0].bytes, kStateSize}; }
  [[nodiscard]] ipc::RequestArea& requests() { return *reinterpret_cast<ipc::RequestArea*>(requests_[0].bytes); }
  [[nodiscard]] ipc::ReplyArea& replies() { return *reinterpret_cast<ipc::ReplyArea*>(replies_[0].bytes); }

 private:
  control::TakeRole role_;
  std::vector<Page> requests_ = std::vector<Page>(ipc::kRequestAreaSize / sizeof(Page));
  std::vector<Page> replies_ = std::vector<Page>(ipc::kReplyAreaSize / sizeof(Page));
  std::vector<Page> state_ = std::vector<Page>(kStateSize / sizeof(Page));
  VectorMemory memory_{4096};
  UniqueFd doorbell_ = UniqueFd::create_eventfd().value();
  std::unique_ptr<RoleHost> host_;
  ipc::Ticket submitted_ = 0;
};

void spoil(Regions& regions, FuzzScript& script) {
  const std::span<std::byte> state = regions.state();
  for (int i = 0; i < 200 && !script.empty(); ++i) {
    const std::uint8_t how = script.byte();
    std::size_t at = script.number(2) % 4096;
    if (how % 8 == 0) at %= sizeof(ipc::StateHeader);
    if (how % 8 >= 1) at += kHeader + (how % 2) * kBank;
    const std::size_t bytes = std::size_t{1} << (how >> 3) % 4;
    // Any bytes at all, as often all ones: what is nearly too much.
    for (std::size_t n = 0; n < bytes && at + n < state.size(); ++n)
      state[at + n] = how >= 0xc0 ? std::byte{0xff} : static_cast<std::byte>(script.byte());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzScript script({data, size});
  Regions regions(script.byte());
  require(regions.start(1), "a new role did not start");
  for (int i = script.byte() % 100; i != 0; --i) {
    regions.submit(script);
    require(regions.comes_to_rest(), "an honest device process does not come to rest");
  }
  for (int i = script.byte() % 20; i != 0; --i) regions.submit(script);
  if (script.byte() % 2 == 0) regions.requests().time.frozen_at.store(ipc::kVmTimeRuns);
  spoil(regions, script);
  if (!regions.start(2)) return 0;  // another layout: said so, and refused
  require(regions.comes_to_rest(), "a successor does not come to rest");
  regions.submit({.generation = 1, .kind = ipc::RequestKind::kRead, .size = 1, .count = 1});
  require(regions.comes_to_rest(), "a successor does not come to rest after a request");
  const ipc::ReplySlot& slot = regions.newest_reply();
  require(slot.ticket.load() == regions.submitted() && slot.incarnation.load() == 2, "a request was not answered");
  require(slot.reply.effect_count <= kMaxEffects, "a reply with too many effects");
  return 0;
}
