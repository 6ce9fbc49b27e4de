#include "devproc/backends/io_ring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "ipc/base/check.h"
#include "ipc/base/checked.h"

namespace bulkhead::devproc {
namespace {

// A request that no ring of ours lets through (IORING_REGISTER_RESTRICTIONS), should the kernel ever see one.
constexpr std::uint8_t kRefused = IORING_OP_NOP;

std::size_t queues_size(const io_uring_params& params) {
  return std::max(params.sq_off.array + std::size_t{params.sq_entries} * sizeof(std::uint32_t),
                  params.cq_off.cqes + std::size_t{params.cq_entries} * sizeof(io_uring_cqe));
}

}  // namespace

IoRing::IoRing(const io_uring_params& params, Memory memory, RingKernel& kernel)
    : kernel_(&kernel),
      sq_head_(word(memory, params.sq_off.head)),
      sq_tail_(word(memory, params.sq_off.tail)),
      sq_flags_(word(memory, params.sq_off.flags)),
      sq_array_(word(memory, params.sq_off.array)),
      cq_head_(word(memory, params.cq_off.head)),
      cq_tail_(word(memory, params.cq_off.tail)),
      cqes_(reinterpret_cast<const RingResult*>(memory.queues.data() + params.cq_off.cqes)),
      sqes_(reinterpret_cast<io_uring_sqe*>(memory.entries.data())),
      sq_entries_(params.sq_entries),
      cq_entries_(params.cq_entries) {}

Result<IoRing> IoRing::create(const io_uring_params& params, Memory memory, RingKernel& kernel) {
  const auto inside = [&](std::uint32_t offset, std::size_t size) {
    return offset % sizeof(std::uint32_t) == 0 && fits(offset, size, memory.queues.size());
  };
  const bool sound = std::has_single_bit(params.sq_entries) && std::has_single_bit(params.cq_entries) &&
                     inside(params.sq_off.head, 4) && inside(params.sq_off.tail, 4) && inside(params.sq_off.flags, 4) &&
                     inside(params.cq_off.head, 4) && inside(params.cq_off.tail, 4) &&
                     queues_size(params) <= memory.queues.size() &&
                     std::size_t{params.sq_entries} * sizeof(io_uring_sqe) <= memory.entries.size();
  if (!sound) return make_error("an io_uring does not fit its memory");
  return IoRing(params, memory, kernel);
}

Status IoRing::take_over() {
  // The head is what the kernel last said. It is right unless somebody wrote to it, and then the kernel says it anew.
  constexpr int kMostTries = 4;
  for (std::uint32_t i = 0; i < sq_entries_; ++i) {
    sqes_[i] = io_uring_sqe{};
    sqes_[i].opcode = kRefused;
    sq_array_[i].store(i, std::memory_order_relaxed);
  }
  for (int i = 0; i < kMostTries; ++i) {
    tail_ = sq_head_->load(std::memory_order_acquire);
    sq_tail_->store(tail_, std::memory_order_release);
    const int taken = kernel_->enter(sq_entries_, 0);
    if (taken < 0 && taken != -EAGAIN && taken != -EBUSY && taken != -EINTR)
      return make_errno_error("an io_uring cannot be used", -taken);
    if (taken != 0) continue;
    first_ = tail_;
    seen_ = released_ = cq_head_->load(std::memory_order_acquire);
    fetch_kept();  // a predecessor may have taken the flag away, and died
    return ok();
  }
  return make_error("an io_uring was left in a state that cannot be used");
}

std::uint32_t IoRing::room() const {
  const std::uint32_t waiting = tail_ - sq_head_->load(std::memory_order_acquire);
  return waiting < sq_entries_ ? sq_entries_ - waiting : 0;
}

io_uring_sqe& IoRing::add() {
  const std::uint32_t at = tail_++ & (sq_entries_ - 1);
  sq_array_[at].store(at, std::memory_order_relaxed);
  sqes_[at] = io_uring_sqe{};
  return sqes_[at];
}

bool IoRing::has_unsubmitted() const { return tail_ != sq_head_->load(std::memory_order_acquire); }

int IoRing::submit() {
  sq_tail_->store(tail_, std::memory_order_release);
  while (has_unsubmitted()) {
    // It may take fewer: it stops behind an entry that fails.
    const std::uint32_t waiting = tail_ - sq_head_->load(std::memory_order_acquire);
    const int taken = kernel_->enter(std::min(waiting, sq_entries_), 0);
    if (taken == -EINTR) continue;
    if (taken < 0) return -taken;
    if (taken == 0) return EAGAIN;
  }
  return 0;
}

bool IoRing::overflowed() const { return (sq_flags_->load(std::memory_order_relaxed) & IORING_SQ_CQ_OVERFLOW) != 0; }

bool IoRing::has_completion() const { return cq_tail_->load(std::memory_order_acquire) != seen_ || overflowed(); }

std::optional<RingResult> IoRing::next_completion() {
  std::uint32_t tail = cq_tail_->load(std::memory_order_acquire);
  // More than the queue holds: an index that nobody honest wrote. What is in there is looked at once, no more.
  if (tail - seen_ > cq_entries_) seen_ = tail - cq_entries_;
  if (tail == seen_) return std::nullopt;
  return cqes_[seen_++ & (cq_entries_ - 1)];
}

void IoRing::release() {
  if (released_ != seen_) {
    released_ = seen_;
    cq_head_->store(seen_, std::memory_order_release);
  }
  // The flag is taken away before the kernel is asked: if a hostile predecessor wrote it, the kernel has nothing to
  // clear it for, and nobody would ever sleep again.
  if (overflowed()) {
    sq_flags_->fetch_and(~std::uint32_t{IORING_SQ_CQ_OVERFLOW}, std::memory_order_relaxed);
    kept_ = true;
  }
  if (kept_) fetch_kept();
}

// The kernel keeps what found no room, says so once, and puts it into the queue when it is asked to.
void IoRing::fetch_kept() {
  while (kernel_->enter(0, IORING_ENTER_GETEVENTS) == -EINTR) {
  }
  kept_ = cq_tail_->load(std::memory_order_acquire) - seen_ >= cq_entries_;  // a full queue: there may be more
}

// ---- MappedRing ----

Result<MappedRing> MappedRing::map(UniqueFd ring, const io_uring_params& params) {
  MappedRing mapped(std::move(ring), params);
  const auto map_at = [&](std::uint64_t offset, std::size_t size) -> Result<std::span<std::byte>> {
    void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, mapped.fd_.get(), static_cast<off_t>(offset));
    if (at == MAP_FAILED) return make_errno_error("cannot map an io_uring");
    return std::span(static_cast<std::byte*>(at), size);
  };
  ASSIGN_OR_RETURN(mapped.memory_.queues, map_at(IORING_OFF_SQ_RING, queues_size(params)));
  ASSIGN_OR_RETURN(mapped.memory_.entries,
                   map_at(IORING_OFF_SQES, std::size_t{params.sq_entries} * sizeof(io_uring_sqe)));
  return mapped;
}

MappedRing::MappedRing(MappedRing&& other) noexcept
    : fd_(std::move(other.fd_)), params_(other.params_), memory_(std::exchange(other.memory_, {})) {}

MappedRing::~MappedRing() {
  for (const std::span<std::byte> part : {memory_.queues, memory_.entries}) {
    if (!part.empty()) ::munmap(part.data(), part.size());
  }
}

int MappedRing::enter(std::uint32_t to_submit, std::uint32_t flags) {
  const long taken = ::syscall(SYS_io_uring_enter, fd_.get(), to_submit, 0, flags, nullptr, 0);
  return taken < 0 ? -errno : static_cast<int>(taken);
}

}  // namespace bulkhead::devproc
