// The ACPI tables of a machine: RSDP, XSDT, FADT, FACS, MADT, the DSDT (compiled from dsdt.asl) and one
// SSDT with what depends on the machine's plan (PCI windows, processors, UARTs).
//
// Pure: bytes at an address, checksums included. For a directly booted machine, which starts as firmware
// would have left it: ACPI mode on already (SMI_CMD = 0, SCI_EN set), PM block at pm_base.
// Units: bytes, guest-physical addresses. Errors: none (CHECK on a plan that cannot be). Threading: pure.
// Trust: checked configuration. Sources: ACPI 6.4 sections 5.2.5 (RSDP) to 5.2.12 (MADT), 19 and 20 (AML).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vmm/memory/e820.h"
#include "vmm/memory/layout.h"
#include "vmm/x86/registers.h"

namespace bulkhead::vmm {

struct AcpiUart {
  std::uint16_t port = 0x3F8;
  std::uint8_t irq = 4;
  bool operator==(const AcpiUart&) const = default;
};

struct AcpiConfig {
  MemoryLayout memory{};
  std::vector<std::uint32_t> apic_ids;  // of each vCPU, the boot processor first
  std::vector<AcpiUart> uarts;          // at most 4
  std::uint16_t pm_base = 0x600;
  std::uint8_t sci = 9;
  bool vga = false;       // a VGA adapter answers at its legacy addresses
  bool firmware = false;  // a firmware runs, which leaves ACPI mode to the system: SMI_CMD switches
};

struct AcpiTables {
  std::uint64_t rsdp = 0;
  BootTable tables;  // RSDP, XSDT, FADT, MADT, DSDT, SSDT
  BootTable facs;    // in memory of its own (NVS)
};

// Bytes that the tables of `config` take, wherever they lie: whole pages, the FACS in the last one.
[[nodiscard]] std::uint64_t acpi_size(const AcpiConfig& config);
// How [base, base + acpi_size()) is to appear in e820. `base` is page-aligned and below 4 GiB.
[[nodiscard]] FirmwareArea acpi_area(const AcpiConfig& config, std::uint64_t base);
[[nodiscard]] AcpiTables build_acpi(const AcpiConfig& config, std::uint64_t base);
// The same for a firmware that puts the tables where it likes: two blobs whose pointers count from their own starts,
// and the script that says what to add and to sum up (QEMU's "etc/table-loader").
struct LinkedAcpi {
  std::vector<std::byte> rsdp;    // etc/acpi/rsdp
  std::vector<std::byte> tables;  // etc/acpi/tables
  std::vector<std::byte> loader;  // etc/table-loader
};
[[nodiscard]] LinkedAcpi build_linked_acpi(const AcpiConfig& config);
// The SSDT alone, and the AML in it (ssdt.cc).
[[nodiscard]] std::vector<std::uint8_t> ssdt_terms(const AcpiConfig& config);
[[nodiscard]] std::vector<std::byte> build_ssdt(const AcpiConfig& config);

}  // namespace bulkhead::vmm
