// A virtqueue, split or packed, whose ring and whose committed state change at will. No crash and bounded work,
// whatever they hold; and as long as the driver is honest, each chain is used once, wherever the device process dies.
#include <deque>
#include <optional>

#include "devproc/models/virtio/queue.h"
#include "tests/fakes/fake_state.h"
#include "tests/fakes/vector_memory.h"
#include "tests/fakes/virtio_driver.h"
#include "tests/fuzz/fuzz_script.h"

namespace {

using namespace bulkhead::devproc;
using namespace bulkhead::devproc::virtio;
using bulkhead::fuzz::FuzzScript;
using bulkhead::fuzz::require;

constexpr GuestPhys kRings = 0x1000;
constexpr std::size_t kRam = 0x20000;

// Counts what the device does, and loses what a dead process writes.
class DeviceMemory final : public GuestMemory {
 public:
  explicit DeviceMemory(GuestMemory& ram) : ram_(ram) {}
  bool read(GuestPhys address, std::span<std::byte> out) override {
    ++accesses;
    return ram_.read(address, out);
  }
  bool write(GuestPhys address, std::span<const std::byte> in) override {
    ++accesses;
    return lost() || ram_.write(address, in);
  }
  std::optional<std::uint16_t> load_acquire(GuestPhys address) override {
    ++accesses;
    return ram_.load_acquire(address);
  }
  bool store_release(GuestPhys address, std::uint16_t value) override {
    ++accesses;
    return lost() || ram_.store_release(address, value);
  }

  std::uint64_t accesses = 0;
  std::uint64_t writes_left = UINT64_MAX;

 private:
  bool lost() {
    if (writes_left == 0) return true;
    --writes_left;
    return false;
  }

  GuestMemory& ram_;
};

class QueueFuzzer {
 public:
  explicit QueueFuzzer(FuzzScript& script)
      : script_(script), setup_(script.byte()), driver_(ram_, layout(setup_, script.byte())) {
    driver_.place(state_.mut());
    start();
    queue_->enable();
    require(queue_->usable(), "an honest queue cannot be enabled");
  }

  void run() {
    for (int i = 0; i < 2000 && !script_.empty(); ++i) {
      memory_.accesses = 0;
      step();
      require(memory_.accesses < 2U * kMaxQueueSize + 100, "unbounded work");
      require(state_->shown_count <= kMaxShown, "more is shown than there is room for");
      if (!honest_) continue;
      require(driver_.complaint().empty(), driver_.complaint().c_str());
      require(state_->faults == 0, "an honest driver broke the queue");
    }
  }

 private:
  static VirtioDriver::Layout layout(std::uint8_t setup, std::uint8_t size) {
    constexpr std::uint16_t kSplit[] = {1, 2, 8, 64};
    constexpr std::uint16_t kPacked[] = {1, 3, 7, 64};
    const bool packed = (setup & 1) != 0;
    return {.packed = packed,
            .event_idx = (setup & 4) != 0,
            .size = packed ? kPacked[size % 4] : kSplit[size % 4],
            .at = kRings};
  }
  void start() {
    memory_.writes_left = UINT64_MAX;
    queue_.emplace(state_, memory_);
    queue_->set_features(
        {.packed = (setup_ & 1) != 0, .indirect = (setup_ & 2) != 0, .event_idx = (setup_ & 4) != 0, .in_order = true});
  }

  void step() {
    switch (script_.byte() % 10) {
      case 0:
      case 1: add(); break;
      case 2: take_used(script_.byte() % 4U); break;
      case 3:
      case 4:
      case 5: input(script_.byte()); break;
      case 6:
        if (!queue_->has_more()) queue_->set_kicks((script_.byte() & 1) != 0);
        driver_.must_kick();
        break;
      case 7:
        if ((script_.byte() & 1) != 0)
          driver_.refuse_interrupts();
        else
          driver_.want_interrupts();
        break;
      case 8: corrupt_ring(); break;
      default: corrupt_state(); break;
    }
  }
  void add() {
    const std::uint8_t shape = script_.byte();
    std::array<VirtioDriver::Buffer, 4> buffers;
    const std::size_t count = 1 + shape % buffers.size();
    for (std::size_t i = 0; i < count; ++i) buffers[i] = {script_.number(2), 1U + script_.byte(), i + 1 == count};
    driver_.add(std::span(buffers).first(count), (shape & 0x80) != 0 && (setup_ & 2) != 0);
  }
  void take_used(unsigned limit) {
    for (; limit > 0; --limit) {
      const auto used = driver_.take_used();
      if (!used) return;
      if (!honest_) continue;
      require(!pushed_.empty() && pushed_.front() == used->id, "used out of order, twice, or never");
      require(used->written == used->id + 1U, "another length");
      pushed_.pop_front();
    }
  }

  // One input that takes some chains and uses them all; its show() may be cut.
  void input(std::uint8_t how) {
    queue_->begin();
    for (unsigned i = how % 8; i > 0 && queue_->room() != 0; --i) {
      Chain chain;
      const Pop pop = queue_->pop(chain);
      require(!honest_ || pop != Pop::kBroken, "an honest chain is refused");
      if (pop != Pop::kChain) break;
      check(chain);
      if ((how & 8) != 0 && queue_->fetch(chain.position, chain) != Pop::kChain) break;
      queue_->push({chain.id, chain.descriptors, chain.id + 1U});
      pushed_.push_back(chain.id);
    }
    if ((how & 0x30) == 0x30) {
      memory_.writes_left = how >> 6;
      queue_->show(false);
      take_used(8);
      add();
      start();
      restore();
      require(queue_->show(true) == (state_->enabled != 0 && state_->shown_count != 0) || !honest_,
              "a successor does not interrupt");
    } else {
      queue_->show(false);
    }
  }
  void check(const Chain& chain) {
    const std::size_t count = chain.readable.size() + chain.writable.size();
    require(count != 0 && count <= state_->size, "a chain of no length, or longer than the queue");
    std::uint64_t bytes = 0;
    for (const auto part : {chain.readable, chain.writable}) {
      for (const Segment& segment : part) {
        require(bulkhead::Range::make(segment.address, segment.length).has_value(), "a segment that cannot be");
        bytes += segment.length;
      }
    }
    require(bytes == chain.readable_bytes + chain.writable_bytes, "a wrong sum");
    read_segments(memory_, chain.readable.first(std::min<std::size_t>(chain.readable.size(), 1)), script_.byte(),
                  std::span(buffer_).first(script_.byte()));
  }
  void restore() {
    const QueueState before = state_.get();
    queue_->restore();
    require(!honest_ || std::memcmp(&before, &state_.get(), sizeof(before)) == 0, "an honest state does not stay");
    const QueueState once = state_.get();
    queue_->restore();
    require(std::memcmp(&once, &state_.get(), sizeof(once)) == 0, "restoring twice is not restoring once");
  }
  void corrupt_ring() {
    honest_ = false;
    for (unsigned i = script_.byte() % 8; i > 0; --i) {
      const GuestPhys at = kRings + script_.number(2) % driver_.bytes();
      ram_.store(at, script_.byte());
    }
  }
  void corrupt_state() {
    honest_ = false;
    const auto bytes = std::as_writable_bytes(std::span(&state_.mut(), 1));
    const std::size_t at = script_.number(2) % bytes.size();
    script_.fill(bytes.subspan(at, std::min<std::size_t>(bytes.size() - at, script_.byte() % 8U)));
    start();
    restore();
    queue_->show(true);
  }

  FuzzScript& script_;
  std::uint8_t setup_;
  VectorMemory ram_{kRam};
  DeviceMemory memory_{ram_};
  FakeStateAllocator allocator_;
  Persistent<QueueState> state_ = allocate_state<QueueState>(allocator_);
  VirtioDriver driver_;
  std::optional<VirtQueue> queue_;
  std::deque<std::uint16_t> pushed_;
  std::array<std::byte, 256> buffer_{};
  bool honest_ = true;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzScript script({data, size});
  QueueFuzzer(script).run();
  return 0;
}
