// StuckFile: a file of 1 MiB whose server is gone as soon as somebody reads it: what a disk on a dead network file
// system is to its VM. It is all there is on a FUSE file system of its own, whose server is a thread here.
//
// Needs root and /dev/fuse: mounted() is false without. Its end lets go whoever waits.
// Source: Linux include/uapi/linux/fuse.h.
#pragma once

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>

#include "ipc/base/unique_fd.h"

namespace bulkhead::kvmtest {

class StuckFile {
 public:
  StuckFile(std::string directory, std::string boot) : directory_(std::move(directory)), boot_(std::move(boot)) {
    std::filesystem::create_directories(directory_);
    fuse_.reset(::open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!fuse_.valid()) return;
    const std::string options =
        "fd=" + std::to_string(fuse_.get()) + ",rootmode=40000,user_id=0,group_id=0,allow_other";
    mounted_ = ::mount("stuck", directory_.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) == 0;
    if (mounted_) server_ = std::thread([this] { serve(); });
  }
  ~StuckFile() {
    if (mounted_) ::umount2(directory_.c_str(), MNT_DETACH);
    over_ = true;
    if (server_.joinable()) server_.join();
  }
  StuckFile(const StuckFile&) = delete;
  StuckFile& operator=(const StuckFile&) = delete;

  [[nodiscard]] bool mounted() const { return mounted_; }
  [[nodiscard]] std::string path() const { return directory_ + "/disk"; }
  [[nodiscard]] unsigned writes() const { return writes_; }
  void stick() { sticks_ = true; }
  // Requests that nobody will ever answer.
  [[nodiscard]] unsigned stuck() const { return stuck_; }

 private:
  static constexpr std::uint64_t kFile = 2;  // the root is 1
  static constexpr std::uint64_t kBytes = 1 << 20;

  void serve() {
    std::array<char, 256 << 10> bytes;
    while (!over_) {
      pollfd ready{fuse_.get(), POLLIN, 0};
      ::poll(&ready, 1, 20);
      const ssize_t got = ::read(fuse_.get(), bytes.data(), bytes.size());
      if (got < static_cast<ssize_t>(sizeof(fuse_in_header))) continue;
      fuse_in_header header;
      std::memcpy(&header, bytes.data(), sizeof header);
      answer(header, bytes.data() + sizeof header);
    }
    fuse_.reset();  // ends what is stuck
  }
  void answer(const fuse_in_header& header, const char* body) {
    switch (header.opcode) {
      case FUSE_INIT: {
        fuse_init_in in;
        std::memcpy(&in, body, 16);
        fuse_init_out out{};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = std::min<std::uint32_t>(in.minor, 31);
        out.max_write = 128 << 10;
        return reply(header, out);
      }
      case FUSE_LOOKUP: {
        if (std::strcmp(body, "disk") != 0) return refuse(header, ENOENT);
        fuse_entry_out out{};
        out.nodeid = kFile;
        out.attr = attributes(kFile);
        return reply(header, out);
      }
      case FUSE_GETATTR: {
        fuse_attr_out out{};
        out.attr = attributes(header.nodeid);
        return reply(header, out);
      }
      case FUSE_OPEN:
      case FUSE_OPENDIR: {
        fuse_open_out out{};
        return reply(header, out);
      }
      case FUSE_READ: {
        if (sticks_) return stick_to(header);
        fuse_read_in in;
        std::memcpy(&in, body, sizeof in);
        return give(header, in.offset, in.size);
      }
      case FUSE_WRITE: {
        if (sticks_) return stick_to(header);
        ++writes_;
        fuse_write_in in;
        std::memcpy(&in, body, sizeof in);
        fuse_write_out out{};
        out.size = in.size;
        return reply(header, out);
      }
      case FUSE_FSYNC:
        if (sticks_) return stick_to(header);
        return refuse(header, 0);
      case FUSE_INTERRUPT:
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET: return;
      case FUSE_FLUSH:
      case FUSE_RELEASE:
      case FUSE_RELEASEDIR: return refuse(header, 0);
      default: return refuse(header, ENOSYS);
    }
  }
  static fuse_attr attributes(std::uint64_t node) {
    fuse_attr all{};
    all.ino = node;
    all.mode = node == kFile ? S_IFREG | 0666U : S_IFDIR | 0755U;
    all.nlink = 1;
    all.size = node == kFile ? kBytes : 0U;
    all.blocks = all.size / 512;
    all.blksize = 4096;
    return all;
  }
  template <class Body>
  void reply(const fuse_in_header& to, const Body& body) {
    std::array<char, sizeof(fuse_out_header) + sizeof(Body)> bytes;
    const fuse_out_header header{.len = bytes.size(), .error = 0, .unique = to.unique};
    std::memcpy(bytes.data(), &header, sizeof header);
    std::memcpy(bytes.data() + sizeof header, &body, sizeof body);
    (void)!::write(fuse_.get(), bytes.data(), bytes.size());
  }
  void give(const fuse_in_header& to, std::uint64_t offset, std::uint32_t size) {
    const std::uint64_t end = std::min<std::uint64_t>(offset + size, kBytes);
    std::string bytes(sizeof(fuse_out_header), '\0');
    for (std::uint64_t at = offset; at < end; ++at) bytes += at < boot_.size() ? boot_[at] : '\0';
    const fuse_out_header header{.len = static_cast<std::uint32_t>(bytes.size()), .error = 0, .unique = to.unique};
    std::memcpy(bytes.data(), &header, sizeof header);
    (void)!::write(fuse_.get(), bytes.data(), bytes.size());
  }
  void stick_to(const fuse_in_header& /*request*/) { ++stuck_; }
  void refuse(const fuse_in_header& to, int error) {
    const fuse_out_header header{.len = sizeof header, .error = -error, .unique = to.unique};
    (void)!::write(fuse_.get(), &header, sizeof header);
  }

  std::string directory_;
  std::string boot_;
  UniqueFd fuse_;
  bool mounted_ = false;
  std::atomic<bool> over_{false};
  std::atomic<bool> sticks_{false};
  std::atomic<unsigned> writes_{0};
  std::atomic<unsigned> stuck_{0};
  std::thread server_;
};

}  // namespace bulkhead::kvmtest
