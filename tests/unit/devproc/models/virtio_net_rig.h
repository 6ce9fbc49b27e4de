// A network device between an honest driver and scripted backends.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "devproc/models/virtio/transport_spec.h"
#include "devproc/models/virtio_net/virtio_net.h"
#include "ipc/roles/virtio_decl.h"
#include "tests/fakes/fake_frames.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/unit/devproc/models/virtio_queue_rig.h"

namespace bulkhead::devproc {

using namespace virtio;           // NOLINT: tests speak the specification's words
using namespace virtio_net_spec;  // NOLINT

using Frame = FakeFrames::Frame;

inline constexpr MacAddress kMac{0x52, 0x54, 0, 1, 2, 3};

template <class T>
Frame bytes_of(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}
template <class... Part>
Frame joined(const Part&... parts) {
  Frame all;
  all.reserve((std::size(parts) + ...));
  (std::copy(std::begin(parts), std::end(parts), std::back_inserter(all)), ...);
  return all;
}
// An Ethernet frame of `length` bytes to `to`, without a header; its content depends on `number`.
inline Frame ethernet(std::size_t length, std::uint32_t number = 1, const MacAddress& to = kMac) {
  Frame frame(length);
  for (std::size_t i = 0; i < length; ++i) frame[i] = static_cast<std::byte>(number * 31 + i * 7 + i / 251);
  std::memcpy(frame.data(), to.data(), std::min(length, to.size()));
  if (length >= 14) frame[12] = frame[13] = std::byte{0};
  if (length >= 18) std::memcpy(frame.data() + 14, &number, sizeof(number));
  return frame;
}
inline Frame with_header(const Frame& frame, const NetHdr& header = {}) { return joined(bytes_of(header), frame); }

struct NetSetup {
  bool packed = false;
  bool event_idx = false;
  bool in_order = false;
  bool indirect = false;
  bool mergeable = false;
  std::uint16_t size = 16;
  std::uint64_t more_features = 0;
  std::uint16_t pairs = 1;
};
inline std::ostream& operator<<(std::ostream& out, const NetSetup& s) {
  return out << (s.packed ? "packed" : "split") << (s.event_idx ? ", event idx" : "")
             << (s.in_order ? ", in order" : "") << (s.indirect ? ", indirect" : "")
             << (s.mergeable ? ", mergeable" : "") << ", size " << s.size << ", " << s.pairs << " pairs";
}

class RecordingInspector final : public Inspector {
 public:
  void field(std::string_view name, std::uint64_t value) override { fields[std::string(name)] = value; }
  std::map<std::string, std::uint64_t> fields;
};
class RecordingMessages final : public MsiSender {
 public:
  void send(std::uint16_t vector) override { sent.push_back(vector); }
  std::vector<std::uint16_t> sent;
};

class NetRig {
 public:
  static constexpr GuestPhys kRingArea = 0x8000;  // of each queue
  static constexpr GuestPhys kBufferBase = 0x80000;
  static constexpr std::uint16_t kMostQueues = 9;

  explicit NetRig(std::uint16_t pairs = 1)
      : fakes({.lines = 1, .memory_bytes = 8 * 1024 * 1024}),
        memory(fakes.memory),
        config{.nic = {.mac = kMac}, .mtu = 1500, .queue_pairs = pairs} {
    for (std::uint16_t i = 0; i < pairs; ++i) frames.push_back(std::make_unique<FakeFrames>(fakes.memory));
    transport_.emplace(TransportStorage::allocate(fakes.state, static_cast<std::uint16_t>(2 * pairs + 1)));
    net_.emplace(VirtioNetStorage::allocate(fakes.state));
    build();
    device->reset();
    device->on_function_control(kControlMemoryEnable | kControlBusMaster);
  }
  // The device process, or its successor on the same state.
  void build() {
    std::vector<FrameBackend*> pointers;
    for (const auto& one : frames) pointers.push_back(one.get());
    device.emplace(*transport_, std::make_unique<VirtioNet>(*net_, config, memory, pointers, fakes.clock, fakes.clock),
                   fakes.lines[0], fakes.msi, memory);
  }

  std::uint32_t common(std::uint32_t offset, std::uint8_t size) {
    return static_cast<std::uint32_t>(device->read({kVirtioRegisters, kVirtioCommonOffset + offset, size}).value());
  }
  void set_common(std::uint32_t offset, std::uint8_t size, std::uint32_t value) {
    EXPECT_TRUE(device->write({kVirtioRegisters, kVirtioCommonOffset + offset, size}, value));
  }
  std::uint64_t config_field(std::uint32_t offset, std::uint8_t size) {
    return device->read({kVirtioRegisters, kVirtioDeviceOffset + offset, size}).value();
  }
  std::uint64_t offered() {
    std::uint64_t all = 0;
    for (std::uint32_t half = 0; half < 2; ++half) {
      set_common(kDeviceFeatureSelect, 4, half);
      all |= std::uint64_t{common(kDeviceFeature, 4)} << (32 * half);
    }
    return all;
  }
  // Up to DRIVER_OK. All queues that the features give have drivers.
  void start(const NetSetup& with) {
    setup = with;
    features =
        feature_bit(kVirtioFVersion1) | with.more_features | (with.packed ? feature_bit(kVirtioFRingPacked) : 0) |
        (with.event_idx ? feature_bit(kVirtioFEventIdx) : 0) | (with.in_order ? feature_bit(kVirtioFInOrder) : 0) |
        (with.indirect ? feature_bit(kVirtioFIndirectDesc) : 0) | (with.mergeable ? feature_bit(kNetFMrgRxbuf) : 0);
    std::uint32_t status = 0;
    for (const std::uint32_t bit : {0U, 0U + kStatusAcknowledge, 0U + kStatusDriver})
      set_common(kDeviceStatus, 1, status |= bit);
    for (std::uint32_t half = 0; half < 2; ++half) {
      set_common(kDriverFeatureSelect, 4, half);
      set_common(kDriverFeature, 4, static_cast<std::uint32_t>(features >> (32 * half)));
    }
    set_common(kDeviceStatus, 1, status |= kStatusFeaturesOk);
    ASSERT_EQ(common(kDeviceStatus, 1), status);
    drivers.clear();
    for (std::uint16_t i = 0; i < queues(); ++i) enable(i);
    set_common(kDeviceStatus, 1, status |= kStatusDriverOk);
  }
  [[nodiscard]] std::uint16_t queues() const {
    const bool mq = has_feature(features, kNetFMq);
    return static_cast<std::uint16_t>((mq ? 2 * frames.size() : 2) + (has_feature(features, kNetFCtrlVq) ? 1 : 0));
  }
  [[nodiscard]] std::uint16_t control_queue() const { return static_cast<std::uint16_t>(queues() - 1); }
  void enable(std::uint16_t queue) {
    drivers.push_back(std::make_unique<VirtioDriver>(
        fakes.memory,
        VirtioDriver::Layout{
            .packed = setup.packed, .event_idx = setup.event_idx, .size = setup.size, .at = kRingArea * (1U + queue)}));
    QueueState places{};
    drivers.back()->place(places);
    set_common(kQueueSelect, 2, queue);
    set_common(kQueueSize, 2, setup.size);
    set_common(kQueueMsixVector, 2, queue + 1U);
    for (const auto& [offset, value] : {std::pair(kQueueDesc, places.desc), std::pair(kQueueDriver, places.driver),
                                        std::pair(kQueueDevice, places.device)}) {
      set_common(offset, 4, static_cast<std::uint32_t>(value));
      set_common(offset + 4, 4, static_cast<std::uint32_t>(value >> 32));
    }
    set_common(kQueueEnable, 2, 1);
  }

  // What the host does, until nothing is left.
  void kick(std::uint16_t queue) {
    until_done([&] { return device->on_queue(queue); });
  }
  void wake(std::uint16_t backend) {
    until_done([&] { return device->on_backend(backend); });
  }
  template <class Input>
  void until_done(Input&& input) {
    for (int i = 0; input(); ++i) {
      show();
      ASSERT_LT(i, 1000) << "it never ends";
    }
    show();
  }
  void show() {
    if (device->show(false, messages)) device->after_show();
  }
  void put(std::uint16_t backend, const Frame& frame) {
    frames[backend]->incoming.push_back(frame);
    wake(backend);
  }

  // Writes `bytes` to memory, cut into pieces of these lengths (the last one is what is left), and makes them a chain.
  std::optional<std::uint16_t> add_readable(std::uint16_t queue, const Frame& bytes,
                                            std::initializer_list<std::size_t> pieces = {}, bool indirect = false) {
    Buffers buffers;
    std::size_t at = 0;
    const auto piece = [&](std::size_t length) {
      const GuestPhys where = take_memory(length);
      fakes.memory.write(where, std::span(bytes).subspan(at, length));
      buffers.push_back({where, static_cast<std::uint32_t>(length), false});
      at += length;
    };
    for (const std::size_t length : pieces) piece(length);
    if (at < bytes.size()) piece(bytes.size() - at);
    return drivers[queue]->add(buffers, indirect);
  }
  bool send(const Frame& frame, std::initializer_list<std::size_t> pieces = {}, bool indirect = false) {
    const bool added = add_readable(1, frame, pieces, indirect).has_value();
    kick(1);
    return added && drivers[1]->take_used().has_value();
  }
  // Receive buffers of one queue, each cut into these lengths.
  void add_buffer(std::initializer_list<std::size_t> lengths, std::uint16_t queue = 0) {
    Buffers buffers;
    for (const std::size_t length : lengths)
      buffers.push_back({take_memory(length), static_cast<std::uint32_t>(length), true});
    const auto id = drivers[queue]->add(buffers);
    ASSERT_TRUE(id);
    received_into[queue][*id] = buffers;
  }
  // The next chain that the device used, as far as it was written.
  std::optional<Frame> take_chain(std::uint16_t queue = 0) {
    const auto used = drivers[queue]->take_used();
    if (!used) return std::nullopt;
    Frame all;
    for (const auto& buffer : received_into[queue].at(used->id)) {
      const std::size_t at = all.size();
      const std::size_t here = std::min<std::size_t>(buffer.length, used->written - at);
      all.resize(at + here);
      EXPECT_TRUE(fakes.memory.read(buffer.address, std::span(all).subspan(at)));
    }
    EXPECT_EQ(all.size(), used->written);
    return all;
  }
  // The next frame, put together of as many chains as its header says, which is checked and kept.
  std::optional<Frame> take_frame(std::uint16_t queue = 0) {
    auto frame = take_chain(queue);
    if (!frame) return frame;
    last_chains = 1;
    if (frame->size() < sizeof(NetHdr)) {
      ADD_FAILURE() << "no header";
      return frame;
    }
    std::memcpy(&last_header, frame->data(), sizeof(NetHdr));
    for (; last_chains < last_header.num_buffers; ++last_chains) {
      const auto more = take_chain(queue);
      if (!more) {
        ADD_FAILURE() << "a frame is not whole";
        break;
      }
      frame->insert(frame->end(), more->begin(), more->end());
    }
    frame->erase(frame->begin(), frame->begin() + sizeof(NetHdr));
    return frame;
  }
  // The device's answer; nothing: it wrote none.
  std::optional<std::uint8_t> command(std::uint8_t its_class, std::uint8_t number, const Frame& data,
                                      std::size_t split = 2) {
    const std::byte head[] = {static_cast<std::byte>(its_class), static_cast<std::byte>(number)};
    return raw_command(joined(head, data), split);
  }
  std::optional<std::uint8_t> raw_command(const Frame& bytes, std::size_t split = 2) {
    Buffers buffers;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t here = std::min(at == 0 ? split : bytes.size(), bytes.size() - at);
      const GuestPhys where = take_memory(here);
      fakes.memory.write(where, std::span(bytes).subspan(at, here));
      buffers.push_back({where, static_cast<std::uint32_t>(here), false});
      at += here;
    }
    const GuestPhys ack = take_memory(1);
    fakes.memory.store(ack, std::uint8_t{0x55});
    buffers.push_back({ack, 1, true});
    EXPECT_TRUE(drivers[control_queue()]->add(buffers));
    kick(control_queue());
    const auto used = drivers[control_queue()]->take_used();
    if (!used || used->written != 1) return std::nullopt;
    return fakes.memory.load<std::uint8_t>(ack);
  }
  std::uint64_t counter(const std::string& name) {
    RecordingInspector inspector;
    device->inspect(inspector);
    EXPECT_TRUE(inspector.fields.contains(name)) << name;
    return inspector.fields[name];
  }
  // Dies and is followed; what it committed was shown.
  void restart() {
    const auto before = fakes.state.snapshot();
    build();
    device->restore();
    EXPECT_EQ(fakes.state.snapshot(), before) << "an honest state stays as it is";
  }
  // Memory that nobody uses, again and again: a test never has as much in flight.
  GuestPhys take_memory(std::size_t length) {
    if (next_memory_ + length > fakes.memory.bytes.size()) next_memory_ = kBufferBase;
    return std::exchange(next_memory_, next_memory_ + length + 3);
  }

  FakeWires fakes;
  WatchedMemory memory;  // as the device sees it
  VirtioNetConfig config;
  std::vector<std::unique_ptr<FakeFrames>> frames;
  std::optional<VirtioPci> device;
  std::vector<std::unique_ptr<VirtioDriver>> drivers;
  RecordingMessages messages;
  NetSetup setup;
  std::uint64_t features = 0;
  std::map<std::uint16_t, std::map<std::uint16_t, Buffers>> received_into;
  NetHdr last_header;
  std::uint16_t last_chains = 0;

 private:
  std::optional<TransportStorage> transport_;
  std::optional<VirtioNetStorage> net_;
  GuestPhys next_memory_ = kBufferBase;
};

}  // namespace bulkhead::devproc
