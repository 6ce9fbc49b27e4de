// RigRing: an io_uring for a rig's disk, queues, notes and kernel in one piece of memory, which outlives a process like
// the kernel does and can be copied as a kill left it.
//
//   RigRing ring(area, memory, disk);   on bytes that are somebody's: a rig's, or a copy of them
//   ... a process submits ...           enter() takes entries: one step, a process is killed before or after it
//   ring.work();                        does what the plan says is next, and posts its result
//   ring.end_all(Fate::kCancelled);     what a death did to everything that is under way
//
// Guest memory is known by its addresses, so that a copy of the area goes with a copy of the memory. A process's own
// memory (a bounced transfer, zeroes) dies with it: bury(). What is written from there was copied when it was taken,
// as if its pages were pinned.
//
// It notes what no process may do: have a request under way twice, flush nothing.
// Threading: single-threaded. Nothing here allocates: it runs while a process is stepped through.
#pragma once

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "devproc/backends/io_ring.h"
#include "ipc/base/check.h"
#include "ipc/state/ring_notes.h"
#include "tests/fakes/single_step.h"

namespace bulkhead::devproc {

class RigRing final : public RingKernel {
  using Word = std::atomic<std::uint32_t>;
  static constexpr std::uint32_t kSqHead = 0;
  static constexpr std::uint32_t kSqTail = 64;
  static constexpr std::uint32_t kCqHead = 128;
  static constexpr std::uint32_t kCqTail = 192;
  static constexpr std::uint32_t kSqFlags = 256;
  static constexpr std::uint32_t kSqArray = 320;
  static constexpr std::uint32_t kCqes = 384;
  static constexpr std::uint32_t kBlock = 512;

 public:
  static constexpr std::uint32_t kEntries = 8;
  static constexpr std::uint32_t kResults = 2 * kEntries;

  // What the kernel is like.
  struct Plan {
    std::uint32_t prompt = 0;          // 1: what is taken is over when the system call returns
    std::uint32_t last_first = 0;      // 1: the last that was taken is over first
    std::uint32_t together = 0;        // 1: all that is under way is over at once
    std::uint32_t at_once = kEntries;  // entries taken by one system call, at most
    std::uint32_t busy = 0;            // system calls with entries that are refused first (EAGAIN)
    std::uint32_t shorts = 0;          // transfers that move one block only
    std::uint32_t no_allocation = 0;   // 1: the file system knows no fallocate()
    std::uint32_t flush_errors = 0;    // flushes that fail, each told once
    std::uint32_t strangers = 0;       // results of nobody's requests, as many as fit the queue and then some
  };
  enum class Fate : std::uint8_t {
    kLater,        // nothing happened yet: it is over when its successor has nothing else to do
    kDone,         // it went on, and is over before the successor comes
    kCancelled,    // nothing was done
    kInterrupted,  // half was done, and the result is an error
    kShort,        // half was done, and the result says so
  };

  struct Piece {
    std::uint64_t at = 0;  // guest-physical; own: a pointer
    std::uint32_t bytes = 0;
    std::uint16_t own = 0;   // 1: in the process's own memory
    std::uint16_t dead = 0;  // 1: and that is gone
  };
  struct Request {
    static constexpr std::size_t kPieces = 4;
    static constexpr std::size_t kBytes = 1024;
    io_uring_sqe entry;
    std::uint32_t count;
    std::uint32_t bytes;
    Piece pieces[kPieces];
    std::byte data[kBytes];  // what is written from the process's own memory
  };
  struct Kernel {
    Plan plan;
    std::uint32_t sq_head;
    std::uint32_t cq_tail;
    std::uint32_t under_way;
    std::uint32_t kept;
    std::uint32_t flushes;
    char complaint[64];
    Request requests[kEntries / 2];  // the first `under_way`, in the order in which they were taken
    RingResult results[kResults];    // that found no room: the first `kept`
  };

  struct Area {
    alignas(64) std::byte queues[kCqes + kResults * sizeof(io_uring_cqe)];
    io_uring_sqe entries[kEntries];
    alignas(64) ipc::RingNotes notes;
    alignas(64) Kernel kernel;
  };
  static constexpr std::size_t kPages = 3;

  // The spans outlive it. A new area is all zeroes.
  RigRing(std::span<std::byte> area, std::span<std::byte> memory, std::span<std::byte> disk)
      : area_(*reinterpret_cast<Area*>(area.data())), memory_(memory), disk_(disk) {
    static_assert(sizeof(Area) <= kPages * 4096);
    CHECK(area.size() == kPages * 4096, area.size());
  }

  void set_plan(const Plan& plan) {
    area_.kernel.plan = plan;
    for (std::uint32_t i = 0; i < plan.strangers; ++i) post({.user_data = 0xdead'0000'0001'0000 | i});
  }
  [[nodiscard]] IoRing::Memory memory() { return {area_.queues, std::as_writable_bytes(std::span(area_.entries))}; }
  [[nodiscard]] ipc::RingNotes& notes() { return area_.notes; }
  [[nodiscard]] static io_uring_params params() {
    io_uring_params all{};
    all.sq_entries = kEntries;
    all.cq_entries = kResults;
    all.sq_off.head = kSqHead;
    all.sq_off.tail = kSqTail;
    all.sq_off.flags = kSqFlags;
    all.sq_off.array = kSqArray;
    all.cq_off.head = kCqHead;
    all.cq_off.tail = kCqTail;
    all.cq_off.cqes = kCqes;
    return all;
  }

  int enter(std::uint32_t to_submit, std::uint32_t flags) override {
    const StepOver one_step;
    Kernel& kernel = area_.kernel;
    if ((flags & IORING_ENTER_GETEVENTS) != 0) fetch();
    const std::uint32_t waiting = word(kSqTail).load() - kernel.sq_head;
    if (waiting != 0 && to_submit != 0 && kernel.plan.busy != 0) {
      --kernel.plan.busy;
      return -EAGAIN;
    }
    const std::uint32_t count = std::min({waiting, kEntries, to_submit, kernel.plan.at_once});
    std::uint32_t taken = 0;
    for (bool going = true; going && taken < count; ++taken) {
      const std::uint32_t at = word(kSqArray + 4 * (kernel.sq_head++ % kEntries)).load();
      if (at < kEntries) going = take(area_.entries[at]);
    }
    if (taken != 0) word(kSqHead).store(kernel.sq_head);
    while (kernel.plan.prompt != 0 && kernel.under_way != 0) end(next(), Fate::kDone);
    return static_cast<int>(taken);
  }

  // ---- The test's side ----

  // The next thing that comes to its end. False: nothing is under way.
  bool work() {
    const StepOver one_step;
    if (area_.kernel.under_way == 0) return false;
    do {
      end(next(), Fate::kDone);
    } while (area_.kernel.plan.together != 0 && area_.kernel.under_way != 0);
    return true;
  }
  void end_all(Fate fate) {
    while (fate != Fate::kLater && area_.kernel.under_way != 0) end(next(), fate);
  }
  // The process is no more, and its memory with it.
  void bury() {
    for (std::uint32_t i = 0; i < area_.kernel.under_way; ++i) {
      for (Piece& piece : area_.kernel.requests[i].pieces) piece.dead = 1;
    }
  }
  [[nodiscard]] std::uint32_t under_way() const { return area_.kernel.under_way; }
  [[nodiscard]] std::uint32_t flushes() const { return area_.kernel.flushes; }
  [[nodiscard]] std::string complaint() const { return area_.kernel.complaint; }
  // Differs between places in the life of the requests: how far notes, queues and results are.
  [[nodiscard]] std::string place() const {
    const Kernel& kernel = area_.kernel;
    std::string all;
    for (const std::uint32_t at : {kSqHead, kSqTail, kCqHead, kCqTail}) all += std::to_string(word(at).load()) + " ";
    for (const std::uint32_t one : {kernel.under_way, kernel.kept, kernel.flushes}) all += std::to_string(one) + " ";
    for (const ipc::RingNote& note : area_.notes.notes) all += note.user_data.load() != 0 ? '1' : '0';
    return all;
  }

 private:
  [[nodiscard]] Word& word(std::uint32_t offset) const { return *reinterpret_cast<Word*>(area_.queues + offset); }
  void complain(const char* what) {
    if (area_.kernel.complaint[0] == '\0')
      std::strncpy(area_.kernel.complaint, what, sizeof area_.kernel.complaint - 1);
  }
  [[nodiscard]] std::uint32_t next() const {
    return area_.kernel.plan.last_first != 0 ? area_.kernel.under_way - 1 : 0;
  }

  // False: its restrictions refuse the entry.
  bool take(const io_uring_sqe& entry) {
    const bool vector = entry.opcode == IORING_OP_READV || entry.opcode == IORING_OP_WRITEV;
    const bool single = entry.opcode == IORING_OP_READ || entry.opcode == IORING_OP_WRITE;
    const bool other = entry.opcode == IORING_OP_FSYNC || entry.opcode == IORING_OP_FALLOCATE;
    if (!(vector || single || other) || entry.flags != IOSQE_FIXED_FILE || entry.fd != 0) {
      post({.user_data = entry.user_data, .res = -EACCES});
      return false;
    }
    Kernel& kernel = area_.kernel;
    for (std::uint32_t i = 0; i < kernel.under_way; ++i) {
      if (((kernel.requests[i].entry.user_data ^ entry.user_data) & 0xffff) == 0)
        complain("a request is under way twice");
    }
    CHECK(kernel.under_way < kEntries / 2, kernel.under_way);
    Request& request = kernel.requests[kernel.under_way++];
    request = Request{};
    request.entry = entry;
    if (other) return true;
    const iovec one{reinterpret_cast<void*>(entry.addr), entry.len};
    const iovec* const pieces = vector ? reinterpret_cast<const iovec*>(entry.addr) : &one;
    request.count = vector ? entry.len : 1;
    CHECK(request.count <= Request::kPieces, request.count);
    for (std::uint32_t i = 0; i < request.count; ++i) take_piece(request, request.pieces[i], pieces[i]);
    return true;
  }
  void take_piece(Request& request, Piece& piece, const iovec& what) {
    auto* const bytes = static_cast<std::byte*>(what.iov_base);
    const bool guest = bytes >= memory_.data() && bytes < memory_.data() + memory_.size();
    piece = {.at = guest ? static_cast<std::uint64_t>(bytes - memory_.data()) : reinterpret_cast<std::uintptr_t>(bytes),
             .bytes = static_cast<std::uint32_t>(what.iov_len),
             .own = guest ? std::uint16_t{0} : std::uint16_t{1}};
    if (!guest && writes(request)) {
      CHECK(request.bytes + piece.bytes <= Request::kBytes, piece.bytes);
      std::memcpy(request.data + request.bytes, bytes, piece.bytes);
    }
    request.bytes += piece.bytes;
  }
  [[nodiscard]] static bool writes(const Request& request) {
    return request.entry.opcode == IORING_OP_WRITE || request.entry.opcode == IORING_OP_WRITEV;
  }

  void end(std::uint32_t which, Fate fate) {
    Kernel& kernel = area_.kernel;
    const Request request = kernel.requests[which];
    std::copy(kernel.requests + which + 1, kernel.requests + kernel.under_way, kernel.requests + which);
    kernel.requests[--kernel.under_way] = Request{};
    post({.user_data = request.entry.user_data, .res = run(request, fate)});
  }
  std::int32_t run(const Request& request, Fate fate) {
    if (fate == Fate::kCancelled) return -ECANCELED;
    Plan& plan = area_.kernel.plan;
    const bool whole = fate == Fate::kDone;
    if (request.entry.opcode == IORING_OP_FSYNC) {
      if (!whole) return -EINTR;
      if (plan.flush_errors != 0) {
        --plan.flush_errors;
        return -EIO;
      }
      ++area_.kernel.flushes;
      return 0;
    }
    if (request.entry.opcode == IORING_OP_FALLOCATE) return allocate(request, whole);
    std::uint32_t most = request.bytes;
    if (!whole) most = request.bytes / 2 / kBlock * kBlock;
    if (whole && plan.shorts != 0 && request.bytes > kBlock) {
      --plan.shorts;
      most = kBlock;
    }
    move(request, most);
    if (fate == Fate::kInterrupted || most == 0) return writes(request) ? -EINTR : -EFAULT;
    return static_cast<std::int32_t>(most);
  }
  std::int32_t allocate(const Request& request, bool whole) {
    if (area_.kernel.plan.no_allocation != 0) return -EOPNOTSUPP;
    const std::uint64_t bytes = whole ? request.entry.addr : request.entry.addr / 2;
    CHECK(request.entry.off <= disk_.size() && bytes <= disk_.size() - request.entry.off, bytes);
    std::memset(disk_.data() + request.entry.off, 0, bytes);
    return whole ? 0 : -EINTR;
  }
  void move(const Request& request, std::uint32_t most) {
    std::uint32_t moved = 0;
    for (const Piece& piece : std::span(request.pieces).first(request.count)) {
      const std::uint32_t here = std::min(piece.bytes, most - moved);
      CHECK(request.entry.off + moved + here <= disk_.size(), request.entry.off);
      std::byte* const at = disk_.data() + request.entry.off + moved;
      if (piece.own == 0)
        writes(request) ? std::memcpy(at, memory_.data() + piece.at, here)
                        : std::memcpy(memory_.data() + piece.at, at, here);
      else if (writes(request))
        std::memcpy(at, request.data + moved, here);
      else if (piece.dead == 0)
        std::memcpy(reinterpret_cast<void*>(piece.at), at, here);
      moved += here;
    }
  }

  [[nodiscard]] bool room() const { return area_.kernel.cq_tail - word(kCqHead).load() < kResults; }
  void put(const RingResult& result) {
    Kernel& kernel = area_.kernel;
    std::memcpy(area_.queues + kCqes + sizeof(RingResult) * (kernel.cq_tail++ % kResults), &result, sizeof result);
    word(kCqTail).store(kernel.cq_tail);
  }
  // As Linux: the flag is raised with the first result that finds no room, and taken away with the last.
  void post(const RingResult& result) {
    Kernel& kernel = area_.kernel;
    if (kernel.kept == 0 && room()) return put(result);
    CHECK(kernel.kept < kResults, kernel.kept);
    kernel.results[kernel.kept] = result;
    if (kernel.kept++ == 0) word(kSqFlags).fetch_or(IORING_SQ_CQ_OVERFLOW);
  }
  void fetch() {
    Kernel& kernel = area_.kernel;
    if (kernel.kept == 0) return;
    std::uint32_t count = 0;
    for (; count < kernel.kept && room(); ++count) put(kernel.results[count]);
    std::copy(kernel.results + count, kernel.results + kernel.kept, kernel.results);
    kernel.kept -= count;
    if (kernel.kept == 0) word(kSqFlags).fetch_and(~std::uint32_t{IORING_SQ_CQ_OVERFLOW});
  }

  Area& area_;
  std::span<std::byte> memory_;
  std::span<std::byte> disk_;
};

}  // namespace bulkhead::devproc
