// Inputs of the virtio console, balloon and sockets.
#include "devproc/models/virtio/transport_spec.h"
#include "devproc/models/virtio_balloon/spec.h"
#include "devproc/models/virtio_console/spec.h"
#include "devproc/models/virtio_vsock/spec.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/faults/inputs.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio;

constexpr GuestPhys kRing = 0x1000;
constexpr GuestPhys kBuffers = 0x8000;

struct Way {
  bool packed = false;
  bool event_idx = false;
  bool msix = false;
};

VirtioDriver::Layout layout_of(const Way& way) {
  return {.packed = way.packed, .event_idx = way.event_idx, .at = kRing};
}

ipc::Request common(std::uint32_t offset, std::uint8_t size, std::uint64_t value) {
  return writes(0, kVirtioRegisters, kVirtioCommonOffset + offset, size, value);
}

// What a driver does before DRIVER_OK, of the one queue that the input is about.
std::vector<ipc::Request> driver_start(const Way& way, QueueId queue, std::uint64_t features) {
  features |= std::uint64_t{1} << kVirtioFVersion1;
  if (way.packed) features |= std::uint64_t{1} << kVirtioFRingPacked;
  if (way.event_idx) features |= std::uint64_t{1} << kVirtioFEventIdx;
  std::vector<std::byte> scratch(kRigMemory);
  SpanMemory memory(scratch);
  QueueState places{};
  VirtioDriver(memory, layout_of(way)).place(places);
  ipc::Request control;
  control.kind = ipc::RequestKind::kFunctionControl;
  const std::uint32_t bits = kControlMemoryEnable | kControlBusMaster | (way.msix ? kControlMsixEnable : 0U);
  std::memcpy(control.payload, &bits, sizeof bits);
  std::vector<ipc::Request> all{control,
                                common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver),
                                common(kDriverFeatureSelect, 4, 0),
                                common(kDriverFeature, 4, features & 0xffffffff),
                                common(kDriverFeatureSelect, 4, 1),
                                common(kDriverFeature, 4, features >> 32),
                                common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk),
                                common(kQueueSelect, 2, queue),
                                common(kQueueSize, 2, places.size)};
  for (const auto& [offset, value] : {std::pair(kQueueDesc, places.desc), std::pair(kQueueDriver, places.driver),
                                      std::pair(kQueueDevice, places.device)}) {
    all.push_back(common(offset, 4, value & 0xffffffff));
    all.push_back(common(offset + 4, 4, value >> 32));
  }
  if (way.msix) all.push_back(common(kQueueMsixVector, 2, queue + 1U));
  all.push_back(common(kQueueEnable, 2, 1));
  all.push_back(common(kDeviceStatus, 1, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk));
  return all;
}

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
  VirtioDriver driver(memory, layout_of(way));
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
         .before = driver_start(way, virtio_console_spec::kTransmitq, 0),
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
         .before = driver_start(way, virtio_console_spec::kReceiveq, 0),
         .input = {},
         .arrange =
             [way](RoleRig& rig) {
               rig.feed(0, "typed");
               offer(rig, way, virtio_console_spec::kReceiveq, {{{kBuffers, 3, true}}, {{kBuffers + 0x100, 8, true}}});
             },
         .after = after});
    add({.name = "virtio_balloon_inflate" + suffix,
         .setup = balloon_setup,
         .before = driver_start(way, virtio_balloon_spec::kInflateq, 0),
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
         .before = driver_start(way, virtio_vsock_spec::kTxVq, 0),
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
       .before = driver_start({}, virtio_balloon_spec::kInflateq, 0),
       .input = {posted(setting)},
       .after = {reads(0, kVirtioRegisters, kVirtioIsrOffset, 1), reads(0, kVirtioRegisters, kVirtioDeviceOffset, 4)}});
}

}  // namespace bulkhead::devproc
