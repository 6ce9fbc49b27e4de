// The VGA: any access at any register and any address, deaths and lies in between; and whoever draws it draws any
// registers with any memory within the picture's bounds.
#include <cstring>
#include <memory>

#include "devproc/models/vga/vga.h"
#include "ipc/screen/renderer.h"
#include "tests/fuzz/device_fuzzer.h"
#include "tests/fuzz/fuzz_script.h"

namespace {

// The first bytes are registers, the rest is memory.
void draw(std::span<const std::uint8_t> bytes) {
  using namespace bulkhead;
  screen::VgaRegisters registers;
  if (bytes.size() < sizeof registers) return;
  std::memcpy(&registers, bytes.data(), sizeof registers);
  screen::Picture picture;
  screen::render(registers, std::as_bytes(bytes.subspan(sizeof registers)), {}, picture);
  fuzz::require(picture.width <= screen::kMostColumns && picture.height <= screen::kMostRows, "a picture has bounds");
  fuzz::require(picture.pixels.size() == std::size_t{picture.width} * picture.height, "a picture is whole");
  (void)screen::text_of(registers, std::as_bytes(bytes.subspan(sizeof registers)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::devproc;
  if (size != 0 && data[0] % 4 == 0) {
    draw({data + 1, size - 1});
    return 0;
  }
  return fuzz_device({}, {data, size}, [](FakeWires& fakes) {
    return std::make_unique<Vga>(allocate_state<VgaState>(fakes.state), bulkhead::VgaConfig{}, fakes.screen,
                                 fakes.clock, fakes.effects);
  });
}
