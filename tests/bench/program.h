// Other programs that the figures start and look at.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::bench {

// A program whose standard output is a pipe to us; killed and reaped at the end.
class Program {
 public:
  static Result<Program> start(std::vector<std::string> arguments);
  Program() = default;
  Program(Program&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)),
        began_(other.began_),
        output_(std::move(other.output_)),
        input_(std::move(other.input_)) {}
  Program& operator=(Program&&) = delete;
  ~Program();

  // Milliseconds from its start to its first byte.
  Result<double> first_byte_ms();
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  std::int64_t began_ = 0;
  UniqueFd output_;
  UniqueFd input_;
};

// `root` and all its descendants.
[[nodiscard]] std::vector<pid_t> process_tree(pid_t root);
// The program's name, or the role that a device process plays.
[[nodiscard]] std::string process_name(pid_t pid);
// Its threads, by number and name.
[[nodiscard]] std::vector<std::pair<pid_t, std::string>> threads_of(pid_t pid);

}  // namespace bulkhead::bench
