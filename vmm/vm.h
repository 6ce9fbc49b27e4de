// VirtualMachine: one VM, from its configuration to its end. vm.cc reads like the life of any PC VMM: KVM, memory,
// interrupt controllers, devices, vCPUs, run, orderly clean-up.
//
// Threading: create, run and destruction on the main thread. VmControl's methods come from the management thread and
// are carried out by the main thread between its own events. vCPU threads, the supervisor and the stream thread only
// leave events here.
// Errors: create() fails with one clear sentence; run() says how the VM ended. Trust: the configuration is the user's;
// everything that guests and device processes send was checked before it gets here.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "ipc/base/log.h"
#include "ipc/control/vm_config.h"
#include "ipc/roles/settings.h"
#include "vmm/api/vm_control.h"
#include "vmm/firmware/loader.h"
#include "vmm/firmware/rom_image.h"
#include "vmm/hypervisor/kvm_system.h"
#include "vmm/hypervisor/kvm_vcpu.h"
#include "vmm/hypervisor/kvm_vm.h"
#include "vmm/machine/effects.h"
#include "vmm/machine/fw_cfg_dma.h"
#include "vmm/machine/plan.h"
#include "vmm/machine/rate_limits.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/memory/rom.h"
#include "vmm/memory/shadow_ram.h"
#include "vmm/pci/bar_map.h"
#include "vmm/process/device_process.h"
#include "vmm/process/peer_link.h"
#include "vmm/process/stream_pump.h"
#include "vmm/process/supervisor.h"
#include "vmm/process/vsock_connector.h"
#include "vmm/vcpu/vcpu_threads.h"

namespace bulkhead::vmm {

// Puts guest code and data into RAM and says how the boot processor starts. The product's is BootLoader's; tests and
// benchmarks bring payloads of their own.
using BootSource = std::function<Result<BootRegisters>(GuestRam& ram)>;

struct VmOptions {
  std::int64_t device_deadline_ns = 0;  // instead of config.device_deadline_ns
  bool standby = true;                  // a warm device process waits for the next death
  std::optional<BootSource> boot;       // instead of config.files.kernel
  bool filter_vcpus = true;             // seccomp on vCPU threads
  std::vector<Claim> extra_claims{};    // fixed claims of the caller's own: the benchmark's in-process models
};

class VirtualMachine final : public VmControl {
 public:
  // `child_signals`: sandbox::child_signal_fd(), made before any thread.
  static Result<std::unique_ptr<VirtualMachine>> create(control::VmConfig config, UniqueFd child_signals,
                                                        VmOptions options = {});
  ~VirtualMachine() override;
  VirtualMachine(const VirtualMachine&) = delete;
  VirtualMachine& operator=(const VirtualMachine&) = delete;

  // Runs the guest until the VM ends. `launcher`: the CLI's socket, or nullptr.
  control::Exited run(control::ControlChannel* launcher);

  [[nodiscard]] std::size_t device_process_count() const { return processes_.size(); }
  [[nodiscard]] DeviceProcess& process(std::size_t role) { return *processes_[role]; }
  [[nodiscard]] Supervisor& supervisor() { return *supervisor_; }
  [[nodiscard]] AddressSpace& address_space() { return space_; }
  [[nodiscard]] GuestRam& ram() { return *ram_; }

  Result<control::VmStatus> status() override;
  Result<std::vector<control::DeviceInfo>> devices() override;
  Status power_button() override;
  Status kill() override;
  Status pause() override;
  Status resume() override;
  Status reset() override;
  Result<std::vector<control::InspectedInstance>> inspect(const std::string& instance) override;
  Status fault(const std::string& role, int signal) override;
  Status upgrade(const std::string& role, const std::string& executable_path) override;
  Status restore(const std::string& role) override;
  Status limit(const std::string& instance, const std::vector<control::Property>& properties) override;
  Status set_balloon(std::uint64_t bytes) override;
  Result<screen::VgaRegisters> screen() override;
  Result<std::span<const std::byte>> video_memory(std::uint64_t offset, std::uint32_t length) override;
  Status send_input(std::span<const InputEvent> events) override;
  Result<control::ConsoleOutput> console(std::uint64_t after) override;
  Status type_on_console(std::span<const std::byte> bytes) override;
  DeviceEvents& events() override { return events_; }

 private:
  struct Ending {
    control::Exited how;
  };
  using Task = std::function<void()>;

  VirtualMachine(control::VmConfig config, VmOptions options);

  // create(), step by step.
  Status open_hypervisor();
  [[nodiscard]] Result<std::vector<std::optional<DiskGeometry>>> inspect_disks() const;
  [[nodiscard]] Result<std::vector<std::optional<OptionRom>>> read_option_roms();
  [[nodiscard]] static Result<bool> takes_ring(BorrowedFd disk, const std::string& path, std::string_view aio);
  Status plan_and_open_files();
  Status prepare_firmware(std::span<const std::optional<OptionRom>> roms);
  Status create_memory();
  [[nodiscard]] std::optional<FrameRingEnd> frame_ring_of(const RolePlan& role) const;
  Status connect_vsock();
  Status create_devices(UniqueFd child_signals);
  Status connect_interrupts();
  Status publish_windows();
  [[nodiscard]] std::vector<Claim> fixed_claims();
  [[nodiscard]] std::vector<WindowPlan> window_plans();
  void run_exclusively(const std::function<void()>& change);
  Status create_vcpus();
  Status start_guest_state();
  Status start_threads();
  Status start_peer_links();

  [[nodiscard]] Result<BootRegisters> load_boot();
  Status ask_for_desired_state();

  // Events, from any thread.
  void post(Task task);
  void end(control::Exited how);
  void on_power(PowerAction action, std::uint64_t debug_value);
  void on_pause_wanted(std::size_t role, PauseReason reason);
  void on_vcpu_end(std::uint32_t vcpu, ExitAction action, std::string report);
  void on_loss(DeviceProcess& process, bool stop, const control::DeviceEvent& isolated);
  void on_violation(DeviceProcess& process, const char* what, std::uint32_t incarnation);
  Status run_on_main(const std::function<Status()>& task);

  [[nodiscard]] bool is_ending();

  // On the main thread.
  void run_tasks();
  // Holds every vCPU. On false they run on (unless the VM is paused): one waits for a device too long, or the VM ends.
  bool hold_vcpus();
  void handle_launcher(control::ControlChannel& launcher);
  Status do_pause(std::string why = "");
  void pause_for(DeviceProcess& process, PauseReason reason);
  void resize_terminal(const control::ResizeTerminal& size);
  Status post_setting(std::size_t role, Setting setting, std::uint64_t value);
  Status do_resume();
  Status do_reset();
  Status finish_reset();
  Status drain_devices();
  void do_isolate(DeviceProcess& process, const control::DeviceEvent& isolated);
  Status do_restore(DeviceProcess& process);
  void set_presence(const DeviceProcess& process, bool present);
  // What managers set while the VM ran.
  Status send_limits(DeviceProcess& process, std::uint16_t instance, const Limits& limits);
  void repeat_limits(DeviceProcess& process);
  void repeat_balloon(const DeviceProcess& process);
  [[nodiscard]] Result<DeviceProcess*> find_role(const std::string& name);
  [[nodiscard]] RestartPolicy policy_of(const RolePlan& role) const;
  [[nodiscard]] control::DeviceInfo describe_process(DeviceProcess& process);
  // How long a vCPU may wait for devices that are killed and replaced meanwhile.
  [[nodiscard]] std::int64_t patience_ns() const;
  void shut_down();

  control::VmConfig config_;
  VmOptions options_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();

  std::optional<KvmSystem> system_;
  MachinePlan plan_;
  std::optional<BootLoader> loader_;
  std::optional<GuestRam> ram_;
  std::optional<Rom> bios_;
  std::vector<std::optional<Rom>> option_roms_;  // of each of config_.devices
  ipc::WritableRegion firmware_data_;            // fw_cfg's; empty without a firmware
  std::optional<FwCfgDma> fw_cfg_dma_;
  UniqueFd keyboard_;  // where InputEvents go
  UniqueFd typed_;     // input of the first serial port beside its console's
  ConsoleLog console_log_;
  ipc::WritableRegion screen_;  // the VGA's; empty without one
  std::unique_ptr<KvmVm> vm_;
  std::optional<ShadowRam> shadow_;
  AddressSpace space_;
  std::unique_ptr<InterruptRouter> router_;
  std::unique_ptr<MachineEffects> effects_;
  BarMap bars_;
  std::vector<ipc::EffectReceiver*> receivers_;  // by role
  std::vector<FrameLink> frame_links_;
  std::vector<std::shared_ptr<FrameCable>> cables_;  // by role: as long as no other VM is there; most have none
  std::vector<std::unique_ptr<DeviceProcess>> processes_;
  DeviceEvents events_;
  std::unique_ptr<Supervisor> supervisor_;
  std::vector<std::unique_ptr<KvmVcpu>> vcpus_;
  std::unique_ptr<VcpuThreads> threads_;
  std::atomic<VcpuThreads*> gate_{nullptr};  // threads_, for other threads
  std::unique_ptr<StreamPump> pump_;
  std::vector<std::unique_ptr<PeerLink>> peer_links_;
  std::unique_ptr<VsockConnector> vsock_connector_;

  // Main thread only.
  bool paused_ = false;
  std::int64_t paused_at_ns_ = 0;
  VmClock paused_clock_;
  bool shut_down_ = false;
  control::ControlChannel* launcher_ = nullptr;  // while run() runs
  LogLimiter reset_limiter_;
  std::atomic<bool> reset_waits_{false};  // one is posted: more of them ask for nothing more
  std::atomic<bool> pause_waits_{false};  // likewise

  std::mutex lock_;  // guards what follows
  std::vector<Task> tasks_;
  std::optional<control::Exited> ending_;
  control::VmState state_ = control::VmState::kStarting;
  std::map<std::string, Limits> limits_;         // by instance, as managers set them
  std::optional<std::uint64_t> balloon_target_;  // likewise
  std::string pause_reason_;                     // kPaused: why, if a device asked for it
  std::uint32_t generation_ = 1;
  bool accepts_tasks_ = true;
  UniqueFd event_;
};

}  // namespace bulkhead::vmm
