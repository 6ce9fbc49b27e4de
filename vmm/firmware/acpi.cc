#include "vmm/firmware/acpi.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <string_view>

#include "ipc/base/check.h"
#include "ipc/base/checked.h"
#include "vmm/firmware/aml.h"
#include "vmm/firmware/dsdt_aml.h"

namespace bulkhead::vmm {

namespace {

constexpr std::uint64_t kTableAlignment = 16;
constexpr std::uint8_t kIoSpace = 1;
constexpr std::uint32_t kLocalApic = 0xFEE00000;
constexpr std::uint32_t kIoapic = 0xFEC00000;
constexpr std::uint32_t kLargestXapicId = 254;
constexpr std::uint16_t kGpe0 = 0xAFE0;
constexpr std::uint16_t kResetRegister = 0xCF9;
constexpr std::uint8_t kResetValue = 6;
constexpr std::uint8_t kCmosCentury = 0x32;

#pragma pack(push, 1)
struct TableHeader {
  char signature[4];
  std::uint32_t length;
  std::uint8_t revision;
  std::uint8_t checksum;
  char oem_id[6];
  char oem_table_id[8];
  std::uint32_t oem_revision;
  char creator_id[4];
  std::uint32_t creator_revision;
};
static_assert(sizeof(TableHeader) == 36);

struct Rsdp {
  char signature[8];
  std::uint8_t checksum;
  char oem_id[6];
  std::uint8_t revision;
  std::uint32_t rsdt;
  std::uint32_t length;
  std::uint64_t xsdt;
  std::uint8_t extended_checksum;
  std::uint8_t reserved[3];
};
static_assert(sizeof(Rsdp) == 36 && offsetof(Rsdp, length) == 20);

struct GenericAddress {
  std::uint8_t space;
  std::uint8_t bit_width;
  std::uint8_t bit_offset;
  std::uint8_t access_size;  // 1 byte, 2 word, 3 dword
  std::uint64_t address;
};
static_assert(sizeof(GenericAddress) == 12);

// 5.2.9, revision 5.
struct Fadt {
  TableHeader header;
  std::uint32_t firmware_ctrl;
  std::uint32_t dsdt;
  std::uint8_t reserved0;
  std::uint8_t preferred_pm_profile;
  std::uint16_t sci_int;
  std::uint32_t smi_cmd;
  std::uint8_t acpi_enable;
  std::uint8_t acpi_disable;
  std::uint8_t s4bios_req;
  std::uint8_t pstate_cnt;
  std::uint32_t pm1a_evt_blk;
  std::uint32_t pm1b_evt_blk;
  std::uint32_t pm1a_cnt_blk;
  std::uint32_t pm1b_cnt_blk;
  std::uint32_t pm2_cnt_blk;
  std::uint32_t pm_tmr_blk;
  std::uint32_t gpe0_blk;
  std::uint32_t gpe1_blk;
  std::uint8_t pm1_evt_len;
  std::uint8_t pm1_cnt_len;
  std::uint8_t pm2_cnt_len;
  std::uint8_t pm_tmr_len;
  std::uint8_t gpe0_blk_len;
  std::uint8_t gpe1_blk_len;
  std::uint8_t gpe1_base;
  std::uint8_t cst_cnt;
  std::uint16_t p_lvl2_lat;
  std::uint16_t p_lvl3_lat;
  std::uint16_t flush_size;
  std::uint16_t flush_stride;
  std::uint8_t duty_offset;
  std::uint8_t duty_width;
  std::uint8_t day_alrm;
  std::uint8_t mon_alrm;
  std::uint8_t century;
  std::uint16_t iapc_boot_arch;
  std::uint8_t reserved1;
  std::uint32_t flags;
  GenericAddress reset_reg;
  std::uint8_t reset_value;
  std::uint16_t arm_boot_arch;
  std::uint8_t minor_version;
  std::uint64_t x_firmware_ctrl;
  std::uint64_t x_dsdt;
  GenericAddress x_pm1a_evt_blk;
  GenericAddress x_pm1b_evt_blk;
  GenericAddress x_pm1a_cnt_blk;
  GenericAddress x_pm1b_cnt_blk;
  GenericAddress x_pm2_cnt_blk;
  GenericAddress x_pm_tmr_blk;
  GenericAddress x_gpe0_blk;
  GenericAddress x_gpe1_blk;
  GenericAddress sleep_control_reg;
  GenericAddress sleep_status_reg;
};
static_assert(sizeof(Fadt) == 268 && offsetof(Fadt, flags) == 112 && offsetof(Fadt, x_dsdt) == 140);

struct Facs {
  char signature[4];
  std::uint32_t length;
  std::uint32_t hardware_signature;
  std::uint32_t waking_vector;
  std::uint32_t global_lock;
  std::uint32_t flags;
  std::uint64_t x_waking_vector;
  std::uint8_t version;
  std::uint8_t reserved[31];
};
static_assert(sizeof(Facs) == 64);

struct MadtHeader {
  TableHeader header;
  std::uint32_t local_apic;
  std::uint32_t flags;
};
// 5.2.12.2 and following.
struct MadtLocalApic {
  std::uint8_t type = 0;
  std::uint8_t length = 8;
  std::uint8_t processor_uid;
  std::uint8_t apic_id;
  std::uint32_t flags = 1;  // enabled
};
struct MadtIoapic {
  std::uint8_t type = 1;
  std::uint8_t length = 12;
  std::uint8_t id = 0;
  std::uint8_t reserved = 0;
  std::uint32_t address = kIoapic;
  std::uint32_t gsi_base = 0;
};
struct MadtOverride {
  std::uint8_t type = 2;
  std::uint8_t length = 10;
  std::uint8_t bus = 0;  // ISA
  std::uint8_t source;
  std::uint32_t gsi;
  std::uint16_t flags;
};
struct MadtLocalNmi {
  std::uint8_t type = 4;
  std::uint8_t length = 6;
  std::uint8_t processor_uid = 0xFF;  // all
  std::uint16_t flags = 0;
  std::uint8_t lint = 1;
};
struct MadtX2apic {
  std::uint8_t type = 9;
  std::uint8_t length = 16;
  std::uint16_t reserved = 0;
  std::uint32_t apic_id;
  std::uint32_t flags = 1;
  std::uint32_t processor_uid;
};
struct MadtX2apicNmi {
  std::uint8_t type = 10;
  std::uint8_t length = 12;
  std::uint16_t flags = 0;
  std::uint32_t processor_uid = 0xFFFFFFFF;
  std::uint8_t lint = 1;
  std::uint8_t reserved[3] = {};
};
#pragma pack(pop)

// Flags of a MADT override: polarity in bits 1:0, trigger in 3:2.
constexpr std::uint16_t kBusDefault = 0;
constexpr std::uint16_t kActiveHighLevel = 0x1 | 0x3 << 2;
constexpr std::uint8_t kLevelIrqs[] = {5, 9, 10, 11};  // the SCI, and what the PCI links may use

// FADT.IAPC_BOOT_ARCH
constexpr std::uint16_t kLegacyDevices = 1U << 0;
constexpr std::uint16_t k8042 = 1U << 1;
constexpr std::uint16_t kNoVga = 1U << 2;
// FADT.Flags
constexpr std::uint32_t kWbinvd = 1U << 0;
constexpr std::uint32_t kProcC1 = 1U << 2;
constexpr std::uint32_t kNoFixedSleepButton = 1U << 5;
constexpr std::uint32_t kResetSupported = 1U << 10;

using Bytes = std::vector<std::byte>;

template <class T>
void append(Bytes& out, const T& value) {
  const std::size_t at = out.size();
  out.resize(at + sizeof(T));
  std::memcpy(out.data() + at, &value, sizeof(T));
}

template <std::size_t N>
void set_text(char (&field)[N], std::string_view text) {
  CHECK(text.size() == N, text);
  std::memcpy(field, text.data(), N);
}

std::uint8_t checksum(std::span<const std::byte> bytes) {
  unsigned sum = 0;
  for (const std::byte byte : bytes) sum += static_cast<unsigned>(byte);
  return static_cast<std::uint8_t>(0U - sum);
}

TableHeader header(std::string_view signature, std::uint8_t revision) {
  TableHeader out{};
  set_text(out.signature, signature);
  out.revision = revision;
  set_text(out.oem_id, "BULKHD");
  set_text(out.oem_table_id, "BULKHEAD");
  out.oem_revision = 1;
  set_text(out.creator_id, "BLKH");
  out.creator_revision = 1;
  return out;
}

// Fills in length and checksum of a table whose bytes are complete.
Bytes finish(Bytes table) {
  const auto length = static_cast<std::uint32_t>(table.size());
  std::memcpy(table.data() + offsetof(TableHeader, length), &length, sizeof(length));
  table[offsetof(TableHeader, checksum)] = std::byte{0};
  table[offsetof(TableHeader, checksum)] = std::byte{checksum(table)};
  return table;
}

GenericAddress io_block(std::uint16_t port, std::uint8_t bytes, std::uint8_t access_size) {
  return {kIoSpace, static_cast<std::uint8_t>(8 * bytes), 0, access_size, port};
}

Bytes build_fadt(const AcpiConfig& config, std::uint64_t facs, std::uint64_t dsdt) {
  Fadt fadt{};
  fadt.header = header("FACP", 5);
  fadt.firmware_ctrl = static_cast<std::uint32_t>(facs);  // X_FIRMWARE_CTRL stays 0: only one may be set
  fadt.dsdt = static_cast<std::uint32_t>(dsdt);
  fadt.x_dsdt = dsdt;
  fadt.preferred_pm_profile = 0;  // unspecified
  fadt.sci_int = config.sci;
  fadt.smi_cmd = 0;  // "system does not support switching": it is in ACPI mode from the start
  fadt.pm1_evt_len = 4;
  fadt.pm1_cnt_len = 2;
  fadt.pm_tmr_len = 4;
  fadt.gpe0_blk_len = 4;
  const std::uint16_t pm = config.pm_base;
  fadt.pm1a_evt_blk = pm;
  fadt.pm1a_cnt_blk = pm + 4U;
  fadt.pm_tmr_blk = pm + 8U;
  fadt.gpe0_blk = kGpe0;
  fadt.x_pm1a_evt_blk = io_block(pm, 4, 2);
  fadt.x_pm1a_cnt_blk = io_block(static_cast<std::uint16_t>(pm + 4), 2, 2);
  fadt.x_pm_tmr_blk = io_block(static_cast<std::uint16_t>(pm + 8), 4, 3);
  fadt.x_gpe0_blk = io_block(kGpe0, 4, 1);
  fadt.p_lvl2_lat = 0xFFF;  // over 100: no C2
  fadt.p_lvl3_lat = 0xFFF;  // over 1000: no C3
  fadt.century = kCmosCentury;
  fadt.iapc_boot_arch = static_cast<std::uint16_t>(kLegacyDevices | k8042 | (config.vga ? 0 : kNoVga));
  // PWR_BUTTON 0: fixed power button. TMR_VAL_EXT 0: the timer has 24 bits. HW_REDUCED 0.
  fadt.flags = kWbinvd | kProcC1 | kNoFixedSleepButton | kResetSupported;
  fadt.reset_reg = io_block(kResetRegister, 1, 1);
  fadt.reset_value = kResetValue;
  Bytes out;
  append(out, fadt);
  return finish(std::move(out));
}

Bytes build_madt(const AcpiConfig& config) {
  Bytes out;
  MadtHeader madt{};
  madt.header = header("APIC", 3);
  madt.local_apic = kLocalApic;
  madt.flags = 1;  // PCAT_COMPAT: there are 8259s too
  append(out, madt);
  bool any_x2apic = false;
  for (std::uint32_t n = 0; n < config.apic_ids.size(); ++n) {
    const std::uint32_t id = config.apic_ids[n];
    if (id <= kLargestXapicId) {
      append(out,
             MadtLocalApic{.processor_uid = static_cast<std::uint8_t>(n), .apic_id = static_cast<std::uint8_t>(id)});
    } else {
      any_x2apic = true;
      append(out, MadtX2apic{.apic_id = id, .processor_uid = n});
    }
  }
  append(out, MadtIoapic{});
  append(out, MadtOverride{.source = 0, .gsi = 2, .flags = kBusDefault});
  for (const std::uint8_t irq : kLevelIrqs)
    append(out, MadtOverride{.source = irq, .gsi = irq, .flags = kActiveHighLevel});
  append(out, MadtLocalNmi{});
  if (any_x2apic) append(out, MadtX2apicNmi{});
  return finish(std::move(out));
}

Bytes build_rsdp(std::uint64_t xsdt) {
  Rsdp rsdp{};
  set_text(rsdp.signature, "RSD PTR ");
  set_text(rsdp.oem_id, "BULKHD");
  rsdp.revision = 2;
  rsdp.length = sizeof(Rsdp);
  rsdp.xsdt = xsdt;
  const auto bytes = std::as_bytes(std::span(&rsdp, 1));
  rsdp.checksum = checksum(bytes.first(offsetof(Rsdp, length)));
  rsdp.extended_checksum = checksum(bytes);
  return {bytes.begin(), bytes.end()};
}

Bytes build_facs() {
  Facs facs{};
  set_text(facs.signature, "FACS");
  facs.length = sizeof(Facs);
  facs.version = 2;
  Bytes out;
  append(out, facs);
  return out;
}

Bytes static_dsdt() {
  const auto bytes = std::as_bytes(std::span(dsdt_aml_code));
  return {bytes.begin(), bytes.end()};
}

// Tables one behind the other from an address on.
class Placer {
 public:
  explicit Placer(std::uint64_t base) : base_(base) {}
  std::uint64_t put(const Bytes& table) {
    const std::uint64_t offset = align_up(bytes_.size(), kTableAlignment);
    bytes_.resize(offset);
    bytes_.insert(bytes_.end(), table.begin(), table.end());
    return base_ + offset;
  }
  Bytes take() { return std::move(bytes_); }
  void replace(std::uint64_t address, const Bytes& table) {
    std::memcpy(bytes_.data() + (address - base_), table.data(), table.size());
  }

 private:
  std::uint64_t base_;
  Bytes bytes_;
};

// Everything but the FACS, whose address is known beforehand.
Bytes place_tables(const AcpiConfig& config, std::uint64_t base, std::uint64_t facs) {
  Placer placer(base);
  placer.put(build_rsdp(0));  // first, so that `base` is the RSDP's address; written again below
  const std::uint64_t dsdt = placer.put(static_dsdt());
  const std::uint64_t tables[] = {placer.put(build_fadt(config, facs, dsdt)), placer.put(build_madt(config)),
                                  placer.put(build_ssdt(config))};
  Bytes xsdt;
  append(xsdt, header("XSDT", 1));
  for (const std::uint64_t table : tables) append(xsdt, table);
  placer.replace(base, build_rsdp(placer.put(finish(std::move(xsdt)))));
  return placer.take();
}

}  // namespace

std::vector<std::byte> build_ssdt(const AcpiConfig& config) {
  Bytes out;
  append(out, header("SSDT", 2));
  const std::vector<std::uint8_t> terms = ssdt_terms(config);
  const auto bytes = std::as_bytes(std::span(terms));
  out.insert(out.end(), bytes.begin(), bytes.end());
  return finish(std::move(out));
}

std::uint64_t acpi_size(const AcpiConfig& config) {
  return align_up(place_tables(config, 0, 0).size(), kPageSize) + kPageSize;
}

FirmwareArea acpi_area(const AcpiConfig& config, std::uint64_t base) {
  const std::uint64_t size = acpi_size(config);
  return {.acpi = base, .acpi_size = size - kPageSize, .nvs = base + size - kPageSize, .nvs_size = kPageSize};
}

AcpiTables build_acpi(const AcpiConfig& config, std::uint64_t base) {
  const FirmwareArea area = acpi_area(config, base);
  CHECK(base % kPageSize == 0 && area.nvs + area.nvs_size <= kFourGiB, base);
  AcpiTables out;
  out.rsdp = base;
  out.tables = {base, place_tables(config, base, area.nvs)};
  out.facs = {area.nvs, build_facs()};
  return out;
}

}  // namespace bulkhead::vmm
