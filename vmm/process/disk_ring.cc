#include "vmm/process/disk_ring.h"

#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "ipc/shm/region.h"
#include "ipc/state/ring_notes.h"

namespace bulkhead::vmm {
namespace {

static_assert(sizeof(io_uring_params) == control::RingGrant::kParamsSize);

// What the device side relies on: no completion is lost (5.5), what an entry points to may change once it is submitted
// (5.5), one mapping for both queues (5.4). Restrictions came with 5.10.
constexpr std::uint32_t kNeeded = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_SINGLE_MMAP;

// Threads of the device process, made by the kernel, for what blocks: flushes, allocation, reads and writes that miss
// the page cache. In sandbox::JailLimits::processes of its jail there is room for them.
constexpr std::array<std::uint32_t, 2> kMostWorkers = {8, 8};
constexpr unsigned kRegisterWorkers = 19;  // IORING_REGISTER_IOWQ_MAX_WORKERS, Linux 5.15

long register_with(BorrowedFd ring, unsigned what, const void* argument, unsigned count) {
  return ::syscall(SYS_io_uring_register, ring.get(), what, argument, count);
}

Status restrict(BorrowedFd ring) {
  constexpr std::array kOperations = {IORING_OP_READ,   IORING_OP_READV, IORING_OP_WRITE,
                                      IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
  std::array<io_uring_restriction, kOperations.size() + 1> rules{};
  for (std::size_t i = 0; i < kOperations.size(); ++i) {
    rules[i].opcode = IORING_RESTRICTION_SQE_OP;
    rules[i].sqe_op = static_cast<std::uint8_t>(kOperations[i]);
  }
  // Also the only flag that is allowed: no other descriptor than the registered one.
  rules.back().opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
  rules.back().sqe_flags = IOSQE_FIXED_FILE;
  if (register_with(ring, IORING_REGISTER_RESTRICTIONS, rules.data(), rules.size()) != 0)
    return make_errno_error("cannot restrict an io_uring");
  return ok();
}

}  // namespace

Result<DiskRing> DiskRing::create(BorrowedFd disk) {
  DiskRing ring;
  io_uring_params params{};
  params.flags = IORING_SETUP_R_DISABLED;
  ring.fd_.reset(static_cast<int>(::syscall(SYS_io_uring_setup, ipc::kRingEntries, &params)));
  if (!ring.fd_.valid()) return make_errno_error("cannot make an io_uring");
  if ((params.features & kNeeded) != kNeeded) return make_error("cannot make an io_uring: this kernel's is too old");
  std::memcpy(ring.params_.params.data(), &params, sizeof params);
  const int file = disk.get();
  if (register_with(ring.fd(), IORING_REGISTER_FILES, &file, 1) != 0)
    return make_errno_error("cannot give an io_uring its disk");
  // Older kernels have as many workers as the jail's limit lets them have.
  (void)register_with(ring.fd(), kRegisterWorkers, kMostWorkers.data(), kMostWorkers.size());
  RETURN_IF_ERROR(restrict(ring.fd()));
  if (register_with(ring.fd(), IORING_REGISTER_ENABLE_RINGS, nullptr, 0) != 0)
    return make_errno_error("cannot enable an io_uring");
  ASSIGN_OR_RETURN(const ipc::WritableRegion notes,
                   ipc::WritableRegion::create("bulkhead-ring", ipc::kRingNotesSize, ipc::PeerRights::kReadWrite));
  ASSIGN_OR_RETURN(ring.notes_, UniqueFd::duplicate(notes.fd()));
  return ring;
}

control::RingGrant DiskRing::grant(std::uint32_t descriptor, std::uint32_t backing) const {
  control::RingGrant grant = params_;
  grant.descriptor = descriptor;
  grant.backing = backing;
  return grant;
}

}  // namespace bulkhead::vmm
