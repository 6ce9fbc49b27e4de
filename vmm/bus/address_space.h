// AddressSpace: who answers at a port or at a guest-physical address.
//
// Lookups read an immutable table without locks; a change builds a new table and swaps it. A reader pins
// the table that it uses with a hazard pointer, so old tables are freed as soon as no vCPU is inside one,
// however often a guest moves its BARs. Threading: access from any vCPU thread through its own Reader;
// publish() from one thread at a time. Errors: publish() reports every overlap, naming both sides. Trust:
// addresses and sizes come from the guest.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "ipc/base/checked.h"
#include "ipc/base/result.h"
#include "vmm/bus/device_channel.h"

namespace bulkhead::vmm {

enum class Space : std::uint8_t { kPort, kMemory };

struct Claim {
  Space space = Space::kPort;
  std::uint64_t base = 0;
  std::uint64_t length = 0;
  DeviceChannel* channel = nullptr;
  std::uint16_t instance = 0;
  std::uint16_t region = 0;
  bool posted = false;
  std::string owner;              // "platform/com1", for reports
  std::span<std::byte> memory{};  // not empty: a memory slot of these bytes serves reads
  bool writable = false;          // and writes
};

class AddressSpace {
 public:
  static constexpr std::uint32_t kReaders = 65;  // vCPUs, and one for the VMM's own look-ups

  AddressSpace();
  ~AddressSpace();
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;

  // Replaces the whole table. Claims may not overlap within a space, be empty or wrap; nothing changes
  // then.
  Status publish(std::vector<Claim> claims);

  // An access of `count` elements of `size` bytes each at the same address. What nobody claims reads all
  // ones and is counted, once an element; an access that crosses a claim's end is split as the bus does, and counted
  // for each piece that nobody claims. One that passes the end of the address space reaches nobody.
  void read(std::uint32_t vcpu, Space space, std::uint64_t address, std::uint8_t size, std::uint32_t count,
            std::span<std::byte> out);
  void write(std::uint32_t vcpu, Space space, std::uint64_t address, std::uint8_t size, std::uint32_t count,
             std::span<const std::byte> in);

  [[nodiscard]] std::uint64_t unclaimed() const { return unclaimed_.load(std::memory_order_relaxed); }
  // The claims in force.
  [[nodiscard]] std::vector<Claim> claims() const;

 private:
  struct Entry {
    std::uint64_t first;
    std::uint64_t last;
    Claim claim;
  };
  struct Table {
    std::vector<Entry> spaces[2];  // sorted by address
  };
  class Pin;

  [[nodiscard]] static const Entry* find(const Table& table, Space space, std::uint64_t address);
  void read_one(const Table& table, std::uint32_t vcpu, Space space, std::uint64_t address, std::span<std::byte> out);
  void write_one(const Table& table, std::uint32_t vcpu, Space space, std::uint64_t address,
                 std::span<const std::byte> in);
  // Whether nobody claims any byte of [address, address + size).
  [[nodiscard]] static bool unclaimed_run(const Table& table, Space space, std::uint64_t address, std::uint64_t size);
  void count_unclaimed(Space space, std::uint64_t address, std::uint32_t accesses, bool is_write);
  void free_retired();

  std::atomic<const Table*> current_;
  struct alignas(64) Hazard {
    std::atomic<const Table*> table{nullptr};
  };
  mutable std::array<Hazard, kReaders> hazards_;
  mutable std::mutex claims_lock_;                     // the last hazard slot has one user at a time
  std::vector<std::unique_ptr<const Table>> retired_;  // by publish() only
  std::atomic<std::uint64_t> unclaimed_{0};
};

}  // namespace bulkhead::vmm
