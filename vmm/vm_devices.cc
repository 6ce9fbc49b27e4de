// VirtualMachine's device processes as managers see them: listed, inspected, drilled, upgraded, isolated, restored.
#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "ipc/base/checked.h"
#include "ipc/base/log.h"
#include "ipc/screen/scan_out.h"
#include "sandbox/jail_status.h"
#include "vmm/vm.h"

namespace bulkhead::vmm {
namespace {

std::string permissions_of(const RolePlan& role) {
  std::string text;
  for (std::size_t i = 0; i < kSyscallGroupCount; ++i) {
    const auto group = static_cast<SyscallGroup>(i);
    if (role.syscalls.contains(group)) text += fmt::format("system calls: {}\n", name_of(group));
  }
  text += role.guest_memory() ? "guest memory: read and write\n" : "guest memory: none\n";
  constexpr std::array<std::string_view, 8> kEffectNames = {"",          "window", "intx-route", "function-control",
                                                            "msi-route", "power",  "pause",      "shadow"};
  if (role.jail.host_network) text += "network: the host's\n";
  if (!role.jail.tftp.empty()) text += fmt::format("files: {}, read-only\n", role.jail.tftp);
  if (role.ring) text += "frame ring: one end\n";
  text += "effects:";
  for (std::uint32_t kind = 1; kind < kEffectNames.size(); ++kind) {
    if ((role.effects() >> kind & 1) != 0) text += fmt::format(" {}", kEffectNames[kind]);
  }
  text += role.effects() == 0 ? " none\n" : "\n";
  for (const InstancePlan& instance : role.instances) {
    text += fmt::format("{} ({}): {} regions, {} interrupt lines, {} messages, {} streams\n", instance.name,
                        instance.type->type, instance.regions.size(), instance.lines.size(), instance.type->messages,
                        instance.type->streams);
  }
  return text;
}

control::JailSummary jail_of(pid_t pid) {
  control::JailSummary summary;
  const Result<sandbox::JailStatus> jail = sandbox::read_jail_status(pid);
  const Result<sandbox::JailStatus> own = sandbox::read_jail_status(::getpid());
  if (!jail || !own) return summary;
  summary.seccomp_mode = static_cast<std::uint8_t>(jail->seccomp_mode);
  summary.no_new_privs = jail->no_new_privs;
  summary.cap_eff = jail->cap_effective;
  summary.uid = jail->uid;
  for (const auto& [name, link] : jail->namespaces) {
    const auto mine = own->namespaces.find(name);
    if (mine != own->namespaces.end() && mine->second != link) summary.own_namespaces.push_back(name);
  }
  return summary;
}

}  // namespace

std::int64_t VirtualMachine::patience_ns() const {
  // A hang is found after a deadline, three hangs make a poisoned input, and pauses lie between restarts.
  std::int64_t longest = options_.device_deadline_ns;
  for (const RolePlan& role : plan_.roles) longest = std::max(longest, role.deadline_ns(options_.device_deadline_ns));
  return 4 * longest + 5'000'000'000;
}

RestartPolicy VirtualMachine::policy_of(const RolePlan& role) const {
  control::OnCrash action = control::OnCrash::kRestart;
  for (const control::OnCrashRule& rule : config_.on_crash) {
    if (rule.role.empty()) action = rule.action;
  }
  for (const control::OnCrashRule& rule : config_.on_crash) {
    if (rule.role == role.name) action = rule.action;
  }
  const bool essential = &role == &plan_.roles[plan_.pci_role] || &role == &plan_.roles[plan_.platform_role];
  return {action, essential};
}

Result<DeviceProcess*> VirtualMachine::find_role(const std::string& name) {
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    if (process->plan().name == name) return process.get();
  }
  std::string known;
  for (const std::unique_ptr<DeviceProcess>& process : processes_)
    known += (known.empty() ? "" : ", ") + process->plan().name;
  return make_error("this VM has no device process named " + name + " (it has " + known + ")");
}

Result<std::vector<control::DeviceInfo>> VirtualMachine::devices() {
  std::vector<control::DeviceInfo> all;
  for (const std::unique_ptr<DeviceProcess>& process : processes_) all.push_back(describe_process(*process));
  return all;
}

control::DeviceInfo VirtualMachine::describe_process(DeviceProcess& process) {
  control::DeviceInfo info;
  info.role = process.plan().name;
  for (const InstancePlan& instance : process.plan().instances)
    info.instances.push_back(fmt::format("{} ({})", instance.name, instance.type->type));
  const Supervisor::Info life = supervisor_->info_of(process);
  info.pid = static_cast<std::uint32_t>(life.pid);
  info.state = life.state;
  info.incarnation = life.incarnation;
  info.restarts = life.restarts;
  info.last_stall_ns = life.last_stall_ns;
  info.longest_stall_ns = life.longest_stall_ns;
  info.replayed = life.replayed;
  if (life.pid != 0) info.jail = jail_of(life.pid);
  info.requests = process.channel().requests();
  info.posted = process.channel().posted();
  const ipc::DeviceCounters& counters = process.replies().counters;
  info.commits = counters.commits.load(std::memory_order_relaxed);
  info.poisoned = counters.poisoned.load(std::memory_order_relaxed);
  info.statistics = {.requests_served = counters.requests.load(std::memory_order_relaxed),
                     .commits = info.commits,
                     .timers_fired = counters.timers.load(std::memory_order_relaxed),
                     .lines_raised = counters.interrupts.load(std::memory_order_relaxed),
                     .refused_accesses = counters.bad_accesses.load(std::memory_order_relaxed),
                     .spins_won = counters.spins_won.load(std::memory_order_relaxed),
                     .sleeps = counters.sleeps.load(std::memory_order_relaxed)};
  info.permissions = permissions_of(process.plan());
  return info;
}

Status VirtualMachine::power_button() {
  // Posted: nobody waits, not even for a process that is being replaced.
  ipc::Request request;
  request.kind = ipc::RequestKind::kPowerButton;
  request.instance = plan_.pm_instance;
  if (!processes_[plan_.platform_role]->ring().post(request)) return make_error("the platform device process is gone");
  return ok();
}

Status VirtualMachine::post_setting(std::size_t role, Setting setting, std::uint64_t value) {
  ipc::Request request;
  request.kind = ipc::RequestKind::kSetting;
  request.offset = static_cast<std::uint64_t>(setting);
  std::memcpy(request.payload, &value, sizeof value);
  DeviceProcess& process = *processes_[role];
  if (!process.ring().post(request)) return make_error("the device process " + process.plan().name + " is gone");
  return ok();
}

Status VirtualMachine::set_balloon(std::uint64_t bytes) {
  if (!plan_.balloon) return make_error("this VM has no balloon: `bulkhead run --balloon SIZE` gives it one");
  if (bytes > config_.memory_bytes)
    return make_error(fmt::format("a balloon of {} bytes is larger than the guest's memory", bytes));
  {
    const std::lock_guard lock(lock_);
    balloon_target_ = bytes;
  }
  return post_setting(*plan_.balloon, Setting::kBalloonTarget, bytes);
}

Result<screen::VgaRegisters> VirtualMachine::screen() {
  if (!plan_.screen) return make_error("this VM has no screen: `bulkhead run --vga` gives it one");
  const auto* block = reinterpret_cast<const screen::ScanOut*>(screen_.bytes().data() + screen::kVideoMemory);
  const std::optional<screen::VgaRegisters> registers = screen::read_scan_out(*block);
  if (!registers) return make_error("the VGA is changing what it shows; ask again");
  return *registers;
}

Result<std::span<const std::byte>> VirtualMachine::video_memory(std::uint64_t offset, std::uint32_t length) {
  if (!plan_.screen) return make_error("this VM has no screen: `bulkhead run --vga` gives it one");
  if (!fits(offset, length, screen::kVideoMemory)) return make_error("there is no such place in the video memory");
  return std::span<const std::byte>(screen_.bytes()).subspan(offset, length);
}

Result<control::ConsoleOutput> VirtualMachine::console(std::uint64_t after) {
  ConsoleLog::Part part = console_log_.since(after, ConsoleLog::kKept);
  return control::ConsoleOutput{.bytes = std::move(part.bytes), .next = part.next};
}

Status VirtualMachine::type_on_console(std::span<const std::byte> bytes) {
  static_assert(control::kMaxConsoleInput <= PIPE_BUF);
  if (bytes.empty() || ::write(typed_.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()))
    return ok();
  return make_error("the guest does not read its console");
}

Status VirtualMachine::send_input(std::span<const InputEvent> events) {
  // All of them or none: a pipe takes up to PIPE_BUF bytes whole.
  static_assert(control::kMaxInputEvents * sizeof(InputEvent) <= PIPE_BUF);
  const auto bytes = std::as_bytes(events);
  if (bytes.empty() || ::write(keyboard_.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()))
    return ok();
  return make_error("the guest does not read its keyboard");
}

void VirtualMachine::resize_terminal(const control::ResizeTerminal& size) {
  for (const ConsolePlan& console : plan_.consoles) {
    if (console.kind != control::ConsoleKind::kStdio) continue;
    (void)post_setting(console.stream.role, Setting::kTerminalSize,
                       std::uint64_t{size.columns} | std::uint64_t{size.rows} << 16);
  }
}

Result<std::vector<control::InspectedInstance>> VirtualMachine::inspect(const std::string& instance) {
  std::vector<control::InspectedInstance> all;
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    const auto named = [&](const InstancePlan& plan) { return instance.empty() || plan.name == instance; };
    const std::vector<InstancePlan>& instances = process->plan().instances;
    if (std::none_of(instances.begin(), instances.end(), named)) continue;
    ASSIGN_OR_RETURN(control::FromDevice answer, supervisor_->ask(*process, control::Inspect{instance}));
    auto* reply = std::get_if<control::InspectReply>(&answer);
    if (reply == nullptr) return make_error("the device process gave another answer than was asked for");
    for (control::InspectedInstance& one : reply->instances) all.push_back(std::move(one));
  }
  if (all.empty()) return make_error("there is no device \"" + instance + "\" in this VM");
  return all;
}

Status VirtualMachine::fault(const std::string& role, int signal) {
  constexpr std::array<int, 4> kSignals = {SIGKILL, SIGSEGV, SIGSTOP, SIGABRT};
  if (std::find(kSignals.begin(), kSignals.end(), signal) == kSignals.end())
    return make_error("a fault drill sends KILL, SEGV, STOP or ABRT");
  if (role == "standby") return supervisor_->drill_standby(signal);
  ASSIGN_OR_RETURN(DeviceProcess * process, find_role(role));
  return supervisor_->drill(*process, signal);
}

Status VirtualMachine::upgrade(const std::string& role, const std::string& executable_path) {
  ASSIGN_OR_RETURN(DeviceProcess * process, find_role(role));
  ASSIGN_OR_RETURN(sandbox::Executable executable, sandbox::Executable::open(executable_path));
  return supervisor_->upgrade(*process, std::move(executable));
}

Status VirtualMachine::send_limits(DeviceProcess& process, std::uint16_t instance, const Limits& limits) {
  for (std::uint8_t which = 0; which < process.plan().instances[instance].type->limits; ++which) {
    if (limits[which] == kLimitUnchanged) continue;
    ipc::Request request;
    request.kind = ipc::RequestKind::kSetLimit;
    request.instance = instance;
    request.offset = which;
    std::memcpy(request.payload, &limits[which], sizeof limits[which]);
    const std::optional<ipc::Reply> reply = process.channel().request(request);
    if (!reply || reply->status != ipc::ReplyStatus::kDone || reply->payload[0] != 1)
      return make_error(process.plan().name + " did not take the limit");
  }
  return ok();
}

Status VirtualMachine::limit(const std::string& name, const std::vector<control::Property>& properties) {
  for (const std::unique_ptr<DeviceProcess>& process : processes_) {
    const std::vector<InstancePlan>& instances = process->plan().instances;
    const auto found = std::find_if(instances.begin(), instances.end(),
                                    [&](const InstancePlan& instance) { return instance.name == name; });
    if (found == instances.end()) continue;
    if (found->type->limits == 0) return make_error(name + " has no rate limits");
    ASSIGN_OR_RETURN(const Limits limits, read_limits_change(*found->type, properties));
    {
      const std::lock_guard lock(lock_);
      Limits& all = limits_.try_emplace(name, Limits{kLimitUnchanged, kLimitUnchanged}).first->second;
      for (std::size_t i = 0; i < all.size(); ++i) all[i] = merged(all[i], limits[i]);
    }
    return send_limits(*process, static_cast<std::uint16_t>(found - instances.begin()), limits);
  }
  return make_error("there is no device \"" + name + "\" in this VM");
}

void VirtualMachine::repeat_limits(DeviceProcess& process) {
  const std::vector<InstancePlan>& instances = process.plan().instances;
  for (std::uint16_t i = 0; i < instances.size(); ++i) {
    std::optional<Limits> limits;
    {
      const std::lock_guard lock(lock_);
      if (const auto found = limits_.find(instances[i].name); found != limits_.end()) limits = found->second;
    }
    if (!limits) continue;
    if (const Status sent = send_limits(process, i, *limits); !sent)
      log(LogLevel::kWarning, "{}", sent.error().message);
  }
}

// As repeat_limits(): what its user has set since the VM started. Of a terminal's size the next change tells.
void VirtualMachine::repeat_balloon(const DeviceProcess& process) {
  if (!plan_.balloon || processes_[*plan_.balloon].get() != &process) return;
  std::optional<std::uint64_t> target;
  {
    const std::lock_guard lock(lock_);
    target = balloon_target_;
  }
  if (target) (void)post_setting(*plan_.balloon, Setting::kBalloonTarget, *target);
}

void VirtualMachine::set_presence(const DeviceProcess& process, bool present) {
  // Whoever stands at the other end of its cable sees it unplugged.
  if (const auto& ring = process.plan().ring) frame_links_[ring->link].set_present(ring->side, present);
  for (const InstancePlan& instance : process.plan().instances) {
    if (!instance.devfn) continue;
    effects_->set_present(*instance.devfn, present);
    processes_[plan_.pci_role]->channel().request(ipc::RequestKind::kFunctionPresence, plan_.pci_instance,
                                                  std::uint32_t{*instance.devfn} | (present ? 0x100U : 0U));
  }
}

void VirtualMachine::do_isolate(DeviceProcess& process, const control::DeviceEvent& isolated) {
  // The ring is closed: whatever the guest still asks reads all ones. Now its windows, its interrupts and its config
  // space go as well.
  if (!is_ending() && process.ring().closed()) set_presence(process, false);
  events_.add(isolated);
}

Status VirtualMachine::do_restore(DeviceProcess& process) {
  if (!process.ring().closed()) return make_error(process.plan().name + " is not isolated");
  // The ring begins anew, so nobody may be inside it.
  if (!hold_vcpus()) return make_error("a CPU waits for a device process that does not answer");
  Status status = process.erase_state();
  if (status) {
    process.ring().reopen();
    status = supervisor_->revive(process);  // on failure it is isolated again
  }
  if (status) {
    repeat_limits(process);  // its state began anew, from the configuration
    repeat_balloon(process);
    set_presence(process, true);
  }
  if (!paused_) threads_->open();
  return status;
}

Status VirtualMachine::restore(const std::string& role) {
  ASSIGN_OR_RETURN(DeviceProcess * process, find_role(role));
  return run_on_main([this, process] { return do_restore(*process); });
}

}  // namespace bulkhead::vmm
