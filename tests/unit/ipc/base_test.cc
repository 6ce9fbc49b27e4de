// ipc/base: checked arithmetic, ranges, descriptors, rate-limited logging, errors.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "ipc/base/checked.h"
#include "ipc/base/log.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead {
namespace {

TEST(Checked, sums_and_products_that_do_not_fit_are_nothing) {
  EXPECT_EQ(checked_add<std::uint64_t>(UINT64_MAX - 1, 1), UINT64_MAX);
  EXPECT_FALSE(checked_add<std::uint64_t>(UINT64_MAX, 1));
  EXPECT_EQ(checked_mul<std::uint32_t>(65536, 65535), 65536U * 65535U);
  EXPECT_FALSE(checked_mul<std::uint32_t>(65536, 65536));
}

TEST(Checked, fits_takes_any_three_numbers) {
  EXPECT_TRUE(fits(0, 0, 0));
  EXPECT_TRUE(fits(4, 4, 8));
  EXPECT_FALSE(fits(5, 4, 8));
  EXPECT_TRUE(fits(8, 0, 8));
  EXPECT_FALSE(fits(9, 0, 8));
  EXPECT_FALSE(fits(UINT64_MAX, 2, UINT64_MAX));
  EXPECT_FALSE(fits(1, UINT64_MAX, UINT64_MAX));
}

TEST(Range, it_is_never_empty_and_never_wraps) {
  EXPECT_FALSE(Range::make(0, 0));
  EXPECT_FALSE(Range::make(2, UINT64_MAX));
  const auto top = Range::make(UINT64_MAX, 1);
  ASSERT_TRUE(top);
  EXPECT_EQ(top->last(), UINT64_MAX);
  const auto all_but_one = Range::make(1, UINT64_MAX);
  ASSERT_TRUE(all_but_one);
  EXPECT_EQ(all_but_one->last(), UINT64_MAX);
}

TEST(Range, neighbours_do_not_overlap) {
  const Range low = Range::make(10, 10).value();
  EXPECT_TRUE(low.contains(10));
  EXPECT_TRUE(low.contains(19));
  EXPECT_FALSE(low.contains(20));
  EXPECT_FALSE(low.overlaps(Range::make(20, 1).value()));
  EXPECT_FALSE(low.overlaps(Range::make(9, 1).value()));
  EXPECT_TRUE(low.overlaps(Range::make(19, 5).value()));
  EXPECT_TRUE(low.overlaps(Range::make(0, 100).value()));
}

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST(UniqueFd, it_closes_once_and_moves) {
  int number = -1;
  {
    UniqueFd first = UniqueFd::create_eventfd().value();
    number = first.get();
    EXPECT_NE(::fcntl(number, F_GETFD) & FD_CLOEXEC, 0);
    UniqueFd second = std::move(first);
    EXPECT_FALSE(first.valid());  // NOLINT: what a moved-from descriptor is, is the test
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(UniqueFd, errors_name_the_path) {
  const auto fd = UniqueFd::open("/nonexistent/file", O_RDONLY);
  ASSERT_FALSE(fd);
  EXPECT_NE(fd.error().message.find("/nonexistent/file"), std::string::npos);
  EXPECT_EQ(fd.error().error_number, ENOENT);
}

TEST(EventFd, signals_add_up_and_a_full_one_is_signalled_enough) {
  const UniqueFd event = UniqueFd::create_eventfd().value();
  EXPECT_EQ(drain_eventfd(event.borrow()), 0U);
  signal_eventfd(event.borrow());
  signal_eventfd(event.borrow());
  EXPECT_EQ(drain_eventfd(event.borrow()), 2U);
  const std::uint64_t full = UINT64_MAX - 1;
  ASSERT_EQ(::write(event.get(), &full, sizeof full), static_cast<ssize_t>(sizeof full));
  signal_eventfd(event.borrow());  // returns
  EXPECT_EQ(drain_eventfd(event.borrow()), full);
}

TEST(LogLimiter, it_lets_a_burst_through_and_then_every_doubling) {
  LogLimiter limiter(4);
  std::string allowed;
  for (int i = 1; i <= 40; ++i) allowed += limiter.allow() ? std::to_string(i) + " " : "";
  EXPECT_EQ(allowed, "1 2 3 4 8 16 32 ");
  EXPECT_EQ(limiter.count(), 40U);
}

std::string logged(const char* text) {
  int pipe_fds[2];
  EXPECT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd reader(pipe_fds[0]);
  UniqueFd writer(pipe_fds[1]);
  set_log_fd(writer.borrow());
  log(LogLevel::kWarning, "from the guest: {}", text);
  set_log_fd(BorrowedFd(STDERR_FILENO));
  writer.reset();
  char buffer[256] = {};
  EXPECT_GT(::read(reader.get(), buffer, sizeof buffer - 1), 0);
  return buffer;
}

TEST(Log, a_message_is_one_line_of_printable_characters) {
  EXPECT_EQ(logged("a\nb\x1b[2J\x7f"), "bulkhead: warning: from the guest: a b [2J \n");
}

// A terminal may take 9Bh, alone or as UTF-8, for what ESC [ starts.
TEST(Log, eight_bit_control_characters_are_no_text) {
  EXPECT_EQ(logged("a\x9b"
                   "2Jb\xc2\x9b"
                   "1mc\xe2\x82"),
            "bulkhead: warning: from the guest: a 2Jb  1mc  \n");
  EXPECT_EQ(logged("\u00e9 \u20ac"), "bulkhead: warning: from the guest: \u00e9 \u20ac\n")
      << "text is text";
}

}  // namespace
}  // namespace bulkhead
