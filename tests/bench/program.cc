#include "tests/bench/program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "ipc/ring/adaptive_wait.h"

extern char** environ;

namespace bulkhead::bench {

Result<Program> Program::start(std::vector<std::string> arguments) {
  int out[2];
  int in[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(in, O_CLOEXEC) != 0) return make_errno_error("cannot create a pipe");
  Program program;
  program.output_.reset(out[0]);
  program.input_.reset(in[1]);
  const UniqueFd writer(out[1]);
  const UniqueFd reader(in[0]);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, reader.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, writer.get(), STDOUT_FILENO);
  program.began_ = ipc::monotonic_ns();
  const int error = ::posix_spawn(&program.pid_, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return make_errno_error("cannot start " + arguments[0], error);
  return program;
}

Program::~Program() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

Result<double> Program::first_byte_ms() {
  pollfd poll{output_.get(), POLLIN, 0};
  char byte = 0;
  if (::poll(&poll, 1, 20'000) != 1 || ::read(output_.get(), &byte, 1) != 1)
    return make_error("the guest's first port write did not come");
  return static_cast<double>(ipc::monotonic_ns() - began_) / 1e6;
}

std::vector<pid_t> process_tree(pid_t root) {
  std::vector<std::pair<pid_t, pid_t>> parents;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream stat(entry.path() / "stat");
    std::string line;
    std::getline(stat, line);
    const std::size_t after = line.rfind(')');
    if (after == std::string::npos) continue;
    std::istringstream rest(line.substr(after + 1));
    char state = 0;
    pid_t parent = 0;
    rest >> state >> parent;
    parents.emplace_back(std::stoi(name), parent);
  }
  std::vector<pid_t> tree{root};
  for (std::size_t i = 0; i < tree.size(); ++i) {
    for (const auto& [pid, parent] : parents) {
      if (parent == tree[i]) tree.push_back(pid);
    }
  }
  return tree;
}

std::vector<std::pair<pid_t, std::string>> threads_of(pid_t pid) {
  std::vector<std::pair<pid_t, std::string>> threads;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), error)) {
    std::ifstream file(task.path() / "comm");
    std::string name;
    std::getline(file, name);
    threads.emplace_back(std::stoi(task.path().filename().string()), name);
  }
  return threads;
}

std::string process_name(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/cmdline", pid));
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == "--role") return words[i + 1];
  }
  return words.empty() ? "" : words[0].substr(words[0].rfind('/') + 1);
}

}  // namespace bulkhead::bench
