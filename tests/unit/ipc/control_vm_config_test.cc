#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <set>

#include "ipc/control/vm_config.h"
#include "tests/unit/ipc/control_test_util.h"

namespace bulkhead::control {
namespace {

UniqueFd any_fd() { return UniqueFd::open("/dev/null", O_RDWR).value(); }

VmConfig sample() {
  VmConfig config;
  config.name = "vm-1";
  config.name_is_derived = true;
  config.run_directory = "/run/bulkhead";
  config.kernel_path = "/boot/vmlinuz";
  config.initrd_path = "/boot/initrd";
  config.command_line = "console=ttyS0 word=\xc3\xa9";
  config.memory_bytes = 256 << 20;
  config.cpus = 8;
  config.topology = {.sockets = 2, .cores = 2, .threads = 2};
  config.console = ConsoleKind::kStdio;
  config.console_path = "p";
  config.log_path = "/tmp/log";
  config.on_reset = OnReset::kExit;
  config.device_deadline_ns = 2'500'000'000;
  config.on_crash = {{.role = "", .action = OnCrash::kIsolate}, {.role = "pci_test0", .action = OnCrash::kStop}};
  config.devices = {{.type = "pci-test", .properties = {{"vectors", "8"}, {"note", "a=b c"}}}};
  config.files.kernel = UniqueFd::open("/dev/zero", O_RDONLY).value();
  config.files.console_input = any_fd();
  config.files.console_output = any_fd();
  return config;
}

std::vector<UniqueFd> copies(std::span<const BorrowedFd> fds) {
  std::vector<UniqueFd> out;
  for (const BorrowedFd fd : fds) out.push_back(UniqueFd::duplicate(fd).value());
  return out;
}

Result<ToVmm> pass_on(const VmConfig& config) {
  const auto encoded = encode(config);
  if (!encoded) return encoded.error();
  return decode_to_vmm(Message{.bytes = encoded->bytes, .fds = copies(encoded->fds)});
}

template <class Edit>
std::string refusal(Edit edit) {
  VmConfig config = sample();
  edit(config);
  const auto decoded = pass_on(config);
  return decoded ? "accepted" : decoded.error().message;
}

TEST(VmConfigMessages, configuration_survives_the_round_trip) {
  const VmConfig sent = sample();
  const auto decoded = pass_on(sent);
  ASSERT_TRUE(decoded) << decoded.error().message;
  const auto& got = std::get<VmConfig>(*decoded);
  EXPECT_EQ(got.name, sent.name);
  EXPECT_EQ(got.name_is_derived, sent.name_is_derived);
  EXPECT_EQ(got.run_directory, sent.run_directory);
  EXPECT_EQ(got.kernel_path, sent.kernel_path);
  EXPECT_EQ(got.initrd_path, sent.initrd_path);
  EXPECT_EQ(got.command_line, sent.command_line);
  EXPECT_EQ(got.memory_bytes, sent.memory_bytes);
  EXPECT_EQ(got.cpus, sent.cpus);
  EXPECT_EQ(got.topology, sent.topology);
  EXPECT_EQ(got.console, sent.console);
  EXPECT_EQ(got.console_path, sent.console_path);
  EXPECT_EQ(got.log_path, sent.log_path);
  EXPECT_EQ(got.on_reset, sent.on_reset);
  EXPECT_EQ(got.device_deadline_ns, sent.device_deadline_ns);
  EXPECT_EQ(got.on_crash, sent.on_crash);
  EXPECT_EQ(got.devices, sent.devices);
}

TEST(VmConfigMessages, rules_for_crashes_are_checked) {
  EXPECT_NE(refusal([](VmConfig& c) { c.on_crash[0].action = static_cast<OnCrash>(3); }).find("crash"),
            std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.on_crash[0].role = "a/b"; }).find("crashes"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.on_crash[0].role = "pci_test0"; }).find("two rules"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) {
              for (std::size_t i = c.on_crash.size(); i <= kMaxOnCrashRules; ++i)
                c.on_crash.push_back({.role = fmt::format("r{}", i), .action = OnCrash::kStop});
            }).find("at most 128"),
            std::string::npos);
}

TEST(VmConfigMessages, each_descriptor_arrives_in_its_place) {
  const auto decoded = pass_on(sample());
  ASSERT_TRUE(decoded);
  const VmFiles& files = std::get<VmConfig>(*decoded).files;
  struct stat kernel {};
  struct stat zero {};
  ASSERT_EQ(::fstat(files.kernel.get(), &kernel), 0);
  ASSERT_EQ(::stat("/dev/zero", &zero), 0);
  EXPECT_EQ(kernel.st_rdev, zero.st_rdev);
  EXPECT_FALSE(files.initrd.valid());
  EXPECT_TRUE(files.console_input.valid());
  EXPECT_TRUE(files.console_output.valid());
  EXPECT_FALSE(files.log.valid());
  EXPECT_FALSE(files.device_executable.valid());
}

// A file of its own, told from others by its inode.
UniqueFd distinct_fd() { return UniqueFd(::memfd_create("disk", MFD_CLOEXEC)); }
ino_t inode_of(const UniqueFd& fd) {
  struct stat info {};
  EXPECT_EQ(::fstat(fd.get(), &info), 0);
  return info.st_ino;
}

// Devices with so many descriptors each.
VmConfig with_files(const std::vector<int>& counts) {
  VmConfig config = sample();
  config.devices.clear();
  for (const int count : counts) {
    config.devices.push_back({.type = "virtio_blk", .properties = {}, .files = static_cast<std::uint8_t>(count)});
    for (int i = 0; i < count; ++i) config.files.devices.push_back(distinct_fd());
  }
  return config;
}

TEST(VmConfigMessages, files_of_devices_arrive_in_order) {
  const VmConfig sent = with_files({1, 0, 3, 1});
  const auto decoded = pass_on(sent);
  ASSERT_TRUE(decoded) << decoded.error().message;
  const auto& got = std::get<VmConfig>(*decoded);
  EXPECT_EQ(got.devices, sent.devices);
  ASSERT_EQ(got.files.devices.size(), 5U);
  std::set<ino_t> inodes;
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(inode_of(got.files.devices[i]), inode_of(sent.files.devices[i])) << i;
    inodes.insert(inode_of(got.files.devices[i]));
  }
  EXPECT_EQ(inodes.size(), 5U);
  EXPECT_EQ(inode_of(got.files.console_output), inode_of(sent.files.console_output)) << "nor do others move";
}

TEST(VmConfigMessages, devices_whose_counts_do_not_fit_the_descriptors_are_refused) {
  for (const int change : {-1, 1, 100}) {
    VmConfig config = with_files({1, 1});
    config.devices[1].files = static_cast<std::uint8_t>(config.devices[1].files + change);
    const auto decoded = pass_on(config);
    ASSERT_FALSE(decoded) << change;
    EXPECT_NE(decoded.error().message.find("descriptors"), std::string::npos) << decoded.error().message;
  }
  // What is short for a device is not taken from the rest.
  VmConfig config = with_files({1});
  config.devices[0].files = 2;
  config.files.log = any_fd();
  EXPECT_FALSE(pass_on(config));
}

TEST(VmConfigMessages, so_many_files_of_devices_and_no_more) {
  EXPECT_TRUE(pass_on(with_files(std::vector<int>(kMaxDeviceFiles, 1))));
  const auto more = pass_on(with_files(std::vector<int>(kMaxDeviceFiles + 1, 1)));
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().message, "bad control message: 49 descriptors of devices, at most 48 allowed");
}

TEST(VmConfigMessages, properties_are_checked) {
  EXPECT_EQ(refusal([](VmConfig& c) { c.devices[0].properties.assign(kMaxProperties, {"a", "b"}); }), "accepted");
  EXPECT_NE(refusal([](VmConfig& c) {
              c.devices[0].properties.assign(kMaxProperties + 1, {"a", "b"});
            }).find("properties"),
            std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.devices[0].properties[0].key = "a b"; }).find("name of a property"),
            std::string::npos);
  EXPECT_EQ(refusal([](VmConfig& c) { c.devices[0].properties[0].value.assign(kMaxPathLength, '/'); }), "accepted");
  EXPECT_NE(
      refusal([](VmConfig& c) { c.devices[0].properties[0].value.assign(kMaxPathLength + 1, '/'); }).find("a property"),
      std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.devices[0].type = "virtio blk"; }).find("device type"), std::string::npos);
}

TEST(VmConfigMessages, values_that_make_no_machine_are_refused) {
  EXPECT_EQ(refusal([](VmConfig& c) {
              c.cpus = 0;
              c.topology = {0, 0, 0};
            }),
            "bad control message: 0 CPUs");
  EXPECT_EQ(refusal([](VmConfig& c) {
              c.cpus = 65;
              c.topology = {65, 1, 1};
            }),
            "bad control message: 65 CPUs");
  EXPECT_NE(refusal([](VmConfig& c) { c.topology.cores = 3; }).find("topology"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.topology = {1U << 16, 1U << 16, 8}; }).find("topology"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.memory_bytes += 1; }).find("memory"), std::string::npos);
  for (const std::int64_t deadline :
       {std::int64_t{0}, kMinDeviceDeadlineNs - 1, kMaxDeviceDeadlineNs + 1, std::int64_t{-1}, INT64_MIN})
    EXPECT_NE(refusal([=](VmConfig& c) { c.device_deadline_ns = deadline; }).find("device deadline"), std::string::npos)
        << deadline;
  for (const std::int64_t deadline : {kMinDeviceDeadlineNs, kMaxDeviceDeadlineNs})
    EXPECT_EQ(refusal([=](VmConfig& c) { c.device_deadline_ns = deadline; }), "accepted");
  EXPECT_NE(refusal([](VmConfig& c) { c.memory_bytes = kMinMemory - kMemoryUnit; }).find("memory"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.memory_bytes = 0; }).find("memory"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.memory_bytes = kMaxMemory * 2; }).find("memory"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.name = "a/b"; }).find("name"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.command_line = std::string("a\0b", 3); }).find("NUL"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.command_line.assign(kMaxCommandLine + 1, 'x'); }).find("command line"),
            std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.files.kernel.reset(); }).find("neither a kernel nor firmware"),
            std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.files.console_input.reset(); }).find("console"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.console = ConsoleKind::kNone; }).find("console"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.console = static_cast<ConsoleKind>(4); }).find("console"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.on_reset = static_cast<OnReset>(2); }).find("reset"), std::string::npos);
  EXPECT_NE(refusal([](VmConfig& c) { c.devices.assign(kMaxDevices + 1, c.devices[0]); }).find("devices"),
            std::string::npos);
}

TEST(VmConfigMessages, descriptors_that_do_not_match_the_message_are_refused) {
  const VmConfig config = sample();
  const Encoded encoded = encode(config).value();
  auto fewer = copies(encoded.fds);
  fewer.pop_back();
  EXPECT_FALSE(decode_to_vmm(Message{.bytes = encoded.bytes, .fds = std::move(fewer)}));
  auto more = copies(encoded.fds);
  more.push_back(any_fd());
  EXPECT_FALSE(decode_to_vmm(Message{.bytes = encoded.bytes, .fds = std::move(more)}));
  std::vector<UniqueFd> one;
  one.push_back(any_fd());
  EXPECT_FALSE(decode_to_vmm(Message{.bytes = encode(ToVmm(PowerButton{})).value().bytes, .fds = std::move(one)}));
}

TEST(VmConfigMessages, orders_and_reports_survive_the_round_trip) {
  for (bool kill : {false, true}) {
    const ToVmm sent = kill ? ToVmm(KillVm{}) : ToVmm(PowerButton{});
    const auto decoded = decode_to_vmm(Message{.bytes = encode(sent)->bytes, .fds = {}});
    ASSERT_TRUE(decoded);
    EXPECT_EQ(decoded->index(), sent.index());
  }
  const auto report = [](const FromVmm& sent) {
    return decode_from_vmm(Message{.bytes = encode(sent).value().bytes, .fds = {}}).value();
  };
  EXPECT_EQ(std::get<Started>(report(Started{.name = "vm-1-2", .device_processes = 2})).name, "vm-1-2");
  const auto failed = std::get<VmFailed>(report(VmFailed{.sentence = "no /dev/kvm", .status = 1}));
  EXPECT_EQ(failed.sentence, "no /dev/kvm");
  EXPECT_EQ(failed.status, 1);
  const auto exited = std::get<Exited>(report(Exited{.sentence = "triple fault\nrip 0", .status = kExitGuestCrash}));
  EXPECT_EQ(exited.sentence, "triple fault\nrip 0");
  EXPECT_EQ(exited.status, kExitGuestCrash);
}

TEST(VmConfigMessages, message_cut_at_any_byte_is_refused) {
  const VmConfig config = sample();
  const Encoded encoded = encode(config).value();
  for (std::size_t length = 0; length < encoded.bytes.size(); ++length) {
    const auto bytes = std::span(encoded.bytes).first(length);
    EXPECT_FALSE(decode_to_vmm(Message{.bytes = {bytes.begin(), bytes.end()}, .fds = copies(encoded.fds)})) << length;
  }
}

TEST(VmConfigMessages, random_changes_never_pass_the_checks) {
  const VmConfig config = sample();
  const Encoded encoded = encode(config).value();
  std::mt19937_64 random(11);
  unsigned accepted = 0;
  for (int round = 0; round < 10000; ++round) {
    const auto decoded =
        decode_to_vmm(Message{.bytes = test::mutate(encoded.bytes, random), .fds = copies(encoded.fds)});
    if (!decoded) continue;
    const auto* got = std::get_if<VmConfig>(&*decoded);
    if (got == nullptr) continue;
    ++accepted;
    EXPECT_TRUE(is_name(got->name));
    EXPECT_TRUE(got->files.kernel.valid());
    EXPECT_EQ(got->topology.sockets * got->topology.cores * got->topology.threads, got->cpus);
    EXPECT_LE(got->cpus, kMaxCpus);
  }
  EXPECT_GT(accepted, 100U);
}

TEST(VmConfigMessages, debug_exit_keeps_six_bits) {
  EXPECT_EQ(debug_exit_status(0), 64);
  EXPECT_EQ(debug_exit_status(63), 127);
  EXPECT_EQ(debug_exit_status(0x141), 65);
}

}  // namespace
}  // namespace bulkhead::control
