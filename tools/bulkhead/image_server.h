// ImageServer: a disk image that is no raw file, shown as one. A process of its own (qemu-storage-daemon) exports it
// through FUSE; what it hands out is an open descriptor of that file, and everything that Bulkhead does with disks then
// happens to it as to any raw file: locks, geometry, deaths of the disk's process.
//
// Why a death cannot lose or repeat a write here: the server is not what gets killed, and a FUSE request that it has
// taken is waited for by its caller even if that was killed (Linux, fs/fuse/dev.c: request_wait_answer).
//
// The image is hostile: its server has namespaces of its own (user, mount, pid, net, ipc, uts) and a root file system
// that holds the system's programs, read-only, and this one image. An image that names other files (a backing file, an
// external data file) is refused, since it could name any file of its user.
//
// The server ends when its ImageServer does, after it has written everything back, and also when this program is gone.
// If the server itself dies, the guest sees I/O errors, and one line says so on standard error.
// Threading: one thread. Errors: one sentence. Trust: the image and its server are not believed: what comes back is one
// descriptor, which is looked at like any other disk's.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "ipc/control/channel.h"

namespace bulkhead::cli {

enum class ImageFormat { kRaw, kQcow2 };

// Whether the file begins as a qcow2 image does.
[[nodiscard]] bool looks_like_qcow2(BorrowedFd image);

class ImageServer {
 public:
  struct Options {
    std::string what;  // the disk, for messages
    bool read_only = false;
    bool direct = false;
    std::string program = "qemu-storage-daemon";
    std::chrono::milliseconds end_patience{60'000};  // with a server that was told to end; then it is killed
  };

  // `image`: a qcow2 image, open for reading, and for writing unless read_only.
  static Result<ImageServer> start(BorrowedFd image, const Options& options);
  ImageServer(ImageServer&& other) noexcept;
  ImageServer& operator=(ImageServer&&) = delete;
  ImageServer(const ImageServer&) = delete;
  ImageServer& operator=(const ImageServer&) = delete;
  // Waits until the image is written back and closed, or that takes too long.
  ~ImageServer();

  // The disk, as a raw file. Once.
  [[nodiscard]] UniqueFd take_disk() { return std::move(disk_); }
  [[nodiscard]] pid_t keeper() const { return keeper_; }

 private:
  ImageServer() = default;

  control::ControlChannel channel_;  // end of file tells the keeper to end
  pid_t keeper_ = -1;                // a child of ours, in the namespaces; the server is its child
  UniqueFd disk_;
};

}  // namespace bulkhead::cli
