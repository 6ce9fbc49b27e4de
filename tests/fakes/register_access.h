// RegisterAccess: a guest's IN, OUT and MOV on one device, as the bus would make them: what nobody answers
// reads as ones, and each access begins a new input.
#pragma once

#include <cstdint>

#include "devproc/core/device.h"
#include "tests/fakes/fake_wires.h"

namespace bulkhead::devproc {

class RegisterAccess {
 public:
  RegisterAccess(Device& device, FakeWires& fakes) : device_(device), fakes_(fakes) {}

  std::uint64_t in(std::uint64_t offset, std::uint8_t size = 1, RegionIndex region = 0) {
    fakes_.effects.next_input();
    const auto value = device_.read({.region = region, .offset = offset, .size = size});
    return value ? *value & all_ones(size) : all_ones(size);
  }
  // False when nobody took the write.
  bool out(std::uint64_t offset, std::uint64_t value, std::uint8_t size = 1, RegionIndex region = 0) {
    fakes_.effects.next_input();
    return device_.write({.region = region, .offset = offset, .size = size}, value & all_ones(size));
  }

 private:
  Device& device_;
  FakeWires& fakes_;
};

}  // namespace bulkhead::devproc
