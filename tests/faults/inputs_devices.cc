// Inputs of the virtio console, balloon and sockets.
#include "devproc/models/virtio_balloon/spec.h"
#include "devproc/models/virtio_console/spec.h"
#include "devproc/models/virtio_vsock/spec.h"
#include "tests/faults/inputs.h"
#include "tests/faults/virtio_requests.h"

namespace bulkhead::devproc {
namespace {

template <class Config>
RoleSetup one_device(const std::string& type, Config config) {
  RoleSetup setup;
  setup.add(type + "0", type, std::move(config));
  return setup;
}
RoleSetup console_setup() { return one_device("virtio_console", VirtioConsoleConfig{}); }
RoleSetup balloon_setup() { return one_device("virtio_balloon", VirtioBalloonConfig{.stats_seconds = 0}); }
RoleSetup vsock_setup() { return one_device("virtio_vsock", VirtioVsockConfig{}); }

// Offers `chains`, which lie ready in memory, and kicks.
void offer(RoleRig& rig, const Way& way, QueueId queue, const std::vector<std::vector<VirtioDriver::Buffer>>& chains) {
  SpanMemory memory(rig.memory_bytes());
  VirtioDriver driver(memory, layout(way));
  for (const auto& buffers : chains) EXPECT_TRUE(driver.add(buffers));
  driver.want_interrupts();
  rig.let_time_go();
  rig.host->kick(queue);
}

void put(RoleRig& rig, GuestPhys at, std::string_view text) {
  SpanMemory(rig.memory_bytes()).write(at, std::as_bytes(std::span(text)));
}

}  // namespace

void device_inputs(const std::function<void(Scenario)>& add) {
  const std::vector<ipc::Request> after{reads(0, kVirtioRegisters, kVirtioIsrOffset, 1),
                                        reads(0, kVirtioRegisters, kVirtioCommonOffset + kDeviceStatus, 1)};
  for (const auto& [name, way] : {std::pair("split", Way{}), std::pair("packed_msix", Way{true, true, true})}) {
    const std::string suffix = std::string("_") + name;
    add({.name = "virtio_console_output" + suffix,
         .setup = console_setup,
         .before = driver_start(way, 0, 1, virtio_console_spec::kTransmitq),
         .input = {},
         .arrange =
             [way](RoleRig& rig) {
               put(rig, kBuffers, "hello, world");
               offer(rig, way, virtio_console_spec::kTransmitq,
                     {{{kBuffers, 5, false}, {kBuffers + 5, 2, false}}, {{kBuffers + 7, 5, false}}});
             },
         .after = after});
    add({.name = "virtio_console_input" + suffix,
         .setup = console_setup,
         .before = driver_start(way, 0, 1, virtio_console_spec::kReceiveq),
         .input = {},
         .arrange =
             [way](RoleRig& rig) {
               rig.feed(0, "typed");
               offer(rig, way, virtio_console_spec::kReceiveq, {{{kBuffers, 3, true}}, {{kBuffers + 0x100, 8, true}}});
             },
         .after = after});
    add({.name = "virtio_balloon_inflate" + suffix,
         .setup = balloon_setup,
         .before = driver_start(way, 0, 1, virtio_balloon_spec::kInflateq),
         .input = {},
         .arrange =
             [way](RoleRig& rig) {
               constexpr std::array<std::uint32_t, 3> kPages = {0xe, 0xf, 0xffffffff};
               SpanMemory(rig.memory_bytes()).write(kBuffers, std::as_bytes(std::span(kPages)));
               offer(rig, way, virtio_balloon_spec::kInflateq, {{{kBuffers, sizeof kPages, false}}});
             },
         .after = after});
    add({.name = "virtio_vsock_packet_out" + suffix,
         .setup = vsock_setup,
         .before = driver_start(way, 0, 1, virtio_vsock_spec::kTxVq),
         .input = {},
         .arrange =
             [way](RoleRig& rig) {
               virtio_vsock_spec::VsockHeader header;
               header.src_cid = virtio_vsock_spec::to_cid(3);
               header.dst_cid = virtio_vsock_spec::to_cid(virtio_vsock_spec::kHostCid);
               header.len = 5;
               header.type = virtio_vsock_spec::kTypeStream;
               header.op = virtio_vsock_spec::kOpRw;
               SpanMemory(rig.memory_bytes()).store(kBuffers, header);
               put(rig, kBuffers + sizeof header, "bytes");
               offer(rig, way, virtio_vsock_spec::kTxVq, {{{kBuffers, sizeof header + 5, false}}});
             },
         .after = after});
  }
  ipc::Request setting;
  setting.kind = ipc::RequestKind::kSetting;
  setting.offset = static_cast<std::uint64_t>(Setting::kBalloonTarget);
  const std::uint64_t target = 0x5000;
  std::memcpy(setting.payload, &target, sizeof target);
  add({.name = "virtio_balloon_target",
       .setup = balloon_setup,
       .before = driver_start({}, 0, 1, virtio_balloon_spec::kInflateq),
       .input = {posted(setting)},
       .after = {reads(0, kVirtioRegisters, kVirtioIsrOffset, 1), reads(0, kVirtioRegisters, kVirtioDeviceOffset, 4)}});
}

}  // namespace bulkhead::devproc
