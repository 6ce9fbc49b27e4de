// NewFiles: files that `bulkhead run` has made for a VM that has not started yet: consoles, sockets. If it never does
// they go again, so that a mistake leaves nothing behind; once it has started they are the VM's. Only a file that is
// still the one that was made is removed. Threading: one thread. Errors: none.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace bulkhead::cli {

class NewFiles {
 public:
  NewFiles() = default;
  NewFiles(NewFiles&& other) noexcept : files_(std::exchange(other.files_, {})) {}
  NewFiles& operator=(NewFiles&& other) noexcept {
    std::swap(files_, other.files_);
    return *this;
  }
  ~NewFiles();

  // It was made just now.
  void add(const std::string& path);
  void keep() { files_.clear(); }

 private:
  struct File {
    std::string path;
    dev_t device;
    ino_t inode;
  };
  std::vector<File> files_;
};

}  // namespace bulkhead::cli
