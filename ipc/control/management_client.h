// ManagementClient: a manager's end of the management socket. Blocking calls, each with a deadline.
// Hides Cap'n Proto RPC and KJ; no exception leaves. Threading: one thread per object; at most one object
// per thread (a KJ event loop belongs to its thread).
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/base/unique_fd.h"
#include "ipc/control/management.h"
#include "ipc/control/vm_config.h"
#include "ipc/screen/vga_registers.h"
#include "ipc/wire/input_event.h"

namespace bulkhead::control {

class ManagementClient {
 public:
  // `socket`: connected, from RunDirectory::connect().
  static Result<std::unique_ptr<ManagementClient>> create(UniqueFd socket,
                                                          std::chrono::milliseconds timeout = std::chrono::seconds(10));

  virtual ~ManagementClient() = default;
  virtual Result<VmStatus> status() = 0;
  virtual Result<std::vector<DeviceInfo>> devices() = 0;
  virtual Status power_button() = 0;
  virtual Status kill() = 0;
  virtual Status pause() = 0;
  virtual Status resume() = 0;
  virtual Status reset() = 0;
  virtual Result<std::vector<InspectedInstance>> inspect(const std::string& instance) = 0;
  // `role`: as in DeviceInfo, or "standby".
  virtual Status fault(const std::string& role, int signal) = 0;
  // These two may take as long as a VM needs to replace a process (kReplacePatience).
  virtual Status upgrade(const std::string& role, const std::string& path) = 0;
  virtual Status restore(const std::string& role) = 0;
  // Rate limits of a device instance, as --disk and --net name them; what is not named stays.
  virtual Status limit(const std::string& instance, const std::vector<Property>& properties) = 0;
  virtual Status set_balloon(std::uint64_t bytes) = 0;
  virtual Result<screen::VgaRegisters> screen() = 0;
  // At most kMaxVideoPart bytes.
  virtual Result<std::vector<std::byte>> video_memory(std::uint64_t offset, std::uint32_t length) = 0;
  // At most kMaxInputEvents.
  virtual Status send_input(std::span<const InputEvent> events) = 0;
  // Of the first serial port: what came out from position `after` on, as far as it is kept.
  virtual Result<ConsoleOutput> console(std::uint64_t after) = 0;
  // At most kMaxConsoleInput bytes; all of them are taken, or none.
  virtual Status type_on_console(std::span<const std::byte> bytes) = 0;
  // Those after number `after`. With `wait` the answer comes with the next one, or empty after kEventsPatience.
  virtual Result<std::vector<DeviceEvent>> events(std::uint64_t after, bool wait) = 0;
};

}  // namespace bulkhead::control
