// `bulkhead fault`: people's own fault drills. `bulkhead upgrade` and `restore`: planned replacement and
// return.
#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tools/bulkhead/manage.h"
#include "tools/bulkhead/reach.h"
#include "tools/bulkhead/run_setup.h"

namespace bulkhead::cli {
namespace {

using control::DeviceInfo;
using control::DeviceState;
using control::ManagementClient;
using Clock = std::chrono::steady_clock;

constexpr const char* kStandby = "standby";
constexpr const char* kAny = "any";
// A process that hangs is found by the device deadline, which may be long; more than that is not waited
// for.
constexpr auto kSuccessorPatience = std::chrono::seconds(30);
constexpr auto kLook = std::chrono::milliseconds(2);

// std::string and Result<std::string> both take a const char*; this says which.
Result<std::string> good(std::string text) { return {boost::system::in_place_value, std::move(text)}; }

// The role that `device` is, or that plays it: "com1" is played by "platform".
Result<std::string> role_of(const std::vector<DeviceInfo>& devices, const std::string& device) {
  std::string known;
  for (const DeviceInfo& info : devices) {
    if (info.role == device) return good(info.role);
    known += fmt::format("{}{}", known.empty() ? "" : ", ", info.role);
    for (const std::string& instance : info.instances) {
      const std::string name = instance.substr(0, instance.find(' '));
      if (name == device) return good(info.role);
      if (name != info.role) known += ", " + name;
    }
  }
  return make_error(fmt::format("this VM has no device named {} (it has {})", device, known));
}

// The same numbers for the same seed, everywhere: the standard library's distributions differ.
std::uint64_t below(std::mt19937_64& random, std::uint64_t limit) { return random() % limit; }

class Drill {
 public:
  Drill(ManagementClient& client, const FaultOptions& options, std::uint64_t seed)
      : client_(client), options_(options), random_(seed) {}

  Status prepare() {
    if (options_.device == kStandby || options_.device == kAny) return ok();
    ASSIGN_OR_RETURN(const auto devices, client_.devices());
    ASSIGN_OR_RETURN(role_, role_of(devices, options_.device));
    return ok();
  }

  // The line that says what was done.
  Result<std::string> one() {
    const auto give_up = Clock::now() + kSuccessorPatience;
    const std::uint64_t number = options_.device == kAny ? random_() : 0;
    for (;;) {
      std::optional<DeviceInfo> target;
      if (options_.device != kStandby) {
        ASSIGN_OR_RETURN(target, find_target(number));
      }
      // Not the process that the last signal went to and that is yet to die of it.
      const bool fresh = !target || (target->state == DeviceState::kRunning && target->pid != last_pid_[target->role]);
      if (fresh) {
        const Status sent = client_.fault(target ? target->role : kStandby, options_.signal);
        if (sent && target) last_pid_[target->role] = target->pid;
        if (sent)
          return good(fmt::format("SIG{} to {}{}\n", ::sigabbrev_np(options_.signal), target ? target->role : kStandby,
                                  target ? fmt::format(" (pid {})", target->pid) : ""));
        if (sent.error().error_number != 0 || Clock::now() > give_up) return sent.error();
      }
      if (Clock::now() > give_up)
        return make_error(fmt::format("no successor of {} serves", target ? target->role : kStandby));
      std::this_thread::sleep_for(kLook);
    }
  }

  void pause() {
    if (!options_.every_ns) return;
    const auto every = static_cast<std::uint64_t>(*options_.every_ns);
    std::this_thread::sleep_for(std::chrono::nanoseconds(every / 2 + below(random_, every + 1)));
  }

 private:
  // With `any`, `number` chooses among the devices that are not isolated.
  Result<DeviceInfo> find_target(std::uint64_t number) {
    ASSIGN_OR_RETURN(auto devices, client_.devices());
    const auto isolated = [](const DeviceInfo& info) { return info.state == DeviceState::kIsolated; };
    if (options_.device == kAny) {
      std::erase_if(devices, isolated);
      if (devices.empty()) return make_error("every device of this VM is isolated");
      return devices[number % devices.size()];
    }
    const auto found =
        std::find_if(devices.begin(), devices.end(), [&](const DeviceInfo& info) { return info.role == role_; });
    if (found == devices.end()) return make_error(fmt::format("this VM has no device named {}", role_));
    if (isolated(*found))
      return make_error(
          fmt::format("{0} is isolated; `bulkhead restore {1} {0}` brings it back", role_, options_.name));
    return *found;
  }

  ManagementClient& client_;
  const FaultOptions& options_;
  std::mt19937_64 random_;
  std::string role_;
  std::map<std::string, std::uint32_t> last_pid_;
};

}  // namespace

int manage(const FaultOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  const std::uint64_t seed = options.seed ? *options.seed : std::random_device()();
  Drill drill(**client, options, seed);
  if (const Status status = drill.prepare(); !status) return fail(status.error());
  if (options.every_ns || options.device == kAny) {
    if (const int status = print_out(fmt::format("random seed {}\n", seed)); status != 0) return status;
  }
  for (std::uint64_t done = 0; options.count == 0 || done < options.count; ++done) {
    if (done != 0) drill.pause();
    const auto line = drill.one();
    const bool ended = !line && line.error().error_number == control::kPeerClosed;
    if (ended && options.count == 0) return 0;  // it was to go on until the VM ends
    if (!line) return fail(line.error());
    if (const int status = print_out(*line); status != 0) return status;
  }
  return 0;
}

int manage(const ReplaceOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  const auto devices = (*client)->devices();
  if (!devices) return fail(devices.error());
  const auto role = role_of(*devices, options.device);
  if (!role) return fail(role.error());
  if (options.action == "restore") {
    const Status restored = (*client)->restore(*role);
    return restored ? 0 : fail(restored.error());
  }
  std::string executable = options.executable;
  if (executable.empty()) {
    const auto own = beside_us("bulkhead-device");
    if (!own) return fail(own.error());
    executable = *own;
  }
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(executable, error);
  if (error) return fail(make_errno_error(fmt::format("cannot find {}", executable), error.value()));
  const Status upgraded = (*client)->upgrade(*role, absolute);
  return upgraded ? 0 : fail(upgraded.error());
}

}  // namespace bulkhead::cli
