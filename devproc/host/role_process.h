// RoleProcess: a device process from the moment it receives its role to its end.
//
// It maps the regions that came with TakeRole, builds the devices, closes the role's own filter, says Ready
// and serves. Threading: single-threaded. Errors: a sentence, sent to the VMM as Failed.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "devproc/backends/io_ring.h"
#include "devproc/host/mapped_guest_memory.h"
#include "devproc/host/role_host.h"
#include "ipc/control/channel.h"
#include "ipc/shm/region.h"

namespace bulkhead::devproc {

class RoleProcess {
 public:
  // `rings`: how many io_urings this process was started with, from sandbox::kFirstRingFd on. `make_user_network`: of a
  // program that has one.
  explicit RoleProcess(control::ControlChannel& control, int rings = 0, MakeUserNetwork make_user_network = nullptr)
      : control_(control), make_user_network_(make_user_network), ring_count_(rings) {}

  // Waits for a role, plays it until the VMM closes the channel.
  Status run();

 private:
  Status take_role(const control::TakeRole& role, std::vector<UniqueFd> fds);
  Status take_ring_part(std::uint32_t part, UniqueFd fd);
  Status take_fd(const control::FdGrant& grant, UniqueFd fd);
  Status answer_check(const control::TakeRole& role);
  Status tell(const control::FromDevice& message);
  Status map_guest_ram(const control::TakeRole& role);
  Status keep_rings(const control::TakeRole& role);
  Status take_rings(const control::TakeRole& role);
  Status close_filter();
  Status serve();

  control::ControlChannel& control_;
  MakeUserNetwork make_user_network_;
  std::optional<ipc::ReadOnlyRegion> requests_;
  std::optional<ipc::WritableRegion> replies_;
  std::optional<ipc::WritableRegion> state_;
  std::list<ipc::WritableRegion> guest_ram_;
  std::vector<UniqueFd> ram_fds_;  // by FdGrant index, until mapped
  UniqueFd filter_;
  UniqueFd doorbell_;
  UniqueFd output_doorbell_;
  std::vector<UniqueFd> line_assert_;
  std::vector<UniqueFd> line_resample_;
  std::vector<UniqueFd> messages_;
  std::vector<UniqueFd> kicks_;
  std::vector<UniqueFd> backings_;
  std::optional<ipc::WritableRegion> ring_own_;
  std::optional<ipc::ReadOnlyRegion> ring_peer_;
  UniqueFd ring_peer_bell_;
  std::optional<ipc::WritableRegion> screen_;
  std::vector<ipc::ReadOnlyRegion> data_;  // in the order of their indexes
  int ring_count_;
  struct Ring {
    std::uint32_t backing;
    MappedRing mapped;
    std::optional<IoRing> ring;
    ipc::WritableRegion notes;
  };
  std::list<Ring> rings_;
  std::vector<UniqueFd> notes_fds_;  // by backing, until mapped
  MappedGuestMemory memory_;
  bool has_memory_ = false;
  RoleWorld world_;
  std::unique_ptr<RoleHost> host_;
};

}  // namespace bulkhead::devproc
