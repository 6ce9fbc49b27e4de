// RoleHost: what it does with each kind of request, malformed ones among them.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "devproc/models/pci_test/spec.h"
#include "devproc/models/uart16550/spec.h"
#include "ipc/base/checked.h"
#include "ipc/wire/bar_access.h"
#include "tests/unit/devproc/host/role_rig.h"

namespace bulkhead::devproc {
namespace {

namespace test_spec = pci_test_spec;

bool all_ones(const ipc::Reply& reply) {
  for (const std::uint8_t byte : reply.payload) {
    if (byte != 0xff) return false;
  }
  return true;
}

bool well_formed(const RoleRig& rig, const ipc::Request& request) {
  const std::uint8_t size = request.size;
  if (size != 1 && size != 2 && size != 4 && size != 8) return false;
  if (request.count == 0 || std::uint32_t{request.count} * size > ipc::kPayloadBytes) return false;
  if (request.instance >= rig.setup().role.instances.size()) return false;
  const DeviceTypeDecl& type = *find_device_type(rig.setup().role.instances[request.instance].type);
  if (request.region >= type.regions.size()) return false;
  return fits(request.offset, size, type.regions[request.region].length);
}

TEST(RoleHostRequests, a_request_is_answered_in_its_slot_by_this_incarnation) {
  RoleRig rig(platform_setup());
  const Answer answer = rig.ask(reads(kCom1, 0, uart16550::kLsr, 1));
  EXPECT_EQ(answer.reply.status, ipc::ReplyStatus::kDone);
  EXPECT_EQ(answer.reply.generation, 1U);
  EXPECT_EQ(answer.value(), 0x60U);
  EXPECT_EQ(rig.host->last_ticket(), 1U);
  EXPECT_EQ(rig.replies().counters.requests.load(), 1U);
}

TEST(RoleHostRequests, tickets_are_served_in_order_and_not_before_they_are_there) {
  RoleRig rig(pci_test_setup());
  EXPECT_FALSE(rig.host->handle_request());
  const ipc::Ticket first = rig.submit(reads(0, 0, test_spec::kCounter, 4));
  const ipc::Ticket second = rig.submit(reads(0, 0, test_spec::kCounter, 4));
  ASSERT_TRUE(rig.host->handle_request());
  EXPECT_TRUE(rig.answered(first));
  EXPECT_FALSE(rig.answered(second));
  ASSERT_TRUE(rig.host->handle_request());
  EXPECT_EQ(rig.answer_of(first).value(), 0U);
  EXPECT_EQ(rig.answer_of(second).value(), 1U);
  EXPECT_FALSE(rig.host->handle_request());
}

TEST(RoleHostRequests, slots_are_used_again_and_again) {
  RoleRig rig(pci_test_setup());
  for (std::uint64_t i = 0; i < 10 * ipc::kSlots; ++i)
    ASSERT_EQ(rig.ask(reads(0, 0, test_spec::kCounter, 4)).value(), i);
}

// Every size, count, offset, region and instance around the edges: what does not fit reads as ones and changes nothing.
TEST(RoleHostRequests, malformed_accesses_read_ones_and_write_nothing) {
  RoleRig rig(pci_test_setup());
  const std::string before = rig.inspect();
  std::vector<std::uint64_t> offsets = {
      0, 1, 3, 60, 61, 63, 64, 4088, 4089, 4095, 4096, UINT32_MAX, UINT64_MAX - 7, UINT64_MAX};
  std::uint64_t malformed = 0;
  for (const int size : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 31, 32, 33, 64, 128, 255}) {
    for (const int count : {0, 1, 2, 4, 5, 8, 16, 32, 33, 64, 255}) {
      for (const std::uint64_t offset : offsets) {
        for (const std::uint16_t region :
             {std::uint16_t{0}, std::uint16_t{2}, std::uint16_t{3}, std::uint16_t{0xffff}}) {
          for (const std::uint16_t instance : {std::uint16_t{0}, std::uint16_t{1}, std::uint16_t{0xffff}}) {
            ipc::Request request =
                reads(instance, region, offset, static_cast<std::uint8_t>(size), static_cast<std::uint8_t>(count));
            if (well_formed(rig, request)) continue;
            ++malformed;
            const Answer answer = rig.ask(request);
            ASSERT_TRUE(all_ones(answer.reply)) << size << " x " << count << " at " << offset;
            request.kind = ipc::RequestKind::kWrite;
            rig.ask(request);
          }
        }
      }
    }
  }
  EXPECT_EQ(rig.inspect(), before);
  const ipc::DeviceCounters& counters = rig.replies().counters;
  EXPECT_EQ(counters.bad_accesses.load() + counters.dropped.load(), 2 * malformed);
}

TEST(RoleHostRequests, random_requests_never_crash_and_are_always_answered) {
  for (const RoleSetup& setup : {platform_setup(), pci_setup(3), pci_test_setup()}) {
    RoleRig rig(setup);
    std::mt19937_64 random(7);
    for (int i = 0; i < 20'000; ++i) {
      ipc::Request request;
      request.kind = static_cast<ipc::RequestKind>(random() % 13);
      request.size = static_cast<std::uint8_t>(random() % 4 == 0 ? random() : 1U << random() % 4);
      request.count = static_cast<std::uint8_t>(random() % 4 == 0 ? random() : 1);
      request.flags = static_cast<std::uint8_t>(random() % 16 == 0 ? ipc::kPosted : 0);
      request.instance = static_cast<std::uint16_t>(random() % 9);
      request.region = static_cast<std::uint16_t>(random() % 4);
      request.offset = random() % 8 == 0 ? random() : random() % 72;
      for (std::uint8_t& byte : request.payload) byte = static_cast<std::uint8_t>(random());
      if (request.kind == ipc::RequestKind::kReset && random() % 100 != 0) continue;
      const Answer answer = rig.ask(request);
      ASSERT_LE(answer.reply.effect_count, kMaxEffects);
      for (const Effect& effect : answer.effects) ASSERT_TRUE(parse_effect(effect)) << effect.kind;
      for (std::uint32_t stream = 0; stream < ipc::kStreams; ++stream) rig.take(stream);
      for (const Effect& effect : rig.collect_outbound()) ASSERT_TRUE(parse_effect(effect));
    }
  }
}

TEST(RoleHostRequests, unknown_kinds_are_dropped) {
  RoleRig rig(platform_setup());
  for (const int kind : {0, 12, 13, 255}) {
    ipc::Request request;
    request.kind = static_cast<ipc::RequestKind>(kind);
    EXPECT_EQ(rig.ask(request).reply.status, ipc::ReplyStatus::kDropped) << kind;
  }
}

// --- string I/O, wide accesses ---

TEST(RoleHostRequests, string_input_takes_each_element_from_the_same_register) {
  RoleRig rig(pci_test_setup());
  const Answer bytes = rig.ask(reads(0, 2, test_spec::kPortStream, 1, 32));
  for (std::uint8_t i = 0; i < 32; ++i) EXPECT_EQ(bytes.reply.payload[i], i);
  const Answer dwords = rig.ask(reads(0, 2, test_spec::kPortStream, 4, 8));
  for (std::uint8_t i = 0; i < 32; ++i) EXPECT_EQ(dwords.reply.payload[i], 32 + i);
}

TEST(RoleHostRequests, a_wide_port_access_is_split_into_the_registers_it_covers) {
  RoleRig rig(platform_setup());
  rig.ask(writes(kCom1, 0, uart16550::kLcr, 2, 0x0b03));  // LCR and MCR at once
  EXPECT_EQ(rig.ask(reads(kCom1, 0, uart16550::kLcr, 1)).value(), 0x03U);
  EXPECT_EQ(rig.ask(reads(kCom1, 0, uart16550::kMcr, 1)).value(), 0x0bU);
  const std::uint64_t four = rig.ask(reads(kCom1, 0, uart16550::kLcr, 4)).value();
  EXPECT_EQ(four & 0xffff, 0x0b03U);
  EXPECT_EQ(four >> 16 & 0xff, 0x60U) << "LSR";
}

// --- generations ---

TEST(RoleHostRequests, requests_of_another_generation_never_reach_a_device) {
  RoleRig rig(pci_test_setup());
  for (const std::uint32_t generation : {0U, 2U, 0xffffffffU}) {
    rig.generation = generation;
    const Answer answer = rig.ask(reads(0, 0, test_spec::kCounter, 4));
    EXPECT_EQ(answer.reply.status, ipc::ReplyStatus::kDropped);
    EXPECT_TRUE(all_ones(answer.reply));
    EXPECT_EQ(answer.reply.generation, 1U);
  }
  EXPECT_EQ(rig.replies().counters.dropped.load(), 3U);
  rig.generation = 1;
  EXPECT_EQ(rig.ask(reads(0, 0, test_spec::kCounter, 4)).value(), 0U) << "nothing was counted";
}

TEST(RoleHostRequests, a_reset_brings_the_power_on_state_and_the_new_generation) {
  RoleRig rig(platform_setup());
  const std::string fresh = rig.inspect();
  rig.ask(writes(kCom1, 0, uart16550::kScr, 1, 0x77));
  rig.ask(writes(kCom1, 0, uart16550::kIer, 1, uart16550::kIerEtbei));
  rig.ask(writes(kPorts, 0, 0, 1, 0));
  ASSERT_NE(rig.inspect(), fresh);
  rig.generation = 2;
  ipc::Request reset;
  reset.kind = ipc::RequestKind::kReset;
  const Answer answer = rig.ask(reset);
  EXPECT_EQ(answer.reply.status, ipc::ReplyStatus::kDone);
  EXPECT_EQ(answer.reply.generation, 2U);
  EXPECT_TRUE(answer.effects.empty());
  EXPECT_EQ(rig.ask(reads(kCom1, 0, uart16550::kScr, 1)).value(), 0U);
  rig.generation = 1;
  EXPECT_EQ(rig.ask(reads(kCom1, 0, uart16550::kScr, 1)).reply.status, ipc::ReplyStatus::kDropped);
}

TEST(RoleHostRequests, a_reset_lowers_lines_that_were_up) {
  RoleRig rig(pci_test_setup());
  rig.ask(writes(0, 0, test_spec::kIntRaise, 4, 1));
  rig.look_outside();
  ipc::Request reset;
  reset.kind = ipc::RequestKind::kReset;
  rig.ask(reset);
  rig.host->handle_resample(0);
  EXPECT_EQ(rig.look_outside().lines[0], 0U) << "the line is down: nothing to raise again";
}

// --- effects ---

std::vector<Effect> ask_desired(RoleRig& rig, std::size_t* pieces = nullptr) {
  std::vector<Effect> all;
  std::uint32_t total = 1;
  for (std::uint64_t from = 0; from < total; from += kMaxEffects) {
    ipc::Request request;
    request.kind = ipc::RequestKind::kDesiredState;
    request.offset = from;
    const Answer answer = rig.ask(request);
    std::memcpy(&total, answer.reply.payload, sizeof total);
    all.insert(all.end(), answer.effects.begin(), answer.effects.end());
    if (pieces != nullptr) ++*pieces;
  }
  EXPECT_EQ(all.size(), total);
  return all;
}

TEST(RoleHostRequests, the_desired_state_comes_in_pieces_that_each_fit_a_reply) {
  RoleRig rig(pci_setup(8));
  std::size_t pieces = 0;
  const std::vector<Effect> all = ask_desired(rig, &pieces);
  EXPECT_GT(all.size(), 8U * 8);
  EXPECT_EQ(pieces, (all.size() + kMaxEffects - 1) / kMaxEffects);
  std::set<std::tuple<int, int, int, bool>> objects;
  for (const Effect& effect : all) {
    EXPECT_TRUE(parse_effect(effect)) << effect.kind;
    objects.insert({effect.kind, effect.function, effect.index, (effect.flags & kEffectMsix) != 0});
  }
  EXPECT_EQ(objects.size(), all.size()) << "each object once";
}

TEST(RoleHostRequests, the_desired_state_says_where_the_guest_has_put_things) {
  RoleRig rig(pci_setup());
  rig.ask(writes(0, 0, 0, 4, 0x80000000U | (std::uint32_t{kRigFunction} << 8) | 0x10));
  const Answer moved = rig.ask(writes(0, 0, 4, 4, 0xe3450000));
  ASSERT_EQ(moved.effects.size(), 1U);
  bool found = false;
  for (const Effect& effect : ask_desired(rig)) found = found || effect == moved.effects[0];
  EXPECT_TRUE(found);
}

TEST(RoleHostRequests, a_desired_state_from_beyond_the_end_is_empty) {
  RoleRig rig(pci_setup());
  for (const std::uint64_t offset : {std::uint64_t{100'000}, ~std::uint64_t{0}, ~std::uint64_t{0} - 5}) {
    ipc::Request request;
    request.kind = ipc::RequestKind::kDesiredState;
    request.offset = offset;
    EXPECT_TRUE(rig.ask(request).effects.empty());
  }
}

TEST(RoleHostRequests, totals_count_every_effect_of_the_role) {
  RoleRig rig(platform_setup());
  EXPECT_EQ(rig.ask(writes(kDebugExit, 0, 0, 4, 1)).reply.effects_total, 1U);
  EXPECT_EQ(rig.ask(reads(kCom1, 0, 0, 1)).reply.effects_total, 1U);
  EXPECT_EQ(rig.ask(writes(kDebugExit, 0, 0, 4, 2)).reply.effects_total, 2U);
}

TEST(RoleHostRequests, effects_of_posted_requests_go_through_the_outbound_queue) {
  RoleRig rig(platform_setup());
  const Answer answer = rig.ask(posted(writes(kDebugExit, 0, 0, 4, 0x33)));
  EXPECT_EQ(answer.reply.effect_count, 0);
  const std::vector<Effect> outbound = rig.collect_outbound();
  ASSERT_EQ(outbound.size(), 1U);
  EXPECT_EQ(outbound[0].address, 0x33U);
}

TEST(RoleHostRequests, a_full_outbound_queue_drops_what_comes_and_goes_on_when_it_is_emptied) {
  RoleRig rig(platform_setup());
  for (std::uint64_t i = 0; i < ipc::kOutboundEffects + 3; ++i) rig.ask(posted(writes(kDebugExit, 0, 0, 4, i)));
  std::vector<Effect> outbound = rig.collect_outbound();
  ASSERT_EQ(outbound.size(), ipc::kOutboundEffects);
  for (std::uint64_t i = 0; i < outbound.size(); ++i) EXPECT_EQ(outbound[i].address, i);
  rig.ask(posted(writes(kDebugExit, 0, 0, 4, 99)));
  outbound = rig.collect_outbound();
  ASSERT_EQ(outbound.size(), 1U);
  EXPECT_EQ(outbound[0].address, 99U);
}

// --- answers that only the VMM has ---

struct PendingBits {
  std::uint16_t function = 0;
  std::uint16_t first_vector = 0;
  std::uint8_t byte = 0;
  bool operator==(const PendingBits&) const = default;
};
PendingBits pending_of(const Answer& answer) {
  PendingBits pending{.function = answer.reply.function};
  std::memcpy(&pending.first_vector, answer.reply.payload, sizeof pending.first_vector);
  pending.byte = answer.reply.payload[2];
  return pending;
}

class MsixRig : public ::testing::Test {
 protected:
  MsixRig() {
    // MSI-X enable: find the capability as a driver does.
    std::uint8_t at = static_cast<std::uint8_t>(config_read(0x34, 1));
    while (at != 0 && config_read(at, 1) != 0x11) at = static_cast<std::uint8_t>(config_read(at + 1U, 1));
    EXPECT_NE(at, 0);
    config_write(at + 2U, 2, 0x8000);
  }
  std::uint64_t config_read(std::uint64_t offset, std::uint8_t size) {
    select(offset);
    return rig.ask(reads(0, 0, 4 + offset % 4, size)).value();
  }
  Answer config_write(std::uint64_t offset, std::uint8_t size, std::uint64_t value) {
    select(offset);
    return rig.ask(writes(0, 0, 4 + offset % 4, size, value));
  }
  void select(std::uint64_t offset) {
    rig.ask(writes(0, 0, 0, 4, 0x80000000U | (std::uint64_t{kRigFunction} << 8) | (offset & 0xfc)));
  }
  static constexpr std::uint64_t kPba = 2048;  // of pci_test's MSI-X BAR
  RoleRig rig{pci_setup()};
};

TEST_F(MsixRig, a_read_of_pending_bits_says_which_ones_are_wanted) {
  const Answer low = rig.ask(reads(0, 1, kPba, 4));
  EXPECT_EQ(low.reply.status, ipc::ReplyStatus::kPendingBits);
  EXPECT_EQ(pending_of(low), (PendingBits{kRigFunction, 0, 0}));
  const Answer high = rig.ask(reads(0, 1, kPba + 4, 4));
  EXPECT_EQ(high.reply.status, ipc::ReplyStatus::kPendingBits);
  EXPECT_EQ(pending_of(high), (PendingBits{kRigFunction, 0, 4}));
  const Answer both = rig.ask(reads(0, 1, kPba, 8));
  EXPECT_EQ(pending_of(both), (PendingBits{kRigFunction, 0, 0}));
}

TEST_F(MsixRig, the_next_read_is_an_ordinary_one_again) {
  rig.ask(reads(0, 1, kPba, 8));
  const Answer answer = rig.ask(reads(0, 1, 12, 4));
  EXPECT_EQ(answer.reply.status, ipc::ReplyStatus::kDone);
  EXPECT_EQ(answer.reply.function, 0);
  EXPECT_EQ(answer.value() & 1, 1U) << "a vector is masked after reset";
}

// --- pci_cfg_data ---

class PciCfgRig : public MsixRig {
 protected:
  PciCfgRig() {
    // VIRTIO_PCI_CAP_PCI_CFG, over the last dword of BAR 0.
    at = static_cast<std::uint8_t>(config_read(0x34, 1));
    while (at != 0 && (config_read(at, 1) != 0x09 || config_read(at + 3U, 1) != 5))
      at = static_cast<std::uint8_t>(config_read(at + 1U, 1));
    EXPECT_NE(at, 0);
    config_write(at + 8U, 4, 0xffc);
    config_write(at + 12U, 4, 4);
    select(at + 16U);
  }
  std::uint8_t at = 0;
  BarAccess wanted{.offset = 0xffc, .devfn = kRigFunction, .bar = 0, .size = 4};
};

TEST_F(PciCfgRig, an_access_of_a_bar_is_a_reply_that_says_which_one) {
  const Answer read = rig.ask(reads(0, 0, 4, 4));
  EXPECT_EQ(ipc::parse_bar_access(read.reply, 4), wanted);
  const Answer write = rig.ask(writes(0, 0, 4, 4, 0xcafebabe));
  wanted.value = 0xcafebabe;
  EXPECT_EQ(ipc::parse_bar_access(write.reply, 4), wanted);
  EXPECT_EQ(rig.ask(reads(0, 0, 0, 4)).reply.status, ipc::ReplyStatus::kDone);
}

TEST_F(PciCfgRig, of_string_io_the_first_element_alone_is_done) {
  const Answer read = rig.ask(access_request(ipc::RequestKind::kRead, 0, 0, 4, 4, 0, 2));
  EXPECT_EQ(ipc::parse_bar_access(read.reply, 4), wanted);
  const Answer write = rig.ask(access_request(ipc::RequestKind::kWrite, 0, 0, 4, 4, 0x2222222211111111, 2));
  wanted.value = 0x11111111;
  EXPECT_EQ(ipc::parse_bar_access(write.reply, 4), wanted);
  const Answer after = rig.ask(reads(0, 0, 4, 4));
  EXPECT_EQ(ipc::parse_bar_access(after.reply, 4), wanted) << "the second element was not stored";
}

// --- creation ---

TEST(RoleHostCreate, wires_that_a_type_declares_must_be_there) {
  const auto refused = [](RoleSetup setup) {
    RoleRig rig(pci_test_setup());
    RoleWorld world;
    world.requests = &rig.requests();
    world.replies = &rig.replies();
    world.state = rig.state_bytes();
    rig.forget_host();
    return !RoleHost::create(setup.role, world);
  };
  RoleSetup no_lines = platform_setup();
  no_lines.role.instances[kCom1].lines.count = 0;
  EXPECT_TRUE(refused(no_lines));
  RoleSetup no_streams = platform_setup();
  no_streams.role.instances[kCom1].streams.count = 0;
  EXPECT_TRUE(refused(no_streams));
  RoleSetup too_many_lines = platform_setup();
  too_many_lines.role.instances[kCom1].lines.first = kMaxLines;
  EXPECT_TRUE(refused(too_many_lines));
  RoleSetup too_many_streams = platform_setup();
  too_many_streams.role.instances[kCom1].streams.first = ipc::kStreams;
  EXPECT_TRUE(refused(too_many_streams));
  EXPECT_TRUE(refused(pci_test_setup())) << "without guest memory";
  RoleSetup unknown = platform_setup();
  unknown.role.instances[0].type = "floppy";
  EXPECT_TRUE(refused(unknown));
  RoleSetup confused = platform_setup();
  confused.role.instances[0].config = I8042Config{};
  EXPECT_TRUE(refused(confused));
}

TEST(RoleHostCreate, a_state_of_another_role_is_refused) {
  RoleRig rig(platform_setup());
  rig.ask(reads(kCom1, 0, 0, 1));
  EXPECT_EQ(RoleRig::take_over(pci_setup(), 2, rig.copy(), rig.submitted()), nullptr);
  EXPECT_NE(rig.take_over(), nullptr);
}

}  // namespace
}  // namespace bulkhead::devproc
