#include "tools/bulkhead/flow.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>

namespace bulkhead::cli {
namespace {

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Pipe make_pipe() {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

TEST(Flow, carries_every_byte_through_a_slow_sink) {
  const Pipe in = make_pipe();
  const Pipe out = make_pipe();
  Flow flow(in.read.borrow(), out.write.borrow());
  std::string sent;
  std::string got;
  std::size_t produced = 0;
  while (got.size() < 300000) {
    std::string block;
    for (int i = 0; i < 1000; ++i) block += static_cast<char>(produced++ % 251);
    const ssize_t written = ::write(in.write.get(), block.data(), block.size());
    if (written > 0) sent += block.substr(0, static_cast<std::size_t>(written));
    produced = sent.size();
    if (flow.wants_read()) flow.put(flow.read_once());
    for (int i = 0; i < 2 && flow.wants_write(); ++i) EXPECT_TRUE(flow.write_once());
    char buffer[700];
    const ssize_t taken = ::read(out.read.get(), buffer, sizeof buffer);
    if (taken > 0) got.append(buffer, static_cast<std::size_t>(taken));
    ASSERT_LE(flow.pending(), Flow::kCapacity);
  }
  EXPECT_EQ(got, sent.substr(0, got.size()));
}

TEST(Flow, full_buffer_holds_the_source_back) {
  const Pipe in = make_pipe();
  Flow flow(in.read.borrow(), BorrowedFd());
  EXPECT_TRUE(flow.wants_read());
  flow.put(std::string(Flow::kCapacity / 2, 'x'));
  EXPECT_FALSE(flow.wants_read());
  EXPECT_FALSE(flow.is_finished());
}

TEST(Flow, ends_with_its_source_once_all_is_written) {
  Pipe in = make_pipe();
  const Pipe out = make_pipe();
  Flow flow(in.read.borrow(), out.write.borrow());
  flow.put("abc");
  in.write.reset();
  flow.put(flow.read_once());
  EXPECT_FALSE(flow.wants_read());
  EXPECT_FALSE(flow.is_finished());
  EXPECT_TRUE(flow.write_once());
  EXPECT_TRUE(flow.is_finished());
}

TEST(Flow, failed_sink_is_told_once_and_drops_the_rest) {
  ::signal(SIGPIPE, SIG_IGN);
  const Pipe in = make_pipe();
  Pipe out = make_pipe();
  Flow flow(in.read.borrow(), out.write.borrow());
  flow.put("abc");
  out.read.reset();
  EXPECT_FALSE(flow.write_once());
  flow.put("more");
  EXPECT_FALSE(flow.wants_write());
  EXPECT_TRUE(flow.wants_read());
}

TEST(EscapeFilter, passes_ordinary_bytes) {
  EscapeFilter filter;
  const std::string all("\0\x02hello\x7f\xff", 9);
  EXPECT_EQ(filter.filter(all).bytes, all);
}

TEST(EscapeFilter, knows_its_sequences) {
  EscapeFilter filter;
  EXPECT_EQ(filter
                .filter("ab\x01"
                        "a"
                        "c")
                .bytes,
            "ab\x01"
            "c");
  EXPECT_EQ(filter.filter("\x01h").command, EscapeFilter::Command::kHelp);
  const auto end = filter.filter("ab\x01xyz");
  EXPECT_EQ(end.command, EscapeFilter::Command::kEnd);
  EXPECT_EQ(end.bytes, "ab");
}

TEST(EscapeFilter, sequence_may_come_in_two_reads) {
  EscapeFilter filter;
  EXPECT_EQ(filter.filter("\x01").bytes, "");
  EXPECT_EQ(filter.filter("x").command, EscapeFilter::Command::kEnd);
}

TEST(EscapeFilter, other_pairs_pass_unchanged) {
  EscapeFilter filter;
  EXPECT_EQ(filter.filter("\x01q\x01\x01").bytes, "\x01q\x01\x01");
}

}  // namespace
}  // namespace bulkhead::cli
