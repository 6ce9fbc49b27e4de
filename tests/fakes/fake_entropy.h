// FakeEntropy: bytes that count up, so that a test sees which of them came.
#pragma once

#include "devproc/core/entropy.h"

namespace bulkhead::devproc {

class FakeEntropy final : public Entropy {
 public:
  void fill(std::span<std::byte> out) override {
    for (std::byte& byte : out) byte = static_cast<std::byte>(++last);
  }
  std::uint8_t last = 0;
};

}  // namespace bulkhead::devproc
