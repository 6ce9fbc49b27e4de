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
constexpr std::uint32_t kFacsAlignment = 64;
constexpr std::uint8_t kIoSpace = 1;
constexpr std::uint32_t kLocalApic = 0xFEE00000;
constexpr std::uint32_t kIoapic = 0xFEC00000;
constexpr std::uint32_t kLargestXapicId = 254;
constexpr std::uint16_t kGpe0 = 0xAFE0;
constexpr std::uint16_t kResetRegister = 0xCF9;
constexpr std::uint8_t kResetValue = 6;
constexpr std::uint8_t kCmosCentury = 0x32;
constexpr std::uint16_t kSmiCommand = 0xB2;
constexpr std::uint8_t kAcpiEnable = 0xF1;
constexpr std::uint8_t kAcpiDisable = 0xF0;

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
  if (config.firmware) {
    fadt.smi_cmd = kSmiCommand;
    fadt.acpi_enable = kAcpiEnable;
    fadt.acpi_disable = kAcpiDisable;
  }  // else 0, "system does not support switching": it is in ACPI mode from the start
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

Bytes build_rsdp(std::uint64_t xsdt, std::uint32_t rsdt = 0) {
  Rsdp rsdp{};
  rsdp.rsdt = rsdt;
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

constexpr const char* kRsdpFile = "etc/acpi/rsdp";
constexpr const char* kTablesFile = "etc/acpi/tables";

// One command of the table loader. QEMU, hw/acpi/bios-linker-loader.c, "BiosLinkerLoaderEntry".
#pragma pack(push, 1)
struct LoaderCommand {
  enum Kind : std::uint32_t { kAllocate = 1, kAddPointer = 2, kAddChecksum = 3 };
  enum Zone : std::uint8_t { kHigh = 1, kFSegment = 2 };
  std::uint32_t kind = 0;
  union {
    struct {
      char file[56];
      std::uint32_t alignment;
      std::uint8_t zone;
    } allocate;
    struct {
      char file[56];
      char to[56];
      std::uint32_t offset;
      std::uint8_t size;
    } pointer;
    struct {
      char file[56];
      std::uint32_t offset;
      std::uint32_t start;
      std::uint32_t length;
    } checksum;
    std::uint8_t bytes[124] = {};
  };
};
#pragma pack(pop)
static_assert(sizeof(LoaderCommand) == 128);

class LoaderScript {
 public:
  void allocate(const char* file, std::uint32_t alignment, LoaderCommand::Zone zone) {
    LoaderCommand command;
    command.kind = LoaderCommand::kAllocate;
    name(command.allocate.file, file);
    command.allocate.alignment = alignment;
    command.allocate.zone = zone;
    append(bytes_, command);
  }
  // A field of `file` that holds an offset into the tables becomes an address.
  void add_pointer(const char* file, std::size_t offset, std::size_t size) {
    LoaderCommand command;
    command.kind = LoaderCommand::kAddPointer;
    name(command.pointer.file, file);
    name(command.pointer.to, kTablesFile);
    command.pointer.offset = static_cast<std::uint32_t>(offset);
    command.pointer.size = static_cast<std::uint8_t>(size);
    append(bytes_, command);
  }
  void add_checksum(const char* file, std::size_t offset, std::size_t start, std::size_t length) {
    LoaderCommand command;
    command.kind = LoaderCommand::kAddChecksum;
    name(command.checksum.file, file);
    command.checksum.offset = static_cast<std::uint32_t>(offset);
    command.checksum.start = static_cast<std::uint32_t>(start);
    command.checksum.length = static_cast<std::uint32_t>(length);
    append(bytes_, command);
  }
  void add_table_checksum(std::size_t table, std::size_t length) {
    add_checksum(kTablesFile, table + offsetof(TableHeader, checksum), table, length);
  }
  Bytes take() { return std::move(bytes_); }

 private:
  static void name(char (&field)[56], std::string_view text) { std::memcpy(field, text.data(), text.size()); }
  Bytes bytes_;
};

// An RSDT (4-byte entries) or XSDT (8-byte entries) of tables at these offsets.
template <class Entry>
Bytes root_table(std::string_view signature, std::span<const std::uint64_t> tables) {
  Bytes out;
  append(out, header(signature, 1));
  for (const std::uint64_t table : tables) append(out, static_cast<Entry>(table));
  return finish(std::move(out));
}

}  // namespace

LinkedAcpi build_linked_acpi(const AcpiConfig& config) {
  LoaderScript script;
  script.allocate(kRsdpFile, kTableAlignment, LoaderCommand::kFSegment);
  script.allocate(kTablesFile, kFacsAlignment, LoaderCommand::kHigh);

  Placer placer(0);
  const std::uint64_t facs = placer.put(build_facs());  // first: it has the largest alignment
  const std::uint64_t dsdt = placer.put(static_dsdt());
  const std::uint64_t fadt = placer.put(build_fadt(config, facs, dsdt));
  const std::uint64_t tables[] = {fadt, placer.put(build_madt(config)), placer.put(build_ssdt(config))};
  for (const auto& [offset, size] : {std::pair(offsetof(Fadt, firmware_ctrl), 4), std::pair(offsetof(Fadt, dsdt), 4),
                                     std::pair(offsetof(Fadt, x_dsdt), 8)})
    script.add_pointer(kTablesFile, fadt + offset, static_cast<std::size_t>(size));
  script.add_table_checksum(fadt, sizeof(Fadt));

  const auto put_root = [&](const Bytes& table, std::size_t entry) {
    const std::uint64_t at = placer.put(table);
    for (std::size_t i = 0; i < std::size(tables); ++i)
      script.add_pointer(kTablesFile, at + sizeof(TableHeader) + i * entry, entry);
    script.add_table_checksum(at, table.size());
    return at;
  };
  const std::uint64_t rsdt = put_root(root_table<std::uint32_t>("RSDT", tables), sizeof(std::uint32_t));
  const std::uint64_t xsdt = put_root(root_table<std::uint64_t>("XSDT", tables), sizeof(std::uint64_t));

  LinkedAcpi out;
  out.rsdp = build_rsdp(xsdt, static_cast<std::uint32_t>(rsdt));
  script.add_pointer(kRsdpFile, offsetof(Rsdp, rsdt), sizeof(std::uint32_t));
  script.add_pointer(kRsdpFile, offsetof(Rsdp, xsdt), sizeof(std::uint64_t));
  script.add_checksum(kRsdpFile, offsetof(Rsdp, checksum), 0, offsetof(Rsdp, length));
  script.add_checksum(kRsdpFile, offsetof(Rsdp, extended_checksum), 0, sizeof(Rsdp));
  out.tables = placer.take();
  out.loader = script.take();
  return out;
}

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
