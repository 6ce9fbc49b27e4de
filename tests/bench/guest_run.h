// A VM whose guest runs payload.S: pairs of writes at CPL 3, exit by exit, each timed by the guest itself.
#pragma once

#include "ipc/base/result.h"
#include "vmm/vm.h"

namespace bulkhead::bench {

inline constexpr std::uint64_t kFirstResults = 0x1000000;
inline constexpr std::uint64_t kSecondResults = 0x2000000;

// What payload.S finds at RDI.
struct ExitPairs {
  std::uint64_t count;
  std::uint64_t first_results;
  std::uint64_t second_results;
  std::uint16_t first_port;
  std::uint16_t second_port;
  std::uint32_t reserved;
  std::uint64_t first_address;  // 0: ports
  std::uint64_t second_address;
};

// Puts a payload for CPL 3 and what it finds at RDI into guest memory (1 to 4.1 MiB).
Result<vmm::BootRegisters> load_code(vmm::GuestRam& ram, std::span<const std::byte> code,
                                     std::span<const std::byte> parameters);

// `device`: an extra one, or nullptr. It ends with the debug-exit port and value 0.
Result<std::unique_ptr<vmm::VirtualMachine>> make_guest(const ExitPairs& parameters, const char* device,
                                                        vmm::VmOptions options);

}  // namespace bulkhead::bench
