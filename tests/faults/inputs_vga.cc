// Inputs of the VGA: the rig's memory is its video memory, with the scan-out block in the last page.
#include "devproc/models/vga/spec.h"
#include "ipc/roles/vga_decl.h"
#include "tests/faults/inputs.h"

namespace bulkhead::devproc {
namespace {

using namespace vga;

ipc::Request port(std::uint32_t at, std::uint8_t value) { return writes(0, kVgaPorts, at, 1, value); }
ipc::Request legacy(std::uint64_t offset, std::uint8_t size, std::uint64_t value) {
  return posted(writes(0, kVgaLegacyMemory, offset, size, value));
}

void indexed(std::vector<ipc::Request>& to, std::uint32_t at, std::size_t index, std::uint8_t value) {
  to.push_back(port(at, static_cast<std::uint8_t>(index)));
  to.push_back(port(at + 1, value));
}

// Planes one by one, with something in them and in the latches.
std::vector<ipc::Request> planar() {
  std::vector<ipc::Request> all{port(kMiscOutputWrite, kMiscColour | kMiscRamEnable)};
  indexed(all, kSequencerIndex, kMemoryMode, kMemoryOddEvenOff | 2);
  indexed(all, kGraphicsIndex, kMiscellaneous, kMiscellaneousGraphics | 1U << kMemoryMapShift);
  indexed(all, kGraphicsIndex, kBitMask, 0xff);
  for (std::uint8_t plane = 0; plane < 4; ++plane) {
    indexed(all, kSequencerIndex, kMapMask, static_cast<std::uint8_t>(1U << plane));
    for (std::uint64_t at = 0; at < 16; at += 8)
      all.push_back(legacy(0x100 + at, 8, 0x0123456789abcdef * (plane + 1U) + at));
  }
  indexed(all, kSequencerIndex, kMapMask, 0x0f);
  all.push_back(reads(0, kVgaLegacyMemory, 0x100, 1));
  return all;
}

std::vector<ipc::Request> look_at_planes() {
  std::vector<ipc::Request> all;
  for (std::uint8_t plane = 0; plane < 4; ++plane) {
    indexed(all, kGraphicsIndex, kReadMapSelect, plane);
    all.push_back(reads(0, kVgaLegacyMemory, 0x100, 8));
    all.push_back(reads(0, kVgaLegacyMemory, 0x200, 8));
  }
  return all;
}

}  // namespace

void vga_inputs(const std::function<void(Scenario)>& add) {
  const auto setup = [] {
    RoleSetup role;
    role.add("vga", "vga", VgaConfig{});
    return role;
  };
  // Exclusive or with the latches, under a mask, eight bytes at once: what a repetition on changed latches would spoil.
  std::vector<ipc::Request> ready = planar();
  indexed(ready, kGraphicsIndex, kDataRotate, 3U << 3 | 1);
  indexed(ready, kGraphicsIndex, kBitMask, 0x7e);
  add({.name = "vga_planar_write_through_latches",
       .setup = setup,
       .before = ready,
       .input = {legacy(0x200, 8, 0x1122334455667788), reads(0, kVgaLegacyMemory, 0x200, 1)},
       .after = look_at_planes()});
  // A copy by write mode 1: the latches of one place go to another.
  ready = planar();
  indexed(ready, kGraphicsIndex, kGraphicsMode, 1);
  add({.name = "vga_copy_by_latches",
       .setup = setup,
       .before = ready,
       .input = {reads(0, kVgaLegacyMemory, 0x108, 1), legacy(0x200, 1, 0xff), reads(0, kVgaLegacyMemory, 0x109, 1),
                 legacy(0x201, 1, 0xff), reads(0, kVgaLegacyMemory, 0x100, 1)},
       .after = look_at_planes()});
  std::vector<ipc::Request> sequence;
  indexed(sequence, kSequencerIndex, kMemoryMode, kMemoryOddEvenOff | kMemoryChain4);
  indexed(sequence, kGraphicsIndex, kGraphicsMode, 0x40);
  indexed(sequence, kColourCrtcIndex, 0x13, 0x28);
  sequence.push_back(reads(0, kVgaPorts, kColourStatus1, 1));
  sequence.push_back(port(kAttribute, 0x10));
  sequence.push_back(port(kAttribute, 0x41));
  add({.name = "vga_mode_register_sequence",
       .setup = setup,
       .before = planar(),
       .input = sequence,
       .after = {reads(0, kVgaPorts, kColourCrtcData, 1), reads(0, kVgaPorts, kAttributeRead, 1)},
       .did = [](const Seen& seen) { return seen.shown && seen.shown->sequencer[kMemoryMode] == 0x0c; }});
  add({.name = "vga_dac_triple",
       .setup = setup,
       .before = {port(kDacWriteIndex, 7), port(kDacData, 1)},
       .input = {port(kDacData, 2), port(kDacData, 3), port(kDacData, 4)},
       .after = {port(kDacData, 5), port(kDacData, 6), port(kDacReadIndex, 7), reads(0, kVgaPorts, kDacData, 1),
                 reads(0, kVgaPorts, kDacData, 1), reads(0, kVgaPorts, kDacData, 1), reads(0, kVgaPorts, kDacData, 1)},
       .did = [](const Seen& seen) { return seen.shown && seen.shown->dac[21] == 1 && seen.shown->dac[23] == 3; }});
  add({.name = "vga_vbe_mode_that_clears_the_screen",
       .setup = setup,
       .before = planar(),
       .input = {writes(0, kVgaVbePorts, 0, 2, screen::kVbeEnable),
                 writes(0, kVgaVbePorts, 1, 2, screen::kVbeEnabled | screen::kVbeLfb)},
       .after = {reads(0, kVgaVbePorts, 1, 2), reads(0, kVgaVideoMemory, 0x400, 8)}});
}

}  // namespace bulkhead::devproc
