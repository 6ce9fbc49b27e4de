// FAILPOINT(name): a named step on which a test may let the process die (DESIGN.md, section 4: crash
// points).
//
// In a build without BULKHEAD_FAILPOINTS, which is every build that makes a program, it is nothing at all.
// Tests link the library devhost_failpoints; what they hang in here is called at each step, in the thread
// that gets there.
#pragma once

#ifdef BULKHEAD_FAILPOINTS

namespace bulkhead::devproc::failpoint {

inline void (*on_pass)(const char* name) = nullptr;

inline void pass(const char* name) {
  if (on_pass != nullptr) on_pass(name);
}

}  // namespace bulkhead::devproc::failpoint

#define FAILPOINT(name) ::bulkhead::devproc::failpoint::pass(name)
#else
#define FAILPOINT(name) static_cast<void>(0)
#endif
