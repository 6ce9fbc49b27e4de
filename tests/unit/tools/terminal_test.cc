// `bulkhead run` on a terminal: raw mode while the VM runs, given back whatever happens.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <csignal>
#include <thread>

#include "tests/unit/tools/program.h"

namespace bulkhead::cli {
namespace {

using namespace std::chrono_literals;
using test::Running;
using test::Scratch;

TEST(RunOnTerminal, is_raw_while_the_vm_runs_and_given_back_at_its_end) {
  const Scratch scratch;
  Running program = Running::on_terminal(scratch.run("echo"));
  EXPECT_FALSE(program.terminal_is_raw());
  ASSERT_TRUE(program.expect_raw(true));
  program.type("hello\rquit");
  ASSERT_TRUE(program.expect("hello\rquit"));  // the carriage return untouched
  EXPECT_TRUE(program.expect_raw(false));
  EXPECT_EQ(program.wait(), 0);
  EXPECT_FALSE(program.terminal_is_raw());
}

TEST(RunOnTerminal, interrupt_and_suspend_characters_reach_the_guest) {
  const Scratch scratch;
  Running program = Running::on_terminal(scratch.run("echo"));
  ASSERT_TRUE(program.expect_raw(true));
  program.type(
      "\x03\x1a\x1c"
      "end");
  EXPECT_TRUE(
      program.expect("\x03\x1a\x1c"
                     "end"));
  program.type("quit");
  EXPECT_EQ(program.wait(), 0);
}

TEST(RunOnTerminal, escape_ends_the_vm) {
  const Scratch scratch;
  Running program = Running::on_terminal(scratch.run("echo"));
  ASSERT_TRUE(program.expect_raw(true));
  program.type("\x01h");
  EXPECT_TRUE(program.expect("Ctrl-A x ends the VM"));
  program.type(
      "\x01"
      "a.");
  EXPECT_TRUE(program.expect("\x01."));
  program.type("\x01x");
  EXPECT_EQ(program.wait(), 12);
  EXPECT_FALSE(program.terminal_is_raw());
}

TEST(RunOnTerminal, is_given_back_when_the_vmm_crashes) {
  const Scratch scratch;
  Running program = Running::on_terminal(scratch.run("crash"));
  EXPECT_EQ(program.wait(), 1);
  EXPECT_FALSE(program.terminal_is_raw());
}

TEST(RunOnTerminal, is_given_back_after_signals) {
  const Scratch scratch;
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    Running program = Running::on_terminal(scratch.run("echo"));
    ASSERT_TRUE(program.expect_raw(true));
    program.signal(number);
    EXPECT_EQ(program.wait(), 0);
    EXPECT_FALSE(program.terminal_is_raw());
  }
}

TEST(RunOnTerminal, stop_and_continue_give_and_take_it) {
  const Scratch scratch;
  Running program = Running::on_terminal(scratch.run("echo"));
  ASSERT_TRUE(program.expect_raw(true));
  program.signal(SIGTSTP);
  int status = 0;
  ASSERT_EQ(::waitpid(program.pid(), &status, WUNTRACED), program.pid());
  ASSERT_TRUE(WIFSTOPPED(status));
  EXPECT_FALSE(program.terminal_is_raw());
  program.signal(SIGCONT);
  EXPECT_TRUE(program.expect_raw(true));
  program.type("quit");
  EXPECT_EQ(program.wait(), 0);
  EXPECT_FALSE(program.terminal_is_raw());
}

TEST(RunOnTerminal, hang_up_ends_the_vm) {
  const Scratch scratch;
  Running program = Running::on_terminal(scratch.run("echo"));
  ASSERT_TRUE(program.expect_raw(true));
  program.hang_up();
  EXPECT_EQ(program.wait(), 0);
}

TEST(RunOnTerminal, refusal_leaves_it_alone) {
  const Scratch scratch;
  Running program = Running::on_terminal(scratch.run("fail"));
  EXPECT_TRUE(program.expect("there is no /dev/kvm"));
  EXPECT_EQ(program.wait(), 1);
  EXPECT_FALSE(program.terminal_is_raw());
}

TEST(RunOnTerminal, guests_output_is_not_processed) {
  const Scratch scratch;
  Running program = Running::on_terminal(scratch.run("echo"));
  ASSERT_TRUE(program.expect_raw(true));
  program.type("a\nb\n.");
  ASSERT_TRUE(program.expect("."));
  EXPECT_EQ(program.seen(), "a\nb\n.");
  program.type("quit");
  EXPECT_EQ(program.wait(), 0);
}

}  // namespace
}  // namespace bulkhead::cli
