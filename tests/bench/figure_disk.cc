// blk_kill_stall, dev_pss: what the death of a disk's process costs its guest, and what a NIC's or disk's process
// holds.
//
// A guest at CPL 3 brings up a virtio-blk queue and reads 4 KiB after 4 KiB, one request in flight at every moment but
// for a store or two. All of its 1 GiB of RAM is touched, and its buffers go through it in strides that touch every
// page table of the device process, whose teardown is what a successor waits for.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "ipc/roles/virtio_decl.h"
#include "sandbox/tracer.h"
#include "tests/bench/figures.h"
#include "tests/bench/guest_run.h"
#include "tests/bench/stalls.h"

extern "C" {
extern const char disk_reads_begin[];
extern const char disk_reads_end[];
}

namespace bulkhead::bench {
namespace {

constexpr int kKills = 500;
constexpr std::uint64_t kRam = 1 << 30;
constexpr std::uint64_t kDiskBytes = 16 << 20;  // disk_reads.S goes through 2^15 sectors
constexpr ResultArea kResults{0x1000000, 12'000'000};
constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kSlot = 3;

// Guest-physical places.
constexpr std::uint64_t kScript = 0x500000;
constexpr std::uint64_t kDescriptors = 0x510000;
constexpr std::uint64_t kAvailable = 0x511000;
constexpr std::uint64_t kUsed = 0x512000;
constexpr std::uint64_t kHeader = 0x513000;
constexpr std::uint64_t kBuffers = 0x8000000;
constexpr std::uint64_t kRegisters = 0xe0000000;
constexpr std::uint64_t kDoorbells = 0xe0010000;
constexpr std::uint32_t kQueueSize = 128;

// What disk_reads.S finds at RDI.
struct DiskReads {
  std::uint64_t count = kResults.count;
  std::uint64_t results = kResults.address;
  std::uint64_t script = kScript;
  std::uint64_t descriptors = kDescriptors;
  std::uint64_t available = kAvailable;
  std::uint64_t used = kUsed;
  std::uint64_t doorbell = kDoorbells;
  std::uint64_t header = kHeader;
  std::uint64_t first_buffer = kBuffers;
  std::uint64_t stride = 257 * kPage;
  std::uint64_t buffers_end = kRam;
};

struct RegisterWrite {
  std::uint64_t address;  // below 64 Ki: a port
  std::uint32_t value;
  std::uint32_t width;
};

struct Descriptor {  // VIRTIO 1.2, section 2.7.5
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};

std::vector<RegisterWrite> set_up() {
  std::vector<RegisterWrite> script;
  const auto config = [&](std::uint32_t offset, std::uint32_t value, std::uint32_t width) {
    script.push_back({0xcf8, static_cast<std::uint32_t>(0x80000000 | kSlot << 11 | offset), 4});
    script.push_back({0xcfc, value, width});
  };
  config(0x10, kRegisters, 4);
  config(0x14, kDoorbells, 4);
  config(0x04, 0x406, 2);  // memory space, bus master, no INTx
  const auto common = [&](std::uint32_t offset, std::uint64_t value, std::uint32_t width) {
    script.push_back({kRegisters + kVirtioCommonOffset + offset, static_cast<std::uint32_t>(value), width});
  };
  for (const std::uint32_t status : {0x00, 0x01, 0x03}) common(0x14, status, 1);
  common(0x08, 1, 4);
  common(0x0c, 1, 4);  // VIRTIO_F_VERSION_1, and nothing else
  common(0x14, 0x0b, 1);
  common(0x16, 0, 2);
  common(0x18, kQueueSize, 2);
  common(0x20, kDescriptors, 4);
  common(0x24, 0, 4);
  common(0x28, kAvailable, 4);
  common(0x2c, 0, 4);
  common(0x30, kUsed, 4);
  common(0x34, 0, 4);
  common(0x1c, 1, 2);
  common(0x14, 0x0f, 1);
  script.push_back({});
  return script;
}

Result<vmm::BootRegisters> load_reader(vmm::GuestRam& ram) {
  const std::vector<std::byte> ones(1 << 20, std::byte{1});
  for (std::uint64_t at = kBuffers; at < kRam; at += ones.size()) {
    if (!ram.write(at, ones)) return make_error("the benchmark's guest has too little memory");
  }
  const std::array<Descriptor, 3> chain{{{kHeader, 16, 1, 1}, {kBuffers, kPage, 3, 2}, {kHeader + 16, 1, 2, 0}}};
  const std::vector<RegisterWrite> script = set_up();
  const std::uint16_t no_interrupt = 1;
  if (!ram.write(kScript, std::as_bytes(std::span(script))) ||
      !ram.write(kDescriptors, std::as_bytes(std::span(chain))) || !ram.store(kAvailable, no_interrupt))
    return make_error("the benchmark's payload does not fit guest memory");
  const std::span code(reinterpret_cast<const std::byte*>(disk_reads_begin),
                       static_cast<std::size_t>(disk_reads_end - disk_reads_begin));
  const DiskReads parameters;
  return load_code(ram, code, std::as_bytes(std::span(&parameters, 1)));
}

Result<UniqueFd> make_disk() {
  UniqueFd disk(::open("/var/tmp", O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600));
  if (!disk.valid()) return make_errno_error("cannot make a disk in /var/tmp that takes O_DIRECT");
  constexpr std::size_t kPiece = 1 << 20;
  alignas(4096) static std::array<std::byte, kPiece> bytes{};
  bytes.fill(std::byte{0x5a});
  for (std::uint64_t at = 0; at < kDiskBytes; at += kPiece) {
    if (::pwrite(disk.get(), bytes.data(), kPiece, static_cast<off_t>(at)) != static_cast<ssize_t>(kPiece))
      return make_errno_error("cannot write a disk in /var/tmp");
  }
  return disk;
}

Result<std::unique_ptr<vmm::VirtualMachine>> make_reader() {
  ASSIGN_OR_RETURN(UniqueFd disk, make_disk());
  ASSIGN_OR_RETURN(UniqueFd child_signals, sandbox::child_signal_fd());
  control::VmConfig config;
  config.name = "bench";
  config.memory_bytes = kRam;
  config.devices = {{"debug_exit", {}},
                    {.type = "virtio_blk",
                     .properties = {{"path", "/var/tmp"}, {"direct", "on"}, {"aio", "io_uring"}, {"slot", "3"}},
                     .files = 1}};
  config.files.devices.push_back(std::move(disk));
  ASSIGN_OR_RETURN(config.files.device_executable, UniqueFd::open(program_path("bulkhead-device"), O_RDONLY));
  vmm::VmOptions options;
  options.boot = load_reader;
  return vmm::VirtualMachine::create(std::move(config), std::move(child_signals), std::move(options));
}

vmm::DeviceProcess* find_process(vmm::VirtualMachine& vm, std::string_view name) {
  for (std::size_t i = 0; i < vm.device_process_count(); ++i) {
    if (vm.process(i).plan().name == name) return &vm.process(i);
  }
  return nullptr;
}

}  // namespace

Result<Takes> measure_disk_kill_stall() {
  ASSIGN_OR_RETURN(const std::unique_ptr<vmm::VirtualMachine> vm, make_reader());
  vmm::DeviceProcess* disk = find_process(*vm, "virtio_blk0");
  if (disk == nullptr) return make_error("the benchmark's guest has no disk");
  ASSIGN_OR_RETURN(const Stalls stalls, stalls_of(*vm, *disk, kResults, kKills));
  return takes_of(stalls, 0.99);
}

}  // namespace bulkhead::bench
