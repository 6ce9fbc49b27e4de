#include "vmm/firmware/byte_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "ipc/base/checked.h"

namespace bulkhead::vmm {

namespace {

Error cut_short(const std::string& name, std::uint64_t offset, std::uint64_t wanted, std::uint64_t size) {
  return make_error(fmt::format("{} is cut short: {} bytes are needed at offset {}, but it has {} bytes", name, wanted,
                                offset, size));
}

}  // namespace

Result<FileSource> FileSource::open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer; it changes nothing for the kinds that are
  // accepted.
  auto fd = UniqueFd::open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd) return std::move(fd).error();
  return from_fd(std::move(*fd), path);
}

Result<FileSource> FileSource::from_fd(UniqueFd fd, std::string name) {
  FileSource source(std::move(fd), std::move(name));
  RETURN_IF_ERROR(source.refresh());
  return source;
}

Status FileSource::refresh() {
  struct stat info {};
  if (::fstat(fd_.get(), &info) != 0) return make_errno_error("cannot look at " + name_);
  if (S_ISREG(info.st_mode)) {
    size_ = static_cast<std::uint64_t>(info.st_size);
    return ok();
  }
  if (S_ISBLK(info.st_mode)) {
    std::uint64_t bytes = 0;
    if (::ioctl(fd_.get(), BLKGETSIZE64, &bytes) != 0) return make_errno_error("cannot learn the size of " + name_);
    size_ = bytes;
    return ok();
  }
  return make_error(name_ + (S_ISDIR(info.st_mode) ? " is a directory, not a file" : " is not a regular file"));
}

Status FileSource::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (!fits(offset, out.size(), size_)) return cut_short(name_, offset, out.size(), size_);
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = ::pread(fd_.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (got > 0) {
      done += static_cast<std::size_t>(got);
    } else if (got == 0) {
      return cut_short(name_, offset, out.size(), offset + done);
    } else if (errno != EINTR) {
      return make_errno_error("cannot read " + name_);
    }
  }
  return ok();
}

Status MemorySource::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (!fits(offset, out.size(), bytes_.size())) return cut_short(name_, offset, out.size(), bytes_.size());
  if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
  return ok();
}

}  // namespace bulkhead::vmm
