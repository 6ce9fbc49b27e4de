// What the VMM's supervisor and a device process say to each other, as plain structs.
//
//   VMM -> device: TakeRole, Quiesce, GetStatistics, Inspect
//   device -> VMM: Ready or Failed (once, after TakeRole), Quiesced, Statistics, InspectReply
//
// Trust: decode_from_device() reads what a hostile process wrote. Every length, count, enum and character
// is checked; text is plain printable ASCII afterwards. decode_to_device() applies the same checks, so that
// a mistake of the VMM is found at the first message. A returned Error names the field. No exception
// leaves. Wire format: device.capnp. Threading: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::control {

// Bounds that decoding enforces.
inline constexpr std::size_t kMaxNameLength = 63;        // roles, instances, types, fields
inline constexpr std::size_t kMaxSentenceLength = 1024;  // Failed
inline constexpr std::size_t kMaxInstances = 64;         // in one role
inline constexpr std::size_t kMaxGuestRanges = 32;
inline constexpr std::size_t kMaxRings = 64;          // of one role
inline constexpr std::size_t kMaxPciFunctions = 256;  // on one bus
inline constexpr std::size_t kMaxFields = 512;        // of one instance, in InspectReply
inline constexpr std::uint32_t kMaxIndex = 4096;      // lines, streams, regions, vectors of one role

// What a descriptor of TakeRole is for. `index` of FdGrant says which one, where there are several.
enum class FdPurpose : std::uint16_t {
  kRequestRegion = 0,  // request ring, read-only for the device
  kReplyRegion = 1,
  kStateRegion = 2,  // checkpoint banks
  kRequestDoorbell = 3,
  kOutputDoorbell = 4,  // streams, outbound effects
  kLineAssert = 5,      // index: interrupt line of the role
  kLineResample = 6,    // index: interrupt line of the role
  kMsiVector = 7,       // index: vector of the role
  kGuestRam = 8,        // index: nth region of guest RAM
  kBacking = 9,         // index: nth backing file, TAP queue, socket ... of the role
  kBulkRegion = 10,     // index: a ring's notes (the index of its backing)
  kQueueKick = 11,      // index: nth ioeventfd of the role
  kStreamRegion = 12,   // console and input rings
  kRoleFilter = 13,     // seccomp program of the role (sandbox/filter.h)
  kFrameRing = 14,      // index: FrameRingPart
  kDataRegion = 15,     // index: nth region of read-only data of the role
  kScreenRegion = 16,   // video memory and scan-out block (ipc/screen/scan_out.h)
};
inline constexpr std::uint16_t kFdPurposeCount = 17;

// What belongs to the one frame ring of a role, beside the eventfd that rings for it (BackingKind::kFrameRing).
enum class FrameRingPart : std::uint32_t {
  kOwnArea = 0,   // written here
  kPeerArea = 1,  // written by the other end, read-only here
  kPeerBell = 2,  // the eventfd that rings for the other end
};
inline constexpr std::uint32_t kFrameRingParts = 3;

struct FdGrant {
  FdPurpose purpose{};
  std::uint32_t index = 0;
  bool operator==(const FdGrant&) const = default;
};

// One range of indexes of the role that belongs to one instance.
struct IndexRange {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  bool operator==(const IndexRange&) const = default;
};

struct DeviceInstance {
  std::string name;  // unique in the VM, e.g. "com1"
  std::string type;  // e.g. "uart16550"
  DeviceConfig config;
  IndexRange regions;  // request ring's region indexes
  IndexRange lines;
  IndexRange streams;
  IndexRange vectors;  // MSI and MSI-X
  IndexRange backings;
  IndexRange kicks;  // of its queues
  IndexRange data_regions{};
};

struct GuestRange {
  std::uint64_t guest_base = 0;
  std::uint64_t length = 0;
  std::uint32_t fd_index = 0;  // index into TakeRole::fds, whose purpose is kGuestRam
  std::uint64_t offset = 0;    // in that fd
  bool operator==(const GuestRange&) const = default;
};

// An io_uring of the role. Such descriptors cannot be sent: the process was started with those of all roles, and closes
// the others now (sandbox/policies.h: kFirstRingFd).
struct RingGrant {
  static constexpr std::size_t kParamsSize = 120;
  std::uint32_t descriptor = 0;                 // its number in the process
  std::uint32_t backing = 0;                    // which backing of the role it is for
  std::array<std::byte, kParamsSize> params{};  // struct io_uring_params as io_uring_setup(2) left it
  bool operator==(const RingGrant&) const = default;
};

enum class StartKind : std::uint8_t {
  kFresh = 0,
  kResume = 1,
  kCheck = 2,  // hold nothing yet: answer with the Ready that the role would have; the role itself follows
};

struct TakeRole {
  std::string role;
  std::string vm;  // for log lines
  std::uint32_t incarnation = 0;
  std::uint32_t generation = 0;
  StartKind start = StartKind::kFresh;
  std::uint64_t vm_time_offset_ns = 0;  // CLOCK_MONOTONIC minus VM time
  bool blame = false;                   // the predecessor's death counts against the input that it was working on
  std::vector<DeviceInstance> instances;
  std::vector<FdGrant> fds;           // in the order of the message's descriptors
  std::vector<GuestRange> guest_ram;  // in order of guest_base, not overlapping
  std::vector<RingGrant> rings{};
};

struct Quiesce {};  // finish the input at hand, commit, then take no more; answered by Quiesced
struct GetStatistics {};
struct Inspect {
  std::string instance;  // empty: every instance of the role
};

struct StateVersion {
  std::string instance;
  std::uint32_t version = 0;
  std::uint64_t layout_hash = 0;
  bool operator==(const StateVersion&) const = default;
};

struct Ready {
  std::uint64_t layout_hash = 0;  // of the role's whole checkpoint bank
  std::vector<StateVersion> states;
};

struct Failed {
  std::string sentence;
};

struct Quiesced {
  std::uint64_t last_ticket = 0;
  std::uint64_t commit_number = 0;
};

// Counters since this process took the role.
struct Statistics {
  std::uint64_t requests_served = 0;
  std::uint64_t posted_served = 0;
  std::uint64_t commits = 0;
  std::uint64_t timers_fired = 0;
  std::uint64_t stream_events = 0;
  std::uint64_t lines_raised = 0;
  std::uint64_t messages_sent = 0;  // MSI and MSI-X
  std::uint64_t effects = 0;
  std::uint64_t refused_accesses = 0;  // no such register
  std::uint64_t spurious_wakeups = 0;
  std::uint64_t spins_won = 0;
  std::uint64_t spins_lost = 0;
  std::uint64_t sleeps = 0;
  bool operator==(const Statistics&) const = default;
};

struct InspectedField {
  std::string name;
  std::uint64_t value = 0;
  bool operator==(const InspectedField&) const = default;
};

struct InspectedInstance {
  std::string name;
  std::vector<InspectedField> fields;
  bool operator==(const InspectedInstance&) const = default;
};

struct InspectReply {
  std::vector<InspectedInstance> instances;
};

using ToDevice = std::variant<TakeRole, Quiesce, GetStatistics, Inspect>;
using FromDevice = std::variant<Ready, Failed, Quiesced, Statistics, InspectReply>;

// The encoders fail when the message breaks a bound above or is larger than kMaxMessageBytes.
Result<std::vector<std::byte>> encode(const ToDevice& message);
Result<std::vector<std::byte>> encode(const FromDevice& message);

// `fd_count`: how many descriptors came with the message; it must be what the message itself says.
Result<ToDevice> decode_to_device(std::span<const std::byte> bytes, std::size_t fd_count);
Result<FromDevice> decode_from_device(std::span<const std::byte> bytes);

// [A-Za-z0-9][A-Za-z0-9_.-]*, at most kMaxNameLength characters: roles, instances, types, VMs.
[[nodiscard]] bool is_name(std::string_view text);

}  // namespace bulkhead::control
