// FakePublisher: stores at once, and remembers what it stored. new_input() makes room again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "devproc/core/wires.h"

namespace bulkhead::devproc {

class FakePublisher final : public GuestPublisher {
 public:
  struct Store {
    GuestPhys address;
    std::uint64_t value;
  };

  explicit FakePublisher(GuestMemory& memory) : memory_(memory) {}
  void publish(GuestPhys address, std::uint64_t value) override {
    if (used_ == most) {
      ++refused;
      return;
    }
    ++used_;
    stores.push_back({address, value});
    if (address % 8 == 0) memory_.store(address, value);
  }
  [[nodiscard]] std::size_t room() const override { return most - used_; }
  void new_input() {
    used_ = 0;
    if (stores.size() > 4096) stores.clear();
  }

  std::vector<Store> stores;
  std::size_t most = 1'000'000;  // an input
  int refused = 0;               // that a model made without room

 private:
  GuestMemory& memory_;
  std::size_t used_ = 0;
};

}  // namespace bulkhead::devproc
