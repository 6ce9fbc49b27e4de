// Text that somebody else wrote (a guest, a device process, a file's name), made fit for a terminal and for
// a log: no byte of it can move the cursor, change colours or begin a line of its own. Errors: none. Trust:
// takes any bytes. Threading: pure.
#pragma once

#include <string>
#include <string_view>

namespace bulkhead {

enum class Newlines : bool { kReplace, kKeep };

// Well-formed UTF-8 stays. Control characters (the C1 set among them, which UTF-8 terminals obey), marks
// that reverse the direction of writing, and every byte that is no UTF-8 become `replacement`.
[[nodiscard]] std::string printable(std::string_view text, char replacement = '?',
                                    Newlines newlines = Newlines::kReplace);

}  // namespace bulkhead
