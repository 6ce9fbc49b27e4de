// RoleRig: a role's real models in a real RoleHost, on regions in the test's own memory, with the test as the VMM.
//
// Single-threaded: the rig submits a request, lets the host serve it and reads the reply slot. VM time stands still
// unless the test lets it go. take_over() puts a successor on a copy of the regions, as they are or as a kill left
// them.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <memory_resource>
#include <optional>
#include <string>
#include <vector>

#include "devproc/host/role_host.h"
#include "ipc/base/checked.h"
#include "ipc/ring/adaptive_wait.h"
#include "ipc/ring/packet_link.h"
#include "ipc/roles/device_types.h"
#include "tests/fakes/fw_cfg_data.h"
#include "tests/fakes/rig_ring.h"
#include "tests/fakes/rig_wire.h"

namespace bulkhead::devproc {

inline constexpr std::size_t kRigStateSize = 96 * 1024;
inline constexpr std::size_t kRigMemory = 64 * 1024;
inline constexpr std::size_t kRigDisk = 16 * 1024;
inline constexpr std::int64_t kRigTime = 1'000'000'000;  // VM time at which the rig starts, frozen

// The devices of a role as DeviceProcess describes them.
class RoleSetup {
 public:
  RoleSetup& add(const std::string& name, const std::string& type, DeviceConfig config) {
    const DeviceTypeDecl& decl = *find_device_type(type);
    control::DeviceInstance instance;
    instance.name = name;
    instance.type = type;
    instance.config = std::move(config);
    instance.regions = {regions_, static_cast<std::uint32_t>(decl.regions.size())};
    instance.lines = {lines, static_cast<std::uint32_t>(decl.lines.size())};
    instance.streams = {streams, decl.streams};
    instance.vectors = {vectors, decl.messages};
    regions_ += instance.regions.count;
    lines += instance.lines.count;
    streams += instance.streams.count;
    vectors += instance.vectors.count;
    instance.kicks = {kicks, decl.queues.count};
    kicks += instance.kicks.count;
    const std::span<const BackingKind> own = backings_of(decl, instance.config);
    instance.data_regions = {0, decl.data_regions};
    instance.backings = {static_cast<std::uint32_t>(backings.size()), static_cast<std::uint32_t>(own.size())};
    backings.insert(backings.end(), own.begin(), own.end());
    screen = screen || decl.screen;
    role.instances.push_back(std::move(instance));
    return *this;
  }

  control::TakeRole role{.role = "rig",
                         .vm = "test",
                         .incarnation = 1,
                         .generation = 1,
                         .instances = {},
                         .fds = {},
                         .guest_ram = {},
                         .rings = {}};
  std::uint32_t lines = 0;
  std::uint32_t streams = 0;
  std::uint32_t vectors = 0;
  std::uint32_t kicks = 0;
  std::vector<BackingKind> backings;
  bool screen = false;  // the rig's memory is video memory with a ScanOut behind it, and no guest RAM
  bool wires = false;   // TAPs are ends of socket pairs, whose others are RoleRig::wires; else cables are pulled
  bool wired = false;   // a card's cable leads somewhere: RoleRig::wire

 private:
  std::uint32_t regions_ = 0;
};

// Instances of platform_setup(), in order.
enum PlatformInstance : std::uint16_t { kCom1, kCom2, kRtc, kI8042, kPm, kPorts, kDebugExit };

inline RoleSetup platform_setup() {
  RoleSetup setup;
  setup.add("com1", "uart16550", Uart16550Config{})
      .add("com2", "uart16550", Uart16550Config{})
      .add("rtc", "cmos_rtc", CmosRtcConfig{.ram_below_4g = 64U << 20})
      .add("i8042", "i8042", I8042Config{})
      .add("pm", "acpi_pm", AcpiPmConfig{})
      .add("ports", "system_ports", SystemPortsConfig{})
      .add("debug-exit", "debug_exit", DebugExitConfig{});
  return setup;
}

inline RoleSetup fw_cfg_setup() {
  RoleSetup setup;
  setup.add("fw-cfg", "fw_cfg", FwCfgConfig{});
  return setup;
}

inline constexpr std::uint8_t kRigFunction = 3 << 3;

inline RoleSetup pci_setup(int functions = 1) {
  PciBusConfig bus{.ram_below_4g = 64U << 20, .functions = {}};
  for (int i = 0; i < functions; ++i)
    bus.functions.push_back({static_cast<std::uint8_t>(kRigFunction + 8 * i), "pci_test"});
  RoleSetup setup;
  setup.add("pci", "pci_bus", bus);
  return setup;
}

inline RoleSetup pci_test_setup() {
  RoleSetup setup;
  setup.add("test0", "pci_test", PciTestConfig{});
  return setup;
}

inline ipc::Request access_request(ipc::RequestKind kind, std::uint16_t instance, std::uint16_t region,
                                   std::uint64_t offset, std::uint8_t size, std::uint64_t value = 0,
                                   std::uint8_t count = 1) {
  ipc::Request request;
  request.kind = kind;
  request.instance = instance;
  request.region = region;
  request.offset = offset;
  request.size = size;
  request.count = count;
  std::memcpy(request.payload, &value, sizeof value);
  return request;
}
inline ipc::Request reads(std::uint16_t instance, std::uint16_t region, std::uint64_t offset, std::uint8_t size,
                          std::uint8_t count = 1) {
  return access_request(ipc::RequestKind::kRead, instance, region, offset, size, 0, count);
}
inline ipc::Request writes(std::uint16_t instance, std::uint16_t region, std::uint64_t offset, std::uint8_t size,
                           std::uint64_t value) {
  return access_request(ipc::RequestKind::kWrite, instance, region, offset, size, value);
}
inline ipc::Request posted(ipc::Request request) {
  request.flags |= ipc::kPosted;
  return request;
}

// A request's answer as the VMM finds it.
struct Answer {
  ipc::Reply reply{};
  std::vector<Effect> effects;
  std::uint8_t size = 8;  // of one element, as it was asked for
  // The (first) element that was read.
  [[nodiscard]] std::uint64_t value() const {
    std::uint64_t value = 0;
    std::memcpy(&value, reply.payload, size);
    return value;
  }
  bool operator==(const Answer& other) const {
    return std::memcmp(&reply, &other.reply, sizeof reply) == 0 && effects == other.effects;
  }
};

// What the world has seen of a role: everything but the replies.
struct Outside {
  std::vector<std::uint64_t> lines;     // rises signalled
  std::vector<std::uint64_t> messages;  // MSIs signalled
  Outside& operator+=(const Outside& more) {
    const auto add = [](std::vector<std::uint64_t>& to, const std::vector<std::uint64_t>& from) {
      to.resize(std::max(to.size(), from.size()));
      for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
    };
    add(lines, more.lines);
    add(messages, more.messages);
    return *this;
  }
};

// Guest RAM from address 0 that lies in somebody else's bytes.
class SpanMemory final : public GuestMemory, public GuestRanges {
 public:
  explicit SpanMemory(std::span<std::byte> bytes) : bytes_(bytes) {}
  bool read(GuestPhys address, std::span<std::byte> out) override {
    if (!fits(address, out.size(), bytes_.size())) return false;
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + address, out.size());
    return true;
  }
  bool write(GuestPhys address, std::span<const std::byte> in) override {
    if (!fits(address, in.size(), bytes_.size())) return false;
    if (!in.empty()) std::memcpy(bytes_.data() + address, in.data(), in.size());
    return true;
  }
  std::optional<std::uint16_t> load_acquire(GuestPhys address) override {
    return (address & 1) == 0 ? load<std::uint16_t>(address) : std::nullopt;
  }
  bool store_release(GuestPhys address, std::uint16_t value) override {
    return (address & 1) == 0 && store<std::uint16_t>(address, value);
  }
  std::span<std::byte> host_range(GuestPhys address, std::uint64_t length) override {
    if (address >= bytes_.size()) return {};
    return bytes_.subspan(address, std::min<std::uint64_t>(length, bytes_.size() - address));
  }

 private:
  std::span<std::byte> bytes_;
};

class RoleRig {
 public:
  struct alignas(4096) Page {
    std::byte bytes[4096]{};
  };
  // The shared memory of the role: what outlives its process.
  using Pages = std::pmr::vector<Page>;
  struct Regions {
    explicit Regions(std::pmr::memory_resource* where = std::pmr::get_default_resource())
        : requests(ipc::kRequestAreaSize / 4096, where),
          replies(ipc::kReplyAreaSize / 4096, where),
          state(kRigStateSize / 4096, where),
          memory(kRigMemory / 4096, where),
          ring(where),
          disk(),
          wire() {}
    Pages requests;
    Pages replies;
    Pages state;
    Pages memory;
    Pages ring;                   // RigRing::kPages, or none
    std::vector<std::byte> disk;  // empty, or a copy: the disk itself is a file
    RigWire::State wire;          // likewise
    // The commit that the process died at which served last; a successor that dies in its start changes nothing of it.
    std::optional<std::uint64_t> died_at;
    [[nodiscard]] std::uint64_t commit() const {
      return reinterpret_cast<const ipc::StateHeader*>(state[0].bytes)->commit_word.load();
    }
    [[nodiscard]] bool operator==(const Regions& other) const {
      const auto same = [](const Pages& a, const Pages& b) {
        return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Page)) == 0);
      };
      return same(requests, other.requests) && same(replies, other.replies) && same(state, other.state) &&
             same(memory, other.memory) && same(ring, other.ring) && disk == other.disk && wire == other.wire &&
             died_at == other.died_at;
    }
  };

  explicit RoleRig(RoleSetup setup) : RoleRig(std::move(setup), Regions()) {
    begin_time();
    start();
  }
  // On regions that lie in `where`, and without a host yet.
  static std::unique_ptr<RoleRig> on(RoleSetup setup, std::pmr::memory_resource* where) {
    std::unique_ptr<RoleRig> rig(new RoleRig(std::move(setup), Regions(where)));
    rig->begin_time();
    return rig;
  }
  ~RoleRig() {
    host.reset();
    if (disk_ != nullptr) ::munmap(disk_, kRigDisk);
  }
  RoleRig(const RoleRig&) = delete;
  RoleRig& operator=(const RoleRig&) = delete;

  // A successor on a copy of `regions`. nullptr when it refuses the state.
  static std::unique_ptr<RoleRig> take_over(RoleSetup setup, std::uint32_t incarnation, Regions regions,
                                            ipc::Ticket submitted) {
    setup.role.incarnation = incarnation;
    setup.role.start = control::StartKind::kResume;
    std::unique_ptr<RoleRig> rig(new RoleRig(std::move(setup), std::move(regions)));
    rig->submitted_ = submitted;
    return rig->start() ? std::move(rig) : nullptr;
  }
  [[nodiscard]] std::unique_ptr<RoleRig> take_over() const {
    return take_over(setup_, setup_.role.incarnation + 1, copy(), submitted_);
  }

  [[nodiscard]] Regions copy() const {
    Regions all = regions_;
    all.disk.assign(disk_bytes().begin(), disk_bytes().end());
    all.wire = wire.copy();
    return all;
  }
  // Back to what `regions` hold, in place. The host must fit them, or be forgotten.
  void restore(const Regions& regions, ipc::Ticket submitted) {
    submitted_ = submitted;
    const auto put = [](Pages& to, const Pages& from) {
      if (!to.empty()) std::memcpy(to[0].bytes, from[0].bytes, to.size() * sizeof(Page));
    };
    put(regions_.requests, regions.requests);
    put(regions_.replies, regions.replies);
    put(regions_.state, regions.state);
    put(regions_.memory, regions.memory);
    put(regions_.ring, regions.ring);
    regions_.died_at = regions.died_at;
    fill_disk(regions);
    wire.put(regions.wire);
  }

  ipc::Ticket submit(ipc::Request request) {
    request.generation = generation;
    const ipc::Ticket ticket = ++submitted_;
    ipc::RequestSlot& slot = requests().slots[ipc::slot_of(ticket)];
    slot.request = request;
    slot.ticket.store(ticket);
    return ticket;
  }
  // Submits, serves and answers.
  Answer ask(const ipc::Request& request) {
    const ipc::Ticket ticket = submit(request);
    while (host->handle_request()) {
    }
    return answer_of(ticket);
  }
  [[nodiscard]] bool answered(ipc::Ticket ticket) const {
    const ipc::ReplySlot& slot = replies().slots[ipc::slot_of(ticket)];
    return slot.ticket.load() == ticket && slot.incarnation.load() == setup_.role.incarnation;
  }
  [[nodiscard]] Answer answer_of(ipc::Ticket ticket) const {
    EXPECT_TRUE(answered(ticket)) << "ticket " << ticket;
    Answer answer;
    answer.reply = replies().slots[ipc::slot_of(ticket)].reply;
    answer.size = std::min<std::uint8_t>(requests().slots[ipc::slot_of(ticket)].request.size, 8);
    const Effect* effects = replies().effects[ipc::slot_of(ticket)].effects;
    answer.effects.assign(effects, effects + std::min<std::uint32_t>(answer.reply.effect_count, kMaxEffects));
    return answer;
  }

  // The rises and messages signalled since the last look.
  Outside look_outside() {
    Outside seen;
    for (const UniqueFd& fd : line_fds_) seen.lines.push_back(drain_eventfd(fd.borrow()));
    for (const UniqueFd& fd : message_fds_) seen.messages.push_back(drain_eventfd(fd.borrow()));
    return seen;
  }
  bool output_signalled() { return drain_eventfd(output_doorbell_.borrow()) != 0; }

  // --- streams, from the VMM's side ---

  void feed(std::uint32_t stream, std::string_view bytes) {
    std::uint64_t at = requests().input_produced[stream].load();
    for (const char c : bytes) requests().input[stream][at++ % ipc::kInputBytes] = static_cast<std::uint8_t>(c);
    requests().input_produced[stream].store(at);
  }
  [[nodiscard]] std::uint64_t input_room(std::uint32_t stream) const {
    return ipc::kInputBytes - (requests().input_produced[stream].load() - replies().input_consumed[stream].load());
  }
  // At most `most` bytes of what was published.
  std::string take(std::uint32_t stream, std::uint64_t most = UINT64_MAX) {
    const std::uint64_t produced = replies().output_produced[stream].load();
    std::uint64_t at = requests().output_consumed[stream].load();
    std::string bytes;
    for (; at != produced && bytes.size() < most; ++at)
      bytes.push_back(static_cast<char>(replies().output[stream][at % ipc::kOutputBytes]));
    requests().output_consumed[stream].store(at);
    return bytes;
  }
  // Effects of the outbound queue.
  std::vector<Effect> collect_outbound() {
    const std::uint64_t produced = replies().outbound_produced.load();
    std::uint64_t at = requests().outbound_consumed.load();
    EXPECT_LE(produced - at, ipc::kOutboundEffects);
    std::vector<Effect> effects;
    for (; at != produced; ++at) effects.push_back(replies().outbound[at % ipc::kOutboundEffects]);
    requests().outbound_consumed.store(at);
    return effects;
  }

  // --- time ---

  void let_time_go() {
    requests().time.base_ns.store(ipc::monotonic_ns() - requests().time.frozen_at.load());
    requests().time.frozen_at.store(ipc::kVmTimeRuns);
  }
  // VM time, which runs, jumps ahead.
  void pass_time(std::int64_t ns) { requests().time.base_ns.fetch_sub(ns); }
  void freeze_at(std::int64_t ns) { requests().time.frozen_at.store(ns); }

  // --- everything at once ---

  [[nodiscard]] std::string inspect() const {
    std::string text;
    for (const control::InspectedInstance& instance : host->inspect("")) {
      for (const control::InspectedField& field : instance.fields)
        text += instance.name + "." + field.name + "=" + std::to_string(field.value) + "\n";
    }
    return text;
  }

  [[nodiscard]] ipc::RequestArea& requests() {
    return *reinterpret_cast<ipc::RequestArea*>(regions_.requests[0].bytes);
  }
  [[nodiscard]] const ipc::RequestArea& requests() const {
    return *reinterpret_cast<const ipc::RequestArea*>(regions_.requests[0].bytes);
  }
  [[nodiscard]] ipc::ReplyArea& replies() { return *reinterpret_cast<ipc::ReplyArea*>(regions_.replies[0].bytes); }
  [[nodiscard]] const ipc::ReplyArea& replies() const {
    return *reinterpret_cast<const ipc::ReplyArea*>(regions_.replies[0].bytes);
  }
  [[nodiscard]] std::span<std::byte> state_bytes() { return {regions_.state[0].bytes, kRigStateSize}; }
  [[nodiscard]] std::span<std::byte> reply_bytes() { return {regions_.replies[0].bytes, ipc::kReplyAreaSize}; }
  [[nodiscard]] std::span<std::byte> memory_bytes() { return {regions_.memory[0].bytes, kRigMemory}; }
  // Empty when the role has no disk.
  [[nodiscard]] std::span<std::byte> disk_bytes() const { return {disk_, disk_ == nullptr ? 0 : kRigDisk}; }
  // Empty when it has no ring.
  [[nodiscard]] std::span<const std::byte> ring_bytes() const {
    return std::as_bytes(std::span(regions_.ring.data(), regions_.ring.size()));
  }
  // What is next of the disk's I/O comes to its end. False: there is none.
  bool disk_works() { return ring && ring->work(); }
  [[nodiscard]] ipc::Ticket submitted() const { return submitted_; }
  [[nodiscard]] std::uint64_t commit() const { return regions_.commit(); }
  [[nodiscard]] std::optional<std::uint64_t> predecessor_died_at() const { return regions_.died_at; }
  [[nodiscard]] const RoleSetup& setup() const { return setup_; }
  void forget_host() { host.reset(); }
  // The next incarnation, on the regions as they are.
  bool succeed(std::uint32_t incarnation, bool blame = true) {
    host.reset();
    setup_.role.incarnation = incarnation;
    setup_.role.generation = generation;
    setup_.role.start = control::StartKind::kResume;
    setup_.role.blame = blame;
    return start();
  }

  // Builds the host anew on the regions as they are: true when it took them.
  bool start() {
    RoleWorld world;
    world.requests = &requests();
    world.replies = &replies();
    world.state = state_bytes();
    world.output_doorbell = output_doorbell_.borrow();
    for (const UniqueFd& fd : line_fds_) world.line_assert.push_back(fd.borrow());
    for (const UniqueFd& fd : message_fds_) world.messages.push_back(fd.borrow());
    for (const UniqueFd& fd : backing_fds_) world.backings.push_back(fd.borrow());
    world.data = {data_};
    world.memory = &memory_;
    if (setup_.screen) world.screen = memory_bytes();
    world.ranges = ranges;
    std::optional<IoRing> io_ring;
    if (ring) {
      ring->bury();
      io_ring = IoRing::create(RigRing::params(), ring->memory(), *ring).value();
      world.rings.push_back({&*io_ring, backing_fds_.back().borrow(), &ring->notes()});
    }
    if (setup_.role.start == control::StartKind::kResume && !regions_.died_at) regions_.died_at = commit();
    auto made = RoleHost::create(setup_.role, std::move(world));
    if (!made) return false;
    host = std::move(*made);
    return true;
  }

  std::unique_ptr<RoleHost> host;
  std::uint32_t generation = 1;
  mutable RigWire wire;
  std::optional<RigRing> ring;     // the disk's
  GuestRanges* ranges = &memory_;  // what backends of the next host get
  std::vector<UniqueFd> wires;     // RoleSetup::wires: each message is a frame with its header

 private:
  RoleRig(RoleSetup setup, Regions regions)
      : setup_(std::move(setup)), regions_(std::move(regions)), memory_(memory_bytes()) {
    for (std::uint32_t i = 0; i < setup_.lines; ++i) line_fds_.push_back(UniqueFd::create_eventfd().value());
    for (std::uint32_t i = 0; i < setup_.vectors; ++i) message_fds_.push_back(UniqueFd::create_eventfd().value());
    for (const BackingKind kind : setup_.backings) backing_fds_.push_back(open_backing(kind));
    generation = setup_.role.generation;
  }
  // Bytes that are the same in each run.
  UniqueFd open_backing(BackingKind kind) {
    switch (kind) {
      case BackingKind::kDisk: {
        UniqueFd file(::memfd_create("rig-disk", MFD_CLOEXEC));
        EXPECT_EQ(::ftruncate(file.get(), kRigDisk), 0);
        disk_ = static_cast<std::byte*>(::mmap(nullptr, kRigDisk, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
        fill_disk(regions_);
        open_ring();
        return file;
      }
      case BackingKind::kFrameRing: return UniqueFd::create_eventfd().value();
      case BackingKind::kEntropy: return UniqueFd(::open("/dev/zero", O_RDONLY | O_CLOEXEC));
      case BackingKind::kPacketLink: {
        UniqueFd file(::memfd_create("rig-link", MFD_CLOEXEC | MFD_ALLOW_SEALING));
        EXPECT_EQ(::ftruncate(file.get(), ipc::kPacketLinkSize), 0);
        EXPECT_EQ(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
        return file;
      }
      case BackingKind::kPacketLinkWake:
      case BackingKind::kPacketLinkPeer:
      case BackingKind::kVsockListener:
      case BackingKind::kVsockConnector: return UniqueFd::create_eventfd().value();  // nobody is on the other side
      case BackingKind::kTap: {
        if (setup_.wired) {
          UniqueFd card = wire.open();
          wire.put(regions_.wire);
          return card;
        }
        if (!setup_.wires) return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC));  // a pulled cable
        int ends[2] = {-1, -1};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
        wires.emplace_back(ends[1]);
        return UniqueFd(ends[0]);
      }
    }
    return {};
  }

  // A disk with a ring is the only backing of its role.
  void open_ring() {
    const auto* config = std::get_if<VirtioBlkConfig>(&setup_.role.instances[0].config);
    if (config == nullptr || !config->disk.ring) return;
    const bool made = regions_.ring.empty();
    if (made) regions_.ring.resize(RigRing::kPages);
    ring.emplace(std::span(regions_.ring[0].bytes, RigRing::kPages * sizeof(Page)), memory_bytes(), disk_bytes());
    if (made) ring->set_plan({});
  }

  void fill_disk(const Regions& regions) { std::copy(regions.disk.begin(), regions.disk.end(), disk_bytes().begin()); }

  void begin_time() {
    requests().magic = ipc::kAreaMagic;
    requests().incarnation.store(1);
    requests().time.frozen_at.store(kRigTime);
  }

  RoleSetup setup_;
  Regions regions_;
  SpanMemory memory_;
  std::vector<UniqueFd> line_fds_;
  std::vector<UniqueFd> message_fds_;
  std::byte* disk_ = nullptr;  // the file, mapped
  std::vector<std::byte> data_ = sample_fw_cfg_data();
  std::vector<UniqueFd> backing_fds_;
  UniqueFd output_doorbell_ = UniqueFd::create_eventfd().value();
  ipc::Ticket submitted_ = 0;
};

}  // namespace bulkhead::devproc
