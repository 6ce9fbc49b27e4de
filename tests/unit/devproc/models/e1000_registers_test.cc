// The 82540EM's registers: EEPROM, PHY, interrupts, statistics, reset; what a driver's own self-test looks at.
#include "tests/unit/devproc/models/e1000_rig.h"

namespace bulkhead::devproc {
namespace {

class E1000Registers : public E1000Rig {
 protected:
  // The EEPROM by its pins, as drivers have it.
  void pins(std::uint32_t value) { wr(kEecd, value); }
  void shift_out(std::uint32_t bits, unsigned count) {
    for (unsigned i = count; i-- > 0;) {
      const std::uint32_t di = (bits >> i & 1) != 0 ? kEecdDi : 0U;
      pins(kEecdCs | di);
      pins(kEecdCs | di | kEecdSk);
      pins(kEecdCs | di);
    }
  }
  std::uint16_t shift_in() {
    std::uint32_t value = 0;
    for (int i = 0; i < 16; ++i) {
      pins(kEecdCs | kEecdSk);
      value = value << 1 | ((rd(kEecd) & kEecdDo) != 0 ? 1 : 0);
      pins(kEecdCs);
    }
    return static_cast<std::uint16_t>(value);
  }
  std::uint16_t read_by_pins(std::uint32_t word) {
    pins(kEecdCs);
    shift_out(6, 3);
    shift_out(word, 6);
    const std::uint16_t value = shift_in();
    pins(0);
    return value;
  }
  std::uint16_t read_by_eerd(std::uint32_t word) {
    wr(kEerd, word << kEerdAddrShift | kEerdStart);
    EXPECT_NE(rd(kEerd) & kEerdDone, 0U);
    return static_cast<std::uint16_t>(rd(kEerd) >> kEerdDataShift);
  }
  std::uint16_t read_phy(std::uint32_t reg) {
    wr(kMdic, kMdicOpRead | kPhyAddress << kMdicPhyShift | reg << kMdicRegShift);
    const std::uint32_t mdic = rd(kMdic);
    EXPECT_EQ(mdic & (kMdicReady | kMdicError), kMdicReady);
    return static_cast<std::uint16_t>(mdic);
  }
  void write_phy(std::uint32_t reg, std::uint16_t value) {
    wr(kMdic, kMdicOpWrite | kPhyAddress << kMdicPhyShift | reg << kMdicRegShift | value);
  }
};

TEST_F(E1000Registers, eeprom_has_the_address_and_adds_up) {
  std::uint16_t sum = 0;
  for (std::uint32_t word = 0; word < kEepromWords; ++word) {
    EXPECT_EQ(read_by_pins(word), read_by_eerd(word)) << word;
    sum = static_cast<std::uint16_t>(sum + read_by_eerd(word));
  }
  EXPECT_EQ(sum, 0xbaba);
  EXPECT_EQ(read_by_eerd(0), 0x5452);
  EXPECT_EQ(read_by_eerd(2), 0x5634);
  EXPECT_EQ(read_by_eerd(kEepromDevice), 0x100e);
}

TEST_F(E1000Registers, eeprom_is_asked_for_and_granted) {
  wr(kEecd, kEecdReq);
  EXPECT_EQ(rd(kEecd) & (kEecdReq | kEecdGnt | kEecdPres), kEecdReq | kEecdGnt | kEecdPres);
  wr(kEecd, 0);
  EXPECT_EQ(rd(kEecd) & (kEecdReq | kEecdGnt), 0U);
}

TEST_F(E1000Registers, eeprom_is_written_when_that_was_enabled_only_and_outlives_resets) {
  const auto write_word = [&](std::uint16_t value) {
    pins(kEecdCs);
    shift_out(5, 3);
    shift_out(0x20, 6);
    shift_out(value, 16);
    pins(0);
  };
  write_word(0x1234);
  EXPECT_EQ(read_by_pins(0x20), 0);
  pins(kEecdCs);
  shift_out(4, 3);
  shift_out(0x30, 6);  // EWEN
  pins(0);
  write_word(0x1234);
  pins(kEecdCs);
  EXPECT_NE(rd(kEecd) & kEecdDo, 0U) << "not ready";
  pins(0);
  EXPECT_EQ(read_by_pins(0x20), 0x1234);
  device->reset();
  EXPECT_EQ(read_by_pins(0x20), 0x1234);
}

TEST_F(E1000Registers, a_read_goes_on_with_the_next_words) {
  pins(kEecdCs);
  shift_out(6, 3);
  shift_out(1, 6);
  const std::uint16_t first = shift_in();
  const std::uint16_t second = shift_in();
  EXPECT_EQ(first, read_by_eerd(1));
  EXPECT_EQ(second, read_by_eerd(2));
}

TEST_F(E1000Registers, phy_is_that_of_an_82540em_and_has_negotiated) {
  EXPECT_EQ(read_phy(kPhyId1), 0x0141);
  EXPECT_EQ(read_phy(kPhyId2) & 0xfff0, 0x0c20);
  EXPECT_EQ(read_phy(kPhyStatus) & 0x24, 0x24) << "linked and negotiated";
  EXPECT_EQ(read_phy(kPhySpecStatus) & 0xac00, 0xac00) << "1000 Mbit/s, full duplex, resolved, linked";
  wr(kMdic, kMdicOpRead | 2U << kMdicPhyShift);
  EXPECT_NE(rd(kMdic) & kMdicError, 0U) << "nobody at address 2";
}

TEST_F(E1000Registers, a_pulled_cable_is_seen_and_latched) {
  start();
  wr(kIms, kIntLsc);
  EXPECT_NE(rd(kStatus) & kStatusLu, 0U);
  fakes.frames[0].link_up = false;
  work();
  EXPECT_EQ(rd(kStatus) & kStatusLu, 0U);
  EXPECT_TRUE(line());
  EXPECT_EQ(rd(kIcr), kIntLsc);
  EXPECT_FALSE(line());
  fakes.frames[0].link_up = true;
  work();
  EXPECT_EQ(read_phy(kPhyStatus) & 4, 0) << "it was down since";
  EXPECT_EQ(read_phy(kPhyStatus) & 4, 4);
}

TEST_F(E1000Registers, negotiating_again_tells_of_the_link) {
  start();
  rd(kIcr);
  write_phy(kPhyControl, kPhyCtlAneg | kPhyCtlRestart | kPhyCtlDuplex);
  EXPECT_EQ(rd(kIcr) & kIntLsc, kIntLsc);
  write_phy(kPhy1000Control, 0);
  write_phy(kPhyAdvertise, 0x0061);
  EXPECT_EQ(rd(kStatus) >> kStatusSpeedShift & 3, 0U) << "10 Mbit/s is all that was advertised";
}

TEST_F(E1000Registers, causes_are_masked_read_and_cleared) {
  wr(kIcs, kIntTxdw | kIntLsc);
  EXPECT_FALSE(line());
  wr(kIms, kIntLsc);
  EXPECT_TRUE(line());
  wr(kIcr, kIntLsc);
  EXPECT_FALSE(line());
  wr(kIms, kIntTxdw);
  EXPECT_TRUE(line());
  EXPECT_EQ(rd(kIms), kIntTxdw | kIntLsc);
  wr(kImc, UINT32_MAX);
  EXPECT_FALSE(line());
  EXPECT_EQ(rd(kIcr), kIntTxdw);
  EXPECT_EQ(rd(kIcr), 0U);
}

TEST_F(E1000Registers, line_is_low_while_config_space_forbids_it) {
  wr(kIms, kIntLsc);
  wr(kIcs, kIntLsc);
  device->on_function_control(kControlMemoryEnable | kControlBusMaster | kControlIntxDisable);
  EXPECT_FALSE(line());
  device->on_function_control(kControlMemoryEnable | kControlBusMaster);
  EXPECT_TRUE(line());
}

TEST_F(E1000Registers, itr_spaces_interrupts) {
  wr(kItr, 1000);  // 256 us
  wr(kIms, kIntLsc);
  wr(kIcs, kIntLsc);
  EXPECT_TRUE(line());
  rd(kIcr);
  EXPECT_FALSE(line());
  wr(kIcs, kIntLsc);
  wr(kIcs, kIntLsc);
  EXPECT_FALSE(line());
  succeed();
  fakes.clock.advance(std::chrono::nanoseconds(255'999));
  EXPECT_FALSE(line());
  fakes.clock.advance(std::chrono::nanoseconds(1));
  EXPECT_TRUE(line());
  EXPECT_EQ(inspected("throttled"), 1U);
}

TEST_F(E1000Registers, io_window_reaches_every_register) {
  device->write({kE1000Ports, kIoAddr, 4}, kVet);
  EXPECT_EQ(device->read({kE1000Ports, kIoData, 4}), 0x8100U);
  device->write({kE1000Ports, kIoData, 4}, 0x88a8);
  EXPECT_EQ(rd(kVet), 0x88a8U);
  device->write({kE1000Ports, kIoAddr, 4}, 0x20000);
  EXPECT_EQ(device->read({kE1000Ports, kIoData, 4}), 0U);
  EXPECT_FALSE(device->write({kE1000Ports, kIoData, 4}, 1));
  EXPECT_FALSE(device->read({kE1000Ports, 8, 4}).has_value());
}

// What `ethtool -t` writes and expects back (Linux, e1000: reg_test).
TEST_F(E1000Registers, registers_keep_the_bits_that_the_self_test_of_linux_looks_at) {
  struct Case {
    std::uint32_t offset, mask, write;
  };
  std::vector<Case> cases{
      {kFcal, 0xffffffff, 0xffffffff},  {kFcah, 0xffff, 0xffffffff},      {kFct, 0xffff, 0xffffffff},
      {kVet, 0xffff, 0xffffffff},       {kRdtr, 0xffff, 0xffffffff},      {kRdbah, 0xffffffff, 0xffffffff},
      {kRdlen, 0xfff80, 0xfffff},       {kRdh, 0xffff, 0xffff},           {kRdt, 0xffff, 0xffff},
      {kFcrth, 0xfff8, 0xfff8},         {kFcttv, 0xffff, 0xffffffff},     {kTipg, 0x3fffffff, 0xffffffff},
      {kTdbah, 0xffffffff, 0xffffffff}, {kTdlen, 0xfff80, 0xfffff},       {kRdbal, 0xfffffff0, 0xffffffff},
      {kTxcw, 0xc000ffff, 0xffff},      {kTdbal, 0xfffffff0, 0xffffffff}, {kTidv, 0xffff, 0xffff}};
  for (std::uint32_t i = 0; i < 15; ++i) cases.push_back({kRa + 8 * i + 4, 0x8003ffff, 0xffffffff});
  for (std::uint32_t i = 0; i < kMtaSize; ++i) cases.push_back({kMta + 4 * i, 0xffffffff, 0xffffffff});
  for (const Case& one : cases) {
    for (const std::uint32_t pattern : {0x5a5a5a5aU, 0xa5a5a5a5U, 0U, 0xffffffffU}) {
      wr(one.offset, pattern & one.write);
      EXPECT_EQ(rd(one.offset), pattern & one.write & one.mask) << std::hex << one.offset;
    }
  }
  const std::uint32_t status = rd(kStatus);
  wr(kStatus, UINT32_MAX);
  EXPECT_EQ(rd(kStatus), status);
  wr(kRctl, 0x003ffffb & 0x06dfb3fe);
  EXPECT_EQ(rd(kRctl), 0x003ffffbU & 0x06dfb3fe);
}

TEST_F(E1000Registers, software_reset_keeps_the_phy_and_loads_the_address_again) {
  start();
  write_phy(kPhyAdvertise, 0x0061);
  wr(kRa, 0);
  wr(kRa + 4, 0);
  wr(kIms, kIntLsc);
  wr(kIcs, kIntLsc);
  wr(kCtrl, rd(kCtrl) | kCtrlRst);
  EXPECT_EQ(rd(kCtrl) & kCtrlRst, 0U);
  EXPECT_FALSE(line());
  EXPECT_EQ(rd(kIms), 0U);
  EXPECT_EQ(rd(kRctl), 0U);
  EXPECT_EQ(rd(kTdlen), 0U);
  EXPECT_EQ(rd(kRa), 0x12005452U);
  EXPECT_EQ(rd(kRa + 4), 0x80005634U);
  EXPECT_EQ(read_phy(kPhyAdvertise), 0x0061);
  wr(kCtrl, rd(kCtrl) | kCtrlPhyRst);
  EXPECT_EQ(read_phy(kPhyAdvertise), 0x0de1);
}

TEST_F(E1000Registers, statistics_clear_when_they_are_read) {
  start();
  arrive(frame_to(kRigMac, 100));
  arrive(frame_to(kRigMac, 600));
  EXPECT_EQ(rd(kGprc), 2U);
  EXPECT_EQ(rd(kGprc), 0U);
  EXPECT_EQ(rd(kPrc64 + 4), 1U);
  EXPECT_EQ(rd(kPrc64 + 16), 1U);
  EXPECT_EQ(rd(kGorcl), 708U);
  EXPECT_EQ(rd(kGorcl), 708U) << "the high half clears both";
  EXPECT_EQ(rd(kGorcl + 4), 0U);
  EXPECT_EQ(rd(kGorcl), 0U);
}

TEST_F(E1000Registers, narrow_and_odd_accesses) {
  EXPECT_EQ(device->read({kE1000Registers, kVet + 1, 1}), 0x81U);
  EXPECT_EQ(device->read({kE1000Registers, kVet, 2}), 0x8100U);
  EXPECT_FALSE(device->read({kE1000Registers, kVet + 3, 2}).has_value());
  EXPECT_FALSE(device->write({kE1000Registers, kVet, 2}, 0));
  EXPECT_EQ(rd(0x1fffc), 0U) << "no register reads zero";
}

}  // namespace
}  // namespace bulkhead::devproc
