#include "tools/bulkhead/session.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>

#include "ipc/control/run_directory.h"
#include "tools/bulkhead/print.h"

namespace bulkhead::cli {
namespace {

// How long the VMM may take from its last message, or from the order to end, to its end.
constexpr auto kEndPatience = std::chrono::seconds(5);
constexpr std::array kHandledSignals = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH};
constexpr std::string_view kEscapeHelp = "Ctrl-A x ends the VM, Ctrl-A a sends Ctrl-A, Ctrl-A h shows this";

Result<UniqueFd> watch_signals() {
  sigset_t set{};
  sigemptyset(&set);
  for (const int number : kHandledSignals) sigaddset(&set, number);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  const int fd = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) return make_errno_error("cannot watch signals");
  return UniqueFd(fd);
}

// A terminal opened anew has file flags of its own, so non-blocking output does not disturb the shell.
// Other kinds of output keep the descriptor we have: poll(2) says when they take what Flow writes at once.
UniqueFd reopen_terminal(int fd) {
  if (::isatty(fd) == 0) return UniqueFd();
  return UniqueFd(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

std::string with_carriage_returns(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') out += '\r';
    out += c;
  }
  return out;
}

}  // namespace

Result<Session> Session::start(RunSetup setup) {
  ASSIGN_OR_RETURN(UniqueFd signals, watch_signals());
  const bool raw_terminal = setup.console.to_guest.valid() && ::isatty(STDIN_FILENO) != 0;

  // A raw terminal needs a carriage return on every line, also on the VMM's. Its end of the pipe does not
  // block: lines are dropped rather than a VM held up by a stopped terminal.
  UniqueFd error_read;
  UniqueFd error_write;
  if (raw_terminal && ::isatty(STDERR_FILENO) != 0) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return make_errno_error("cannot create a pipe");
    error_read.reset(ends[0]);
    error_write.reset(ends[1]);
  }
  ASSIGN_OR_RETURN(VmProcess vm, VmProcess::start(setup.vmm_program, setup.config, error_write.borrow()));
  setup.config.files = control::VmFiles();  // the VMM alone holds its ends now: end of file will be seen

  Session session(std::move(vm), std::move(signals), std::move(setup));
  session.error_pipe_ = std::move(error_read);
  if (raw_terminal) {
    ASSIGN_OR_RETURN(RawTerminal terminal, RawTerminal::create(BorrowedFd(STDIN_FILENO)));
    session.terminal_.emplace(std::move(terminal));
  }
  session.connect_console();
  return session;
}

Session::Session(VmProcess vm, UniqueFd signals, RunSetup setup)
    : image_servers_(std::move(setup.image_servers)),
      vm_(std::move(vm)),
      signals_(std::move(signals)),
      config_(std::move(setup.config)),
      console_(std::move(setup.console)),
      vsock_(std::move(setup.vsock)),
      made_(std::move(setup.made)) {}

void Session::connect_console() {
  if (console_.to_guest.valid()) {
    own_output_ = reopen_terminal(STDOUT_FILENO);
    const BorrowedFd output = own_output_.valid() ? own_output_.borrow() : BorrowedFd(STDOUT_FILENO);
    to_guest_ = Flow(BorrowedFd(STDIN_FILENO), console_.to_guest.borrow());
    from_guest_ = Flow(console_.from_guest.borrow(), output);
  }
  if (error_pipe_.valid()) errors_ = Flow(error_pipe_.borrow(), BorrowedFd(STDERR_FILENO));
}

int Session::run() {
  if (config_.console == control::ConsoleKind::kPty)
    static_cast<void>(print_out(fmt::format("console: {}\n", config_.console_path)));
  for (const control::DeviceRequest& device : config_.devices) {
    const auto value = [&](std::string_view key) {
      const auto at = std::find_if(device.properties.begin(), device.properties.end(),
                                   [&](const control::Property& property) { return property.key == key; });
      return at == device.properties.end() ? std::string() : at->value;
    };
    if (device.type == "virtio_console" && device.files != 0 && value("where") == "pty")
      static_cast<void>(print_out(fmt::format("virtio console: {}\n", value("path"))));
  }
  for (;;) {
    if (process_ended_) drain_after_end();
    if (is_over()) break;
    poll_once();
  }
  return finish();
}

bool Session::is_over() const {
  return process_ended_ && (abandon_output_ || (from_guest_.is_finished() && errors_.is_finished()));
}

int Session::poll_timeout() const {
  if (process_ended_ || !kill_at_) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*kill_at_ - Clock::now());
  return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

void Session::poll_once() {
  const auto entry = [](bool wanted, BorrowedFd fd, short events) {
    return pollfd{.fd = wanted ? fd.get() : -1, .events = events, .revents = 0};
  };
  const bool typing = !process_ended_ && !exited_ && (!terminal_ || terminal_->is_raw());
  std::array entries = {
      entry(true, signals_.borrow(), POLLIN),
      entry(channel_open_, vm_.channel().fd(), POLLIN),
      entry(!process_ended_, vm_.pidfd(), POLLIN),
      entry(typing && to_guest_.wants_read(), to_guest_.source(), POLLIN),
      entry(to_guest_.wants_write(), to_guest_.sink(), POLLOUT),
      entry(from_guest_.wants_read(), from_guest_.source(), POLLIN),
      entry(from_guest_.wants_write(), from_guest_.sink(), POLLOUT),
      entry(errors_.wants_read(), errors_.source(), POLLIN),
      entry(errors_.wants_write(), errors_.sink(), POLLOUT),
  };
  const int ready = ::poll(entries.data(), entries.size(), poll_timeout());
  if (ready < 0) return;  // EINTR
  if (ready == 0) {
    vm_.kill_now();
    kill_at_.reset();
    return;
  }
  if (entries[0].revents != 0) on_signals();
  if (entries[1].revents != 0) on_vm_message();
  if (entries[3].revents != 0) on_typed();
  if (entries[4].revents != 0 && !to_guest_.write_once()) to_guest_.end_source();
  if (entries[5].revents != 0) from_guest_.put(from_guest_.read_once());
  if (entries[6].revents != 0 && !from_guest_.write_once())
    say("standard output takes no more; the console's output is dropped from here on");
  if (entries[7].revents != 0) errors_.put(with_carriage_returns(errors_.read_once()));
  if (entries[8].revents != 0) errors_.write_once();
  if (entries[2].revents != 0) {
    process_ended_ = true;
    while (channel_open_) on_vm_message();
  }
}

// The VMM has ended. A process that it left behind could still hold a pipe open: what is in the pipes now
// is taken, and nothing is waited for.
void Session::drain_after_end() {
  for (Flow* flow : {&from_guest_, &errors_}) {
    if (!flow->wants_read()) continue;
    pollfd entry{.fd = flow->source().get(), .events = POLLIN, .revents = 0};
    if (::poll(&entry, 1, 0) == 0) flow->end_source();
  }
}

void Session::on_typed() {
  const std::string_view typed = to_guest_.read_once();
  if (!terminal_) {
    to_guest_.put(typed);
    return;
  }
  const EscapeFilter::Outcome outcome = escapes_.filter(typed);
  to_guest_.put(outcome.bytes);
  on_escape(outcome.command);
}

void Session::on_escape(EscapeFilter::Command command) {
  switch (command) {
    case EscapeFilter::Command::kNone: return;
    case EscapeFilter::Command::kHelp: say(kEscapeHelp); return;
    case EscapeFilter::Command::kEnd: end_vm(); return;
  }
}

void Session::on_signals() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    switch (static_cast<int>(info.ssi_signo)) {
      case SIGTSTP:
        if (terminal_) terminal_->leave();
        ::raise(SIGSTOP);
        [[fallthrough]];  // and on again
      case SIGCONT:
        if (terminal_ && started_ && !process_ended_) terminal_->enter();
        break;
      case SIGWINCH: pass_size_on(); break;
      case SIGQUIT: end_vm(); break;
      default: on_termination_signal();
    }
  }
}

void Session::on_termination_signal() {
  ++termination_signals_;
  if (process_ended_) {
    abandon_output_ = true;  // nobody reads, and somebody wants us gone
  } else if (termination_signals_ == 1 && started_) {
    press_power_button();
  } else if (!end_requested_) {
    end_vm();
  } else {
    vm_.kill_now();
  }
}

void Session::pass_size_on() {
  const std::optional<TerminalSize> size = console_.sized && channel_open_ ? terminal_size() : std::nullopt;
  if (!size) return;
  // A VM that is gone needs no size; that it is, the channel tells.
  static_cast<void>(vm_.send(control::ResizeTerminal{.columns = size->columns, .rows = size->rows}));
}

void Session::press_power_button() {
  say("pressing the power button; once more ends the VM at once");
  if (const Status sent = vm_.send(control::PowerButton{}); !sent) say(sent.error().message);
}

void Session::end_vm() {
  if (end_requested_) return;
  end_requested_ = true;
  if (const Status sent = vm_.send(control::KillVm{}); !sent) say(sent.error().message);
  limit_end();
}

void Session::limit_end() {
  if (!kill_at_) kill_at_ = Clock::now() + kEndPatience;
}

void Session::on_vm_message() {
  auto message = vm_.channel().receive(control::no_wait());
  if (!message) {
    if (message.error().error_number == control::kTimedOut && !process_ended_) return;
    // With the channel gone the VMM knows that it has to end.
    channel_open_ = false;
    limit_end();
    return;
  }
  auto report = control::decode_from_vmm(*message);
  if (!report) {
    say(report.error().message);
    end_vm();
    return;
  }
  if (const auto* started = std::get_if<control::Started>(&*report)) {
    on_started(*started);
  } else if (auto* failed = std::get_if<control::VmFailed>(&*report)) {
    failed_ = std::move(*failed);
    limit_end();
  } else if (auto* exited = std::get_if<control::Exited>(&*report)) {
    exited_ = std::move(*exited);
    limit_end();
  }
}

void Session::on_started(const control::Started& started) {
  started_ = true;
  made_.keep();
  config_.name = started.name;
  if (terminal_) terminal_->enter();
}

void Session::say(std::string_view sentence) {
  complain(std::string(sentence), terminal_ && terminal_->is_raw() ? "\r\n" : "\n");
}

int Session::finish() {
  if (terminal_) terminal_->leave();
  const int wait_status = vm_.wait(std::chrono::milliseconds(0));
  const auto report = [](const std::string& sentence) {
    if (!sentence.empty()) complain(sentence, "\n", Newlines::kKeep);
  };
  if (exited_) {
    report(exited_->sentence);
    return exited_->status;
  }
  if (failed_) {
    report(failed_->sentence);
    return failed_->status;
  }
  // It had no chance to clean up.
  if (auto directory = control::RunDirectory::open(config_.run_directory))
    static_cast<void>(directory->sweep(config_.name));
  if (end_requested_) {
    report("the VMM did not end when told to, and was killed");
    return control::kExitKilled;
  }
  report(fmt::format("the VMM {} before its VM had ended", describe_wait_status(wait_status)));
  return control::kExitHostError;
}

}  // namespace bulkhead::cli
