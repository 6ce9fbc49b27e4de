#include "vmm/process/device_process.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <variant>

#include "ipc/base/log.h"
#include "ipc/state/checkpoint.h"

namespace bulkhead::vmm {

Result<std::unique_ptr<DeviceProcess>> DeviceProcess::create(
    const RolePlan& plan, std::span<const UniqueFd> files, const GuestRam& ram, ipc::EffectReceiver& effects,
    PendingBits& pending, ipc::RequestProducer::Options options, BarAccesses* bars, std::optional<FrameRingEnd> ring,
    FwCfgTransfers* transfers, BorrowedFd data, BorrowedFd screen) {
  std::unique_ptr<DeviceProcess> process(new DeviceProcess(plan, ram));
  process->frame_ring_ = ring;
  ASSIGN_OR_RETURN(process->requests_,
                   ipc::WritableRegion::create("bulkhead-requests", ipc::kRequestAreaSize, ipc::PeerRights::kReadOnly));
  // The device writes these two; here the replies are only read, and the state not even mapped.
  ASSIGN_OR_RETURN(const ipc::WritableRegion replies,
                   ipc::WritableRegion::create("bulkhead-replies", ipc::kReplyAreaSize, ipc::PeerRights::kReadWrite));
  ASSIGN_OR_RETURN(process->reply_fd_, UniqueFd::duplicate(replies.fd()));
  ASSIGN_OR_RETURN(UniqueFd reply_copy, UniqueFd::duplicate(replies.fd()));
  ASSIGN_OR_RETURN(process->replies_, ipc::ReadOnlyRegion::import(std::move(reply_copy), ipc::kReplyAreaSize));
  ASSIGN_OR_RETURN(const ipc::WritableRegion state,
                   ipc::WritableRegion::create("bulkhead-state", ipc::kStateRegionSize, ipc::PeerRights::kReadWrite));
  ASSIGN_OR_RETURN(process->state_fd_, UniqueFd::duplicate(state.fd()));
  ASSIGN_OR_RETURN(process->doorbell_, UniqueFd::create_eventfd());
  ASSIGN_OR_RETURN(process->output_doorbell_, UniqueFd::create_eventfd());
  RETURN_IF_ERROR(process->create_wires(files));
  ipc::RequestArea& requests = process->requests();
  requests.time.base_ns.store(ipc::monotonic_ns(), std::memory_order_relaxed);
  requests.time.frozen_at.store(ipc::kVmTimeRuns, std::memory_order_release);
  process->ring_ = std::make_unique<ipc::RequestProducer>(requests, process->replies(), process->doorbell_.borrow(),
                                                          effects, std::move(options));
  process->channel_ = std::make_unique<RemoteChannel>(*process->ring_, pending, bars, transfers);
  if (data.valid()) {
    ASSIGN_OR_RETURN(process->data_, UniqueFd::duplicate(data));
  }
  if (screen.valid()) {
    ASSIGN_OR_RETURN(process->screen_, UniqueFd::duplicate(screen));
  }
  return process;
}

Status DeviceProcess::create_wires(std::span<const UniqueFd> files) {
  for (std::size_t number = 0; number < plan_.instances.size(); ++number) {
    const InstancePlan& instance = plan_.instances[number];
    const auto i = static_cast<std::uint16_t>(number);
    for (const LinePlan& line_plan : instance.lines) {
      Line line{.plan = line_plan, .instance = i, .event = {}, .resample = {}};
      ASSIGN_OR_RETURN(line.event, UniqueFd::create_eventfd());
      if (line_plan.kind == LineKind::kLevel) {
        ASSIGN_OR_RETURN(line.resample, UniqueFd::create_eventfd());
      }
      lines_.push_back(std::move(line));
    }
    for (std::uint16_t vector = 0; vector < instance.type->messages; ++vector) {
      ASSIGN_OR_RETURN(UniqueFd event, UniqueFd::create_eventfd());
      messages_.push_back({i, std::move(event)});
    }
    for (std::uint16_t queue = 0; queue < instance.type->queues.count; ++queue) {
      ASSIGN_OR_RETURN(UniqueFd event, UniqueFd::create_eventfd());
      kicks_.push_back({i, queue, std::move(event)});
    }
    RETURN_IF_ERROR(open_backings(instance, files));
  }
  return ok();
}

Status DeviceProcess::open_backings(const InstancePlan& instance, std::span<const UniqueFd> files) {
  std::size_t next_file = instance.files.first;
  for (const BackingKind kind : backings_of(*instance.type, instance.config)) {
    switch (kind) {
      case BackingKind::kEntropy: {
        UniqueFd fd(::open("/dev/urandom", O_RDONLY | O_CLOEXEC));
        if (!fd.valid()) return make_errno_error("cannot open /dev/urandom");
        backings_.push_back(std::move(fd));
        break;
      }
      case BackingKind::kFrameRing: {
        if (!frame_ring_) return make_error(instance.name + " has no frame ring");
        ASSIGN_OR_RETURN(UniqueFd fd, UniqueFd::duplicate(frame_ring_->bell));
        bell_ = backings_.size();
        backings_.push_back(std::move(fd));
        break;
      }
      case BackingKind::kTap:
      case BackingKind::kPacketLink:
      case BackingKind::kPacketLinkWake:
      case BackingKind::kPacketLinkPeer:
      case BackingKind::kVsockListener:
      case BackingKind::kVsockConnector:
      case BackingKind::kDisk: {
        if (next_file >= files.size()) return make_error(instance.name + " has no file");
        ASSIGN_OR_RETURN(UniqueFd fd, UniqueFd::duplicate(files[next_file++].borrow()));
        if (const auto* disk = std::get_if<VirtioBlkConfig>(&instance.config); disk != nullptr && disk->disk.ring) {
          ASSIGN_OR_RETURN(DiskRing ring, DiskRing::create(fd.borrow()));
          rings_.push_back({static_cast<std::uint32_t>(backings_.size()), std::move(ring)});
        }
        if (kind == BackingKind::kTap) taps_.push_back(backings_.size());
        backings_.push_back(std::move(fd));
        break;
      }
    }
  }
  return ok();
}

std::vector<BorrowedFd> DeviceProcess::messages(std::uint16_t instance) const {
  std::vector<BorrowedFd> events;
  for (const Message& message : messages_) {
    if (message.instance == instance) events.push_back(message.event.borrow());
  }
  return events;
}

std::vector<BorrowedFd> DeviceProcess::rings() const {
  std::vector<BorrowedFd> all;
  for (const Ring& ring : rings_) all.push_back(ring.ring.fd());
  return all;
}

std::optional<std::uint64_t> DeviceProcess::file_size() const {
  std::optional<std::uint64_t> most;
  for (const InstancePlan& instance : plan_.instances) {
    const auto* disk = std::get_if<VirtioBlkConfig>(&instance.config);
    if (disk != nullptr) most = std::max(most.value_or(0), disk->disk.bytes);
  }
  return most;
}

bool DeviceProcess::tap_is_gone() const {
  return std::any_of(taps_.begin(), taps_.end(), [this](std::size_t tap) {
    // Linux, drivers/net/tun.c: a descriptor without an interface is in error, one whose interface is down is not.
    pollfd look{.fd = backings_[tap].get(), .events = 0, .revents = 0};
    return ::poll(&look, 1, 0) > 0 && (look.revents & POLLERR) != 0;
  });
}

void DeviceProcess::describe_instances(control::TakeRole& role) const {
  std::uint32_t regions = 0;
  std::uint32_t lines = 0;
  std::uint32_t streams = 0;
  std::uint32_t vectors = 0;
  std::uint32_t kicks = 0;
  std::uint32_t backings = 0;
  std::uint32_t data_regions = 0;
  for (const InstancePlan& plan : plan_.instances) {
    control::DeviceInstance instance;
    instance.name = plan.name;
    instance.type = std::string(plan.type->type);
    instance.config = plan.config;
    instance.regions = {regions, static_cast<std::uint32_t>(plan.regions.size())};
    instance.lines = {lines, static_cast<std::uint32_t>(plan.lines.size())};
    instance.streams = {streams, plan.type->streams};
    instance.vectors = {vectors, plan.type->messages};
    instance.kicks = {kicks, plan.type->queues.count};
    regions += instance.regions.count;
    lines += instance.lines.count;
    streams += instance.streams.count;
    vectors += instance.vectors.count;
    instance.backings = {backings, static_cast<std::uint32_t>(backing_count(*plan.type, plan.config))};
    kicks += instance.kicks.count;
    instance.data_regions = {data_regions, plan.type->data_regions};
    data_regions += instance.data_regions.count;
    backings += instance.backings.count;
    role.instances.push_back(std::move(instance));
  }
}

control::TakeRole DeviceProcess::describe_role(const std::string& vm, control::StartKind start) const {
  control::TakeRole role;
  role.role = plan_.name;
  role.vm = vm;
  role.incarnation = ring_->incarnation();
  role.generation = ring_->generation();
  role.start = start;
  describe_instances(role);
  return role;
}

Result<std::vector<std::byte>> DeviceProcess::check_role(const std::string& vm) const {
  return control::encode(control::ToDevice(describe_role(vm, control::StartKind::kCheck)));
}

Status DeviceProcess::set_frame_ring(const FrameRingEnd& ring, std::shared_ptr<const void> keeper) {
  if (!frame_ring_) return make_error(plan_.name + " has no frame ring");
  ASSIGN_OR_RETURN(UniqueFd bell, UniqueFd::duplicate(ring.bell));
  backings_[bell_] = std::move(bell);
  frame_ring_ = ring;
  frame_ring_keeper_ = std::move(keeper);
  return ok();
}

Status DeviceProcess::erase_state() {
  for (const auto& [fd, size] :
       {std::pair(reply_fd_.get(), ipc::kReplyAreaSize), std::pair(state_fd_.get(), ipc::kStateRegionSize)}) {
    if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(size)) != 0)
      return make_errno_error("cannot empty a device process's region");
  }
  return ok();
}

void DeviceProcess::settle_publication(std::uint64_t instruction) {
  constexpr auto kAt = static_cast<off_t>(offsetof(ipc::StateHeader, publication));
  constexpr auto kSize = static_cast<ssize_t>(sizeof(ipc::PublicationWords));
  std::uint64_t words[2] = {};
  static_assert(sizeof words == kSize);
  if (::pread(state_fd_.get(), words, sizeof words, kAt) != kSize || words[1] == 0) return;
  const ipc::SettledPublication settled = ipc::settle_publication(words[0], words[1], instruction);
  words[0] = settled.published;
  words[1] = settled.publish_mark;
  // A memory file: it fails for nobody. What a process did to its own region meanwhile is its own harm.
  if (::pwrite(state_fd_.get(), words, sizeof words, kAt) != kSize)
    log(LogLevel::kWarning, "{}: a publication could not be settled", plan_.name);
}

Result<DeviceProcess::Handover> DeviceProcess::take_role(const std::string& vm, control::StartKind start, bool blame,
                                                         BorrowedFd filter) const {
  control::TakeRole role = describe_role(vm, start);
  role.blame = blame;
  Handover handover;
  const auto grant = [&](control::FdPurpose purpose, std::uint32_t index, BorrowedFd fd) {
    role.fds.push_back({purpose, index});
    handover.fds.push_back(fd);
  };
  using control::FdPurpose;
  grant(FdPurpose::kRequestRegion, 0, requests_.fd());
  grant(FdPurpose::kReplyRegion, 0, reply_fd_.borrow());
  grant(FdPurpose::kStateRegion, 0, state_fd_.borrow());
  grant(FdPurpose::kRequestDoorbell, 0, doorbell_.borrow());
  grant(FdPurpose::kOutputDoorbell, 0, output_doorbell_.borrow());
  grant(FdPurpose::kRoleFilter, 0, filter);
  for (std::uint32_t i = 0; i < lines_.size(); ++i) {
    grant(FdPurpose::kLineAssert, i, lines_[i].event.borrow());
    if (lines_[i].resample.valid()) grant(FdPurpose::kLineResample, i, lines_[i].resample.borrow());
  }
  for (std::uint32_t i = 0; i < messages_.size(); ++i) grant(FdPurpose::kMsiVector, i, messages_[i].event.borrow());
  for (std::uint32_t i = 0; i < kicks_.size(); ++i) grant(FdPurpose::kQueueKick, i, kicks_[i].event.borrow());
  for (std::uint32_t i = 0; i < backings_.size(); ++i) grant(FdPurpose::kBacking, i, backings_[i].borrow());
  if (frame_ring_) {
    const auto part = [](control::FrameRingPart which) { return static_cast<std::uint32_t>(which); };
    grant(FdPurpose::kFrameRing, part(control::FrameRingPart::kOwnArea), frame_ring_->own);
    grant(FdPurpose::kFrameRing, part(control::FrameRingPart::kPeerArea), frame_ring_->peer);
    grant(FdPurpose::kFrameRing, part(control::FrameRingPart::kPeerBell), frame_ring_->peer_bell);
  }
  if (screen_.valid()) grant(FdPurpose::kScreenRegion, 0, screen_.borrow());
  if (data_.valid()) grant(FdPurpose::kDataRegion, 0, data_.borrow());
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    grant(FdPurpose::kBulkRegion, rings_[i].backing, rings_[i].ring.notes());
    role.rings.push_back(rings_[i].ring.grant(static_cast<std::uint32_t>(first_ring_) + static_cast<std::uint32_t>(i),
                                              rings_[i].backing));
  }
  if (plan_.guest_memory()) {
    const auto fd_index = static_cast<std::uint32_t>(role.fds.size());
    grant(FdPurpose::kGuestRam, 0, ram_.fd());
    for (const RamRange& range : ram_ranges(ram_.layout()))
      role.guest_ram.push_back({range.guest_address, range.size, fd_index, range.offset});
  }
  ASSIGN_OR_RETURN(handover.bytes, control::encode(control::ToDevice(std::move(role))));
  return handover;
}

}  // namespace bulkhead::vmm
