// RoleHost: the devices of one role, their committed state and their wires. Takes one input at a time, runs
// the model, commits, and only then acts on the world (DESIGN.md, section 3: bank, commit word, then the
// world outside, then the reply slot).
//
// It reaches the world through descriptors and shared areas that it was handed; it opens nothing.
// Threading: single-threaded. Trust: the VMM is trusted; guest bytes and restored state are not.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devproc/backends/backend.h"
#include "devproc/backends/fd_entropy.h"
#include "devproc/backends/guest_ranges.h"
#include "devproc/backends/io_ring.h"
#include "devproc/backends/ram_punch.h"
#include "devproc/backends/ring_frames.h"
#include "devproc/backends/user_network_backend.h"
#include "devproc/core/device.h"
#include "devproc/core/wires.h"
#include "devproc/host/attempt_log.h"
#include "devproc/host/guest_publisher.h"
#include "devproc/host/host_screen.h"
#include "devproc/host/host_wires.h"
#include "ipc/base/unique_fd.h"
#include "ipc/control/device_messages.h"
#include "ipc/ring/layout.h"
#include "ipc/roles/device_types.h"
#include "ipc/state/checkpoint.h"
#include "ipc/state/ring_notes.h"

namespace bulkhead::devproc {

// The descriptors and areas of a role, as handed over.
struct RoleWorld {
  const ipc::RequestArea* requests = nullptr;
  ipc::ReplyArea* replies = nullptr;
  std::span<std::byte> state;
  BorrowedFd output_doorbell;                    // to the VMM's stream thread
  std::vector<BorrowedFd> line_assert;           // one a line of the role
  std::vector<BorrowedFd> line_resample;         // invalid for edge lines
  std::vector<BorrowedFd> messages;              // one an MSI vector of the role
  std::vector<BorrowedFd> kicks;                 // one a queue of the role
  std::vector<BorrowedFd> backings;              // in the order in which the role's types declare them
  std::vector<std::span<const std::byte>> data;  // regions of read-only data
  GuestMemory* memory = nullptr;
  GuestRanges* ranges = nullptr;  // the same memory, for backends
  FrameRingWires ring{};  // roles with a device that declares BackingKind::kFrameRing; its own bell is a backing
  MakeUserNetwork make_user_network = nullptr;  // programs that have one
  struct Ring {
    const IoRing* ring = nullptr;
    BorrowedFd watched;
    ipc::RingNotes* notes = nullptr;
  };
  std::vector<Ring> rings{};      // by backing; those that have none are empty
  std::span<std::byte> screen{};  // screen::kScreenRegionSize bytes (less in tests), for the device that has one
};

class RoleHost {
 public:
  // Builds the devices of `setup` in order. Resets them when the state region is new, restores them when it
  // holds commits, and then shows the world what was committed last.
  static Result<std::unique_ptr<RoleHost>> create(const control::TakeRole& setup, RoleWorld world);

  // What create() would make of `setup`, without any of its regions: its layout and state versions.
  static Result<control::Ready> describe(const control::TakeRole& setup, MakeUserNetwork make_user_network = nullptr);

  // The next request, if it is there: handled, committed, answered. False when there is none.
  bool handle_request();
  [[nodiscard]] bool request_waiting() const;

  // Stream bytes or room that a device has not been told of. True when something was done.
  bool handle_streams();
  [[nodiscard]] bool stream_work_waiting() const;

  // A kick of queue `kick` of the role came. handle_queues() works on one queue that was kicked, or that has more
  // than fits one input; true when it did something.
  void kick(std::uint32_t kick);
  bool handle_queues();
  [[nodiscard]] bool queue_work_waiting() const;

  // For who looks at queues before it sleeps: queues that were emptied stay without kicks until ask_for_kicks().
  // queues_stir() takes those as kicked in which something is; both answer whether handle_queues() has work.
  void let_kicks_wait();
  bool queues_stir();
  bool ask_for_kicks();
  // Takes back ask_for_kicks(), as if its queues had just been emptied. False: nobody has asked.
  bool hold_kicks();

  // Backend `backend` of the role may have something: its descriptor said so, by `epoll_events`. handle_backends()
  // gives one that has to its device; true when it did something.
  void backend_stirs(std::size_t backend, std::uint32_t epoll_events = 0);
  bool handle_backends();
  [[nodiscard]] bool backend_work_waiting() const;
  // The process is about to sleep until a descriptor wakes it, or is awake again.
  void set_asleep(bool asleep);
  // In the order of backend_stirs(); some are invalid.
  [[nodiscard]] std::vector<BorrowedFd> watched_backends() const;

  // Fires every timer that is due. True when something was done.
  bool handle_timers();
  // Earliest deadline as CLOCK_MONOTONIC nanoseconds; INT64_MAX: none (or the VM is paused).
  [[nodiscard]] std::int64_t next_deadline() const;

  // The guest has acknowledged level line `line`: raised again when it is still asserted.
  void handle_resample(std::uint32_t line);

  [[nodiscard]] std::uint64_t commits() const { return checkpoint_.commits(); }
  [[nodiscard]] ipc::Ticket last_ticket() const { return checkpoint_.committed_input().last_ticket; }
  [[nodiscard]] std::uint64_t layout() const { return checkpoint_.layout(); }
  [[nodiscard]] std::span<const control::StateVersion> state_versions() const { return versions_; }
  [[nodiscard]] std::vector<control::InspectedInstance> inspect(std::string_view instance) const;
  [[nodiscard]] ipc::ReplyArea& replies() { return *world_.replies; }

 private:
  struct BackendState {
    std::unique_ptr<Backend> backend;
    std::uint32_t index = 0;  // among the role's
    bool stirs = false;
  };
  struct Instance {
    std::string name;
    std::string type;
    std::unique_ptr<Device> device;
    std::vector<std::unique_ptr<HostIrqLine>> lines;
    std::vector<std::unique_ptr<HostCharBackend>> streams;
    std::vector<IrqLine*> line_pointers;
    std::vector<CharBackend*> stream_pointers;
    std::unique_ptr<HostMsiSender> msi;
    std::unique_ptr<FdEntropy> entropy;
    std::unique_ptr<RamPunch> ram;
    std::unique_ptr<HostScreen> screen;
    BlockBackend* block = nullptr;      // one of `backends`
    std::vector<FrameBackend*> frames;  // likewise
    UserNetwork* network = nullptr;     // likewise
    PacketLink* link = nullptr;
    StreamSockets* sockets = nullptr;
    std::unique_ptr<HostTimerQueue> timers;
    std::uint16_t first_timer = 0;
    std::uint16_t timer_count = 0;
    std::uint32_t first_stream = 0;
    std::uint32_t first_vector = 0;
    std::uint32_t messages = 0;
    std::uint32_t first_kick = 0;
    std::uint16_t queues = 0;
    std::uint16_t doorbell_region = 0;
    std::vector<BackendState> backends;
    bool shows = false;       // Device::show() is to be called after its inputs
    bool after_show = false;  // Device::after_show() is to be called
  };

  RoleHost(RoleWorld world, std::uint32_t incarnation);
  Status add_instances(const control::TakeRole& setup);
  Status add_instance(const control::DeviceInstance& setup, bool resumed);
  Status add_frame_ring(BorrowedFd bell, Instance& instance);
  Status add_user_network(const UsernetConfig& config, bool resumed, Instance& instance);
  Status add_backings(const control::DeviceInstance& setup, const DeviceTypeDecl& decl, Instance& instance);
  Status add_disk(const control::DeviceInstance& setup, std::size_t at, Instance& instance);
  void add_backend(Instance& instance, std::unique_ptr<Backend> backend);
  void start_backends(bool resumed);
  void start_fresh(std::uint32_t generation);
  void kick_all();
  Instance* owner_of(std::uint32_t kick);
  // Takes the silent queues as kicked for which `stirs` says so.
  template <class Stirs>
  bool look_at_silent(const Stirs& stirs);
  void kick_by_request(const Instance& instance, const ipc::Request& request);
  void resume(const control::TakeRole& setup);
  // A successor's first work on what it found, which may be hostile: nothing in it may make us wait for ever.
  void mend_input(ipc::InputRecord& input, std::uint32_t generation) const;
  void mend_timers();
  [[nodiscard]] ipc::Ticket published(ipc::Ticket ticket) const;
  [[nodiscard]] bool can_be_last(ipc::Ticket ticket) const;

  void begin_input(Attempt attempt);
  bool skip_if_poisoned(Attempt attempt);
  void run_request(const ipc::Request& request, ipc::Reply& reply);
  void reset_all(std::uint32_t generation);
  void list_desired_effects(const ipc::Request& request, ipc::Reply& reply);
  void effects_to_reply(ipc::Reply& reply);
  void effects_to_outbound();
  void finish_input();
  // What the committed input of `instance` (all of them when it is null) shows the guest in its memory.
  void show(Instance* instance, bool again);
  void drive_world();
  void begin_submitted();
  [[nodiscard]] bool may_have_backends(const Instance& instance) const;
  [[nodiscard]] static bool is_draining(const Instance& instance);
  BackendState* find_backend(std::size_t index);
  void give_backend(Instance& instance, BackendId id, BackendState& state);
  void publish_streams();
  void publish_reply(ipc::Ticket ticket, const ipc::Reply& reply);
  [[nodiscard]] ipc::Reply dropped_reply() const;
  void republish_after_takeover();

  RoleWorld world_;
  std::uint32_t incarnation_;
  ipc::Checkpoint checkpoint_;
  AttemptLog attempts_{checkpoint_.header()};
  HostState host_;
  HostClock clock_;
  HostEffectSink effects_;
  HostRedirect redirect_;
  std::optional<HostPublisher> publisher_;  // when a device of the role declares one
  std::vector<Instance> instances_;
  Instance* active_ = nullptr;     // whose input is at hand; nullptr: everybody's, or nobody's
  std::bitset<kMaxKicks> kicked_;  // a successor takes every queue as kicked
  std::bitset<kMaxKicks> silent_;  // emptied, and perhaps without kicks
  std::bitset<kMaxKicks> asked_;   // kicks were asked for, and none has come since
  bool kicks_wait_ = false;
  std::uint32_t next_kick_ = 0;  // where the next look begins, so that no queue starves another
  std::vector<control::StateVersion> versions_;
  bool has_backends_ = false;
  std::uint32_t backend_count_ = 0;
  std::uint32_t next_backend_ = 0;  // as next_kick_

  std::uint64_t driven_levels_ = 0;               // what the wires carry now
  std::uint64_t seen_input_[ipc::kStreams] = {};  // input index that the device was told of
  std::uint64_t seen_output_[ipc::kStreams] = {};
};

}  // namespace bulkhead::devproc
