#include "ipc/shm/region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/interprocess/exceptions.hpp>

namespace bulkhead::ipc {
namespace {

namespace bi = boost::interprocess;

// What Boost.Interprocess calls a MemoryMappable: a thing with a mapping handle.
struct MappableFd {
  int fd;
  [[nodiscard]] bi::mapping_handle_t get_mapping_handle() const {
    return bi::ipcdetail::mapping_handle_from_file_handle(fd);
  }
};

constexpr int kRequiredSeals = F_SEAL_SHRINK | F_SEAL_GROW;

Result<bi::mapped_region> map(BorrowedFd fd, std::size_t size, bi::mode_t mode) {
  try {
    return bi::mapped_region(MappableFd{fd.get()}, mode, 0, size);
  } catch (const bi::interprocess_exception& error) {
    return make_errno_error("cannot map a shared region", error.get_native_error());
  }
}

Status check_import(BorrowedFd fd, std::size_t size) {
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return make_errno_error("cannot look at a shared region");
  if (info.st_size < 0 || static_cast<std::size_t>(info.st_size) != size)
    return make_error("a shared region does not have the size that was agreed");
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kRequiredSeals) != kRequiredSeals)
    return make_error("a shared region is not sealed against truncation");
  return ok();
}

}  // namespace

Result<WritableRegion> WritableRegion::create(const char* name, std::size_t size, PeerRights peer) {
  WritableRegion region;
  region.fd_.reset(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!region.fd_.valid()) return make_errno_error("cannot create a shared region");
  if (::ftruncate(region.fd_.get(), static_cast<off_t>(size)) != 0)
    return make_errno_error("cannot size a shared region");
  ASSIGN_OR_RETURN(region.mapping_, map(region.fd(), size, bi::read_write));
  int seals = kRequiredSeals | F_SEAL_SEAL;
  if (peer == PeerRights::kReadOnly) seals |= F_SEAL_FUTURE_WRITE;
  if (::fcntl(region.fd_.get(), F_ADD_SEALS, seals) != 0) return make_errno_error("cannot seal a shared region");
  return region;
}

Result<WritableRegion> WritableRegion::import(UniqueFd fd, std::size_t size) {
  RETURN_IF_ERROR(check_import(fd.borrow(), size));
  WritableRegion region;
  ASSIGN_OR_RETURN(region.mapping_, map(fd.borrow(), size, bi::read_write));
  region.fd_ = std::move(fd);
  return region;
}

Result<WritableRegion> WritableRegion::map_borrowed(BorrowedFd fd, std::size_t size) {
  RETURN_IF_ERROR(check_import(fd, size));
  WritableRegion region;
  ASSIGN_OR_RETURN(region.mapping_, map(fd, size, bi::read_write));
  return region;
}

Result<ReadOnlyRegion> ReadOnlyRegion::import(UniqueFd fd, std::size_t size) {
  RETURN_IF_ERROR(check_import(fd.borrow(), size));
  ReadOnlyRegion region;
  ASSIGN_OR_RETURN(region.mapping_, map(fd.borrow(), size, bi::read_only));
  region.fd_ = std::move(fd);
  return region;
}

}  // namespace bulkhead::ipc
