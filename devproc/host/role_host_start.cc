// RoleHost's beginning: the devices of a role are made, and start afresh or go on from what a predecessor committed.
#include <algorithm>
#include <cstring>
#include <utility>

#include "devproc/backends/file_block.h"
#include "devproc/backends/ring_block.h"
#include "devproc/backends/ring_link.h"
#include "devproc/backends/tap_frames.h"
#include "devproc/backends/unix_sockets.h"
#include "devproc/host/mapped_guest_memory.h"
#include "devproc/host/role_host.h"
#include "devproc/host/role_host_util.h"
#include "devproc/registry.h"

namespace bulkhead::devproc {

static_assert(ipc::kMostTakers >= kMaxBackings);

RoleHost::RoleHost(RoleWorld world, std::uint32_t incarnation)
    : world_(std::move(world)),
      incarnation_(incarnation),
      checkpoint_(world_.state),
      host_(checkpoint_),
      clock_(world_.requests->time),
      redirect_(checkpoint_) {}

Result<std::unique_ptr<RoleHost>> RoleHost::create(const control::TakeRole& setup, RoleWorld world) {
  std::unique_ptr<RoleHost> host(new RoleHost(std::move(world), setup.incarnation));
  RETURN_IF_ERROR(host->add_instances(setup));
  ASSIGN_OR_RETURN(const bool resumed, host->checkpoint_.open());
  if (host->publisher_) host->publisher_->begin(resumed);
  if (resumed) {
    host->resume(setup);
  } else {
    host->start_fresh(setup.generation);
  }
  return host;
}

Result<control::Ready> RoleHost::describe(const control::TakeRole& setup, MakeUserNetwork make_user_network) {
  const auto requests = std::make_unique<ipc::RequestArea>();
  const auto replies = std::make_unique<ipc::ReplyArea>();
  std::vector<std::byte> state(ipc::kStateRegionSize + ipc::kPage);
  // Regions start at a page: so does this one.
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(state.data()) % ipc::kPage;
  MappedGuestMemory memory;
  RoleHost host(RoleWorld{.requests = requests.get(),
                          .replies = replies.get(),
                          .state = std::span(state).subspan(ipc::kPage - misaligned, ipc::kStateRegionSize),
                          .output_doorbell = {},
                          .line_assert = {},
                          .line_resample = {},
                          .messages = {},
                          .kicks = {},
                          .backings = {},
                          .data = {},
                          .memory = &memory,
                          .ranges = &memory,
                          .ring = {},
                          .make_user_network = make_user_network,
                          .rings = {}},
                setup.incarnation);
  RETURN_IF_ERROR(host.add_instances(setup));
  return control::Ready{.layout_hash = host.layout(), .states = host.versions_};
}

Status RoleHost::add_instances(const control::TakeRole& setup) {
  // A program that lays out the shared areas in another way cannot take over either.
  checkpoint_.mix_layout("requests", static_cast<std::uint32_t>(ipc::kRequestAreaSize));
  checkpoint_.mix_layout("replies", static_cast<std::uint32_t>(ipc::kReplyAreaSize));
  checkpoint_.mix_layout("areas", static_cast<std::uint32_t>(ipc::kAreaMagic >> 32));
  instances_.reserve(setup.instances.size());
  const bool resumed = setup.start != control::StartKind::kFresh;
  for (const control::DeviceInstance& instance : setup.instances) RETURN_IF_ERROR(add_instance(instance, resumed));
  return ok();
}

Status RoleHost::add_instance(const control::DeviceInstance& setup, bool resumed) {
  const DeviceType* type = find_builtin(setup.type);
  if (type == nullptr) return make_error("there is no device type \"" + setup.type + "\" in this program");
  const DeviceTypeDecl* decl = find_device_type(setup.type);
  if (decl == nullptr) return make_error("device type \"" + setup.type + "\" is not declared");

  Instance instance;
  instance.name = setup.name;
  instance.type = setup.type;
  instance.first_timer =
      instances_.empty() ? std::uint16_t{0}
                         : static_cast<std::uint16_t>(instances_.back().first_timer + instances_.back().timer_count);
  instance.timer_count = decl->timers;
  instance.first_stream = setup.streams.first;
  instance.first_vector = setup.vectors.first;
  instance.messages = setup.vectors.count;
  instance.first_kick = setup.kicks.first;
  instance.queues = decl->queues.count;
  instance.doorbell_region = decl->queues.region;
  if (setup.lines.first + setup.lines.count > kMaxLines || setup.lines.count < decl->lines.size() ||
      setup.streams.first + setup.streams.count > ipc::kStreams || setup.streams.count < decl->streams ||
      instance.first_timer + instance.timer_count > kMaxTimers ||
      setup.vectors.first + setup.vectors.count > kMaxMessages || setup.kicks.count < decl->queues.count ||
      setup.kicks.first + setup.kicks.count > kMaxKicks)
    return make_error("device \"" + setup.name + "\" was not given the wires that its type declares");
  for (std::uint32_t i = 0; i < setup.lines.count; ++i) {
    instance.lines.push_back(std::make_unique<HostIrqLine>(host_, setup.lines.first + i));
    instance.line_pointers.push_back(instance.lines.back().get());
  }
  for (std::uint32_t i = 0; i < setup.streams.count; ++i) {
    instance.streams.push_back(
        std::make_unique<HostCharBackend>(host_, *world_.requests, *world_.replies, setup.streams.first + i));
    instance.stream_pointers.push_back(instance.streams.back().get());
  }
  instance.msi = std::make_unique<HostMsiSender>(checkpoint_, setup.vectors.first, setup.vectors.count);
  instance.timers = std::make_unique<HostTimerQueue>(host_, instance.first_timer, instance.timer_count);

  RETURN_IF_ERROR(add_backings(setup, *decl, instance));
  if (decl->publishes && !publisher_) {
    if (world_.ranges == nullptr) return make_error("device \"" + setup.name + "\" was not given guest memory");
    publisher_.emplace(checkpoint_, checkpoint_.header().publication, *world_.ranges);
  }
  if (const auto* user = std::get_if<UsernetConfig>(&setup.config))
    RETURN_IF_ERROR(add_user_network(*user, resumed, instance));
  if (decl->syscalls.contains(SyscallGroup::kReleaseRam)) {
    if (world_.ranges == nullptr) return make_error("device \"" + setup.name + "\" was not given guest memory");
    instance.ram = std::make_unique<RamPunch>(*world_.ranges);
  }
  if (decl->screen) {
    if (!world_.screen.empty() && world_.screen.size() <= screen::kScanOutSize)
      return make_error("device \"" + setup.name + "\" was given a screen that is too small");
    instance.screen = std::make_unique<HostScreen>(world_.screen);
  }
  instance.shows = decl->screen || instance.queues != 0;
  const Wires wires{.state = checkpoint_,
                    .clock = clock_,
                    .timers = *instance.timers,
                    .effects = effects_,
                    .lines = instance.line_pointers,
                    .streams = instance.stream_pointers,
                    .redirect = &redirect_,
                    .msi = instance.msi.get(),
                    .memory = world_.memory,
                    .ram = instance.ram.get(),
                    .entropy = instance.entropy.get(),
                    .block = instance.block,
                    .link = instance.link,
                    .sockets = instance.sockets,
                    .frames = instance.frames,
                    .publisher = publisher_ ? &*publisher_ : nullptr,
                    .network = instance.network,
                    .screen = instance.screen.get(),
                    .data = setup.data_regions.first < world_.data.size() && setup.data_regions.count != 0
                                ? world_.data[setup.data_regions.first]
                                : std::span<const std::byte>()};
  if (decl->guest_memory && world_.memory == nullptr)
    return make_error("device \"" + setup.name + "\" was not given guest memory");
  checkpoint_.mix_layout(setup.type, type->state_version);
  ASSIGN_OR_RETURN(instance.device, type->create(setup.config, wires));
  versions_.push_back({setup.name, type->state_version, checkpoint_.layout()});
  instances_.push_back(std::move(instance));
  return ok();
}

Status RoleHost::add_backings(const control::DeviceInstance& setup, const DeviceTypeDecl& decl, Instance& instance) {
  const std::span<const BackingKind> kinds = backings_of(decl, setup.config);
  const std::size_t count = kinds.size();
  if (setup.backings.count != count || std::size_t{setup.backings.first} + count > kMaxBackings)
    return make_error("device \"" + setup.name + "\" was not given the backings that its configuration names");
  for (std::size_t i = 0; i < count; ++i) {
    // A process that is only asked whether it could play the role holds none of them.
    const std::size_t at = setup.backings.first + i;
    const BorrowedFd fd = at < world_.backings.size() ? world_.backings[at] : BorrowedFd();
    switch (kinds[i]) {
      case BackingKind::kEntropy: instance.entropy = std::make_unique<FdEntropy>(fd); break;
      case BackingKind::kDisk: {
        RETURN_IF_ERROR(add_disk(setup, at, instance));
        break;
      }
      case BackingKind::kFrameRing: RETURN_IF_ERROR(add_frame_ring(fd, instance)); break;
      case BackingKind::kTap: {
        if (world_.ranges == nullptr) return make_error("device \"" + setup.name + "\" was not given guest memory");
        auto tap = std::make_unique<TapFrames>(fd, *world_.ranges, checkpoint_.header().frames_taken[at]);
        instance.frames.push_back(tap.get());
        add_backend(instance, std::move(tap));
        break;
      }
      case BackingKind::kPacketLink: {
        // Its two eventfds come next.
        const auto fd_at = [&](std::size_t n) {
          return n < world_.backings.size() ? world_.backings[n] : BorrowedFd();
        };
        const std::uint32_t side = setup.type == "vsock_relay" ? 1 : 0;
        ASSIGN_OR_RETURN(auto link, RingLink::create(allocate_state<PacketLinkState>(checkpoint_), side, fd,
                                                     fd_at(at + 1), fd_at(at + 2)));
        instance.link = link.get();
        add_backend(instance, std::move(link));
        break;
      }
      case BackingKind::kVsockListener: {
        const BorrowedFd connector = at + 1 < world_.backings.size() ? world_.backings[at + 1] : BorrowedFd();
        ASSIGN_OR_RETURN(auto sockets, UnixSockets::create(fd, connector));
        instance.sockets = sockets.get();
        add_backend(instance, std::move(sockets));
        break;
      }
      case BackingKind::kPacketLinkWake:
      case BackingKind::kPacketLinkPeer:
      case BackingKind::kVsockConnector: break;
    }
  }
  return ok();
}

Status RoleHost::add_frame_ring(BorrowedFd bell, Instance& instance) {
  FrameRingWires wires = world_.ring;
  wires.bell = bell;
  auto ring = std::make_unique<RingFrames>(wires, allocate_state<ipc::FrameRingState>(checkpoint_), world_.ranges);
  instance.frames.push_back(ring.get());
  add_backend(instance, std::move(ring));
  return ok();
}

Status RoleHost::add_user_network(const UsernetConfig& config, bool resumed, Instance& instance) {
  if (world_.make_user_network == nullptr) return make_error("there is no user network in this program");
  ASSIGN_OR_RETURN(std::unique_ptr<UserNetworkBackend> network, world_.make_user_network(config, resumed));
  instance.network = network.get();
  add_backend(instance, std::move(network));
  return ok();
}

void RoleHost::start_backends(bool resumed) {
  for (Instance& instance : instances_) {
    for (BackendState& state : instance.backends) state.backend->start(resumed);
  }
}

Status RoleHost::add_disk(const control::DeviceInstance& setup, std::size_t at, Instance& instance) {
  const auto* config = std::get_if<VirtioBlkConfig>(&setup.config);
  if (config == nullptr) return make_error("device \"" + setup.name + "\" came without its disk's geometry");
  if (world_.ranges == nullptr) return make_error("device \"" + setup.name + "\" was not given guest memory");
  // A process that is only asked has neither file nor ring, and begins nothing.
  if (!config->disk.ring || at >= world_.backings.size()) {
    auto disk = std::make_unique<FileBlock>(at < world_.backings.size() ? world_.backings[at] : BorrowedFd(),
                                            config->disk, *world_.ranges);
    instance.block = disk.get();
    add_backend(instance, std::move(disk));
    return ok();
  }
  if (at >= world_.rings.size() || world_.rings[at].ring == nullptr || world_.rings[at].notes == nullptr)
    return make_error("device \"" + setup.name + "\" was not given its disk's ring");
  const RoleWorld::Ring& ring = world_.rings[at];
  ASSIGN_OR_RETURN(std::unique_ptr<RingBlock> disk,
                   RingBlock::create(*ring.ring, ring.watched, *ring.notes, config->disk, *world_.ranges));
  instance.block = disk.get();
  add_backend(instance, std::move(disk));
  return ok();
}

void RoleHost::add_backend(Instance& instance, std::unique_ptr<Backend> backend) {
  instance.backends.push_back({std::move(backend), backend_count_++, false});
  has_backends_ = true;
}

void RoleHost::start_fresh(std::uint32_t generation) {
  begin_input(Attempt::start());
  FAILPOINT("fresh: begun");
  TimerState& timers = host_.timers.mut();
  std::fill(std::begin(timers.deadline), std::end(timers.deadline), kTimerOff);
  // A device that comes back after it was isolated finds streams that have been in use.
  StreamState& streams = host_.streams.mut();
  for (std::uint32_t i = 0; i < ipc::kStreams; ++i) {
    streams.produced[i] = world_.requests->output_consumed[i].load(std::memory_order_acquire);
    streams.consumed[i] = world_.requests->input_produced[i].load(std::memory_order_acquire);
  }
  host_.outbound.mut().produced = world_.requests->outbound_consumed.load(std::memory_order_acquire);
  mend_input(checkpoint_.input(), generation);
  start_backends(false);
  FAILPOINT("fresh: before reset");
  reset_all(generation);
  FAILPOINT("fresh: reset");
  finish_input();
  kick_all();
}

void RoleHost::kick_all() {
  for (Instance& instance : instances_) {
    for (std::uint32_t i = 0; i < instance.queues; ++i) kick(instance.first_kick + i);
    for (BackendState& backend : instance.backends) backend.stirs = true;
  }
}

ipc::Ticket RoleHost::published(ipc::Ticket ticket) const {
  return world_.requests->slots[ipc::slot_of(ticket)].ticket.load(std::memory_order_acquire);
}

bool RoleHost::can_be_last(ipc::Ticket ticket) const {
  // What was served is still in its slot, or gave way to the slot's next ticket; what comes next is there, or its
  // slot still holds what came before.
  const ipc::Ticket here = published(ticket);
  if (ticket != 0 && here != ticket && here != ticket + ipc::kSlots) return false;
  const ipc::Ticket next = ticket + 1;
  const ipc::Ticket there = published(next);
  return there == next || there + ipc::kSlots == next || (there == 0 && next <= ipc::kSlots);
}

void RoleHost::mend_input(ipc::InputRecord& input, std::uint32_t generation) const {
  input.reply.effect_count = static_cast<std::uint8_t>(std::min<std::uint32_t>(input.reply.effect_count, kMaxEffects));
  // The VMM's word counts. A state that is behind it waits for a reset, which is in the ring or will be at once.
  input.generation = generation;
  if (can_be_last(input.last_ticket)) return;
  // The ring knows better. Which of its requests were served is lost with the state: all of them are served again.
  ipc::Ticket newest = 0;
  for (ipc::Ticket slot = 0; slot < ipc::kSlots; ++slot) newest = std::max(newest, published(slot));
  input.last_ticket = newest > ipc::kSlots ? newest - ipc::kSlots : 0;
}

void RoleHost::mend_timers() {
  // Timers that no device has never fire: one of them in the past would keep us awake for ever.
  const std::uint32_t used =
      instances_.empty() ? 0U : std::uint32_t{instances_.back().first_timer} + instances_.back().timer_count;
  TimerState& timers = host_.timers.mut();
  std::fill(std::begin(timers.deadline) + used, std::end(timers.deadline), kTimerOff);
}

void RoleHost::resume(const control::TakeRole& setup) {
  FAILPOINT("resume: opened");
  attempts_.judge(setup.blame, checkpoint_.committed_input().last_ticket, checkpoint_.commits());
  FAILPOINT("resume: judged");
  // Both banks hold the last commit. Its bytes may be anything: the host's own part is brought into range
  // here, each model's part by the model.
  mend_input(checkpoint_.input(), setup.generation);
  mend_timers();
  StreamState& streams = host_.streams.mut();
  for (std::uint32_t i = 0; i < ipc::kStreams; ++i) {
    const std::uint64_t taken = world_.requests->output_consumed[i].load(std::memory_order_acquire);
    if (streams.produced[i] - taken > ipc::kOutputBytes) streams.produced[i] = taken;
    const std::uint64_t given = world_.requests->input_produced[i].load(std::memory_order_acquire);
    if (given - streams.consumed[i] > ipc::kInputBytes) streams.consumed[i] = given;
  }
  OutboundState& outbound = host_.outbound.mut();
  const std::uint64_t consumed = world_.requests->outbound_consumed.load(std::memory_order_acquire);
  if (outbound.produced - consumed > ipc::kOutboundEffects) outbound.produced = consumed;
  FAILPOINT("resume: mended");
  clock_.new_input();
  start_backends(true);
  for (Instance& instance : instances_) {
    instance.device->restore();
    FAILPOINT("resume: device restored");
  }
  // What restore() mended is committed as one input that changes nothing else; the last input's interrupts, which
  // both banks hold, are repeated with it.
  checkpoint_.commit();
  FAILPOINT("resume: committed");
  checkpoint_.sync();
  show(nullptr, true);
  drive_world();
  publish_streams();
  // The predecessor may have died between an index and its notice: the VMM's stream thread looks again in any case.
  signal_eventfd(world_.output_doorbell);
  FAILPOINT("resume: before replies");
  republish_after_takeover();
  FAILPOINT("resume: replies out");
  kick_all();  // what restore() submitted begins with the backends' first input, when the replies are out
  FAILPOINT("resume: done");
}

void RoleHost::republish_after_takeover() {
  // Replies of tickets before the last one were whole before it was taken; the last one comes from the
  // commit. From here on they carry this incarnation, so the VMM believes them again.
  const ipc::Ticket last = checkpoint_.committed_input().last_ticket;
  const ipc::Ticket first = last >= ipc::kSlots ? last - ipc::kSlots + 1 : 1;
  for (ipc::Ticket ticket = first; ticket < last; ++ticket) {
    ipc::ReplySlot& slot = world_.replies->slots[ipc::slot_of(ticket)];
    if (slot.ticket.load(std::memory_order_relaxed) == ticket) {
      slot.incarnation.store(incarnation_, std::memory_order_release);
      FAILPOINT("resume: older reply");
    } else if (published(ticket) == ticket) {
      // No honest predecessor took the next ticket before this one had its reply. Nobody shall wait for it for ever.
      publish_reply(ticket, dropped_reply());
    } else {
      continue;  // its slot serves a later ticket
    }
    wake_waiter(slot);
  }
  if (last == 0) return;
  publish_reply(last, checkpoint_.committed_input().reply);
  wake_waiter(world_.replies->slots[ipc::slot_of(last)]);
}

ipc::Reply RoleHost::dropped_reply() const {
  const ipc::InputRecord& input = checkpoint_.committed_input();
  ipc::Reply reply{.generation = input.generation, .status = ipc::ReplyStatus::kDropped};
  reply.effects_total = input.reply.effects_total;
  std::memset(reply.payload, 0xff, sizeof reply.payload);
  return reply;
}

}  // namespace bulkhead::devproc
