// `bulkhead console`: a VM's first serial port, beside whoever else has it.
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "ipc/control/management_client.h"
#include "tools/bulkhead/manage.h"
#include "tools/bulkhead/print.h"
#include "tools/bulkhead/reach.h"
#include "tools/bulkhead/terminal.h"

namespace bulkhead::cli {
namespace {

constexpr std::byte kEscape{0x01};  // Ctrl-A
constexpr int kLookMs = 30;         // between two looks at the port

class Viewer {
 public:
  explicit Viewer(control::ManagementClient& client) : client_(client) {}

  // The exit status. It ends with the VM, with Ctrl-A x, or with its input.
  int run(bool follow) {
    if (const Status shown = show(); !shown) return fail(shown.error());
    if (!follow) return 0;
    std::optional<RawTerminal> terminal;
    if (auto made = RawTerminal::create(BorrowedFd(STDIN_FILENO)); made) terminal.emplace(std::move(*made));
    if (terminal) terminal->enter();
    while (!left_) {
      pollfd input{.fd = reads_ ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0};
      if (::poll(&input, 1, kLookMs) < 0 && errno != EINTR) break;
      if (input.revents != 0) {
        if (const Status typed = type(); !typed) return fail(typed.error());
      }
      if (const Status shown = show(); !shown) {
        if (shown.error().error_number == control::kPeerClosed) return 0;  // the VM has ended
        return fail(shown.error());
      }
    }
    return 0;
  }

 private:
  Status show() {
    ASSIGN_OR_RETURN(const control::ConsoleOutput output, client_.console(next_));
    next_ = output.next;
    for (std::size_t done = 0; done < output.bytes.size();) {
      const ssize_t n = ::write(STDOUT_FILENO, output.bytes.data() + done, output.bytes.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return make_errno_error("cannot write to standard output");
      done += static_cast<std::size_t>(n);
    }
    return ok();
  }

  Status type() {
    std::array<std::byte, 256> bytes{};
    const ssize_t n = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return ok();
    if (n <= 0) {
      reads_ = false;  // it goes on showing
      return ok();
    }
    std::vector<std::byte> sent;
    for (const std::byte byte : std::span(bytes).first(static_cast<std::size_t>(n))) {
      if (std::exchange(escaped_, false)) {
        left_ = left_ || byte == std::byte{'x'};
        if (byte == kEscape) sent.push_back(byte);
      } else if (byte == kEscape) {
        escaped_ = true;
      } else {
        sent.push_back(byte);
      }
    }
    return client_.type_on_console(sent);
  }

  control::ManagementClient& client_;
  std::uint64_t next_ = 0;
  bool reads_ = true;
  bool escaped_ = false;
  bool left_ = false;
};

}  // namespace

int manage(const ConsoleOptions& options) {
  const auto client = reach(options.name);
  if (!client) return fail(client.error());
  return Viewer(**client).run(options.follow);
}

}  // namespace bulkhead::cli
