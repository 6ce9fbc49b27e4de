// `bulkhead balloon` and `bulkhead status`.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "ipc/control/management_client.h"
#include "tools/bulkhead/manage.h"
#include "tools/bulkhead/print.h"
#include "tools/bulkhead/reach.h"

namespace bulkhead::cli {
namespace {

using control::ManagementClient;
using nlohmann::ordered_json;

struct Balloon {
  std::uint64_t target = 0;  // bytes
  std::uint64_t actual = 0;
};

// As its device process says; nothing when there is none.
Result<std::optional<Balloon>> find_balloon(ManagementClient& client) {
  ASSIGN_OR_RETURN(const auto devices, client.devices());
  for (const control::DeviceInfo& device : devices) {
    for (const std::string& instance : device.instances) {
      if (!instance.ends_with(" (virtio_balloon)")) continue;
      ASSIGN_OR_RETURN(const auto found, client.inspect(instance.substr(0, instance.find(' '))));
      Balloon balloon;
      for (const auto& one : found) {
        for (const auto& field : one.fields) {
          if (field.name == "target_bytes") balloon.target = field.value;
          if (field.name == "actual_bytes") balloon.actual = field.value;
        }
      }
      return std::optional(balloon);
    }
  }
  return std::optional<Balloon>();
}

std::string mebibytes(std::uint64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 1048576.0); }

const char* name_of(control::VmState state) {
  switch (state) {
    case control::VmState::kStarting: return "starting";
    case control::VmState::kRunning: return "running";
    case control::VmState::kPaused: return "paused";
    case control::VmState::kEnding: return "ending";
  }
  return "?";
}

std::string text_of(const ordered_json& json) { return json.dump(2) + "\n"; }

}  // namespace

int manage(const StatusOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  const auto status = (*client)->status();
  if (!status) return fail(status.error());
  const auto balloon = find_balloon(**client);
  if (!balloon) return fail(balloon.error());
  ordered_json json = {{"name", status->name},
                       {"pid", status->pid},
                       {"state", name_of(status->state)},
                       {"cpus", status->cpus},
                       {"memory_bytes", status->memory_bytes},
                       {"uptime_ns", status->uptime_ns},
                       {"generation", status->generation}};
  std::string text = fmt::format("name     {}\npid      {}\nstate    {}\ncpus     {}\nmemory   {}\nuptime   {:.1f} s\n",
                                 status->name, status->pid, name_of(status->state), status->cpus,
                                 mebibytes(status->memory_bytes), static_cast<double>(status->uptime_ns) / 1e9);
  if (*balloon) {
    json["balloon_target_bytes"] = (*balloon)->target;
    json["balloon_actual_bytes"] = (*balloon)->actual;
    text += fmt::format("balloon  {} of {}\n", mebibytes((*balloon)->actual), mebibytes((*balloon)->target));
  }
  return print_out(options.json ? text_of(json) : text);
}

int manage(const BalloonOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  if (options.bytes) {
    if (const Status set = (*client)->set_balloon(*options.bytes); !set) return fail(set.error());
    return 0;
  }
  const auto balloon = find_balloon(**client);
  if (!balloon) return fail(balloon.error());
  if (!*balloon) return fail(make_error("this VM has no balloon: `bulkhead run --balloon SIZE` gives it one"));
  const ordered_json json = {{"target_bytes", (*balloon)->target}, {"actual_bytes", (*balloon)->actual}};
  return print_out(options.json ? text_of(json)
                                : fmt::format("target  {}\nactual  {}\n", mebibytes((*balloon)->target),
                                              mebibytes((*balloon)->actual)));
}

}  // namespace bulkhead::cli
