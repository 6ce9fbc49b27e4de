// ByteSource: an untrusted file as bytes at offsets. FileSource reads an open descriptor with pread(2), so
// a file that shrinks under it gives an error, never a signal; MemorySource serves tests and fuzzers.
// Units: bytes. Errors: a read that the file does not hold in full is an error that names the file and
// says "cut short". Threading: one thread. Trust: what comes out is hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::vmm {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  [[nodiscard]] virtual const std::string& name() const = 0;
  [[nodiscard]] virtual std::uint64_t size() const = 0;
  [[nodiscard]] virtual Status read(std::uint64_t offset, std::span<std::byte> out) const = 0;

  template <class T>
  [[nodiscard]] Result<T> load(std::uint64_t offset) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    RETURN_IF_ERROR(read(offset, std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }
};

class FileSource final : public ByteSource {
 public:
  // Only regular files and block devices; the size is taken anew by refresh().
  static Result<FileSource> open(const std::string& path);
  static Result<FileSource> from_fd(UniqueFd fd, std::string name);
  Status refresh();

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] std::uint64_t size() const override { return size_; }
  [[nodiscard]] Status read(std::uint64_t offset, std::span<std::byte> out) const override;

 private:
  FileSource(UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  UniqueFd fd_;
  std::string name_;
  std::uint64_t size_ = 0;
};

class MemorySource final : public ByteSource {
 public:
  MemorySource(std::span<const std::byte> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] Status read(std::uint64_t offset, std::span<std::byte> out) const override;

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
};

}  // namespace bulkhead::vmm
