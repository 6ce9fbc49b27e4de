// FakeBlock: a disk in a vector, behind a BlockBackend whose every step is the test's to choose.
//
//   FakeBlock disk(memory, {.bytes = 64 * 512});
//   ... the model submits ...      noted
//   disk.commit();                 begun: what was completed is forgotten, what was noted is the disk's
//   disk.run(FakeBlock::kRandom);  done, in some order; disk.run_one() for one
//   ... the model completes ...
//
// die() plays a process that dies before its commit: what it noted never was, what it completed is told again. The
// disk then serves the successor, and knows the tags that come again. Things that no model may do become complaints.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "devproc/core/block_backend.h"

namespace bulkhead::devproc {

class FakeBlock final : public BlockBackend {
 public:
  enum Order : std::uint8_t { kInOrder, kReversed, kRandom };
  // A request with its own copy of its segments.
  struct Request {
    BlockRequest what;
    std::vector<Segment> memory;
  };

  explicit FakeBlock(GuestMemory& memory, const BlockGeometry& geometry)
      : disk(geometry.bytes), memory_(memory), geometry_(geometry) {}

  [[nodiscard]] const BlockGeometry& geometry() const override { return geometry_; }

  bool submit(const BlockRequest& request) override {
    if (in_flight() >= kMostInFlight || request.memory.size() > kMostSegments) return false;
    check(request);
    if (knows(request.tag)) {
      ++adopted;
      return true;
    }
    noted.push_back({request, {request.memory.begin(), request.memory.end()}});
    noted.back().what.memory = {};
    return true;
  }
  std::optional<BlockCompletion> complete() override {
    if (done.empty()) return std::nullopt;
    taken_.push_back(done.front());
    done.pop_front();
    return taken_.back();
  }
  bool cancel(std::uint32_t tag) override {
    const auto is_it = [tag](const auto& one) { return tag_of(one) == tag; };
    // What is over and not told yet will be told.
    if (std::ranges::any_of(begun, is_it) || std::ranges::any_of(done, is_it)) return true;
    cancelled += std::erase_if(noted, is_it) + std::erase_if(taken_, is_it);
    return false;
  }

  // ---- The test's side ----

  void commit() {
    for (Request& request : noted) begun.push_back(std::move(request));
    noted.clear();
    taken_.clear();
  }
  void die() {
    noted.clear();
    done.insert(done.begin(), taken_.begin(), taken_.end());
    taken_.clear();
  }
  // Does one that has begun. False: there is none.
  bool run_one(Order order = kInOrder) {
    if (begun.empty()) return false;
    std::size_t which = order == kReversed ? begun.size() - 1 : 0;
    if (order == kRandom) which = random() % begun.size();
    const Request request = std::move(begun[which]);
    begun.erase(begun.begin() + static_cast<std::ptrdiff_t>(which));
    done.push_back({request.what.tag, perform(request)});
    return true;
  }
  void run(Order order = kInOrder) {
    while (run_one(order)) continue;
  }
  [[nodiscard]] std::size_t in_flight() const { return noted.size() + begun.size() + done.size(); }

  std::vector<std::byte> disk;
  std::deque<Request> noted;            // by an input that is not committed
  std::deque<Request> begun;            // held until the test runs them
  std::deque<BlockCompletion> done;     // not told yet
  std::vector<BlockRequest> performed;  // in the order in which it happened
  std::size_t adopted = 0;
  std::size_t cancelled = 0;
  std::string complaint;
  // What becomes of a request; nothing is done if it is not kOk.
  std::function<BlockStatus(const BlockRequest&)> fate;
  std::mt19937_64 random{1};

 private:
  static std::uint32_t tag_of(const Request& request) { return request.what.tag; }
  static std::uint32_t tag_of(const BlockCompletion& completion) { return completion.tag; }

  [[nodiscard]] bool knows(std::uint32_t tag) const {
    const auto is_it = [tag](const auto& one) { return tag_of(one) == tag; };
    return std::ranges::any_of(begun, is_it) || std::ranges::any_of(done, is_it) || std::ranges::any_of(noted, is_it);
  }
  void complain(const char* what) {
    if (complaint.empty()) complaint = what;
  }
  void check(const BlockRequest& request) {
    std::uint64_t bytes = 0;
    for (const Segment& segment : request.memory) {
      if (segment.length == 0) complain("an empty segment");
      bytes += segment.length;
    }
    const bool moves = request.op == BlockOp::kRead || request.op == BlockOp::kWrite;
    if (bytes != (moves ? request.length : 0)) complain("segments that do not cover the request");
    if (request.op == BlockOp::kFlush) {
      if (request.offset != 0 || request.length != 0) complain("a flush of a range");
      return;
    }
    if (request.length == 0 || (request.offset | request.length) % geometry_.logical_block != 0)
      complain("not whole blocks");
    if (request.length > geometry_.bytes || request.offset > geometry_.bytes - request.length)
      complain("beyond the end of the disk");
    if (geometry_.read_only && request.op != BlockOp::kRead) complain("a write to a read-only disk");
  }
  BlockStatus perform(const Request& request) {
    const BlockRequest& what = request.what;
    performed.push_back(what);
    if (what.length > disk.size() || what.offset > disk.size() - what.length) return BlockStatus::kError;
    if (fate) {
      if (const BlockStatus status = fate(what); status != BlockStatus::kOk) return status;
    }
    std::byte* at = disk.data() + what.offset;
    if (what.op == BlockOp::kWriteZeroes) std::memset(at, 0, what.length);
    if (what.op == BlockOp::kDiscard) std::memset(at, 0xdd, what.length);
    for (const Segment& segment : request.memory) {
      const std::span bytes(at, segment.length);
      const bool moved =
          what.op == BlockOp::kRead ? memory_.write(segment.address, bytes) : memory_.read(segment.address, bytes);
      if (!moved) return BlockStatus::kError;
      at += segment.length;
    }
    return BlockStatus::kOk;
  }

  GuestMemory& memory_;
  BlockGeometry geometry_;
  std::vector<BlockCompletion> taken_;  // by an input that is not committed
};

}  // namespace bulkhead::devproc
