#include "tests/bench/guest_run.h"

#include <fcntl.h>

#include "sandbox/tracer.h"
#include "tests/bench/figures.h"

extern "C" {
extern const char exit_pairs_begin[];
extern const char exit_pairs_end[];
}

namespace bulkhead::bench {
namespace {

constexpr std::uint64_t kTables = 0x100000;
constexpr std::uint64_t kCode = 0x200000;
constexpr std::uint64_t kParameters = 0x300000;
constexpr std::uint64_t kStack = 0x400000;

}  // namespace

Result<vmm::BootRegisters> load_code(vmm::GuestRam& ram, std::span<const std::byte> code,
                                     std::span<const std::byte> parameters) {
  const vmm::User64Boot boot{.entry = kCode,
                             .stack = kStack,
                             .tables = kTables,
                             .kernel_stack = kStack + 0x10000,
                             .arguments = {kParameters, 0}};
  const vmm::BootTable tables = vmm::user64_tables(boot);
  if (!ram.write(tables.address, tables.bytes) || !ram.write(kCode, code) || !ram.write(kParameters, parameters))
    return make_error("the benchmark's payload does not fit guest memory");
  return vmm::user64_registers(boot);
}

Result<std::unique_ptr<vmm::VirtualMachine>> make_guest(const ExitPairs& parameters, const char* device,
                                                        vmm::VmOptions options) {
  ASSIGN_OR_RETURN(UniqueFd child_signals, sandbox::child_signal_fd());
  control::VmConfig config;
  config.name = "bench";
  config.memory_bytes = 64 << 20;
  config.devices = {{"debug_exit", {}}};
  if (device != nullptr) config.devices.push_back({device, {}});
  ASSIGN_OR_RETURN(config.files.device_executable, UniqueFd::open(program_path("bulkhead-device"), O_RDONLY));
  options.boot = [parameters](vmm::GuestRam& ram) {
    const std::span code(reinterpret_cast<const std::byte*>(exit_pairs_begin),
                         static_cast<std::size_t>(exit_pairs_end - exit_pairs_begin));
    return load_code(ram, code, std::as_bytes(std::span(&parameters, 1)));
  };
  return vmm::VirtualMachine::create(std::move(config), std::move(child_signals), std::move(options));
}

}  // namespace bulkhead::bench
