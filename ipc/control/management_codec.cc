#include "ipc/control/management_codec.h"

#include "ipc/control/capnp_codec.h"
#include "ipc/control/statistics_codec.h"

namespace bulkhead::control::codec {
namespace {

constexpr std::size_t kMaxPermissions = std::size_t{64} << 10;
constexpr std::size_t kMaxRoles = 256;
constexpr std::size_t kMaxNamespaces = 16;

void write_texts(capnp::List<capnp::Text>::Builder out, const std::vector<std::string>& texts) {
  for (unsigned i = 0; i < out.size(); ++i) out.set(i, text(texts[i]));
}

std::vector<std::string> read_texts(capnp::List<capnp::Text>::Reader in, const char* field, std::size_t limit) {
  std::vector<std::string> texts;
  check_size(in, field, limit);
  for (const auto item : in) texts.push_back(read_sentence(item, field, kMaxSentenceLength));
  return texts;
}

void write_device(schema::DeviceInfo::Builder out, const DeviceInfo& device) {
  out.setRole(text(device.role));
  write_texts(out.initInstances(static_cast<unsigned>(device.instances.size())), device.instances);
  out.setPid(device.pid);
  out.setState(static_cast<std::uint8_t>(device.state));
  out.setIncarnation(device.incarnation);
  out.setRestarts(device.restarts);
  auto jail = out.initJail();
  jail.setSeccompMode(device.jail.seccomp_mode);
  jail.setNoNewPrivs(device.jail.no_new_privs);
  jail.setCapEff(device.jail.cap_eff);
  jail.setUid(device.jail.uid);
  write_texts(jail.initOwnNamespaces(static_cast<unsigned>(device.jail.own_namespaces.size())),
              device.jail.own_namespaces);
  out.setRequests(device.requests);
  out.setPosted(device.posted);
  out.setCommits(device.commits);
  write_statistics(out.initStatistics(), device.statistics);
  out.setPermissions(text(device.permissions));
  out.setLastStallNs(device.last_stall_ns);
  out.setLongestStallNs(device.longest_stall_ns);
  out.setReplayed(device.replayed);
  out.setPoisoned(device.poisoned);
}

DeviceInfo read_device(schema::DeviceInfo::Reader in) {
  DeviceInfo device;
  device.role = read_name(in.getRole(), "a role");
  device.instances = read_texts(in.getInstances(), "instances", kMaxInstances);
  device.pid = in.getPid();
  device.state = read_enum(in.getState(), DeviceState::kDead, "the state of a device process");
  device.incarnation = in.getIncarnation();
  device.restarts = in.getRestarts();
  const auto jail = in.getJail();
  device.jail.seccomp_mode = jail.getSeccompMode();
  device.jail.no_new_privs = jail.getNoNewPrivs();
  device.jail.cap_eff = jail.getCapEff();
  device.jail.uid = jail.getUid();
  device.jail.own_namespaces = read_texts(jail.getOwnNamespaces(), "namespaces", kMaxNamespaces);
  device.requests = in.getRequests();
  device.posted = in.getPosted();
  device.commits = in.getCommits();
  device.statistics = read_statistics(in.getStatistics());
  device.permissions = read_sentence(in.getPermissions(), "the permissions", kMaxPermissions, true);
  device.last_stall_ns = in.getLastStallNs();
  device.longest_stall_ns = in.getLongestStallNs();
  device.replayed = in.getReplayed();
  device.poisoned = in.getPoisoned();
  return device;
}

}  // namespace

void write_status(schema::VmStatus::Builder out, const VmStatus& status) {
  out.setName(text(status.name));
  out.setPid(status.pid);
  out.setState(static_cast<std::uint8_t>(status.state));
  out.setCpus(status.cpus);
  out.setMemoryBytes(status.memory_bytes);
  out.setUptimeNs(status.uptime_ns);
  out.setGeneration(status.generation);
  out.setExits(status.exits);
  out.setUnclaimedAccesses(status.unclaimed_accesses);
  out.setKernel(text(status.kernel));
  out.setConsole(text(status.console));
  out.setPauseReason(text(status.pause_reason));
}

VmStatus read_status(schema::VmStatus::Reader in) {
  return {.name = read_name(in.getName(), "the VM's name"),
          .pid = in.getPid(),
          .state = read_enum(in.getState(), VmState::kEnding, "the state of the VM"),
          .cpus = in.getCpus(),
          .memory_bytes = in.getMemoryBytes(),
          .uptime_ns = in.getUptimeNs(),
          .generation = in.getGeneration(),
          .exits = in.getExits(),
          .unclaimed_accesses = in.getUnclaimedAccesses(),
          .kernel = read_sentence(in.getKernel(), "the kernel's path", 4096),
          .console = read_sentence(in.getConsole(), "the console", 4096),
          .pause_reason = read_sentence(in.getPauseReason(), "the reason of the pause", kMaxSentenceLength)};
}

void write_devices(capnp::List<schema::DeviceInfo>::Builder out, const std::vector<DeviceInfo>& devices) {
  for (unsigned i = 0; i < out.size(); ++i) write_device(out[i], devices[i]);
}

std::vector<DeviceInfo> read_devices(capnp::List<schema::DeviceInfo>::Reader in) {
  std::vector<DeviceInfo> devices;
  check_size(in, "device processes", kMaxRoles);
  for (const auto item : in) devices.push_back(read_device(item));
  return devices;
}

void write_events(capnp::List<schema::DeviceEvent>::Builder out, const std::vector<DeviceEvent>& events) {
  for (unsigned i = 0; i < out.size(); ++i) {
    const DeviceEvent& event = events[i];
    out[i].setNumber(event.number);
    out[i].setTimeNs(event.time_ns);
    out[i].setKind(static_cast<std::uint8_t>(event.kind));
    out[i].setRole(text(event.role));
    out[i].setPid(event.pid);
    out[i].setIncarnation(event.incarnation);
    out[i].setCause(text(event.cause.substr(0, kMaxSentenceLength)));
    out[i].setSignal(event.signal);
    out[i].setSystemCall(text(event.system_call));
    out[i].setTicket(event.ticket);
    out[i].setStallNs(event.stall_ns);
  }
}

std::vector<DeviceEvent> read_events(capnp::List<schema::DeviceEvent>::Reader in) {
  std::vector<DeviceEvent> events;
  check_size(in, "events", kMaxEventsAtOnce);
  for (const auto item : in) {
    events.push_back({.number = item.getNumber(),
                      .time_ns = item.getTimeNs(),
                      .kind = read_enum(item.getKind(), DeviceEventKind::kWaiting, "the kind of an event"),
                      .role = read_name(item.getRole(), "a role"),
                      .pid = item.getPid(),
                      .incarnation = item.getIncarnation(),
                      .cause = read_sentence(item.getCause(), "a cause", kMaxSentenceLength),
                      .signal = item.getSignal(),
                      .system_call = read_optional_name(item.getSystemCall(), "a system call"),
                      .ticket = item.getTicket(),
                      .stall_ns = item.getStallNs()});
  }
  return events;
}

void write_properties(capnp::List<schema::LimitProperty>::Builder out, const std::vector<Property>& properties) {
  for (unsigned i = 0; i < out.size(); ++i) {
    out[i].setKey(text(properties[i].key));
    out[i].setValue(text(properties[i].value));
  }
}

std::vector<Property> read_properties(capnp::List<schema::LimitProperty>::Reader in) {
  std::vector<Property> properties;
  check_size(in, "properties", kMaxProperties);
  for (const auto item : in)
    properties.push_back({.key = read_name(item.getKey(), "the name of a limit"),
                          .value = read_sentence(item.getValue(), "a limit", kMaxSentenceLength)});
  return properties;
}

}  // namespace bulkhead::control::codec
