#include "vmm/firmware/aml.h"

#include <gtest/gtest.h>

namespace bulkhead::vmm::aml {
namespace {

TEST(Aml, integers_take_the_shortest_form) {
  EXPECT_EQ(integer(0), (Bytes{0x00}));
  EXPECT_EQ(integer(1), (Bytes{0x01}));
  EXPECT_EQ(integer(2), (Bytes{0x0A, 2}));
  EXPECT_EQ(integer(0x1234), (Bytes{0x0B, 0x34, 0x12}));
  EXPECT_EQ(integer(0x12345678), (Bytes{0x0C, 0x78, 0x56, 0x34, 0x12}));
  EXPECT_EQ(integer(0x1'0000'0000), (Bytes{0x0E, 0, 0, 0, 0, 1, 0, 0, 0}));
}

TEST(Aml, eisa_ids_are_packed) {
  EXPECT_EQ(eisa_id("PNP0501"), (Bytes{0x0C, 0x41, 0xD0, 0x05, 0x01}));
  EXPECT_EQ(eisa_id("PNP0A03"), (Bytes{0x0C, 0x41, 0xD0, 0x0A, 0x03}));
}

TEST(Aml, paths_have_prefixes_by_length) {
  EXPECT_EQ(path("LNKA"), (Bytes{'L', 'N', 'K', 'A'}));
  EXPECT_EQ(path("\\_SB_.PCI0"), (Bytes{'\\', 0x2E, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'}));
  EXPECT_EQ(path("\\_SB_.PCI0.ISA_").size(), 3U + 12U);
  EXPECT_EQ(path("\\_SB_.PCI0.ISA_")[1], 0x2F);
}

// ACPI 6.4, 20.2.4: the length counts itself.
TEST(Aml, package_lengths_grow_with_their_content) {
  const auto lead = [](std::size_t content) {
    Bytes terms(content, 0xA3);
    const Bytes out = scope("ABCD", terms);
    return Bytes(out.begin() + 1, out.begin() + 5);
  };
  EXPECT_EQ(lead(58)[0], 63);  // 1 + 4 + 58
  EXPECT_EQ(lead(59)[0], 0x41);
  EXPECT_EQ(lead(59)[1], 65 >> 4);  // 2 + 4 + 59 = 65
  const Bytes large = lead(4090);   // 3 + 4 + 4090 = 4097
  EXPECT_EQ(large[0], 0x81);
  EXPECT_EQ(large[1], 4097 >> 4 & 0xFF);
  EXPECT_EQ(large[2], 4097 >> 12);
}

TEST(Aml, a_resource_buffer_ends_with_a_tag) {
  EXPECT_EQ(resources(irq(4)), (Bytes{0x11, 8, 0x0A, 5, 0x22, 0x10, 0x00, 0x79, 0x00}));
}

TEST(Aml, a_window_says_its_length) {
  const Bytes window = memory_window32(0x80000000, 0xFEBFFFFF);
  ASSERT_EQ(window.size(), 26U);
  EXPECT_EQ(Bytes(window.end() - 4, window.end()), (Bytes{0x00, 0x00, 0xC0, 0x7E}));
}

}  // namespace
}  // namespace bulkhead::vmm::aml
