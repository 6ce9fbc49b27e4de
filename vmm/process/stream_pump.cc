#include "vmm/process/stream_pump.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "ipc/base/log.h"
#include "ipc/ring/read_once.h"

namespace bulkhead::vmm {
namespace {

constexpr std::size_t kPiece = 4096;
constexpr std::int64_t kFinishWaitNs = 2'000'000'000;

}  // namespace

StreamPump::StreamPump(std::vector<Role> roles, std::vector<Console> consoles, Violation on_violation)
    : roles_(std::move(roles)), on_violation_(std::move(on_violation)), outbound_(roles_.size()) {
  for (Console& console : consoles) {
    // The VM starts: from here on the file is its own. What is no regular file has nothing to lose.
    if (console.files.kind == control::ConsoleKind::kFile) (void)!::ftruncate(console.files.output.get(), 0);
    terminals_.push_back({.stream = console.stream, .files = std::move(console.files)});
  }
}

Result<std::unique_ptr<StreamPump>> StreamPump::start(std::vector<Role> roles, std::vector<Console> consoles,
                                                      StreamRef debug, Violation on_violation) {
  std::unique_ptr<StreamPump> pump(new StreamPump(std::move(roles), std::move(consoles), std::move(on_violation)));
  ASSIGN_OR_RETURN(pump->wake_, UniqueFd::create_eventfd());
  pump->add_streams(debug);
  pump->thread_ = std::thread([raw = pump.get()] { raw->thread_main(); });
  return pump;
}

StreamPump::~StreamPump() { finish(); }

void StreamPump::add_streams(StreamRef debug) {
  for (std::size_t role = 0; role < roles_.size(); ++role) {
    DeviceProcess& process = *roles_[role].process;
    std::uint32_t index = 0;
    for (const InstancePlan& instance : process.plan().instances) {
      for (std::uint32_t i = 0; i < instance.type->streams; ++i, ++index) {
        Stream stream{role, index, ipc::StreamEnd(process.requests(), process.replies(), index)};
        for (Terminal& terminal : terminals_) {
          if (role == terminal.stream.role && index == terminal.stream.stream) stream.terminal = &terminal;
        }
        stream.debug = role == debug.role && index == debug.stream;
        streams_.push_back(stream);
      }
    }
  }
}

void StreamPump::finish() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_release);
  signal_eventfd(wake_.borrow());
  thread_.join();
}

void StreamPump::thread_main() {
  while (!stop_.load(std::memory_order_acquire)) {
    if (!move_all()) wait();
  }
  // Whoever stops the pump has ended the vCPUs, so this comes to an end.
  const std::int64_t until = ipc::monotonic_ns() + kFinishWaitNs;
  while (ipc::monotonic_ns() < until) {
    const bool moved = move_all();
    if (moved) continue;
    const auto waits = [](const Terminal& terminal) { return !terminal.pending.empty(); };
    if (std::none_of(terminals_.begin(), terminals_.end(), waits)) break;
    wait_for_writers();
  }
  if (!debug_line_.empty()) log_debug(std::array<std::uint8_t, 1>{'\n'});
}

void StreamPump::wait_for_writers() {
  std::vector<pollfd> polls;
  for (const Terminal& terminal : terminals_) {
    if (!terminal.pending.empty()) polls.push_back({terminal.files.output.get(), POLLOUT, 0});
  }
  ::poll(polls.data(), polls.size(), 100);
}

bool StreamPump::is_broken(const DeviceProcess& process, std::uint32_t& broken_by) const {
  if (broken_by != 0 && process.serving_incarnation() > broken_by) broken_by = 0;
  return broken_by != 0;
}

void StreamPump::violation(DeviceProcess& process, std::uint32_t serving, std::uint32_t& broken_by, const char* what) {
  // Until a successor serves, what its predecessor left behind is still there to be seen.
  if (serving != process.ring().incarnation()) return;
  broken_by = serving;
  on_violation_(process, what, serving);
}

bool StreamPump::move_all() {
  bool moved = false;
  for (Stream& stream : streams_) {
    if (is_broken(*roles_[stream.role].process, stream.broken_by)) continue;
    moved |= move_output(stream);
    if (stream.terminal != nullptr) moved |= move_input(stream);
  }
  for (std::size_t role = 0; role < roles_.size(); ++role) moved |= collect_effects(role);
  return moved;
}

bool StreamPump::move_output(Stream& stream) {
  Terminal* const terminal = stream.terminal;
  if (terminal != nullptr && !terminal->pending.empty() && !flush(*terminal)) return false;
  std::array<std::uint8_t, kPiece> buffer;
  DeviceProcess& process = *roles_[stream.role].process;
  const std::uint32_t serving = process.serving_incarnation();
  const std::optional<std::size_t> n = stream.end.take(buffer);
  if (!n) {
    violation(process, serving, stream.broken_by, "a stream index that cannot be");
    return false;
  }
  if (*n == 0) return false;
  if (terminal != nullptr) {
    terminal->pending.assign(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(*n));
    terminal->pending_done = 0;
    if (terminal->files.log != nullptr) terminal->files.log->append(terminal->pending);
    flush(*terminal);
  } else if (stream.debug) {
    log_debug(std::span(buffer).first(*n));
  }
  // A device that found the stream full waits to hear of room.
  if (*n == kPiece) process.ring().ring_doorbell();
  return true;
}

bool StreamPump::flush(Terminal& terminal) {
  UniqueFd& output = terminal.files.output;
  while (terminal.pending_done < terminal.pending.size()) {
    if (!output.valid()) break;
    const ssize_t n = ::write(output.get(), terminal.pending.data() + terminal.pending_done,
                              terminal.pending.size() - terminal.pending_done);
    if (n >= 0) {
      terminal.pending_done += static_cast<std::size_t>(n);
    } else if (errno == EAGAIN && terminal.files.kind != control::ConsoleKind::kPty) {
      return false;
    } else if (errno == EAGAIN) {
      break;  // a terminal that nobody reads: what is shown to nobody is dropped
    } else if (errno != EINTR) {
      log(LogLevel::kWarning, "the console can no longer be written: {}", std::strerror(errno));
      output.reset();
    }
  }
  terminal.pending.clear();
  return true;
}

bool StreamPump::move_input(Stream& stream) {
  Terminal& terminal = *stream.terminal;
  ConsoleFiles& files = terminal.files;
  if (!files.input.valid() && !files.typed.valid()) return false;
  const std::uint32_t serving = roles_[stream.role].process->serving_incarnation();
  const std::optional<std::size_t> room = stream.end.room();
  if (!room) {
    violation(*roles_[stream.role].process, serving, stream.broken_by, "a stream index that cannot be");
    return false;
  }
  terminal.input_full = *room == 0;
  if (terminal.input_full) return false;
  std::array<std::uint8_t, kPiece> buffer;
  const auto space = std::span(buffer).first(std::min(*room, buffer.size()));
  std::size_t n = read_input(terminal, files.input, space);
  if (n == 0) n = read_input(terminal, files.typed, space);
  if (n == 0) return false;
  stream.end.give(space.first(n));
  roles_[stream.role].process->ring().ring_doorbell();
  return true;
}

std::size_t StreamPump::read_input(Terminal& terminal, UniqueFd& input, std::span<std::uint8_t> out) {
  if (!input.valid()) return 0;
  const ssize_t n = ::read(input.get(), out.data(), out.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (n <= 0) {
    // A pty reports EIO while nobody has it open; anything else is the end of the input.
    terminal.input_hung_up = n < 0 && errno == EIO && terminal.files.kind == control::ConsoleKind::kPty;
    if (!terminal.input_hung_up) input.reset();
    return 0;
  }
  return static_cast<std::size_t>(n);
}

bool StreamPump::collect_effects(std::size_t role) {
  DeviceProcess& process = *roles_[role].process;
  Outbound& outbound = outbound_[role];
  if (is_broken(process, outbound.broken_by)) return false;
  std::uint64_t& taken = outbound.taken;
  const std::uint32_t serving = process.serving_incarnation();
  const std::uint64_t produced = process.replies().outbound_produced.load(std::memory_order_acquire);
  if (produced == taken) return false;
  if (produced - taken > ipc::kOutboundEffects) {
    violation(process, serving, outbound.broken_by, "an effect index that cannot be");
    return false;
  }
  for (; taken != produced; ++taken) {
    const Effect effect = ipc::read_once_racing(process.replies().outbound[taken % ipc::kOutboundEffects]);
    // On its own account a device may end, reset or pause the machine and nothing else: any other effect could wait
    // for another device process, and this thread waits for none.
    const auto kind = static_cast<EffectKind>(effect.kind);
    const bool its_own = kind == EffectKind::kPower || kind == EffectKind::kPause;
    if (!its_own || !roles_[role].effects->apply_effect(effect))
      on_violation_(process, "an effect that it was not granted", serving);
  }
  process.requests().outbound_consumed.store(taken, std::memory_order_release);
  return true;
}

void StreamPump::log_debug(std::span<const std::uint8_t> bytes) {
  static constinit LogLimiter limiter{256};
  for (const std::uint8_t byte : bytes) {
    if (byte != '\n' && debug_line_.size() < 256) {
      debug_line_ += static_cast<char>(byte);
      continue;
    }
    if (limiter.allow()) log(LogLevel::kInfo, "[guest debug] {}", debug_line_);
    debug_line_.clear();
  }
}

void StreamPump::set_asleep(bool asleep) {
  for (const Role& role : roles_) role.process->requests().pump_asleep.store(asleep ? 1 : 0, std::memory_order_seq_cst);
}

void StreamPump::wait() {
  set_asleep(true);
  // Between the last look and the flag a device may have published without a signal.
  if (!move_all()) {
    std::vector<pollfd> polls;
    polls.push_back({wake_.get(), POLLIN, 0});
    for (const Role& role : roles_) polls.push_back({role.process->output_doorbell().get(), POLLIN, 0});
    bool hung_up = false;
    for (const Terminal& terminal : terminals_) {
      const bool reads = terminal.files.input.valid() && !terminal.input_full && !terminal.input_hung_up;
      if (reads) polls.push_back({terminal.files.input.get(), POLLIN, 0});
      if (terminal.files.typed.valid() && !terminal.input_full)
        polls.push_back({terminal.files.typed.get(), POLLIN, 0});
      if (!terminal.pending.empty()) polls.push_back({terminal.files.output.get(), POLLOUT, 0});
      hung_up |= terminal.input_hung_up;
    }
    // A hung-up terminal is readable for ever: it is looked at once a second instead.
    ::poll(polls.data(), polls.size(), hung_up ? 1000 : -1);
    drain_eventfd(wake_.borrow());
    for (const Role& role : roles_) drain_eventfd(role.process->output_doorbell());
  }
  set_asleep(false);
}

}  // namespace bulkhead::vmm
