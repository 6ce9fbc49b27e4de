#include "tests/faults/inputs.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cstring>
#include <sstream>

#include "devproc/models/acpi_pm/spec.h"
#include "devproc/models/fw_cfg/spec.h"
#include "devproc/models/i8042/spec.h"
#include "devproc/models/pci_test/spec.h"
#include "devproc/models/uart16550/spec.h"
#include "ipc/base/check.h"
#include "ipc/wire/input_event.h"

namespace bulkhead::devproc {
namespace {

namespace test_spec = pci_test_spec;
namespace pm_spec = acpi_pm;

// The RTC shows the host's clock, which goes on while the test runs.
// Without the wall clock, and without what a death may change: received_lost is looked at by itself.
std::string same_in_each_run(const std::string& inspected) {
  std::string kept;
  std::istringstream lines(inspected);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("rtc.seconds") && !line.starts_with("rtc.register_c") &&
        line.find(".received_lost=") == std::string::npos)
      kept += line + "\n";
  }
  return kept;
}

std::uint64_t inspected_number(const std::string& inspected, const std::string& field) {
  const std::size_t at = inspected.find("." + field + "=");
  return at == std::string::npos ? 0 : std::stoull(inspected.substr(at + field.size() + 2));
}

// What the network sees of it. A frame that died with its process comes again, as a protocol would have it.
void observe_wire(RoleRig& rig, Seen& seen) {
  if (!rig.wire.there()) return;
  std::uint64_t gone = 0;
  if (!rig.wire.fed().empty() && inspected_number(rig.inspect(), "received_frames") == 0) {
    gone = 1;
    rig.wire.feed(rig.wire.fed());
    rig.host->backend_stirs(0, EPOLLIN);
    EXPECT_TRUE(serve(*rig.host));
  }
  const std::uint64_t lost = inspected_number(rig.inspect(), "received_lost");
  EXPECT_GE(lost, gone) << "a frame is gone and nobody says so";
  seen.received_lost = lost - gone;
  seen.sent = rig.wire.take();
  seen.sent_times = seen.sent.size() + (rig.wire.predecessor_sent() ? 1 : 0);
  std::sort(seen.sent.begin(), seen.sent.end());
  seen.sent.erase(std::unique(seen.sent.begin(), seen.sent.end()), seen.sent.end());
}

constexpr std::uint64_t kConfigAddress = 0;
constexpr std::uint64_t kConfigData = 4;

ipc::Request select_register(std::uint8_t devfn, std::uint8_t offset) {
  return writes(0, 0, kConfigAddress, 4, 0x80000000U | (std::uint32_t{devfn} << 8) | offset);
}

using Add = std::function<void(Scenario)>;

void serial_and_clock_inputs(const Add& add) {
  const ipc::Request uart_status = reads(kCom1, 0, uart16550::kLsr, 1);
  const ipc::Request uart_cause = reads(kCom1, 0, uart16550::kIir, 1);
  add({.name = "uart_write_that_interrupts",
       .setup = platform_setup,
       .before = {writes(kCom1, 0, uart16550::kIer, 1, uart16550::kIerEtbei), uart_cause},
       .input = {writes(kCom1, 0, uart16550::kThr, 1, 'x')},
       .after = {uart_cause, uart_status, writes(kCom1, 0, uart16550::kThr, 1, 'y'), uart_cause}});
  add({.name = "uart_string_output",
       .setup = platform_setup,
       .before = {writes(kCom2, 0, uart16550::kFcr, 1, 1)},
       .input = {access_request(ipc::RequestKind::kWrite, kCom2, 0, uart16550::kThr, 1, 0x6867666564636261, 8),
                 reads(kCom2, 0, uart16550::kLsr, 1)},
       .after = {reads(kCom2, 0, uart16550::kLsr, 1)}});
  add({.name = "console_byte_in",
       .setup = platform_setup,
       .before = {writes(kCom1, 0, uart16550::kIer, 1, uart16550::kIerErbfi)},
       .input = {},
       .arrange = [](RoleRig& rig) { rig.feed(0, "ab"); },
       .after = {uart_cause, reads(kCom1, 0, uart16550::kRbr, 1), uart_status}});
  add({.name = "rtc_read_with_side_effects",
       .setup = platform_setup,
       .before = {writes(kRtc, 0, 0, 1, 0x0b), writes(kRtc, 0, 1, 1, 0xc2), writes(kRtc, 0, 0, 1, 0x0c)},
       .input = {reads(kRtc, 0, 1, 1)},
       .arrange =
           [](RoleRig& rig) {
             rig.let_time_go();
             rig.pass_time(50'000'000);
           },
       .settle = [](RoleRig& rig) { rig.freeze_at(kRigTime + 100'000'000); },
       .after = {reads(kRtc, 0, 1, 1)},
       .asserted = 1U << 2});
  add({.name = "cmos_write",
       .setup = platform_setup,
       .before = {writes(kRtc, 0, 0, 1, 0x40)},
       .input = {writes(kRtc, 0, 1, 1, 0xa5), reads(kRtc, 0, 1, 1)},
       .after = {writes(kRtc, 0, 0, 1, 0x40), reads(kRtc, 0, 1, 1)}});
}

void keyboard_and_power_inputs(const Add& add) {
  add({.name = "i8042_command_of_two_bytes",
       .setup = platform_setup,
       .before = {},
       .input = {writes(kI8042, 1, 0, 1, i8042::kWriteRam), writes(kI8042, 0, 0, 1, 0x47),
                 writes(kI8042, 1, 0, 1, i8042::kReadRam)},
       .after = {reads(kI8042, 1, 0, 1), reads(kI8042, 0, 0, 1), reads(kI8042, 1, 0, 1)}});
  add({.name = "i8042_key_that_interrupts",
       .setup = platform_setup,
       .before = {writes(kI8042, 1, 0, 1, i8042::kWriteRam), writes(kI8042, 0, 0, 1, 0x47)},
       .input = {},
       .arrange =
           [](RoleRig& rig) {
             const InputEvent key{.type = 1, .flags = kKeyPressed, .code = 30};
             rig.feed(2, {reinterpret_cast<const char*>(&key), sizeof key});
           },
       .after = {reads(kI8042, 1, 0, 1), reads(kI8042, 0, 0, 1), reads(kI8042, 1, 0, 1)}});
  add({.name = "i8042_reset_of_the_machine",
       .setup = platform_setup,
       .before = {},
       .input = {writes(kI8042, 1, 0, 1, 0xfe)},
       .after = {reads(kI8042, 1, 0, 1)}});
  add({.name = "pm_register_write_that_interrupts",
       .setup = platform_setup,
       .before = {[] {
         ipc::Request button;
         button.kind = ipc::RequestKind::kPowerButton;
         button.instance = kPm;
         return button;
       }()},
       .input = {writes(kPm, 0, pm_spec::kPm1En, 2, pm_spec::kPwrbtnSts)},
       .after = {reads(kPm, 0, pm_spec::kPm1Sts, 2), writes(kPm, 0, pm_spec::kPm1Sts, 2, pm_spec::kPwrbtnSts),
                 reads(kPm, 0, pm_spec::kPm1Sts, 2)}});
  add({.name = "power_off",
       .setup = platform_setup,
       .before = {},
       .input = {writes(kPm, 0, pm_spec::kPm1Cnt, 2, pm_spec::kSciEn | pm_spec::kSlpEn)},
       .after = {reads(kPm, 0, pm_spec::kPm1Cnt, 2)}});
  add({.name = "power_off_on_its_own_account",
       .setup = platform_setup,
       .before = {},
       .input = {posted(writes(kDebugExit, 0, 0, 4, 0x21)), posted(writes(kDebugExit, 0, 0, 4, 0x22))},
       .after = {reads(kPm, 0, pm_spec::kPm1Cnt, 2)}});
}

// fw_cfg: each write that starts a transfer is answered once with where the item stands; the VMM's word comes after it.
void firmware_inputs(const Add& add) {
  const ipc::Request next_byte = reads(0, 0, fw_cfg::kData, 1);
  const auto select = [](std::uint16_t selector) { return writes(0, 0, fw_cfg::kSelector, 2, selector); };
  ipc::Request done;
  done.kind = ipc::RequestKind::kTransferDone;
  done.offset = 3;
  const std::uint32_t item = kFwCfgSignature;
  std::memcpy(done.payload, &item, sizeof item);
  add({.name = "fw_cfg_transfer",
       .setup = fw_cfg_setup,
       .before = {select(kFwCfgFirstFile), next_byte, writes(0, 1, fw_cfg::kAddressHigh, 4, 0x01000000)},
       .input = {writes(0, 1, fw_cfg::kAddressLow, 4, 0x00100000), done},
       .after = {next_byte, next_byte, writes(0, 1, fw_cfg::kAddressLow, 4, 0x00200000)}});
  add({.name = "fw_cfg_bytes",
       .setup = fw_cfg_setup,
       .before = {},
       .input = {access_request(ipc::RequestKind::kRead, 0, 0, fw_cfg::kData, 1, 0, 3)},
       .after = {next_byte, next_byte, select(kFwCfgFirstFile), next_byte}});
  // The host bridge's PAM0-PAM2 and SMRAM's neighbour in one dword: shadow RAM as one effect.
  add({.name = "pci_shadow_ram",
       .setup = [] { return pci_setup(); },
       .before = {select_register(kHostBridgeDevfn, 0x58)},
       .input = {writes(0, 0, kConfigData, 4, 0x33333000)},
       .after = {reads(0, 0, kConfigData, 4), writes(0, 0, kConfigData, 4, 0x11111000)}});
}

// What concerns the whole role, output that others drain, and poison.
void platform_inputs(const Add& add) {
  const ipc::Request uart_status = reads(kCom1, 0, uart16550::kLsr, 1);
  const ipc::Request uart_cause = reads(kCom1, 0, uart16550::kIir, 1);
  add({.name = "reset_request",
       .setup = platform_setup,
       .before = {writes(kCom1, 0, uart16550::kScr, 1, 0x5a),
                  writes(kCom1, 0, uart16550::kIer, 1, uart16550::kIerEtbei)},
       .input = {[] {
         ipc::Request reset;
         reset.kind = ipc::RequestKind::kReset;
         return reset;
       }()},
       .after = {reads(kCom1, 0, uart16550::kScr, 1), uart_cause},
       .asserted = 1U << 0});
  add({.name = "console_byte_out_of_a_full_fifo",
       .setup = platform_setup,
       .before = {writes(kCom1, 0, uart16550::kFcr, 1, 1)},
       .input = {writes(kCom1, 0, uart16550::kThr, 1, 'a'), writes(kCom1, 0, uart16550::kThr, 1, 'b')},
       .after = {uart_status}});
  add({.name = "debug_console_byte_that_is_posted",
       .setup = platform_setup,
       .before = {},
       .input = {posted(writes(kPorts, 2, 0, 1, 'd')), posted(writes(kPorts, 2, 0, 1, 'e'))},
       .after = {reads(kPorts, 2, 0, 1)}});
  add({.name = "read_that_is_poisoned",
       .setup = platform_setup,
       .before = {},
       .input = {reads(kPm, 0, pm_spec::kPm1Sts, 2), writes(kCom1, 0, uart16550::kThr, 1, 'x')},
       .after = {uart_status},
       .poisoned = true});
}

void pci_inputs(const Add& add) {
  const std::uint8_t bar0 = 0x10;
  const std::uint8_t command = 0x04;
  add({.name = "bar_move",
       .setup = [] { return pci_setup(); },
       .before = {select_register(kRigFunction, command), writes(0, 0, kConfigData, 2, 0x7),
                  select_register(kRigFunction, bar0)},
       .input = {writes(0, 0, kConfigData, 4, 0xe1000000)},
       .after = {reads(0, 0, kConfigData, 4), reads(0, 0, kConfigAddress, 4)}});
  add({.name = "command_register_that_moves_every_window",
       .setup = [] { return pci_setup(); },
       .before = {select_register(kRigFunction, command)},
       .input = {writes(0, 0, kConfigData, 2, 0x0), writes(0, 0, kConfigData, 2, 0x7)},
       .after = {reads(0, 0, kConfigData, 4)}});
  add({.name = "msix_table_write",
       .setup = [] { return pci_setup(); },
       .before = {writes(0, 1, 0, 4, 0xfee00000), writes(0, 1, 8, 4, 0x41)},
       .input = {writes(0, 1, 12, 4, 0)},
       .after = {reads(0, 1, 0, 8), reads(0, 1, 8, 8)}});
  // VIRTIO_PCI_CAP_PCI_CFG of the test function: offset, length, pci_cfg_data.
  const std::vector<ipc::Request> aimed{select_register(kRigFunction, 0x84), writes(0, 0, kConfigData, 4, 0x100),
                                        select_register(kRigFunction, 0x88), writes(0, 0, kConfigData, 4, 2),
                                        select_register(kRigFunction, 0x8c)};
  add({.name = "bar_access_through_config_space",
       .setup = [] { return pci_setup(); },
       .before = aimed,
       .input = {writes(0, 0, kConfigData, 4, 0xcafebabe), reads(0, 0, kConfigData, 2)},
       .after = {reads(0, 0, kConfigData, 4), reads(0, 0, kConfigAddress, 4)}});
  add({.name = "pirq_route",
       .setup = [] { return pci_setup(); },
       .before = {select_register(kIsaBridgeDevfn, 0x60)},
       .input = {writes(0, 0, kConfigData, 4, 0x0b800a05)},
       .after = {reads(0, 0, kConfigData, 4)}});
  add({.name = "reset_control_register",
       .setup = [] { return pci_setup(); },
       .before = {writes(0, 0, 1, 1, 2)},
       .input = {writes(0, 0, 1, 1, 6)},
       .after = {reads(0, 0, 1, 1)}});
}

// A PCI device with DMA, messages and posted registers.
void pci_device_inputs(const Add& add) {
  const auto control = [](std::uint32_t bits) {
    ipc::Request request;
    request.kind = ipc::RequestKind::kFunctionControl;
    std::memcpy(request.payload, &bits, sizeof bits);
    return request;
  };
  const ipc::Request log_count = reads(0, 0, test_spec::kLogCount, 4);
  const ipc::Request int_status = reads(0, 0, test_spec::kIntStatus, 4);
  add({.name = "intx",
       .setup = pci_test_setup,
       .before = {},
       .input = {writes(0, 0, test_spec::kIntRaise, 4, 8)},
       .after = {int_status, log_count, writes(0, 0, test_spec::kIntStatus, 4, 8), int_status}});
  add({.name = "msi",
       .setup = pci_test_setup,
       .before = {control(kControlBusMaster | kControlMsixEnable)},
       .input = {writes(0, 0, test_spec::kMsiSend, 4, 5)},
       .after = {reads(0, 0, test_spec::kMessagesSent, 4)}});
  add({.name = "read_that_counts",
       .setup = pci_test_setup,
       .before = {},
       .input = {reads(0, 0, test_spec::kCounter, 4), reads(0, 0, test_spec::kCounter, 4),
                 reads(0, 0, test_spec::kCounter, 4)},
       .after = {reads(0, 0, test_spec::kCounter, 4), log_count}});
  add({.name = "posted_doorbells_before_a_read",
       .setup = pci_test_setup,
       .before = {},
       .input = {posted(writes(0, 1, 0x10, 8, 111)), posted(writes(0, 1, test_spec::kDoorbellRaise, 4, 2)),
                 reads(0, 0, test_spec::kPostedCount, 4)},
       .after = {reads(0, 0, test_spec::kLastPosted, 8), int_status}});
  add({.name = "dma_with_interrupt_and_message",
       .setup = pci_test_setup,
       .before = {control(kControlBusMaster), writes(0, 0, test_spec::kDmaSource, 8, 0x100),
                  writes(0, 0, test_spec::kDmaTarget, 8, 0x2000), writes(0, 0, test_spec::kDmaLength, 4, 100)},
       .input = {writes(0, 0, test_spec::kDmaCommand, 4,
                        test_spec::kDmaCopy | test_spec::kDmaThenInterrupt | test_spec::kDmaThenMessage)},
       .arrange =
           [](RoleRig& rig) {
             for (std::size_t i = 0; i < 100; ++i) rig.memory_bytes()[0x100 + i] = static_cast<std::byte>(i);
           },
       .after = {reads(0, 0, test_spec::kDmaStatus, 4), reads(0, 0, test_spec::kDmaCount, 4), int_status}});
  add({.name = "timer_that_interrupts",
       .setup = pci_test_setup,
       .before = {writes(0, 0, test_spec::kTimerDelay, 4, 1'000'000)},
       .input = {},
       .arrange =
           [](RoleRig& rig) {
             rig.let_time_go();
             rig.pass_time(2'000'000);
           },
       .after = {reads(0, 0, test_spec::kTimerFired, 4), int_status, reads(0, 0, test_spec::kTimerDeadline, 8)}});
  add({.name = "string_input",
       .setup = pci_test_setup,
       .before = {},
       .input = {reads(0, 2, test_spec::kPortStream, 1, 32), reads(0, 2, test_spec::kPortStream, 4, 8)},
       .after = {reads(0, 2, test_spec::kPortStreamIn, 4)}});
  add({.name = "write_with_an_interrupt_that_is_poisoned",
       .setup = pci_test_setup,
       .before = {},
       .input = {writes(0, 0, test_spec::kIntRaise, 4, 8), reads(0, 0, test_spec::kCounter, 4)},
       .after = {int_status, log_count},
       .poisoned = true});
}

// Two processes died of the next request, and a third has just done so: its successor takes over here.
void plant_suspicion(RoleRig& rig) {
  auto* const header = reinterpret_cast<ipc::StateHeader*>(rig.state_bytes().data());
  const std::uint64_t word = Attempt::request(rig.submitted() + 1).word();
  header->attempt.store(word);
  header->suspect.store(word);
  header->suspect_deaths.store(AttemptLog::kDeaths - 1);
  EXPECT_TRUE(rig.succeed(rig.setup().role.incarnation + 1));
  rig.look_outside();
}

}  // namespace

void PrintTo(const Scenario& scenario, std::ostream* out) { *out << scenario.name; }

std::vector<Scenario> scenarios() {
  std::vector<Scenario> all;
  const Add add = [&](Scenario scenario) { all.push_back(std::move(scenario)); };
  serial_and_clock_inputs(add);
  keyboard_and_power_inputs(add);
  platform_inputs(add);
  firmware_inputs(add);
  pci_inputs(add);
  pci_device_inputs(add);
  virtio_inputs(add);
  device_inputs(add);
  e1000_inputs(add);
  vga_inputs(add);
  return all;
}

std::vector<Scenario> scenarios_named(std::initializer_list<std::string_view> names) {
  std::vector<Scenario> chosen;
  for (Scenario& scenario : scenarios()) {
    if (std::find(names.begin(), names.end(), scenario.name) != names.end()) chosen.push_back(std::move(scenario));
  }
  CHECK(chosen.size() == names.size(), names.size());
  return chosen;
}

bool serve(RoleHost& host, const std::function<void()>& after_each) {
  for (int i = 0; i < 10'000; ++i) {
    if (!(host.handle_request() || host.handle_streams() || host.handle_backends() || host.handle_queues() ||
          host.handle_timers()))
      return true;
    if (after_each) after_each();
  }
  return false;
}

bool serve_with_disk(RoleRig& rig, const std::function<void()>& after_each) {
  do {
    if (!serve(*rig.host, after_each)) return false;
  } while (rig.disk_works());
  return true;
}

std::unique_ptr<RoleRig> prepare(const Scenario& scenario, std::pmr::memory_resource* where) {
  std::unique_ptr<RoleRig> rig = RoleRig::on(scenario.setup(), where);
  EXPECT_TRUE(rig->start());
  for (const ipc::Request& request : scenario.before) rig->ask(request);
  EXPECT_TRUE(serve(*rig->host));
  if (scenario.arrange) scenario.arrange(*rig);
  if (scenario.settle) {
    EXPECT_TRUE(serve(*rig->host));
    scenario.settle(*rig);
  }
  if (scenario.poisoned) plant_suspicion(*rig);
  rig->look_outside();
  return rig;
}

ipc::Ticket submit_input(RoleRig& rig, const Scenario& scenario) {
  const ipc::Ticket first = rig.submitted() + 1;
  for (const ipc::Request& request : scenario.input) rig.submit(request);
  // Whoever waits, for replies or for streams, sleeps: publication has to wake them as well.
  for (ipc::Ticket ticket = first; ticket <= rig.submitted(); ++ticket)
    rig.requests().waiter_asleep[ipc::slot_of(ticket)].store(1);
  rig.requests().pump_asleep.store(1);
  return first;
}

void run_input(RoleRig& rig) {
  while (rig.host->handle_request()) {
  }
  rig.host->handle_streams();
  while (rig.host->handle_backends() || rig.host->handle_queues() || rig.disk_works()) {
  }
  rig.host->handle_timers();
}

Seen observe(RoleRig& rig, ipc::Ticket first, const Scenario& scenario) {
  Seen seen;
  seen.asserted = scenario.asserted;
  seen.died_at = rig.predecessor_died_at();
  const auto look = [&] {
    seen.outside += rig.look_outside();
    seen.signalled.push_back({rig.commit(), seen.outside});
  };
  EXPECT_TRUE(serve_with_disk(rig, look));
  for (ipc::Ticket ticket = first; ticket <= rig.submitted(); ++ticket) {
    seen.answers.push_back(rig.answer_of(ticket));
    // The word was 0 when its waiter went to sleep; were it still, the kernel would have woken nobody.
    EXPECT_NE(rig.replies().slots[ipc::slot_of(ticket)].wake.load(), 0U)
        << "ticket " << ticket << ": its waiter sleeps on";
  }
  observe_wire(rig, seen);
  seen.outside += rig.look_outside();
  seen.inspect = same_in_each_run(rig.inspect());
  for (const ipc::Request& request : scenario.after) seen.answers.push_back(rig.ask(request));
  EXPECT_TRUE(serve_with_disk(rig));
  for (std::uint32_t stream = 0; stream < ipc::kStreams; ++stream) {
    seen.output.push_back(rig.take(stream));
    seen.consumed.push_back(rig.replies().input_consumed[stream].load());
  }
  seen.outbound = rig.collect_outbound();
  seen.disk.assign(rig.disk_bytes().begin(), rig.disk_bytes().end());
  seen.memory.assign(rig.memory_bytes().begin(), rig.memory_bytes().end());
  if (rig.setup().screen) {
    // How often it was shown is nobody's business.
    const auto block = std::span(seen.memory).last(screen::kScanOutSize);
    seen.shown = screen::read_scan_out(
        *reinterpret_cast<const screen::ScanOut*>(rig.memory_bytes().data() + kRigMemory - screen::kScanOutSize));
    std::ranges::fill(block, std::byte{0});
  }
  return seen;
}

Seen undisturbed(const Scenario& scenario) {
  const std::unique_ptr<RoleRig> rig = prepare(scenario);
  const ipc::Ticket first = submit_input(*rig, scenario);
  Seen seen = observe(*rig, first, scenario);
  EXPECT_TRUE(!scenario.did || scenario.did(seen)) << seen.inspect;
  return seen;
}

std::string taken_back(const RoleRig::Regions& dead, const RoleRig& successor) {
  const auto& shown = *reinterpret_cast<const ipc::ReplyArea*>(dead.replies[0].bytes);
  const ipc::ReplyArea& now = successor.replies();
  for (const ipc::ReplySlot& slot : shown.slots) {
    if (slot.ticket.load() > successor.host->last_ticket())
      return "the reply to ticket " + std::to_string(slot.ticket.load()) + ", which is not committed";
  }
  for (std::uint32_t i = 0; i < ipc::kStreams; ++i) {
    if (shown.output_produced[i].load() > now.output_produced[i].load()) return "output of stream " + std::to_string(i);
    if (shown.input_consumed[i].load() > now.input_consumed[i].load()) return "room in stream " + std::to_string(i);
  }
  if (shown.outbound_produced.load() > now.outbound_produced.load()) return "an outbound effect";
  return "";
}

namespace {

// What the undisturbed run had signalled before it made the commit at which the process of `found` died.
Outside signalled_before(const Seen& found, const Seen& wanted) {
  Outside before;
  for (const Seen::Signalled& one : wanted.signalled) {
    if (found.died_at && one.commit < *found.died_at) before = one.all;
  }
  return before;
}

// Interrupts: every one that the last commit and what follows it bring, and perhaps some again; none on a wire that was
// quiet. `asserted`: wires that were up before.
std::string difference(const std::string& what, const std::vector<std::uint64_t>& found,
                       const std::vector<std::uint64_t>& wanted, std::vector<std::uint64_t> before,
                       std::uint64_t asserted) {
  before.resize(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (i < 64 && (asserted >> i & 1) != 0 && wanted[i] == 0) continue;
    if (found[i] != 0 && wanted[i] == 0) return "a " + what + " " + std::to_string(i);
    if (found[i] == 0 && wanted[i] > before[i]) return "no " + what + " " + std::to_string(i);
  }
  return "";
}

}  // namespace

std::string difference(const Seen& found, const Seen& wanted) {
  if (found.answers.size() != wanted.answers.size()) return "another number of answers";
  for (std::size_t i = 0; i < found.answers.size(); ++i) {
    if (!(found.answers[i] == wanted.answers[i])) return "another answer " + std::to_string(i);
  }
  if (found.output != wanted.output) return "other output";
  if (found.consumed != wanted.consumed) return "another amount of input taken";
  if (found.outbound != wanted.outbound) return "other outbound effects";
  if (found.inspect != wanted.inspect) return "other registers: " + found.inspect + "instead of " + wanted.inspect;
  if (found.disk != wanted.disk) return "other bytes on the disk";
  if ((found.sent_times == 0) != (wanted.sent_times == 0) || found.sent_times > 2 * wanted.sent_times)
    return "a frame was sent " + std::to_string(found.sent_times) + " times";
  // The predecessor's went into another wire.
  if (!found.sent.empty() && found.sent != wanted.sent) return "another frame was sent";
  // Death may come between counting a frame and reading it.
  if (found.received_lost > wanted.received_lost + 1) return "more frames are said to be lost than were";
  if (found.memory != wanted.memory) return "other bytes in guest memory";
  if (found.shown != wanted.shown) return "other registers are shown";
  const Outside before = signalled_before(found, wanted);
  const std::string lines =
      difference("rising line", found.outside.lines, wanted.outside.lines, before.lines, wanted.asserted);
  if (!lines.empty()) return lines;
  return difference("message", found.outside.messages, wanted.outside.messages, before.messages, 0);
}

}  // namespace bulkhead::devproc
