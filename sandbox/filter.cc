#include "sandbox/filter.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace bulkhead::sandbox {
namespace {

// What a filter in a memfd must be sealed with: nobody can change it after it was handed out.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;

}  // namespace

Result<CompiledFilter> CompiledFilter::from_program(std::vector<sock_filter> program) {
  if (program.empty() || program.size() > BPF_MAXINSNS)
    return make_error(fmt::format("a system-call filter of {} instructions cannot be loaded (1 to {} can)",
                                  program.size(), BPF_MAXINSNS));
  return CompiledFilter(std::move(program));
}

Status forbid_new_privileges() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return make_errno_error("cannot give up new privileges (no_new_privs)");
  return ok();
}

Status load_filter(const CompiledFilter& filter, FilterScope scope) {
  // The kernel's structure has a non-const pointer, and only reads.
  sock_fprog program{};
  program.len = static_cast<unsigned short>(filter.program().size());
  program.filter = const_cast<sock_filter*>(filter.program().data());
  const unsigned flags = scope == FilterScope::kProcess ? SECCOMP_FILTER_FLAG_TSYNC : 0;
  const long result = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  if (result < 0) return make_errno_error("cannot load a system-call filter");
  if (result > 0)
    return make_error(fmt::format("cannot load a system-call filter: thread {} has a different one", result));
  return ok();
}

Result<UniqueFd> export_filter(const CompiledFilter& filter) {
  UniqueFd fd(::memfd_create("bulkhead-filter", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return make_errno_error("cannot create a memory file for a system-call filter");
  const std::span<const sock_filter> program = filter.program();
  const ssize_t written = ::pwrite(fd.get(), program.data(), program.size_bytes(), 0);
  if (written < 0) return make_errno_error("cannot write a system-call filter to its memory file");
  if (static_cast<std::size_t>(written) != program.size_bytes())
    return make_error("cannot write a system-call filter to its memory file: short write");
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0)
    return make_errno_error("cannot seal the memory file of a system-call filter");
  return fd;
}

Result<CompiledFilter> import_filter(BorrowedFd fd) {
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0) return make_errno_error("the descriptor passed as a system-call filter is no memory file");
  if ((seals & kSeals) != kSeals) return make_error("the system-call filter that was passed is not sealed");
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return make_errno_error("cannot inspect a system-call filter");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size == 0 || size % sizeof(sock_filter) != 0 || size > BPF_MAXINSNS * sizeof(sock_filter))
    return make_error(fmt::format("a system-call filter of {} bytes cannot be loaded", size));
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (mapped == MAP_FAILED) return make_errno_error("cannot map a system-call filter");
  std::vector<sock_filter> program(size / sizeof(sock_filter));
  std::memcpy(program.data(), mapped, size);
  ::munmap(mapped, size);
  return CompiledFilter::from_program(std::move(program));
}

}  // namespace bulkhead::sandbox
