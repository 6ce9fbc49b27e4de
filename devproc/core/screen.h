// Screen: what a display adapter draws into and how it shows which picture that is.
//
// memory() is shared with the guest, which reaches it without the device where it lies linearly, and with those who
// draw. It outlives the process and is in no checkpoint: a model writes to it only what is a function of its committed
// state and the input, so that a successor which does the input again leaves the same bytes. show() is for
// Device::show(), after the commit. Threading: single-threaded on this side. Trust: what is read from memory() is the
// guest's.
#pragma once

#include <cstddef>
#include <span>

#include "ipc/screen/vga_registers.h"

namespace bulkhead::devproc {

class Screen {
 public:
  virtual ~Screen() = default;
  [[nodiscard]] virtual std::span<std::byte> memory() = 0;  // screen::kVideoMemory bytes
  virtual void show(const screen::VgaRegisters& registers) = 0;
};

}  // namespace bulkhead::devproc
