// Region: memory that the VMM shares with one device process.
//
// A region is a sealed memfd, mapped through Boost.Interprocess. The VMM creates it and passes the
// descriptor; size and seals are checked again on import, so a mapping can never fault because somebody
// truncated the file. Rights can only be given up: a region that was sealed read-only for others stays so.
//
// Trust: the bytes of a region that a device process may write are hostile to the VMM, always.
// Threading: create and import anywhere; the bytes follow the rules of what lies in them.
// Errors: Result with one sentence. Source: memfd_create(2), fcntl(2) "File Sealing".
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <cstddef>
#include <span>
#include <string_view>

#include "ipc/base/unique_fd.h"

namespace bulkhead::ipc {

enum class PeerRights { kReadOnly, kReadWrite };

class WritableRegion {
 public:
  // `size` bytes of zeroes, mapped read-write here. With kReadOnly nobody can make another writable
  // mapping of it, not even through the same descriptor (F_SEAL_FUTURE_WRITE).
  static Result<WritableRegion> create(const char* name, std::size_t size, PeerRights peer);
  static Result<WritableRegion> import(UniqueFd fd, std::size_t size);
  // The same of a descriptor that stays somebody else's; fd() is then none.
  static Result<WritableRegion> map_borrowed(BorrowedFd fd, std::size_t size);

  [[nodiscard]] std::span<std::byte> bytes() const {
    return {static_cast<std::byte*>(mapping_.get_address()), mapping_.get_size()};
  }
  template <class T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(mapping_.get_address());
  }
  [[nodiscard]] BorrowedFd fd() const { return fd_.borrow(); }

 private:
  UniqueFd fd_;
  boost::interprocess::mapped_region mapping_;
};

class ReadOnlyRegion {
 public:
  static Result<ReadOnlyRegion> import(UniqueFd fd, std::size_t size);

  template <class T>
  [[nodiscard]] const T* as() const {
    return static_cast<const T*>(mapping_.get_address());
  }
  [[nodiscard]] std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(mapping_.get_address()), mapping_.get_size()};
  }

 private:
  UniqueFd fd_;
  boost::interprocess::mapped_region mapping_;
};

}  // namespace bulkhead::ipc
