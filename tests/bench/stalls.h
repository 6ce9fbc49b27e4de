// What a guest sees of the deaths of a device process: it times its own requests and leaves the results in its memory.
#pragma once

#include <vector>

#include "tests/bench/figures.h"
#include "vmm/vm.h"

namespace bulkhead::bench {

struct Stalls {
  std::vector<double> killed_ms;
  std::vector<double> undisturbed_ms;  // the longest request of a stretch as long, without a kill
};

// Where the guest puts the ticks that each request took, 8 bytes each, 0 for none yet.
struct ResultArea {
  std::uint64_t address;
  std::uint64_t count;
};

void sleep_us(long us);

// Runs `vm` and kills `victim` so often, then the VM.
Result<Stalls> stalls_of(vmm::VirtualMachine& vm, vmm::DeviceProcess& victim, ResultArea results, int kills);

// The kills of one run in five parts.
Takes takes_of(const Stalls& stalls, double part);

}  // namespace bulkhead::bench
