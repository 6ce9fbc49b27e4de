#include "devproc/models/pci/pci_bus.h"

#include <fmt/format.h>

#include "devproc/models/pci/chipset_spec.h"
#include "devproc/models/pci/firmware.h"
#include "devproc/models/pci/spec.h"
#include "ipc/base/check.h"

namespace bulkhead::devproc {
namespace {

namespace spec = pci_spec;
namespace chipset = chipset_spec;

constexpr std::int16_t kAbsent = -1;
constexpr auto kMsixSizes = static_cast<AccessSizes>(kSize4 | kSize8);

[[nodiscard]] std::uint32_t low_bytes(std::uint32_t count) {
  return static_cast<std::uint32_t>(all_ones(static_cast<std::uint8_t>(count)));
}

}  // namespace

PciBus::PciBus(const PciBusConfig& config, PciDeclLookup lookup, StateAllocator& allocator, EffectSink& effects,
               Redirect& redirect)
    : effects_(effects),
      redirect_(redirect),
      bus_(allocate_state<PciBusState>(allocator)),
      presence_(allocate_state<PciPresenceState>(allocator)) {
  by_devfn_.fill(kAbsent);
  add_function(kHostBridgeDevfn, make_chipset_rules(ChipsetPart::kHostBridge), allocator);
  add_function(kIsaBridgeDevfn, make_chipset_rules(ChipsetPart::kIsaBridge), allocator);
  add_function(kPmDevfn, make_chipset_rules(ChipsetPart::kPm), allocator);
  for (const PciFunctionConfig& function : config.functions) {
    const PciDecl* decl = lookup(function.type);
    CHECK(decl != nullptr && pci_decl_valid(*decl), function.type);
    add_function(function.devfn, make_rules(decl_of(function, *decl)), allocator);
  }
  finish_rules(config);
  build_regions();
}

const PciDecl& PciBus::decl_of(const PciFunctionConfig& function, const PciDecl& type) {
  if (function.rom_size == 0) return type;
  auto own = std::make_unique<OwnDecl>(OwnDecl{type, {type.bars.begin(), type.bars.end()}});
  own->bars.push_back({.bar = kRomBar, .kind = BarKind::kMemory32, .size = function.rom_size});
  own->decl.bars = own->bars;
  CHECK(pci_decl_valid(own->decl), function.type, function.rom_size);
  own_decls_.push_back(std::move(own));
  return own_decls_.back()->decl;
}

void PciBus::add_function(std::uint8_t devfn, const FunctionRules& rules, StateAllocator& allocator) {
  CHECK(by_devfn_[devfn] == kAbsent, devfn);
  by_devfn_[devfn] = static_cast<std::int16_t>(functions_.size());
  std::vector<DesiredObject> objects = objects_of(rules);
  CHECK(objects.size() <= kMaxEffects, devfn);
  std::optional<MsixTable> table;
  Persistent<PciConfigState> config = allocate_state<PciConfigState>(allocator);
  if (rules.msix != 0) table.emplace(rules.decl->msix_vectors, allocator);
  const std::size_t first = desired_count_;
  desired_count_ += objects.size() + (table ? table->vectors() : 0U);
  functions_.push_back({devfn, rules, std::move(objects), config, std::move(table), first,
                        fmt::format("00:{:02x}.{}", devfn >> 3, devfn & 7)});
}

// What depends on the whole bus: the multi-function bit and what firmware would have left.
void PciBus::finish_rules(const PciBusConfig& config) {
  std::vector<FirmwareTarget> targets;
  for (Function& function : functions_) {
    // PCI 3.0, section 6.2.1: software looks beyond function 0 only when its header type has bit 7 set.
    const std::int16_t first = by_devfn_[function.devfn & ~7U];
    if ((function.devfn & 7) != 0 && first != kAbsent)
      functions_[static_cast<std::size_t>(first)].rules.reset[spec::kHeaderType] |= spec::kHeaderMultiFunction;
    targets.push_back({function.devfn, &function.rules});
  }
  if (config.pm_base != 0) return leave_as_firmware(targets, config.pm_base, config.ram_below_4g);
  // The chip has no such registers. SeaBIOS and OVMF know by them that they run in a virtual machine of this kind.
  FunctionRules& bridge = functions_[static_cast<std::size_t>(by_devfn_[kHostBridgeDevfn])].rules;
  store_config(bridge.reset, spec::kSubsystemVendorId, 2, chipset::kVirtualSubsystemVendor);
  store_config(bridge.reset, spec::kSubsystemId, 2, chipset::kVirtualSubsystem);
}

void PciBus::build_regions() {
  regions_.push_back({"config ports", AddressKind::kPort, spec::kConfigPorts, kSizeUpTo4});
  for (std::size_t i = 0; i < functions_.size(); ++i) {
    if (!functions_[i].msix) continue;
    msix_functions_.push_back(i);
    regions_.push_back(
        {functions_[i].label, AddressKind::kMemory, msix_bar(*functions_[i].rules.decl)->size, kMsixSizes});
  }
}

void PciBus::reset() {
  bus_.mut() = PciBusState{};
  for (Function& function : functions_) {
    function.config.mut().bytes = function.rules.reset;
    if (function.msix) function.msix->reset();
  }
}

void PciBus::restore() {
  PciBusState bus{};
  bus.confadd = bus_->confadd & spec::kConfaddWritable;
  bus.reset_control = bus_->reset_control & (spec::kResetHard | spec::kResetCpu);
  bus_.mut() = bus;
  PciPresenceState presence{};
  for (const Function& function : functions_) {
    // The chipset is always there.
    if (function.rules.part == ChipsetPart::kNone && absent(function.devfn))
      presence.absent[function.devfn / 64] |= std::uint64_t{1} << (function.devfn % 64);
  }
  presence_.mut() = presence;
  for (Function& function : functions_) {
    const ConfigBytes legal = legalised(function.rules, function.config->bytes);
    if (legal != function.config->bytes) function.config.mut().bytes = legal;
    if (function.msix) function.msix->restore();
  }
}

void PciBus::on_function_presence(std::uint8_t devfn, bool present) {
  const std::int16_t index = by_devfn_[devfn];
  if (index == kAbsent) return;
  Function& function = functions_[static_cast<std::size_t>(index)];
  if (function.rules.part != ChipsetPart::kNone || absent(devfn) != present) return;
  presence_.mut().absent[devfn / 64] ^= std::uint64_t{1} << (devfn % 64);
  function.config.mut().bytes = function.rules.reset;
  if (function.msix) function.msix->reset();
}

std::optional<std::uint64_t> PciBus::read(const Access& access) {
  if (access.region > 0) {
    if (access.region > msix_functions_.size()) return std::nullopt;
    return read_msix(functions_[msix_functions_[access.region - 1U]], access.offset, access.size);
  }
  if (access.size > 4 || access.offset + access.size > spec::kConfigPorts) return std::nullopt;
  // The bus splits an access that crosses a dword, and passes each part on with its byte enables.
  const auto first = static_cast<std::uint32_t>(access.offset);
  const std::uint32_t head = std::min<std::uint32_t>(access.size, 4 - first % 4);
  std::uint32_t value = read_ports(first, head, 0);
  if (head < access.size) value |= read_ports(first + head, access.size - head, head) << (8 * head);
  return value;
}

bool PciBus::write(const Access& access, std::uint64_t value) {
  if (access.region > 0) {
    if (access.region > msix_functions_.size()) return false;
    return write_msix(functions_[msix_functions_[access.region - 1U]], access.offset, access.size, value);
  }
  if (access.size > 4 || access.offset + access.size > spec::kConfigPorts) return false;
  const auto first = static_cast<std::uint32_t>(access.offset);
  const std::uint32_t head = std::min<std::uint32_t>(access.size, 4 - first % 4);
  const auto bytes = static_cast<std::uint32_t>(value);
  bool known = write_ports(first, head, bytes & low_bytes(head));
  if (head < access.size) known |= write_ports(first + head, access.size - head, bytes >> (8 * head));
  return known;
}

PciBus::Function* PciBus::addressed() {
  const std::uint32_t confadd = bus_->confadd;
  // PCI 3.0, section 3.2.2.3.2: bus number in bits 23:16, device and function in bits 15:8.
  if ((confadd & spec::kConfaddEnable) == 0 || ((confadd >> 16) & 0xff) != 0) return nullptr;
  const auto devfn = static_cast<std::uint8_t>(confadd >> 8);
  const std::int16_t index = by_devfn_[devfn];
  return index == kAbsent || absent(devfn) ? nullptr : &functions_[static_cast<std::size_t>(index)];
}

std::uint8_t PciBus::addressed_register() const { return static_cast<std::uint8_t>(bus_->confadd & 0xfc); }

// `first` ... `first + count - 1` lie within one dword of CF8h-CFFh.
std::uint32_t PciBus::read_ports(std::uint32_t first, std::uint32_t count, std::uint32_t lead) {
  if (first >= spec::kConfdata) {
    const Function* function = addressed();
    if (function == nullptr) return low_bytes(count);
    return read_config(*function, static_cast<std::uint8_t>(addressed_register() + first - spec::kConfdata),
                       static_cast<std::uint8_t>(count), lead);
  }
  // 82441FX, section 3.1, CONFADD: narrower accesses pass it by on their way to PCI, where the PIIX3 claims
  // the byte at CF9h.
  if (first == spec::kConfadd && count == 4) return bus_->confadd;
  if (first == spec::kResetControl && count == 1) return bus_->reset_control;
  return low_bytes(count);
}

bool PciBus::write_ports(std::uint32_t first, std::uint32_t count, std::uint32_t value) {
  if (first >= spec::kConfdata) {
    Function* function = addressed();
    if (function == nullptr) return false;
    write_config(*function, static_cast<std::uint8_t>(addressed_register() + first - spec::kConfdata),
                 static_cast<std::uint8_t>(count), value);
    return true;
  }
  if (first == spec::kConfadd && count == 4) {
    bus_.mut().confadd = value & spec::kConfaddWritable;
    return true;
  }
  if (first == spec::kResetControl && count == 1) {
    write_reset_control(static_cast<std::uint8_t>(value));
    return true;
  }
  return false;
}

// 82371SB, register RC: a reset begins when RCPU goes from 0 to 1.
void PciBus::write_reset_control(std::uint8_t value) {
  const std::uint8_t before = bus_->reset_control;
  const std::uint8_t after = value & (spec::kResetHard | spec::kResetCpu);
  bus_.mut().reset_control = after;
  if ((after & ~before & spec::kResetCpu) != 0) request_reset();
}

void PciBus::request_reset() {
  effects_.emit(Effect{.kind = static_cast<std::uint16_t>(EffectKind::kPower),
                       .data = static_cast<std::uint32_t>(PowerAction::kReset)});
}

// False: pci_cfg_data leads nowhere.
bool PciBus::redirect_to_bar(const Function& function, std::uint8_t first, std::uint32_t lead) {
  std::optional<BarAccess> access = pci_cfg_access(function.rules, function.config->bytes);
  if (!access) return false;
  access->devfn = function.devfn;
  access->first = first;
  access->lead = static_cast<std::uint8_t>(lead);
  redirect_.bar_access(*access);
  return true;
}

std::uint32_t PciBus::read_config(const Function& function, std::uint8_t offset, std::uint8_t size,
                                  std::uint32_t lead) {
  const ConfigBytes& bytes = function.config->bytes;
  const FunctionRules& rules = function.rules;
  if (is_pci_cfg_data(rules, offset) && !redirect_to_bar(function, offset & 3, lead)) return low_bytes(size);
  // Pending bits of MSI vectors are the VMM's to know. With MSI off, or MSI-X on, there are none.
  if (rules.msi != 0 && (offset & ~3) == rules.msi + spec::kMsiPending) {
    const bool msi = (load_config16(bytes, rules.msi + spec::kMsiControl) & spec::kMsiEnable) != 0;
    const bool msix =
        rules.msix != 0 && (load_config16(bytes, rules.msix + spec::kMsixControl) & spec::kMsixEnable) != 0;
    if (msi && !msix) redirect_.pending_bits(function.devfn, 0, offset & 3);
  }
  return load_config(bytes, offset, size);
}

void PciBus::write_config(Function& function, std::uint8_t offset, std::uint8_t size, std::uint32_t value) {
  const ConfigBytes after = after_write(function.rules, function.config->bytes, offset, size, value);
  if (after != function.config->bytes) change_config(function, after);
  if (is_pci_cfg_data(function.rules, offset)) redirect_to_bar(function, 0, 0);
}

void PciBus::change_config(Function& function, const ConfigBytes& after) {
  const ConfigBytes& before = function.config->bytes;
  for (const DesiredObject object : function.objects) {
    const Effect wanted = desired(function.rules, function.devfn, object, after);
    if (wanted != desired(function.rules, function.devfn, object, before)) effects_.emit(wanted);
  }
  const bool reset = function.rules.part == ChipsetPart::kHostBridge &&
                     (after[chipset::kTrc] & ~before[chipset::kTrc] & chipset::kTrcResetCpu) != 0;
  function.config.mut().bytes = after;
  if (reset) request_reset();
}

std::optional<std::uint64_t> PciBus::read_msix(const Function& function, std::uint64_t offset, std::uint8_t size) {
  if (size < 4 || offset % size != 0) return std::nullopt;
  const std::uint64_t pba = msix_pba_offset(*msix_bar(*function.rules.decl));
  if (offset < pba) {
    std::uint64_t value = function.msix->read(offset);
    if (size == 8) value |= std::uint64_t{function.msix->read(offset + 4)} << 32;
    return value;
  }
  const std::uint64_t first = (offset - pba) / 8 * 64;
  const std::uint16_t control = load_config16(function.config->bytes, function.rules.msix + spec::kMsixControl);
  if (first < function.msix->vectors() && (control & spec::kMsixEnable) != 0)
    redirect_.pending_bits(function.devfn, static_cast<std::uint16_t>(first), static_cast<std::uint8_t>(offset % 8));
  return 0;
}

bool PciBus::write_msix(Function& function, std::uint64_t offset, std::uint8_t size, std::uint64_t value) {
  if (size < 4 || offset % size != 0) return false;
  if (offset >= msix_pba_offset(*msix_bar(*function.rules.decl))) return true;  // read-only
  // An aligned quadword lies within one 16-byte entry: one vector, so at most one effect.
  const std::uint64_t entry = offset / spec::kMsixEntrySize;
  if (entry >= function.msix->vectors()) return true;  // reserved
  const auto vector = static_cast<std::uint16_t>(entry);
  const Effect before = msix_route(function.devfn, vector, function.msix->entry(vector));
  function.msix->write(offset, static_cast<std::uint32_t>(value));
  if (size == 8) function.msix->write(offset + 4, static_cast<std::uint32_t>(value >> 32));
  const Effect after = msix_route(function.devfn, vector, function.msix->entry(vector));
  if (after != before) effects_.emit(after);
  return true;
}

Effect PciBus::desired_effect(std::size_t index) const {
  for (const Function& function : functions_) {
    const std::size_t own = index - function.first_desired;
    if (own < function.objects.size())
      return desired(function.rules, function.devfn, function.objects[own], function.config->bytes);
    const std::size_t vector = own - function.objects.size();
    if (function.msix && vector < function.msix->vectors()) {
      const auto v = static_cast<std::uint16_t>(vector);
      return msix_route(function.devfn, v, function.msix->entry(v));
    }
  }
  return {};
}

void PciBus::inspect(Inspector& inspector) const {
  inspector.field("confadd", bus_->confadd);
  inspector.field("reset_control", bus_->reset_control);
  for (const Function& function : functions_) {
    const ConfigBytes& bytes = function.config->bytes;
    inspector.field(function.label + " id", load_config32(bytes, spec::kVendorId));
    inspector.field(function.label + " command", load_config16(bytes, spec::kCommand));
    for (std::size_t i = 0; i < function.objects.size(); ++i) {
      if (function.objects[i].kind != ObjectKind::kBarWindow && function.objects[i].kind != ObjectKind::kPmWindow)
        continue;
      const Effect window = desired(function.rules, function.devfn, function.objects[i], bytes);
      inspector.field(fmt::format("{} window {}", function.label, window.index), window.address);
    }
  }
  for (std::uint8_t pirq = 0; pirq < kPirqCount; ++pirq) {
    const auto& isa = functions_[static_cast<std::size_t>(by_devfn_[kIsaBridgeDevfn])];
    inspector.field(fmt::format("pirq {}", "ABCD"[pirq]), isa.config->bytes[chipset::kPirqrc + pirq]);
  }
}

}  // namespace bulkhead::devproc
