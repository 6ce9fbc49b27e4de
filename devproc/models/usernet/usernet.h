// Usernet: the far end of a network card's frame ring: what the guest sends goes into a user network, what that sends
// goes to the guest.
//
// No document: it is no device that a guest sees; it has no registers, no interrupts and no guest memory.
// Implemented: frames both ways; a bar against the host's own loopback interface (outgoing_filter.h).
// Missing: IPv6. Offloads: none; a frame with one asked for in its header is dropped.
// Frames that the guest's card has no room for are dropped, as by any switch.
// Units: bytes. Threading: single-threaded. Trust: frames are the guest's and hostile, and so is the process at the
//   ring's other end. Config: UsernetConfig{}
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "devproc/core/clock.h"
#include "devproc/core/device.h"
#include "devproc/core/frame_backend.h"
#include "devproc/core/persistent.h"
#include "devproc/core/user_network.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

struct UsernetState {
  std::uint64_t from_guest = 0;  // frames
  std::uint64_t to_guest = 0;
  std::uint64_t bad_frames = 0;  // too short, or with a header that asks for something; dropped, as all that follow
  std::uint64_t forbidden = 0;
  std::uint64_t no_room = 0;
  bool operator==(const UsernetState&) const = default;
};
static_assert(std::has_unique_object_representations_v<UsernetState>);

class Usernet final : public Device, private UserNetwork::Output {
 public:
  using State = UsernetState;
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr unsigned kMostFrames = 64;  // of one input

  Usernet(Persistent<State> state, const UsernetConfig& config, FrameBackend& ring, UserNetwork& network,
          const Clock& clock, TimerQueue& timers);

  [[nodiscard]] std::string_view name() const override { return "usernet"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override { return {}; }
  std::optional<std::uint64_t> read(const Access&) override { return std::nullopt; }
  bool write(const Access&, std::uint64_t) override { return false; }
  void reset() override;
  void restore() override;
  void on_timer(TimerId timer) override;
  bool on_backend(BackendId backend) override;
  void on_backend_poisoned(BackendId backend) override;
  void inspect(Inspector& inspector) const override;

 private:
  void frame(std::span<const std::byte> frame) override;
  bool take_frame();
  void run_network();

  Persistent<State> state_;
  UsernetConfig config_;
  FrameBackend& ring_;
  UserNetwork& network_;
  const Clock& clock_;
  TimerQueue& timers_;
  std::array<std::byte, kMostFrame> whole_{};  // of one frame: its header, which asks for nothing, and the frame
};

}  // namespace bulkhead::devproc
