// Vcpu and Vm: what the rest of the VMM sees of a hypervisor, small enough that a test can script it.
//
// A Vcpu runs guest code until the guest touches something that the hypervisor does not handle, and says
// so with an Exit: a plain value whose spans point into memory that the Vcpu owns and that stays valid
// until the next run_once(). The caller fills the data of a read before it calls run_once() again.
//
// Units: addresses are guest-physical bytes, sizes bytes. Errors: a host call that fails is a Status or
// the Exit RunFailed, never an exception. Threading: a Vcpu belongs to one thread, except
// set_immediate_exit(); a Vm may be used from any thread. Trust: exits carry guest-chosen values, which
// are numbers like any others; sizes and counts in them come from the kernel and are believed.
// Source: Documentation/virt/kvm/api.rst (Linux), "4.10 KVM_RUN" and section 5 "The kvm_run structure".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"

namespace bulkhead::vmm {

// IN or INS: fill data (size * count bytes, little-endian items, lowest item first).
struct PioIn {
  std::uint16_t port = 0;
  std::uint8_t size = 0;  // bytes of one item: 1, 2 or 4
  std::uint32_t count = 0;
  std::span<std::byte> data{};
};
// OUT or OUTS: the same, to be taken.
struct PioOut {
  std::uint16_t port = 0;
  std::uint8_t size = 0;
  std::uint32_t count = 0;
  std::span<const std::byte> data{};
};
// A memory access outside of every slot. 1 to 8 bytes, any of them, at any alignment.
struct MmioRead {
  std::uint64_t address = 0;
  std::uint8_t size = 0;
  std::span<std::byte> data{};
};
struct MmioWrite {
  std::uint64_t address = 0;
  std::uint8_t size = 0;
  std::span<const std::byte> data{};
};
struct Hlt {};       // only without an in-kernel irqchip; KVM sleeps in the kernel otherwise
struct Shutdown {};  // triple fault
// A signal or set_immediate_exit(true). No guest instruction is waiting for an answer.
struct Interrupted {};
struct SystemEvent {
  enum class Kind : std::uint8_t { kShutdown, kReset, kCrash, kOther };
  Kind kind = Kind::kOther;
  std::uint32_t type = 0;  // KVM_SYSTEM_EVENT_*
};
// KVM gave up, for example on an instruction that it cannot emulate.
struct InternalError {
  std::uint32_t suberror = 0;  // KVM_INTERNAL_ERROR_*
  std::span<const std::uint64_t> data{};
};
// The CPU refused to enter the guest.
struct FailEntry {
  std::uint64_t reason = 0;  // of the hardware
};
// KVM_RUN itself failed with this errno (EFAULT: guest memory that the host cannot give).
struct RunFailed {
  int error_number = 0;
};
struct UnknownExit {
  std::uint32_t reason = 0;           // KVM_EXIT_*
  std::uint64_t hardware_reason = 0;  // when that is KVM_EXIT_UNKNOWN
};

using Exit = std::variant<PioIn, PioOut, MmioRead, MmioWrite, Hlt, Shutdown, Interrupted, SystemEvent, InternalError,
                          FailEntry, RunFailed, UnknownExit>;
static_assert(sizeof(Exit) <= 40, "an Exit travels by value through the hot path");

// "an internal error of KVM: emulation failed (suberror 1)": for the log and the crash report.
[[nodiscard]] std::string describe(const Exit& exit);

class Vcpu {
 public:
  virtual ~Vcpu() = default;
  Vcpu() = default;
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  // Enters the guest; returns at the next exit. Allocates nothing. An unfinished PioIn or MmioRead is
  // finished with what its data holds now. A vCPU that waits for SIPI or sits in HLT sleeps in here.
  virtual Exit run_once() = 0;
  // true: the next run_once() (or the one in progress, together with a signal to its thread) returns
  // Interrupted, again and again until false is set. Any thread; also from a signal handler.
  virtual void set_immediate_exit(bool on) = 0;
  // Lets KVM finish the instruction of the last PIO or MMIO exit without running any guest code: needed
  // before a register is read or set (DESIGN.md, "KVM's rules"). If that produces a further exit (the
  // rest of a wide or repeated access) it is returned and must be answered, and this called again;
  // Interrupted means that nothing is left to do. Leaves immediate_exit as it found it.
  virtual Exit complete_pending_io() = 0;
  // The registers, the exit's context and the bytes at RIP as readable text, for a crash report. Never
  // fails: what cannot be read is said in the text.
  virtual std::string describe_state() = 0;
};

struct MemorySlot {
  std::uint32_t slot = 0;
  std::uint64_t guest_address = 0;  // page-aligned
  std::uint64_t size = 0;           // bytes, a multiple of the page size; 0 removes the slot
  std::byte* host = nullptr;        // must outlive the slot
  bool read_only = false;           // guest writes come out as MmioWrite
  bool log_dirty = false;
};

// The message of one MSI or MSI-X vector behind a GSI; nullopt takes the route away.
struct MsiRoute {
  struct Message {
    std::uint64_t address = 0;
    std::uint32_t data = 0;
    bool operator==(const Message&) const = default;
  };
  std::uint32_t gsi = 0;
  std::optional<Message> message{};
};

// Guest writes that signal an eventfd instead of leaving KVM.
struct IoEvent {
  std::uint64_t address = 0;
  std::uint32_t size = 0;  // 1, 2, 4, 8; 0: any width (no match possible then)
  bool port = false;       // I/O port space
  std::optional<std::uint64_t> match{};
  BorrowedFd event{};
};

// A range whose writes KVM collects in one ring per VM rather than leaving for each.
struct CoalescedRange {
  std::uint64_t address = 0;
  std::uint32_t size = 0;
  bool port = false;
};

class Vm {
 public:
  virtual ~Vm() = default;
  Vm() = default;
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  virtual Status set_memory_slot(const MemorySlot& slot) = 0;

  // GSIs 0-15 are the ISA interrupts, 16-23 the rest of the IOAPIC; MSI GSIs lie above. A fresh MSI GSI
  // has no route. Freeing one takes its route away with the next set_msi_routes().
  virtual Result<std::uint32_t> allocate_msi_gsi() = 0;
  virtual void free_msi_gsi(std::uint32_t gsi) = 0;
  // Changes the named routes and installs the whole table with one KVM_SET_GSI_ROUTING (20 us).
  // On failure the table is as before. A GSI that was not allocated is an error.
  virtual Status set_msi_routes(std::span<const MsiRoute> routes) = 0;
  // A write to `event` raises `gsi`: an edge, or (with `resample`) a level that holds until the guest's
  // EOI, which lowers it and signals `resample`. KVM keeps its own references to both.
  virtual Status assign_irqfd(BorrowedFd event, std::uint32_t gsi, BorrowedFd resample = {}) = 0;
  virtual Status deassign_irqfd(BorrowedFd event, std::uint32_t gsi) = 0;
  virtual Status add_io_event(const IoEvent& io_event) = 0;     // 4 us
  virtual Status remove_io_event(const IoEvent& io_event) = 0;  // 8,000 us (PEERS.md)
  virtual Status add_coalesced(const CoalescedRange& range) = 0;
  virtual Status remove_coalesced(const CoalescedRange& range) = 0;
  // Raises an MSI once. True when a vCPU took it, false when the guest has it blocked.
  virtual Result<bool> signal_msi(const MsiRoute::Message& message) = 0;
};

}  // namespace bulkhead::vmm
