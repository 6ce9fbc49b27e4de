#include "vmm/firmware/acpi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace bulkhead::vmm {
namespace {

constexpr std::uint64_t kBase = 0x3FF0000;

AcpiConfig config() {
  return {.memory = *plan_memory(64 * kMiB, 40), .apic_ids = {0, 1, 2, 3}, .uarts = {{0x3F8, 4}, {0x2F8, 3}}};
}

// A reader of the tables as an operating system walks them.
class Reader {
 public:
  explicit Reader(const AcpiConfig& config) : tables_(build_acpi(config, kBase)) {
    for (std::uint64_t at = xsdt() + 36; at < xsdt() + length(xsdt()); at += 8)
      found_[signature(get<std::uint64_t>(at))] = get<std::uint64_t>(at);
    found_["DSDT"] = get<std::uint64_t>(found_.at("FACP") + 140);
  }
  template <class T>
  [[nodiscard]] T get(std::uint64_t address) const {
    const BootTable& piece = address >= tables_.facs.address ? tables_.facs : tables_.tables;
    T value{};
    EXPECT_LE(address - piece.address + sizeof(T), piece.bytes.size());
    std::memcpy(&value, piece.bytes.data() + (address - piece.address), sizeof(T));
    return value;
  }
  [[nodiscard]] std::uint64_t rsdp() const { return tables_.rsdp; }
  [[nodiscard]] std::uint64_t xsdt() const { return get<std::uint64_t>(rsdp() + 24); }
  [[nodiscard]] std::uint32_t length(std::uint64_t table) const { return get<std::uint32_t>(table + 4); }
  [[nodiscard]] std::string signature(std::uint64_t table) const {
    const auto raw = get<std::array<char, 4>>(table);
    return {raw.data(), raw.size()};
  }
  [[nodiscard]] std::uint64_t table(const char* name) const { return found_.at(name); }
  [[nodiscard]] const std::map<std::string, std::uint64_t>& all() const { return found_; }
  [[nodiscard]] unsigned sum(std::uint64_t from, std::uint64_t bytes) const {
    unsigned total = 0;
    for (std::uint64_t n = 0; n < bytes; ++n) total += get<std::uint8_t>(from + n);
    return total & 0xFF;
  }
  [[nodiscard]] std::vector<char> bytes(std::uint64_t table) const {
    std::vector<char> out;
    for (std::uint32_t n = 0; n < length(table); ++n) out.push_back(get<char>(table + n));
    return out;
  }

 private:
  AcpiTables tables_;
  std::map<std::string, std::uint64_t> found_;
};

TEST(Acpi, every_checksum_is_right) {
  const Reader reader(config());
  EXPECT_EQ(reader.sum(reader.rsdp(), 20), 0U);
  EXPECT_EQ(reader.sum(reader.rsdp(), 36), 0U);
  EXPECT_EQ(reader.sum(reader.xsdt(), reader.length(reader.xsdt())), 0U);
  for (const auto& [name, address] : reader.all()) {
    EXPECT_EQ(reader.signature(address), name);
    EXPECT_EQ(reader.sum(address, reader.length(address)), 0U) << name;
  }
}

TEST(Acpi, has_the_tables_that_a_pc_needs) {
  const Reader reader(config());
  std::vector<std::string> names;
  for (const auto& [name, address] : reader.all()) names.push_back(name);
  EXPECT_THAT(names, testing::ElementsAre("APIC", "DSDT", "FACP", "SSDT"));
}

TEST(Acpi, the_facs_has_a_page_of_its_own) {
  const AcpiTables tables = build_acpi(config(), kBase);
  const FirmwareArea area = acpi_area(config(), kBase);
  EXPECT_EQ(tables.facs.address, area.nvs);
  EXPECT_EQ(area.nvs % 64, 0U);
  EXPECT_EQ(area.nvs + area.nvs_size, kBase + acpi_size(config()));
  EXPECT_LE(tables.tables.address + tables.tables.bytes.size(), area.nvs);
  const Reader reader(config());
  EXPECT_EQ(reader.get<std::uint32_t>(reader.table("FACP") + 36), area.nvs);
  EXPECT_EQ(reader.signature(area.nvs), "FACS");
}

TEST(Acpi, the_size_does_not_depend_on_the_place) {
  AcpiConfig large = config();
  large.memory = *plan_memory(4096 * kMiB, 40);
  for (std::uint32_t id = 4; id < 64; ++id) large.apic_ids.push_back(id);
  EXPECT_EQ(build_acpi(large, 0x10000).tables.bytes.size(), build_acpi(large, 0xBFF00000).tables.bytes.size());
  EXPECT_LE(acpi_size(large), 128 * kKiB);
}

TEST(Fadt, describes_the_pm_block) {
  AcpiConfig other = config();
  other.pm_base = 0xB000;
  for (const AcpiConfig& each : {config(), other}) {
    const Reader reader(each);
    const std::uint64_t fadt = reader.table("FACP");
    EXPECT_EQ(reader.get<std::uint32_t>(fadt + 56), each.pm_base);
    EXPECT_EQ(reader.get<std::uint32_t>(fadt + 64), each.pm_base + 4U);
    EXPECT_EQ(reader.get<std::uint32_t>(fadt + 76), each.pm_base + 8U);
    EXPECT_EQ(reader.get<std::uint64_t>(fadt + 148 + 4), each.pm_base);
    EXPECT_EQ(reader.get<std::uint64_t>(fadt + 208 + 4), each.pm_base + 8U);
  }
}

TEST(Fadt, is_in_acpi_mode_already_and_resets_through_cf9) {
  const Reader reader(config());
  const std::uint64_t fadt = reader.table("FACP");
  EXPECT_EQ(reader.get<std::uint16_t>(fadt + 46), 9);              // SCI
  EXPECT_EQ(reader.get<std::uint32_t>(fadt + 48), 0U);             // SMI_CMD
  EXPECT_EQ(reader.get<std::uint8_t>(fadt + 108), 0x32);           // century
  EXPECT_EQ(reader.get<std::uint16_t>(fadt + 109), 0x7);           // legacy devices, 8042, no VGA
  EXPECT_EQ(reader.get<std::uint32_t>(fadt + 112) >> 10 & 1, 1U);  // RESET_REG_SUP
  EXPECT_EQ(reader.get<std::uint32_t>(fadt + 112) >> 8 & 1, 0U);   // 24-bit timer
  EXPECT_EQ(reader.get<std::uint32_t>(fadt + 112) >> 20 & 1, 0U);  // not hardware-reduced
  EXPECT_EQ(reader.get<std::uint64_t>(fadt + 116 + 4), 0xCF9U);
  EXPECT_EQ(reader.get<std::uint8_t>(fadt + 128), 6);
}

TEST(Fadt, says_whether_there_is_a_vga) {
  AcpiConfig with_vga = config();
  with_vga.vga = true;
  const Reader reader(with_vga);
  EXPECT_EQ(reader.get<std::uint16_t>(reader.table("FACP") + 109), 0x3);
}

// {type: entries as bytes}
std::multimap<std::uint8_t, std::vector<std::uint8_t>> madt_entries(const AcpiConfig& from) {
  const Reader reader(from);
  const std::uint64_t madt = reader.table("APIC");
  std::multimap<std::uint8_t, std::vector<std::uint8_t>> entries;
  for (std::uint64_t at = madt + 44; at < madt + reader.length(madt);) {
    const auto size = reader.get<std::uint8_t>(at + 1);
    std::vector<std::uint8_t> bytes;
    for (std::uint8_t n = 0; n < size; ++n) bytes.push_back(reader.get<std::uint8_t>(at + n));
    entries.emplace(bytes[0], bytes);
    if (size == 0) break;
    at += size;
  }
  return entries;
}

TEST(Madt, lists_each_processor_with_its_apic_id) {
  AcpiConfig gaps = config();
  gaps.apic_ids = {0, 1, 4, 5};
  const auto entries = madt_entries(gaps);
  ASSERT_EQ(entries.count(0), 4U);
  std::size_t n = 0;
  for (auto [it, end] = entries.equal_range(0); it != end; ++it, ++n)
    EXPECT_THAT(it->second, testing::ElementsAre(0, 8, n, gaps.apic_ids[n], 1, 0, 0, 0));
}

TEST(Madt, large_apic_ids_get_x2apic_entries) {
  AcpiConfig large = config();
  large.apic_ids = {0, 254, 255, 300};
  const auto entries = madt_entries(large);
  EXPECT_EQ(entries.count(0), 2U);
  EXPECT_EQ(entries.count(9), 2U);
  EXPECT_EQ(entries.count(10), 1U);
}

TEST(Madt, sends_the_pit_to_pin_2_and_makes_pci_interrupts_level) {
  const auto entries = madt_entries(config());
  std::map<int, std::pair<int, int>> overrides;
  for (auto [it, end] = entries.equal_range(2); it != end; ++it)
    overrides[it->second[3]] = {it->second[4], it->second[8]};
  const std::map<int, std::pair<int, int>> wanted = {
      {0, {2, 0}}, {5, {5, 0xD}}, {9, {9, 0xD}}, {10, {10, 0xD}}, {11, {11, 0xD}}};
  EXPECT_EQ(overrides, wanted);
  EXPECT_THAT(entries.find(4)->second, testing::ElementsAre(4, 6, 0xFF, 0, 0, 1));
}

// Has ACPICA's tools read the tables: iasl the definition blocks, acpiexec as an operating system would.
class Acpica : public testing::Test {
 protected:
  Acpica() {
    char pattern[] = "/tmp/bulkhead-acpi-XXXXXX";
    folder_ = ::mkdtemp(pattern);
  }
  ~Acpica() override { std::filesystem::remove_all(folder_); }
  void SetUp() override {
    if (!run("iasl -v && which acpiexec")) GTEST_SKIP() << "no acpica-tools";
  }
  void write(const char* name, const std::vector<char>& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  void write_blocks(const AcpiConfig& from) const {
    const Reader reader(from);
    write("dsdt.aml", reader.bytes(reader.table("DSDT")));
    write("ssdt.aml", reader.bytes(reader.table("SSDT")));
  }
  [[nodiscard]] bool run(const std::string& command) const {
    return std::system(("cd " + folder_.string() + " && (" + command + ") > log 2>&1").c_str()) == 0;
  }
  // What the commands print; the tables must load without a complaint.
  [[nodiscard]] std::string execute(const std::string& commands) const {
    EXPECT_TRUE(run("acpiexec -b '" + commands + "' dsdt.aml ssdt.aml"));
    const std::string log = read("log");
    EXPECT_EQ(log.find("ACPI Error"), std::string::npos) << log;
    EXPECT_EQ(log.find("ACPI Warning"), std::string::npos) << log;
    EXPECT_EQ(log.find("ACPI BIOS"), std::string::npos) << log;
    EXPECT_NE(log.find("2 ACPI AML tables successfully"), std::string::npos) << log;
    return log;
  }
  [[nodiscard]] std::string read(const char* name) const {
    std::stringstream text;
    text << std::ifstream(folder_ / name).rdbuf();
    return text.str();
  }
  std::filesystem::path folder_;
};

AcpiConfig large_config() {
  AcpiConfig large = config();
  large.memory = *plan_memory(8192 * kMiB, 40);
  for (std::uint32_t id = 4; id < 64; ++id) large.apic_ids.push_back(id);
  return large;
}

TEST_F(Acpica, definition_blocks_survive_disassembly) {
  for (const AcpiConfig& each : {config(), large_config()}) {
    write_blocks(each);
    ASSERT_TRUE(run("iasl -we -e ssdt.aml -d dsdt.aml && iasl -we -ve -p again dsdt.dsl")) << read("log");
    ASSERT_TRUE(run("iasl -we -e dsdt.aml -d ssdt.aml && iasl -we -ve -p again ssdt.dsl")) << read("log");
    EXPECT_NE(read("log").find("0 Errors, 0 Warnings"), std::string::npos) << read("log");
  }
}

TEST_F(Acpica, fixed_tables_survive_disassembly) {
  const Reader reader(config());
  for (const char* name : {"FACP", "APIC"}) {
    write("table.aml", reader.bytes(reader.table(name)));
    ASSERT_TRUE(run("iasl -d table.aml && iasl -we table.dsl")) << name << read("log");
  }
}

TEST_F(Acpica, the_namespace_follows_the_plan) {
  write_blocks(large_config());
  ASSERT_TRUE(run("iasl -d ssdt.aml")) << read("log");
  const std::string text = read("ssdt.dsl");
  for (const char* wanted : {"0xC0000000,         // Range Minimum", "0x0000000240000000, // Range Minimum",
                             "Device (COM2)", "Device (C03F)"})
    EXPECT_NE(text.find(wanted), std::string::npos) << wanted;
}

TEST_F(Acpica, soft_off_is_sleep_type_0) {
  write_blocks(config());
  EXPECT_NE(execute("evaluate \\_S5").find("[Integer] = 0000000000000000"), std::string::npos);
}

TEST_F(Acpica, each_link_takes_the_interrupt_it_is_given) {
  write_blocks(config());
  for (const char link : {'A', 'B', 'C', 'D'}) {
    const std::string name = std::string("\\_SB.LNK") + link;
    const std::string log = execute("evaluate " + name + "._SRS (89 06 00 09 01 0A 00 00 00 79 00);evaluate " + name +
                                    "._CRS;evaluate " + name + "._STA");
    EXPECT_NE(log.find("89 06 00 09 01 0A 00 00 00 79 00"), std::string::npos) << log;
    EXPECT_NE(log.find("[Integer] = 000000000000000B"), std::string::npos) << log;
  }
}

TEST_F(Acpica, a_disabled_link_has_no_interrupt) {
  write_blocks(config());
  const std::string log = execute(
      "evaluate \\_SB.LNKC._SRS (89 06 00 09 01 0A 00 00 00 79 00);evaluate \\_SB.LNKC._DIS;"
      "evaluate \\_SB.LNKC._STA;evaluate \\_SB.LNKC._CRS");
  EXPECT_NE(log.find("[Integer] = 0000000000000009"), std::string::npos) << log;
  EXPECT_NE(log.find("89 06 00 09 01 00 00 00 00 79 00"), std::string::npos) << log;
}

// The table loader as SeaBIOS runs it: blobs go to addresses, then pointers and sums are put right.
class Linker {
 public:
  explicit Linker(const LinkedAcpi& acpi) : files_{{"etc/acpi/rsdp", acpi.rsdp}, {"etc/acpi/tables", acpi.tables}} {
    EXPECT_EQ(acpi.loader.size() % 128, 0U);
    for (std::size_t at = 0; at < acpi.loader.size(); at += 128) run(acpi.loader.data() + at);
  }
  template <class T>
  [[nodiscard]] T get(std::uint64_t address) const {
    for (const auto& [name, base] : bases_) {
      const std::vector<std::byte>& bytes = files_.at(name);
      if (address < base || address + sizeof(T) > base + bytes.size()) continue;
      T value{};
      std::memcpy(&value, bytes.data() + (address - base), sizeof(T));
      return value;
    }
    ADD_FAILURE() << "nothing at " << address;
    return {};
  }
  [[nodiscard]] std::uint64_t rsdp() const { return bases_.at("etc/acpi/rsdp"); }
  [[nodiscard]] unsigned sum(std::uint64_t from, std::uint64_t bytes) const {
    unsigned total = 0;
    for (std::uint64_t n = 0; n < bytes; ++n) total += get<std::uint8_t>(from + n);
    return total & 0xFF;
  }
  std::uint64_t alignment_of_tables = 0;

 private:
  static std::uint32_t u32(const std::byte* at) {
    std::uint32_t value = 0;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  void run(const std::byte* command) {
    const std::string file = reinterpret_cast<const char*>(command + 4);
    ASSERT_TRUE(files_.contains(file)) << file;
    std::vector<std::byte>& bytes = files_[file];
    switch (u32(command)) {
      case 1:
        bases_[file] = file == "etc/acpi/rsdp" ? 0xF5A40 : 0x3FE0000;
        if (file != "etc/acpi/rsdp") alignment_of_tables = u32(command + 60);
        return;
      case 2: {
        const std::uint32_t offset = u32(command + 116);
        const auto size = static_cast<std::size_t>(command[120]);
        ASSERT_LE(offset + size, bytes.size());
        std::uint64_t value = 0;
        std::memcpy(&value, bytes.data() + offset, size);
        value += bases_.at(reinterpret_cast<const char*>(command + 60));
        std::memcpy(bytes.data() + offset, &value, size);
        return;
      }
      case 3: {
        unsigned total = 0;
        for (std::uint32_t i = 0; i < u32(command + 68); ++i)
          total += static_cast<unsigned>(bytes.at(u32(command + 64) + i));
        std::byte& at = bytes.at(u32(command + 60));
        at = static_cast<std::byte>(static_cast<unsigned>(at) - total);
        return;
      }
      default: FAIL() << "command " << u32(command);
    }
  }
  std::map<std::string, std::vector<std::byte>> files_;
  std::map<std::string, std::uint64_t> bases_;
};

TEST(LinkedAcpi, every_table_is_found_by_both_roots_with_a_right_sum) {
  AcpiConfig with_firmware = config();
  with_firmware.firmware = true;
  const Linker linked(build_linked_acpi(with_firmware));
  EXPECT_EQ(linked.sum(linked.rsdp(), 20), 0U);
  EXPECT_EQ(linked.sum(linked.rsdp(), 36), 0U);
  EXPECT_GE(linked.alignment_of_tables, 64U);
  const std::uint64_t rsdt = linked.get<std::uint32_t>(linked.rsdp() + 16);
  const std::uint64_t xsdt = linked.get<std::uint64_t>(linked.rsdp() + 24);
  EXPECT_EQ(linked.get<std::uint32_t>(rsdt), 0x54445352U);
  EXPECT_EQ(linked.get<std::uint32_t>(xsdt), 0x54445358U);
  const std::uint32_t entries = (linked.get<std::uint32_t>(xsdt + 4) - 36) / 8;
  ASSERT_EQ(linked.get<std::uint32_t>(rsdt + 4), 36 + 4 * entries);
  std::vector<std::uint64_t> tables = {rsdt, xsdt};
  for (std::uint32_t i = 0; i < entries; ++i) {
    tables.push_back(linked.get<std::uint64_t>(xsdt + 36 + 8 * i));
    EXPECT_EQ(linked.get<std::uint32_t>(rsdt + 36 + 4 * i), tables.back());
  }
  const std::uint64_t fadt = tables[2];
  EXPECT_EQ(linked.get<std::uint32_t>(fadt), 0x50434146U);
  tables.push_back(linked.get<std::uint64_t>(fadt + 140));
  EXPECT_EQ(linked.get<std::uint32_t>(fadt + 40), tables.back());
  EXPECT_EQ(linked.get<std::uint32_t>(tables.back()), 0x54445344U);
  for (const std::uint64_t table : tables)
    EXPECT_EQ(linked.sum(table, linked.get<std::uint32_t>(table + 4)), 0U) << std::hex << table;
  const std::uint64_t facs = linked.get<std::uint32_t>(fadt + 36);
  EXPECT_EQ(linked.get<std::uint32_t>(facs), 0x53434146U);
  EXPECT_EQ(facs % 64, 0U);
}

TEST(LinkedAcpi, a_firmware_leaves_the_switch_to_acpi_to_the_system) {
  AcpiConfig with_firmware = config();
  with_firmware.firmware = true;
  const Linker linked(build_linked_acpi(with_firmware));
  const std::uint64_t fadt = linked.get<std::uint64_t>(linked.get<std::uint64_t>(linked.rsdp() + 24) + 36);
  EXPECT_EQ(linked.get<std::uint32_t>(fadt + 48), 0xB2U);
  EXPECT_EQ(linked.get<std::uint8_t>(fadt + 52), 0xF1U);
  EXPECT_EQ(linked.get<std::uint8_t>(fadt + 53), 0xF0U);
}

}  // namespace
}  // namespace bulkhead::vmm
