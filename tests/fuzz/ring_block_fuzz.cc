// A disk on an io_uring, one process after the other, on ring memory and notes that each may leave as it likes, with a
// kernel that answers what it likes. No crash, every call ends, and who has nothing to do sleeps. What is told was
// asked for. And as long as everybody is honest: each request is told once, as done, and is never under way twice,
// whenever its process dies.
#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "devproc/backends/ring_block.h"
#include "tests/fakes/fake_ring.h"
#include "tests/fuzz/fuzz_script.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::devproc;
using bulkhead::fuzz::FuzzScript;
using bulkhead::fuzz::require;

constexpr std::size_t kPiece = 64 << 10;
constexpr std::size_t kDiskBytes = 256 << 10;
constexpr std::uint32_t kBlock = 512;
constexpr std::uint32_t kSlots = 6;

// Two pieces of RAM that adjoin for the guest, but not here.
class Ram final : public GuestRanges {
 public:
  std::span<std::byte> host_range(GuestPhys address, std::uint64_t length) override {
    const std::uint64_t piece = address / kPiece;
    if (piece >= pieces_.size()) return {};
    const std::uint64_t at = address % kPiece;
    return std::span(pieces_[piece]).subspan(at, std::min<std::uint64_t>(length, kPiece - at));
  }
  [[nodiscard]] bool owns(const iovec& what) const {
    const auto* const at = static_cast<const std::byte*>(what.iov_base);
    return std::ranges::any_of(pieces_, [at](const auto& one) { return at >= one.data() && at < one.data() + kPiece; });
  }

 private:
  std::array<std::vector<std::byte>, 2> pieces_{std::vector<std::byte>(kPiece), std::vector<std::byte>(kPiece)};
};

struct Death {};

class RingFuzzer {
 public:
  explicit RingFuzzer(FuzzScript& script)
      : script_(script),
        geometry_{.bytes = kDiskBytes,
                  .memory_align = (script.byte() & 1) != 0 ? kBlock : 1,
                  .discard = true,
                  .write_zeroes = true,
                  .ring = true},
        ring_(disk_, 8U << script.byte() % 6) {
    if ((script.byte() & 1) != 0) ring_.allocate_with = EOPNOTSUPP;
  }

  void run() {
    if (!begin_process(false)) return require(false, "a new ring is refused");
    for (int i = 0; i < 1000 && !script_.empty(); ++i) {
      if (!step()) return;
      check_kernel();
    }
    ring_.refuse_with = 0;
    ring_.most_at_once = UINT32_MAX;
    settle();
    require(!honest_ || working_.empty(), "a request that is never over");
  }

 private:
  struct Asked {
    BlockRequest what;
    std::vector<Segment> memory;
    bool cancelled = false;
  };
  using Model = std::map<std::uint32_t, Asked>;  // by tag: what is in flight

  // False: it could not take over.
  bool begin_process(bool resumed) {
    block_.reset();
    bury();
    ring_.refuse_with = 0;  // Linux has no reason to, while there is nothing to be taken
    auto made = RingBlock::create(ring_.ring(), {}, notes_, geometry_, ram_);
    if (!made) {
      require(!honest_, "an honest ring is refused");
      return false;
    }
    block_ = std::move(*made);
    block_->start(resumed);
    working_ = committed_;
    // What was given up is waited for, if it is under way, and else forgotten.
    std::erase_if(working_, [this](const auto& one) { return one.second.cancelled && !block_->cancel(one.first); });
    for (const auto& [tag, asked] : working_) {
      if (!asked.cancelled) submit(asked);
    }
    return true;
  }
  // What the kernel reads and writes in a dead process's memory, nobody sees.
  void bury() {
    for (FakeRing::Taken& one : ring_.taken) {
      for (iovec& piece : one.pieces) {
        if (!ram_.owns(piece)) piece.iov_base = grave_.data();
      }
    }
  }
  void submit(const Asked& asked) {
    BlockRequest request = asked.what;
    request.memory = asked.memory;
    require(block_->submit(request), "a request is refused that nothing is wrong with");
  }
  void check_kernel() {
    if (!honest_) return;
    std::set<std::uint32_t> tags;
    for (const FakeRing::Taken& one : ring_.taken)
      require(tags.insert(static_cast<std::uint32_t>(one.entry.user_data)).second, "a request is under way twice");
  }

  // False: it is over.
  bool step() {
    switch (script_.byte() % 16) {
      case 0:
      case 1:
      case 2: ask(); return true;
      case 3:
      case 4: return commit();
      case 5:
      case 6: complete(); return true;
      case 7: perform(); return true;
      case 8: cancel(); return true;
      case 9: return begin_process(true);  // not committed
      case 10:
        committed_ = working_;  // and the ring has not heard of it
        return begin_process(true);
      case 11: return die_in_the_kernel();
      case 12: return leave_a_mess();
      case 13: lie(); return true;
      case 14:
        ring_.refuse_with = (script_.byte() & 1) != 0 ? EAGAIN : 0;
        ring_.most_at_once = script_.byte() % 3U + 1;
        return true;
      default: settle(); return true;
    }
  }
  void ask() {
    const std::uint32_t slot = script_.byte() % kSlots;
    const auto busy = [slot](const auto& one) { return (one.first & 0xffff) == slot; };
    if (std::ranges::any_of(working_, busy)) return;
    Asked asked;
    asked.what = {.tag = ++generation_ << 16 | slot,
                  .op = static_cast<BlockOp>(script_.byte() % 5),
                  .unmap = (script_.byte() & 1) != 0,
                  .stable = (script_.byte() & 1) != 0,
                  .offset = std::uint64_t{script_.byte()} * kBlock};
    const bool moves = asked.what.op == BlockOp::kRead || asked.what.op == BlockOp::kWrite;
    for (unsigned i = moves ? script_.byte() % 4U + 1 : 0; i > 0; --i) {
      // Some of it aligned, some across the pieces, some behind them.
      const std::uint64_t at = std::uint64_t{script_.byte()} * (kBlock + (script_.byte() % 16 == 0 ? 1 : 0));
      const std::uint32_t length = kBlock * (script_.byte() % 8U + 1);
      asked.memory.push_back({at + (script_.byte() % 16 == 0 ? kPiece : 0), length});
      asked.what.length += length;
    }
    if (!moves && asked.what.op != BlockOp::kFlush) asked.what.length = kBlock * (script_.byte() + 1U);
    asked.what.length = std::min<std::uint64_t>(asked.what.length, kDiskBytes - asked.what.offset);
    if (generation_ == 0xffff) generation_ = 0;
    submit(working_[asked.what.tag] = asked);
  }
  bool commit() {
    committed_ = working_;
    block_->begin();
    return true;
  }
  void complete() {
    const auto one = block_->complete();
    if (!one) return;
    const auto at = working_.find(one->tag);
    require(at != working_.end() || !honest_, "what nobody asked for is told");
    if (at == working_.end()) return;
    // What is not RAM is refused; a flush or a transfer that the kernel lied of fails.
    require(!honest_ || one->status == BlockStatus::kOk || may_fail(at->second),
            "a request fails that nothing is wrong with");
    working_.erase(at);
  }
  [[nodiscard]] bool may_fail(const Asked& asked) const {
    const bool unable = asked.what.op == BlockOp::kDiscard && ring_.allocate_with != 0;
    const auto outside = [](const Segment& one) { return one.address + one.length > 2 * kPiece; };
    return asked.cancelled || unable || std::ranges::any_of(asked.memory, outside);
  }
  void perform() {
    if (ring_.taken.empty()) return;
    const std::uint8_t how = script_.byte();
    ring_.perform(how % ring_.taken.size(), how >= 0xc0 ? kBlock : SIZE_MAX);
  }
  void cancel() {
    if (working_.empty() || (script_.byte() & 7) == 0) return hostile_cancel();
    auto at = working_.begin();
    std::advance(at, script_.byte() % working_.size());
    if (block_->cancel(at->first)) {
      at->second.cancelled = true;
    } else {
      require(!honest_ || !at->second.cancelled, "what is cancelled is forgotten");
      working_.erase(at);
    }
  }
  // No model does that.
  void hostile_cancel() {
    honest_ = false;
    (void)block_->cancel(static_cast<std::uint32_t>(script_.number(3)));
  }
  bool die_in_the_kernel() {
    committed_ = working_;
    const auto die = [] { throw Death{}; };
    ((script_.byte() & 1) != 0 ? ring_.before_enter : ring_.after_enter) = die;
    try {
      block_->begin();
    } catch (const Death&) {
    }
    ring_.before_enter = ring_.after_enter = nullptr;
    return begin_process(true);
  }

  void lie() {
    honest_ = false;
    const auto result = static_cast<std::int32_t>(script_.number(4));
    if (!ring_.taken.empty() && (script_.byte() & 1) != 0)
      return ring_.post(script_.byte() % ring_.taken.size(), result >> script_.byte() % 32);
    for (unsigned i = script_.byte() % 64U; i > 0; --i) ring_.post_result({any_user_data(), result, 0});
  }
  std::uint64_t any_user_data() {
    const std::uint32_t position = ring_.word(ring_.params().sq_off.head).load() + script_.byte() % 8U - 4;
    const std::uint32_t tag = (generation_ + script_.byte() % 4U - 2) << 16 | script_.byte() % (kSlots + 1U);
    return std::uint64_t{position} << 32 | tag;
  }
  // A hostile process writes where it can, and is no more.
  bool leave_a_mess() {
    honest_ = false;
    const io_uring_params& at = ring_.params();
    for (unsigned i = script_.byte() % 16U; i > 0; --i) {
      const std::array words = {at.sq_off.head,  at.sq_off.tail,
                                at.cq_off.head,  at.cq_off.tail,
                                at.sq_off.flags, at.sq_off.array + 4 * (script_.byte() % at.sq_entries)};
      const std::uint8_t what = script_.byte();
      switch (what % 6) {
        case 0: ring_.word(words[what / 6 % words.size()]).store(static_cast<std::uint32_t>(script_.number(4))); break;
        case 1: ring_.word(words[what / 6 % words.size()]).fetch_add(script_.byte() - 128U); break;
        case 2: {
          const RingResult result{any_user_data(), static_cast<std::int32_t>(script_.number(4)), 0};
          std::memcpy(ring_.memory().queues.data() + at.cq_off.cqes + 16 * (script_.number(2) % at.cq_entries), &result,
                      sizeof result);
          break;
        }
        case 3: {
          const std::uint64_t user_data = any_user_data();
          ipc::RingNote& note = notes_.notes[user_data % ipc::kRingEntries];
          note.user_data.store(user_data);
          note.expected = static_cast<std::uint32_t>(script_.number(4));
          note.whole = script_.byte();
          break;
        }
        case 4: notes_.notes[script_.byte()].user_data.store(script_.number(8)); break;
        default: ring_.memory().entries[script_.number(2) % ring_.memory().entries.size()] = std::byte{script_.byte()};
      }
    }
    const std::uint8_t state = script_.byte();
    if (state % 4 == 0) committed_.clear();  // the model's state is gone
    return begin_process(state % 8 != 0);
  }

  // The kernel does what it has, and everybody goes on until there is nothing left to do.
  void settle() {
    ring_.refuse_with = 0;
    for (int round = 0; round < 2000; ++round) {
      const std::size_t before = working_.size();
      for (std::size_t i = 0; i <= ipc::kRingEntries && block_->ready(); ++i) complete();
      commit();
      if (working_.size() == before && ring_.taken.empty() && !block_->ready()) return;
      if (!block_->ready()) ring_.perform_all();
    }
    require(false, "it does not come to rest");
  }

  FuzzScript& script_;
  BlockGeometry geometry_;
  std::vector<std::byte> disk_ = std::vector<std::byte>(kDiskBytes);
  FakeRing ring_;
  ipc::RingNotes notes_;
  Ram ram_;
  std::vector<std::byte> grave_ = std::vector<std::byte>(RingBlock::kBufferBytes);
  std::unique_ptr<RingBlock> block_;
  std::uint32_t generation_ = 0;
  Model committed_;
  Model working_;
  bool honest_ = true;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzScript script({data, size});
  RingFuzzer(script).run();
  return 0;
}
