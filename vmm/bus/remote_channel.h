// RemoteChannel: a DeviceChannel whose devices live in a jailed process behind a request ring.
//
// Trust: what comes back is masked to the size that was asked for and otherwise believed as far as a
// register's value goes. Threading: any vCPU thread (its own index), and the VMM's other threads through
// request().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "ipc/ring/request_producer.h"
#include "vmm/bus/device_channel.h"
#include "vmm/x86/topology.h"

namespace bulkhead::vmm {

// Completes a read of MSI-X pending bits, which only the VMM can answer.
class PendingBits {
 public:
  virtual ~PendingBits() = default;
  // Bit i: vector first_vector + i of the function waits to be delivered.
  virtual std::uint64_t pending_bits(std::uint8_t devfn, std::uint16_t first_vector) = 0;
};

class RemoteChannel final : public DeviceChannel {
 public:
  RemoteChannel(ipc::RequestProducer& ring, PendingBits& pending) : ring_(ring), pending_(pending) {}

  void read(std::uint32_t vcpu, const BusAccess& access, std::span<std::byte> out) override;
  void write(std::uint32_t vcpu, const BusAccess& access, std::span<const std::byte> in) override;

  // A request on the VMM's own account; waits for its reply. nullopt: the device process is gone.
  std::optional<ipc::Reply> request(ipc::RequestKind kind, std::uint16_t instance = 0, std::uint32_t payload = 0,
                                    std::uint64_t offset = 0);

  [[nodiscard]] std::uint64_t requests() const { return requests_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t posted() const { return posted_.load(std::memory_order_relaxed); }

 private:
  void complete(const ipc::Reply& reply, std::span<std::byte> out);

  ipc::RequestProducer& ring_;
  PendingBits& pending_;
  std::array<ipc::AdaptiveWait, kMaxVcpus> waits_;  // each used by its vCPU's thread alone
  std::atomic<std::uint64_t> requests_{0};
  std::atomic<std::uint64_t> posted_{0};
};

}  // namespace bulkhead::vmm
