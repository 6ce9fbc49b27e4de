#include "devproc/host/role_process.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "devproc/host/event_loop.h"
#include "ipc/base/log.h"
#include "ipc/state/ring_notes.h"
#include "sandbox/filter.h"
#include "sandbox/policies.h"

namespace bulkhead::devproc {
namespace {

Result<std::size_t> file_size(BorrowedFd fd) {
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || info.st_size < 0) return make_errno_error("cannot tell the size of a region");
  return static_cast<std::size_t>(info.st_size);
}

Status put(std::vector<UniqueFd>& fds, std::uint32_t index, std::uint32_t limit, UniqueFd fd) {
  if (index >= limit) return make_error("a descriptor came with an index that is out of range");
  if (fds.size() <= index) fds.resize(index + 1);
  fds[index] = std::move(fd);
  return ok();
}

std::vector<BorrowedFd> borrow_all(const std::vector<UniqueFd>& fds) {
  std::vector<BorrowedFd> all;
  all.reserve(fds.size());
  for (const UniqueFd& fd : fds) all.push_back(fd.borrow());
  return all;
}

std::vector<std::span<const std::byte>> data_spans(const std::vector<ipc::ReadOnlyRegion>& regions) {
  std::vector<std::span<const std::byte>> spans;
  for (const ipc::ReadOnlyRegion& region : regions) spans.push_back(region.bytes());
  return spans;
}

}  // namespace

Status RoleProcess::run() {
  for (;;) {
    Result<control::Message> message = control_.receive(control::no_deadline(), control::kMaxMessageFds);
    // A standby that is not needed any more sees the channel close before it ever got a role.
    if (!message && message.error().error_number == control::kPeerClosed) return ok();
    if (!message) return message.error();
    ASSIGN_OR_RETURN(const control::ToDevice decoded, control::decode_to_device(message->bytes, message->fds.size()));
    const auto* role = std::get_if<control::TakeRole>(&decoded);
    if (role == nullptr) return make_error("the first message of the VMM gave no role");
    if (role->start == control::StartKind::kCheck) {
      RETURN_IF_ERROR(answer_check(*role));
      continue;
    }
    Status taken = take_role(*role, std::move(message->fds));
    if (!taken) {
      // Whoever is told says it; twice would be once too often.
      if (tell(control::Failed{taken.error().message})) ::_exit(EXIT_FAILURE);
      return taken;
    }
    return serve();
  }
}

Status RoleProcess::answer_check(const control::TakeRole& role) {
  Result<control::Ready> ready = RoleHost::describe(role, make_user_network_);
  if (!ready) return tell(control::Failed{ready.error().message});
  return tell(std::move(*ready));
}

Status RoleProcess::tell(const control::FromDevice& message) {
  ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, control::encode(message));
  return control_.send(bytes, control::deadline_in(std::chrono::seconds(1)));
}

Status RoleProcess::take_role(const control::TakeRole& role, std::vector<UniqueFd> fds) {
  set_log_role(role.role);
  RETURN_IF_ERROR(keep_rings(role));
  for (std::size_t i = 0; i < role.fds.size(); ++i) RETURN_IF_ERROR(take_fd(role.fds[i], std::move(fds[i])));
  if (!requests_ || !replies_ || !state_ || !doorbell_.valid() || !output_doorbell_.valid())
    return make_error("the role came without its regions and doorbells");
  if (requests_->as<ipc::RequestArea>()->magic != ipc::kAreaMagic)
    return make_error("the request area has another layout than this program's");
  RETURN_IF_ERROR(map_guest_ram(role));
  RETURN_IF_ERROR(take_rings(role));
  world_ = RoleWorld{.requests = requests_->as<ipc::RequestArea>(),
                     .replies = replies_->as<ipc::ReplyArea>(),
                     .state = state_->bytes(),
                     .output_doorbell = output_doorbell_.borrow(),
                     .line_assert = borrow_all(line_assert_),
                     .line_resample = borrow_all(line_resample_),
                     .messages = borrow_all(messages_),
                     .kicks = borrow_all(kicks_),
                     .backings = borrow_all(backings_),
                     .data = data_spans(data_),
                     .memory = has_memory_ ? &memory_ : nullptr,
                     .ranges = has_memory_ ? &memory_ : nullptr,
                     .ring = {},
                     .make_user_network = make_user_network_,
                     .rings = {},
                     .screen = screen_ ? screen_->bytes() : std::span<std::byte>()};
  if (ring_own_ && ring_peer_ && ring_peer_bell_.valid())
    world_.ring = {.own = ring_own_->as<ipc::FrameRingArea>(),
                   .peer = ring_peer_->as<ipc::FrameRingArea>(),
                   .bell = {},
                   .peer_bell = ring_peer_bell_.borrow()};
  for (Ring& ring : rings_) {
    if (world_.rings.size() <= ring.backing) world_.rings.resize(ring.backing + 1);
    world_.rings[ring.backing] = {&*ring.ring, ring.mapped.fd(), ring.notes.as<ipc::RingNotes>()};
  }
  ASSIGN_OR_RETURN(host_, RoleHost::create(role, world_));
  return ok();
}

Status RoleProcess::take_fd(const control::FdGrant& grant, UniqueFd fd) {
  switch (grant.purpose) {
    case control::FdPurpose::kRequestRegion: {
      ASSIGN_OR_RETURN(requests_, ipc::ReadOnlyRegion::import(std::move(fd), ipc::kRequestAreaSize));
      return ok();
    }
    case control::FdPurpose::kReplyRegion: {
      ASSIGN_OR_RETURN(replies_, ipc::WritableRegion::import(std::move(fd), ipc::kReplyAreaSize));
      return ok();
    }
    case control::FdPurpose::kStateRegion: {
      ASSIGN_OR_RETURN(state_, ipc::WritableRegion::import(std::move(fd), ipc::kStateRegionSize));
      return ok();
    }
    case control::FdPurpose::kRequestDoorbell: doorbell_ = std::move(fd); return ok();
    case control::FdPurpose::kOutputDoorbell: output_doorbell_ = std::move(fd); return ok();
    case control::FdPurpose::kRoleFilter: filter_ = std::move(fd); return ok();
    case control::FdPurpose::kLineAssert: return put(line_assert_, grant.index, kMaxLines, std::move(fd));
    case control::FdPurpose::kLineResample: return put(line_resample_, grant.index, kMaxLines, std::move(fd));
    case control::FdPurpose::kMsiVector: return put(messages_, grant.index, kMaxMessages, std::move(fd));
    case control::FdPurpose::kGuestRam: return put(ram_fds_, grant.index, control::kMaxGuestRanges, std::move(fd));
    case control::FdPurpose::kQueueKick: return put(kicks_, grant.index, kMaxKicks, std::move(fd));
    case control::FdPurpose::kBacking: return put(backings_, grant.index, kMaxBackings, std::move(fd));
    case control::FdPurpose::kFrameRing: return take_ring_part(grant.index, std::move(fd));
    case control::FdPurpose::kDataRegion: {
      if (grant.index != data_.size()) return make_error("regions of data came out of order");
      ASSIGN_OR_RETURN(const std::size_t size, file_size(fd.borrow()));
      ASSIGN_OR_RETURN(ipc::ReadOnlyRegion region, ipc::ReadOnlyRegion::import(std::move(fd), size));
      data_.push_back(std::move(region));
      return ok();
    }
    case control::FdPurpose::kScreenRegion: {
      ASSIGN_OR_RETURN(screen_, ipc::WritableRegion::import(std::move(fd), screen::kScreenRegionSize));
      return ok();
    }
    case control::FdPurpose::kBulkRegion: return put(notes_fds_, grant.index, kMaxBackings, std::move(fd));
    case control::FdPurpose::kStreamRegion: break;
  }
  return make_error("the role came with a descriptor that none of its devices uses");
}

Status RoleProcess::take_ring_part(std::uint32_t part, UniqueFd fd) {
  switch (static_cast<control::FrameRingPart>(part)) {
    case control::FrameRingPart::kOwnArea: {
      ASSIGN_OR_RETURN(ring_own_, ipc::WritableRegion::import(std::move(fd), ipc::kFrameRingAreaSize));
      return ok();
    }
    case control::FrameRingPart::kPeerArea: {
      ASSIGN_OR_RETURN(ring_peer_, ipc::ReadOnlyRegion::import(std::move(fd), ipc::kFrameRingAreaSize));
      return ok();
    }
    case control::FrameRingPart::kPeerBell: ring_peer_bell_ = std::move(fd); return ok();
  }
  return make_error("the role came with an unknown part of a frame ring");
}

Status RoleProcess::map_guest_ram(const control::TakeRole& role) {
  // GuestRange::fd_index counts the message's descriptors; several ranges may share one.
  std::vector<const ipc::WritableRegion*> regions(role.fds.size(), nullptr);
  for (const control::GuestRange& range : role.guest_ram) {
    if (range.fd_index >= role.fds.size() || role.fds[range.fd_index].purpose != control::FdPurpose::kGuestRam)
      return make_error("a range of guest memory names no guest memory");
    const ipc::WritableRegion*& region = regions[range.fd_index];
    if (region == nullptr) {
      UniqueFd& fd = ram_fds_[role.fds[range.fd_index].index];
      ASSIGN_OR_RETURN(const std::size_t size, file_size(fd.borrow()));
      ASSIGN_OR_RETURN(ipc::WritableRegion mapped, ipc::WritableRegion::import(std::move(fd), size));
      guest_ram_.push_back(std::move(mapped));
      region = &guest_ram_.back();
    }
    RETURN_IF_ERROR(memory_.add(range.guest_base, range.length, range.offset, *region));
    has_memory_ = true;
  }
  return ok();
}

// Those of other roles are closed before anything is read that a guest or a predecessor may have written.
Status RoleProcess::keep_rings(const control::TakeRole& role) {
  std::vector<bool> keep(static_cast<std::size_t>(ring_count_));
  for (const control::RingGrant& grant : role.rings) {
    const std::uint32_t number = grant.descriptor - sandbox::kFirstRingFd;
    if (number >= keep.size() || keep[number] || grant.backing >= kMaxBackings)
      return make_error("the role came with a ring that this process was not started with");
    keep[number] = true;
  }
  for (std::size_t i = 0; i < keep.size(); ++i) {
    if (!keep[i]) ::close(sandbox::kFirstRingFd + static_cast<int>(i));
  }
  return ok();
}

Status RoleProcess::take_rings(const control::TakeRole& role) {
  for (const control::RingGrant& grant : role.rings) {
    static_assert(sizeof(io_uring_params) == control::RingGrant::kParamsSize);
    io_uring_params params;
    std::memcpy(&params, grant.params.data(), sizeof params);
    if (grant.backing >= notes_fds_.size() || !notes_fds_[grant.backing].valid())
      return make_error("a ring came without its notes");
    ASSIGN_OR_RETURN(ipc::WritableRegion notes,
                     ipc::WritableRegion::import(std::move(notes_fds_[grant.backing]), ipc::kRingNotesSize));
    ASSIGN_OR_RETURN(MappedRing mapped, MappedRing::map(UniqueFd(static_cast<int>(grant.descriptor)), params));
    // The ring calls its mapping's kernel side, so that has to stay where it is from here on.
    rings_.push_back(Ring{grant.backing, std::move(mapped), std::nullopt, std::move(notes)});
    Ring& ring = rings_.back();
    ASSIGN_OR_RETURN(ring.ring, IoRing::create(params, ring.mapped.memory(), ring.mapped));
  }
  return ok();
}

Status RoleProcess::close_filter() {
  if (!filter_.valid()) return make_error("the role came without its system-call filter");
  ASSIGN_OR_RETURN(const sandbox::CompiledFilter filter, sandbox::import_filter(filter_.borrow()));
  filter_.reset();
  return sandbox::load_filter(filter, sandbox::FilterScope::kProcess);
}

Status RoleProcess::serve() {
  ASSIGN_OR_RETURN(EventLoop loop, EventLoop::create(*host_, *world_.requests, doorbell_.borrow(), world_.line_resample,
                                                     world_.kicks, control_));
  control::Ready ready{.layout_hash = host_->layout(),
                       .states = {host_->state_versions().begin(), host_->state_versions().end()}};
  ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, control::encode(ready));
  RETURN_IF_ERROR(close_filter());
  RETURN_IF_ERROR(control_.send(bytes, control::deadline_in(std::chrono::seconds(1))));
  const Status ended = loop.run();
  if (!ended) log(LogLevel::kError, "{}", ended.error().message);
  // Destructors would close descriptors, which the role's filter forbids, and the kernel does it anyway.
  ::_exit(ended ? EXIT_SUCCESS : EXIT_FAILURE);
}

}  // namespace bulkhead::devproc
