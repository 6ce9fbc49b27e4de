// enter_jail(): what a device process does to itself before it meets anything hostile. Call it early in
// main, while there is one thread, in a process that spawn() started. Then load a filter
// (sandbox/filter.h): from there on the process can do what its policy lists, to the descriptors it holds,
// and nothing else.
//
//   int main(...) {
//     // parse arguments, take what the host's files can tell
//     auto jail = enter_jail({...});      // warm-up, limits, root, host name, privileges, Landlock
//     load_filter(standby, kProcess);     // stage 1
//     // receive the role: regions, descriptors, filter
//     load_filter(role, kProcess);        // stage 2
//
// Trust: no input from outside has been read so far.
// Threading: the only thread of its process.
// Errors: a step that must hold and does not is an Error, and the process has to end. What the kernel does
// not offer (Landlock, memory-deny-write-execute) is listed in JailReport::missing for the log. Sources:
// pivot_root(2), capabilities(7), landlock(7), prctl(2), setrlimit(2).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ipc/base/result.h"

namespace bulkhead::sandbox {

struct JailLimits {
  std::uint64_t open_files = 128;   // RLIMIT_NOFILE: the highest descriptor number + 1
  std::uint64_t locked_memory = 0;  // bytes
  // RLIMIT_NPROC. More than 0 lets the kernel start that many io_uring workers, which are threads; a filter still
  // allows no process to make one.
  std::uint64_t processes = 0;
  std::optional<std::uint64_t> file_size{};      // bytes; unset: no limit (it would also stop writes to a log file)
  std::optional<std::uint64_t> address_space{};  // bytes; unset: no limit (guest RAM counts here)
};

struct JailOptions {
  std::string hostname = "bulkhead";
  JailLimits limits{};
  std::string name{};  // what ps shows, at most 15 characters; empty: left alone
  // The host's network namespace is kept, and the root holds a copy of the host's /etc/resolv.conf.
  bool host_network = false;
  std::string tftp{};  // a directory of the host that the root holds as kTftpInJail, read-only; empty: none
};
inline constexpr const char* kTftpInJail = "/tftp";

struct JailReport {
  std::vector<std::string> missing;  // protections that this kernel does not offer
};

// All of the below, in this order.
Result<JailReport> enter_jail(const JailOptions& options);

// Makes libc and the C++ runtime do now what they otherwise do at first use and what a filter would kill
// them for: time zone, stdio buffers, messages of strerror, the unwinder, backtraces, allocator keys. Also
// keeps malloc to brk and fixed anonymous mappings (no mremap). Reads host files (/etc/localtime), hence
// comes first.
void warm_libc();
// No core dumps, and `limits`.
Status limit_resources(const JailLimits& limits);
// A new read-only root, empty but for what `options` name; the old one is unmounted. No /proc, no /dev.
Status enter_empty_root(const JailOptions& options = {});
Status set_hostname(const std::string& hostname);
// Securebits, bounding and ambient sets, all capabilities, no_new_privs, dumpable, umask.
Status drop_privileges();
// Landlock: every right that this kernel knows, denied, but for what `options` need. False: the kernel has none.
Result<bool> deny_by_landlock(const JailOptions& options = {});
// No memory may become executable that was writable (Linux 6.3). False: the kernel cannot.
Result<bool> deny_exec_gain();

}  // namespace bulkhead::sandbox
