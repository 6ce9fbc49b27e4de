// A small writer of AML, for the parts of the ACPI namespace that are generated.
//
// Terms are byte vectors that nest: aml::device("COM1", aml::name("_UID", aml::integer(1)), ...). Only what
// the SSDT needs is here. Names are 4 characters, paths begin with a backslash.
// Units: none. Errors: CHECK on a bad name (a bug of ours). Threading: pure functions. Trust: none needed.
// Source: ACPI 6.4, section 20 (AML) and 6.4 (resource descriptors).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace bulkhead::vmm::aml {

using Bytes = std::vector<std::uint8_t>;

// Terms one after the other.
[[nodiscard]] Bytes join(std::initializer_list<Bytes> terms);
void append(Bytes& to, const Bytes& term);

[[nodiscard]] Bytes integer(std::uint64_t value);
[[nodiscard]] Bytes string(std::string_view text);
[[nodiscard]] Bytes eisa_id(std::string_view id);  // "PNP0501"
[[nodiscard]] Bytes path(std::string_view path);   // a reference: "LNKA", "\\_SB.PCI0"
[[nodiscard]] Bytes name(std::string_view name, const Bytes& value);
[[nodiscard]] Bytes package(const std::vector<Bytes>& elements);  // at most 255
[[nodiscard]] Bytes scope(std::string_view path, const Bytes& terms);
[[nodiscard]] Bytes device(std::string_view name, const Bytes& terms);
// Descriptors, closed with an end tag, in a buffer.
[[nodiscard]] Bytes resources(const Bytes& descriptors);

// Resource descriptors.
[[nodiscard]] Bytes io(std::uint16_t base, std::uint8_t length);  // 16-bit decode
[[nodiscard]] Bytes irq(std::uint8_t number);                     // edge, active high, exclusive
[[nodiscard]] Bytes bus_window(std::uint16_t first, std::uint16_t last);
[[nodiscard]] Bytes io_window(std::uint16_t first, std::uint16_t last);
[[nodiscard]] Bytes memory_window32(std::uint32_t first, std::uint32_t last);  // cacheable, read-write
[[nodiscard]] Bytes memory_window64(std::uint64_t first, std::uint64_t last);
[[nodiscard]] Bytes fixed_memory32(std::uint32_t base, std::uint32_t length);

}  // namespace bulkhead::vmm::aml
