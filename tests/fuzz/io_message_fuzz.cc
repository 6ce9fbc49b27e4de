// The VMM's ends of the shared areas against a hostile reply area: RequestProducer with the channel above
// it, and StreamEnd. One thread plays both sides: an answer lies ready before the call, or never comes;
// then the first overdue request closes the ring.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>

#include "ipc/ring/stream.h"
#include "tests/fuzz/fuzz_script.h"
#include "vmm/bus/remote_channel.h"
#include "vmm/pci/bar_map.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::ipc;
using bulkhead::fuzz::FuzzScript;
using bulkhead::fuzz::require;

class Receiver final : public EffectReceiver {
 public:
  bool apply_effect(const Effect& untrusted) override {
    ++count;
    const std::optional<Effect> effect = parse_effect(untrusted);
    require(!effect || *effect == untrusted, "a parsed effect is another");
    return effect.has_value();
  }
  std::size_t count = 0;
};

class NoBits final : public vmm::PendingBits {
 public:
  std::uint64_t pending_bits(std::uint8_t, std::uint16_t) override { return 0x0123'4567'89ab'cdef; }
};

// A function's BARs at a device that must be asked for nothing beyond their ends.
class Bars final : public vmm::DeviceChannel {
 public:
  static constexpr std::uint64_t kSize = 4096;
  void read(std::uint32_t, const vmm::BusAccess& access, std::span<std::byte> out) override {
    check(access, out.size());
    std::fill(out.begin(), out.end(), std::byte{0x5a});
  }
  void write(std::uint32_t, const vmm::BusAccess& access, std::span<const std::byte> in) override {
    check(access, in.size());
  }

 private:
  static void check(const vmm::BusAccess& access, std::size_t bytes) {
    require(access.redirected && access.count == 1 && access.size == bytes, "another access than one of a redirect");
    require(access.size == 1 || access.size == 2 || access.size == 4, "a size that there is not");
    require(access.offset + access.size <= kSize, "an access beyond the BAR");
  }
};

// A wait that does not spin.
AdaptiveWait impatient() {
  AdaptiveWait wait;
  WakeNote note{};
  note.cpu.store(~0U);
  note.time_ns.store(INT64_MAX);
  wait.learn(note);
  return wait;
}

class HostilePeer {
 public:
  HostilePeer() {
    RequestProducer::Options options;
    options.deadline_ns = 1;
    options.on_overdue = [this](Ticket, std::uint32_t) { ring_->close(); };
    options.on_violation = [this](const char*, std::uint32_t) { ++violations_; };
    ring_.emplace(*requests_, *replies_, doorbell_.borrow(), receiver_, std::move(options));
    channel_.emplace(*ring_, bits_, &map_);
    map_.add({.devfn = 0x18, .index = 0, .size = Bars::kSize, .channel = &bars_, .owner = "bars"});
    map_.add({.devfn = 0x18, .index = 1, .size = Bars::kSize, .channel = &bars_, .posted = true, .owner = "bars"});
    map_.add({.devfn = 0x18, .index = 4, .size = Bars::kSize, .channel = &*channel_, .owner = "pci"});
  }

  void step(FuzzScript& script) {
    switch (script.byte() % 10) {
      case 0: return scribble(script);
      case 1: return call(script, true);
      case 2: return call(script, false);
      case 3: return post(script);
      case 4: return access_register(script);
      case 5: return take_stream(script);
      case 6: return give_stream(script);
      case 7: (void)ring_->drain(0); return;
      case 8: ring_->set_generation(script.byte()); return;
      default: ring_->set_incarnation(script.byte() % 4); return;
    }
  }
  [[nodiscard]] bool closed() const { return ring_->closed(); }

 private:
  void scribble(FuzzScript& script) {
    const std::uint64_t at = script.number(3) % (sizeof(ReplyArea) - 8);
    const std::uint64_t value = script.number(8);
    std::memcpy(reinterpret_cast<std::byte*>(replies_.get()) + at, &value, sizeof value);
  }

  // The reply that the next ticket will find.
  void prepare(FuzzScript& script) {
    const Ticket ticket = ring_->submitted() + 1;
    ReplySlot& slot = replies_->slots[slot_of(ticket)];
    script.fill(std::as_writable_bytes(std::span(&slot.reply, 1)));
    if (script.byte() % 4 != 0) slot.reply.generation = ring_->generation();
    if (script.byte() % 4 != 0) slot.reply.effect_count %= kMaxEffects + 2;
    if (script.byte() % 4 == 0) slot.reply.status = ReplyStatus::kBarAccess;
    BarAccess access;
    std::memcpy(&access, slot.reply.payload, sizeof access);
    if (script.byte() % 2 == 0) {
      access.devfn = 0x18;
      access.size = static_cast<std::uint8_t>(1U << access.size % 4);
      access.offset %= Bars::kSize + 8;
      access.reserved = 0;
    }
    std::memcpy(slot.reply.payload, &access, sizeof access);
    slot.incarnation.store(requests_->incarnation.load());
    slot.ticket.store(ticket);
    Effect& effect = replies_->effects[slot_of(ticket)].effects[script.byte() % kMaxEffects];
    script.fill(std::as_writable_bytes(std::span(&effect, 1)));
    effect.kind %= 7;
  }

  void call(FuzzScript& script, bool answered) {
    if (answered) prepare(script);
    Request request;
    script.fill(std::as_writable_bytes(std::span(request.payload).first(4)));
    const std::size_t before = receiver_.count;
    AdaptiveWait wait = impatient();
    const std::optional<Reply> reply = ring_->call(request, wait);
    require(receiver_.count - before <= std::size_t{kSlots} * kMaxEffects, "more effects than all slots hold");
    if (!reply) return require(ring_->closed(), "no reply, and the ring is open");
    require(reply->generation == ring_->generation(), "a reply of another generation");
    require(reply->effect_count <= kMaxEffects, "a reply with too many effects");
  }

  void post(FuzzScript& script) {
    if (script.byte() % 2 == 0) prepare(script);
    require(ring_->post(Request{}) || ring_->closed(), "a write was refused, and the ring is open");
  }

  void access_register(FuzzScript& script) {
    const std::uint8_t how = script.byte();
    const auto size = static_cast<std::uint8_t>(1U << how % 4);
    const std::uint32_t count = 1 + (how >> 4) % (kPayloadBytes / size);
    prepare(script);
    std::array<std::byte, kPayloadBytes> bytes{};
    const std::span<std::byte> part = std::span(bytes).first(std::size_t{size} * count);
    if (script.byte() % 4 == 0) {
      channel_->write(0, {.size = size, .count = count}, part);
    } else {
      channel_->read(0, {.size = size, .count = count}, part);
    }
  }

  void take_stream(FuzzScript& script) {
    const std::uint32_t stream = script.byte() % kStreams;
    if (script.byte() % 2 == 0) replies_->output_produced[stream].store(script.number(8));
    if (script.byte() % 2 == 0) replies_->output_produced[stream].fetch_add(script.number(2));
    std::array<std::uint8_t, 4096> buffer;
    const std::span<std::uint8_t> out = std::span(buffer).first(script.number(2) % (buffer.size() + 1));
    const std::optional<std::size_t> n = ends_[stream].take(out);
    require(!n || *n <= out.size(), "more bytes than were asked for");
  }
  void give_stream(FuzzScript& script) {
    const std::uint32_t stream = script.byte() % kStreams;
    if (script.byte() % 2 == 0) replies_->input_consumed[stream].store(script.number(8));
    const std::optional<std::size_t> room = ends_[stream].room();
    if (!room) return;
    require(*room <= kInputBytes, "more room than there is");
    const std::array<std::uint8_t, kInputBytes> bytes{};
    ends_[stream].give(std::span(bytes).first(script.number(2) % (*room + 1)));
  }

  std::unique_ptr<RequestArea> requests_ = std::make_unique<RequestArea>();
  std::unique_ptr<ReplyArea> replies_ = std::make_unique<ReplyArea>();
  UniqueFd doorbell_ = UniqueFd::create_eventfd().value();
  Receiver receiver_;
  NoBits bits_;
  Bars bars_;
  vmm::BarMap map_;
  std::optional<RequestProducer> ring_;
  std::optional<vmm::RemoteChannel> channel_;
  std::size_t violations_ = 0;
  std::array<StreamEnd, kStreams> ends_ = {StreamEnd(*requests_, *replies_, 0), StreamEnd(*requests_, *replies_, 1),
                                           StreamEnd(*requests_, *replies_, 2), StreamEnd(*requests_, *replies_, 3),
                                           StreamEnd(*requests_, *replies_, 4), StreamEnd(*requests_, *replies_, 5),
                                           StreamEnd(*requests_, *replies_, 6), StreamEnd(*requests_, *replies_, 7)};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzScript script({data, size});
  HostilePeer peer;
  for (int step = 0; step < 300 && !script.empty() && !peer.closed(); ++step) peer.step(script);
  return 0;
}
