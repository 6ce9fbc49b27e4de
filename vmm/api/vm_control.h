// VmControl: what the management server may ask of the VM. The VM implements it; tests fake it.
// Threading: called on the server's thread, one call at a time. Each call must return within a bounded time
// (a second or two at most), since the server answers nobody meanwhile. upgrade() and restore() are called on a thread
// of their own, one at a time, beside the others, and may take some seconds; so are pause(), resume() and reset(), on
// another one. An Error is one sentence and goes to the client as it is.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/control/management.h"
#include "ipc/control/vm_config.h"
#include "ipc/screen/vga_registers.h"
#include "ipc/wire/input_event.h"
#include "vmm/process/device_events.h"

namespace bulkhead::vmm {

class VmControl {
 public:
  virtual ~VmControl() = default;
  virtual Result<control::VmStatus> status() = 0;
  virtual Result<std::vector<control::DeviceInfo>> devices() = 0;
  virtual Status power_button() = 0;  // returns once it is pressed, not once the guest is off
  virtual Status kill() = 0;          // returns once the end is on its way; the answer must still go out
  virtual Status pause() = 0;
  virtual Status resume() = 0;
  virtual Status reset() = 0;
  // Empty: every instance.
  virtual Result<std::vector<control::InspectedInstance>> inspect(const std::string& instance) = 0;
  // Sends a signal to a device process (a fault drill): SIGKILL, SIGSEGV, SIGSTOP or SIGABRT.
  virtual Status fault(const std::string& role, int signal) = 0;
  // Puts another executable under a running device.
  virtual Status upgrade(const std::string& role, const std::string& executable_path) = 0;
  // Brings an isolated device back, from reset.
  virtual Status restore(const std::string& role) = 0;
  // Sets rate limits of a device instance, as properties of --disk and --net name them; what is not named stays. Called
  // on the thread of upgrade() and restore().
  virtual Status limit(const std::string& instance, const std::vector<control::Property>& properties) = 0;
  // How much memory the guest is to give up; it does so in its own time.
  virtual Status set_balloon(std::uint64_t bytes) = 0;
  // What the VGA shows, and what its memory holds: `length` bytes, at most kMaxVideoPart.
  virtual Result<screen::VgaRegisters> screen() = 0;
  virtual Result<std::span<const std::byte>> video_memory(std::uint64_t offset, std::uint32_t length) = 0;
  // Keys and mouse, in order. An Error: the guest does not read what came before.
  virtual Status send_input(std::span<const InputEvent> events) = 0;
  // The first serial port: what came out of it since `after`, and bytes for it, all or none.
  virtual Result<control::ConsoleOutput> console(std::uint64_t after) = 0;
  virtual Status type_on_console(std::span<const std::byte> bytes) = 0;
  // Valid as long as the VM.
  virtual DeviceEvents& events() = 0;
};

}  // namespace bulkhead::vmm
