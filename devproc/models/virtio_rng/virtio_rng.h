// VirtioRng: the entropy device.
//
// Document: VIRTIO 1.2, section 5.4. Implemented: all of it (one queue, no features, no configuration).
// A request is filled up to kMostBytes, as the specification allows ("the device MUST place one or more random bytes").
// Threading: single-threaded. Trust: buffers are the guest's.
// Config: VirtioRngConfig{}
#pragma once

#include <cstdint>

#include "devproc/core/entropy.h"
#include "devproc/core/guest_memory.h"
#include "devproc/models/virtio/transport.h"
#include "devproc/models/virtio_rng/spec.h"

namespace bulkhead::devproc {

class VirtioRng final : public virtio::VirtioModel {
 public:
  static constexpr std::uint32_t kMostBytes = 4096;  // of one request: bounds the work on one chain

  VirtioRng(GuestMemory& memory, Entropy& entropy) : memory_(memory), entropy_(entropy) {}

  [[nodiscard]] std::string_view name() const override { return "virtio_rng"; }
  [[nodiscard]] std::uint16_t queues() const override { return kRequestq + 1; }
  [[nodiscard]] std::uint64_t features() const override;
  virtio::QueueWork on_queue(virtio::VirtioPort& port, QueueId queue) override;
  void reset() override {}
  void restore() override {}

 private:
  // How many bytes the chain got; nullopt: a buffer is not in RAM.
  std::optional<std::uint32_t> fill(const virtio::Chain& chain);

  GuestMemory& memory_;
  Entropy& entropy_;
};

}  // namespace bulkhead::devproc
