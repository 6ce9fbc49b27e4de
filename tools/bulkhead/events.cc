// `bulkhead events`: what happens to a VM's device processes, one line each.
#include <fmt/format.h>
#include <string.h>
#include <time.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tools/bulkhead/manage.h"
#include "tools/bulkhead/reach.h"

namespace bulkhead::cli {
namespace {

using control::DeviceEvent;
using control::DeviceEventKind;

const char* name_of(DeviceEventKind kind) {
  switch (kind) {
    case DeviceEventKind::kDied: return "died";
    case DeviceEventKind::kHung: return "hung";
    case DeviceEventKind::kRestarting: return "restarting";
    case DeviceEventKind::kRestored: return "restored";
    case DeviceEventKind::kIsolated: return "isolated";
    case DeviceEventKind::kReturned: return "returned";
    case DeviceEventKind::kUpgraded: return "upgraded";
    case DeviceEventKind::kPaused: return "paused";
    case DeviceEventKind::kUnplugged: return "unplugged";
    case DeviceEventKind::kPlugged: return "plugged";
    case DeviceEventKind::kWaiting: return "waiting";
  }
  return "?";
}

bool has_stall(const DeviceEvent& event) {
  return event.kind == DeviceEventKind::kRestored || event.kind == DeviceEventKind::kUpgraded;
}

// RFC 3339, UTC, with milliseconds.
std::string time_text(std::int64_t time_ns) {
  const time_t seconds = time_ns / 1'000'000'000;
  tm utc{};
  ::gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday,
                     utc.tm_hour, utc.tm_min, utc.tm_sec, time_ns / 1'000'000 % 1000);
}

std::string signal_name(int number) {
  const char* name = ::sigabbrev_np(number);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::to_string(number);
}

// What does not apply is null.
std::string json_line(const DeviceEvent& event) {
  nlohmann::ordered_json json = {{"number", event.number},
                                 {"time", time_text(event.time_ns)},
                                 {"kind", name_of(event.kind)},
                                 {"device", event.role},
                                 {"pid", nullptr},
                                 {"incarnation", event.incarnation},
                                 {"cause", event.cause},
                                 {"signal", nullptr},
                                 {"system_call", nullptr},
                                 {"ticket", nullptr},
                                 {"stall_ms", nullptr}};
  if (event.pid != 0) json["pid"] = event.pid;
  if (event.signal != 0) json["signal"] = signal_name(event.signal);
  if (!event.system_call.empty()) json["system_call"] = event.system_call;
  if (event.ticket != 0) json["ticket"] = event.ticket;
  if (has_stall(event)) json["stall_ms"] = static_cast<double>(event.stall_ns) / 1e6;
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string text_line(const DeviceEvent& event) {
  std::string line = fmt::format("{} {} {} (incarnation {}", time_text(event.time_ns), event.role, name_of(event.kind),
                                 event.incarnation);
  if (event.pid != 0) line += fmt::format(", pid {}", event.pid);
  if (event.ticket != 0) line += fmt::format(", at request {}", event.ticket);
  if (has_stall(event)) line += fmt::format(", after {:.2f} ms", static_cast<double>(event.stall_ns) / 1e6);
  line += ')';
  if (!event.cause.empty()) line += ": " + event.cause;
  return line + "\n";
}

}  // namespace

int manage(const EventsOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  std::uint64_t after = 0;
  for (;;) {
    const auto events = (*client)->events(after, options.follow);
    // The end of the VM is the end of the stream.
    if (!events && options.follow && events.error().error_number == control::kPeerClosed) return 0;
    if (!events) return fail(events.error());
    std::string lines;
    for (const DeviceEvent& event : *events) {
      if (event.number > after + 1) complain(fmt::format("{} events are no longer known", event.number - after - 1));
      after = std::max(after, event.number);
      lines += options.json ? json_line(event) : text_line(event);
    }
    if (const int status = print_out(lines); status != 0) return status;
    if (events->empty() && !options.follow) return 0;
  }
}

}  // namespace bulkhead::cli
