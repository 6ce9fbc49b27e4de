// The inputs of device processes that the fault tests kill them on: one table for every way of dying, what
// a guest and a VMM can see of an input, and how that may differ from an undisturbed run (repeated
// interrupts, nothing else).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "ipc/screen/scan_out.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {

struct Seen;

// One input of one role: what leads up to it, what it is, and what can be seen afterwards.
struct Scenario {
  std::string name;
  RoleSetup (*setup)();
  std::vector<ipc::Request> before;
  std::vector<ipc::Request> input;             // requests that wait in the ring
  std::function<void(RoleRig&)> arrange = {};  // streams, time: right before the input
  std::function<void(RoleRig&)> settle = {};   // after what arrange() set off was served
  std::vector<ipc::Request> after;             // what the guest does next
  bool poisoned = false;                       // the first request of `input` has killed three processes already
  std::uint64_t asserted = 0;                  // lines that are up before the input: a successor raises them again
  std::function<bool(const Seen&)> did = {};   // whether an undisturbed run did what the input is about
};
void PrintTo(const Scenario& scenario, std::ostream* out);

std::vector<Scenario> scenarios();
// Those of virtio devices (inputs_virtio.cc).
void virtio_inputs(const std::function<void(Scenario)>& add);
// Those of the e1000 (inputs_e1000.cc).
void e1000_inputs(const std::function<void(Scenario)>& add);
// Those of the VGA (inputs_vga.cc).
void vga_inputs(const std::function<void(Scenario)>& add);
// Those of console, balloon and sockets (inputs_devices.cc).
void device_inputs(const std::function<void(Scenario)>& add);
std::vector<Scenario> scenarios_named(std::initializer_list<std::string_view> names);

// What can be seen from outside, of the input and of what the guest does next.
struct Seen {
  std::vector<Answer> answers;
  std::vector<std::string> output;
  std::vector<std::uint64_t> consumed;
  std::vector<Effect> outbound;
  std::string inspect;
  std::vector<std::byte> memory;
  std::optional<screen::VgaRegisters> shown;  // in the scan-out block
  std::vector<std::byte> disk;
  std::vector<RigWire::Frame> sent;  // each frame once, however often it was sent
  std::size_t sent_times = 0;
  std::uint64_t received_lost = 0;  // more than what was lost: the card's counter
  Outside outside;
  // What was signalled up to the end of the input that made this commit. A successor does not do it again when a later
  // commit is the last one.
  struct Signalled {
    std::uint64_t commit = 0;
    Outside all;
  };
  std::vector<Signalled> signalled;
  std::optional<std::uint64_t> died_at;  // the predecessor's last commit
  std::uint64_t asserted = 0;
};

// Serves whatever there is, as the event loop does, and calls `after_each` when something was. False: it never comes to
// rest.
bool serve(RoleHost& host, const std::function<void()>& after_each = {});
// The same, and the disk goes on when the role has nothing to do, until it has come to rest as well.
bool serve_with_disk(RoleRig& rig, const std::function<void()>& after_each = {});

// Brings a role to where the input is about to be taken. On `where` its regions are shared with processes
// forked later.
std::unique_ptr<RoleRig> prepare(const Scenario& scenario,
                                 std::pmr::memory_resource* where = std::pmr::get_default_resource());
// Puts the input's requests into the ring; the first one's ticket.
ipc::Ticket submit_input(RoleRig& rig, const Scenario& scenario);
// Serves the input, each part of it once: what the dying process is doing.
void run_input(RoleRig& rig);

Seen observe(RoleRig& rig, ipc::Ticket first, const Scenario& scenario);
Seen undisturbed(const Scenario& scenario);
// Empty when nothing that was shown to the world in `dead` is taken back by its successor, which has only
// just taken over: a guest may have acted on it.
std::string taken_back(const RoleRig::Regions& dead, const RoleRig& successor);
// Empty when a guest cannot tell `found` from `wanted`.
std::string difference(const Seen& found, const Seen& wanted);

}  // namespace bulkhead::devproc
