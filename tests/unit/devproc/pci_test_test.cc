// The PCI test function's registers: its data sheet is devproc/models/pci_test/spec.h.
#include "devproc/models/pci_test/pci_test.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "ipc/roles/pci_test_decl.h"
#include "tests/fakes/fake_wires.h"
#include "tests/unit/devproc/pci_fixture.h"

namespace bulkhead::devproc {
namespace {

namespace spec = pci_test_spec;
using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

class PciTestFunction : public testing::Test {
 protected:
  PciTestFunction()
      : fakes_({.lines = 1, .memory_bytes = 256 * 1024}),
        device_(PciTestStorage::allocate(fakes_.state), fakes_.lines[0], fakes_.msi, fakes_.memory, fakes_.clock,
                fakes_.clock) {
    fakes_.clock.attach(device_);
    device_.reset();
  }

  std::uint32_t read32(std::uint64_t offset) {
    return static_cast<std::uint32_t>(device_.read({kPciTestRegisters, offset, 4}).value());
  }
  std::uint64_t read64(std::uint64_t offset) { return device_.read({kPciTestRegisters, offset, 8}).value(); }
  void write32(std::uint64_t offset, std::uint32_t value) {
    EXPECT_TRUE(device_.write({kPciTestRegisters, offset, 4}, value));
  }
  void write64(std::uint64_t offset, std::uint64_t value) {
    EXPECT_TRUE(device_.write({kPciTestRegisters, offset, 8}, value));
  }
  std::uint32_t in(std::uint64_t offset, std::uint8_t size = 4) {
    return static_cast<std::uint32_t>(device_.read({kPciTestPorts, offset, size}).value());
  }
  void out(std::uint64_t offset, std::uint32_t value, std::uint8_t size = 4) {
    EXPECT_TRUE(device_.write({kPciTestPorts, offset, size}, value));
  }
  void post(std::uint64_t offset, std::uint64_t value, std::uint8_t size = 4) {
    EXPECT_TRUE(device_.write({kPciTestDoorbells, offset, size}, value));
  }
  bool level() { return fakes_.lines[0].level; }
  std::vector<std::byte> state_bytes() {
    std::vector<std::byte> all;
    for (std::size_t i = 0; i < fakes_.state.count(); ++i) {
      const auto part = fakes_.state.bytes(i);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  void copy(std::uint64_t from, std::uint64_t to, std::uint32_t length, std::uint32_t command = spec::kDmaCopy) {
    write64(spec::kDmaSource, from);
    write64(spec::kDmaTarget, to);
    write32(spec::kDmaLength, length);
    write32(spec::kDmaCommand, command);
  }

  FakeWires fakes_;
  PciTest device_;
};

TEST_F(PciTestFunction, regions_are_those_that_its_declaration_names) {
  const auto regions = device_.regions();
  ASSERT_EQ(regions.size(), 3U);
  for (const BarDecl& bar : kPciTestDecl.bars) {
    if (bar.msix) continue;
    ASSERT_LT(bar.region, regions.size());
    EXPECT_EQ(regions[bar.region].length, bar.size);
    EXPECT_EQ(regions[bar.region].kind == AddressKind::kPort, bar.kind == BarKind::kIo);
    EXPECT_EQ(regions[bar.region].posted, bar.region == kPciTestDoorbells);
  }
}

TEST_F(PciTestFunction, identifies_itself) {
  EXPECT_EQ(read32(spec::kId), 0xb41cbeefU);
  EXPECT_EQ(read64(spec::kId), 0x00000001'b41cbeefULL);
  EXPECT_EQ(in(spec::kPortId), 0xb41cbeefU);
}

TEST_F(PciTestFunction, scratch_holds_at_every_width_and_offset) {
  for (const std::uint8_t size : {1, 2, 4, 8}) {
    for (std::uint64_t offset = 0; offset < 64; offset += size) {
      const std::uint64_t value = 0x8877665544332211ULL & all_ones(size);
      EXPECT_TRUE(device_.write({kPciTestRegisters, spec::kScratch + offset, size}, value));
      EXPECT_EQ(device_.read({kPciTestRegisters, spec::kScratch + offset, size}), value) << offset;
    }
  }
  EXPECT_EQ(read64(spec::kScratch), 0x8877665544332211ULL);
}

TEST_F(PciTestFunction, a_narrow_write_keeps_the_other_bytes) {
  write64(spec::kScratch, 0x1111111122222222);
  device_.write({kPciTestRegisters, spec::kScratch + 3, 2}, 0xabcd);  // across two dwords of one quadword
  EXPECT_EQ(read64(spec::kScratch), 0x111111ab'cd222222ULL);
}

TEST_F(PciTestFunction, an_access_across_quadwords_finds_no_register) {
  EXPECT_EQ(device_.read({kPciTestRegisters, spec::kScratch + 6, 4}), std::nullopt);
  EXPECT_FALSE(device_.write({kPciTestRegisters, spec::kScratch + 4, 8}, 0));
  EXPECT_EQ(device_.read({kPciTestPorts, 2, 4}), std::nullopt);
}

TEST_F(PciTestFunction, holes_and_read_only_registers_refuse_writes) {
  for (const std::uint32_t offset : {spec::kId, spec::kTime, spec::kDmaStatus, spec::kLogCount, 0x200U, 0xff8U})
    EXPECT_FALSE(device_.write({kPciTestRegisters, offset, 4}, 0xffffffff)) << offset;
  EXPECT_EQ(device_.read({kPciTestRegisters, 0x200, 4}), std::nullopt);
  EXPECT_EQ(device_.read({kPciTestRegisters, 0x07c, 4}), std::nullopt);
  EXPECT_EQ(read64(0x078), 0xffffffff'00000000ULL) << "the half without a register reads ones";
}

TEST_F(PciTestFunction, counter_counts_its_reads_once_each) {
  write32(spec::kCounter, 41);
  EXPECT_EQ(read32(spec::kCounter), 41U);
  EXPECT_EQ(read32(spec::kCounter), 42U);
  EXPECT_EQ(device_.read({kPciTestRegisters, spec::kCounter, 1}), 43U);
  EXPECT_EQ(read32(spec::kCounter), 44U);
  out(spec::kPortCounter, 7);
  EXPECT_EQ(in(spec::kPortCounter), 7U);
  EXPECT_EQ(in(spec::kPortCounter), 8U);
}

TEST_F(PciTestFunction, doorbells_are_counted_and_remembered) {
  post(0x10, 0x1122334455667788, 8);
  post(0x7fd, 0xab, 1);
  EXPECT_EQ(read32(spec::kPostedCount), 2U);
  EXPECT_EQ(read64(spec::kLastPosted), 0xabU);
  EXPECT_EQ(read32(spec::kPostedWhere), 0x000107fdU);
  EXPECT_EQ(device_.read({kPciTestDoorbells, 0x123, 4}), 2U);
}

TEST_F(PciTestFunction, intx_follows_status_and_mask) {
  write32(spec::kIntRaise, 0x30);
  EXPECT_TRUE(level());
  write32(spec::kIntMask, 0x30);
  EXPECT_FALSE(level());
  write32(spec::kIntMask, 0x10);
  EXPECT_TRUE(level());
  write32(spec::kIntStatus, 0x20);
  EXPECT_FALSE(level());
  EXPECT_EQ(read32(spec::kIntStatus), 0x10U);
}

TEST_F(PciTestFunction, a_byte_write_to_status_clears_only_what_it_names) {
  write32(spec::kIntRaise, 0x8001);
  device_.write({kPciTestRegisters, spec::kIntStatus + 1, 1}, 0x80);
  EXPECT_EQ(read32(spec::kIntStatus), 0x0001U);
}

TEST_F(PciTestFunction, intx_can_be_raised_from_each_bar) {
  post(spec::kDoorbellRaise, 0x100);
  EXPECT_TRUE(level());
  write32(spec::kIntStatus, 0x100);
  EXPECT_FALSE(level());
  out(spec::kPortRaise, 0x200);
  EXPECT_TRUE(level());
}

TEST_F(PciTestFunction, intx_disable_msi_and_msix_keep_the_pin_low) {
  write32(spec::kIntRaise, 1);
  for (const std::uint32_t bits : {kControlIntxDisable, kControlMsiEnable, kControlMsixEnable}) {
    device_.on_function_control(bits);
    EXPECT_FALSE(level()) << bits;
    device_.on_function_control(0);
    EXPECT_TRUE(level());
  }
  EXPECT_EQ(read32(spec::kIntStatus), 1U);
}

TEST_F(PciTestFunction, messages_need_msi_or_msix_and_bus_mastering_and_d0) {
  for (const std::uint32_t bits : {0U, std::uint32_t{kControlBusMaster}, std::uint32_t{kControlMsixEnable},
                                   kControlMsixEnable | kControlBusMaster | kControlPowerD3}) {
    device_.on_function_control(bits);
    write32(spec::kMsiSend, 0);
  }
  EXPECT_THAT(fakes_.msi.sent, IsEmpty());
  device_.on_function_control(kControlMsixEnable | kControlBusMaster | kControlMsixMask);
  write32(spec::kMsiSend, 7);
  post(spec::kDoorbellMsi, 3);
  out(spec::kPortMsi, 5);
  write32(spec::kMsiSend, 8);
  EXPECT_THAT(fakes_.msi.sent, ElementsAre(7, 3, 5)) << "masks are the VMM's business; vector 8 is not there";
  device_.on_function_control(kControlMsiEnable | kControlBusMaster);
  write32(spec::kMsiSend, 4);
  write32(spec::kMsiSend, 3);
  EXPECT_THAT(fakes_.msi.sent, ElementsAre(7, 3, 5, 3));
  EXPECT_EQ(read32(spec::kMessagesSent), 4U);
  EXPECT_EQ(read32(spec::kControl), kControlMsiEnable | kControlBusMaster);
}

TEST_F(PciTestFunction, dma_copies_and_tells) {
  device_.on_function_control(kControlBusMaster);
  for (std::size_t i = 0; i < 70000; ++i) fakes_.memory.bytes[i] = static_cast<std::byte>(i * 7);
  copy(3, 0x20005, 65536, spec::kDmaCopy | spec::kDmaThenInterrupt);
  EXPECT_EQ(read32(spec::kDmaStatus), spec::kDmaDone);
  EXPECT_EQ(std::memcmp(&fakes_.memory.bytes[3], &fakes_.memory.bytes[0x20005], 65536), 0);
  EXPECT_EQ(fakes_.memory.bytes[0x20004], std::byte{0});
  EXPECT_EQ(fakes_.memory.bytes[0x20005 + 65536], std::byte{0});
  EXPECT_EQ(read32(spec::kDmaCount), 1U);
  EXPECT_EQ(read32(spec::kIntStatus), spec::kIntDma);
  EXPECT_TRUE(level());
}

TEST_F(PciTestFunction, dma_can_end_with_a_message) {
  device_.on_function_control(kControlBusMaster | kControlMsixEnable);
  copy(0, 0x1000, 4, spec::kDmaCopy | spec::kDmaThenMessage);
  EXPECT_THAT(fakes_.msi.sent, ElementsAre(0));
  EXPECT_FALSE(level());
}

TEST_F(PciTestFunction, dma_without_bus_mastering_touches_nothing) {
  fakes_.memory.bytes[0] = std::byte{1};
  copy(0, 0x1000, 16);
  EXPECT_EQ(read32(spec::kDmaStatus), spec::kDmaNoBusMaster);
  device_.on_function_control(kControlBusMaster | kControlPowerD3);
  copy(0, 0x1000, 16);
  EXPECT_EQ(read32(spec::kDmaStatus), spec::kDmaNoBusMaster);
  EXPECT_EQ(fakes_.memory.bytes[0x1000], std::byte{0});
  EXPECT_EQ(read32(spec::kDmaCount), 0U);
}

TEST_F(PciTestFunction, bad_copies_fail_with_their_reason_and_no_interrupt) {
  device_.on_function_control(kControlBusMaster);
  const auto status = [this](std::uint64_t from, std::uint64_t to, std::uint32_t length) {
    copy(from, to, length, spec::kDmaCopy | spec::kDmaThenInterrupt);
    return read32(spec::kDmaStatus);
  };
  EXPECT_EQ(status(0, 0x1000, 0), spec::kDmaBadLength);
  EXPECT_EQ(status(0, 0x20000, 65537), spec::kDmaBadLength);
  EXPECT_EQ(status(0, 0x20000, 0xffffffff), spec::kDmaBadLength);
  EXPECT_EQ(status(0x1000, 0x1000, 1), spec::kDmaOverlap);
  EXPECT_EQ(status(0x1000, 0x13ff, 1024), spec::kDmaOverlap);
  EXPECT_EQ(status(0x1000, 0x1400, 1024), spec::kDmaDone);
  write32(spec::kIntStatus, ~0U);
  EXPECT_EQ(status(0xffffffff'fffffff0, 0, 64), spec::kDmaFault);
  EXPECT_EQ(status(0, 0xffffffff'fffffff0, 64), spec::kDmaFault);
  EXPECT_EQ(status(256 * 1024 - 4, 0, 8), spec::kDmaFault);
  EXPECT_EQ(status(0, 256 * 1024 - 4, 8), spec::kDmaFault);
  EXPECT_FALSE(level());
  EXPECT_EQ(read32(spec::kDmaCount), 1U);
}

TEST_F(PciTestFunction, a_repeated_copy_leaves_what_one_does) {
  device_.on_function_control(kControlBusMaster);
  for (std::size_t i = 0; i < 8192; ++i) fakes_.memory.bytes[i] = static_cast<std::byte>(i);
  copy(0, 8192, 8192);
  const auto once = fakes_.memory.bytes;
  write32(spec::kDmaCommand, spec::kDmaCopy);
  EXPECT_EQ(fakes_.memory.bytes, once);
}

TEST_F(PciTestFunction, a_command_without_the_copy_bit_does_nothing) {
  copy(0, 0x1000, 4, spec::kDmaThenInterrupt);
  EXPECT_EQ(read32(spec::kDmaStatus), spec::kDmaIdle);
  EXPECT_FALSE(level());
}

TEST_F(PciTestFunction, time_is_taken_with_the_low_dword_and_kept) {
  fakes_.clock.advance(5'000'000'123ns);
  EXPECT_EQ(read64(spec::kTime), 5'000'000'123U);
  fakes_.clock.advance(1s);
  EXPECT_EQ(read64(spec::kLastTime), 5'000'000'123U);
  const std::uint32_t low = read32(spec::kTime);
  fakes_.clock.advance(10s);
  EXPECT_EQ((std::uint64_t{read32(spec::kTime + 4)} << 32) | low, 6'000'000'123U);
}

TEST_F(PciTestFunction, timer_fires_once_at_its_deadline) {
  fakes_.clock.advance(1ms);
  write32(spec::kTimerDelay, 500'000);
  EXPECT_EQ(read64(spec::kTimerDeadline), 1'500'000U);
  fakes_.clock.advance(499'999ns);
  EXPECT_FALSE(level());
  fakes_.clock.advance(1ns);
  EXPECT_TRUE(level());
  EXPECT_EQ(read32(spec::kIntStatus), spec::kIntTimer);
  EXPECT_EQ(read32(spec::kTimerFired), 1U);
  EXPECT_EQ(read64(spec::kTimerDeadline), 0U);
  fakes_.clock.advance(10s);
  EXPECT_EQ(read32(spec::kTimerFired), 1U);
}

TEST_F(PciTestFunction, timer_can_send_a_message) {
  device_.on_function_control(kControlBusMaster | kControlMsixEnable);
  write64(spec::kTimerDelay, 0x80000005'00000064);  // 100 ns, vector 5
  fakes_.clock.advance(100ns);
  EXPECT_THAT(fakes_.msi.sent, ElementsAre(5));
}

TEST_F(PciTestFunction, timer_is_cancelled_by_0_and_moved_by_a_new_delay) {
  write32(spec::kTimerDelay, 100);
  write32(spec::kTimerDelay, 0);
  fakes_.clock.advance(1s);
  EXPECT_EQ(read32(spec::kTimerFired), 0U);
  write32(spec::kTimerDelay, 100);
  write32(spec::kTimerDelay, 1000);
  fakes_.clock.advance(999ns);
  EXPECT_EQ(read32(spec::kTimerFired), 0U);
  fakes_.clock.advance(1ns);
  EXPECT_EQ(read32(spec::kTimerFired), 1U);
}

TEST_F(PciTestFunction, a_timer_that_is_not_armed_does_not_fire) {
  device_.on_timer(0);
  device_.on_timer(9);
  EXPECT_EQ(read32(spec::kTimerFired), 0U);
  write32(spec::kTimerDelay, 1000);
  device_.on_timer(0);  // too early: a firing that was already under way
  EXPECT_EQ(read32(spec::kTimerFired), 0U);
  fakes_.clock.advance(1us);
  EXPECT_EQ(read32(spec::kTimerFired), 1U);
}

TEST_F(PciTestFunction, log_shows_the_order_of_accesses_to_all_bars) {
  write32(spec::kScratch, 0x11);
  post(0x20, 0x2222, 2);
  in(spec::kPortId, 4);
  EXPECT_EQ(read32(spec::kLogCount), 3U);
  EXPECT_EQ(read32(spec::kLog + 0), 0x00000104U);
  EXPECT_EQ(read32(spec::kLog + 4), spec::kScratch);
  EXPECT_EQ(read64(spec::kLog + 8), 0x11U);
  EXPECT_EQ(read64(spec::kLog + 16), 0x00000020'00010102ULL);
  EXPECT_EQ(read64(spec::kLog + 24), 0x2222U);
  EXPECT_EQ(read64(spec::kLog + 32), 0x0000003c'00020004ULL);
  EXPECT_EQ(read64(spec::kLog + 40), spec::kIdValue);
  EXPECT_EQ(read32(spec::kLogCount), 3U) << "reading the log is not logged";
}

TEST_F(PciTestFunction, log_keeps_the_last_64) {
  for (std::uint32_t i = 0; i < 100; ++i) post(0, i);
  EXPECT_EQ(read32(spec::kLogCount), 100U);
  for (std::uint32_t i = 36; i < 100; ++i) EXPECT_EQ(read64(spec::kLog + (i % 64) * spec::kLogEntrySize + 8), i);
}

TEST_F(PciTestFunction, log_can_be_stopped) {
  write32(spec::kLogControl, 0);
  post(0, 1);
  EXPECT_EQ(read32(spec::kLogCount), 0U);
  EXPECT_EQ(read32(spec::kAccesses), 1U);
  write32(spec::kLogControl, 1);
  post(0, 2);
  EXPECT_EQ(read32(spec::kLogCount), 1U);
}

TEST_F(PciTestFunction, ports_hold_at_every_width) {
  for (const std::uint8_t size : {1, 2, 4}) {
    for (std::uint64_t port = 0; port < 32; port += size) {
      out(port, 0x80a1b2c3U & static_cast<std::uint32_t>(all_ones(size)), size);
      EXPECT_EQ(in(port, size), 0x80a1b2c3U & all_ones(size));
    }
  }
}

TEST_F(PciTestFunction, string_io_streams_bytes_in_order) {
  EXPECT_EQ(in(spec::kPortStream, 1), 0x00U);
  EXPECT_EQ(in(spec::kPortStream, 2), 0x0201U);
  EXPECT_EQ(in(spec::kPortStream, 4), 0x06050403U);
  EXPECT_EQ(in(spec::kPortStreamIn), 7U);
  out(spec::kPortStream, 'f', 1);
  out(spec::kPortStream, 'o' | 'o' << 8, 2);
  out(spec::kPortStream, 'b' | 'a' << 8 | 'r' << 16 | '!' << 24, 4);
  EXPECT_EQ(in(spec::kPortStreamOut), 7U);
  std::uint32_t hash = 0x811c9dc5;
  for (const char c : std::string_view("foobar!")) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x01000193;
  EXPECT_EQ(in(spec::kPortStreamHash), hash);
}

TEST(PciTestCommit, one_access_commits_the_state_and_a_quarter_of_the_log) {
  TakeOverAllocator state;
  FakeWires fakes({.lines = 1});
  PciTest device(PciTestStorage::allocate(state), fakes.lines[0], fakes.msi, fakes.memory, fakes.clock, fakes.clock);
  device.reset();
  state.commit();
  device.read({kPciTestPorts, spec::kPortCounter, 4});
  EXPECT_EQ(state.dirty_bytes(), sizeof(PciTestState) + sizeof(PciTestLogPart));
  state.commit();
  device.read({kPciTestRegisters, spec::kLog, 8});
  EXPECT_EQ(state.dirty_bytes(), 0U);
}

TEST_F(PciTestFunction, every_offset_and_width_is_answered) {
  device_.on_function_control(kControlBusMaster | kControlMsixEnable);
  for (RegionIndex region = 0; region < 3; ++region) {
    const RegionSpec& spec = device_.regions()[region];
    for (const std::uint8_t size : {1, 2, 4, 8}) {
      if ((spec.sizes & size) == 0) continue;
      for (std::uint64_t offset = 0; offset + size <= spec.length; ++offset) {
        const auto value = device_.read({region, offset, size});
        if (value) {
          EXPECT_EQ(*value & ~all_ones(size), 0U) << region << " " << offset;
        }
        device_.write({region, offset, size}, all_ones(size));
        device_.write({region, offset, size}, 0);
      }
    }
  }
  EXPECT_EQ(device_.read({3, 0, 4}), std::nullopt);
  EXPECT_FALSE(device_.write({3, 0, 4}, 0));
}

TEST_F(PciTestFunction, reset_lowers_the_line_cancels_the_timer_and_clears_all) {
  const auto fresh = state_bytes();
  device_.on_function_control(kControlBusMaster | kControlMsixEnable);
  device_.on_function_control(kControlBusMaster);
  write32(spec::kIntRaise, 1);
  write32(spec::kTimerDelay, 100);
  post(0, 5);
  EXPECT_TRUE(level());
  device_.reset();
  EXPECT_FALSE(level());
  EXPECT_FALSE(fakes_.clock.armed(0));
  EXPECT_EQ(state_bytes(), fresh);
  device_.reset();
  EXPECT_EQ(state_bytes(), fresh);
}

TEST_F(PciTestFunction, restore_keeps_an_honest_state_and_drives_line_and_timer_again) {
  write32(spec::kIntRaise, 1);
  write32(spec::kTimerDelay, 4'000'000'000);
  const auto before = state_bytes();
  fakes_.lines[0].level = false;
  fakes_.clock.cancel(0);
  device_.restore();
  EXPECT_EQ(state_bytes(), before);
  EXPECT_TRUE(level());
  EXPECT_EQ(fakes_.clock.deadline(0), (VmTime{4'000'000'000}));
}

TEST_F(PciTestFunction, random_state_is_brought_into_range_and_works) {
  std::mt19937_64 random(17);
  for (int round = 0; round < 300; ++round) {
    for (std::size_t i = 0; i < fakes_.state.count(); ++i) {
      for (std::byte& b : fakes_.state.bytes(i)) b = static_cast<std::byte>(random());
    }
    device_.restore();
    const auto once = state_bytes();
    device_.restore();
    ASSERT_EQ(state_bytes(), once);
    ASSERT_EQ(read32(spec::kControl) & ~std::uint32_t{kControlAll}, 0U);
    if (fakes_.clock.armed(0)) {
      ASSERT_LE(fakes_.clock.deadline(0)->ns - fakes_.clock.now().ns, std::int64_t{UINT32_MAX});
    }
    for (int i = 0; i < 100; ++i) {
      const auto region = static_cast<RegionIndex>(random() % 3);
      const std::uint8_t size = std::array<std::uint8_t, 4>{1, 2, 4, 8}[random() % (region == 2 ? 3 : 4)];
      const std::uint64_t offset = random() % (device_.regions()[region].length - size + 1);
      device_.read({region, offset, size});
      device_.write({region, offset, size}, random() & all_ones(size));
    }
    fakes_.clock.advance(5s);
    ASSERT_FALSE(fakes_.clock.armed(0));
  }
  EXPECT_FALSE(fakes_.clock.storm);
}

TEST_F(PciTestFunction, inspect_shows_counters_and_changes_nothing) {
  class Sum final : public Inspector {
   public:
    void field(std::string_view, std::uint64_t) override { ++fields; }
    int fields = 0;
  };
  const auto before = state_bytes();
  Sum sum;
  device_.inspect(sum);
  EXPECT_GE(sum.fields, 5);
  EXPECT_EQ(state_bytes(), before);
}

}  // namespace
}  // namespace bulkhead::devproc
