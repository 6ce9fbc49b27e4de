// FakeScreen: video memory that costs nothing until it is written to, and what was shown last.
#pragma once

#include <cstdlib>
#include <memory>
#include <span>

#include "devproc/core/screen.h"

namespace bulkhead::devproc {

class FakeScreen final : public Screen {
 public:
  [[nodiscard]] std::span<std::byte> memory() override {
    if (!bytes_) bytes_.reset(static_cast<std::byte*>(std::calloc(screen::kVideoMemory, 1)));
    return {bytes_.get(), screen::kVideoMemory};
  }
  void show(const screen::VgaRegisters& registers) override {
    shown = registers;
    ++shows;
  }

  screen::VgaRegisters shown;
  int shows = 0;

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte[], Free> bytes_;
};

}  // namespace bulkhead::devproc
