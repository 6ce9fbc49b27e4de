// HostileDevice: a device process that serves honestly until its guest gives the sign, and then does one
// evil deed.
//
// It takes its role as the real one does and runs the real models, but on a reply area of its own: what the
// VMM gets to see is copied from there, so that a deed can tamper with it. The VM's name says who does what
// ("hostile.DEED.ROLE-..."): a device process is told nothing else that a test could choose.
// Threading: single-threaded, as the role's filter demands.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "devproc/host/mapped_guest_memory.h"
#include "devproc/host/role_host.h"
#include "ipc/control/channel.h"
#include "ipc/shm/region.h"

namespace bulkhead::hostile {

class HostileDevice;

struct Deed {
  std::string_view name;
  // At the sign, before the request that gives it is served.
  void (*once)(HostileDevice&) = nullptr;
  // Then in every turn of the loop.
  void (*turn)(HostileDevice&) = nullptr;
  // And for every reply; false: it is not sent.
  bool (*reply)(HostileDevice&, ipc::Ticket, ipc::Reply&) = nullptr;
  // Instead of Ready, while the VM starts. False: it does not become ready.
  bool (*start)(HostileDevice&) = nullptr;
  bool filtered = true;  // whether it loads its role's filter
};

[[nodiscard]] const Deed* find_deed(std::string_view name);

class HostileDevice {
 public:
  HostileDevice(control::ControlChannel& control, const Deed* deed) : control_(control), deed_(deed) {}

  Status run();

  // What deeds work with.
  [[nodiscard]] const ipc::RequestArea& requests() const { return *requests_->as<ipc::RequestArea>(); }
  [[nodiscard]] ipc::ReplyArea& replies() { return *replies_->as<ipc::ReplyArea>(); }
  [[nodiscard]] control::ControlChannel& control() { return control_; }
  [[nodiscard]] devproc::RoleHost& host() { return *host_; }
  [[nodiscard]] BorrowedFd output_doorbell() const { return output_doorbell_.borrow(); }
  [[nodiscard]] std::uint64_t random() { return random_(); }
  void send(const control::FromDevice& message);
  void publish(ipc::Ticket ticket, const ipc::Reply& reply);
  void wait_a_little();  // a millisecond or so; ends the process when the VMM is gone

 private:
  struct alignas(4096) Page {
    std::byte bytes[4096]{};
  };

  Status take_role();
  Status take_fd(const control::FdGrant& grant, UniqueFd fd);
  Status map_guest_ram(const control::TakeRole& role);
  Status become_ready();
  [[noreturn]] void serve();
  [[nodiscard]] bool sign_given() const;
  bool serve_request();
  void show_streams();
  [[nodiscard]] ipc::ReplyArea& own_replies() { return *reinterpret_cast<ipc::ReplyArea*>(own_pages_[0].bytes); }

  control::ControlChannel& control_;
  const Deed* deed_;  // nullptr: this role is honest
  bool at_it_ = false;
  std::string role_;
  std::uint32_t incarnation_ = 1;
  std::optional<ipc::ReadOnlyRegion> requests_;
  std::optional<ipc::WritableRegion> replies_;
  std::vector<Page> own_pages_;  // the honest reply area
  std::optional<ipc::WritableRegion> state_;
  std::list<ipc::WritableRegion> guest_ram_;
  std::vector<UniqueFd> ram_fds_;
  std::vector<UniqueFd> lines_;
  std::vector<UniqueFd> messages_;
  std::vector<UniqueFd> kept_;
  UniqueFd filter_;
  UniqueFd output_doorbell_;
  devproc::MappedGuestMemory memory_;
  std::unique_ptr<devproc::RoleHost> host_;
  std::uint64_t outbound_shown_ = 0;
  std::mt19937_64 random_{1};
};

}  // namespace bulkhead::hostile
