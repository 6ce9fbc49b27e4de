// FakeControl: a VmControl whose answers a test chooses and whose calls it can count.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "vmm/api/vm_control.h"

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
  DeviceEvents& events() override { return events_; }

  [[nodiscard]] std::vector<std::string> calls() const;
  // Changes one of the answers below while a server's threads may read them.
  template <class Answer>
  void set(Answer FakeControl::*answer, std::type_identity_t<Answer> value) {
    const std::lock_guard lock(mutex_);
    std::swap(this->*answer, value);  // what it was ends after the lock
  }

  std::string name = "fake";
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
