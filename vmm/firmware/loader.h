// BootLoader: puts a kernel, its initrd and command line, the ACPI tables and the first page tables into
// guest RAM, and says which registers the boot processor starts with.
//
// open() keeps the files open, load() may be called again after a VM reset and reads them anew. Order of
// use: open() before the sandbox closes, load() whenever no vCPU runs.
// Memory used: boot structures below 0x60000 (boot_layout.h), ACPI tables at the top of low RAM, the initrd
// below them, the kernel where it asks to be. Units: guest-physical bytes. Errors: Result with one clear
// sentence that names the file. Threading: one thread. Trust: files are hostile (kernel_image.h); the
// command line is the user's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "ipc/base/result.h"
#include "vmm/firmware/acpi.h"
#include "vmm/firmware/byte_source.h"
#include "vmm/firmware/kernel_image.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/x86/registers.h"

namespace bulkhead::vmm {

struct BootFiles {
  std::string kernel;
  std::optional<std::string> initrd;
  std::string command_line;
};

class BootLoader {
 public:
  // Opens the files and checks the kernel as far as that needs no machine.
  static Result<BootLoader> open(const BootFiles& files);
  // The same for files that somebody else opened.
  static Result<BootLoader> from_sources(FileSource kernel, std::optional<FileSource> initrd, std::string command_line);

  // What can be said before RAM exists: whether this kernel, initrd and command line fit the machine.
  [[nodiscard]] Status check(const AcpiConfig& acpi) const;
  // Writes everything into `ram`; the result is for KvmVcpu::start() of the boot processor.
  Result<BootRegisters> load(GuestRam& ram, const AcpiConfig& acpi);

  [[nodiscard]] const KernelImage& kernel() const { return image_; }

 private:
  BootLoader(FileSource kernel, std::optional<FileSource> initrd, std::string command_line, KernelImage image)
      : kernel_(std::move(kernel)),
        initrd_(std::move(initrd)),
        command_line_(std::move(command_line)),
        image_(std::move(image)) {}
  FileSource kernel_;
  std::optional<FileSource> initrd_;
  std::string command_line_;
  KernelImage image_;
};

}  // namespace bulkhead::vmm
