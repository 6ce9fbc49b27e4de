// Stands in for bulkhead-device where a test wants one that is hostile to whoever reads its messages.
#include <unistd.h>

#include <string_view>

int main() {
  constexpr std::string_view kText =
      "a\x1b[2J\xc2\x9b!\n\x1b]0;mine\a\r\x9b"
      "31m";
  return ::write(STDERR_FILENO, kText.data(), kText.size()) > 0 ? 3 : 4;
}
