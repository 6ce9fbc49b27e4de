#include "tests/hostile/hostile_device.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "ipc/base/futex.h"
#include "ipc/base/log.h"
#include "ipc/ring/adaptive_wait.h"
#include "sandbox/enter.h"
#include "sandbox/filter.h"
#include "sandbox/policies.h"

namespace bulkhead::hostile {
namespace {

constexpr std::uint64_t kTestTime = 0x50;  // a register of the PCI test function that the guest's `v` alone reads

Status put(std::vector<UniqueFd>& fds, std::uint32_t index, UniqueFd fd) {
  if (fds.size() <= index) fds.resize(index + 1);
  fds[index] = std::move(fd);
  return ok();
}

std::vector<BorrowedFd> borrow_all(const std::vector<UniqueFd>& fds) {
  std::vector<BorrowedFd> all;
  for (const UniqueFd& fd : fds) all.push_back(fd.borrow());
  return all;
}

}  // namespace

Status HostileDevice::run() {
  RETURN_IF_ERROR(take_role());
  RETURN_IF_ERROR(become_ready());
  serve();
}

Status HostileDevice::take_role() {
  ASSIGN_OR_RETURN(control::Message message, control_.receive(control::no_deadline(), control::kMaxMessageFds));
  ASSIGN_OR_RETURN(const control::ToDevice decoded, control::decode_to_device(message.bytes, message.fds.size()));
  const auto* role = std::get_if<control::TakeRole>(&decoded);
  if (role == nullptr) return make_error("the first message of the VMM gave no role");
  role_ = role->role;
  incarnation_ = role->incarnation;
  for (std::size_t i = 0; i < role->fds.size(); ++i) RETURN_IF_ERROR(take_fd(role->fds[i], std::move(message.fds[i])));
  RETURN_IF_ERROR(map_guest_ram(*role));
  own_pages_.resize(ipc::kReplyAreaSize / sizeof(Page));
  std::memcpy(own_pages_.data()->bytes, replies_->bytes().data(), ipc::kReplyAreaSize);
  devproc::RoleWorld world{.requests = requests_->as<ipc::RequestArea>(),
                           .replies = &own_replies(),
                           .state = state_->bytes(),
                           .output_doorbell = output_doorbell_.borrow(),
                           .line_assert = borrow_all(lines_),
                           .line_resample = {},
                           .messages = borrow_all(messages_),
                           .kicks = {},
                           .backings = {},
                           .data = {},
                           .memory = guest_ram_.empty() ? nullptr : &memory_,
                           .ranges = nullptr};
  ASSIGN_OR_RETURN(host_, devproc::RoleHost::create(*role, std::move(world)));
  std::memcpy(replies_->bytes().data(), own_pages_.data()->bytes, ipc::kReplyAreaSize);
  return ok();
}

Status HostileDevice::take_fd(const control::FdGrant& grant, UniqueFd fd) {
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
    case control::FdPurpose::kOutputDoorbell: output_doorbell_ = std::move(fd); return ok();
    case control::FdPurpose::kRoleFilter: filter_ = std::move(fd); return ok();
    case control::FdPurpose::kLineAssert: return put(lines_, grant.index, std::move(fd));
    case control::FdPurpose::kMsiVector: return put(messages_, grant.index, std::move(fd));
    case control::FdPurpose::kGuestRam: return put(ram_fds_, grant.index, std::move(fd));
    default: kept_.push_back(std::move(fd)); return ok();
  }
}

Status HostileDevice::map_guest_ram(const control::TakeRole& role) {
  for (const control::GuestRange& range : role.guest_ram) {
    UniqueFd& fd = ram_fds_[role.fds[range.fd_index].index];
    if (fd.valid()) {
      struct stat info {};
      if (::fstat(fd.get(), &info) != 0) return make_errno_error("cannot tell the size of guest memory");
      ASSIGN_OR_RETURN(ipc::WritableRegion mapped,
                       ipc::WritableRegion::import(std::move(fd), static_cast<std::size_t>(info.st_size)));
      guest_ram_.push_back(std::move(mapped));
    }
    RETURN_IF_ERROR(memory_.add(range.guest_base, range.length, range.offset, guest_ram_.back()));
  }
  return ok();
}

Status HostileDevice::become_ready() {
  if (deed_ != nullptr && deed_->start != nullptr && !deed_->start(*this)) {
    for (;;) wait_a_little();
  }
  if (deed_ == nullptr || deed_->filtered) {
    ASSIGN_OR_RETURN(const sandbox::CompiledFilter filter, sandbox::import_filter(filter_.borrow()));
    RETURN_IF_ERROR(sandbox::load_filter(filter, sandbox::FilterScope::kProcess));
  }
  send(control::Ready{.layout_hash = host_->layout(),
                      .states = {host_->state_versions().begin(), host_->state_versions().end()}});
  return ok();
}

void HostileDevice::send(const control::FromDevice& message) {
  if (const Result<std::vector<std::byte>> bytes = control::encode(message))
    (void)control_.send(*bytes, control::deadline_in(std::chrono::seconds(1)));
}

// What the monitor guest does at `p`, `T` and `v` and nowhere else.
bool HostileDevice::sign_given() const {
  const ipc::Ticket next = host_->last_ticket() + 1;
  const ipc::RequestSlot& slot = requests().slots[ipc::slot_of(next)];
  if (slot.ticket.load(std::memory_order_acquire) != next) return false;
  const ipc::Request& request = slot.request;
  const bool write = request.kind == ipc::RequestKind::kWrite;
  if (role_ == "platform") return write && request.instance == 0 && request.offset == 0 && request.payload[0] == 'g';
  if (role_ == "pci") return write && request.size == 1 && request.offset == 7 && request.payload[0] == 2;
  return !write && request.region == 0 && request.offset == kTestTime;
}

void HostileDevice::serve() {
  for (;;) {
    if (deed_ != nullptr && !at_it_ && sign_given()) {
      at_it_ = true;
      if (deed_->once != nullptr) deed_->once(*this);
    }
    bool did = serve_request();
    did |= host_->handle_streams();
    did |= host_->next_deadline() <= ipc::monotonic_ns() && host_->handle_timers();
    if (did) show_streams();
    if (at_it_ && deed_->turn != nullptr) {
      deed_->turn(*this);
    } else if (!did) {
      wait_a_little();
    }
  }
}

bool HostileDevice::serve_request() {
  if (!host_->handle_request()) return false;
  const ipc::Ticket ticket = host_->last_ticket();
  const ipc::ReplyArea& own = own_replies();
  ipc::Reply reply = own.slots[ipc::slot_of(ticket)].reply;
  std::memcpy(&replies().effects[ipc::slot_of(ticket)], &own.effects[ipc::slot_of(ticket)], sizeof(ipc::EffectSlot));
  if (at_it_ && deed_->reply != nullptr && !deed_->reply(*this, ticket, reply)) return true;
  publish(ticket, reply);
  return true;
}

void HostileDevice::publish(ipc::Ticket ticket, const ipc::Reply& reply) {
  ipc::ReplySlot& slot = replies().slots[ipc::slot_of(ticket)];
  slot.reply = reply;
  slot.incarnation.store(incarnation_, std::memory_order_release);
  slot.ticket.exchange(ticket, std::memory_order_seq_cst);
  if (requests().waiter_asleep[ipc::slot_of(ticket)].load(std::memory_order_seq_cst) == 0) return;
  slot.wake.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(&slot.wake);
}

void HostileDevice::show_streams() {
  const ipc::ReplyArea& own = own_replies();
  for (std::uint32_t i = 0; i < ipc::kStreams; ++i) {
    const std::uint64_t produced = own.output_produced[i].load();
    if (replies().output_produced[i].load() != produced)
      std::memcpy(replies().output[i], own.output[i], sizeof own.output[i]);
    replies().output_produced[i].store(produced);
    replies().input_consumed[i].store(own.input_consumed[i].load());
  }
  if (const std::uint64_t produced = own.outbound_produced.load(); produced != outbound_shown_) {
    std::memcpy(replies().outbound, own.outbound, sizeof own.outbound);
    replies().outbound_produced.store(produced);
    outbound_shown_ = produced;
  }
  if (requests().pump_asleep.load() != 0) signal_eventfd(output_doorbell_.borrow());
}

// A turn without work. The VMM's end of the channel closes when the VM ends.
void HostileDevice::wait_a_little() {
  for (int i = 0; i < 200; ++i) ipc::cpu_relax();
  pollfd poll{control_.fd().get(), POLLIN, 0};
  if (::poll(&poll, 1, 1) <= 0) return;
  const Result<control::Message> message = control_.receive(control::no_wait());
  if (!message && message.error().error_number == control::kPeerClosed) ::_exit(0);
}

}  // namespace bulkhead::hostile

namespace {

using namespace bulkhead;

// "hostile.DEED.ROLE-...", and the role that this process plays.
const hostile::Deed* deed_of(std::string_view vm, std::string_view role) {
  const std::size_t first = vm.find('.');
  const std::size_t second = vm.find('.', first + 1);
  const std::size_t end = vm.find('-', second);
  if (end == std::string_view::npos || vm.substr(second + 1, end - second - 1) != role) return nullptr;
  return hostile::find_deed(vm.substr(first + 1, second - first - 1));
}

Status run(const hostile::Deed* deed) {
  RETURN_IF_ERROR(sandbox::enter_jail({}));
  ASSIGN_OR_RETURN(control::ControlChannel control, control::ControlChannel::adopt(UniqueFd(sandbox::kControlFd)));
  {
    const UniqueFd program(sandbox::kStandbyFilterFd);
    ASSIGN_OR_RETURN(const sandbox::CompiledFilter filter, sandbox::import_filter(program.borrow()));
    RETURN_IF_ERROR(sandbox::load_filter(filter, sandbox::FilterScope::kProcess));
  }
  hostile::HostileDevice device(control, deed);
  return device.run();
}

}  // namespace

// bulkhead-device --vm NAME --role ROLE
int main(int argc, char** argv) {
  const Status status = run(argc == 5 ? deed_of(argv[2], argv[4]) : nullptr);
  if (!status) write_log(LogLevel::kError, status.error().message);
  ::_exit(status ? 0 : 1);
}
