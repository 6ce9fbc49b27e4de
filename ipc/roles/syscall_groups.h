// Which system calls a role needs, said as a few named groups. Plain data: roles (ipc/roles) declare
// groups, sandbox/policies.cc knows what each group permits, and tests/sandbox/golden/ shows the result in
// full.
//
// Trust: compile-time constants of this project; never parsed from a peer.
// Threading: values.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace bulkhead {

enum class SyscallGroup : std::uint8_t {
  kBase,         // the event loop of any device process; every role has it
  kTakeRole,     // mapping regions, epoll_ctl, close, loading the role's own filter: only until the role runs
  kFileIo,       // positioned reads and writes, and flushes, on a backing file that was passed in open
  kPacketIo,     // the offloads of a TAP descriptor that was passed in open (its frames go by kBase's read and writev)
  kIoUring,      // io_uring_enter on a ring that the VMM made and registered
  kUserNetwork,  // sockets of the host's IPv4 and IPv6, and reading what few files its jail holds
  kReleaseRam,   // giving pages of mapped guest memory back to the host: madvise(MADV_REMOVE)
  kSocketRelay,  // taking connections from a listening socket and from the VMM, and ending them
};

inline constexpr std::size_t kSyscallGroupCount = 8;

[[nodiscard]] constexpr std::string_view name_of(SyscallGroup group) {
  constexpr std::array<std::string_view, kSyscallGroupCount> kNames = {
      "base", "take-role", "file-io", "packet-io", "io-uring", "user-network", "release-ram", "socket-relay"};
  return kNames[static_cast<std::size_t>(group)];
}

// A set of groups. kBase is always in it.
class SyscallGroups {
 public:
  constexpr SyscallGroups() = default;
  constexpr SyscallGroups(std::initializer_list<SyscallGroup> groups) {
    for (const SyscallGroup group : groups) bits_ |= bit(group);
  }
  [[nodiscard]] constexpr bool contains(SyscallGroup group) const { return (bits_ & bit(group)) != 0; }
  [[nodiscard]] constexpr SyscallGroups operator|(SyscallGroups other) const {
    SyscallGroups both;
    both.bits_ = bits_ | other.bits_;
    return both;
  }
  constexpr bool operator==(const SyscallGroups&) const = default;

 private:
  static constexpr std::uint32_t bit(SyscallGroup group) { return 1U << static_cast<unsigned>(group); }
  std::uint32_t bits_ = bit(SyscallGroup::kBase);
};

}  // namespace bulkhead
