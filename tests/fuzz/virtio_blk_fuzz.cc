// A virtio disk whose driver, disk and predecessor do what they like. No crash and bounded work, whatever registers,
// rings, memory and state hold; what the disk is asked for is well formed; nothing outlives a reset. And as long as
// ring and state are honest: each request is answered once, whenever the process dies.
#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio/transport_spec.h"
#include "devproc/models/virtio_blk/virtio_blk.h"
#include "tests/fakes/fake_block.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/fuzz/fuzz_script.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::devproc;
using namespace bulkhead::devproc::virtio;
using namespace bulkhead::devproc::virtio_blk_spec;
using bulkhead::fuzz::FuzzScript;
using bulkhead::fuzz::require;

constexpr std::size_t kRam = 0x20000;
constexpr GuestPhys kRings = 0x4000;
constexpr GuestPhys kData = 0x10000;
constexpr std::uint64_t kDiskBytes = 32 * 512;

class BlkFuzzer {
 public:
  explicit BlkFuzzer(FuzzScript& script)
      : script_(script),
        setup_(script.byte()),
        disk_(fakes_.memory, {.bytes = kDiskBytes,
                              .logical_block = (setup_ & 2) != 0 ? 1024U : 512U,
                              .read_only = (setup_ & 12) == 12,
                              .discard = (setup_ & 16) != 0,
                              .write_zeroes = true}) {
    fakes_.clock.set_now(VmTime{1'000'000});
    disk_.fate = [this](const BlockRequest& request) {
      return request.offset % 4096 == 3072 ? static_cast<BlockStatus>(1 + script_.byte() % 3) : BlockStatus::kOk;
    };
    build();
    device_->reset();
    device_->on_function_control(kControlMemoryEnable | kControlBusMaster);
    start_driver();
  }

  void run() {
    for (int i = 0; i < 2000 && !script_.empty(); ++i) {
      step();
      require(disk_.complaint.empty(), disk_.complaint.c_str());
      require(disk_.noted.size() + disk_.begun.size() <= BlockBackend::kMostInFlight, "too much in flight");
      if (honest_) require(driver_->complaint().empty(), driver_->complaint().c_str());
    }
    if (!honest_) return;
    for (int i = 0; i < 100; ++i) {
      device_->on_queue(0);
      commit();
      pass_time(1'000'000'000);
      while (disk_.run_one()) continue;
      device_->on_backend(0);
      commit();
      take_used(64);
    }
    require(driver_->in_flight() == 0, "a request without an answer");
  }

 private:
  [[nodiscard]] bool packed() const { return (setup_ & 1) != 0; }
  void build() {
    if (!blk_) {
      transport_ = TransportStorage::allocate(fakes_.state, queues());
      blk_ = VirtioBlkStorage::allocate(fakes_.state);
    }
    device_.emplace(
        *transport_,
        std::make_unique<VirtioBlk>(*blk_, config(), fakes_.memory, disk_, fakes_.clock, fakes_.clock, fakes_.effects),
        fakes_.lines[0], fakes_.msi, fakes_.memory);
  }
  // Bits 2 and 3 set together are a read-only disk; 3 alone stops when there is no space, 2 alone has a limit.
  [[nodiscard]] VirtioBlkConfig config() const {
    VirtioBlkConfig made{.queues = queues(), .serial = "serial"};
    made.stop_on_no_space = (setup_ & 12) == 8;
    if ((setup_ & 12) == 4)
      made.limit = {.bytes_per_second = 4096, .bytes_burst = 1024, .operations_per_second = 10, .operations_burst = 3};
    return made;
  }
  [[nodiscard]] std::uint16_t queues() const { return static_cast<std::uint16_t>(1 + (setup_ >> 6)); }
  void set_common(std::uint32_t offset, std::uint8_t size, std::uint32_t value) {
    device_->write({kVirtioRegisters, kVirtioCommonOffset + offset, size}, value);
    commit();
  }
  std::uint64_t status() { return *device_->read({kVirtioRegisters, kVirtioCommonOffset + kDeviceStatus, 1}); }
  void start_driver() {
    const std::uint64_t features = feature_bit(kVirtioFVersion1) | feature_bit(kVirtioFIndirectDesc) |
                                   (packed() ? feature_bit(kVirtioFRingPacked) : 0) |
                                   ((setup_ & 32) != 0 ? feature_bit(kVirtioBlkFFlush) : 0);
    for (std::uint32_t half = 0; half < 2; ++half) {
      set_common(kDriverFeatureSelect, 4, half);
      set_common(kDriverFeature, 4, static_cast<std::uint32_t>(features >> (32 * half)));
    }
    constexpr std::uint8_t kSoFar = kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk;
    set_common(kDeviceStatus, 1, kSoFar);
    driver_.emplace(fakes_.memory, VirtioDriver::Layout{.packed = packed(), .size = 16, .at = kRings});
    QueueState places{};
    driver_->place(places);
    set_common(kQueueSelect, 2, 0);
    set_common(kQueueSize, 2, 16);
    set_common(kQueueDesc, 4, static_cast<std::uint32_t>(places.desc));
    set_common(kQueueDriver, 4, static_cast<std::uint32_t>(places.driver));
    set_common(kQueueDevice, 4, static_cast<std::uint32_t>(places.device));
    set_common(kQueueEnable, 2, 1);
    set_common(kDeviceStatus, 1, kSoFar | kStatusDriverOk);
    busy_.clear();
    honest_ = true;
  }
  void commit() {
    fakes_.state.reset_dirty();
    committed_ = fakes_.state.snapshot();
    disk_.commit();
    if (device_->show(false, fakes_.msi)) {
      device_->after_show();
      fakes_.state.reset_dirty();
      committed_ = fakes_.state.snapshot();
    }
    fakes_.msi.sent.clear();
  }

  void step() {
    switch (script_.byte() % 16) {
      case 0:
      case 1:
      case 2: add(); break;
      case 3:
      case 4:
        device_->on_queue(static_cast<QueueId>(script_.byte() % queues()));
        end_input();
        break;
      case 5:
      case 6: run_disk(script_.byte()); break;
      case 7:
        device_->on_backend(0);
        end_input();
        break;
      case 8: take_used(script_.byte() % 4U); break;
      case 9: reset(); break;
      case 10: corrupt_ring(); break;
      case 11: corrupt_state(); break;
      case 12:
        // Completions of nothing, or told before time: an honest disk does neither.
        honest_ = false;
        disk_.done.push_back({static_cast<std::uint32_t>(script_.number(4)), BlockStatus::kOk});
        break;
      case 13: write_register(); break;
      case 14: read_register(); break;
      default:
        if (script_.byte() % 2 == 0) return add_mess();
        pass_time(std::int64_t{script_.byte()} * 1'000'000);
        if (script_.byte() % 4 == 0)
          device_->on_limit(kDiskLimit, {script_.number(2), script_.number(2), RateLimit::kUnchanged, 7});
        end_input();
        break;
    }
  }
  // One timer at most: each is an input of its own.
  void pass_time(std::int64_t ns) {
    fakes_.clock.set_now(VmTime{fakes_.clock.now().ns + ns});
    for (const TimerId timer : {VirtioBlk::kRetryTimer, VirtioBlk::kLimitTimer}) {
      if (!fakes_.clock.deadline(timer) || *fakes_.clock.deadline(timer) > fakes_.clock.now()) continue;
      fakes_.clock.cancel(timer);
      device_->on_timer(timer);
      commit();
    }
  }
  // What is committed, or the death of the process before or after that.
  void end_input() {
    const std::uint8_t how = script_.byte();
    if (how % 8 >= 3) return commit();
    if (how % 8 == 1) commit();
    if (how % 8 == 2) committed_ = fakes_.state.snapshot();  // and the disk has not heard of it
    disk_.die();
    std::size_t at = 0;
    for (std::size_t i = 0; i < fakes_.state.count(); ++i) {
      const auto segment = fakes_.state.bytes(i);
      std::memcpy(segment.data(), committed_.data() + at, segment.size());
      at += segment.size();
    }
    build();
    restore();
  }
  void restore() {
    const auto before = fakes_.state.snapshot();
    device_->restore();
    const auto once = fakes_.state.snapshot();
    require(!honest_ || once == before, "an honest state does not stay");
    device_->restore();
    require(fakes_.state.snapshot() == once, "restoring twice is not restoring once");
    (void)device_->show(true, fakes_.msi);
    fakes_.state.reset_dirty();
    committed_ = fakes_.state.snapshot();
    disk_.commit();
  }
  void add() {
    // Headers of requests in flight stay as they are; there are more places than descriptors.
    std::uint16_t place = 0;
    while (busy_.contains(place)) ++place;
    const GuestPhys at = kData + 64 * place;
    const std::uint8_t type = script_.byte();
    fakes_.memory.store(at, VirtioBlkHeader{type % 16U, 0, script_.byte() % 40U});
    if (type % 16 == kVirtioBlkTDiscard || type % 16 == kVirtioBlkTWriteZeroes)
      fakes_.memory.store(at + 16, VirtioBlkRange{script_.byte() % 40U, script_.byte() % 8U, script_.byte() % 4U});
    const std::uint8_t shape = script_.byte();
    const auto length = static_cast<std::uint32_t>(512 * (shape % 4) + (shape >= 0xf0 ? 16 : 0));
    // Data lies where no header does: what an honest driver reads into is no request.
    const GuestPhys data = 0x18000 + 64 * script_.byte();
    std::vector<VirtioDriver::Buffer> buffers = {{at, (shape & 4) != 0 ? 16U : 32U, false}};
    if (length != 0) buffers.push_back({data, length, type % 16 == 0 || type % 16 == 8});
    buffers.push_back({0x1f000 + 16U * place, 1, true});
    if (const auto id = driver_->add(buffers, (shape & 8) != 0)) busy_[place] = *id;
  }
  // Anything as a chain: without a place for the status, outside RAM, over other requests.
  void add_mess() {
    honest_ = false;
    std::vector<VirtioDriver::Buffer> buffers(1 + script_.byte() % 4U);
    for (auto& buffer : buffers)
      buffer = {kData + script_.number(2), 1U + script_.byte() * (script_.byte() % 4U), (script_.byte() & 1) != 0};
    std::stable_partition(buffers.begin(), buffers.end(), [](const auto& buffer) { return !buffer.writable; });
    driver_->add(buffers, (script_.byte() & 1) != 0);
  }
  void run_disk(std::uint8_t how) {
    disk_.random.seed(how);
    for (unsigned i = how % 4; i > 0; --i) disk_.run_one(static_cast<FakeBlock::Order>(how / 4 % 3));
  }
  void take_used(unsigned limit) {
    for (; limit > 0; --limit) {
      const auto used = driver_->take_used();
      if (!used) return;
      std::erase_if(busy_, [&](const auto& entry) { return entry.second == used->id; });
    }
  }
  void reset() {
    set_common(kDeviceStatus, 1, 0);
    // A hostile state may have lost a record, and with it what there was to cancel.
    require(!honest_ || disk_.noted.empty(), "what a reset has given up begins after it");
    require(!honest_ || disk_.begun.empty() == (status() == 0), "the reset is over before I/O is, or after it");
    if (status() != 0) set_common(kDeviceStatus, 1, kStatusAcknowledge);
    disk_.run();
    for (int i = 0; i < 10; ++i) {
      device_->on_backend(0);
      commit();
    }
    disk_.done.clear();  // made up, if anything
    require(status() == 0, "a reset that is never over");
    device_->on_function_control(kControlMemoryEnable | kControlBusMaster);
    commit();
    start_driver();
  }
  void corrupt_ring() {
    honest_ = false;
    for (unsigned i = script_.byte() % 8; i > 0; --i)
      fakes_.memory.store(kRings + script_.number(2) % driver_->bytes(), script_.byte());
  }
  void corrupt_state() {
    honest_ = false;
    for (unsigned i = script_.byte() % 4; i > 0; --i) {
      const auto bytes = fakes_.state.bytes(script_.byte() % fakes_.state.count());
      const std::size_t at = script_.number(2) % bytes.size();
      script_.fill(bytes.subspan(at, std::min<std::size_t>(bytes.size() - at, script_.byte() % 40U)));
    }
    build();
    restore();
  }
  void write_register() {
    honest_ = false;
    const bool common = (script_.byte() & 1) != 0;
    const std::uint64_t offset = (common ? kVirtioCommonOffset : kVirtioDeviceOffset) + script_.byte() % 60U;
    const auto size = static_cast<std::uint8_t>(1U << script_.byte() % 3);
    device_->write({kVirtioRegisters, offset, size}, script_.number(size));
    end_input();
  }
  void read_register() {
    const auto size = static_cast<std::uint8_t>(1U << script_.byte() % 3);
    const auto value = device_->read({kVirtioRegisters, script_.number(2) % (kVirtioRegistersSize - size + 1), size});
    require(!value || (*value & ~all_ones(size)) == 0, "an answer is wider than its access");
    commit();
  }

  FuzzScript& script_;
  std::uint8_t setup_;
  FakeWires fakes_{{.lines = 1, .memory_bytes = kRam}};
  FakeBlock disk_;
  std::optional<TransportStorage> transport_;
  std::optional<VirtioBlkStorage> blk_;
  std::optional<VirtioPci> device_;
  std::optional<VirtioDriver> driver_;
  std::vector<std::byte> committed_;
  std::map<std::uint16_t, std::uint16_t> busy_;  // places of headers, and their chains
  bool honest_ = true;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzScript script({data, size});
  BlkFuzzer(script).run();
  return 0;
}
