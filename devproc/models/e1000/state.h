// What an E1000 commits, in segments by how often they change.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "devproc/core/limited_frames.h"
#include "devproc/core/persistent.h"
#include "devproc/models/e1000/eeprom.h"
#include "devproc/models/e1000/phy.h"
#include "devproc/models/e1000/receive_filter.h"
#include "devproc/models/e1000/spec.h"

namespace bulkhead::devproc {

// Since the VM began.
struct E1000Counters {
  std::uint64_t sent_frames = 0;  // as they went out: segments, unless the backend makes them
  std::uint64_t sent_bytes = 0;   // without headers of the backend, as all of these
  std::uint64_t received_frames = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t sent_bad = 0;  // dropped, as all that follow: offloads that make no sense, impossible lengths
  std::uint64_t sent_bad_memory = 0;
  std::uint64_t received_bad_header = 0;
  std::uint64_t received_bad_length = 0;
  std::uint64_t received_filtered = 0;
  std::uint64_t received_no_fit = 0;
  std::uint64_t received_bad_memory = 0;  // a part of it at least
  std::uint64_t throttled = 0;            // interrupts that ITR held back
  bool operator==(const E1000Counters&) const = default;
};

// RDBAL ... RDT, TDBAL ... TDT.
struct E1000Ring {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  std::uint32_t length = 0;  // bytes
  std::uint32_t head = 0;
  std::uint32_t tail = 0;

  [[nodiscard]] std::uint64_t base() const { return std::uint64_t{high} << 32 | low; }
  [[nodiscard]] std::uint32_t count() const {
    return length / static_cast<std::uint32_t>(sizeof(e1000_spec::Descriptor));
  }
  // A head or a tail beyond the ring: what a card does with those the SDM does not say; here it does nothing.
  [[nodiscard]] bool usable() const { return head < count() && tail < count(); }
  [[nodiscard]] bool empty() const { return !usable() || head == tail; }
  [[nodiscard]] std::uint32_t available() const { return empty() ? 0 : (tail + count() - head) % count(); }
  [[nodiscard]] std::uint32_t next(std::uint32_t index) const { return index + 1 < count() ? index + 1 : 0; }
  [[nodiscard]] std::uint64_t descriptor(std::uint32_t index) const {
    return base() + std::uint64_t{index} * sizeof(e1000_spec::Descriptor);
  }
  bool operator==(const E1000Ring&) const = default;
};

// What changes with frames and interrupts.
struct E1000State {
  E1000Counters counters;
  // VM time in ns; 0: not armed.
  std::int64_t throttled_until = 0;        // no new interrupt before
  std::int64_t receive_deadline = 0;       // RDTR
  std::int64_t receive_last = 0;           // RADV
  std::int64_t transmit_deadline = 0;      // TIDV
  std::int64_t transmit_last = 0;          // TADV
  std::array<std::uint64_t, 4> context{};  // the last context descriptor: for checksums; for segmentation
  E1000Ring receive;
  E1000Ring transmit;
  std::uint32_t icr = 0;
  std::uint32_t ims = 0;
  std::uint32_t segments_sent = 0;  // of the packet at TDH, whose rest waits for room
  std::uint8_t line = 0;            // INTx is asserted
  std::uint8_t dropping = 0;        // up to the end of a packet with too many descriptors
  std::uint8_t send_blocked = 0;    // the backend was full
  std::uint8_t starved = 0;         // a frame waits for descriptors
  std::uint8_t held_back = 0;       // INTx would be asserted, but for ITR
  std::array<std::uint8_t, 7> reserved{};
  std::array<std::uint32_t, e1000_spec::kStatisticsCount> statistics{};
  bool operator==(const E1000State&) const = default;
};
static_assert(std::has_unique_object_representations_v<E1000State>);

// Registers that the driver writes and reads back; their meaning is where they are read.
struct E1000PlainRegister {
  std::uint32_t offset;
  std::uint32_t mask;  // what can be written
  std::uint32_t reset;
};
inline constexpr std::array kE1000Plain = {
    E1000PlainRegister{e1000_spec::kCtrl, 0x7fff'ffff & ~e1000_spec::kCtrlRst, 0x0000'0201},  // full duplex, 1000
    E1000PlainRegister{e1000_spec::kCtrlExt, 0xffff'ffff & ~e1000_spec::kCtrlExtEeRst, 0},
    E1000PlainRegister{e1000_spec::kFcal, 0xffff'ffff, 0},
    E1000PlainRegister{e1000_spec::kFcah, 0xffff, 0},
    E1000PlainRegister{e1000_spec::kFct, 0xffff, 0},
    E1000PlainRegister{e1000_spec::kVet, 0xffff, 0x8100},
    E1000PlainRegister{e1000_spec::kItr, 0xffff, 0},
    E1000PlainRegister{e1000_spec::kRctl, e1000_spec::kRctlMask, 0},
    E1000PlainRegister{e1000_spec::kFcttv, 0xffff, 0},
    E1000PlainRegister{e1000_spec::kTxcw, 0xc000'ffff, 0},
    E1000PlainRegister{e1000_spec::kTctl, 0x01ff'fffa, 0},
    E1000PlainRegister{e1000_spec::kTipg, 0x3fff'ffff, 0x0060'2008},
    E1000PlainRegister{e1000_spec::kAit, 0xffff, 0},
    E1000PlainRegister{e1000_spec::kLedctl, 0xcfcf'cfcf, 0x0706'8302},
    E1000PlainRegister{e1000_spec::kPba, 0x7f, 0x30},
    E1000PlainRegister{e1000_spec::kFcrtl, 0x8000'fff8, 0},
    E1000PlainRegister{e1000_spec::kFcrth, 0x0000'fff8, 0},
    E1000PlainRegister{e1000_spec::kRdfh, 0x1fff, 0},
    E1000PlainRegister{e1000_spec::kRdft, 0x1fff, 0},
    E1000PlainRegister{e1000_spec::kRdfhs, 0x1fff, 0},
    E1000PlainRegister{e1000_spec::kRdfts, 0x1fff, 0},
    E1000PlainRegister{e1000_spec::kRdfpc, 0x1fff, 0},
    E1000PlainRegister{e1000_spec::kRdtr, e1000_spec::kDelayMask, 0},
    E1000PlainRegister{e1000_spec::kRxdctl, 0x013f'3f3f, 0x0001'0000},
    E1000PlainRegister{e1000_spec::kRadv, e1000_spec::kDelayMask, 0},
    E1000PlainRegister{e1000_spec::kRsrpd, 0xfff, 0},
    E1000PlainRegister{e1000_spec::kTxdmac, 1, 0},
    E1000PlainRegister{e1000_spec::kTdfh, 0x7ff, 0},
    E1000PlainRegister{e1000_spec::kTdft, 0x7ff, 0},
    E1000PlainRegister{e1000_spec::kTdfhs, 0x7ff, 0},
    E1000PlainRegister{e1000_spec::kTdfts, 0x7ff, 0},
    E1000PlainRegister{e1000_spec::kTdfpc, 0x7ff, 0},
    E1000PlainRegister{e1000_spec::kTidv, e1000_spec::kDelayMask, 0},
    E1000PlainRegister{e1000_spec::kTxdctl, 0xff3f'3f3f, 0},
    E1000PlainRegister{e1000_spec::kTadv, e1000_spec::kDelayMask, 0},
    E1000PlainRegister{e1000_spec::kTspmt, 0xffff'ffff, 0x0100'0400},
    E1000PlainRegister{e1000_spec::kRxcsum, 0x7ff, 0},
    E1000PlainRegister{e1000_spec::kWuc, 0xf, 0},
    E1000PlainRegister{e1000_spec::kWufc, 0x000f'80ff, 0},
    E1000PlainRegister{e1000_spec::kManc, 0xffff'ffff, 0},
    E1000PlainRegister{e1000_spec::kIpav, 0x0001'000f, 0},
};

// What drivers set up and leave alone.
struct E1000Setup {
  std::array<std::uint32_t, kE1000Plain.size()> plain{};
  std::uint32_t control = 0;  // FunctionControl bits
  std::uint32_t io_address = 0;
  std::uint32_t eerd = 0;
  std::uint32_t mdic = 0;
  E1000Phy phy;
  E1000Eeprom eeprom;
  bool operator==(const E1000Setup&) const = default;
};

// What E1000 commits; for the registry, which allocates it.
struct E1000Storage {
  Persistent<E1000State> state;
  Persistent<E1000Setup> setup;
  Persistent<E1000Filter> filter;
  LimitedFramesStorage limits;

  [[nodiscard]] static E1000Storage allocate(StateAllocator& allocator) {
    const auto state = allocate_state<E1000State>(allocator);
    const auto setup = allocate_state<E1000Setup>(allocator);
    const auto filter = allocate_state<E1000Filter>(allocator);
    return {state, setup, filter, LimitedFramesStorage::allocate(allocator)};
  }
};

}  // namespace bulkhead::devproc
