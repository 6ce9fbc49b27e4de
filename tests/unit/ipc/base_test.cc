// ipc/base: checked arithmetic, ranges, descriptors, rate-limited logging, errors.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "ipc/base/checked.h"
#include "ipc/base/log.h"
#include "ipc/base/printable.h"
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

TEST(Printable, what_drives_a_terminal_is_replaced_and_letters_of_any_kind_stay) {
  const std::pair<std::string_view, std::string_view> texts[] = {
      {"plain ~", "plain ~"},
      {"a\x1b[2J\x7f\b\r\n\t", "a?[2J?????"},
      {"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xa7", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xa7"},
      {"\xc2\x9b"
       "31m",
       "?31m"},  // CSI as UTF-8
      {"\x9b"
       "31m",
       "?31m"},                             // and as a byte
      {"\xc0\x9b", "??"},                   // a control character, longer than need be
      {"\xe2\x80\xaegpj.exe", "?gpj.exe"},  // right to left from here
      {"\xe2\x82", "??"},                   // cut
      {"\xed\xa0\x80\xff", "????"},
  };
  for (const auto& [text, expected] : texts) EXPECT_EQ(printable(text), expected) << expected;
  EXPECT_EQ(printable("a\nb\x1b", '_', Newlines::kKeep), "a\nb_");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a?b");
}

TEST(Log, a_message_is_one_line_of_printable_characters) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd reader(pipe_fds[0]);
  UniqueFd writer(pipe_fds[1]);
  set_log_fd(writer.borrow());
  log(LogLevel::kWarning, "from the guest: {}", "a\nb\x1b[2J\x7f\xc2\x9b!");
  set_log_fd(BorrowedFd(STDERR_FILENO));
  writer.reset();
  char buffer[256] = {};
  const ssize_t n = ::read(reader.get(), buffer, sizeof buffer - 1);
  ASSERT_GT(n, 0);
  EXPECT_EQ(std::string(buffer), "bulkhead: warning: from the guest: a b [2J  !\n");
}

// The VMM's supervisor logs: waiting here for whoever reads would stop the guest.
TEST(Log, a_reader_that_does_not_read_stops_nobody) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd reader(pipe_fds[0]);
  const UniqueFd writer(pipe_fds[1]);
  set_log_fd(writer.borrow());
  constexpr unsigned kLines = 5'000;  // far more than a pipe holds
  for (unsigned i = 0; i < kLines; ++i) log(LogLevel::kInfo, "line {:0>60}", i);
  std::string kept(1U << 20, '\0');
  const ssize_t n = ::read(reader.get(), kept.data(), kept.size());
  ASSERT_GT(n, 0);
  kept.resize(static_cast<std::size_t>(n));
  log(LogLevel::kInfo, "afterwards");
  set_log_fd(BorrowedFd(STDERR_FILENO));
  std::string after(4096, '\0');
  const ssize_t m = ::read(reader.get(), after.data(), after.size());
  ASSERT_GT(m, 0);
  after.resize(static_cast<std::size_t>(m));
  const auto whole = static_cast<std::size_t>(std::count(kept.begin(), kept.end(), '\n'));
  EXPECT_TRUE(kept.ends_with('\n')) << "no line is cut";
  EXPECT_LT(whole, kLines);
  EXPECT_EQ(after, fmt::format("bulkhead: warning: {} lines are missing here: nobody took them\n"
                               "bulkhead: info: afterwards\n",
                               kLines - whole));
}

}  // namespace
}  // namespace bulkhead
