// E1000: the Intel 82540EM gigabit Ethernet controller, over one frame backend.
//
// Document: SDM (spec.h). Registers, descriptors: spec.h; committed state: state.h; EEPROM: eeprom.h; PHY: phy.h;
// filtering: receive_filter.h; offloads of transmission: transmit_offload.h.
// Implemented: everything that drivers use of BAR 0 and the I/O window: EEPROM by EERD and by its pins, PHY by MDIC,
//   legacy, data and context descriptors, checksum and segmentation offload (made by the backend where it can, else
//   here), checksums of received frames, VLAN tags and filter, address filters, interrupt throttling and delays,
//   statistics, loopback, reset with the EEPROM's auto-load. INTx, without MSI: that of the 82540EM is not usable.
// Missing: wake-up, PAUSE frames (registers are there), the packet buffer and FIFOs for diagnosis (likewise), flash,
//   manageability, TBI. No descriptor is kept back: thresholds and delays of RXDCTL and TXDCTL write-backs are ignored.
//   A packet is taken from the transmit ring when all of it is there.
// A frame that finds no receive descriptor waits in the backend, as in a larger packet buffer. What a limit holds back
//   waits there, or in the transmit ring; segments that are made here pass one by one.
// What is written back to a descriptor goes through a GuestPublisher: drivers use descriptors again as soon as they see
//   it, so a successor must not write it twice, and cannot tell from memory.
// Units: bytes. Threading: single-threaded. Trust: registers, rings and buffers are the guest's, received frames the
//   network's: hostile both.
// Config: E1000Config{.nic = {.mac = {0x52, 0x54, 0, 0, 0, 1}}}
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "devproc/core/clock.h"
#include "devproc/core/device.h"
#include "devproc/core/frame_backend.h"
#include "devproc/core/frame_header.h"
#include "devproc/core/guest_memory.h"
#include "devproc/core/limited_frames.h"
#include "devproc/core/wires.h"
#include "devproc/models/e1000/state.h"
#include "devproc/models/e1000/transmit_offload.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

class E1000 final : public Device {
 public:
  static constexpr std::uint32_t kStateVersion = 2;
  // Bounds of one input's work on one ring.
  static constexpr unsigned kMostFrames = 64;
  static constexpr std::uint64_t kMostBytes = 262'144;
  static constexpr std::size_t kMostDescriptors = 96;  // of one packet
  static constexpr std::size_t kMostSegments = 1024;   // that are made here

  E1000(const E1000Storage& storage, const E1000Config& config, IrqLine& intx, GuestMemory& memory,
        GuestPublisher& publisher, FrameBackend& frames, Clock& clock, TimerQueue& timers);

  [[nodiscard]] std::string_view name() const override { return "e1000"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override;
  std::optional<std::uint64_t> read(const Access& access) override;
  bool write(const Access& access, std::uint64_t value) override;
  void reset() override;
  void restore() override;
  void on_timer(TimerId timer) override;
  bool on_backend(BackendId backend) override;
  bool on_limit(LimitId which, const RateLimit& limit) override { return limits_.set(which, limit); }
  void on_backend_poisoned(BackendId backend) override;
  void on_function_control(std::uint32_t bits) override;
  void inspect(Inspector& inspector) const override;

 private:
  using Counter = std::uint64_t E1000Counters::*;
  enum class Receiving : std::uint8_t { kTaken, kDropped, kNoBuffers, kNoRoom };
  enum class Sending : std::uint8_t {
    kDone,
    kFull,
    kMore,  // the rest of its segments is for the next input
    kBad,
  };

  // registers.cc
  [[nodiscard]] std::uint32_t read_register(std::uint32_t offset);
  bool write_register(std::uint32_t offset, std::uint32_t value);
  bool write_interrupt_register(std::uint32_t offset, std::uint32_t value);
  bool write_ring_register(std::uint32_t offset, std::uint32_t value);
  bool write_table(std::uint32_t offset, std::uint32_t value);
  void write_plain(std::size_t index, std::uint32_t value);
  void write_ctrl(std::uint32_t value);
  void write_mdic(std::uint32_t value);
  [[nodiscard]] std::optional<std::uint32_t> read_table(std::uint32_t offset) const;
  [[nodiscard]] std::uint32_t read_statistic(std::uint32_t offset);
  [[nodiscard]] std::uint32_t read_mdic() const;
  [[nodiscard]] std::uint32_t status() const;
  void device_reset();
  [[nodiscard]] std::uint32_t plain(std::uint32_t offset) const;

  // e1000.cc
  [[nodiscard]] bool may_work() const;
  [[nodiscard]] bool loops_back() const;
  // Whoever is behind makes checksums and segments.
  [[nodiscard]] bool backend_offloads() const {
    return config_.nic.offloads && frames_.takes_offloads() && !loops_back();
  }
  void update_link(bool renewed);
  void want_frames();
  void count(Counter counter, std::uint64_t by = 1) { state_.mut().counters.*counter += by; }
  void count_statistic(std::uint32_t offset, std::uint64_t by = 1);
  void count_statistic_64(std::uint32_t offset, std::uint64_t by);
  // `kinds`: the statistics' offsets for broadcasts and multicasts, `sizes` for frames of 64 bytes.
  void count_frame(std::span<const std::byte> frame, std::size_t size, std::uint32_t broadcasts,
                   std::uint32_t multicasts, std::uint32_t sizes);

  // interrupts.cc
  void raise(std::uint32_t causes);
  void update_line();
  void delay_receive_interrupt(std::size_t size);
  void delay_transmit_interrupt(bool at_once);
  void receive_interrupt();
  void transmit_interrupt();
  void arm_timers();

  // receive.cc
  bool receive();
  [[nodiscard]] bool may_receive() const;
  Receiving take(std::span<const std::byte> frame);
  Receiving deliver(std::size_t size, std::uint64_t last_rest);
  [[nodiscard]] std::uint64_t judge_checksums(std::span<const std::byte> frame, bool known_good) const;

  // transmit.cc
  bool transmit();
  void transmit_later();
  // The packet at TDH: true when all of it is in packet_, or too much.
  bool gather();
  Sending send_packet();
  [[nodiscard]] bool read_packet(std::size_t bytes);
  Sending put_out(std::span<std::byte> frame, const FrameHeader& header);
  Sending send_segments(std::span<std::byte> frame, const TransmitContext& context, std::uint8_t popts);
  void complete_packet();
  void take_context(const e1000_spec::Descriptor& descriptor);

  Persistent<E1000State> state_;
  Persistent<E1000Setup> setup_;
  Persistent<E1000Filter> filter_;
  E1000Config config_;
  IrqLine& intx_;
  GuestMemory& memory_;
  GuestPublisher& publisher_;
  LimitedFrames limits_;
  FrameBackend& frames_;  // that of limits_
  Clock& clock_;
  TimerQueue& timers_;

  // Scratch of one call.
  std::array<e1000_spec::Descriptor, kMostDescriptors> packet_{};
  std::size_t packet_size_ = 0;  // descriptors
  bool packet_whole_ = false;    // its end was found
  static constexpr std::size_t kHeadroom = kFrameHeader + e1000_spec::kVlanTag;
  std::unique_ptr<std::array<std::byte, kHeadroom + kMostFrame>> sent_;     // a packet, as the driver gave it
  std::unique_ptr<std::array<std::byte, kHeadroom + kMostFrame>> segment_;  // one of its segments
  std::unique_ptr<std::array<std::byte, e1000_spec::kMostLong + 64>> received_;
};

// The index of a plain register's value.
[[nodiscard]] constexpr std::size_t e1000_plain_index(std::uint32_t offset) {
  std::size_t index = 0;
  while (index < kE1000Plain.size() && kE1000Plain[index].offset != offset) ++index;
  return index;
}

inline std::uint32_t E1000::plain(std::uint32_t offset) const { return setup_->plain[e1000_plain_index(offset)]; }

}  // namespace bulkhead::devproc
