// InterruptRouter: lines and messages on their way to a hypervisor that keeps books.
#include "vmm/pci/interrupt_router.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/fakes/fake_vm.h"

namespace bulkhead::vmm {
namespace {

constexpr std::uint8_t kFunction = 3 << 3;
constexpr std::uint8_t kOther = 7 << 3;  // the same PIRQ for the same pin: four slots on

UniqueFd make_event() { return UniqueFd::create_eventfd().value(); }

Effect route_pirq(std::uint32_t pirq, std::optional<std::uint32_t> gsi) {
  Effect effect{.kind = static_cast<std::uint16_t>(EffectKind::kIntxRoute), .index = pirq};
  effect.data = gsi.value_or(0);
  effect.flags = gsi ? kEffectEnabled : 0U;
  return effect;
}
Effect control(std::uint32_t bits, std::uint8_t devfn = kFunction) {
  Effect effect{.kind = static_cast<std::uint16_t>(EffectKind::kFunctionControl), .function = devfn};
  effect.flags = bits;
  return effect;
}
Effect msix(std::uint32_t vector, std::optional<MsiRoute::Message> message, std::uint8_t devfn = kFunction) {
  Effect effect{.kind = static_cast<std::uint16_t>(EffectKind::kMsiRoute), .function = devfn, .index = vector};
  effect.flags = kEffectMsix | (message ? kEffectEnabled : 0U);
  if (message) {
    effect.address = message->address;
    effect.data = message->data;
  }
  return effect;
}
Effect msi(std::uint32_t log2, std::uint64_t address, std::uint32_t data, std::uint64_t mask = 0) {
  Effect effect{.kind = static_cast<std::uint16_t>(EffectKind::kMsiRoute), .function = kFunction, .index = log2};
  effect.address = address;
  effect.data = data;
  effect.size = mask;
  effect.flags = kEffectEnabled;
  return effect;
}
constexpr std::uint32_t kMsixOn = kControlBusMaster | kControlMsixEnable;
constexpr std::uint32_t kMsiOn = kControlBusMaster | kControlMsiEnable;
using Messages = std::vector<MsiRoute::Message>;

class InterruptRouterTest : public ::testing::Test {
 protected:
  InterruptRouterTest() {
    for (int i = 0; i < 4; ++i) vectors.push_back(make_event());
    std::vector<BorrowedFd> borrowed;
    for (const UniqueFd& vector : vectors) borrowed.push_back(vector.borrow());
    router.add_intx_line(kFunction, 1, line.borrow(), resample.borrow());
    router.add_messages(kFunction, borrowed);
  }
  ~InterruptRouterTest() override { EXPECT_EQ(vm.mistakes, 0) << "an irqfd assigned twice or taken where it was not"; }
  [[nodiscard]] std::uint32_t pirq() const { return pirq_of(kFunction, 1); }
  void raise(std::uint32_t vector) { signal_eventfd(vectors[vector].borrow()); }

  FakeVm vm;
  InterruptRouter router{vm};
  UniqueFd line = make_event();
  UniqueFd resample = make_event();
  std::vector<UniqueFd> vectors;
};

// --- lines ---

TEST_F(InterruptRouterTest, a_fixed_line_sits_on_its_gsi) {
  const UniqueFd edge = make_event();
  const UniqueFd level = make_event();
  const UniqueFd eoi = make_event();
  ASSERT_TRUE(router.add_fixed_line(4, edge.borrow(), {}));
  ASSERT_TRUE(router.add_fixed_line(9, level.borrow(), eoi.borrow()));
  EXPECT_EQ(vm.irqfds[edge.get()].resample, -1);
  EXPECT_EQ(vm.irqfds[level.get()].resample, eoi.get());
  vm.refuse_irqfds = true;
  EXPECT_FALSE(router.add_fixed_line(5, edge.borrow(), {}));
}

TEST_F(InterruptRouterTest, an_intx_line_follows_its_pirq) {
  EXPECT_FALSE(vm.gsi_of(line.borrow()));
  EXPECT_TRUE(router.apply(route_pirq(pirq(), 10)));
  EXPECT_EQ(vm.gsi_of(line.borrow()), 10U);
  EXPECT_EQ(vm.irqfds[line.get()].resample, resample.get());
  EXPECT_EQ(router.gsi_of_pirq(pirq()), 10U);
  EXPECT_TRUE(router.apply(route_pirq(pirq(), 11)));
  EXPECT_EQ(vm.gsi_of(line.borrow()), 11U);
  EXPECT_TRUE(router.apply(route_pirq(pirq(), std::nullopt)));
  EXPECT_FALSE(vm.gsi_of(line.borrow()));
  EXPECT_TRUE(router.apply(route_pirq((pirq() + 1) % 4, 5)));
  EXPECT_FALSE(vm.gsi_of(line.borrow())) << "another PIRQ";
}

// What the line had asserted on the old GSI is lost: the device is told to look, and asserts again on the new one.
TEST_F(InterruptRouterTest, a_line_that_moves_is_asserted_again_by_its_device) {
  router.apply(route_pirq(pirq(), 10));
  EXPECT_EQ(drain_eventfd(resample.borrow()), 1U);
  router.apply(route_pirq(pirq(), 10));
  EXPECT_EQ(drain_eventfd(resample.borrow()), 0U) << "it stays where it is";
  router.apply(route_pirq(pirq(), 11));
  EXPECT_EQ(drain_eventfd(resample.borrow()), 1U);
  router.apply(route_pirq(pirq(), std::nullopt));
  EXPECT_EQ(drain_eventfd(resample.borrow()), 0U);
}

TEST_F(InterruptRouterTest, an_interrupt_raised_while_the_pin_is_routed_nowhere_comes_when_it_is) {
  signal_eventfd(line.borrow());
  EXPECT_TRUE(vm.deliver().empty());
  router.apply(route_pirq(pirq(), 10));
  EXPECT_EQ(vm.deliver(), std::set<std::uint32_t>{10});
}

TEST_F(InterruptRouterTest, functions_that_share_a_pirq_share_its_gsi) {
  const UniqueFd other = make_event();
  const UniqueFd other_resample = make_event();
  ASSERT_EQ(pirq_of(kOther, 1), pirq());
  router.add_intx_line(kOther, 1, other.borrow(), other_resample.borrow());
  router.apply(route_pirq(pirq(), 11));
  EXPECT_EQ(vm.gsi_of(line.borrow()), 11U);
  EXPECT_EQ(vm.gsi_of(other.borrow()), 11U);
  signal_eventfd(other.borrow());
  EXPECT_EQ(vm.deliver(), std::set<std::uint32_t>{11});
}

TEST_F(InterruptRouterTest, a_route_that_the_hypervisor_refuses_is_tried_again_with_the_next) {
  vm.refuse_irqfds = true;
  EXPECT_TRUE(router.apply(route_pirq(pirq(), 10))) << "not the device's fault";
  EXPECT_FALSE(vm.gsi_of(line.borrow()));
  vm.refuse_irqfds = false;
  router.apply(route_pirq(pirq(), 10));
  EXPECT_EQ(vm.gsi_of(line.borrow()), 10U);
}

// --- MSI-X ---

TEST_F(InterruptRouterTest, a_vector_is_delivered_once_its_entry_and_its_function_allow_it) {
  const MsiRoute::Message message{0xfee01000, 0x41};
  EXPECT_TRUE(router.apply(msix(2, message)));
  EXPECT_TRUE(vm.irqfds.empty());
  EXPECT_TRUE(router.apply(control(kControlMsixEnable)));
  raise(2);
  EXPECT_TRUE(vm.irqfds.empty()) << "no bus master, no message";
  EXPECT_TRUE(router.apply(control(kMsixOn | kControlMsixMask)));
  EXPECT_TRUE(vm.irqfds.empty());
  EXPECT_TRUE(router.apply(control(kMsixOn | kControlPowerD3)));
  EXPECT_TRUE(vm.irqfds.empty());
  EXPECT_TRUE(router.apply(control(kMsixOn)));
  EXPECT_EQ(vm.irqfds.size(), 1U);
  EXPECT_EQ(vm.deliver_messages(), Messages{message}) << "what was raised while it was masked";
}

TEST_F(InterruptRouterTest, a_masked_vectors_pending_bit_is_its_eventfds_state) {
  router.apply(control(kMsixOn));
  for (std::uint32_t v = 0; v < 4; ++v) router.apply(msix(v, MsiRoute::Message{0xfee00000, 0x40 + v}));
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0U);
  router.apply(msix(1, std::nullopt));
  router.apply(msix(3, std::nullopt));
  raise(1);
  raise(2);
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0b0010U) << "vector 2 is on its way";
  EXPECT_EQ(vm.deliver_messages(), (Messages{{0xfee00000, 0x42}}));
  router.apply(msix(1, MsiRoute::Message{0xfee00000, 0x51}));
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0U);
  EXPECT_EQ(vm.deliver_messages(), (Messages{{0xfee00000, 0x51}}));
}

TEST_F(InterruptRouterTest, pending_bits_of_what_is_not_there_are_zero) {
  EXPECT_EQ(router.pending_bits(kOther, 0), 0U);
  EXPECT_EQ(router.pending_bits(kFunction, 4), 0U);
  EXPECT_EQ(router.pending_bits(kFunction, 0xffff), 0U);
}

TEST_F(InterruptRouterTest, a_new_message_for_a_vector_in_use_needs_no_new_irqfd) {
  router.apply(control(kMsixOn));
  router.apply(msix(0, MsiRoute::Message{0xfee00000, 0x40}));
  const int assigns = vm.assigns;
  router.apply(msix(0, MsiRoute::Message{0xfee02000, 0x50}));
  EXPECT_EQ(vm.assigns, assigns);
  raise(0);
  EXPECT_EQ(vm.deliver_messages(), (Messages{{0xfee02000, 0x50}}));
}

TEST_F(InterruptRouterTest, enabling_a_function_installs_its_routes_in_one_call) {
  for (std::uint32_t v = 0; v < 4; ++v) router.apply(msix(v, MsiRoute::Message{0xfee00000, 0x40 + v}));
  const int before = vm.route_calls;
  router.apply(control(kMsixOn));
  EXPECT_EQ(vm.route_calls, before + 1);
  EXPECT_EQ(vm.irqfds.size(), 4U);
  router.apply(control(kMsixOn));
  EXPECT_EQ(vm.route_calls, before + 1) << "nothing changed";
}

// A guest may write an address that KVM refuses. Its other vectors work, and the masks of all do.
TEST_F(InterruptRouterTest, a_message_that_the_hypervisor_refuses_holds_up_no_other) {
  vm.refused_addresses = {0x100'fee0'0000};
  router.apply(msix(0, MsiRoute::Message{0x100'fee0'0000, 0x40}));
  router.apply(msix(1, MsiRoute::Message{0xfee00000, 0x41}));
  router.apply(msix(2, MsiRoute::Message{0xfee00000, 0x42}));
  router.apply(control(kMsixOn));
  EXPECT_EQ(vm.irqfds.size(), 2U);
  raise(1);
  EXPECT_EQ(vm.deliver_messages(), (Messages{{0xfee00000, 0x41}}));
  router.apply(msix(1, std::nullopt));
  raise(1);
  EXPECT_TRUE(vm.deliver_messages().empty()) << "vector 1 is masked";
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0b0010U);
  raise(0);
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0b0011U) << "it waits for a message that goes somewhere";
  router.apply(msix(0, MsiRoute::Message{0xfee00000, 0x40}));
  EXPECT_EQ(vm.deliver_messages(), (Messages{{0xfee00000, 0x40}}));
}

TEST_F(InterruptRouterTest, a_vector_in_use_whose_new_message_is_refused_is_not_delivered_to_the_old_place) {
  router.apply(control(kMsixOn));
  router.apply(msix(0, MsiRoute::Message{0xfee00000, 0x40}));
  vm.refused_addresses = {0x100'fee0'0000};
  router.apply(msix(0, MsiRoute::Message{0x100'fee0'0000, 0x40}));
  raise(0);
  EXPECT_TRUE(vm.deliver_messages().empty());
}

TEST_F(InterruptRouterTest, more_vectors_than_the_hypervisor_has_gsis_stay_pending) {
  vm.gsi_limit = 2;
  router.apply(control(kMsixOn));
  for (std::uint32_t v = 0; v < 4; ++v) EXPECT_TRUE(router.apply(msix(v, MsiRoute::Message{0xfee00000, 0x40 + v})));
  EXPECT_EQ(vm.irqfds.size(), 2U);
  raise(3);
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0b1000U);
}

TEST_F(InterruptRouterTest, effects_for_what_is_not_there_are_refused) {
  EXPECT_FALSE(router.apply(msix(4, MsiRoute::Message{0xfee00000, 1})));
  EXPECT_FALSE(router.apply(msix(0, MsiRoute::Message{0xfee00000, 1}, kOther)));
  Effect other = msi(0, 0xfee00000, 1);
  other.function = kOther;
  EXPECT_FALSE(router.apply(other));
  EXPECT_TRUE(router.apply(control(kMsixOn, kOther))) << "a function without messages has a control word, too";
}

// --- MSI ---

TEST_F(InterruptRouterTest, msi_vectors_share_an_address_and_have_masks) {
  router.apply(control(kMsiOn));
  EXPECT_TRUE(router.apply(msi(2, 0xfee03000, 0x60, 0b0100)));
  EXPECT_EQ(vm.irqfds.size(), 3U);
  for (std::uint32_t v = 0; v < 4; ++v) raise(v);
  EXPECT_EQ(vm.deliver_messages(), (Messages{{0xfee03000, 0x60}, {0xfee03000, 0x61}, {0xfee03000, 0x63}}));
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0b0100U);
  router.apply(msi(2, 0xfee03000, 0x60, 0));
  EXPECT_EQ(vm.deliver_messages(), (Messages{{0xfee03000, 0x62}}));
}

TEST_F(InterruptRouterTest, with_msix_on_the_msi_capability_is_silent) {
  router.apply(msi(0, 0xfee03000, 0x60));
  router.apply(control(kMsiOn | kControlMsixEnable));
  EXPECT_TRUE(vm.irqfds.empty());
}

TEST_F(InterruptRouterTest, a_switch_from_msi_to_msix_moves_the_message) {
  router.apply(msi(0, 0xfee03000, 0x60));
  router.apply(control(kMsiOn));
  router.apply(msix(0, MsiRoute::Message{0xfee04000, 0x70}));
  router.apply(control(kMsixOn));
  raise(0);
  EXPECT_EQ(vm.deliver_messages(), (Messages{{0xfee04000, 0x70}}));
}

TEST_F(InterruptRouterTest, with_both_off_nothing_stays_pending) {
  router.apply(control(kMsixOn | kControlMsixMask));
  raise(0);
  EXPECT_EQ(router.pending_bits(kFunction, 0), 1U);
  router.apply(control(0));
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0U);
  router.apply(msix(0, MsiRoute::Message{0xfee00000, 0x40}));
  router.apply(control(kMsixOn));
  EXPECT_TRUE(vm.deliver_messages().empty());
}

TEST_F(InterruptRouterTest, a_reset_takes_everything_away) {
  router.apply(route_pirq(pirq(), 10));
  router.apply(control(kMsixOn));
  for (std::uint32_t v = 0; v < 4; ++v) router.apply(msix(v, MsiRoute::Message{0xfee00000, 0x40 + v}));
  signal_eventfd(line.borrow());
  raise(0);
  router.reset();
  EXPECT_TRUE(vm.irqfds.empty());
  EXPECT_FALSE(router.gsi_of_pirq(pirq()));
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0U);
  // What comes back is what is asked for anew.
  router.apply(control(kMsixOn));
  EXPECT_TRUE(vm.irqfds.empty());
  router.apply(route_pirq(pirq(), 10));
  EXPECT_TRUE(vm.deliver().empty()) << "nothing of before the reset";
}

TEST_F(InterruptRouterTest, an_isolated_function_raises_nothing_until_it_is_back_and_asks_anew) {
  router.apply(route_pirq(pirq(), 10));
  router.apply(control(kMsixOn));
  for (std::uint32_t v = 0; v < 4; ++v) router.apply(msix(v, MsiRoute::Message{0xfee00000, 0x40 + v}));
  signal_eventfd(line.borrow());
  raise(0);
  router.set_present(kOther, false);  // somebody else
  EXPECT_EQ(vm.irqfds.size(), 5U);
  router.set_present(kFunction, false);
  EXPECT_TRUE(vm.irqfds.empty());
  EXPECT_EQ(router.pending_bits(kFunction, 0), 0U);
  // Nothing that `pci` says about it changes that.
  router.apply(route_pirq(pirq(), 11));
  router.apply(control(kMsixOn));
  router.apply(msix(1, MsiRoute::Message{0xfee00000, 0x41}));
  EXPECT_TRUE(vm.irqfds.empty());
  router.set_present(kFunction, true);
  EXPECT_EQ(vm.gsi_of(line.borrow()), 11U) << "the pin is routed as the guest left it";
  EXPECT_EQ(vm.irqfds.size(), 1U);
  router.apply(msix(1, MsiRoute::Message{0xfee00000, 0x41}));
  EXPECT_EQ(vm.irqfds.size(), 1U) << "it came back from reset: its MSI-X is off";
  router.apply(control(kMsixOn));
  EXPECT_EQ(vm.irqfds.size(), 2U);
}

// Any history: the irqfds in place are those that the last word on each object gives, each message is the last one, and
// no interrupt is lost or doubled on the way (edges merge, as in an eventfd).
TEST_F(InterruptRouterTest, random_histories_leave_what_the_last_words_say) {
  std::mt19937 random(1);
  std::uint32_t bits = 0;
  std::vector<std::optional<MsiRoute::Message>> entries(4);
  Effect last_msi{};
  std::vector<bool> raised(4);
  for (int step = 0; step < 20'000; ++step) {
    switch (random() % 5) {
      case 0:
        bits = random() & kControlAll;
        router.apply(control(bits));
        break;
      case 1: {
        const std::uint32_t v = random() % 4;
        entries[v] = random() % 3 == 0 ? std::nullopt
                                       : std::optional(MsiRoute::Message{0xfee00000 + (random() % 4) * 0x1000,
                                                                         static_cast<std::uint32_t>(random() % 256)});
        router.apply(msix(v, entries[v]));
        break;
      }
      case 2: {
        const std::uint32_t log2 = random() % 3;
        last_msi = msi(log2, 0xfee00000, (random() % 256) & ~3U, random() % 16);
        if (random() % 4 == 0) last_msi = Effect{.kind = last_msi.kind, .function = kFunction};
        router.apply(last_msi);
        break;
      }
      default: {
        const std::uint32_t v = random() % 4;
        raise(v);
        raised[v] = true;
      }
    }
    const bool on = (bits & kControlBusMaster) != 0 && (bits & kControlPowerD3) == 0;
    Messages wanted;
    std::uint64_t pending = 0;
    for (std::uint32_t v = 0; v < 4; ++v) {
      std::optional<MsiRoute::Message> message;
      if (on && (bits & kControlMsixEnable) != 0) {
        if ((bits & kControlMsixMask) == 0) message = entries[v];
      } else if (on && (bits & kControlMsiEnable) != 0) {
        const auto m = msi_message(last_msi, v);
        if (m && !m->masked) message = MsiRoute::Message{m->address, m->data};
      }
      if (message && raised[v]) wanted.push_back(*message);
      if (message) raised[v] = false;
      if (!message && raised[v]) pending |= std::uint64_t{1} << v;
    }
    Messages got = vm.deliver_messages();
    const auto by_value = [](const MsiRoute::Message& a, const MsiRoute::Message& b) {
      return std::pair(a.address, a.data) < std::pair(b.address, b.data);
    };
    std::sort(got.begin(), got.end(), by_value);
    std::sort(wanted.begin(), wanted.end(), by_value);
    ASSERT_EQ(got, wanted) << "step " << step;
    if ((bits & (kControlMsiEnable | kControlMsixEnable)) != 0) {
      ASSERT_EQ(router.pending_bits(kFunction, 0), pending) << "step " << step;
    } else {
      router.apply(control(bits));  // forgets what is pending
      raised.assign(4, false);
    }
    ASSERT_EQ(vm.mistakes, 0);
  }
}

}  // namespace
}  // namespace bulkhead::vmm
