// FakeControl: a VmControl whose answers a test chooses and whose calls it can count.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ipc/base/checked.h"
#include "vmm/api/vm_control.h"
#include "vmm/process/console_log.h"

namespace bulkhead::vmm {

class FakeControl : public VmControl {
 public:
  Result<control::VmStatus> status() override;
  Result<std::vector<control::DeviceInfo>> devices() override;
  Status power_button() override { return note("power_button"); }
  Status kill() override;
  Status pause() override;
  Status resume() override { return note("resume"); }
  Status reset() override { return note("reset"); }
  Result<std::vector<control::InspectedInstance>> inspect(const std::string& instance) override;
  Status fault(const std::string& role, int signal) override;
  Status upgrade(const std::string& role, const std::string& path) override;
  Status restore(const std::string& role) override { return note("restore " + role); }
  Status limit(const std::string& instance, const std::vector<control::Property>& properties) override {
    std::string call = "limit " + instance;
    for (const control::Property& property : properties) call += " " + property.key + "=" + property.value;
    return note(call);
  }
  Status set_balloon(std::uint64_t bytes) override { return note("balloon " + std::to_string(bytes)); }
  Result<screen::VgaRegisters> screen() override {
    if (!failure.empty()) return make_error(failure);
    return registers;
  }
  Result<std::span<const std::byte>> video_memory(std::uint64_t offset, std::uint32_t length) override {
    if (!fits(offset, length, memory.size())) return make_error("there is no such place in the video memory");
    return std::span<const std::byte>(memory).subspan(offset, length);
  }
  Status send_input(std::span<const InputEvent> sent) override {
    std::string call = "input";
    for (const InputEvent& event : sent) call += fmt::format(" {}{}", event.flags != 0 ? "+" : "-", event.code);
    return note(call);
  }
  Result<control::ConsoleOutput> console(std::uint64_t after) override {
    if (!failure.empty()) return make_error(failure);
    ConsoleLog::Part part = console_log.since(after, ConsoleLog::kKept);
    return control::ConsoleOutput{.bytes = std::move(part.bytes), .next = part.next};
  }
  Status type_on_console(std::span<const std::byte> bytes) override {
    return note("type " + std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  DeviceEvents& events() override { return events_; }

  [[nodiscard]] std::vector<std::string> calls() const;
  // Changes one of the answers below while a server's threads may read them.
  template <class Answer>
  void set(Answer FakeControl::*answer, std::type_identity_t<Answer> value) {
    const std::lock_guard lock(mutex_);
    std::swap(this->*answer, value);  // what it was ends after the lock
  }

  std::string name = "fake";
  screen::VgaRegisters registers;
  ConsoleLog console_log;
  std::vector<std::byte> memory = std::vector<std::byte>(screen::kVideoMemory);
  std::string failure;  // not empty: every call fails with this sentence
  std::size_t device_count = 2;
  std::string permissions = "syscalls: read write\nno guest memory";
  std::function<void()> on_kill;
  std::function<void()> on_upgrade;  // runs before it returns
  std::function<void()> on_pause;    // likewise
  std::function<Status(const std::string& role, int signal)> on_fault;

 private:
  Status note(const std::string& call);
  // A copy: what is called may be set anew before it returns.
  template <class Answer>
  [[nodiscard]] Answer get(Answer FakeControl::*answer) const {
    const std::lock_guard lock(mutex_);
    return this->*answer;
  }
  DeviceEvents events_;
  mutable std::mutex mutex_;
  std::vector<std::string> calls_;
};

[[nodiscard]] control::DeviceInfo sample_device(std::size_t number);

}  // namespace bulkhead::vmm
