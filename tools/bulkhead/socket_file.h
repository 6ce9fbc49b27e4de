// SocketFile: a listening Unix socket that goes with us.
//
// One that nobody listens on any more, left behind by a program that was killed, is replaced; any other file is left
// alone. Errors: one sentence.
#pragma once

#include <string>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::cli {

class SocketFile {
 public:
  SocketFile() = default;
  // `option`: for messages. Only this user may connect.
  static Result<SocketFile> listen(const std::string& option, const std::string& path);
  SocketFile(SocketFile&& other) noexcept;
  SocketFile& operator=(SocketFile&& other) noexcept;
  SocketFile(const SocketFile&) = delete;
  SocketFile& operator=(const SocketFile&) = delete;
  ~SocketFile();

  [[nodiscard]] UniqueFd take_socket() { return std::move(socket_); }

 private:
  std::string path_;  // empty: nothing is to be removed
  UniqueFd socket_;
};

}  // namespace bulkhead::cli
