// Inputs of the e1000: what its registers, its rings and its interrupt show. What a driver sees that uses its
// descriptors for something else at once is publication_test.cc's.
#include <sys/epoll.h>

#include "tests/faults/e1000_driver.h"
#include "tests/faults/inputs.h"

namespace bulkhead::devproc {
namespace {

using namespace e1000_spec;

constexpr GuestPhys kBuffers = 0x8000;
constexpr std::size_t kFrame = 100;  // with the header that goes before it on the host's side
constexpr std::size_t kHeader = 12;

RigWire::Frame frame() {
  RigWire::Frame bytes(kFrame);
  for (std::size_t i = kHeader; i < kFrame; ++i) bytes[i] = static_cast<std::byte>(i * 3);
  bytes[kHeader] = std::byte{0x52};  // to one card
  return bytes;
}

// A frame in two buffers: its addresses and type, and the rest.
void post_frame(RoleRig& rig) {
  SpanMemory memory(rig.memory_bytes());
  const RigWire::Frame bytes = frame();
  std::copy(bytes.begin() + kHeader, bytes.end(), rig.memory_bytes().begin() + kBuffers);
  constexpr std::uint64_t kFirst = 14;
  constexpr std::uint64_t kRest = kFrame - kHeader - kFirst;
  memory.store(kE1000TransmitRing, Descriptor{kBuffers, kFirst | std::uint64_t{kTxCmdIfcs} << kTxCmdShift});
  memory.store(kE1000TransmitRing + 16,
               Descriptor{kBuffers + kFirst, kRest | std::uint64_t{kTxCmdEop | kTxCmdIfcs | kTxCmdRs} << kTxCmdShift});
  rig.let_time_go();
}

void post_buffers(RoleRig& rig) {
  SpanMemory memory(rig.memory_bytes());
  for (std::uint32_t i = 0; i < kE1000Ring; ++i)
    memory.store(kE1000ReceiveRing + 16 * i, Descriptor{kBuffers + 0x800 * i, 0});
  rig.let_time_go();
}

}  // namespace

void e1000_inputs(const std::function<void(Scenario)>& add) {
  const auto card = [] {
    RoleSetup setup;
    setup.add("nic0", "e1000", E1000Config{.nic = {.mac = {0x52, 0, 0, 0, 0, 1}}});
    setup.wired = true;
    return setup;
  };
  const auto read = [](std::uint32_t offset) { return reads(0, kE1000Registers, offset, 4); };
  // Causes clear when they are read, and so do statistics.
  const std::vector<ipc::Request> after{read(kTdh), read(kRdh), read(kIcr), read(kIcr), read(kGptc), read(kGprc)};
  add({.name = "e1000_transmit",
       .setup = card,
       .before = e1000_driver_start(),
       .input = {e1000_register(kTdt, 2)},
       .arrange = post_frame,
       .after = after,
       .did = [](const Seen& seen) { return seen.sent == std::vector<RigWire::Frame>{frame()}; }});
  std::vector<ipc::Request> ready = e1000_driver_start();
  ready.push_back(e1000_register(kRdt, kE1000Ring - 1));
  add({.name = "e1000_receive",
       .setup = card,
       .before = ready,
       .input = {},
       .arrange = post_buffers,
       .settle =
           [](RoleRig& rig) {
             rig.wire.feed(frame());
             rig.host->backend_stirs(0, EPOLLIN);
           },
       .after = after,
       .did =
           [](const Seen& seen) {
             const RigWire::Frame bytes = frame();
             return std::equal(bytes.begin() + kHeader, bytes.end(), seen.memory.begin() + kBuffers);
           }});
  // A command of its own: the driver stops the receiver while a frame waits, which stays on the wire.
  add({.name = "e1000_receiver_off",
       .setup = card,
       .before = ready,
       .input = {e1000_register(kRctl, 0), e1000_register(kIms, 0),
                 e1000_register(kRctl, kRctlEn | kRctlUpe | kRctlSecrc)},
       .arrange = post_buffers,
       .after = after});
}

}  // namespace bulkhead::devproc
