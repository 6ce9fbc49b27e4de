// Runs the `bulkhead` program under test: with pipes, or on a pseudoterminal.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "ipc/base/unique_fd.h"

namespace bulkhead::cli::test {

struct Finished {
  int status = 0;  // exit status, or -N for signal N
  std::string out;
  std::string err;
};

// Runs to its end with `input` as standard input. Kills it after 30 s.
Finished run_program(const std::vector<std::string>& arguments, const std::string& input = "");

// The same with `output` as standard output, or none when that is not valid.
Finished run_program_onto(BorrowedFd output, const std::vector<std::string>& arguments, const std::string& input = "");

// A directory with a kernel file in it, used as run directory as well; removed with its content.
class Scratch {
 public:
  Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();
  [[nodiscard]] std::string path(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& content) const;
  // `run` with the fake VMM, which does `what`.
  [[nodiscard]] std::vector<std::string> run(const std::string& what, const std::vector<std::string>& more = {}) const;

 private:
  std::string path_;
};

// A program that runs meanwhile.
class Running {
 public:
  // On a pseudoterminal (stdin, stdout and stderr, its controlling terminal) or on pipes.
  static Running on_terminal(const std::vector<std::string>& arguments);
  static Running on_pipes(const std::vector<std::string>& arguments);
  // On pipes but for standard output.
  static Running onto(BorrowedFd output, const std::vector<std::string>& arguments);
  Running(Running&&) noexcept;
  Running& operator=(Running&&) = delete;
  ~Running();

  [[nodiscard]] pid_t pid() const { return pid_; }
  void type(const std::string& text) const;
  // Collects output until `text` is in it; false after 10 s.
  bool expect(const std::string& text);
  [[nodiscard]] const std::string& seen() const { return seen_; }
  void signal(int number) const;
  // Waits for its end; -1000 when it does not end.
  int wait(std::chrono::seconds patience = std::chrono::seconds(10));
  [[nodiscard]] bool terminal_is_raw() const;
  // Until the terminal is raw, or not; false after 10 s.
  [[nodiscard]] bool expect_raw(bool raw) const;
  // Standard error, when on pipes.
  [[nodiscard]] std::string errors() const;
  void close_input() { input_.reset(); }
  [[nodiscard]] BorrowedFd output() const { return output_.borrow(); }
  void hang_up() {
    input_.reset();
    output_.reset();
  }

 private:
  Running() = default;
  pid_t pid_ = -1;
  UniqueFd input_;
  UniqueFd output_;
  UniqueFd errors_;
  std::string seen_;
};

}  // namespace bulkhead::cli::test
