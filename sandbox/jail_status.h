// JailStatus: what /proc says of a process's confinement, for tests and for `bulkhead devices`.
//
// Trust: /proc is the kernel's word. Fields are about a process that may die meanwhile: that is an Error.
// Threading: pure. Errors: one sentence, naming the pid.
// Needs: the process's parent (which owns its user namespace), or root.
// Sources: proc(5), namespaces(7).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ipc/base/result.h"

namespace bulkhead::sandbox {

struct JailStatus {
  int seccomp_mode = 0;     // 2: filter
  int seccomp_filters = 0;  // how many are stacked
  bool no_new_privs = false;
  int threads = 0;
  std::uint64_t cap_effective = 0;
  std::uint64_t cap_permitted = 0;
  std::uint64_t cap_inheritable = 0;
  std::uint64_t cap_bounding = 0;
  std::uint64_t cap_ambient = 0;
  uid_t uid = 0;  // as seen by the reader
  gid_t gid = 0;
  std::vector<gid_t> groups;
  std::map<std::string, std::string> namespaces;  // "net" -> "net:[4026531840]"
  std::map<int, std::string> descriptors;         // 3 -> "socket:[1234]"
  std::vector<std::string> root_entries;          // what its "/" holds, "." and ".." apart
  bool root_read_only = false;
  std::vector<std::string> mappings;  // the lines of maps, one for each mapping

  // "user+mnt+pid+net+ipc+uts+cgroup seccomp:2 caps:none nnp": one cell of the table of `bulkhead devices`.
  [[nodiscard]] std::string summary(const JailStatus& other) const;
};

Result<JailStatus> read_jail_status(pid_t pid);

}  // namespace bulkhead::sandbox
