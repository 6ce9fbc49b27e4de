#include "vmm/firmware/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "ipc/base/check.h"
#include "vmm/firmware/boot_layout.h"
#include "vmm/firmware/boot_plan.h"

namespace bulkhead::vmm {

namespace {

// The BIOS data area and EBDA, as far as kernels look at them.
constexpr std::uint64_t kBdaSerialPorts = 0x400;
constexpr std::uint64_t kBdaEbdaSegment = 0x40E;
constexpr std::uint64_t kBdaMemoryKiB = 0x413;

// A write that the plan has room for: it can only fail by a bug of ours.
void put(GuestRam& ram, std::uint64_t address, std::span<const std::byte> bytes) {
  const bool written = ram.write(address, bytes);
  CHECK(written, address, bytes.size());
}

void put_table(GuestRam& ram, const BootTable& table) { put(ram, table.address, table.bytes); }

// File contents straight into guest RAM.
Status read_into(const ByteSource& file, std::uint64_t offset, GuestRam& ram, std::uint64_t address,
                 std::uint64_t size) {
  if (size == 0) return ok();
  const std::span<std::byte> to = ram.bytes(address, size);
  CHECK(!to.empty(), address, size);
  return file.read(offset, to);
}

void write_bios_data(GuestRam& ram, const AcpiConfig& acpi) {
  std::uint16_t ports[4] = {};
  for (std::size_t n = 0; n < acpi.uarts.size() && n < std::size(ports); ++n) ports[n] = acpi.uarts[n].port;
  put(ram, kBdaSerialPorts, std::as_bytes(std::span(ports)));
  const bool stored = ram.store<std::uint16_t>(kBdaEbdaSegment, kEbda >> 4) &&
                      ram.store<std::uint16_t>(kBdaMemoryKiB, kEbda / kKiB) &&
                      ram.store<std::uint8_t>(kEbda, (kVgaWindow - kEbda) / kKiB);
  CHECK(stored);
}

void write_command_line(GuestRam& ram, const std::string& command_line) {
  put(ram, kBootCommandLine, std::as_bytes(std::span(command_line.c_str(), command_line.size() + 1)));
}

Result<BootRegisters> load_bzimage(const BzImage& image, const ByteSource& file, GuestRam& ram, const BootPlan& plan,
                                   std::uint64_t rsdp) {
  RETURN_IF_ERROR(read_into(file, image.payload_offset, ram, image.load_address, image.payload_size));
  const boot_params params = make_zero_page(image, {.command_line = kBootCommandLine,
                                                    .initrd = plan.initrd,
                                                    .initrd_size = plan.initrd_size,
                                                    .rsdp = rsdp,
                                                    .e820 = plan.e820});
  put(ram, kBootZeroPage, std::as_bytes(std::span(&params, 1)));
  put(ram, kBootPageTables, identity_page_tables(kBootPageTables, kBootMappedGib, false));
  put(ram, kBootGdt, boot_gdt());
  return linux64_registers({.entry = image.load_address + 0x200,
                            .zero_page = kBootZeroPage,
                            .gdt = kBootGdt,
                            .page_tables = kBootPageTables,
                            .stack = kBootStackTop});
}

Result<BootRegisters> load_pvh(const PvhImage& image, const ByteSource& file, GuestRam& ram, const BootPlan& plan,
                               std::uint64_t rsdp) {
  for (const PvhSegment& segment : image.segments) {
    RETURN_IF_ERROR(read_into(file, segment.file_offset, ram, segment.address, segment.file_size));
    const bool zeroed = ram.zero(segment.address + segment.file_size, segment.memory_size - segment.file_size);
    CHECK(zeroed);
  }
  put(ram, kBootStartInfo,
      make_start_info({.address = kBootStartInfo,
                       .command_line = kBootCommandLine,
                       .initrd = plan.initrd,
                       .initrd_size = plan.initrd_size,
                       .rsdp = rsdp,
                       .e820 = plan.e820}));
  return pvh_registers({.entry = image.entry, .start_info = static_cast<std::uint32_t>(kBootStartInfo)});
}

BootPlanInput plan_input(const KernelImage& image, const FileSource& kernel, const std::optional<FileSource>& initrd,
                         const std::string& command_line) {
  return {.image = image,
          .kernel_name = kernel.name(),
          .initrd_name = initrd ? initrd->name() : std::string(),
          .initrd_size = initrd ? std::optional(initrd->size()) : std::nullopt,
          .command_line_length = command_line.size()};
}

}  // namespace

Result<BootLoader> BootLoader::open(const BootFiles& files) {
  auto kernel = FileSource::open(files.kernel);
  if (!kernel) return std::move(kernel).error();
  std::optional<FileSource> initrd;
  if (files.initrd) {
    auto opened = FileSource::open(*files.initrd);
    if (!opened) return std::move(opened).error();
    initrd = std::move(*opened);
  }
  return from_sources(std::move(*kernel), std::move(initrd), files.command_line);
}

Result<BootLoader> BootLoader::from_sources(FileSource kernel, std::optional<FileSource> initrd,
                                            std::string command_line) {
  auto image = parse_kernel(kernel);
  if (!image) return std::move(image).error();
  return BootLoader(std::move(kernel), std::move(initrd), std::move(command_line), std::move(*image));
}

Status BootLoader::check(const AcpiConfig& acpi) const {
  const auto plan = plan_boot(plan_input(image_, kernel_, initrd_, command_line_), acpi);
  if (!plan) return plan.error();
  return ok();
}

Result<BootRegisters> BootLoader::load(GuestRam& ram, const AcpiConfig& acpi) {
  CHECK(ram.layout() == acpi.memory);
  RETURN_IF_ERROR(kernel_.refresh());
  if (initrd_) RETURN_IF_ERROR(initrd_->refresh());
  ASSIGN_OR_RETURN(image_, parse_kernel(kernel_));
  BootPlan plan;
  ASSIGN_OR_RETURN(plan, plan_boot(plan_input(image_, kernel_, initrd_, command_line_), acpi));

  if (initrd_) RETURN_IF_ERROR(read_into(*initrd_, 0, ram, plan.initrd, plan.initrd_size));
  const AcpiTables tables = build_acpi(acpi, plan.firmware.acpi);
  put_table(ram, tables.tables);
  put_table(ram, tables.facs);
  write_bios_data(ram, acpi);
  write_command_line(ram, command_line_);
  if (const auto* bz = std::get_if<BzImage>(&image_)) return load_bzimage(*bz, kernel_, ram, plan, tables.rsdp);
  return load_pvh(std::get<PvhImage>(image_), kernel_, ram, plan, tables.rsdp);
}

}  // namespace bulkhead::vmm
