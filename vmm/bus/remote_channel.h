// RemoteChannel: a DeviceChannel whose devices live in a jailed process behind a request ring.
//
// Trust: what comes back is masked to the size that was asked for and otherwise believed as far as a
// register's value goes. A redirect is completed once, if it names what the plan has: never a redirect of a
// redirect; one that does not reads all ones, its writes are dropped. Threading: any vCPU thread (its own index), and
// the VMM's other threads through request().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "ipc/ring/request_producer.h"
#include "ipc/roles/bar_access.h"
#include "ipc/roles/fw_cfg_decl.h"
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

// Completes an access of a BAR that the `pci` process redirects (VIRTIO_PCI_CAP_PCI_CFG), whether or not the BAR
// decodes. False, and nothing done: there is no such BAR, or it is shorter.
class BarAccesses {
 public:
  virtual ~BarAccesses() = default;
  // `out` and `in`: access.size bytes.
  virtual bool read(std::uint32_t vcpu, const BarAccess& access, std::span<std::byte> out) = 0;
  virtual bool write(std::uint32_t vcpu, const BarAccess& access, std::span<const std::byte> in) = 0;
};

// Does a transfer of fw_cfg's DMA interface that the `platform` process redirects.
class FwCfgTransfers {
 public:
  struct Position {
    std::uint16_t selector = 0;
    std::uint32_t offset = 0;
  };
  virtual ~FwCfgTransfers() = default;
  // Where the transfer leaves the item.
  virtual Position transfer(const FwCfgTransfer& from) = 0;
};

class RemoteChannel final : public DeviceChannel {
 public:
  // `bars`: for the `pci` process alone, `transfers`: for that of fw_cfg; from any other, such a redirect is an answer
  // that there is not.
  RemoteChannel(ipc::RequestProducer& ring, PendingBits& pending, BarAccesses* bars = nullptr,
                FwCfgTransfers* transfers = nullptr)
      : ring_(ring), pending_(pending), bars_(bars), transfers_(transfers) {}

  void read(std::uint32_t vcpu, const BusAccess& access, std::span<std::byte> out) override;
  void write(std::uint32_t vcpu, const BusAccess& access, std::span<const std::byte> in) override;

  // A request on the VMM's own account; waits for its reply. nullopt: the device process is gone.
  std::optional<ipc::Reply> request(ipc::RequestKind kind, std::uint16_t instance = 0, std::uint32_t payload = 0,
                                    std::uint64_t offset = 0);
  std::optional<ipc::Reply> request(const ipc::Request& request);

  [[nodiscard]] std::uint64_t requests() const { return requests_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t posted() const { return posted_.load(std::memory_order_relaxed); }

 private:
  [[nodiscard]] bool redirects(const ipc::Reply& reply, const BusAccess& access) const {
    return reply.status == ipc::ReplyStatus::kBarAccess && bars_ != nullptr && !access.redirected;
  }
  void complete(const ipc::Reply& reply, std::span<std::byte> out);
  // One element.
  void read_bar(std::uint32_t vcpu, const ipc::Reply& reply, std::span<std::byte> out);
  void write_bar(std::uint32_t vcpu, const ipc::Reply& reply, std::size_t size);
  void do_transfer(std::uint32_t vcpu, const ipc::Reply& reply, const BusAccess& access);

  ipc::RequestProducer& ring_;
  PendingBits& pending_;
  BarAccesses* bars_;
  FwCfgTransfers* transfers_;
  std::array<ipc::AdaptiveWait, kMaxVcpus> waits_;  // each used by its vCPU's thread alone
  std::atomic<std::uint64_t> requests_{0};
  std::atomic<std::uint64_t> posted_{0};
};

}  // namespace bulkhead::vmm
