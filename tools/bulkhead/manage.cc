#include "tools/bulkhead/manage.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "ipc/control/management_client.h"
#include "ipc/control/run_directory.h"
#include "tools/bulkhead/print.h"
#include "tools/bulkhead/reach.h"

namespace bulkhead::cli {
namespace {

using control::DeviceInfo;
using control::ManagementClient;
using control::RunDirectory;
using nlohmann::ordered_json;

// `ls` asks every VM; one that hangs must not hide the others.
constexpr auto kListPatience = std::chrono::milliseconds(1000);
constexpr auto kGonePatience = std::chrono::seconds(22);  // longer than a VMM waits for processes that do not end

const char* name_of(control::VmState state) {
  switch (state) {
    case control::VmState::kStarting: return "starting";
    case control::VmState::kRunning: return "running";
    case control::VmState::kPaused: return "paused";
    case control::VmState::kEnding: return "ending";
  }
  return "?";
}

const char* name_of(control::DeviceState state) {
  switch (state) {
    case control::DeviceState::kStarting: return "starting";
    case control::DeviceState::kRunning: return "running";
    case control::DeviceState::kReplacing: return "replacing";
    case control::DeviceState::kIsolated: return "isolated";
    case control::DeviceState::kDead: return "dead";
  }
  return "?";
}

const char* name_of_seccomp(std::uint8_t mode) {
  switch (mode) {
    case 0: return "off";
    case 1: return "strict";
    case 2: return "filter";
    default: return "?";
  }
}

std::string join(const std::vector<std::string>& parts, const char* separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

// Columns as wide as their widest cell, two spaces between.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  }
  return out;
}

std::string human_size(std::uint64_t bytes) {
  for (const auto& [suffix, shift] : {std::pair("G", 30), std::pair("M", 20), std::pair("K", 10)}) {
    if (bytes >= (std::uint64_t{1} << shift) && bytes % (std::uint64_t{1} << shift) == 0)
      return fmt::format("{}{}", bytes >> shift, suffix);
  }
  return fmt::format("{}", bytes);
}

Result<control::VmStatus> ask_status(const RunDirectory& directory, const std::string& name) {
  ASSIGN_OR_RETURN(UniqueFd socket, directory.connect(name));
  ASSIGN_OR_RETURN(const auto client, ManagementClient::create(std::move(socket), kListPatience));
  return client->status();
}

ordered_json to_json(const control::VmStatus& status) {
  return {{"name", status.name},
          {"pid", status.pid},
          {"state", name_of(status.state)},
          {"cpus", status.cpus},
          {"memory_bytes", status.memory_bytes},
          {"uptime_ns", status.uptime_ns},
          {"generation", status.generation},
          {"exits", status.exits},
          {"unclaimed_accesses", status.unclaimed_accesses},
          {"kernel", status.kernel},
          {"console", status.console},
          {"pause_reason", status.pause_reason}};
}

ordered_json to_json(const control::Statistics& s) {
  return {{"requests_served", s.requests_served},
          {"posted_served", s.posted_served},
          {"commits", s.commits},
          {"timers_fired", s.timers_fired},
          {"stream_events", s.stream_events},
          {"lines_raised", s.lines_raised},
          {"messages_sent", s.messages_sent},
          {"effects", s.effects},
          {"refused_accesses", s.refused_accesses},
          {"spurious_wakeups", s.spurious_wakeups},
          {"spins_won", s.spins_won},
          {"spins_lost", s.spins_lost},
          {"sleeps", s.sleeps}};
}

ordered_json to_json(const DeviceInfo& device) {
  return {{"role", device.role},
          {"instances", device.instances},
          {"pid", device.pid},
          {"state", name_of(device.state)},
          {"incarnation", device.incarnation},
          {"restarts", device.restarts},
          {"jail",
           {{"seccomp_mode", device.jail.seccomp_mode},
            {"no_new_privs", device.jail.no_new_privs},
            {"cap_eff", device.jail.cap_eff},
            {"uid", device.jail.uid},
            {"own_namespaces", device.jail.own_namespaces}}},
          {"requests", device.requests},
          {"posted", device.posted},
          {"commits", device.commits},
          {"last_stall_ns", device.last_stall_ns},
          {"longest_stall_ns", device.longest_stall_ns},
          {"replayed", device.replayed},
          {"poisoned", device.poisoned},
          {"statistics", to_json(device.statistics)},
          {"permissions", device.permissions}};
}

// Bytes that are no UTF-8 (in an error's sentence) are replaced: by default they throw.
std::string text_of(const ordered_json& json) {
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

double to_ms(std::int64_t ns) { return static_cast<double>(ns) / 1e6; }

std::string device_table(const std::vector<DeviceInfo>& devices) {
  std::vector<std::vector<std::string>> rows = {{"ROLE", "PID", "STATE", "SECCOMP", "NO-NEW-PRIVS", "CAPS", "UID",
                                                 "NAMESPACES", "REQUESTS", "POSTED", "COMMITS", "RESTARTS", "STALL-MS",
                                                 "REPLAYED", "POISONED", "DEVICES"}};
  for (const DeviceInfo& device : devices) {
    rows.push_back({device.role, fmt::to_string(device.pid), name_of(device.state),
                    name_of_seccomp(device.jail.seccomp_mode), device.jail.no_new_privs ? "yes" : "no",
                    device.jail.cap_eff == 0 ? "none" : fmt::format("{:x}", device.jail.cap_eff),
                    fmt::to_string(device.jail.uid),
                    device.jail.own_namespaces.empty() ? "none" : join(device.jail.own_namespaces, ","),
                    fmt::to_string(device.requests), fmt::to_string(device.posted), fmt::to_string(device.commits),
                    fmt::to_string(device.restarts),
                    fmt::format("{:.1f}/{:.1f}", to_ms(device.last_stall_ns), to_ms(device.longest_stall_ns)),
                    fmt::to_string(device.replayed), fmt::to_string(device.poisoned), join(device.instances, ", ")});
  }
  return table(rows);
}

std::string permission_text(const std::vector<DeviceInfo>& devices) {
  std::string out;
  for (const DeviceInfo& device : devices) {
    out += fmt::format("{}{} ({})\n", out.empty() ? "" : "\n", device.role, join(device.instances, ", "));
    std::string_view rest = device.permissions;
    while (!rest.empty()) {
      const std::size_t end = rest.find('\n');
      out += fmt::format("  {}\n", rest.substr(0, end));
      rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    }
  }
  return out;
}

// After `kill` the name is free again: nothing of the VM is left.
int wait_until_gone(const std::string& name) {
  const auto give_up = std::chrono::steady_clock::now() + kGonePatience;
  const auto directory = RunDirectory::open(control::default_run_directory());
  if (!directory) return fail(directory.error());
  while (directory->is_live(name)) {
    if (std::chrono::steady_clock::now() > give_up)
      return fail(make_error(fmt::format("VM {} was told to end but is still there", name)));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return 0;
}

Status act(ManagementClient& client, const std::string& action) {
  if (action == "stop") return client.power_button();
  if (action == "pause") return client.pause();
  if (action == "resume") return client.resume();
  if (action == "reset") return client.reset();
  Status killed = client.kill();
  // The VM may be gone before its answer is read.
  if (!killed && killed.error().error_number == control::kPeerClosed) return ok();
  return killed;
}

}  // namespace

int manage(const ListOptions& options) {
  const auto directory = RunDirectory::open(control::default_run_directory());
  if (!directory) return fail(directory.error());
  const auto vms = directory->live();
  if (!vms) return fail(vms.error());
  std::vector<std::vector<std::string>> rows = {{"NAME", "PID", "STATE", "CPUS", "MEMORY", "UPTIME"}};
  ordered_json json = ordered_json::array();
  for (const control::LiveVm& vm : *vms) {
    const auto status = ask_status(*directory, vm.name);
    if (!status && !directory->is_live(vm.name)) continue;  // it ended meanwhile
    if (status) {
      json.push_back(to_json(*status));
      std::string state = name_of(status->state);
      if (!status->pause_reason.empty()) state += fmt::format(" ({})", status->pause_reason);
      rows.push_back({vm.name, fmt::to_string(status->pid), state, fmt::to_string(status->cpus),
                      human_size(status->memory_bytes),
                      fmt::format("{:.1f} s", static_cast<double>(status->uptime_ns) / 1e9)});
    } else {
      json.push_back({{"name", vm.name}, {"pid", vm.pid}, {"state", "no answer"}, {"error", status.error().message}});
      rows.push_back({vm.name, fmt::to_string(vm.pid), "no answer", "-", "-", "-"});
    }
  }
  return print_out(options.json ? text_of(json) : table(rows));
}

int manage(const DevicesOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  const auto devices = (*client)->devices();
  if (!devices) return fail(devices.error());
  if (options.json) {
    ordered_json json = ordered_json::array();
    for (const DeviceInfo& device : *devices) json.push_back(to_json(device));
    return print_out(text_of(json));
  }
  return print_out(options.permissions ? permission_text(*devices) : device_table(*devices));
}

int manage(const SendKeysOptions& options) {
  // Firmware and boot loaders have room for a few keys only, and look at them now and then.
  constexpr std::chrono::milliseconds kBetween{30};
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  for (const KeyStroke& key : options.keys) {
    if (const Status sent = (*client)->send_input(key); !sent) return fail(sent.error());
    std::this_thread::sleep_for(kBetween);
  }
  return 0;
}

int manage(const InspectOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  const auto instances = (*client)->inspect(options.instance);
  if (!instances) return fail(instances.error());
  ordered_json json = ordered_json::object();
  std::string text;
  for (const auto& instance : *instances) {
    text += fmt::format("{}\n", instance.name);
    ordered_json fields = ordered_json::object();
    for (const auto& field : instance.fields) {
      fields[field.name] = field.value;
      text += fmt::format("  {:<28} {:#x} ({})\n", field.name, field.value, field.value);
    }
    json[instance.name] = std::move(fields);
  }
  return print_out(options.json ? text_of(json) : text);
}

int manage(const LimitOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  const Status done = (*client)->limit(options.device, options.properties);
  return done ? 0 : fail(done.error());
}

int manage(const ActionOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  if (const Status done = act(**client, options.action); !done) return fail(done.error());
  return options.action == "kill" ? wait_until_gone(options.name) : 0;
}

}  // namespace bulkhead::cli
