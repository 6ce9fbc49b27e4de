// Inputs of virtio devices: work on a queue, in every layout and way of interrupting.
#include <sys/epoll.h>

#include <optional>

#include "devproc/models/virtio/transport_spec.h"
#include "devproc/models/virtio_blk/spec.h"
#include "devproc/models/virtio_net/spec.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/faults/inputs.h"
#include "tests/faults/virtio_requests.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;

// Two chains, of which the second has two buffers, and the kick.
void ask_for_bytes(RoleRig& rig, const Way& way) {
  SpanMemory memory(rig.memory_bytes());
  VirtioDriver driver(memory, layout(way));
  std::fill_n(rig.memory_bytes().begin() + kBuffers, 0x1000, std::byte{0xee});
  EXPECT_TRUE(driver.add(std::vector<VirtioDriver::Buffer>{{kBuffers, 40, true}}));
  EXPECT_TRUE(driver.add(std::vector<VirtioDriver::Buffer>{{kBuffers + 0x100, 8, true}, {kBuffers + 0x200, 24, true}}));
  driver.want_interrupts();
  rig.let_time_go();  // queues stand still while their VM is paused
}

// Which chain the device used first: of those that were added to a new ring, the first one is 0.
std::uint16_t first_used(const Seen& seen, const Way& way) {
  std::vector<std::byte> scratch(kRigMemory);
  SpanMemory memory(scratch);
  const VirtioDriver driver(memory, layout(way));
  std::uint16_t id = 0;
  const GuestPhys at = way.packed ? driver.desc() + offsetof(PvirtqDesc, id) : driver.device() + kVirtqRing;
  std::memcpy(&id, seen.memory.data() + at, sizeof id);
  return id;
}

void disk_inputs(const std::function<void(Scenario)>& add, const std::vector<ipc::Request>& after) {
  using namespace virtio_blk_spec;
  const auto disk = [] {
    RoleSetup setup;
    setup.add("disk0", "virtio_blk",
              VirtioBlkConfig{.serial = "rig", .disk = {.bytes = kRigDisk, .discard = true, .write_zeroes = true}});
    return setup;
  };
  const std::uint64_t features = std::uint64_t{1} << kVirtioBlkFFlush | std::uint64_t{1} << kVirtioBlkFDiscard |
                                 std::uint64_t{1} << kVirtioBlkFWriteZeroes | std::uint64_t{1} << kVirtioFIndirectDesc;
  constexpr std::uint32_t kRangeBytes = sizeof(VirtioBlkRange);
  const DiskRequest read_id{.type = kVirtioBlkTGetId, .bytes = kIdBytes, .to_guest = true};
  const std::vector<std::pair<std::string, std::vector<DiskRequest>>> inputs{
      {"read", {{.type = kVirtioBlkTIn, .sector = 2, .bytes = 1024, .to_guest = true}}},
      {"write", {{.type = kVirtioBlkTOut, .sector = 4, .bytes = 512}}},
      {"flush", {{.type = kVirtioBlkTFlush}}},
      {"write_flush_and_read",
       {{.type = kVirtioBlkTOut, .sector = 4, .bytes = 512},
        {.type = kVirtioBlkTFlush},
        {.type = kVirtioBlkTIn, .sector = 8, .bytes = 512, .to_guest = true}}},
      {"discard", {{.type = kVirtioBlkTDiscard, .bytes = kRangeBytes, .range = VirtioBlkRange{8, 8, 0}}}},
      {"write_zeroes",
       {{.type = kVirtioBlkTWriteZeroes, .bytes = kRangeBytes, .range = VirtioBlkRange{16, 4, kVirtioBlkRangeUnmap}}}},
      {"refused",
       {{.type = kVirtioBlkTOut, .sector = kRigDisk / 512, .bytes = 512, .status = kVirtioBlkSIoErr},
        {.type = 77, .status = kVirtioBlkSUnsupp}}},
      // A split ring has the identity before the read that was asked for first, a packed one after it.
      {"read_and_id", {{.type = kVirtioBlkTIn, .sector = 2, .bytes = 512, .to_guest = true}, read_id}}};
  for (const auto& [name, requests] : inputs) {
    for (const auto& [way_name, way] :
         {std::pair("split", Way{}), std::pair("packed_indirect_msix", Way{true, true, true})}) {
      add({.name = "disk_" + name + "_" + way_name,
           .setup = disk,
           .before = driver_start(way, features),
           .input = {},
           .arrange = [way, requests](RoleRig& rig) { ask_the_disk(rig, way, requests); },
           .after = after,
           .did =
               [way, requests, out_of_order = name == "read_and_id"](const Seen& seen) {
                 return answered(seen, requests) && (first_used(seen, way) != 0) == (out_of_order && !way.packed);
               }});
    }
  }
}

ipc::Request set_limit(const RateLimit& limit) {
  ipc::Request request;
  request.kind = ipc::RequestKind::kSetLimit;
  std::memcpy(request.payload, &limit, sizeof limit);
  return request;
}

// A request that its disk's limit holds back (a byte a second: nothing more passes while a test runs), and the change
// of that limit, which lets it through.
void limit_inputs(const std::function<void(Scenario)>& add, std::vector<ipc::Request> after) {
  using namespace virtio_blk_spec;
  const auto disk = [] {
    RoleSetup setup;
    setup.add("disk0", "virtio_blk",
              VirtioBlkConfig{
                  .serial = "rig", .disk = {.bytes = kRigDisk}, .limit = {.bytes_per_second = 1, .bytes_burst = 512}});
    return setup;
  };
  const std::vector<DiskRequest> reads{{.type = kVirtioBlkTIn, .sector = 2, .bytes = 512, .to_guest = true},
                                       {.type = kVirtioBlkTIn, .sector = 3, .bytes = 512, .to_guest = true}};
  const RateLimit none{.operations_per_second = RateLimit::kUnchanged, .operations_burst = RateLimit::kUnchanged};
  for (const auto& [name, way] : {std::pair("split", Way{}), std::pair("packed_msix", Way{true, false, true})}) {
    std::vector<ipc::Request> then = after;
    then.push_back(set_limit(none));
    add({.name = std::string("limit_holds_back_") + name,
         .setup = disk,
         .before = driver_start(way, 0),
         .input = {},
         .arrange = [way, reads](RoleRig& rig) { ask_the_disk(rig, way, reads); },
         .after = then});
    add({.name = std::string("limit_changed_") + name,
         .setup = disk,
         .before = driver_start(way, 0),
         .input = {set_limit(none)},
         .arrange = [way, reads](RoleRig& rig) { ask_the_disk(rig, way, reads); },
         .settle = [](RoleRig&) {},
         .after = after,
         .asserted = way.msix ? 0U : 1U});  // of the request that passed
  }
}

// ---- A network card ----

constexpr std::size_t kNetFrame = 100;
constexpr std::size_t kAckAt = 0x100;

enum NetQueue : QueueId { kReceive, kTransmit, kCommands, kNetQueues };

// Header, addresses, type and some payload.
RigWire::Frame frame_of(std::size_t bytes) {
  RigWire::Frame frame(bytes);
  for (std::size_t i = sizeof(virtio_net_spec::NetHdr); i < bytes; ++i) frame[i] = static_cast<std::byte>(i * 3);
  frame[sizeof(virtio_net_spec::NetHdr)] = std::byte{0x52};  // to one card
  return frame;
}

// Chains in one of its queues, which is new; kicks and the time are the caller's.
void add_chains(RoleRig& rig, const Way& way, NetQueue queue,
                const std::vector<std::vector<VirtioDriver::Buffer>>& chains) {
  SpanMemory memory(rig.memory_bytes());
  VirtioDriver driver(memory, layout(way, queue));
  for (const auto& buffers : chains) EXPECT_TRUE(driver.add(buffers));
  driver.want_interrupts();
}

void send_a_frame(RoleRig& rig, const Way& way) {
  const RigWire::Frame frame = frame_of(kNetFrame);
  std::copy(frame.begin(), frame.end(), rig.memory_bytes().begin() + kBuffers);
  // The header by itself, and a payload in two pieces.
  add_chains(rig, way, kTransmit, {{{kBuffers, 12, false}, {kBuffers + 12, 40, false}, {kBuffers + 52, 48, false}}});
  rig.host->kick(kTransmit);
}

// A frame that goes out, one that is too short for it, and another one that goes out.
void send_a_batch(RoleRig& rig, const Way& way) {
  GuestPhys at = kBuffers;
  for (const std::size_t bytes : {kNetFrame, kNetFrame / 2}) {
    const RigWire::Frame frame = frame_of(bytes);
    std::copy(frame.begin(), frame.end(), rig.memory_bytes().begin() + static_cast<std::ptrdiff_t>(at));
    at += 0x100;
  }
  add_chains(rig, way, kTransmit,
             {{{kBuffers, kNetFrame, false}}, {{kBuffers, 20, false}}, {{kBuffers + 0x100, kNetFrame / 2, false}}});
  rig.host->kick(kTransmit);
}

// Room for a frame that does not fit one buffer.
void offer_buffers(RoleRig& rig, const Way& way) {
  std::fill_n(rig.memory_bytes().begin() + kBuffers, 0x1000, std::byte{0xee});
  SpanMemory memory(rig.memory_bytes());
  VirtioDriver driver(memory, layout(way, kReceive));
  for (unsigned i = 0; i < 3; ++i)
    EXPECT_TRUE(driver.add(std::vector<VirtioDriver::Buffer>{{kBuffers + 0x100 * i, 64, true}}));
  driver.want_interrupts();
  rig.let_time_go();
  rig.host->kick(kReceive);
}

void frame_comes(RoleRig& rig) {
  rig.wire.feed(frame_of(kNetFrame));
  rig.host->backend_stirs(0, EPOLLIN);
}

// A command of the control queue: class and command, its data, and how it is answered.
struct Command {
  std::vector<std::uint8_t> bytes;
  std::uint8_t ack = virtio_net_spec::kNetOk;
};
constexpr GuestPhys kCommandStep = 0x200;

void command(RoleRig& rig, const Way& way, const std::vector<Command>& commands) {
  std::vector<std::vector<VirtioDriver::Buffer>> chains;
  GuestPhys at = kBuffers;
  for (const Command& one : commands) {
    SpanMemory(rig.memory_bytes()).write(at, std::as_bytes(std::span(one.bytes)));
    rig.memory_bytes()[at + kAckAt] = std::byte{0xee};
    const auto bytes = static_cast<std::uint32_t>(one.bytes.size());
    // The first one lies in more buffers than the others: a queue has eight.
    chains.push_back(chains.empty() ? std::vector<VirtioDriver::Buffer>{{at, 2, false}, {at + 2, bytes - 2, false}}
                                    : std::vector<VirtioDriver::Buffer>{{at, bytes, false}});
    chains.back().push_back({at + kAckAt, 1, true});
    at += kCommandStep;
  }
  add_chains(rig, way, kCommands, chains);
  rig.host->kick(kCommands);
}

bool answered(const Seen& seen, const std::vector<Command>& commands) {
  for (std::size_t i = 0; i < commands.size(); ++i) {
    if (seen.memory[kBuffers + i * kCommandStep + kAckAt] != std::byte{commands[i].ack}) return false;
  }
  return true;
}

void net_inputs(const std::function<void(Scenario)>& add, const std::vector<ipc::Request>& after) {
  using namespace virtio_net_spec;
  const auto card = [] {
    RoleSetup setup;
    setup.add("net0", "virtio_net", VirtioNetConfig{.nic = {.mac = {0x52, 0x54, 0, 0, 0, 1}}});
    setup.wired = true;
    return setup;
  };
  const std::uint64_t features = std::uint64_t{1} << kNetFMrgRxbuf | std::uint64_t{1} << kNetFCtrlVq |
                                 std::uint64_t{1} << kNetFCtrlRx | std::uint64_t{1} << kNetFCtrlMacAddr;
  const std::vector<Command> no_promiscuity{{.bytes = {kNetCtrlRx, kNetCtrlRxPromisc, 0}}};
  // Two that change something, around one that is refused.
  const std::vector<Command> batch{{.bytes = {kNetCtrlMac, kNetCtrlMacAddrSet, 0x52, 0x54, 0, 0, 0, 9}},
                                   {.bytes = {kNetCtrlRx, 77, 1}, .ack = kNetErr},
                                   {.bytes = {kNetCtrlRx, kNetCtrlRxAllmulti, 1}}};
  std::vector<ipc::Request> after_batch = after;
  after_batch.push_back(reads(0, kVirtioRegisters, kVirtioDeviceOffset, 4));  // its address
  after_batch.push_back(reads(0, kVirtioRegisters, kVirtioDeviceOffset + 4, 2));
  for (const auto& [name, way] :
       {std::pair("split", Way{}), std::pair("split_in_order_msix", Way{false, true, true, true}),
        std::pair("packed_msix", Way{true, true, true}), std::pair("packed_in_order", Way{true, false, false, true})}) {
    const std::vector<ipc::Request> before = driver_start(way, features, kNetQueues);
    add({.name = std::string("net_transmit_") + name,
         .setup = card,
         .before = before,
         .input = {},
         .arrange = [](RoleRig& rig) { rig.let_time_go(); },
         .settle = [way](RoleRig& rig) { send_a_frame(rig, way); },
         .after = after,
         .did = [](const Seen& seen) { return seen.sent == std::vector<RigWire::Frame>{frame_of(kNetFrame)}; }});
    add({.name = std::string("net_receive_") + name,
         .setup = card,
         .before = before,
         .input = {},
         .arrange = [way](RoleRig& rig) { offer_buffers(rig, way); },
         .settle = frame_comes,
         .after = after,
         .did =
             [](const Seen& seen) {
               const RigWire::Frame frame = frame_of(kNetFrame);
               return std::equal(frame.begin() + 64, frame.end(), seen.memory.begin() + kBuffers + 0x100);
             }});
    add({.name = std::string("net_command_") + name,
         .setup = card,
         .before = before,
         .input = {},
         .arrange = [](RoleRig& rig) { rig.let_time_go(); },
         .settle = [way, no_promiscuity](RoleRig& rig) { command(rig, way, no_promiscuity); },
         .after = after,
         .did = [no_promiscuity](const Seen& seen) { return answered(seen, no_promiscuity); }});
    if (!way.msix) continue;  // a batch in order and one that need not be
    add({.name = std::string("net_transmit_batch_") + name,
         .setup = card,
         .before = before,
         .input = {},
         .arrange = [](RoleRig& rig) { rig.let_time_go(); },
         .settle = [way](RoleRig& rig) { send_a_batch(rig, way); },
         .after = after,
         .did = [](const Seen& seen) { return seen.sent_times == 2 && seen.sent.size() == 2; }});
    add({.name = std::string("net_command_batch_") + name,
         .setup = card,
         .before = before,
         .input = {},
         .arrange = [](RoleRig& rig) { rig.let_time_go(); },
         .settle = [way, batch](RoleRig& rig) { command(rig, way, batch); },
         .after = after_batch,
         .did = [batch](const Seen& seen) { return answered(seen, batch); }});
  }
}

}  // namespace

void virtio_inputs(const std::function<void(Scenario)>& add) {
  const auto rng = [] {
    RoleSetup setup;
    setup.add("rng0", "virtio_rng", VirtioRngConfig{});
    return setup;
  };
  const std::vector<ipc::Request> after{reads(0, kVirtioRegisters, kVirtioIsrOffset, 1),
                                        reads(0, kVirtioRegisters, kVirtioCommonOffset + kDeviceStatus, 1),
                                        reads(0, kVirtioRegisters, kVirtioIsrOffset, 1)};
  for (const auto& [name, way] :
       {std::pair("split_intx", Way{}), std::pair("split_event_idx_msix", Way{false, true, true}),
        std::pair("packed_intx", Way{true, false, false}), std::pair("packed_event_idx_msix", Way{true, true, true})}) {
    add({.name = std::string("virtio_queue_") + name,
         .setup = rng,
         .before = driver_start(way, 0),
         .input = {},
         .arrange =
             [way](RoleRig& rig) {
               ask_for_bytes(rig, way);
               rig.host->kick(0);
             },
         .after = after});
  }
  add({.name = "virtio_queue_kicked_by_a_request",
       .setup = rng,
       .before = driver_start({.msix = true}, 0),
       .input = {posted(writes(0, kVirtioDoorbells, 0, 2, 0))},
       .arrange = [](RoleRig& rig) { ask_for_bytes(rig, {.msix = true}); },
       .after = after});
  disk_inputs(add, after);
  limit_inputs(add, after);
  net_inputs(add, after);
}

}  // namespace bulkhead::devproc
