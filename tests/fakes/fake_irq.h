// FakeIrqLine and FakeMsiSender: interrupt wires that remember what a model did with them.
#pragma once

#include <cstdint>
#include <vector>

#include "devproc/core/wires.h"

namespace bulkhead::devproc {

class FakeIrqLine final : public IrqLine {
 public:
  void set_level(bool asserted) override {
    if (asserted && !level) ++rises;
    if (!asserted && level) ++falls;
    level = asserted;
    ++calls;
  }

  bool level = false;
  int rises = 0;  // low to high
  int falls = 0;  // high to low
  int calls = 0;  // with repeats
};

class FakeMsiSender final : public MsiSender {
 public:
  void send(std::uint16_t vector) override { sent.push_back(vector); }

  std::vector<std::uint16_t> sent;
};

}  // namespace bulkhead::devproc
