// `bulkhead screenshot`: a VM's screen as a PNG, or its text.
#include <fmt/format.h>
#include <png.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>

#include "ipc/control/management_client.h"
#include "ipc/screen/renderer.h"
#include "tools/bulkhead/manage.h"
#include "tools/bulkhead/print.h"
#include "tools/bulkhead/reach.h"

namespace bulkhead::cli {
namespace {

// How much of the video memory a picture of these registers lies in; the rest stays unread.
std::uint64_t bytes_of(const screen::VgaRegisters& registers) {
  constexpr std::uint64_t kVgaMemory = 256 * 1024;
  if (!registers.vbe_enabled()) return kVgaMemory;
  const screen::Geometry geometry = screen::geometry_of(registers);
  const std::uint64_t unit = geometry.mode == screen::ScreenMode::kPlanar ? 4 : 1;
  const std::uint64_t end = (geometry.start + std::uint64_t{geometry.height} * geometry.pitch) * unit;
  return std::min<std::uint64_t>(end, screen::kVideoMemory);
}

Result<std::vector<std::byte>> read_memory(control::ManagementClient& client, std::uint64_t bytes) {
  std::vector<std::byte> memory;
  memory.reserve(bytes);
  while (memory.size() < bytes) {
    const auto length =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes - memory.size(), control::kMaxVideoPart));
    ASSIGN_OR_RETURN(const std::vector<std::byte> part, client.video_memory(memory.size(), length));
    memory.insert(memory.end(), part.begin(), part.end());
  }
  return memory;
}

Status write_png(const screen::Picture& picture, const std::string& path) {
  std::vector<png_byte> rows;
  rows.reserve(picture.pixels.size() * 3);
  for (const std::uint32_t pixel : picture.pixels) {
    for (const unsigned shift : {16U, 8U, 0U}) rows.push_back(static_cast<png_byte>(pixel >> shift));
  }
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = picture.width;
  image.height = picture.height;
  image.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&image, path.c_str(), 0, rows.data(), 0, nullptr) == 0)
    return make_error(fmt::format("cannot write {}: {}", path, image.message));
  return ok();
}

// `text`: what is to be printed.
Status shoot(const ScreenshotOptions& options, std::string& text) {
  ASSIGN_OR_RETURN(const auto client, reach(options.name));
  ASSIGN_OR_RETURN(const screen::VgaRegisters registers, client->screen());
  const screen::Geometry geometry = screen::geometry_of(registers);
  if (geometry.mode == screen::ScreenMode::kBlank) return make_error("the screen is blank");
  if (options.text && geometry.mode != screen::ScreenMode::kText)
    return make_error(fmt::format("the screen is no text: it shows {} by {} pixels", geometry.width, geometry.height));
  ASSIGN_OR_RETURN(const std::vector<std::byte> memory, read_memory(*client, bytes_of(registers)));
  if (options.text) {
    text = screen::text_of(registers, memory);
    return ok();
  }
  screen::Picture picture;
  screen::render(registers, memory, {}, picture);
  return write_png(picture, options.file);
}

}  // namespace

int manage(const ScreenshotOptions& options) {
  std::string text;
  if (const Status done = shoot(options, text); !done) return fail(done.error());
  return print_out(text);
}

}  // namespace bulkhead::cli
