// What a device process may try once its guest has taken it over. One entry a deed.
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <utility>

#include "ipc/base/futex.h"
#include "ipc/ring/adaptive_wait.h"
#include "ipc/wire/bar_access.h"
#include "tests/hostile/hostile_device.h"

namespace bulkhead::hostile {
namespace {

using Device = HostileDevice;
using ipc::Reply;
using ipc::Ticket;

constexpr Effect kWindowAtZero{.kind = 1, .size = 4096, .flags = kEffectEnabled};
constexpr Effect kMachineReset{.kind = 5, .data = static_cast<std::uint32_t>(PowerAction::kReset)};

// ---- Replies ----

// Once: an answer like that is not believed, so that the guest's access is dropped, and the next one is the reset for
// which the test waits.
bool too_many_effects(Device&, Ticket, Reply& reply) {
  static bool done = false;
  if (std::exchange(done, true)) return true;
  reply.effect_count = 255;
  reply.effects_total += 255;
  return true;
}

bool ungranted_effect(Device& device, Ticket ticket, Reply& reply) {
  device.replies().effects[ipc::slot_of(ticket)].effects[0] = kWindowAtZero;
  reply.effect_count = 1;
  reply.effects_total += 1;
  return true;
}

// What `pci` may ask for, at random: every record well formed, most of them nonsense.
bool random_windows(Device& device, Ticket ticket, Reply& reply) {
  for (Effect& effect : device.replies().effects[ipc::slot_of(ticket)].effects) {
    effect = Effect{.kind = 1, .function = 3 << 3, .index = 0, .size = 4096, .flags = kEffectEnabled};
    effect.address = device.random() & ~std::uint64_t{4095};
  }
  reply.effect_count = kMaxEffects;
  reply.effects_total += device.random();
  return true;
}

bool random_routes(Device& device, Ticket ticket, Reply& reply) {
  for (Effect& effect : device.replies().effects[ipc::slot_of(ticket)].effects) {
    effect = Effect{.kind = 4, .function = 3 << 3, .index = 0, .flags = kEffectEnabled | kEffectMsix};
    if (device.random() % 4 == 0) effect = Effect{.kind = 3, .function = 3 << 3, .flags = kControlAll >> 1};
    if (effect.kind == 4) effect.index = static_cast<std::uint32_t>(device.random() % 8);
    if (effect.kind == 4) effect.address = device.random() & ~std::uint64_t{3};
    if (effect.kind == 4) effect.data = static_cast<std::uint32_t>(device.random());
  }
  reply.effect_count = kMaxEffects;
  reply.effects_total += device.random();
  return true;
}

// Every access sends the VMM to a BAR: often to one that there is, on and on if it went there by way of `pci` itself.
bool bar_accesses(Device& device, Ticket ticket, Reply& reply) {
  const ipc::RequestKind kind = device.requests().slots[ipc::slot_of(ticket)].request.kind;
  if (kind != ipc::RequestKind::kRead && kind != ipc::RequestKind::kWrite) return true;
  const std::uint64_t random = device.random();
  BarAccess access{.offset = static_cast<std::uint32_t>(device.random()), .devfn = 3 << 3};
  access.bar = static_cast<std::uint8_t>(random % 8);
  access.size = static_cast<std::uint8_t>(1U << (random >> 8) % 4);
  access.first = static_cast<std::uint8_t>((random >> 16) % 2);
  access.lead = static_cast<std::uint8_t>((random >> 17) % 2);
  if (random >> 63 != 0) access.offset %= 4096;
  ipc::store_bar_access(reply, access);
  return true;
}

bool wrong_generation(Device&, Ticket, Reply& reply) {
  ++reply.generation;
  return true;
}

bool wrong_total(Device& device, Ticket, Reply& reply) {
  reply.effects_total = device.random();
  return true;
}

void dawdle(Device& device, std::int64_t ns) {
  for (const std::int64_t until = ipc::monotonic_ns() + ns; ipc::monotonic_ns() < until;) device.wait_a_little();
}

// As late as it may be.
bool late_reply(Device& device, Ticket, Reply&) {
  dawdle(device, 800'000'000);
  return true;
}

// After a reset the VMM asks for the state of all functions, in pieces: there is always another, and each
// takes its time.
bool endless_state(Device& device, Ticket ticket, Reply& reply) {
  if (device.requests().slots[ipc::slot_of(ticket)].request.kind != ipc::RequestKind::kDesiredState) return true;
  dawdle(device, 200'000'000);
  std::memset(reply.payload, 0xff, sizeof reply.payload);
  return true;
}

bool no_reply(Device&, Ticket, Reply&) { return false; }

void random_everywhere(Device& device) {
  auto* words = reinterpret_cast<volatile std::uint64_t*>(&device.replies());
  for (std::size_t i = 0; i < sizeof(ipc::ReplyArea) / 8; ++i) words[i] = device.random();
}

// All of the next tickets are "done" long before they are submitted.
void future_replies(Device& device) {
  const Ticket last = device.host().last_ticket();
  for (Ticket ticket = last + 1; ticket < last + ipc::kSlots; ++ticket)
    device.publish(ticket, Reply{.generation = 1, .status = ipc::ReplyStatus::kDone});
}

// The answer that was given is another one a moment later, and again.
void flip(Device& device) {
  const std::uint32_t slot = ipc::slot_of(device.host().last_ticket());
  auto& reply = *reinterpret_cast<volatile Reply*>(&device.replies().slots[slot].reply);
  auto& effect = *reinterpret_cast<volatile std::uint64_t*>(&device.replies().effects[slot].effects[0]);
  for (int i = 0; i < 100; ++i) {
    reply.effect_count = static_cast<std::uint8_t>(device.random());
    reply.generation = 1 + device.random() % 2;
    reply.status = static_cast<ipc::ReplyStatus>(device.random());
    reply.effects_total = device.random();
    effect = device.random();
  }
}

void random_wake_words(Device& device) {
  ipc::ReplyArea& replies = device.replies();
  replies.asleep.store(static_cast<std::uint32_t>(device.random()));
  replies.waiter_woken.time_ns.store(static_cast<std::int64_t>(device.random()));
  replies.waiter_woken.cpu.store(static_cast<std::uint32_t>(device.random()));
  ipc::ReplySlot& slot = replies.slots[device.random() % ipc::kSlots];
  slot.wake.store(static_cast<std::uint32_t>(device.random()));
  futex_wake_all(&slot.wake);
}

// ---- Streams and outbound effects ----

void ring_pump(Device& device) { signal_eventfd(device.output_doorbell()); }

void output_index(Device& device) {
  device.replies().output_produced[0].fetch_add(ipc::kOutputBytes * 4);
  ring_pump(device);
}
void input_index(Device& device) {
  device.replies().input_consumed[0].fetch_add(1 << 20);
  ring_pump(device);
}
void outbound_index(Device& device) {
  device.replies().outbound_produced.fetch_add(ipc::kOutboundEffects + 1);
  ring_pump(device);
}
void fill_outbound(Device& device, const Effect& effect) {
  const std::uint64_t taken = device.requests().outbound_consumed.load();
  for (Effect& one : device.replies().outbound) one = effect;
  device.replies().outbound_produced.store(taken + ipc::kOutboundEffects);
  ring_pump(device);
}
void outbound_ungranted(Device& device) { fill_outbound(device, kWindowAtZero); }
// Granted to the role: its guest may reset its machine as often as it likes.
void outbound_resets(Device& device) { fill_outbound(device, kMachineReset); }

// ---- The control channel and the log ----

void send_raw(Device& device, std::size_t size, int flags = MSG_DONTWAIT) {
  static std::array<std::byte, 1 << 20> bytes;
  for (std::size_t i = 0; i < size; i += 512) bytes[i] = static_cast<std::byte>(device.random());
  iovec part{bytes.data(), size};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  (void)::sendmsg(device.control().fd().get(), &header, flags | MSG_NOSIGNAL);
}
void control_garbage(Device& device) { send_raw(device, 1 + device.random() % 4096); }
void control_huge(Device& device) {
  send_raw(device, 1 << 20);
  send_raw(device, 100'000);  // what the socket's buffer takes
}
void control_flood(Device& device) {
  for (int i = 0; i < 10; ++i) {
    if (const auto bytes = control::encode(control::Statistics{}))
      (void)device.control().send(*bytes, control::no_wait());
  }
}
void control_ready_again(Device& device) { device.send(control::Ready{}); }
void control_failed(Device& device) { device.send(control::Failed{"\x1b[2J it is all over"}); }
void control_failed_late(Device& device) { device.send(control::Failed{"it is all over"}); }
void control_descriptors(Device& device) {
  const auto bytes = control::encode(control::Statistics{});
  const std::array<BorrowedFd, 2> fds = {device.output_doorbell(), BorrowedFd(2)};
  if (bytes) (void)device.control().send(*bytes, fds, control::deadline_in(std::chrono::seconds(1)));
}
void control_close(Device& device) { (void)::close(device.control().fd().get()); }

void log_flood(Device& device) {
  static int lines = 0;
  for (int i = 0; i < 100 && lines < 100'000; ++i, ++lines) {
    // An escape sequence, in seven bits and in eight, a bell, and the name of somebody else.
    static constexpr char kLine[] =
        "\x1b[2J\x1b]0;owned\x07\x9b"
        "31m bulkhead-vmm: error: all is lost\r\x08\x7f\xc2\x9b"
        "1m\n";
    (void)!::write(2, kLine, sizeof kLine - 1);
  }
  (void)device;
}
void log_one_endless_line(Device&) {
  static std::array<char, 4096> text;
  text.fill('x');
  for (int i = 0; i < 10; ++i) (void)!::write(2, text.data(), text.size());
}

// ---- System calls ----

void stop_itself(Device&) { ::kill(::getpid(), SIGSTOP); }
void fork_itself(Device&) { ::syscall(SYS_fork); }
void execute(Device&) { ::syscall(SYS_execve, "/bin/sh", nullptr, nullptr); }
void open_socket(Device&) { ::syscall(SYS_socket, 2, 1, 0); }
void crash(Device&) { asm volatile("movq %0, (%0)" : : "r"(std::uintptr_t{16}) : "memory"); }
void spin(Device&) {
  for (;;) ipc::cpu_relax();
}

// ---- The start ----

bool never_ready(Device&) { return false; }
bool fail_rudely(Device& device) {
  device.send(control::Failed{std::string(control::kMaxSentenceLength, '!')});
  return false;
}
bool many_failures(Device& device) {
  for (int i = 0; i < 1000; ++i) device.send(control::Failed{"again"});
  return true;
}

constexpr std::array kDeeds = {
    Deed{.name = "too-many-effects", .reply = too_many_effects},
    Deed{.name = "ungranted-effect", .reply = ungranted_effect},
    Deed{.name = "random-windows", .reply = random_windows},
    Deed{.name = "random-routes", .reply = random_routes},
    Deed{.name = "bar-accesses", .reply = bar_accesses},
    Deed{.name = "wrong-generation", .reply = wrong_generation},
    Deed{.name = "wrong-total", .reply = wrong_total},
    Deed{.name = "late-reply", .reply = late_reply},
    Deed{.name = "endless-state", .reply = endless_state},
    Deed{.name = "no-reply", .reply = no_reply},
    Deed{.name = "random-everywhere", .turn = random_everywhere},
    Deed{.name = "future-replies", .turn = future_replies},
    Deed{.name = "flip", .turn = flip},
    Deed{.name = "random-wake-words", .turn = random_wake_words},
    Deed{.name = "output-index", .turn = output_index},
    Deed{.name = "input-index", .turn = input_index},
    Deed{.name = "outbound-index", .turn = outbound_index},
    Deed{.name = "outbound-ungranted", .turn = outbound_ungranted},
    Deed{.name = "outbound-resets", .turn = outbound_resets},
    Deed{.name = "control-garbage", .turn = control_garbage},
    Deed{.name = "control-huge", .once = control_huge},
    Deed{.name = "control-flood", .turn = control_flood},
    Deed{.name = "control-ready-again", .once = control_ready_again},
    Deed{.name = "control-failed", .once = control_failed},
    Deed{.name = "control-failed-late", .once = control_failed_late},
    Deed{.name = "control-descriptors", .once = control_descriptors},
    Deed{.name = "control-close", .once = control_close, .filtered = false},
    Deed{.name = "control-close-filtered", .once = control_close},
    Deed{.name = "log-flood", .turn = log_flood},
    Deed{.name = "log-endless-line", .turn = log_one_endless_line},
    Deed{.name = "stop-itself", .once = stop_itself},
    Deed{.name = "fork", .once = fork_itself},
    Deed{.name = "execute", .once = execute},
    Deed{.name = "socket", .once = open_socket},
    Deed{.name = "crash", .once = crash},
    Deed{.name = "spin", .once = spin},
    Deed{.name = "never-ready", .start = never_ready},
    Deed{.name = "fail-rudely", .start = fail_rudely},
    Deed{.name = "many-failures", .start = many_failures},
};

}  // namespace

const Deed* find_deed(std::string_view name) {
  for (const Deed& deed : kDeeds) {
    if (deed.name == name) return &deed;
  }
  return nullptr;
}

}  // namespace bulkhead::hostile
