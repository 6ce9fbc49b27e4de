// The SSDT: the part of the ACPI namespace that follows from the machine's plan.
#include <fmt/format.h>

#include "ipc/roles/pci_decl.h"
#include "vmm/firmware/acpi.h"
#include "vmm/firmware/aml.h"
#include "vmm/hypervisor/kvm_vm.h"

namespace bulkhead::vmm {

namespace {

using aml::Bytes;

constexpr std::uint32_t kSlots = 32;  // of bus 0; slot 0 is the host bridge, which has no interrupt
constexpr std::uint32_t kPins = 4;

// What bus 0 decodes: everything that is neither RAM nor the VMM's nor an interrupt controller's.
Bytes host_bridge_resources(const MemoryLayout& memory) {
  Bytes out = aml::join({
      aml::bus_window(0, 0),
      aml::io(0xCF8, 8),
      aml::io_window(0x0000, 0x0CF7),
      aml::io_window(0x0D00, 0xFFFF),
      aml::memory_window32(kVgaWindow, kShadowWindow - 1),
      aml::memory_window32(static_cast<std::uint32_t>(memory.pci_window),
                           static_cast<std::uint32_t>(kPciWindowEnd - 1)),
  });
  if (memory.pci64_window_size != 0) {
    aml::append(out, aml::memory_window64(memory.pci64_window, memory.pci64_window + memory.pci64_window_size - 1));
  }
  return aml::resources(out);
}

// {slot, pin, link, 0}: which link each pin of each slot comes out at.
Bytes interrupt_routing() {
  std::vector<Bytes> routes;
  for (std::uint32_t slot = 1; slot < kSlots; ++slot) {
    for (std::uint32_t pin = 0; pin < kPins; ++pin) {
      const std::uint32_t pirq = pirq_of(static_cast<std::uint8_t>(slot << 3), static_cast<std::uint8_t>(pin + 1));
      const std::string link = fmt::format("\\_SB_.LNK{}", "ABCD"[pirq]);
      routes.push_back(
          aml::package({aml::integer(slot << 16 | 0xFFFF), aml::integer(pin), aml::path(link), aml::integer(0)}));
    }
  }
  return aml::package(routes);
}

// Addresses that belong to the board, so that no driver or BAR is put there.
Bytes motherboard(const AcpiConfig& config) {
  const Bytes descriptors = aml::join({
      aml::io(0x92, 1),
      aml::io(0xB2, 2),
      aml::io(0x4D0, 2),
      aml::io(config.pm_base, 0x40),
      aml::io(0xAFE0, 4),
      aml::fixed_memory32(static_cast<std::uint32_t>(kIdentityMapAddress), 4 * kPageSize),
  });
  return aml::device(
      "MBRD", aml::join({aml::name("_HID", aml::eisa_id("PNP0C02")), aml::name("_CRS", aml::resources(descriptors))}));
}

Bytes uarts(const AcpiConfig& config) {
  Bytes out;
  std::uint32_t number = 0;
  for (const AcpiUart& uart : config.uarts) {
    ++number;
    aml::append(
        out,
        aml::device(
            fmt::format("COM{}", number),
            aml::join({aml::name("_HID", aml::eisa_id("PNP0501")), aml::name("_UID", aml::integer(number)),
                       aml::name("_CRS", aml::resources(aml::join({aml::io(uart.port, 8), aml::irq(uart.irq)})))})));
  }
  return out;
}

Bytes processors(const AcpiConfig& config) {
  Bytes out;
  for (std::uint32_t n = 0; n < config.apic_ids.size(); ++n) {
    aml::append(out, aml::device(fmt::format("C{:03X}", n), aml::join({aml::name("_HID", aml::string("ACPI0007")),
                                                                       aml::name("_UID", aml::integer(n))})));
  }
  return out;
}

}  // namespace

std::vector<std::uint8_t> ssdt_terms(const AcpiConfig& config) {
  return aml::join({
      aml::scope("\\_SB_.PCI0", aml::join({aml::name("_CRS", host_bridge_resources(config.memory)),
                                           aml::name("_PRT", interrupt_routing())})),
      aml::scope("\\_SB_.PCI0.ISA_", uarts(config)),
      aml::scope("\\_SB_", aml::join({motherboard(config), processors(config)})),
  });
}

}  // namespace bulkhead::vmm
