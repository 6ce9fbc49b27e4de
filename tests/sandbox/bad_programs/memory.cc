// Forbidden: memory that may be executed, and mappings that a running role has no use for.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "tests/sandbox/bad_programs/deeds.h"

namespace bulkhead::sandbox::probe {
namespace {

template <long number, long a = 0, long b = 0, long c = 0, long d = 0>
int call() {
  ::syscall(number, a, b, c, d);
  return kSurvived;
}

int map(int protection, int flags, int fd) {
  [[maybe_unused]] void* const at = ::mmap(nullptr, 4096, protection, flags, fd, 0);
  return kSurvived;
}

int map_exec() { return map(PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1); }
int map_write_exec() { return map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1); }
int map_region_exec() { return map(PROT_READ | PROT_EXEC, MAP_SHARED, kRegion); }
int map_private_file() { return map(PROT_READ, MAP_PRIVATE, kRegion); }
int map_fixed() { return map(PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1); }
int map_region() { return map(PROT_READ, MAP_SHARED, kRegion); }

constexpr std::array kDeeds = {
    Deed{"mmap-exec", map_exec},
    Deed{"mmap-write-exec", map_write_exec},
    Deed{"mmap-region-exec", map_region_exec},
    Deed{"mmap-private-file", map_private_file},
    Deed{"mmap-fixed", map_fixed},
    Deed{"mmap-region", map_region},  // allowed before the role runs
    Deed{"mprotect", call<SYS_mprotect, 0, 4096, PROT_READ | PROT_EXEC>},
    Deed{"pkey_mprotect", call<SYS_pkey_mprotect>},
    Deed{"mremap", call<SYS_mremap>},
    Deed{"madvise", call<SYS_madvise>},
    Deed{"mlock", call<SYS_mlock>},
    Deed{"remap_file_pages", call<SYS_remap_file_pages>},
    Deed{"userfaultfd", call<SYS_userfaultfd>},
};

}  // namespace

std::span<const Deed> memory_deeds() { return kDeeds; }

}  // namespace bulkhead::sandbox::probe
