// Shared by the tests of ipc/control: valid messages to start from, and ways to break them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "ipc/control/device_messages.h"

namespace bulkhead::control::test {

inline TakeRole sample_take_role() {
  TakeRole role;
  role.role = "platform";
  role.vm = "vm-1";
  role.incarnation = 3;
  role.generation = 2;
  role.start = StartKind::kResume;
  role.vm_time_offset_ns = 123456789;
  role.instances.push_back({.name = "com1",
                            .type = "uart16550",
                            .config = Uart16550Config{},
                            .regions = {0, 1},
                            .lines = {0, 1},
                            .streams = {0, 1},
                            .vectors = {},
                            .backings = {},
                            .kicks = {}});
  role.instances.push_back({.name = "rtc",
                            .type = "cmos-rtc",
                            .config = CmosRtcConfig{.ram_below_4g = 1 << 30, .ram_above_4g = 5, .cpus = 4},
                            .regions = {1, 1},
                            .lines = {1, 1},
                            .streams = {},
                            .vectors = {},
                            .backings = {},
                            .kicks = {}});
  role.instances.push_back(
      {.name = "bus",
       .type = "pci-bus",
       .config = PciBusConfig{.pm_base = 0x600, .ram_below_4g = 7, .functions = {{.devfn = 8, .type = "piix3"}}},
       .regions = {2, 3},
       .lines = {},
       .streams = {},
       .vectors = {0, 4},
       .backings = {},
       .kicks = {}});
  role.fds = {{FdPurpose::kRequestRegion, 0},
              {FdPurpose::kReplyRegion, 0},
              {FdPurpose::kLineAssert, 0},
              {FdPurpose::kLineAssert, 1},
              {FdPurpose::kGuestRam, 0}};
  role.guest_ram = {{.guest_base = 0, .length = 0xa0000, .fd_index = 4, .offset = 0},
                    {.guest_base = 0x100000, .length = 0x100000, .fd_index = 4, .offset = 0x100000}};
  return role;
}

inline std::vector<FromDevice> sample_replies() {
  return {Ready{.layout_hash = 99, .states = {{.instance = "com1", .version = 1, .layout_hash = 5}}},
          Failed{.sentence = "the state region is too small"}, Quiesced{.last_ticket = 10, .commit_number = 22},
          Statistics{.requests_served = 1, .commits = 2, .sleeps = 3},
          InspectReply{
              .instances = {{.name = "com1", .fields = {{"lsr", 0x60}, {"ier", 1}}}, {.name = "rtc", .fields = {}}}}};
}

// `bytes` with up to eight random changes: bits, bytes, words, or a cut at a word's end.
inline std::vector<std::byte> mutate(std::span<const std::byte> bytes, std::mt19937_64& random) {
  std::vector<std::byte> out(bytes.begin(), bytes.end());
  const auto pick = [&](std::size_t limit) { return static_cast<std::size_t>(random() % limit); };
  for (std::size_t left = 1 + pick(8); left > 0 && !out.empty(); --left) {
    const std::size_t at = pick(out.size());
    switch (pick(5)) {
      case 0: out[at] ^= static_cast<std::byte>(1U << pick(8)); break;
      case 1: out[at] = static_cast<std::byte>(random()); break;
      case 2: out[at] = std::byte{0xff}; break;
      case 3:
        for (std::size_t i = at & ~std::size_t{7}; i < (at | 7) && i < out.size(); ++i)
          out[i] = static_cast<std::byte>(random());
        break;
      default:
        if (pick(8) == 0) out.resize(at & ~std::size_t{7});
    }
  }
  return out;
}

}  // namespace bulkhead::control::test
