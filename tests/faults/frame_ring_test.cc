// A frame that comes through a ring and one that goes: the device process dies before any instruction of the input, and
// with its successor every frame is taken once and answered once, whatever the peer has seen before.
#include "ipc/ring/frame_ring.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <memory>

#include "devproc/host/role_host.h"
#include "tests/fakes/single_step.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

using ipc::FrameRingArea;
using Frame = std::vector<std::byte>;

// Answers each frame by the same one. It has no state, as nothing that outlives its process.
class Echo final : public UserNetworkBackend {
 public:
  static Result<std::unique_ptr<UserNetworkBackend>> make(const UsernetConfig&, bool) {
    return std::make_unique<Echo>();
  }
  void input(std::span<const std::byte> frame, VmTime, Output& output) override { output.frame(frame); }
  std::optional<VmTime> run(VmTime, Output&) override { return std::nullopt; }
};

constexpr std::size_t kWatchedBytes = ipc::kPage + 4096;  // of an area: its head, and more than the frames that follow

Frame ipv4_frame(std::uint8_t last, std::size_t size) {
  Frame frame(kFrameHeader + size);
  frame[kFrameHeader + 12] = std::byte{0x08};
  for (std::size_t i = kFrameHeader + 14; i < frame.size(); ++i) frame[i] = static_cast<std::byte>(i * 3 + last);
  frame[kFrameHeader + 14] = std::byte{0x45};
  frame[kFrameHeader + 30] = std::byte{192};  // whom it is for: not the host's own loopback network, which is barred
  return frame;
}

// One life of the role, on memory that outlives it.
struct World {
  alignas(4096) ipc::RequestArea requests{};
  alignas(4096) ipc::ReplyArea replies{};
  alignas(4096) std::byte state[kRigStateSize]{};
  alignas(4096) FrameRingArea own{};
  alignas(4096) FrameRingArea peer{};
  UniqueFd bell = UniqueFd::create_eventfd().value();
  UniqueFd peer_bell = UniqueFd::create_eventfd().value();
  UniqueFd output = UniqueFd::create_eventfd().value();
  std::unique_ptr<RoleHost> host;

  World() {
    requests.magic = ipc::kAreaMagic;
    requests.incarnation.store(1);
    requests.time.base_ns.store(ipc::monotonic_ns() - kRigTime);
    requests.time.frozen_at.store(ipc::kVmTimeRuns);
    own.link.store(1);
    peer.link.store(1);
    peer.asleep.store(1);
  }
  bool start(std::uint32_t incarnation) {
    RoleSetup setup;
    setup.add("usernet0", "usernet", UsernetConfig{});
    setup.role.incarnation = incarnation;
    setup.role.start = incarnation == 1 ? control::StartKind::kFresh : control::StartKind::kResume;
    RoleWorld world;
    world.requests = &requests;
    world.replies = &replies;
    world.state = state;
    world.output_doorbell = output.borrow();
    world.backings = {bell.borrow()};
    world.ring = {.own = &own, .peer = &peer, .bell = {}, .peer_bell = peer_bell.borrow()};
    world.make_user_network = Echo::make;
    auto made = RoleHost::create(setup.role, std::move(world));
    if (!made) return false;
    host = std::move(*made);
    return true;
  }
  void serve() const {
    while (host->handle_backends() || host->handle_timers()) {
    }
  }
  // What the peer does: a record, and the index.
  void give(const Frame& frame) {
    const std::uint64_t at = peer.produced.load();
    const auto length = static_cast<std::uint32_t>(frame.size());
    std::memcpy(peer.data + at, &length, sizeof length);
    std::memcpy(peer.data + at + ipc::kFrameRecordHeader, frame.data(), frame.size());
    peer.produced.store(at + ipc::frame_record_size(frame.size()));
  }
  [[nodiscard]] std::vector<Frame> given_back() const {
    std::vector<Frame> frames;
    for (std::uint64_t at = 0; at < own.produced.load();) {
      std::uint32_t length = 0;
      std::memcpy(&length, own.data + at, sizeof length);
      if (length == 0 || length > 4096) {
        ADD_FAILURE() << "no record at " << at;
        break;
      }
      const auto* bytes = reinterpret_cast<const std::byte*>(own.data) + at + ipc::kFrameRecordHeader;
      frames.emplace_back(bytes, bytes + length);
      at += ipc::frame_record_size(length);
    }
    return frames;
  }
  [[nodiscard]] std::vector<std::span<const std::byte>> watched() const {
    return {std::span(state), std::as_bytes(std::span(&replies, 1)),
            std::span(reinterpret_cast<const std::byte*>(&own), kWatchedBytes)};
  }
};

TEST(FaultFrameRing, at_every_instruction_each_frame_is_taken_once_and_answered_once) {
  if (!kCanSingleStep) GTEST_SKIP() << "not under a sanitizer";
  const std::vector<Frame> frames{ipv4_frame(1, 60), ipv4_frame(2, 300)};
  const auto world = std::make_unique<World>();
  ASSERT_TRUE(world->start(1));
  world->serve();
  for (const Frame& frame : frames) world->give(frame);
  SnapshotLog log(world->watched());
  single_step([&] { world->serve(); }, [&] { log.look(); });
  ASSERT_EQ(world->given_back(), frames);
  std::printf("%zu kill points, %zu distinct states\n", log.looks(), log.snapshots());
  EXPECT_GT(log.snapshots(), 20U);

  std::size_t kill = 0;
  bool before_publication = false;
  log.for_each([&](const std::vector<std::vector<std::byte>>& copies) {
    if (HasFatalFailure()) return;
    SCOPED_TRACE("kill point " + std::to_string(kill++));
    const auto next = std::make_unique<World>();
    std::memcpy(next->state, copies[0].data(), copies[0].size());
    std::memcpy(static_cast<void*>(&next->replies), copies[1].data(), copies[1].size());
    std::memcpy(static_cast<void*>(&next->own), copies[2].data(), copies[2].size());
    for (const Frame& frame : frames) next->give(frame);
    const std::uint64_t shown = next->own.produced.load();
    const std::uint64_t taken = next->own.consumed.load();
    const std::vector<Frame> seen = next->given_back();
    before_publication |= shown == 0;
    // The peer has taken all that it was shown, and uses the room that it was given for something else.
    next->peer.consumed.store(shown);
    std::memset(next->peer.data, 0xff, taken);
    ASSERT_TRUE(next->start(2));
    next->serve();
    ASSERT_GE(next->own.produced.load(), shown);
    ASSERT_GE(next->own.consumed.load(), taken);
    ASSERT_EQ(next->given_back(), frames);
    ASSERT_TRUE(std::equal(seen.begin(), seen.end(), frames.begin())) << "what the peer saw was taken back";
    ASSERT_EQ(next->own.consumed.load(), next->peer.produced.load());
    ASSERT_EQ(drain_eventfd(next->peer_bell.borrow()) != 0, true) << "a successor wakes its peer";
  });
  EXPECT_TRUE(before_publication);
}

}  // namespace
}  // namespace bulkhead::devproc
