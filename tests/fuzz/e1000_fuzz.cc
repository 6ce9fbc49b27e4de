// The 82540EM with registers, rings, buffers, incoming frames and committed state that change at will. No crash and
// bounded work, whatever they hold; restoring twice is restoring once; what goes out has a length and a header that
// make sense; nothing is published beyond an input's room.
#include <chrono>
#include <cstring>
#include <memory>
#include <random>

#include "devproc/models/e1000/e1000.h"
#include "ipc/roles/e1000_decl.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fuzz/fuzz_script.h"

namespace {

using namespace bulkhead;
using namespace bulkhead::devproc;
using namespace bulkhead::devproc::e1000_spec;
using bulkhead::fuzz::FuzzScript;
using bulkhead::fuzz::require;

constexpr std::size_t kRam = 0x40000;
constexpr GuestPhys kReceiveRing = 0x1000;
constexpr GuestPhys kTransmitRing = 0x2000;
constexpr GuestPhys kBuffers = 0x10000;
constexpr std::uint32_t kRing = 16;

class E1000Fuzzer {
 public:
  explicit E1000Fuzzer(FuzzScript& script) : script_(script), fakes_({.lines = 1, .memory_bytes = kRam, .frames = 1}) {
    fakes_.publisher.most = 128;
    fakes_.clock.set_now(VmTime{1'000'000'000});
    build();
    device_->reset();
    device_->on_function_control(kControlMemoryEnable | kControlBusMaster);
    start();
  }
  void run() {
    for (int i = 0; i < 500 && !script_.empty(); ++i) {
      fakes_.publisher.new_input();
      step();
      check();
    }
  }

 private:
  void build() {
    const E1000Config config{.nic = {.mac = {2, 0, 0, 0, 0, 1}}};
    device_ = std::make_unique<E1000>(storage_, config, fakes_.lines[0], fakes_.memory, fakes_.publisher,
                                      fakes_.frames[0], fakes_.clock, fakes_.clock);
  }
  void wr(std::uint32_t offset, std::uint32_t value) { device_->write({kE1000Registers, offset, 4}, value); }
  void start() {
    for (std::uint32_t i = 0; i < kRing; ++i)
      fakes_.memory.store(kReceiveRing + 16 * i, Descriptor{kBuffers + 0x1000 * i, 0});
    for (const auto& [offset, value] :
         {std::pair(kCtrl, kCtrlSlu), std::pair(kRdbal, std::uint32_t{kReceiveRing}), std::pair(kRdlen, 16 * kRing),
          std::pair(kRdt, kRing - 1), std::pair(kTdbal, std::uint32_t{kTransmitRing}), std::pair(kTdlen, 16 * kRing)})
      wr(offset, value);
    wr(kRctl, kRctlEn | kRctlUpe | (script_.byte() & 1 ? kRctlSecrc | 3U << kRctlBsizeShift : 0U));
    wr(kTctl, kTctlEn | kTctlPsp);
    wr(kRxcsum, kRxcsumIpofl | kRxcsumTuofl);
    tail_ = 0;
  }
  void step() {
    const std::uint8_t what = script_.byte();
    FakeFrames& wire = fakes_.frames[0];
    switch (what % 16) {
      case 0:
      case 1:
      case 2:
      case 3: add(what >> 4); break;
      case 4:
      case 5:
        wr(kTdt, tail_);
        work();
        break;
      case 6:
      case 7: feed(wire); break;
      case 8: wr(kRdt, script_.byte() % kRing); break;
      case 9: wire.room = static_cast<std::int8_t>(script_.byte()); break;
      case 10: wire.link_up = (what & 0x10) == 0; break;
      case 11:
        wire.offloads_taken = (what & 0x10) != 0;
        timers(script_.number(3));
        break;
      case 12: registers(what >> 4); break;
      case 13: fakes_.memory.store(script_.number(3) % kRam, script_.number(8)); break;
      case 14: life(what >> 4); break;
      default: corrupt(); break;
    }
  }
  // A descriptor of some kind at the tail.
  void add(unsigned kind) {
    Descriptor one{.address = kBuffers + script_.number(2), .rest = script_.number(2)};
    const std::uint64_t command = script_.byte();
    if (kind % 4 == 0) {  // context
      one.address = script_.number(8);
      one.rest |= (command | kTxCmdDext) << 24 | script_.number(3) << 40;
    } else if (kind % 4 == 1) {  // legacy
      one.rest |= script_.number(1) << 16 | (command & ~std::uint64_t{kTxCmdDext}) << 24 | script_.number(1) << 40;
    } else {
      one.rest |= std::uint64_t{kTxTypeData} << 20 | (command | kTxCmdDext) << 24 | script_.number(1) << 40;
    }
    fakes_.memory.store(kTransmitRing + 16 * tail_, one);
    tail_ = (tail_ + 1) % kRing;
  }
  void feed(FakeFrames& wire) {
    const std::uint8_t shape = script_.byte();
    FakeFrames::Frame frame(shape < 0xf0 ? script_.byte() + 8U : script_.number(3) % (kMostFrame + 2));
    script_.fill(std::span(frame).first(std::min<std::size_t>(frame.size(), shape % 64U)));
    for (unsigned i = 0; i <= shape % 4U && wire.incoming.size() < 300; ++i) wire.incoming.push_back(frame);
    work();
  }
  void work() {
    for (int i = 0;; ++i) {
      fakes_.publisher.new_input();
      if (!device_->on_backend(0)) break;
      require(i < 2000, "it never ends");
    }
    timers(0);
  }
  // Each an input of its own.
  void timers(std::uint64_t ns) {
    fakes_.clock.advance(std::chrono::nanoseconds(ns));
    for (int i = 0; i < 2000; ++i) {
      const auto next = fakes_.clock.next_deadline();
      if (!next || *next > fakes_.clock.now()) return;
      for (TimerId timer = 0; timer < kE1000Timers; ++timer) {
        if (fakes_.clock.deadline(timer) != next) continue;
        fakes_.clock.cancel(timer);
        fakes_.publisher.new_input();
        device_->on_timer(timer);
        break;
      }
    }
    require(false, "its timers never end");
  }
  void registers(unsigned how) {
    const auto offset = static_cast<std::uint32_t>(script_.number(2) & 0xfffc);
    const Access access{how % 8 == 0 ? kE1000Ports : kE1000Registers, how % 8 == 0 ? offset % kE1000PortsSize : offset,
                        4};
    if ((how & 1) != 0)
      device_->write(access, script_.number(4));
    else
      device_->read(access);
    timers(0);
  }
  void life(unsigned which) {
    switch (which % 5) {
      case 0: device_->on_function_control(static_cast<std::uint32_t>(script_.number(2)) & kControlAll); break;
      case 1:
        wr(kCtrl, kCtrlRst);
        start();
        break;
      case 2: device_->reset(); break;
      case 3:
        device_->on_limit(static_cast<LimitId>(script_.byte() % 2), {.bytes_per_second = script_.number(3),
                                                                     .bytes_burst = script_.number(2),
                                                                     .operations_per_second = script_.number(2),
                                                                     .operations_burst = script_.number(1)});
        timers(0);
        break;
      default:
        device_->on_function_control(kControlMemoryEnable | kControlBusMaster);
        succeed();
        break;
    }
  }
  void corrupt() {
    const auto bytes = fakes_.state.bytes(script_.byte() % fakes_.state.count());
    const std::uint8_t how = script_.byte();
    std::mt19937_64 random(script_.number(2));
    if ((how & 1) != 0) {
      for (std::byte& one : bytes) one = static_cast<std::byte>(random());
    } else {
      for (unsigned i = 0; i <= how / 32U; ++i) bytes[script_.number(2) % bytes.size()] = std::byte{script_.byte()};
    }
    succeed();
  }
  void succeed() {
    for (TimerId timer = 0; timer < kE1000Timers; ++timer) fakes_.clock.cancel(timer);
    build();
    device_->restore();
    const auto once = fakes_.state.snapshot();
    device_->restore();
    require(fakes_.state.snapshot() == once, "restoring twice is not restoring once");
    timers(0);
  }
  void check() {
    FakeFrames& wire = fakes_.frames[0];
    require(fakes_.publisher.refused == 0, "published without room");
    for (const FakeFrames::Frame& frame : wire.sent) {
      require(frame.size() >= kFrameHeader + kEthernetHeader && frame.size() <= kMostFrame + kVlanTag, "a length");
      FrameHeader header;
      std::memcpy(&header, frame.data(), sizeof header);
      const std::size_t length = frame.size() - sizeof header;
      require(header.num_buffers == 0 && header.hdr_len <= length, "a header");
      if (header.flags != 0)
        require(
            header.flags == kFrameNeedsChecksum && std::size_t{header.csum_start} + header.csum_offset + 2 <= length,
            "a checksum");
      require(header.gso_type == 0 || (header.gso_size != 0 && header.flags != 0), "segments");
    }
    wire.sent.clear();
    wire.consumed.clear();
  }

  FuzzScript& script_;
  FakeWires fakes_;
  E1000Storage storage_ = E1000Storage::allocate(fakes_.state);
  std::unique_ptr<E1000> device_;
  std::uint32_t tail_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzScript script({data, size});
  E1000Fuzzer(script).run();
  return 0;
}
