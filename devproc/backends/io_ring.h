// IoRing: this process's view of an io_uring that it inherited: entries into the submission queue, results out of the
// completion queue. Its kernel side is a RingKernel, so that tests can be the kernel.
//
// A successor finds the queues as its predecessor left them. What the kernel has taken of the submission queue stays
// taken; take_over() withdraws the rest, whatever it is, by trial: it makes every entry one that the ring's
// restrictions refuse and submits until the kernel says that there is nothing left. So a predecessor that lied about
// its indexes leaves nothing behind that this process would submit in its own name.
//
// Only the kernel writes the submission queue's head and the completion queue's tail, but a hostile predecessor may
// have written anything anywhere; each shared word is read once, and used modulo the queue's size.
//
// Units: entries. Threading: single-threaded. Errors: negative errno of submit(). Sources: io_uring(7),
// io_uring_setup(2), io_uring_enter(2); Linux include/uapi/linux/io_uring.h for the layout.
#pragma once

#include <linux/io_uring.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::devproc {

// io_uring_cqe without the array at its end, which no value can have.
struct RingResult {
  std::uint64_t user_data = 0;
  std::int32_t res = 0;
  std::uint32_t flags = 0;
};
static_assert(sizeof(RingResult) == sizeof(io_uring_cqe));

class RingKernel {
 public:
  virtual ~RingKernel() = default;
  // io_uring_enter(2): entries taken, or -errno.
  virtual int enter(std::uint32_t to_submit, std::uint32_t flags) = 0;
};

class IoRing {
 public:
  // Where the queues are in this process: one mapping with both, and the entries. They outlive it, like `kernel`.
  struct Memory {
    std::span<std::byte> queues;
    std::span<std::byte> entries;
  };
  // An Error if `params` names places outside of the memory.
  static Result<IoRing> create(const io_uring_params& params, Memory memory, RingKernel& kernel);

  // Once, before anything else.
  Status take_over();

  // ---- Submission ----

  // The position that the next entry gets.
  [[nodiscard]] std::uint32_t next_position() const { return tail_; }
  // Whether the kernel had taken the entry at `position` when take_over() came. Positions wrap around.
  [[nodiscard]] bool was_taken(std::uint32_t position) const {
    return static_cast<std::int32_t>(position - first_) < 0;
  }
  [[nodiscard]] std::uint32_t room() const;
  // The entry at next_position(), zeroed, which it takes up. Only while there is room().
  io_uring_sqe& add();
  // Shows the kernel what was added, and has it take that. 0, or the errno with which it stopped; what it has not taken
  // waits for the next submit().
  int submit();
  [[nodiscard]] bool has_unsubmitted() const;

  // ---- Completion ----

  [[nodiscard]] bool has_completion() const;
  // The next one; it stays in the queue until release().
  std::optional<RingResult> next_completion();
  // The commit has remembered all that next_completion() has given: the kernel may have the room.
  void release();

 private:
  using Word = std::atomic<std::uint32_t>;
  IoRing(const io_uring_params& params, Memory memory, RingKernel& kernel);
  [[nodiscard]] static Word* word(Memory memory, std::uint32_t offset) {
    return reinterpret_cast<Word*>(memory.queues.data() + offset);
  }
  [[nodiscard]] bool overflowed() const;
  void fetch_kept();

  RingKernel* kernel_;
  Word* sq_head_;
  Word* sq_tail_;
  Word* sq_flags_;
  Word* sq_array_;
  Word* cq_head_;
  Word* cq_tail_;
  const RingResult* cqes_;
  io_uring_sqe* sqes_;
  std::uint32_t sq_entries_;
  std::uint32_t cq_entries_;
  std::uint32_t first_ = 0;  // where this process began
  std::uint32_t tail_ = 0;   // behind the last entry that was added
  std::uint32_t seen_ = 0;   // behind the last completion that was given
  std::uint32_t released_ = 0;
  bool kept_ = false;  // the kernel may keep results that found no room
};

// The ring of descriptor `ring`, mapped.
class MappedRing final : public RingKernel {
 public:
  static Result<MappedRing> map(UniqueFd ring, const io_uring_params& params);
  MappedRing(MappedRing&& other) noexcept;
  MappedRing& operator=(MappedRing&&) = delete;
  ~MappedRing() override;

  [[nodiscard]] BorrowedFd fd() const { return fd_.borrow(); }
  [[nodiscard]] IoRing::Memory memory() const { return memory_; }
  [[nodiscard]] const io_uring_params& params() const { return params_; }
  int enter(std::uint32_t to_submit, std::uint32_t flags) override;

 private:
  MappedRing(UniqueFd fd, const io_uring_params& params) : fd_(std::move(fd)), params_(params) {}

  UniqueFd fd_;
  io_uring_params params_;
  IoRing::Memory memory_;
};

}  // namespace bulkhead::devproc
