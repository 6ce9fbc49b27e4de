// Fuzzes the usernet model: frames from a hostile card, a network that answers, timers, random state, poison. What gets
// as far as the network is a frame that the filter passes, looked at once more by other means.
#include <cstdio>
#include <cstdlib>

#include "devproc/models/usernet/usernet.h"
#include "tests/fuzz/device_fuzzer.h"

namespace bulkhead::devproc {
namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

// No frame to 127.0.0.0/8 or 0.0.0.0/8 is ever seen behind the filter.
void check(const FakeNetwork::Frame& frame) {
  require(frame.size() >= 14);
  const bool ipv4 = frame[12] == std::byte{0x08} && frame[13] == std::byte{0x00};
  if (!ipv4) return require(frame[12] == std::byte{0x08} && frame[13] == std::byte{0x06});
  require(frame.size() >= 34);
  require(frame[30] != std::byte{127} && frame[30] != std::byte{0});
}

void run(std::span<const std::uint8_t> script) {
  FakeWires fakes({.frames = 1});
  Usernet device(allocate_state<UsernetState>(fakes.state), UsernetConfig{}, fakes.frames[0], fakes.network,
                 fakes.clock, fakes.clock);
  DeviceFuzzer fuzzer(device, fakes);
  FuzzBytes bytes(script);
  fakes.network.echoes = bytes.byte() % 2 == 0;
  while (!bytes.empty() && fuzzer.complaint().empty()) {
    const std::uint8_t what = bytes.byte();
    switch (what % 4) {
      case 0: {
        FakeFrames::Frame frame(bytes.byte());
        for (std::byte& one : frame) one = static_cast<std::byte>(bytes.byte());
        // Often far enough to be looked at.
        if (frame.size() > kFrameHeader + 34 && (what & 4) != 0) {
          std::fill_n(frame.begin(), kFrameHeader, std::byte{0});
          frame[kFrameHeader + 12] = std::byte{0x08};
          frame[kFrameHeader + 13] = std::byte{0x00};
        }
        fakes.frames[0].incoming.push_back(std::move(frame));
        break;
      }
      case 1: device.on_backend(what >> 2 & 1); break;
      case 2: fakes.frames[0].room = what & 8 ? -1 : what >> 4; break;
      default: fuzzer.step(bytes); break;
    }
    for (const FakeNetwork::Frame& frame : fakes.network.seen) check(frame);
    fakes.network.seen.clear();
    fakes.frames[0].sent.clear();
    fakes.frames[0].consumed.clear();
  }
  if (!fuzzer.complaint().empty()) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(fuzzer.complaint().size()), fuzzer.complaint().data());
    std::abort();
  }
}

}  // namespace
}  // namespace bulkhead::devproc

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bulkhead::devproc::run({data, size});
  return 0;
}
