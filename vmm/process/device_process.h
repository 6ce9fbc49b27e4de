// DeviceProcess: one role's shared regions, eventfds and ring, and the process that plays it now.
//
// Everything that must outlive the process is owned here, by the VMM: the regions, every eventfd, and guest RAM.
// A process gets descriptors of them with its role (control::TakeRole); when it dies, a successor gets the same.
// Threading: construction on one thread; process state by the supervisor's thread alone; ring and channel from
// any thread. Trust: the process is hostile.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ipc/control/channel.h"
#include "ipc/control/device_messages.h"
#include "ipc/ring/request_producer.h"
#include "ipc/ring/stream.h"
#include "ipc/shm/region.h"
#include "sandbox/child_process.h"
#include "vmm/bus/remote_channel.h"
#include "vmm/machine/plan.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/disk_ring.h"
#include "vmm/process/frame_link.h"

namespace bulkhead::vmm {

class DeviceProcess {
 public:
  // `files`: VmFiles::devices. `bars`: for the `pci` process. `ring`: the role's end of a frame ring; what it names
  // outlives this. `transfers` and `data` (the region of data of its device that has one): for `platform`.
  static Result<std::unique_ptr<DeviceProcess>> create(const RolePlan& plan, std::span<const UniqueFd> files,
                                                       const GuestRam& ram, ipc::EffectReceiver& effects,
                                                       PendingBits& pending, ipc::RequestProducer::Options options,
                                                       BarAccesses* bars = nullptr,
                                                       std::optional<FrameRingEnd> ring = std::nullopt,
                                                       FwCfgTransfers* transfers = nullptr, BorrowedFd data = {},
                                                       BorrowedFd screen = {});

  struct Handover {
    std::vector<std::byte> bytes;
    std::vector<BorrowedFd> fds;
  };
  // The TakeRole message for a process that starts or resumes this role; it carries the ring's incarnation. `blame`:
  // see control::TakeRole. `filter`: the role's program.
  Result<Handover> take_role(const std::string& vm, control::StartKind start, bool blame, BorrowedFd filter) const;
  // The message that asks a process whether it could: no descriptor goes with it.
  Result<std::vector<std::byte>> check_role(const std::string& vm) const;
  // Another ring from the next process on; what `keeper` is lives as long as it is in use. On the supervisor's thread.
  Status set_frame_ring(const FrameRingEnd& ring, std::shared_ptr<const void> keeper);
  // Empties what a process of the role left in its regions, so that the next one starts from reset. Only while the
  // ring is closed and the role has no process.
  Status erase_state();
  // What the exit stop of the role's process tells: where its instruction pointer stood (ipc/state/publication.h).
  void settle_publication(std::uint64_t instruction);

  [[nodiscard]] const RolePlan& plan() const { return plan_; }
  [[nodiscard]] ipc::RequestProducer& ring() { return *ring_; }
  [[nodiscard]] RemoteChannel& channel() { return *channel_; }
  [[nodiscard]] const ipc::ReplyArea& replies() const { return *replies_.as<ipc::ReplyArea>(); }
  [[nodiscard]] ipc::RequestArea& requests() const { return *requests_.as<ipc::RequestArea>(); }
  // The incarnation that has said that it is ready; smaller than ring().incarnation() during a take-over.
  [[nodiscard]] std::uint32_t serving_incarnation() const { return serving_.load(std::memory_order_acquire); }
  void set_serving(std::uint32_t incarnation) {
    ring_->restart_deadlines();
    serving_.store(incarnation, std::memory_order_release);
  }
  [[nodiscard]] BorrowedFd output_doorbell() const { return output_doorbell_.borrow(); }

  struct Line {
    LinePlan plan;
    std::uint16_t instance = 0;
    UniqueFd event;
    UniqueFd resample;  // level lines
  };
  [[nodiscard]] const std::vector<Line>& lines() const { return lines_; }
  struct Kick {
    std::uint16_t instance = 0;
    std::uint16_t queue = 0;
    UniqueFd event;
  };
  [[nodiscard]] const std::vector<Kick>& kicks() const { return kicks_; }
  // The io_urings of the role's disks: every device process is started with all that its VM has, this role's under the
  // numbers that number_rings() tells, in order.
  [[nodiscard]] std::vector<BorrowedFd> rings() const;
  void number_rings(int first) { first_ring_ = first; }
  // The longest that a file may become by this role's writes. nullopt: it writes no files, or ones of any length.
  [[nodiscard]] std::optional<std::uint64_t> file_size() const;
  // A TAP of the role's is no more: its interface was deleted.
  [[nodiscard]] bool tap_is_gone() const;
  // Message eventfds of one instance, in order of vector.
  [[nodiscard]] std::vector<BorrowedFd> messages(std::uint16_t instance) const;

 private:
  DeviceProcess(const RolePlan& plan, const GuestRam& ram) : plan_(plan), ram_(ram) {}
  Status create_wires(std::span<const UniqueFd> files);
  Status open_backings(const InstancePlan& instance, std::span<const UniqueFd> files);
  [[nodiscard]] control::TakeRole describe_role(const std::string& vm, control::StartKind start) const;
  void describe_instances(control::TakeRole& role) const;

  const RolePlan& plan_;
  const GuestRam& ram_;
  ipc::WritableRegion requests_;
  UniqueFd reply_fd_;
  ipc::ReadOnlyRegion replies_;
  UniqueFd state_fd_;
  UniqueFd doorbell_;
  UniqueFd output_doorbell_;
  std::vector<Line> lines_;
  struct Message {
    std::uint16_t instance;
    UniqueFd event;
  };
  std::vector<Message> messages_;
  std::vector<Kick> kicks_;
  std::vector<UniqueFd> backings_;
  std::vector<std::size_t> taps_;  // which of them are TAPs
  std::optional<FrameRingEnd> frame_ring_;
  std::shared_ptr<const void> frame_ring_keeper_;
  std::size_t bell_ = 0;  // which of the backings is the ring's
  UniqueFd screen_;       // likewise a screen
  UniqueFd data_;         // not valid: no device of the role has a region of data
  std::unique_ptr<ipc::RequestProducer> ring_;
  std::unique_ptr<RemoteChannel> channel_;
  std::atomic<std::uint32_t> serving_{0};
  struct Ring {
    std::uint32_t backing;
    DiskRing ring;
  };
  std::vector<Ring> rings_;
  int first_ring_ = 0;
};

}  // namespace bulkhead::vmm
