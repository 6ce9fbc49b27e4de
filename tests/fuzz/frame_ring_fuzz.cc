// Fuzzes one end of a frame ring against a peer that writes what it likes into its area: indexes, records, flags,
// before and between the calls; and against its own random state. Every frame that is handed out is within bounds, and
// what an honest moment of the peer puts in comes out unless the ring was broken since.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "devproc/backends/ring_frames.h"
#include "tests/fakes/fake_state.h"
#include "tests/fuzz/fuzz_script.h"

namespace bulkhead::devproc {
namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void run(std::span<const std::uint8_t> script) {
  static const auto own = std::make_unique<ipc::FrameRingArea>();
  static const auto peer = std::make_unique<ipc::FrameRingArea>();
  static const UniqueFd bell = UniqueFd::create_eventfd().value();
  for (ipc::FrameRingArea* area : {own.get(), peer.get()}) {
    area->produced.store(0);
    area->consumed.store(0);
    area->asleep.store(0);
  }
  FakeStateAllocator allocator;
  const auto state = allocate_state<ipc::FrameRingState>(allocator);
  const FrameRingWires wires{own.get(), peer.get(), bell.borrow(), bell.borrow()};
  auto ring = std::make_unique<RingFrames>(wires, state, nullptr);
  ring->start(false);
  ring->set_wanted(true);
  fuzz::FuzzScript bytes(script);
  while (!bytes.empty()) {
    switch (bytes.byte() % 9) {
      case 0: peer->produced.store(bytes.number(8)); break;
      case 1: peer->produced.store(peer->produced.load() + bytes.number(3)); break;
      case 2: peer->consumed.store(own->produced.load() - bytes.number(3)); break;
      case 3: peer->consumed.store(bytes.number(8)); break;
      case 4: {
        const auto value = static_cast<std::uint32_t>(bytes.number(4));
        const std::uint64_t at = (peer->produced.load() + bytes.byte() * 8) % ipc::kFrameRingBytes & ~std::uint64_t{7};
        std::memcpy(peer->data + at, &value, sizeof value);
        break;
      }
      case 5: {
        const auto frame = ring->receive();
        require(frame.size() <= kMostFrame);
        if (!frame.empty() && bytes.byte() % 4 != 0) ring->consume();
        break;
      }
      case 6: {
        static const std::vector<std::byte> frame(kMostFrame + 8);
        (void)ring->send(std::span(frame).first(bytes.number(3) % frame.size()), {});
        break;
      }
      case 7:
        ring->set_asleep(bytes.byte() % 2 == 0);
        ring->begin();
        (void)ring->ready();
        break;
      case 8: {
        if (bytes.byte() % 4 == 0) {
          const std::span<std::byte> raw = allocator.bytes(0);
          for (std::byte& one : raw) one = static_cast<std::byte>(bytes.byte());
        }
        ring = std::make_unique<RingFrames>(wires, state, nullptr);
        ring->start(true);
        ring->set_wanted(true);
        break;
      }
      default: break;
    }
  }
  // It comes to rest whatever happened.
  ring->begin();
  for (int i = 0; i < 100'000 && ring->ready(); ++i) {
    if (ring->receive().empty()) break;
    ring->consume();
  }
}

}  // namespace
}  // namespace bulkhead::devproc

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bulkhead::devproc::run({data, size});
  return 0;
}
