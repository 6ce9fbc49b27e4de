#include "tools/bulkhead/new_files.h"

#include <sys/stat.h>
#include <unistd.h>

namespace bulkhead::cli {

void NewFiles::add(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) == 0) files_.push_back({path, info.st_dev, info.st_ino});
}

NewFiles::~NewFiles() {
  for (const File& file : files_) {
    struct stat info {};
    if (::lstat(file.path.c_str(), &info) == 0 && info.st_dev == file.device && info.st_ino == file.inode)
      ::unlink(file.path.c_str());
  }
}

}  // namespace bulkhead::cli
