// Publication: stores into guest memory that are made exactly once, whatever dies (DESIGN.md, section 4, "Exactly
// once"). The state region's header counts them: `published`. What is to be stored is in the commit; then each is
//
//       movq value, (place)      P: the guest may see it from here on, and use the place for something else
//   Q:  incq published           directly behind it
//
// A process that died before P or after Q left the count true. Only between the two it did not, and then its
// instruction pointer stood at Q: whoever learns of a death by the exit stop does Q's work (settle_publication), before
// a successor begins. Where Q is, each process says in `publish_mark` before it publishes anything; what it says there
// can harm nothing but its own count.
//
// Threading: the process alone while it lives, then whoever buries it. Trust: both words are the process's.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace bulkhead::ipc {

struct PublicationWords {
  std::atomic<std::uint64_t> published;     // stores that were made, ever
  std::atomic<std::uint64_t> publish_mark;  // the address of Q in the process that plays the role; 0: not told
};
static_assert(sizeof(PublicationWords) == 16);

// As they are to be for the successor of a process that died at `instruction`. The mark was that process's alone.
struct SettledPublication {
  std::uint64_t published = 0;
  std::uint64_t publish_mark = 0;
};
[[nodiscard]] constexpr SettledPublication settle_publication(std::uint64_t published, std::uint64_t publish_mark,
                                                              std::uint64_t instruction) {
  return {published + (publish_mark != 0 && publish_mark == instruction ? 1 : 0), 0};
}

}  // namespace bulkhead::ipc
