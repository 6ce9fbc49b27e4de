// FakeWires: one of every wire, and as many lines and streams as a device type wants.
//
//   FakeWires fakes({.lines = 2, .streams = 1});
//   auto device = create(config, fakes.wires());
//   fakes.clock.attach(*device);
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "devproc/core/wires.h"
#include "tests/fakes/fake_block.h"
#include "tests/fakes/fake_char_backend.h"
#include "tests/fakes/fake_effects.h"
#include "tests/fakes/fake_entropy.h"
#include "tests/fakes/fake_frames.h"
#include "tests/fakes/fake_irq.h"
#include "tests/fakes/fake_link.h"
#include "tests/fakes/fake_network.h"
#include "tests/fakes/fake_publisher.h"
#include "tests/fakes/fake_ram.h"
#include "tests/fakes/fake_screen.h"
#include "tests/fakes/fake_sockets.h"
#include "tests/fakes/fake_state.h"
#include "tests/fakes/fw_cfg_data.h"
#include "tests/fakes/vector_memory.h"
#include "tests/fakes/virtual_clock.h"

namespace bulkhead::devproc {

struct FakeWireCounts {
  std::size_t lines = 0;
  std::size_t streams = 0;
  std::uint16_t queues = 0;
  std::size_t memory_bytes = 64 * 1024;
  std::size_t frames = 0;  // backends of a NIC
};

class FakeWires {
 public:
  explicit FakeWires(FakeWireCounts counts = {})
      : queues(counts.queues), memory(counts.memory_bytes), lines(counts.lines), streams(counts.streams) {
    for (auto& line : lines) line_pointers_.push_back(&line);
    for (auto& stream : streams) stream_pointers_.push_back(&stream);
    for (std::size_t i = 0; i < counts.frames; ++i) frame_pointers_.push_back(&frames.emplace_back(memory));
  }
  FakeWires(const FakeWires&) = delete;
  FakeWires& operator=(const FakeWires&) = delete;

  // References and spans in the result live as long as this object.
  [[nodiscard]] Wires wires() {
    return Wires{.state = state,
                 .clock = clock,
                 .timers = clock,
                 .effects = effects,
                 .lines = line_pointers_,
                 .streams = stream_pointers_,
                 .redirect = &redirect,
                 .msi = &msi,
                 .memory = &memory,
                 .ram = &ram,
                 .entropy = &entropy,
                 .block = &block,
                 .link = &link,
                 .sockets = &sockets,
                 .frames = frame_pointers_,
                 .publisher = &publisher,
                 .network = &network,
                 .screen = &screen,
                 .data = data};
  }

  FakeStateAllocator state;
  VirtualClock clock;
  FakeEffectSink effects;
  FakeRedirect redirect;
  FakeMsiSender msi;
  FakeEntropy entropy;
  std::uint16_t queues;  // of the device, which the host kicks
  VectorMemory memory;
  FakePublisher publisher{memory};
  FakeRam ram{memory};
  FakeBlock block{memory, {.bytes = 64 * 1024}};
  FakeNetwork network;
  FakeScreen screen;
  FakeLink link;
  FakeSockets sockets;
  std::deque<FakeFrames> frames;
  std::vector<std::byte> data = sample_fw_cfg_data();
  std::deque<FakeIrqLine> lines;
  std::deque<FakeCharBackend> streams;

 private:
  std::vector<IrqLine*> line_pointers_;
  std::vector<CharBackend*> stream_pointers_;
  std::vector<FrameBackend*> frame_pointers_;
};

}  // namespace bulkhead::devproc
