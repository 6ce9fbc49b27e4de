#include "vmm/machine/disk_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>

namespace bulkhead::vmm {
namespace {

constexpr std::uint32_t kSector = 512;
constexpr std::uint32_t kPage = 4096;
constexpr std::uint32_t kMostBlock = 4096;  // larger ones no guest driver takes

bool is_block_size(std::uint64_t n) { return n >= kSector && n <= kMostBlock && (n & (n - 1)) == 0; }

Status lock(BorrowedFd disk, const std::string& path, bool read_only) {
  struct flock whole {};
  whole.l_type = read_only ? F_RDLCK : F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(disk.get(), F_OFD_SETLK, &whole) == 0) return ok();
  if (errno == EAGAIN || errno == EACCES)
    return make_error(fmt::format("disk {} is in use: another process has locked it", path));
  // Some file systems know no locks; that alone is no reason to refuse a disk.
  return errno == ENOLCK || errno == EOPNOTSUPP || errno == EINVAL
             ? ok()
             : make_errno_error(fmt::format("cannot lock disk {}", path));
}

// What O_DIRECT asks of addresses and offsets (Linux 6.1 and newer tell; otherwise the safe assumption).
void find_alignment(BorrowedFd disk, DiskGeometry& geometry) {
#ifdef STATX_DIOALIGN
  struct statx info {};
  if (::statx(disk.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN) != 0 &&
      is_block_size(info.stx_dio_offset_align) && info.stx_dio_mem_align != 0 && info.stx_dio_mem_align <= kPage) {
    geometry.memory_align = info.stx_dio_mem_align;
    geometry.logical_block = std::max(geometry.logical_block, info.stx_dio_offset_align);
    return;
  }
#endif
  geometry.memory_align = kPage;
  geometry.logical_block = std::max(geometry.logical_block, kSector);
}

Status inspect_block_device(BorrowedFd disk, const std::string& path, DiskGeometry& geometry) {
  std::uint64_t bytes = 0;
  int logical = 0;
  unsigned physical = 0;
  unsigned optimal = 0;
  if (::ioctl(disk.get(), BLKGETSIZE64, &bytes) != 0 || ::ioctl(disk.get(), BLKSSZGET, &logical) != 0)
    return make_errno_error(fmt::format("cannot tell the size of disk {}", path));
  if (!is_block_size(static_cast<std::uint64_t>(logical)))
    return make_error(fmt::format("disk {} has blocks of {} bytes", path, logical));
  geometry.bytes = bytes;
  geometry.logical_block = static_cast<std::uint32_t>(logical);
  if (::ioctl(disk.get(), BLKPBSZGET, &physical) == 0) geometry.physical_block = physical;
  if (::ioctl(disk.get(), BLKIOOPT, &optimal) == 0) geometry.optimal_io = optimal;
  return ok();
}

}  // namespace

bool same_disk(BorrowedFd one, BorrowedFd other) {
  struct stat a {};
  struct stat b {};
  if (::fstat(one.get(), &a) != 0 || ::fstat(other.get(), &b) != 0) return false;
  if (S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode)) return a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

Result<DiskGeometry> inspect_disk(BorrowedFd disk, const std::string& path) {
  struct stat info {};
  if (::fstat(disk.get(), &info) != 0) return make_errno_error(fmt::format("cannot look at disk {}", path));
  const int flags = ::fcntl(disk.get(), F_GETFL);
  DiskGeometry geometry;
  geometry.read_only = (flags & O_ACCMODE) == O_RDONLY;
  const bool direct = (flags & O_DIRECT) != 0;
  if (S_ISBLK(info.st_mode)) {
    RETURN_IF_ERROR(inspect_block_device(disk, path, geometry));
  } else if (S_ISREG(info.st_mode)) {
    geometry.bytes = static_cast<std::uint64_t>(info.st_size);
    geometry.physical_block = is_block_size(static_cast<std::uint64_t>(info.st_blksize))
                                  ? static_cast<std::uint32_t>(info.st_blksize)
                                  : kSector;
  } else {
    return make_error(fmt::format("disk {} is neither a regular file nor a block device", path));
  }
  if (direct) find_alignment(disk, geometry);
  geometry.physical_block = std::clamp(geometry.physical_block, geometry.logical_block, std::uint32_t{1} << 20);
  if (geometry.bytes < geometry.logical_block)
    return make_error(fmt::format("disk {} is shorter than a sector of {} bytes", path, geometry.logical_block));
  if (geometry.bytes % geometry.logical_block != 0)
    return make_error(fmt::format("disk {} has {} bytes, which is not a whole number of sectors of {} bytes", path,
                                  geometry.bytes, geometry.logical_block));
  geometry.discard = geometry.write_zeroes = !geometry.read_only;
  // A hole in a file of a FUSE server need not read as zeroes (qemu-storage-daemon 7.2: what is no whole cluster stays
  // as it was), and unmapping zeroes are holes.
  struct statfs system {};
  if (::fstatfs(disk.get(), &system) == 0 && system.f_type == FUSE_SUPER_MAGIC) geometry.discard = false;
  RETURN_IF_ERROR(lock(disk, path, geometry.read_only));
  return geometry;
}

}  // namespace bulkhead::vmm
