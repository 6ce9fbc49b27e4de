// HostScreen: a Screen in the region that the VGA's process shares with the guest and with those who draw
// (ipc/screen/scan_out.h). Threading: single-threaded. Trust: the memory's bytes are the guest's.
#pragma once

#include <span>

#include "devproc/core/screen.h"
#include "ipc/screen/scan_out.h"

namespace bulkhead::devproc {

class HostScreen final : public Screen {
 public:
  // `region`: video memory with a ScanOut behind it, or none for a process that is only asked whether it could play the
  // role.
  explicit HostScreen(std::span<std::byte> region) : region_(region) {}

  [[nodiscard]] std::span<std::byte> memory() override { return region_.first(memory_size()); }
  void show(const screen::VgaRegisters& registers) override {
    if (region_.empty()) return;
    screen::write_scan_out(*reinterpret_cast<screen::ScanOut*>(region_.data() + memory_size()), registers);
  }

 private:
  [[nodiscard]] std::size_t memory_size() const { return region_.empty() ? 0 : region_.size() - screen::kScanOutSize; }
  std::span<std::byte> region_;
};

}  // namespace bulkhead::devproc
