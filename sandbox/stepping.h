// Stepping, for tests alone: a drill's signal (Tracer::make_deadly) ends its process not where it meets it, but so many
// instructions later, and the tracer leads the process there step by step.
//
// Only a program built with BULKHEAD_STEPPING has it, which is none that users get. There the environment variable
// BULKHEAD_STEPPING_SEED seeds the numbers, and each is told on standard error. Threading: the tracer's thread.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace bulkhead::sandbox::stepping {

#ifdef BULKHEAD_STEPPING
inline constexpr bool kEnabled = true;
// How many instructions the process may still begin; at least 1.
std::uint64_t draw(pid_t pid);
#else
inline constexpr bool kEnabled = false;
inline std::uint64_t draw(pid_t /*pid*/) { return 1; }
#endif

}  // namespace bulkhead::sandbox::stepping
