// Stands in for bulkhead-vmm in the tests of `bulkhead run`. What it does is its VM's kernel command line:
//   exit=N           ends with status N
//   report=N         the same with a sentence
//   fail             does not start
//   rude=N           ends with status N and a report, two lines, that would drive a terminal
//   rude-fail        does not start, and says so in the same way
//   crash, vanish    is killed after, or before, it has started
//   garbage          sends a message that is none
//   echo             copies console input to output until it reads a line "quit"
//   flood=N          writes N bytes of a known pattern, then ends
//   wait             ends with 0 on the power button, 12 on kill
//   deaf             takes no notice of anything, not even of the end of its socket
//   facts            prints what it was given, then ends
//   orphan           ends, but leaves a process behind that holds the console open
//   serve            claims its name and serves the management interface; ends on kill
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "ipc/control/run_directory.h"
#include "ipc/control/vm_config.h"
#include "tests/unit/tools/fake_control.h"
#include "vmm/api/management_server.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::control;
using namespace std::chrono_literals;

ControlChannel* cli = nullptr;

constexpr const char* kRude = "a \x1b[2J\r\nb \xc2\x9b\x7f";

void report(const FromVmm& message) {
  const auto encoded = encode(message).value();
  if (!cli->send(encoded.bytes, deadline_in(5s))) std::_Exit(99);
}

[[noreturn]] void finish(std::uint8_t status, const std::string& sentence = "") {
  report(Exited{.sentence = sentence, .status = status});
  std::_Exit(0);
}

void write_console(const VmConfig& config, std::string_view bytes) {
  const int fd = config.files.console_output.get();
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(written));
    } else {
      pollfd entry{.fd = fd, .events = POLLOUT, .revents = 0};
      ::poll(&entry, 1, -1);
    }
  }
}

void echo(const VmConfig& config) {
  std::string line;
  for (;;) {
    pollfd entries[] = {{.fd = config.files.console_input.get(), .events = POLLIN, .revents = 0},
                        {.fd = cli->fd().get(), .events = POLLIN, .revents = 0}};
    ::poll(entries, 2, -1);
    if (entries[1].revents != 0) {
      auto message = cli->receive(no_wait());
      if (!message) std::_Exit(0);  // the CLI is gone
      const auto order = decode_to_vmm(std::move(*message)).value();
      finish(std::holds_alternative<KillVm>(order) ? kExitKilled : kExitPowerOff);
    }
    char buffer[4096];
    const ssize_t got = ::read(config.files.console_input.get(), buffer, sizeof buffer);
    if (got <= 0) continue;
    const std::string_view bytes(buffer, static_cast<std::size_t>(got));
    write_console(config, bytes);
    line += bytes;
    if (line.find("quit") != std::string::npos) finish(kExitPowerOff);
    if (line.size() > 4096) line.erase(0, line.size() - 16);
  }
}

void flood(const VmConfig& config, std::size_t count) {
  std::string block;
  for (std::size_t i = 0; i < count; ++i) {
    block += static_cast<char>('a' + i % 26);
    if (block.size() == 65536 || i + 1 == count) {
      write_console(config, block);
      block.clear();
    }
  }
  finish(kExitPowerOff);
}

void wait_for_order() {
  for (;;) {
    auto message = cli->receive(no_deadline());
    if (!message) std::_Exit(0);
    const auto order = decode_to_vmm(std::move(*message)).value();
    if (std::holds_alternative<KillVm>(order)) finish(kExitKilled);
    if (std::holds_alternative<PowerButton>(order)) finish(kExitPowerOff);
  }
}

void serve(const VmConfig& config) {
  auto directory = RunDirectory::open(config.run_directory).value();
  auto claimed = directory.claim(config.name, config.name_is_derived);
  if (!claimed) {
    report(VmFailed{.sentence = claimed.error().message});
    std::_Exit(1);
  }
  std::atomic<bool> killed{false};
  vmm::FakeControl vm;
  vm.name = claimed->name();
  vm.on_kill = [&] { killed = true; };
  {
    const auto server = vmm::ManagementServer::start(claimed->listen().value(), vm).value();
    report(Started{.name = claimed->name(), .device_processes = 2});
    while (!killed) {
      pollfd entry{.fd = cli->fd().get(), .events = POLLIN, .revents = 0};
      if (::poll(&entry, 1, 5) > 0) break;
    }
  }
  claimed = make_error("released");
  finish(killed ? kExitKilled : kExitPowerOff);
}

void facts(const VmConfig& config) {
  std::string out;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    out += fmt::format("fd {} {}\n", entry.path().filename().string(),
                       std::filesystem::read_symlink(entry.path(), error).string());
  }
  sigset_t mask{};
  ::sigprocmask(SIG_BLOCK, nullptr, &mask);
  out += fmt::format("leader {}\n", ::getsid(0) == ::getpid());
  out += fmt::format("sigterm blocked {}\n", ::sigismember(&mask, SIGTERM));
  struct sigaction action {};
  ::sigaction(SIGPIPE, nullptr, &action);
  out += fmt::format("sigpipe ignored {}\n", action.sa_handler == SIG_IGN);
  out += fmt::format("memory {} cpus {} on_reset {}\n", config.memory_bytes, config.cpus,
                     static_cast<int>(config.on_reset));
  out += "on crash";
  for (const auto& rule : config.on_crash) out += fmt::format(" [{}]={}", rule.role, static_cast<int>(rule.action));
  out += fmt::format("\ndevice deadline {}\n", config.device_deadline_ns);
  out += fmt::format("topology {}:{}:{}\n", config.topology.sockets, config.topology.cores, config.topology.threads);
  for (const auto& device : config.devices) {
    out += fmt::format("device {}", device.type);
    for (const auto& property : device.properties) out += fmt::format(" [{}]=[{}]", property.key, property.value);
    out += "\n";
  }
  for (const UniqueFd& file : config.files.devices) {
    std::error_code error;
    const int flags = ::fcntl(file.get(), F_GETFL);
    out += fmt::format("device file {}{}{}{}\n",
                       std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", file.get()), error).string(),
                       (flags & O_ACCMODE) == O_RDONLY ? " read-only" : "", (flags & O_DIRECT) != 0 ? " direct" : "",
                       (flags & O_NONBLOCK) != 0 ? " non-blocking" : "");
  }
  out += fmt::format("name {} derived {}\n", config.name, config.name_is_derived);
  out += fmt::format("initrd {} log {}\n", config.files.initrd.valid(), config.files.log.valid());
  const int fd = config.files.console_output.valid() ? config.files.console_output.get() : STDERR_FILENO;
  if (::write(fd, out.data(), out.size()) < 0) std::_Exit(98);
  finish(kExitPowerOff);
}

std::size_t number_after(const std::string& text, std::string_view key) {
  std::size_t value = 0;
  const std::string_view digits = std::string_view(text).substr(key.size());
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

void act(const VmConfig& config) {
  const std::string& what = config.command_line;
  const auto is = [&](std::string_view key) { return what.starts_with(key); };
  if (is("vanish")) ::raise(SIGKILL);
  if (is("fail")) {
    report(VmFailed{.sentence = "there is no /dev/kvm on this host", .status = kExitHostError});
    std::_Exit(1);
  }
  if (is("rude-fail")) {
    report(VmFailed{.sentence = kRude, .status = kExitHostError});
    std::_Exit(1);
  }
  if (is("serve")) return serve(config);
  report(Started{.name = config.name, .device_processes = 2});
  if (is("exit=")) finish(static_cast<std::uint8_t>(number_after(what, "exit=")));
  if (is("report="))
    finish(static_cast<std::uint8_t>(number_after(what, "report=")), "the guest crashed: triple fault");
  if (is("rude=")) finish(static_cast<std::uint8_t>(number_after(what, "rude=")), kRude);
  if (is("crash")) ::raise(SIGKILL);
  if (is("echo")) echo(config);
  if (is("flood=")) flood(config, number_after(what, "flood="));
  if (is("wait")) wait_for_order();
  if (is("facts")) facts(config);
  if (is("orphan")) {
    write_console(config, "last words");
    if (::fork() == 0) {
      std::this_thread::sleep_for(20s);
      std::_Exit(0);
    }
    finish(kExitPowerOff);
  }
  if (is("garbage")) {
    const std::byte junk[16] = {std::byte{0xff}};
    static_cast<void>(cli->send(junk, no_wait()));
    wait_for_order();
  }
  if (is("deaf")) {
    for (;;) std::this_thread::sleep_for(1h);
  }
}

}  // namespace

int main() {
  ::alarm(60);  // never outlive a test that went wrong
  auto channel = ControlChannel::adopt(UniqueFd(kVmmSocketFd)).value();
  cli = &channel;
  auto message = channel.receive(deadline_in(5s), kMaxMessageFds);
  if (!message) return 97;
  auto first = decode_to_vmm(std::move(*message));
  if (!first) {
    report(VmFailed{.sentence = first.error().message});
    return 96;
  }
  act(std::get<VmConfig>(*first));
  return 95;
}
