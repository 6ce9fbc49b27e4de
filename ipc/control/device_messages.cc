#include "ipc/control/device_messages.h"

#include <cstring>
#include <set>
#include <string_view>

#include "ipc/base/checked.h"
#include "ipc/control/capnp_codec.h"
#include "ipc/control/device.capnp.h"
#include "ipc/control/device_config_codec.h"
#include "ipc/control/statistics_codec.h"

namespace bulkhead::control {
namespace {

using namespace codec;

constexpr std::uint64_t kPageSize = 4096;

void write_range(schema::IndexRange::Builder out, const IndexRange& range) {
  out.setFirst(range.first);
  out.setCount(range.count);
}

IndexRange read_range(schema::IndexRange::Reader in, const char* field) {
  const IndexRange range{.first = in.getFirst(), .count = in.getCount()};
  if (!fits(range.first, range.count, kMaxIndex)) refuse("{} {}+{} are out of range", field, range.first, range.count);
  return range;
}

void write_instance(schema::DeviceInstance::Builder out, const DeviceInstance& instance) {
  out.setName(text(instance.name));
  out.setType(text(instance.type));
  write_device_config(out.initConfig(), instance.config);
  write_range(out.initRegions(), instance.regions);
  write_range(out.initLines(), instance.lines);
  write_range(out.initStreams(), instance.streams);
  write_range(out.initVectors(), instance.vectors);
  write_range(out.initBackings(), instance.backings);
  write_range(out.initKicks(), instance.kicks);
  write_range(out.initDataRegions(), instance.data_regions);
}

DeviceInstance read_instance(schema::DeviceInstance::Reader in) {
  DeviceInstance instance;
  instance.name = read_name(in.getName(), "the name of an instance");
  instance.type = read_name(in.getType(), "the type of an instance");
  instance.config = read_device_config(in.getConfig());
  instance.regions = read_range(in.getRegions(), "regions");
  instance.lines = read_range(in.getLines(), "lines");
  instance.streams = read_range(in.getStreams(), "streams");
  instance.vectors = read_range(in.getVectors(), "vectors");
  instance.backings = read_range(in.getBackings(), "backings");
  instance.kicks = read_range(in.getKicks(), "kicks");
  instance.data_regions = read_range(in.getDataRegions(), "regions of data");
  return instance;
}

void write_take_role(schema::TakeRole::Builder out, const TakeRole& role) {
  out.setRole(text(role.role));
  out.setVm(text(role.vm));
  out.setIncarnation(role.incarnation);
  out.setGeneration(role.generation);
  out.setStart(static_cast<std::uint8_t>(role.start));
  out.setVmTimeOffsetNs(role.vm_time_offset_ns);
  out.setBlame(role.blame);
  auto instances = out.initInstances(static_cast<unsigned>(role.instances.size()));
  for (unsigned i = 0; i < instances.size(); ++i) write_instance(instances[i], role.instances[i]);
  auto fds = out.initFds(static_cast<unsigned>(role.fds.size()));
  for (unsigned i = 0; i < fds.size(); ++i) {
    fds[i].setPurpose(static_cast<std::uint16_t>(role.fds[i].purpose));
    fds[i].setIndex(role.fds[i].index);
  }
  auto ranges = out.initGuestRam(static_cast<unsigned>(role.guest_ram.size()));
  for (unsigned i = 0; i < ranges.size(); ++i) {
    ranges[i].setGuestBase(role.guest_ram[i].guest_base);
    ranges[i].setLength(role.guest_ram[i].length);
    ranges[i].setFdIndex(role.guest_ram[i].fd_index);
    ranges[i].setOffset(role.guest_ram[i].offset);
  }
  auto rings = out.initRings(static_cast<unsigned>(role.rings.size()));
  for (unsigned i = 0; i < rings.size(); ++i) {
    rings[i].setDescriptor(role.rings[i].descriptor);
    rings[i].setBacking(role.rings[i].backing);
    auto params = rings[i].initParams(RingGrant::kParamsSize);
    std::memcpy(params.begin(), role.rings[i].params.data(), RingGrant::kParamsSize);
  }
}

std::vector<FdGrant> read_grants(capnp::List<schema::FdGrant>::Reader in, std::size_t fd_count) {
  std::vector<FdGrant> grants;
  std::set<std::pair<FdPurpose, std::uint32_t>> seen;
  check_size(in, "descriptors", kMaxMessageFds);
  for (const auto item : in) {
    const FdGrant grant{.purpose = read_enum(item.getPurpose(), static_cast<FdPurpose>(kFdPurposeCount - 1),
                                             "the purpose of a descriptor"),
                        .index = item.getIndex()};
    if (grant.index >= kMaxIndex) refuse("the index {} of a descriptor is out of range", grant.index);
    if (!seen.emplace(grant.purpose, grant.index).second)
      refuse("two descriptors with purpose {} and index {}", item.getPurpose(), grant.index);
    grants.push_back(grant);
  }
  if (grants.size() != fd_count) refuse("{} descriptors came with a message that names {}", fd_count, grants.size());
  return grants;
}

std::vector<GuestRange> read_guest_ram(capnp::List<schema::GuestRange>::Reader in, const std::vector<FdGrant>& fds) {
  std::vector<GuestRange> ranges;
  std::uint64_t next = 0;
  check_size(in, "ranges of guest RAM", kMaxGuestRanges);
  for (const auto item : in) {
    const GuestRange range{.guest_base = item.getGuestBase(),
                           .length = item.getLength(),
                           .fd_index = item.getFdIndex(),
                           .offset = item.getOffset()};
    if ((range.guest_base | range.length | range.offset) % kPageSize != 0 || range.length == 0)
      refuse("a range of guest RAM is not made of whole pages");
    const auto end = checked_add(range.guest_base, range.length);
    if (!end || !checked_add(range.offset, range.length)) refuse("a range of guest RAM wraps around");
    if (range.guest_base < next) refuse("ranges of guest RAM overlap or are out of order");
    if (range.fd_index >= fds.size() || fds[range.fd_index].purpose != FdPurpose::kGuestRam)
      refuse("a range of guest RAM names descriptor {}, which is none", range.fd_index);
    next = *end;
    ranges.push_back(range);
  }
  return ranges;
}

std::vector<RingGrant> read_rings(capnp::List<schema::RingGrant>::Reader in) {
  std::vector<RingGrant> rings;
  check_size(in, "rings", kMaxRings);
  for (const auto item : in) {
    RingGrant ring{.descriptor = item.getDescriptor(), .backing = item.getBacking(), .params = {}};
    if (ring.descriptor >= kMaxIndex || ring.backing >= kMaxIndex) refuse("the numbers of a ring are out of range");
    const auto params = item.getParams();
    if (params.size() != RingGrant::kParamsSize) refuse("a ring came with {} bytes of parameters", params.size());
    std::memcpy(ring.params.data(), params.begin(), RingGrant::kParamsSize);
    rings.push_back(ring);
  }
  return rings;
}

TakeRole read_take_role(schema::TakeRole::Reader in, std::size_t fd_count) {
  TakeRole role;
  role.role = read_name(in.getRole(), "the role");
  role.vm = read_optional_name(in.getVm(), "the VM's name");
  role.incarnation = in.getIncarnation();
  role.generation = in.getGeneration();
  role.start = read_enum(in.getStart(), StartKind::kCheck, "the kind of start");
  role.vm_time_offset_ns = in.getVmTimeOffsetNs();
  role.blame = in.getBlame();
  std::set<std::string> names;
  const auto instances = in.getInstances();
  check_size(instances, "instances", kMaxInstances);
  for (const auto item : instances) {
    role.instances.push_back(read_instance(item));
    if (!names.insert(role.instances.back().name).second) refuse("two instances named {}", role.instances.back().name);
  }
  role.fds = read_grants(in.getFds(), fd_count);
  role.guest_ram = read_guest_ram(in.getGuestRam(), role.fds);
  role.rings = read_rings(in.getRings());
  return role;
}

void write_ready(schema::Ready::Builder out, const Ready& ready) {
  out.setLayoutHash(ready.layout_hash);
  auto states = out.initStates(static_cast<unsigned>(ready.states.size()));
  for (unsigned i = 0; i < states.size(); ++i) {
    states[i].setInstance(text(ready.states[i].instance));
    states[i].setVersion(ready.states[i].version);
    states[i].setLayoutHash(ready.states[i].layout_hash);
  }
}

Ready read_ready(schema::Ready::Reader in) {
  Ready ready;
  ready.layout_hash = in.getLayoutHash();
  const auto states = in.getStates();
  check_size(states, "state versions", kMaxInstances);
  for (const auto item : states) {
    ready.states.push_back({.instance = read_name(item.getInstance(), "the name of an instance"),
                            .version = item.getVersion(),
                            .layout_hash = item.getLayoutHash()});
  }
  return ready;
}

void write_body(schema::ToDevice::Builder out, const TakeRole& role) { write_take_role(out.initTakeRole(), role); }
void write_body(schema::ToDevice::Builder out, const Quiesce&) { out.setQuiesce(); }
void write_body(schema::ToDevice::Builder out, const GetStatistics&) { out.setGetStatistics(); }
void write_body(schema::ToDevice::Builder out, const Inspect& inspect) { out.setInspect(text(inspect.instance)); }

void write_body(schema::FromDevice::Builder out, const Ready& ready) { write_ready(out.initReady(), ready); }
void write_body(schema::FromDevice::Builder out, const Failed& failed) {
  // A sentence that is too long is still better cut than lost.
  out.setFailed(text(failed.sentence.substr(0, kMaxSentenceLength)));
}
void write_body(schema::FromDevice::Builder out, const Quiesced& quiesced) {
  auto body = out.initQuiesced();
  body.setLastTicket(quiesced.last_ticket);
  body.setCommitNumber(quiesced.commit_number);
}
void write_body(schema::FromDevice::Builder out, const Statistics& statistics) {
  write_statistics(out.initStatistics(), statistics);
}
void write_body(schema::FromDevice::Builder out, const InspectReply& reply) {
  write_inspected(out.initInspectReply(static_cast<unsigned>(reply.instances.size())), reply.instances);
}

Result<ToDevice> read_to_device(schema::ToDevice::Reader in, std::size_t fd_count) {
  if (!in.isTakeRole() && fd_count != 0) refuse("{} descriptors came with a message that takes none", fd_count);
  switch (in.which()) {
    case schema::ToDevice::TAKE_ROLE: return ToDevice(read_take_role(in.getTakeRole(), fd_count));
    case schema::ToDevice::QUIESCE: return ToDevice(Quiesce{});
    case schema::ToDevice::GET_STATISTICS: return ToDevice(GetStatistics{});
    case schema::ToDevice::INSPECT:
      return ToDevice(Inspect{.instance = read_optional_name(in.getInspect(), "the instance to inspect")});
  }
  refuse("kind {} is unknown", static_cast<unsigned>(in.which()));
}

Result<FromDevice> read_from_device(schema::FromDevice::Reader in) {
  switch (in.which()) {
    case schema::FromDevice::READY: return FromDevice(read_ready(in.getReady()));
    case schema::FromDevice::FAILED:
      return FromDevice(Failed{.sentence = read_sentence(in.getFailed(), "the reason", kMaxSentenceLength)});
    case schema::FromDevice::QUIESCED:
      return FromDevice(Quiesced{.last_ticket = in.getQuiesced().getLastTicket(),
                                 .commit_number = in.getQuiesced().getCommitNumber()});
    case schema::FromDevice::STATISTICS: return FromDevice(read_statistics(in.getStatistics()));
    case schema::FromDevice::INSPECT_REPLY:
      return FromDevice(InspectReply{.instances = read_inspected(in.getInspectReply())});
  }
  refuse("kind {} is unknown", static_cast<unsigned>(in.which()));
}

}  // namespace

// Encoding checks itself by decoding: a message that the peer would refuse is never sent, and both sides
// have one set of rules.
Result<std::vector<std::byte>> encode(const ToDevice& message) {
  ASSIGN_OR_RETURN(std::vector<std::byte> bytes, write_message<schema::ToDevice>([&](auto root) {
                     std::visit([&](const auto& body) { write_body(root, body); }, message);
                   }));
  const auto* role = std::get_if<TakeRole>(&message);
  if (auto check = decode_to_device(bytes, role == nullptr ? 0 : role->fds.size()); !check) return check.error();
  return bytes;
}

Result<std::vector<std::byte>> encode(const FromDevice& message) {
  ASSIGN_OR_RETURN(std::vector<std::byte> bytes, write_message<schema::FromDevice>([&](auto root) {
                     std::visit([&](const auto& body) { write_body(root, body); }, message);
                   }));
  if (auto check = decode_from_device(bytes); !check) return check.error();
  return bytes;
}

Result<ToDevice> decode_to_device(std::span<const std::byte> bytes, std::size_t fd_count) {
  return read_message<schema::ToDevice, ToDevice>(
      bytes, [&](schema::ToDevice::Reader root) { return read_to_device(root, fd_count); });
}

Result<FromDevice> decode_from_device(std::span<const std::byte> bytes) {
  return read_message<schema::FromDevice, FromDevice>(
      bytes, [](schema::FromDevice::Reader root) { return read_from_device(root); });
}

}  // namespace bulkhead::control
