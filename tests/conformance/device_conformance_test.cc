// What every registered device type must do, whatever it models (STYLE.md, rule 18).
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "devproc/registry.h"
#include "ipc/roles/device_types.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fuzz/device_fuzzer.h"

namespace bulkhead::devproc {
namespace {

DeviceConfig sample_config(std::string_view type) {
  if (type == "uart16550") return Uart16550Config{};
  if (type == "cmos_rtc") return CmosRtcConfig{.ram_below_4g = 1ULL << 30, .cpus = 4};
  if (type == "i8042") return I8042Config{};
  if (type == "acpi_pm") return AcpiPmConfig{};
  if (type == "system_ports") return SystemPortsConfig{};
  if (type == "debug_exit") return DebugExitConfig{};
  if (type == "fw_cfg") return FwCfgConfig{};
  if (type == "pci_test") return PciTestConfig{};
  if (type == "vga") return VgaConfig{};
  if (type == "pci_bus")
    return PciBusConfig{.ram_below_4g = 1ULL << 30, .functions = {{.devfn = 4 << 3, .type = "pci_test"}}};
  if (type == "virtio_rng") return VirtioRngConfig{};
  if (type == "virtio_blk")
    return VirtioBlkConfig{.queues = kVirtioBlkMaxQueues, .serial = "serial", .disk = {.bytes = 64 * 1024}};
  if (type == "virtio_net")
    return VirtioNetConfig{.nic = {.mac = {2, 0, 0, 0, 0, 1}}, .mtu = 1500, .queue_pairs = kVirtioNetMaxPairs};
  if (type == "e1000") return E1000Config{.nic = {.mac = {2, 0, 0, 0, 0, 1}}};
  if (type == "usernet") return UsernetConfig{};
  if (type == "virtio_console") return VirtioConsoleConfig{.columns = 80, .rows = 25};
  if (type == "virtio_balloon") return VirtioBalloonConfig{.target = 1 << 20, .stats_seconds = 10};
  if (type == "virtio_vsock") return VirtioVsockConfig{};
  if (type == "vsock_relay") return VsockRelayConfig{};
  ADD_FAILURE() << "no sample configuration for " << type;
  return {};
}

// One device with exactly the wires that its type declares.
struct Subject {
  explicit Subject(const DeviceType& type)
      : decl(find_device_type(type.name)),
        fakes({.lines = decl->lines.size(),
               .streams = decl->streams,
               .queues = decl->queues.count,
               .frames = taps(*decl)}),
        device(make(type, fakes)) {
    fakes.clock.set_now(VmTime{5'000'000'000});
    fakes.clock.set_wall_seconds(1'700'000'000);
    fakes.clock.attach(*device);
  }
  static std::size_t taps(const DeviceTypeDecl& decl) {
    return static_cast<std::size_t>(std::ranges::count_if(
        decl.backings, [](BackingKind kind) { return kind == BackingKind::kTap || kind == BackingKind::kFrameRing; }));
  }
  static std::unique_ptr<Device> make(const DeviceType& type, FakeWires& fakes) {
    auto created = type.create(sample_config(type.name), fakes.wires());
    EXPECT_TRUE(created.has_value()) << type.name;
    return std::move(created).value();
  }
  // Every register, in order, read once in each width that its region takes.
  std::vector<std::uint64_t> read_all() {
    std::vector<std::uint64_t> values;
    for_each_access([&](const Access& access) {
      const auto value = device->read(access);
      values.push_back(value ? *value : all_ones(access.size));
    });
    return values;
  }
  template <class Visit>
  void for_each_access(Visit&& visit) const {
    for (RegionIndex region = 0; region < device->regions().size(); ++region) {
      const RegionSpec& spec = device->regions()[region];
      for (std::uint8_t size = 1; size <= 8; size *= 2) {
        if ((spec.sizes & size) == 0 || size > spec.length) continue;
        for (std::uint64_t offset = 0; offset + size <= std::min<std::uint64_t>(spec.length, 4096); ++offset)
          visit(Access{region, offset, size});
      }
    }
  }
  std::vector<bool> levels() const {
    std::vector<bool> all;
    for (const FakeIrqLine& line : fakes.lines) all.push_back(line.level);
    return all;
  }

  const DeviceTypeDecl* decl;
  FakeWires fakes;
  std::unique_ptr<Device> device;
};

std::vector<std::uint8_t> random_script(std::uint64_t seed, std::size_t size) {
  std::mt19937_64 random(seed);
  std::vector<std::uint8_t> script(size);
  for (auto& byte : script) byte = static_cast<std::uint8_t>(random());
  return script;
}

// Brings a device into some state that a guest can bring it into: accesses, time and streams only.
void exercise(Subject& subject, std::uint64_t seed) {
  DeviceFuzzer fuzzer(*subject.device, subject.fakes);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 400; ++i) {
    std::vector<std::uint8_t> step(16);
    for (auto& byte : step) byte = static_cast<std::uint8_t>(random());
    step[0] %= 14;  // no reset, restore or corruption
    FuzzBytes bytes(step);
    fuzzer.step(bytes);
  }
  EXPECT_EQ(fuzzer.complaint(), "");
  for (auto& stream : subject.fakes.streams) stream.input.clear();
}

class Fields final : public Inspector {
 public:
  void field(std::string_view name, std::uint64_t value) override {
    EXPECT_TRUE(values.emplace(name, value).second) << "shown twice: " << name;
  }
  std::map<std::string, std::uint64_t, std::less<>> values;
};

class DeviceConformance : public ::testing::TestWithParam<const DeviceType*> {
 protected:
  const DeviceType& type() const { return *GetParam(); }
};

TEST_P(DeviceConformance, is_what_its_declaration_says) {
  const DeviceTypeDecl* decl = find_device_type(type().name);
  ASSERT_NE(decl, nullptr) << "not in ipc/roles/device_types.cc";
  Subject subject(type());
  EXPECT_EQ(subject.device->name(), type().name);
  const auto regions = subject.device->regions();
  // The `pci` process also has a region for each configured function with MSI-X (msix_region_of).
  const bool dynamic = decl->type == "pci_bus";
  ASSERT_TRUE(dynamic ? regions.size() >= decl->regions.size() : regions.size() == decl->regions.size());
  for (std::size_t i = 0; i < decl->regions.size(); ++i) {
    EXPECT_EQ(regions[i].name, decl->regions[i].name);
    EXPECT_EQ(regions[i].kind == AddressKind::kMemory, decl->regions[i].memory) << regions[i].name;
    EXPECT_EQ(regions[i].length, decl->regions[i].length) << regions[i].name;
    EXPECT_EQ(regions[i].posted, decl->regions[i].posted) << regions[i].name;
    EXPECT_NE(regions[i].sizes, 0) << regions[i].name;
    const bool port = regions[i].kind == AddressKind::kPort;
    EXPECT_FALSE(port && (regions[i].sizes & kSize8) != 0) << "ports: 4 bytes at most";
  }
}

// Doorbells are there for the most queues that a device can have; a guest may ring any of them, and a successor takes
// all of them as rung.
TEST(DeviceKicks, of_queues_that_a_device_was_not_given_do_nothing) {
  const std::vector<std::pair<const char*, DeviceConfig>> small = {
      {"virtio_blk", VirtioBlkConfig{.queues = 1, .serial = {}, .disk = {.bytes = 64 * 1024}}},
      {"virtio_net", VirtioNetConfig{.nic = {.mac = {2, 0, 0, 0, 0, 1}}, .mtu = 1500, .queue_pairs = 1}}};
  for (const auto& [name, config] : small) {
    FakeWires fakes({.lines = 1, .queues = 1, .frames = 1});
    auto device = std::move(find_builtin(name)->create(config, fakes.wires())).value();
    device->reset();
    device->on_function_control(kControlMemoryEnable | kControlBusMaster);
    // driver_feature: VERSION_1 alone; device_status: up to FEATURES_OK, then DRIVER_OK.
    for (const auto& [offset, value] : {std::pair(0x08, 1U), std::pair(0x0c, 1U)})
      device->write({kVirtioRegisters, kVirtioCommonOffset + static_cast<std::uint64_t>(offset), 4}, value);
    for (const std::uint64_t status : {0x03, 0x0b, 0x0f})
      device->write({kVirtioRegisters, kVirtioCommonOffset + 0x14, 1}, status);
    for (QueueId queue = 0; queue < find_device_type(name)->queues.count; ++queue) {
      EXPECT_FALSE(device->on_queue(queue)) << name << " " << queue;
      device->on_queue_poisoned(queue);
    }
    EXPECT_EQ(device->read({kVirtioRegisters, kVirtioCommonOffset + 0x14, 1}), 0x0fU) << name;
  }
}

TEST_P(DeviceConformance, has_the_limits_that_it_declares_and_keeps_them) {
  Subject subject(type());
  subject.device->reset();
  const RateLimit limit{.bytes_per_second = 1000, .operations_per_second = 10};
  for (LimitId which{}; which < 4; which = static_cast<LimitId>(which + 1))
    EXPECT_EQ(subject.device->on_limit(which, limit), which < subject.decl->limits) << int{which};
  const auto shown = [&] {
    Fields fields;
    subject.device->inspect(fields);
    std::erase_if(fields.values, [](const auto& field) { return field.first.find("limit_") == std::string::npos; });
    return fields.values;
  };
  const auto before = shown();
  EXPECT_EQ(before.size(), 4U * subject.decl->limits);
  subject.device->reset();
  EXPECT_EQ(shown(), before) << "a guest that resets its machine gains nothing";
  subject.device->restore();
  EXPECT_EQ(shown(), before);
}

TEST_P(DeviceConformance, takes_every_width_at_every_offset) {
  Subject subject(type());
  subject.device->reset();
  subject.for_each_access([&](const Access& access) {
    for (const std::uint64_t value : {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{0x5a5a5a5a5a5a5a5a}}) {
      subject.fakes.effects.clear();
      subject.device->write(access, value & all_ones(access.size));
      ASSERT_LE(subject.fakes.effects.emitted.size(), kMaxEffects) << access.offset;
      const auto answer = subject.device->read(access);
      ASSERT_TRUE(!answer || (*answer & ~all_ones(access.size)) == 0) << access.offset;
    }
  });
  EXPECT_EQ(subject.fakes.effects.refused, 0);
  EXPECT_FALSE(subject.fakes.clock.storm);
}

TEST_P(DeviceConformance, reset_lowers_every_line_and_stops_every_timer) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    Subject subject(type());
    exercise(subject, seed);
    subject.device->reset();
    for (const bool level : subject.levels()) EXPECT_FALSE(level) << seed;
    EXPECT_EQ(subject.fakes.clock.armed_count(), 0U) << seed;
  }
}

TEST_P(DeviceConformance, reset_twice_equals_once) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    Subject subject(type());
    exercise(subject, seed);
    subject.device->reset();
    const auto once = subject.fakes.state.snapshot();
    subject.device->reset();
    EXPECT_EQ(subject.fakes.state.snapshot(), once) << seed;
  }
}

TEST_P(DeviceConformance, a_restored_device_goes_on_as_the_old_one_would) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    Subject old(type());
    exercise(old, seed);
    Subject successor(type());
    for (std::size_t i = 0; i < old.fakes.state.count(); ++i)
      std::ranges::copy(old.fakes.state.bytes(i), successor.fakes.state.bytes(i).begin());
    successor.fakes.clock.set_now(old.fakes.clock.now());
    successor.fakes.clock.set_wall(old.fakes.clock.wall());
    successor.fakes.memory.bytes = old.fakes.memory.bytes;
    if (old.decl->screen) std::ranges::copy(old.fakes.screen.memory(), successor.fakes.screen.memory().begin());
    const auto before = old.fakes.state.snapshot();

    successor.device->restore();

    EXPECT_EQ(successor.fakes.state.snapshot(), before) << "restore() changed an honest state, seed " << seed;
    EXPECT_EQ(successor.levels(), old.levels()) << seed;
    old.device->restore();  // what is due at once is due in both
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(successor.read_all(), old.read_all()) << seed;
      EXPECT_EQ(successor.levels(), old.levels()) << seed;
      old.fakes.clock.advance(std::chrono::milliseconds(700));
      successor.fakes.clock.advance(std::chrono::milliseconds(700));
    }
    EXPECT_EQ(successor.fakes.state.snapshot(), old.fakes.state.snapshot()) << seed;
  }
}

TEST_P(DeviceConformance, inspect_changes_nothing) {
  Subject subject(type());
  exercise(subject, 1);
  const auto before = subject.fakes.state.snapshot();
  Fields first;
  Fields second;
  subject.device->inspect(first);
  subject.device->inspect(second);
  EXPECT_EQ(first.values, second.values);
  EXPECT_EQ(subject.fakes.state.snapshot(), before);
  for (std::size_t i = 0; i < subject.fakes.state.count(); ++i) EXPECT_FALSE(subject.fakes.state.dirty(i));
}

TEST_P(DeviceConformance, any_bytes_as_state_are_survived) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    Subject subject(type());
    DeviceFuzzer fuzzer(*subject.device, subject.fakes);
    fuzzer.corrupt_state(seed);
    fuzzer.run(random_script(seed, 300));
    ASSERT_EQ(fuzzer.complaint(), "") << seed;
  }
}

TEST_P(DeviceConformance, any_inputs_are_survived) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Subject subject(type());
    DeviceFuzzer fuzzer(*subject.device, subject.fakes);
    fuzzer.run(random_script(seed, 3000));
    ASSERT_EQ(fuzzer.complaint(), "") << seed;
  }
}

std::vector<const DeviceType*> all_types() {
  std::vector<const DeviceType*> types;
  for (const DeviceType& type : builtin_device_types()) types.push_back(&type);
  return types;
}

INSTANTIATE_TEST_SUITE_P(Types, DeviceConformance, ::testing::ValuesIn(all_types()),
                         [](const auto& param) { return std::string(param.param->name); });

TEST(DeviceTypes, every_declared_type_is_built_in) {
  for (const DeviceTypeDecl& decl : all_device_types()) EXPECT_NE(find_builtin(decl.type), nullptr) << decl.type;
}

}  // namespace
}  // namespace bulkhead::devproc
