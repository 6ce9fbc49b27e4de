// E1000Rig: an 82540EM with a driver's rings in fake memory. Every call is an input of its own.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "devproc/core/checksum.h"
#include "devproc/models/e1000/e1000.h"
#include "ipc/roles/e1000_decl.h"
#include "ipc/state/effects.h"
#include "tests/fakes/fake_wires.h"

namespace bulkhead::devproc {

using namespace e1000_spec;
using Bytes = std::vector<std::byte>;

inline constexpr std::array<std::uint8_t, 6> kRigMac{0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
inline constexpr GuestPhys kReceiveRing = 0x1000;
inline constexpr GuestPhys kTransmitRing = 0x2000;
inline constexpr GuestPhys kReceiveBuffers = 0x10000;  // 0x1000 apart
inline constexpr GuestPhys kTransmitBuffers = 0x30000;
inline constexpr std::uint32_t kRingSize = 16;

inline Bytes bytes_of(std::initializer_list<unsigned> list) {
  Bytes bytes;
  for (const unsigned one : list) bytes.push_back(static_cast<std::byte>(one));
  return bytes;
}

// An Ethernet frame of `size` bytes to `to`, of type `type`, with a pattern in it.
inline Bytes frame_to(const std::array<std::uint8_t, 6>& to, std::size_t size, std::uint16_t type = 0x88b5) {
  Bytes frame(size);
  for (std::size_t i = 0; i < size; ++i) frame[i] = static_cast<std::byte>(i * 7 + 1);
  for (std::size_t i = 0; i < 6; ++i) {
    frame[i] = std::byte{to[i]};
    frame[6 + i] = static_cast<std::byte>(i == 0 ? 2 : i);
  }
  store_be16(frame, 12, type);
  return frame;
}

class E1000Rig : public ::testing::Test {
 protected:
  E1000Rig() : fakes({.lines = 1, .memory_bytes = 0x100000, .frames = 1}) {
    fakes.publisher.most = 128;
    make();
    fakes.clock.set_now(VmTime{1'000'000'000});
    device->reset();
    device->on_function_control(kControlMemoryEnable | kControlIoEnable | kControlBusMaster);
  }
  void make() {
    device = std::make_unique<E1000>(storage, E1000Config{.nic = {.mac = kRigMac}}, fakes.lines[0], fakes.memory,
                                     fakes.publisher, fakes.frames[0], fakes.clock, fakes.clock);
    fakes.clock.attach(*device);
  }
  // A successor's start.
  void succeed() {
    make();
    device->restore();
  }
  std::uint32_t rd(std::uint32_t offset) {
    fakes.publisher.new_input();
    return static_cast<std::uint32_t>(device->read({kE1000Registers, offset, 4}).value_or(0xdeadbeef));
  }
  void wr(std::uint32_t offset, std::uint32_t value) {
    fakes.publisher.new_input();
    device->write({kE1000Registers, offset, 4}, value);
  }
  // As drivers do: rings, addresses, enables. `rctl`: beside EN.
  void start(std::uint32_t rctl = kRctlBam | kRctlSecrc, std::uint32_t tctl = kTctlPsp) {
    wr(kCtrl, rd(kCtrl) | kCtrlSlu);
    for (std::uint32_t i = 0; i < kRingSize; ++i)
      fakes.memory.store(kReceiveRing + 16 * i, Descriptor{kReceiveBuffers + 0x1000 * i, 0});
    wr(kRdbal, kReceiveRing);
    wr(kRdlen, 16 * kRingSize);
    wr(kRdh, 0);
    wr(kRdt, kRingSize - 1);
    wr(kTdbal, kTransmitRing);
    wr(kTdlen, 16 * kRingSize);
    wr(kTdh, 0);
    wr(kTdt, 0);
    wr(kRctl, rctl | kRctlEn);
    wr(kTctl, tctl | kTctlEn);
  }
  bool arrive(const Bytes& frame, FrameHeader header = {}) {
    Bytes whole(sizeof header + frame.size());
    std::memcpy(whole.data(), &header, sizeof header);
    std::copy(frame.begin(), frame.end(), whole.begin() + sizeof header);
    fakes.frames[0].incoming.push_back(std::move(whole));
    return work();
  }
  bool work() {
    bool more = true;
    for (int i = 0; more && i < 100; ++i) {
      fakes.publisher.new_input();
      more = device->on_backend(0);
    }
    return !more;
  }
  Descriptor receive_descriptor(std::uint32_t index) {
    return *fakes.memory.load<Descriptor>(kReceiveRing + 16 * index);
  }
  Descriptor transmit_descriptor(std::uint32_t index) {
    return *fakes.memory.load<Descriptor>(kTransmitRing + 16 * index);
  }
  Bytes memory(GuestPhys at, std::size_t size) {
    Bytes bytes(size);
    EXPECT_TRUE(fakes.memory.read(at, bytes));
    return bytes;
  }
  // Puts a descriptor at the tail, without telling.
  void add(std::uint64_t address, std::uint64_t rest) {
    fakes.memory.store(kTransmitRing + 16 * next_transmit, Descriptor{address, rest});
    next_transmit = (next_transmit + 1) % kRingSize;
  }
  void put(GuestPhys at, const Bytes& bytes) { ASSERT_TRUE(fakes.memory.write(at, bytes)); }
  void kick() {
    wr(kTdt, next_transmit);
    fakes.clock.advance(std::chrono::nanoseconds(0));
  }
  void send_legacy(const Bytes& frame, std::uint8_t cmd = kTxCmdEop | kTxCmdIfcs | kTxCmdRs, std::uint8_t cso = 0,
                   std::uint8_t css = 0, std::uint16_t special = 0) {
    put(kTransmitBuffers, frame);
    add(kTransmitBuffers, frame.size() | std::uint64_t{cso} << 16 | std::uint64_t{cmd} << 24 |
                              std::uint64_t{css} << 40 | std::uint64_t{special} << 48);
    kick();
  }
  static std::uint64_t context_rest(std::uint32_t payload, std::uint8_t tucmd, std::uint8_t header, std::uint16_t mss) {
    return payload | std::uint64_t{tucmd} << 24 | std::uint64_t{header} << 40 | std::uint64_t{mss} << 48;
  }
  static std::uint64_t context_address(std::uint8_t ipcss, std::uint8_t ipcso, std::uint16_t ipcse, std::uint8_t tucss,
                                       std::uint8_t tucso, std::uint16_t tucse = 0) {
    return ipcss | std::uint64_t{ipcso} << 8 | std::uint64_t{ipcse} << 16 | std::uint64_t{tucss} << 32 |
           std::uint64_t{tucso} << 40 | std::uint64_t{tucse} << 48;
  }
  static std::uint64_t data_rest(std::size_t length, std::uint8_t dcmd, std::uint8_t popts, std::uint16_t special = 0) {
    return length | std::uint64_t{kTxTypeData} << 20 | std::uint64_t{dcmd} << 24 | std::uint64_t{popts} << 40 |
           std::uint64_t{special} << 48;
  }
  std::uint64_t inspected(std::string_view name) {
    class Finder final : public Inspector {
     public:
      explicit Finder(std::string_view wanted) : wanted_(wanted) {}
      void field(std::string_view field_name, std::uint64_t value) override {
        if (field_name == wanted_) found = value;
      }
      std::uint64_t found = UINT64_MAX;

     private:
      std::string_view wanted_;
    } finder(name);
    device->inspect(finder);
    return finder.found;
  }
  // What was sent, header taken off.
  Bytes sent(std::size_t index) {
    const auto& frame = fakes.frames[0].sent.at(index);
    return {frame.begin() + kFrameHeader, frame.end()};
  }
  FrameHeader sent_header(std::size_t index) {
    FrameHeader header;
    std::memcpy(&header, fakes.frames[0].sent.at(index).data(), sizeof header);
    return header;
  }
  bool line() const { return fakes.lines[0].level; }

  FakeWires fakes;
  E1000Storage storage = E1000Storage::allocate(fakes.state);
  std::unique_ptr<E1000> device;
  std::uint32_t next_transmit = 0;
};

}  // namespace bulkhead::devproc
