// FakeRing: an io_uring in plain memory, whose kernel is the test.
//
//   FakeRing ring(disk);                 // the registered file, as bytes
//   ... entries are submitted ...        taken: what the kernel has
//   ring.perform(0);                     does taken[0] and posts its result
//   ring.post(0, -ECANCELED);            only posts a result
//
// Its indexes are its own, as the kernel's are: what anybody writes over the shared ones does not move them. Like the
// kernel it stops behind an entry that its restrictions refuse, and keeps results that find no room.
#pragma once

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#include "devproc/backends/io_ring.h"

namespace bulkhead::devproc {

class FakeRing final : public RingKernel {
 public:
  struct Taken {
    io_uring_sqe entry;
    std::vector<iovec> pieces;  // as they were when it was submitted
  };

  explicit FakeRing(std::vector<std::byte>& disk, std::uint32_t entries = 256) : disk_(disk) {
    params_.sq_entries = entries;
    params_.cq_entries = 2 * entries;
    params_.sq_off.head = 0;
    params_.sq_off.tail = 64;
    params_.cq_off.head = 128;
    params_.cq_off.tail = 192;
    params_.sq_off.flags = 256;
    params_.sq_off.array = 320;
    params_.cq_off.cqes = 320 + 4 * entries;
    queues_.resize(params_.cq_off.cqes + 16 * params_.cq_entries);
    entries_.resize(64 * std::size_t{entries});
  }

  IoRing ring() { return IoRing::create(params_, memory(), *this).value(); }
  [[nodiscard]] IoRing::Memory memory() { return {queues_, entries_}; }
  [[nodiscard]] const io_uring_params& params() const { return params_; }
  [[nodiscard]] std::atomic<std::uint32_t>& word(std::uint32_t offset) {
    return *reinterpret_cast<std::atomic<std::uint32_t>*>(queues_.data() + offset);
  }

  int enter(std::uint32_t to_submit, std::uint32_t flags) override {
    ++enters;
    if (before_enter) before_enter();
    if (refuse_with != 0) return -refuse_with;
    if ((flags & IORING_ENTER_GETEVENTS) != 0) flush();
    const std::uint32_t waiting = word(params_.sq_off.tail).load() - head_;
    const std::uint32_t count = std::min({waiting, params_.sq_entries, to_submit, most_at_once});
    int taken_now = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      ++taken_now;
      const std::uint32_t at = word(params_.sq_off.array + 4 * (head_++ & (params_.sq_entries - 1))).load();
      if (at >= params_.sq_entries) continue;
      if (!take(reinterpret_cast<const io_uring_sqe*>(entries_.data())[at])) break;
    }
    if (count != 0) word(params_.sq_off.head).store(head_);
    if (after_enter) after_enter();
    return taken_now;
  }

  // ---- The test's side ----

  void post(std::size_t which, std::int32_t result) {
    const std::uint64_t user_data = taken[which].entry.user_data;
    taken.erase(taken.begin() + static_cast<std::ptrdiff_t>(which));
    post_result({user_data, result, 0});
  }
  void perform(std::size_t which, std::size_t most = SIZE_MAX) { post(which, run(taken[which], most)); }
  void perform_all() {
    while (!taken.empty()) perform(0);
  }
  void post_result(const RingResult& result) {
    const bool kept = !backlog_.empty();
    backlog_.push_back(result);
    if (!kept) flush();
    if (!kept && !backlog_.empty()) word(params_.sq_off.flags).fetch_or(IORING_SQ_CQ_OVERFLOW);
  }

  std::deque<Taken> taken;
  std::vector<std::uint8_t> performed;  // opcodes
  int enters = 0;
  int refuse_with = 0;  // errno
  std::uint32_t most_at_once = UINT32_MAX;
  std::function<void()> before_enter, after_enter;
  int allocate_with = 0;  // errno of FALLOCATE
  int flush_with = 0;     // and of FSYNC

 private:
  bool take(const io_uring_sqe& entry) {
    const bool known = entry.opcode == IORING_OP_READ || entry.opcode == IORING_OP_WRITE ||
                       entry.opcode == IORING_OP_READV || entry.opcode == IORING_OP_WRITEV ||
                       entry.opcode == IORING_OP_FSYNC || entry.opcode == IORING_OP_FALLOCATE;
    if (!known || entry.flags != IOSQE_FIXED_FILE || entry.fd != 0) {
      post_result({entry.user_data, -EACCES, 0});
      return false;
    }
    Taken one{entry, {}};
    if (entry.opcode == IORING_OP_READV || entry.opcode == IORING_OP_WRITEV) {
      const auto* first = reinterpret_cast<const iovec*>(entry.addr);
      one.pieces.assign(first, first + entry.len);
    } else if (entry.opcode == IORING_OP_READ || entry.opcode == IORING_OP_WRITE) {
      one.pieces = {{reinterpret_cast<void*>(entry.addr), entry.len}};
    }
    taken.push_back(std::move(one));
    return true;
  }
  std::int32_t run(const Taken& one, std::size_t most) {
    const io_uring_sqe& entry = one.entry;
    performed.push_back(entry.opcode);
    if (entry.opcode == IORING_OP_FSYNC) return -flush_with;
    if (entry.opcode == IORING_OP_FALLOCATE) {
      if (allocate_with != 0) return -allocate_with;
      if (entry.off > disk_.size() || entry.addr > disk_.size() - entry.off) return -EINVAL;
      std::memset(disk_.data() + entry.off, 0, entry.addr);
      return 0;
    }
    const bool read = entry.opcode == IORING_OP_READ || entry.opcode == IORING_OP_READV;
    std::size_t at = entry.off;
    std::size_t moved = 0;
    for (const iovec& piece : one.pieces) {
      const std::size_t here = std::min({piece.iov_len, at < disk_.size() ? disk_.size() - at : 0, most - moved});
      if (read)
        std::memcpy(piece.iov_base, disk_.data() + at, here);
      else
        std::memcpy(disk_.data() + at, piece.iov_base, here);
      at += here;
      moved += here;
    }
    return static_cast<std::int32_t>(moved);
  }
  // Only what found no room before; as in Linux, the flag is written when the first such result comes and when the last
  // one goes (io_uring/io_uring.c: io_cqring_event_overflow, __io_cqring_overflow_flush).
  void flush() {
    if (backlog_.empty()) return;
    while (!backlog_.empty() && tail_ - word(params_.cq_off.head).load() < params_.cq_entries) {
      std::memcpy(queues_.data() + params_.cq_off.cqes + 16 * (tail_++ & (params_.cq_entries - 1)), &backlog_.front(),
                  16);
      backlog_.pop_front();
      word(params_.cq_off.tail).store(tail_);
    }
    if (backlog_.empty()) word(params_.sq_off.flags).fetch_and(~std::uint32_t{IORING_SQ_CQ_OVERFLOW});
  }

  std::vector<std::byte>& disk_;
  io_uring_params params_{};
  std::vector<std::byte> queues_;
  std::vector<std::byte> entries_;
  std::deque<RingResult> backlog_;
  std::uint32_t head_ = 0;
  std::uint32_t tail_ = 0;
};

}  // namespace bulkhead::devproc
