#include "tests/unit/tools/fake_control.h"

#include <fmt/format.h>
#include <unistd.h>

namespace bulkhead::vmm {

control::DeviceInfo sample_device(std::size_t number) {
  control::DeviceInfo device;
  device.role = fmt::format("role{}", number);
  device.instances = {"com1 (uart16550)", "rtc (cmos-rtc)"};
  device.pid = 1000 + static_cast<std::uint32_t>(number);
  device.state = control::DeviceState::kRunning;
  device.incarnation = 1;
  device.restarts = 2;
  device.jail = {
      .seccomp_mode = 2, .no_new_privs = true, .cap_eff = 0, .own_namespaces = {"user", "mnt"}, .uid = 65534};
  device.requests = 7000;
  device.posted = 300;
  device.commits = 7301;
  device.statistics.requests_served = 6999;
  device.statistics.sleeps = 5;
  device.last_stall_ns = 1'500'000;
  device.longest_stall_ns = 2'250'000;
  device.replayed = 4;
  device.poisoned = 1;
  return device;
}

Status FakeControl::note(const std::string& call) {
  const std::lock_guard lock(mutex_);
  calls_.push_back(call);
  if (!failure.empty()) return make_error(failure);
  return ok();
}

std::vector<std::string> FakeControl::calls() const {
  const std::lock_guard lock(mutex_);
  return calls_;
}

Result<control::VmStatus> FakeControl::status() {
  RETURN_IF_ERROR(note("status"));
  return control::VmStatus{.name = get(&FakeControl::name),
                           .pid = static_cast<std::uint32_t>(::getpid()),
                           .state = control::VmState::kRunning,
                           .cpus = 2,
                           .memory_bytes = 256 << 20,
                           .uptime_ns = 1'500'000'000,
                           .generation = 1,
                           .exits = 42,
                           .unclaimed_accesses = 3,
                           .kernel = "/boot/vmlinuz",
                           .console = "stdio"};
}

Result<std::vector<control::DeviceInfo>> FakeControl::devices() {
  RETURN_IF_ERROR(note("devices"));
  std::vector<control::DeviceInfo> devices;
  const std::size_t count = get(&FakeControl::device_count);
  for (std::size_t i = 0; i < count; ++i) {
    devices.push_back(sample_device(i));
    devices.back().permissions = get(&FakeControl::permissions);
  }
  return devices;
}

Status FakeControl::pause() {
  if (on_pause) on_pause();
  return note("pause");
}

Status FakeControl::kill() {
  RETURN_IF_ERROR(note("kill"));
  if (const auto run = get(&FakeControl::on_kill)) run();
  return ok();
}

Status FakeControl::fault(const std::string& role, int signal) {
  RETURN_IF_ERROR(note(fmt::format("fault {} {}", role, signal)));
  const auto run = get(&FakeControl::on_fault);
  return run ? run(role, signal) : ok();
}

Status FakeControl::upgrade(const std::string& role, const std::string& path) {
  RETURN_IF_ERROR(note("upgrade " + role + " " + path));
  if (const auto run = get(&FakeControl::on_upgrade)) run();
  return ok();
}

Result<std::vector<control::InspectedInstance>> FakeControl::inspect(const std::string& instance) {
  RETURN_IF_ERROR(note("inspect " + instance));
  if (instance == "ghost") return make_error("no device instance named ghost");
  return std::vector<control::InspectedInstance>{
      {.name = instance.empty() ? "all" : instance, .fields = {{"lsr", 0x60}, {"msix[0]", 1}}}};
}

}  // namespace bulkhead::vmm
