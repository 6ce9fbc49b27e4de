// A DeviceProcess without a process: the test plays the device on the very regions that would be handed over.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ipc/control/device_messages.h"
#include "ipc/shm/region.h"
#include "tests/unit/ipc/ring_fixture.h"
#include "vmm/process/device_process.h"

namespace bulkhead::vmm {

class NoPendingBits final : public PendingBits {
 public:
  std::uint64_t pending_bits(std::uint8_t, std::uint16_t) override { return 0; }
};

class ProcessRig {
 public:
  explicit ProcessRig(std::vector<control::DeviceRequest> devices = {}, bool platform = true) {
    control::VmConfig config;
    config.memory_bytes = kMinRam;
    config.devices = std::move(devices);
    plan = std::move(plan_machine(config, 40)).value();
    ram = std::make_unique<GuestRam>(GuestRam::create(plan.memory).value());
    role = platform ? plan.platform_role : plan.roles.size() - 1;
    process = DeviceProcess::create(plan.roles[role], {}, *ram, effects, pending, complaints.options()).value();
    handover = process->take_role("test", control::StartKind::kFresh, false, filter.borrow()).value();
    process->set_serving(process->ring().incarnation());
    message = std::get<control::TakeRole>(control::decode_to_device(handover.bytes, handover.fds.size()).value());
    for (std::size_t i = 0; i < message.fds.size(); ++i) {
      if (message.fds[i].purpose != control::FdPurpose::kReplyRegion) continue;
      reply_region =
          ipc::WritableRegion::import(UniqueFd::duplicate(handover.fds[i]).value(), ipc::kReplyAreaSize).value();
    }
  }
  [[nodiscard]] ipc::ReplyArea& replies() { return *reply_region.as<ipc::ReplyArea>(); }

  // The device writes to one of its streams, as much as there is room for; publishes; tells the pump if it sleeps.
  std::size_t device_writes(std::uint32_t stream, std::string_view bytes) {
    std::uint64_t at = replies().output_produced[stream].load();
    const std::uint64_t room = ipc::kOutputBytes - (at - process->requests().output_consumed[stream].load());
    const std::size_t n = std::min<std::size_t>(room, bytes.size());
    for (std::size_t i = 0; i < n; ++i, ++at)
      replies().output[stream][at % ipc::kOutputBytes] = static_cast<std::uint8_t>(bytes[i]);
    replies().output_produced[stream].store(at, std::memory_order_seq_cst);
    tell_pump();
    return n;
  }
  // What was given to the device and it has not taken yet.
  std::string device_reads(std::uint32_t stream) {
    std::string bytes;
    std::uint64_t at = replies().input_consumed[stream].load();
    while (at != process->requests().input_produced[stream].load())
      bytes.push_back(static_cast<char>(process->requests().input[stream][at++ % ipc::kInputBytes]));
    replies().input_consumed[stream].store(at, std::memory_order_seq_cst);
    tell_pump();
    return bytes;
  }
  void device_asks(const Effect& effect) {
    const std::uint64_t at = replies().outbound_produced.load();
    replies().outbound[at % ipc::kOutboundEffects] = effect;
    replies().outbound_produced.store(at + 1, std::memory_order_seq_cst);
    tell_pump();
  }
  void tell_pump() {
    if (process->requests().pump_asleep.load(std::memory_order_seq_cst) != 0)
      signal_eventfd(process->output_doorbell());
  }

  MachinePlan plan;
  std::size_t role = 0;
  std::unique_ptr<GuestRam> ram;
  ipc::RecordingReceiver effects;
  NoPendingBits pending;
  ipc::Complaints complaints;
  UniqueFd filter = UniqueFd::create_eventfd().value();
  std::unique_ptr<DeviceProcess> process;
  DeviceProcess::Handover handover;
  control::TakeRole message;
  ipc::WritableRegion reply_region;
};

}  // namespace bulkhead::vmm
