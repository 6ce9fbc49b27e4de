// Plain output that cannot throw: a closed or full standard stream must not keep `bulkhead` from cleaning
// up.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string>

namespace bulkhead::cli {

inline void print_out(const std::string& text) { static_cast<void>(std::fputs(text.c_str(), stdout)); }
// "bulkhead: SENTENCE" on standard error.
inline void complain(const std::string& sentence, const char* end_of_line = "\n") {
  const std::string line = fmt::format("bulkhead: {}{}", sentence, end_of_line);
  static_cast<void>(std::fputs(line.c_str(), stderr));
}

}  // namespace bulkhead::cli
