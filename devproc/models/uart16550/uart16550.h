// Uart16550: a serial port.
//
// Chip:        PC16550D, universal asynchronous receiver/transmitter with FIFOs
// Document:    National Semiconductor PC16550D data sheet, June 1995, section 8
// Implemented: all registers; 16450 and FIFO mode; both FIFOs, 16 deep; trigger levels 1, 4, 8, 14; the
//              four interrupt priorities; loopback with modem lines; overrun; character timeout
// Missing:     line speed (the divisor latch is kept and never used: bytes move as fast as the stream
//              takes them); parity, framing and break errors (a byte stream has none); a break is not
//              sent
// Timeout:     a timeout interrupt stands for "no further character for four character times". Without
//              line speed, what is in the stream has arrived and what is not there may never come, so
//              bytes below the trigger level are a timeout at once. No timer has to run while a guest
//              types.
// Flow:        bytes leave the stream only into room in the receiver, so none is lost by a slow guest.
//              When the stream takes no more, bytes stay in the transmitter and THRE and TEMT stay
//              clear until it does; a guest that writes without THRE loses the byte, as on the chip.
// Ignored:     FCR bit 3 (DMA mode: no DMA here) and bits 4-5; LCR bits 0-6; MCR OUT2 as the gate of
//              the PC's interrupt line (drivers that never set it are common); writes to LSR and MSR
// Wires:       line 0: INTR; stream 0: the line, both ways; timer 0: a line that must be seen low first
// Threading:   single-threaded
// Trust:       guest: any access; stream: any bytes
// Config:      {"uart16550", Uart16550Config{}} at port 3F8h with IRQ 4, or 2F8h with IRQ 3
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

#include "devproc/core/clock.h"
#include "devproc/core/device.h"
#include "devproc/core/persistent.h"
#include "devproc/core/wires.h"
#include "devproc/models/common/byte_fifo.h"
#include "devproc/models/uart16550/spec.h"

namespace bulkhead::devproc {

struct Uart16550State {
  std::uint16_t divisor = uart16550::kPowerOnDivisor;
  std::uint8_t ier = 0;
  std::uint8_t fcr = 0;  // kFcrKept
  std::uint8_t lcr = 0;
  std::uint8_t mcr = 0;
  std::uint8_t scr = 0;
  std::uint8_t msr_delta = 0;      // kMsrDelta; bits 4-7 follow from the MCR
  std::uint8_t overrun = 0;        // LSR OE
  std::uint8_t last_received = 0;  // what an empty receiver reads as
  std::uint8_t thre_pending = 0;   // the THRE interrupt, until the IIR is read or the THR written
  std::uint8_t thre_deferred = 0;  // thre_pending comes with timer 0
  std::uint32_t tx_overruns = 0;   // bytes written to a full transmitter
  ByteFifo<uart16550::kFifoDepth> rx;
  ByteFifo<uart16550::kFifoDepth> tx;

  bool operator==(const Uart16550State&) const = default;
};
static_assert(std::has_unique_object_representations_v<Uart16550State>, "no hidden padding");

class Uart16550 final : public Device {
 public:
  using State = Uart16550State;
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::uint16_t kLines = 1;    // INTR
  static constexpr std::uint16_t kStreams = 1;  // SOUT out, SIN in
  static constexpr std::uint16_t kTimers = 1;   // kTimerSettle
  static constexpr TimerId kTimerSettle = 0;

  Uart16550(Persistent<State> state, IrqLine& interrupt, CharBackend& stream, Clock& clock, TimerQueue& timers)
      : state_(state), interrupt_(interrupt), stream_(stream), clock_(clock), timers_(timers) {}

  [[nodiscard]] std::string_view name() const override { return "uart16550"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  void on_timer(TimerId timer) override;
  void on_stream(StreamId stream) override;
  void inspect(Inspector& inspector) const override;

 private:
  [[nodiscard]] bool fifo_mode() const { return (state_->fcr & uart16550::kFcrEnable) != 0; }
  [[nodiscard]] bool loopback() const { return (state_->mcr & uart16550::kMcrLoop) != 0; }
  [[nodiscard]] std::uint8_t depth() const { return fifo_mode() ? uart16550::kFifoDepth : 1; }
  [[nodiscard]] std::uint8_t modem_lines() const;
  [[nodiscard]] std::uint8_t interrupt_id() const;
  [[nodiscard]] std::uint8_t lsr() const;

  std::uint8_t read_rbr();
  std::uint8_t read_iir();
  std::uint8_t read_lsr();
  std::uint8_t read_msr();
  void write_thr(std::uint8_t value);
  void write_ier(std::uint8_t value);
  void write_fcr(std::uint8_t value);
  void write_mcr(std::uint8_t value);

  void receive(std::uint8_t byte);
  void fill_receiver();
  void drain_transmitter();
  void settle_later();
  void update_irq();

  Persistent<State> state_;
  IrqLine& interrupt_;
  CharBackend& stream_;
  Clock& clock_;
  TimerQueue& timers_;
};

}  // namespace bulkhead::devproc
