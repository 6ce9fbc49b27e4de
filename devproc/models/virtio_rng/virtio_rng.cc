#include "devproc/models/virtio_rng/virtio_rng.h"

#include <algorithm>
#include <array>

#include "devproc/models/virtio/spec.h"

namespace bulkhead::devproc {

using namespace virtio;

std::uint64_t VirtioRng::features() const { return feature_bit(kVirtioFInOrder); }

QueueWork VirtioRng::on_queue(VirtioPort& port, QueueId index) {
  VirtQueue& queue = port.queue(index);
  Chain chain;
  while (queue.room() != 0) {
    switch (queue.pop(chain)) {
      case Pop::kEmpty: return QueueWork::kDrained;
      case Pop::kBroken: return QueueWork::kBlocked;
      case Pop::kChain: break;
    }
    const std::optional<std::uint32_t> written = fill(chain);
    if (!written) {
      port.needs_reset();
      return QueueWork::kBlocked;
    }
    queue.push({chain.id, chain.descriptors, *written});
  }
  return QueueWork::kMore;
}

std::optional<std::uint32_t> VirtioRng::fill(const Chain& chain) {
  std::array<std::byte, 256> bytes{};
  const auto wanted = static_cast<std::uint32_t>(std::min<std::uint64_t>(chain.writable_bytes, kMostBytes));
  for (std::uint32_t done = 0; done < wanted;) {
    const auto piece = std::span(bytes).first(std::min<std::size_t>(bytes.size(), wanted - done));
    entropy_.fill(piece);
    if (!write_segments(memory_, chain.writable, done, piece)) return std::nullopt;
    done += static_cast<std::uint32_t>(piece.size());
  }
  return wanted;
}

}  // namespace bulkhead::devproc
