#include "devproc/models/uart16550/uart16550.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/fakes/fake_wires.h"
#include "tests/fakes/register_access.h"

namespace bulkhead::devproc {
namespace {

using namespace uart16550;
using namespace std::chrono_literals;

class Uart16550Test : public ::testing::Test {
 protected:
  Uart16550Test() {
    fakes.clock.attach(uart);
    uart.reset();
  }
  std::uint8_t in(std::uint64_t offset) { return static_cast<std::uint8_t>(regs.in(offset)); }
  void out(std::uint64_t offset, std::uint8_t value) { EXPECT_TRUE(regs.out(offset, value)); }
  // Timers that are due at once, as the host fires them between two accesses.
  void settle() { fakes.clock.advance(0ns); }
  void type(std::string_view text) {
    stream.feed(text);
    uart.on_stream(0);
  }
  void enable_fifo(std::uint8_t trigger = 0) { out(kFcr, kFcrEnable | trigger); }
  std::string receive_all() {
    std::string text;
    for (int i = 0; i < 100'000; ++i) {
      if ((in(kLsr)&kLsrDr) == 0) {
        settle();
        if ((in(kLsr)&kLsrDr) == 0) break;
      }
      text.push_back(static_cast<char>(in(kRbr)));
    }
    return text;
  }

  FakeWires fakes{{.lines = 1, .streams = 1}};
  FakeIrqLine& line = fakes.lines[0];
  FakeCharBackend& stream = fakes.streams[0];
  Persistent<Uart16550State> state = allocate_state<Uart16550State>(fakes.state);
  Uart16550 uart{state, line, stream, fakes.clock, fakes.clock};
  RegisterAccess regs{uart, fakes};
};

// --- what Linux's 8250 driver does to find out what it has ---

TEST_F(Uart16550Test, linux_autoconfig_finds_an_8250_by_its_interrupt_enables) {
  out(kIer, 0);
  EXPECT_EQ(in(kIer)&0x0f, 0);
  out(kIer, 0x0f);
  EXPECT_EQ(in(kIer)&0x0f, 0x0f);
  out(kIer, 0);
}

TEST_F(Uart16550Test, linux_autoconfig_sees_modem_lines_in_loopback) {
  out(kMcr, kMcrLoop | kMcrOut2 | kMcrRts);
  EXPECT_EQ(in(kMsr)&0xf0, kMsrDcd | kMsrCts);
  out(kMcr, 0);
}

TEST_F(Uart16550Test, linux_autoconfig_finds_a_16550a_and_nothing_newer) {
  out(kLcr, 0xbf);
  out(kFcr, 0);
  out(kLcr, 0);
  out(kFcr, kFcrEnable);
  EXPECT_EQ(in(kIir) >> 6, 3) << "16550A";
  out(kLcr, 0x80);
  EXPECT_NE(in(kIir), 0) << "no 16C650, whose EFR is here";
  out(kLcr, 0xbf);
  EXPECT_NE(in(kIir), 0) << "no EFR behind LCR = BFh either";
  out(kLcr, 0);
  const std::uint8_t mcr = in(kMcr);
  out(kLcr, 0xe0);
  EXPECT_EQ((in(kIir) ^ mcr) & kMcrLoop, 0) << "no National Semiconductor bank switch";
  out(kLcr, 0);
  out(kFcr, kFcrEnable | 0x20);
  EXPECT_EQ(in(kIir) >> 5, 6) << "no 64-byte FIFO of a TI16750";
  out(kLcr, 0x80);
  out(kFcr, kFcrEnable | 0x20);
  EXPECT_EQ(in(kIir) >> 5, 6);
  out(kLcr, 0);
  out(kIer, 0x40);
  EXPECT_EQ(in(kIer)&0x40, 0) << "no XScale unit enable";
}

TEST_F(Uart16550Test, linux_size_fifo_counts_sixteen) {
  out(kLcr, 0);
  out(kFcr, kFcrEnable | kFcrResetRx | kFcrResetTx);
  out(kMcr, kMcrLoop);
  out(kLcr, 0x80);
  out(kDll, 1);
  out(kDlm, 0);
  out(kLcr, 0x03);
  for (int i = 0; i < 256; ++i) out(kThr, static_cast<std::uint8_t>(i));
  int count = 0;
  for (; (in(kLsr)&kLsrDr) != 0 && count < 256; ++count) EXPECT_EQ(in(kRbr), count);
  EXPECT_EQ(count, 16);
  EXPECT_EQ(stream.output, "") << "loopback is not heard outside";
}

TEST_F(Uart16550Test, linux_startup_finds_no_thre_bug) {
  out(kIer, kIerEtbei);
  const std::uint8_t first = in(kIir);
  out(kIer, 0);
  out(kIer, kIerEtbei);
  const std::uint8_t second = in(kIir);
  out(kIer, 0);
  EXPECT_EQ(first & kIirNone, 0);
  EXPECT_EQ(second & kIirNone, 0) << "UART_BUG_THRE";
}

TEST_F(Uart16550Test, linux_startup_finds_no_txen_bug) {
  out(kIer, kIerEtbei);
  EXPECT_NE(in(kLsr)&kLsrTemt, 0);
  EXPECT_EQ(in(kIir)&kIirNone, 0) << "UART_BUG_TXEN";
}

// --- transmitter ---

TEST_F(Uart16550Test, a_written_byte_leaves_at_once) {
  out(kThr, 'A');
  EXPECT_EQ(stream.output, "A");
  EXPECT_EQ(in(kLsr), kLsrThre | kLsrTemt);
}

TEST_F(Uart16550Test, a_full_stream_keeps_thre_and_temt_clear) {
  stream.room_left = 0;
  out(kThr, 'A');
  EXPECT_EQ(in(kLsr) & (kLsrThre | kLsrTemt), 0);
  stream.room_left = 1;
  uart.on_stream(0);
  EXPECT_EQ(stream.output, "A");
  EXPECT_EQ(in(kLsr), kLsrThre | kLsrTemt);
}

TEST_F(Uart16550Test, a_guest_that_waits_for_thre_loses_nothing) {
  enable_fifo();
  stream.room_left = 0;
  std::string sent;
  std::uint8_t next = 0;
  for (int round = 0; round < 1000; ++round) {
    if ((in(kLsr)&kLsrThre) != 0) {
      for (int i = 0; i < 16; ++i) {
        sent.push_back(static_cast<char>(next));
        out(kThr, next++);
      }
    }
    stream.room_left += static_cast<std::size_t>(round % 3);
    uart.on_stream(0);
  }
  stream.room_left = 100;
  uart.on_stream(0);
  EXPECT_GT(sent.size(), 500U);
  EXPECT_EQ(stream.output, sent);
}

TEST_F(Uart16550Test, transmitter_has_room_for_sixteen_in_fifo_mode) {
  enable_fifo();
  stream.room_left = 0;
  for (int i = 0; i < 20; ++i) out(kThr, static_cast<std::uint8_t>('a' + i));
  stream.room_left = 100;
  uart.on_stream(0);
  EXPECT_EQ(stream.output, "abcdefghijklmnop");
  EXPECT_EQ(state->tx_overruns, 4U);
}

TEST_F(Uart16550Test, transmitter_has_room_for_one_in_16450_mode) {
  stream.room_left = 0;
  out(kThr, 'a');
  out(kThr, 'b');
  stream.room_left = 100;
  uart.on_stream(0);
  EXPECT_EQ(stream.output, "a");
}

TEST_F(Uart16550Test, iir_read_clears_thre_interrupt) {
  out(kIer, kIerEtbei);
  ASSERT_TRUE(line.level);
  EXPECT_EQ(in(kIir), kIirThrEmpty);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(in(kIir), kIirNone);
}

TEST_F(Uart16550Test, iir_read_of_a_higher_source_keeps_thre_interrupt) {
  out(kIer, kIerEtbei | kIerErbfi);
  type("x");
  EXPECT_EQ(in(kIir), kIirDataAvailable);
  in(kRbr);
  EXPECT_EQ(in(kIir), kIirThrEmpty);
}

TEST_F(Uart16550Test, thr_write_raises_thre_interrupt_again) {
  out(kIer, kIerEtbei);
  in(kIir);
  out(kThr, 'A');
  EXPECT_TRUE(line.level);
  EXPECT_EQ(line.rises, 2);
}

TEST_F(Uart16550Test, thre_interrupt_comes_when_a_stalled_byte_leaves) {
  stream.room_left = 0;
  out(kIer, kIerEtbei);
  in(kIir);
  out(kThr, 'A');
  EXPECT_FALSE(line.level);
  stream.room_left = 1;
  uart.on_stream(0);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(in(kIir), kIirThrEmpty);
}

// A driver that answers the interrupt with a byte and never reads the IIR needs an edge for each byte.
TEST_F(Uart16550Test, thr_write_without_iir_read_makes_a_new_edge) {
  out(kIer, kIerEtbei);
  ASSERT_EQ(line.rises, 1);
  out(kThr, 'A');
  EXPECT_FALSE(line.level) << "low after this input, so that the next rise is seen";
  settle();
  EXPECT_TRUE(line.level);
  EXPECT_EQ(line.rises, 2);
}

TEST_F(Uart16550Test, enabling_thre_interrupt_while_a_byte_waits_does_not_raise_it) {
  stream.room_left = 0;
  out(kThr, 'A');
  out(kIer, kIerEtbei);
  EXPECT_FALSE(line.level);
}

// --- receiver ---

TEST_F(Uart16550Test, received_byte_sets_dr_and_interrupts) {
  out(kIer, kIerErbfi);
  type("Z");
  EXPECT_TRUE(line.level);
  EXPECT_EQ(in(kLsr)&kLsrDr, kLsrDr);
  EXPECT_EQ(in(kIir), kIirDataAvailable);
  EXPECT_EQ(in(kRbr), 'Z');
  EXPECT_FALSE(line.level);
  EXPECT_EQ(in(kLsr)&kLsrDr, 0);
}

TEST_F(Uart16550Test, empty_receiver_reads_its_last_byte) {
  type("Z");
  in(kRbr);
  EXPECT_EQ(in(kRbr), 'Z');
}

TEST_F(Uart16550Test, receiver_takes_only_what_it_has_room_for) {
  type("0123456789");
  EXPECT_EQ(stream.input.size(), 9U) << "16450 mode: one byte";
  enable_fifo();
  settle();
  EXPECT_EQ(stream.input.size(), 0U);
  type(std::string(100, 'x'));
  EXPECT_EQ(stream.input.size(), 100U - (16 - 9));
}

TEST_F(Uart16550Test, a_slow_guest_loses_nothing) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text.push_back(static_cast<char>(i * 7));
  for (const bool fifo : {false, true}) {
    uart.reset();
    if (fifo) enable_fifo(0xc0);
    type(text);
    EXPECT_EQ(receive_all(), text);
  }
}

TEST_F(Uart16550Test, each_byte_is_an_edge_in_16450_mode) {
  out(kIer, kIerErbfi);
  type("abc");
  std::string text;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(line.rises, i + 1);
    text.push_back(static_cast<char>(in(kRbr)));
    ASSERT_FALSE(line.level) << "one byte an interrupt: the line falls";
    settle();
  }
  EXPECT_EQ(text, "abc");
  EXPECT_FALSE(line.level);
}

TEST_F(Uart16550Test, each_fifo_batch_is_an_edge) {
  enable_fifo(0xc0);
  out(kIer, kIerErbfi);
  type(std::string(40, 'x'));
  int batches = 0;
  for (; line.level && batches < 10; ++batches) {
    while ((in(kLsr)&kLsrDr) != 0) in(kRbr);
    EXPECT_FALSE(line.level);
    settle();
  }
  EXPECT_EQ(batches, 3) << "16, 16 and 8 bytes";
}

TEST_F(Uart16550Test, trigger_level_decides_between_data_and_timeout) {
  for (int i = 0; i < 4; ++i) {
    uart.reset();
    enable_fifo(static_cast<std::uint8_t>(i << kFcrTriggerShift));
    out(kIer, kIerErbfi);
    const int level = kTriggerLevels[i];
    type(std::string(static_cast<std::size_t>(level), 'x'));
    EXPECT_EQ(in(kIir)&0x0f, kIirDataAvailable) << level;
    in(kRbr);
    if (level == 1) continue;
    EXPECT_EQ(in(kIir)&0x0f, kIirTimeout) << level;
    EXPECT_TRUE(line.level);
  }
}

TEST_F(Uart16550Test, one_byte_below_the_trigger_still_interrupts) {
  enable_fifo(0xc0);
  out(kIer, kIerErbfi);
  type("x");
  EXPECT_TRUE(line.level);
  EXPECT_EQ(in(kIir), kIirTimeout | kIirFifosEnabled);
}

TEST_F(Uart16550Test, fcr_reset_drops_received_bytes_and_takes_the_next) {
  enable_fifo();
  type("0123456789abcdefNEXT");
  out(kFcr, kFcrEnable | kFcrResetRx);
  EXPECT_EQ(in(kLsr)&kLsrDr, 0);
  settle();
  EXPECT_EQ(receive_all(), "NEXT");
}

TEST_F(Uart16550Test, switching_fifo_mode_clears_both_fifos) {
  enable_fifo();
  stream.room_left = 0;
  out(kThr, 'A');
  type("x");
  out(kFcr, 0);
  EXPECT_EQ(in(kLsr), kLsrThre | kLsrTemt);
  EXPECT_EQ(in(kIir), kIirNone);
}

TEST_F(Uart16550Test, fcr_bits_need_bit_0) {
  out(kFcr, 0xc0);
  EXPECT_EQ(state->fcr, 0);
}

// --- loopback ---

TEST_F(Uart16550Test, loopback_returns_the_byte_and_hides_the_stream) {
  out(kMcr, kMcrLoop);
  type("outside");
  out(kThr, 'L');
  EXPECT_EQ(in(kRbr), 'L');
  settle();
  EXPECT_EQ(in(kLsr)&kLsrDr, 0) << "the receiver is disconnected";
  out(kMcr, 0);
  settle();
  EXPECT_EQ(receive_all(), "outside");
  EXPECT_EQ(stream.output, "");
}

TEST_F(Uart16550Test, overrun_keeps_the_fifo_and_lsr_read_clears_it) {
  enable_fifo();
  out(kMcr, kMcrLoop);
  out(kIer, kIerElsi);
  for (int i = 0; i < 17; ++i) out(kThr, static_cast<std::uint8_t>(i));
  EXPECT_TRUE(line.level);
  EXPECT_EQ(in(kIir)&0x0f, kIirLineStatus);
  EXPECT_EQ(in(kLsr)&kLsrOe, kLsrOe);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(in(kLsr)&kLsrOe, 0);
  for (int i = 0; i < 16; ++i) EXPECT_EQ(in(kRbr), i);
  EXPECT_EQ(in(kLsr)&kLsrDr, 0);
}

TEST_F(Uart16550Test, overrun_replaces_the_byte_in_16450_mode) {
  out(kMcr, kMcrLoop);
  out(kThr, 1);
  out(kThr, 2);
  EXPECT_EQ(in(kLsr) & (kLsrDr | kLsrOe), kLsrDr | kLsrOe);
  EXPECT_EQ(in(kRbr), 2);
}

TEST_F(Uart16550Test, line_status_has_priority_over_data) {
  out(kIer, kIerMask);
  out(kMcr, kMcrLoop);
  out(kThr, 1);
  out(kThr, 2);
  EXPECT_EQ(in(kIir), kIirLineStatus);
  in(kLsr);
  EXPECT_EQ(in(kIir), kIirDataAvailable);
  in(kRbr);
  settle();
  EXPECT_EQ(in(kIir), kIirThrEmpty);
  EXPECT_EQ(in(kIir), kIirModemStatus);
  in(kMsr);
  EXPECT_EQ(in(kIir), kIirNone);
  EXPECT_FALSE(line.level);
}

// --- modem lines and the rest ---

TEST_F(Uart16550Test, somebody_is_connected) { EXPECT_EQ(in(kMsr), kMsrCts | kMsrDsr | kMsrDcd); }

TEST_F(Uart16550Test, modem_changes_interrupt_until_msr_is_read) {
  out(kMcr, kMcrLoop);
  in(kMsr);
  out(kIer, kIerEdssi);
  EXPECT_FALSE(line.level);
  out(kMcr, kMcrLoop | kMcrRts);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(in(kIir), kIirModemStatus);
  EXPECT_EQ(in(kMsr), kMsrCts | kMsrDcts);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(in(kMsr), kMsrCts);
}

TEST_F(Uart16550Test, ring_sets_teri_when_it_ends_only) {
  out(kMcr, kMcrLoop);
  in(kMsr);
  out(kMcr, kMcrLoop | kMcrOut1);
  EXPECT_EQ(in(kMsr), kMsrRi);
  out(kMcr, kMcrLoop);
  EXPECT_EQ(in(kMsr), kMsrTeri);
}

TEST_F(Uart16550Test, dlab_selects_the_divisor) {
  EXPECT_EQ(state->divisor, 12) << "9600 baud";
  out(kLcr, kLcrDlab);
  out(kDll, 0x34);
  out(kDlm, 0x12);
  EXPECT_EQ(in(kDll), 0x34);
  EXPECT_EQ(in(kDlm), 0x12);
  out(kLcr, 0x03);
  EXPECT_EQ(in(kIer), 0);
  EXPECT_EQ(stream.output, "");
}

TEST_F(Uart16550Test, scratch_and_line_control_keep_what_is_written) {
  for (const int value : {0x00, 0x5a, 0xa5, 0x7f}) {
    out(kScr, static_cast<std::uint8_t>(value));
    out(kLcr, static_cast<std::uint8_t>(value));
    EXPECT_EQ(in(kScr), value);
    EXPECT_EQ(in(kLcr), value);
  }
}

TEST_F(Uart16550Test, status_registers_take_no_writes) {
  out(kLsr, 0x1f);
  out(kMsr, 0x0f);
  EXPECT_EQ(in(kLsr), kLsrThre | kLsrTemt);
  EXPECT_EQ(in(kMsr), kMsrCts | kMsrDsr | kMsrDcd);
}

TEST_F(Uart16550Test, polling_an_idle_port_changes_no_state) {
  fakes.state.reset_dirty();
  for (const std::uint64_t offset : {kRbr, kIer, kIir, kLcr, kMcr, kLsr, kMsr, kScr}) in(offset);
  EXPECT_FALSE(state.segment().dirty);
}

TEST_F(Uart16550Test, restore_goes_on_in_the_middle_of_a_stalled_transfer) {
  enable_fifo();
  out(kIer, kIerEtbei);
  stream.room_left = 2;
  for (const char c : std::string_view("abcd")) out(kThr, static_cast<std::uint8_t>(c));
  Uart16550 successor{state, line, stream, fakes.clock, fakes.clock};
  fakes.clock.attach(successor);
  successor.restore();
  EXPECT_FALSE(line.level);
  stream.room_left = 10;
  successor.on_stream(0);
  EXPECT_EQ(stream.output, "abcd");
  EXPECT_TRUE(line.level);
}

TEST_F(Uart16550Test, restore_keeps_a_deferred_thre_interrupt) {
  out(kIer, kIerEtbei);
  out(kThr, 'A');
  fakes.clock.cancel(Uart16550::kTimerSettle);
  Uart16550 successor{state, line, stream, fakes.clock, fakes.clock};
  fakes.clock.attach(successor);
  successor.restore();
  settle();
  EXPECT_TRUE(line.level);
}

TEST_F(Uart16550Test, restore_brings_every_field_into_range) {
  std::ranges::fill(fakes.state.bytes(0), std::byte{0xff});
  uart.restore();
  EXPECT_EQ(state->ier, kIerMask);
  EXPECT_EQ(state->fcr, kFcrKept);
  EXPECT_EQ(state->mcr, kMcrMask);
  EXPECT_EQ(state->msr_delta, kMsrDelta);
  EXPECT_EQ(state->overrun, 1);
  EXPECT_EQ(state->rx.count, kFifoDepth);
  EXPECT_LT(state->rx.head, kFifoDepth);
  EXPECT_EQ(state->tx.count, kFifoDepth);
}

TEST_F(Uart16550Test, restore_leaves_one_byte_in_16450_mode) {
  std::ranges::fill(fakes.state.bytes(0), std::byte{0xfe});
  uart.restore();
  EXPECT_EQ(state->rx.count, 1);
  EXPECT_EQ(state->tx.count, 1);
}

}  // namespace
}  // namespace bulkhead::devproc
