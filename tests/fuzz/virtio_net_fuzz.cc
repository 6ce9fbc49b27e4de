// The network device with registers, rings, guest memory, incoming frames and committed state that change at will. No
// crash and bounded work, whatever they hold; restoring twice is restoring once; nothing is handed on that was not
// agreed on.
#include <cstring>
#include <memory>
#include <optional>
#include <random>

#include "devproc/models/virtio/transport_spec.h"
#include "devproc/models/virtio_net/virtio_net.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/fake_frames.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/fuzz/fuzz_script.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::devproc;
using namespace bulkhead::devproc::virtio;
using namespace bulkhead::devproc::virtio_net_spec;
using bulkhead::fuzz::FuzzScript;
using bulkhead::fuzz::require;

constexpr std::size_t kRam = 0x40000;
constexpr GuestPhys kRingArea = 0x2000;
constexpr std::uint16_t kPairs = 2;
constexpr std::uint16_t kQueues = 2 * kPairs + 1;

class NetFuzzer {
 public:
  explicit NetFuzzer(FuzzScript& script) : script_(script), fakes_({.lines = 1, .memory_bytes = kRam}) {
    build();
    device_->reset();
    device_->on_function_control(kControlMemoryEnable | kControlBusMaster);
    start();
  }

  void run() {
    for (int i = 0; i < 500 && !script_.empty(); ++i) {
      step();
      check();
    }
  }

 private:
  void build() {
    const VirtioNetConfig config{.nic = {.mac = {2, 0, 0, 0, 0, 1}}, .mtu = 1500, .queue_pairs = kPairs};
    FrameBackend* const frames[] = {&frames_[0], &frames_[1]};
    device_.emplace(transport_,
                    std::make_unique<VirtioNet>(net_, config, fakes_.memory, frames, fakes_.clock, fakes_.clock),
                    fakes_.lines[0], fakes_.msi, fakes_.memory);
  }
  void common(std::uint32_t offset, std::uint8_t size, std::uint64_t value) {
    device_->write({kVirtioRegisters, kVirtioCommonOffset + offset, size}, value);
  }
  // Features and layout by the script, all that is offered if it says so; every queue has an honest driver, for now.
  void start() {
    const std::uint8_t how = script_.byte();
    std::uint64_t features = (how & 1) != 0 ? UINT64_MAX : script_.number(8);
    for (std::uint32_t half = 0; half < 2; ++half) {
      common(kDeviceFeatureSelect, 4, half);
      const std::uint64_t offered = *device_->read({kVirtioRegisters, kVirtioCommonOffset + kDeviceFeature, 4});
      std::uint64_t mine = offered & features >> (32 * half);
      if (half == 1) mine = (mine & ~std::uint64_t{4}) | 1 | ((how & 2) != 0 ? 4 : 0);
      common(kDriverFeatureSelect, 4, half);
      common(kDriverFeature, 4, mine);
      features_ = half == 0 ? mine : features_ | mine << 32;
    }
    common(kDeviceStatus, 1, 0x0b);
    for (std::uint16_t i = 0; i < kQueues; ++i) {
      drivers_[i].emplace(fakes_.memory, VirtioDriver::Layout{.packed = (how & 2) != 0,
                                                              .event_idx = has_feature(features_, kVirtioFEventIdx),
                                                              .size = 8,
                                                              .at = kRingArea * (i + 1U)});
      QueueState places{};
      drivers_[i]->place(places);
      common(kQueueSelect, 2, i);
      common(kQueueSize, 2, 8);
      common(kQueueDesc, 4, places.desc);
      common(kQueueDriver, 4, places.driver);
      common(kQueueDevice, 4, places.device);
      common(kQueueEnable, 2, 1);
    }
    common(kDeviceStatus, 1, 0x0f);
  }

  void step() {
    const std::uint8_t what = script_.byte();
    const auto queue = static_cast<QueueId>(what / 16 % kQueues);
    const auto backend = static_cast<BackendId>(what / 16 % kPairs);
    switch (what % 16) {
      case 0:
      case 1:
      case 2: add(queue); break;
      case 3:
      case 4: until_done([&] { return device_->on_queue(queue); }); break;
      case 5:
      case 6: until_done([&] { return device_->on_backend(backend); }); break;
      case 7:
      case 8: feed(frames_[backend]); break;
      case 9:
        while (drivers_[queue]->take_used()) continue;
        break;
      case 10: frames_[backend].room = static_cast<std::int8_t>(script_.byte()); break;
      case 11: frames_[backend].link_up = (script_.byte() & 1) != 0; break;
      case 12: registers(); break;
      case 13: fakes_.memory.store(script_.number(3) % kRam, script_.number(4)); break;
      case 14: life(what >> 4); break;
      default: corrupt(); break;
    }
  }
  void add(QueueId queue) {
    const std::uint8_t shape = script_.byte();
    std::array<VirtioDriver::Buffer, 4> buffers;
    const std::size_t count = 1 + shape % buffers.size();
    const bool receive = queue % 2 == 0 && queue != kQueues - 1;
    const GuestPhys at = 0x10000 + 0x1000U * queue + script_.byte() * 16U;
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint32_t length = (shape & 0x40) != 0 ? static_cast<std::uint32_t>(script_.number(3)) : script_.byte();
      buffers[i] = {at + 64 * i, length + 1, receive || (queue == kQueues - 1 && i + 1 == count)};
    }
    std::array<std::byte, 48> content{};
    script_.fill(std::span(content).first(shape % 3 == 0 ? 48 : 14));
    fakes_.memory.write(at, content);
    drivers_[queue]->add(std::span(buffers).first(count), (shape & 0x80) != 0);
  }
  void feed(FakeFrames& wire) {
    const std::uint8_t shape = script_.byte();
    FakeFrames::Frame frame(shape < 0xf0 ? script_.byte() + 8U : script_.number(3) % (kMostFrame + 2));
    script_.fill(std::span(frame).first(std::min<std::size_t>(frame.size(), shape % 32U)));
    for (unsigned i = 0; i <= shape % 4U && wire.incoming.size() < 300; ++i) wire.incoming.push_back(frame);
  }
  void registers() {
    const auto offset = static_cast<std::uint32_t>(script_.number(2) % kVirtioRegistersSize);
    const std::uint8_t sizes = script_.byte();
    const auto size = static_cast<std::uint8_t>(1U << sizes % 3);
    const std::uint64_t at = (sizes & 0x80) != 0 ? offset : offset % 0x40 & ~(size - 1U);
    if (at + size > kVirtioRegistersSize) return;
    if ((sizes & 0x40) != 0)
      device_->write({kVirtioRegisters, at, size}, script_.number(size));
    else
      device_->read({kVirtioRegisters, at, size});
  }
  void life(unsigned which) {
    switch (which % 4) {
      case 0: device_->on_function_control(static_cast<std::uint32_t>(script_.number(2))); break;
      case 1:
        common(kDeviceStatus, 1, 0);
        start();
        break;
      case 2: device_->reset(); break;
      default:
        device_->on_function_control(kControlMemoryEnable | kControlBusMaster);
        succeed();
        break;
    }
  }
  void corrupt() {
    const std::size_t segment = script_.byte() % fakes_.state.count();
    const auto bytes = fakes_.state.bytes(segment);
    const std::uint8_t how = script_.byte();
    std::mt19937_64 random(script_.number(2));
    if ((how & 1) != 0) {
      for (std::byte& one : bytes) one = static_cast<std::byte>(random());
    } else {
      for (unsigned i = 0; i <= how / 32U; ++i) bytes[script_.number(2) % bytes.size()] = std::byte{script_.byte()};
    }
    succeed();
  }
  void succeed() {
    build();
    device_->restore();
    const auto once = fakes_.state.snapshot();
    device_->restore();
    require(fakes_.state.snapshot() == once, "restoring twice is not restoring once");
    if (device_->show(true, fakes_.msi)) device_->after_show();
  }
  // The ring is as long as it is, and so are the frames; a hostile index breaks the queue.
  template <class Input>
  void until_done(Input&& input) {
    for (int i = 0; input(); ++i) {
      show();
      require(i < 2000, "it never ends");
    }
    show();
  }
  void show() {
    if (device_->show(false, fakes_.msi)) device_->after_show();
  }
  void check() {
    const std::uint64_t agreed = net_.state->guest_offloads;
    require(net_.state->pairs >= 1 && net_.state->pairs <= kPairs, "pairs");
    for (FakeFrames& wire : frames_) {
      require(!wire.offloads.tso4 || has_feature(agreed, kNetFGuestTso4), "an offload that was not agreed on");
      for (const FakeFrames::Frame& frame : wire.sent) {
        require(frame.size() >= kFrameHeader + kEthernetHeader && frame.size() <= kMostFrame, "a frame's length");
        NetHdr header;
        std::memcpy(&header, frame.data(), sizeof(header));
        const std::size_t length = frame.size() - sizeof(header);
        require(header.num_buffers == 0 && header.hdr_len <= length, "a header that is not clean");
        if (header.flags != 0)
          require(header.flags == 1 && std::size_t{header.csum_start} + header.csum_offset + 2 <= length, "a checksum");
        else
          require(header.gso_type == 0 && header.csum_start == 0, "segmentation without a checksum");
      }
      wire.sent.clear();
      wire.consumed.clear();
    }
    fakes_.msi.sent.clear();
  }

  FuzzScript& script_;
  FakeWires fakes_;
  TransportStorage transport_ = TransportStorage::allocate(fakes_.state, kQueues);
  VirtioNetStorage net_ = VirtioNetStorage::allocate(fakes_.state);
  FakeFrames frames_[kPairs] = {FakeFrames(fakes_.memory), FakeFrames(fakes_.memory)};
  std::optional<VirtioPci> device_;
  std::optional<VirtioDriver> drivers_[kQueues];
  std::uint64_t features_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzScript script({data, size});
  NetFuzzer(script).run();
  return 0;
}
