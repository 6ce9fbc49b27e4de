// The host's end of virtio sockets: connections of both sides, credit, ends, and what a hostile guest cannot do.
#include "devproc/models/vsock_relay/vsock_relay.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

#include "tests/fakes/fake_wires.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio_vsock_spec;
using namespace vsock_relay_spec;

constexpr std::uint32_t kCid = 7;
constexpr std::uint32_t kGuestPort = 1000;

struct Got {
  VsockHeader header;
  std::string payload;
};

struct Rig {
  Rig() { relay.reset(); }
  void run() {
    for (bool more = true; more;) {
      more = relay.on_backend(VsockRelay::kSockets);
      more |= relay.on_backend(VsockRelay::kLink);
    }
  }
  // From the guest.
  void say(std::uint16_t op, std::uint32_t host_port, std::string_view payload = {}, std::uint32_t flags = 0,
           std::uint32_t fwd_cnt = 0, std::uint32_t buf_alloc = 262'144) {
    VsockHeader header;
    header.src_cid = to_cid(kCid);
    header.dst_cid = to_cid(kHostCid);
    header.src_port = kGuestPort;
    header.dst_port = host_port;
    header.len = static_cast<std::uint32_t>(payload.size());
    header.type = kTypeStream;
    header.op = op;
    header.flags = flags;
    header.buf_alloc = buf_alloc;
    header.fwd_cnt = fwd_cnt;
    FakeLink::Packet packet(sizeof header + payload.size());
    std::memcpy(packet.data(), &header, sizeof header);
    if (!payload.empty()) std::memcpy(packet.data() + sizeof header, payload.data(), payload.size());
    fakes.link.incoming.push_back(std::move(packet));
  }
  std::optional<Got> hear() {
    if (fakes.link.sent.empty()) return std::nullopt;
    Got got;
    const FakeLink::Packet& packet = fakes.link.sent.front();
    std::memcpy(&got.header, packet.data(), sizeof got.header);
    got.payload.assign(reinterpret_cast<const char*>(packet.data()) + sizeof got.header,
                       packet.size() - sizeof got.header);
    fakes.link.sent.pop_front();
    return got;
  }
  // The next packet's operation; 0 when there is none.
  std::uint16_t op() {
    const auto got = hear();
    return got ? got->header.op : std::uint16_t{0};
  }
  // A program of the host is connected to the guest's port 1000.
  SocketId host_connects() {
    const SocketId socket = fakes.sockets.arrive();
    program(socket).says = "CONNECT 1000\n";
    run();
    const auto request = hear();
    EXPECT_TRUE(request && request->header.op == kOpRequest && request->header.dst_port == kGuestPort);
    port = request ? request->header.src_port : 0;
    say(kOpResponse, port);
    run();
    EXPECT_EQ(program(socket).heard, "OK " + std::to_string(port) + "\n");
    program(socket).heard.clear();
    return socket;
  }
  // The guest is connected to port 52 of the host.
  SocketId guest_connects() {
    port = 52;
    say(kOpRequest, 52);
    run();
    EXPECT_EQ(fakes.sockets.asked.back().first, 52U);
    const SocketId socket = fakes.sockets.answer(fakes.sockets.asked.back().second);
    run();
    EXPECT_EQ(op(), kOpResponse);
    return socket;
  }
  FakeSockets::Program& program(SocketId socket) { return fakes.sockets.programs[socket]; }
  std::uint64_t field(std::string_view name) {
    struct Fields final : Inspector {
      void field(std::string_view key, std::uint64_t value) override { all[std::string(key)] = value; }
      std::map<std::string, std::uint64_t> all;
    } fields;
    relay.inspect(fields);
    return fields.all[std::string(name)];
  }

  FakeWires fakes;
  Persistent<VsockRelayState> state = allocate_state<VsockRelayState>(fakes.state);
  VsockRelay relay{state, {.guest_cid = kCid}, fakes.link, fakes.sockets};
  std::uint32_t port = 0;
};

TEST(VsockRelay, a_program_of_the_host_connects_to_the_guest) {
  Rig rig;
  const SocketId socket = rig.host_connects();
  EXPECT_GE(rig.port, kFirstHostPort);
  rig.program(socket).says = "question";
  rig.fakes.sockets.stir(socket);
  rig.run();
  const auto data = rig.hear();
  ASSERT_TRUE(data);
  EXPECT_EQ(data->header.op, kOpRw);
  EXPECT_EQ(data->header.src_cid, to_cid(kHostCid));
  EXPECT_EQ(data->header.dst_cid, to_cid(kCid));
  EXPECT_EQ(data->header.buf_alloc, kBufAlloc);
  EXPECT_EQ(data->payload, "question");
  rig.say(kOpRw, rig.port, "answer");
  rig.run();
  EXPECT_EQ(rig.program(socket).heard, "answer");
}

TEST(VsockRelay, what_follows_the_first_line_is_the_guests) {
  Rig rig;
  const SocketId socket = rig.fakes.sockets.arrive();
  rig.program(socket).says = "CONNECT 1000\nearly";
  rig.run();
  const std::uint32_t port = rig.hear()->header.src_port;
  EXPECT_FALSE(rig.hear()) << "the guest has not accepted";
  rig.say(kOpResponse, port);
  rig.run();
  EXPECT_EQ(rig.hear()->payload, "early");
}

TEST(VsockRelay, other_first_lines_end_the_connection) {
  for (const std::string line : {"CONNECT\n", "CONNECT x\n", "CONNECT 1x\n", "CONNECT 4294967296\n", "connect 1\n",
                                 "\n", "CONNECT 0000000000000000000000000000000001\n", "CONNECT -1\n"}) {
    Rig rig;
    const SocketId socket = rig.fakes.sockets.arrive();
    rig.program(socket).says = line;
    rig.run();
    EXPECT_TRUE(rig.program(socket).closed) << line;
    EXPECT_FALSE(rig.hear()) << line;
    EXPECT_EQ(rig.field("connections"), 0U);
  }
}

TEST(VsockRelay, a_guest_that_refuses_closes_the_programs_socket) {
  Rig rig;
  const SocketId socket = rig.fakes.sockets.arrive();
  rig.program(socket).says = "CONNECT 1000\n";
  rig.run();
  rig.say(kOpRst, rig.hear()->header.src_port);
  rig.run();
  EXPECT_TRUE(rig.program(socket).closed);
  EXPECT_EQ(rig.program(socket).heard, "");
  EXPECT_FALSE(rig.hear());
  EXPECT_EQ(rig.field("connections"), 0U);
}

TEST(VsockRelay, the_guest_connects_to_a_program_of_the_host) {
  Rig rig;
  const SocketId socket = rig.guest_connects();
  rig.say(kOpRw, 52, "question");
  rig.run();
  EXPECT_EQ(rig.program(socket).heard, "question");
  rig.program(socket).says = "answer";
  rig.fakes.sockets.stir(socket);
  rig.run();
  EXPECT_EQ(rig.hear()->payload, "answer");
}

TEST(VsockRelay, nobody_who_listens_is_a_reset) {
  Rig rig;
  rig.say(kOpRequest, 52);
  rig.run();
  rig.fakes.sockets.refuse(rig.fakes.sockets.asked.back().second);
  rig.run();
  EXPECT_EQ(rig.op(), kOpRst);
  rig.fakes.sockets.deaf = true;
  rig.say(kOpRequest, 53);
  rig.run();
  EXPECT_EQ(rig.op(), kOpRst);
  EXPECT_EQ(rig.field("connections"), 0U);
  EXPECT_EQ(rig.field("refused"), 2U);
}

TEST(VsockRelay, an_answer_for_a_connection_that_is_gone_is_closed) {
  Rig rig;
  rig.say(kOpRequest, 52);
  rig.run();
  rig.say(kOpRst, 52);
  rig.run();
  const SocketId late = rig.fakes.sockets.answer(rig.fakes.sockets.asked.back().second);
  rig.run();
  EXPECT_TRUE(rig.program(late).closed);
  EXPECT_FALSE(rig.hear());
}

TEST(VsockRelay, the_guest_is_given_no_more_than_it_can_keep) {
  Rig rig;
  const SocketId socket = rig.guest_connects();
  rig.say(kOpCreditUpdate, 52, {}, 0, 0, 10);
  rig.run();
  rig.program(socket).says = "0123456789abcdef";
  rig.fakes.sockets.stir(socket);
  rig.run();
  EXPECT_EQ(rig.hear()->payload, "0123456789");
  EXPECT_FALSE(rig.hear());
  rig.say(kOpCreditUpdate, 52, {}, 0, 4, 10);
  rig.run();
  EXPECT_EQ(rig.hear()->payload, "abcd");
  rig.say(kOpCreditUpdate, 52, {}, 0, 14, 5);  // smaller than before
  rig.run();
  EXPECT_EQ(rig.hear()->payload, "ef");
}

TEST(VsockRelay, a_program_that_does_not_read_holds_the_guest_up_and_no_more_is_kept) {
  Rig rig;
  const SocketId socket = rig.guest_connects();
  rig.program(socket).room = 0;
  const std::string block(16384, 'x');
  for (int i = 0; i < 4; ++i) rig.say(kOpRw, 52, block);
  rig.run();
  EXPECT_FALSE(rig.hear()) << "nothing was passed on";
  rig.program(socket).room = 1U << 20;
  rig.fakes.sockets.stir(socket);
  rig.run();
  const auto update = rig.hear();
  ASSERT_TRUE(update);
  EXPECT_EQ(update->header.op, kOpCreditUpdate);
  EXPECT_EQ(update->header.fwd_cnt, kBufAlloc);
  // One that sends more than it may is reset.
  rig.program(socket).room = 0;
  for (int i = 0; i < 4; ++i) rig.say(kOpRw, 52, block);
  rig.say(kOpRw, 52, "y");
  rig.run();
  EXPECT_EQ(rig.op(), kOpRst);
  EXPECT_TRUE(rig.program(socket).closed);
}

TEST(VsockRelay, a_request_for_credit_is_answered) {
  Rig rig;
  rig.guest_connects();
  rig.say(kOpRw, 52, "abc");
  rig.say(kOpCreditRequest, 52);
  rig.run();
  const auto update = rig.hear();
  ASSERT_TRUE(update);
  EXPECT_EQ(update->header.op, kOpCreditUpdate);
  EXPECT_EQ(update->header.fwd_cnt, 3U);
}

TEST(VsockRelay, either_side_may_say_that_it_has_done_and_go_on_listening) {
  Rig rig;
  const SocketId socket = rig.guest_connects();
  rig.program(socket).ends = true;
  rig.fakes.sockets.stir(socket);
  rig.run();
  const auto shut = rig.hear();
  ASSERT_TRUE(shut);
  EXPECT_EQ(shut->header.op, kOpShutdown);
  EXPECT_EQ(shut->header.flags, kShutdownSend);
  rig.say(kOpRw, 52, "still");
  rig.run();
  EXPECT_EQ(rig.program(socket).heard, "still");
  rig.say(kOpShutdown, 52, {}, kShutdownSend);
  rig.run();
  EXPECT_TRUE(rig.program(socket).heard_end);
  EXPECT_EQ(rig.op(), kOpRst) << "the clean end";
  EXPECT_TRUE(rig.program(socket).closed);
  EXPECT_EQ(rig.field("connections"), 0U);
  EXPECT_EQ(rig.field("resets"), 0U);
}

TEST(VsockRelay, a_guest_that_closes_is_confirmed_when_the_program_has_everything) {
  Rig rig;
  const SocketId socket = rig.guest_connects();
  rig.program(socket).room = 3;
  rig.say(kOpRw, 52, "abcdef");
  rig.say(kOpShutdown, 52, {}, kShutdownSend | kShutdownReceive);
  rig.run();
  EXPECT_FALSE(rig.hear());
  EXPECT_FALSE(rig.program(socket).closed);
  rig.program(socket).room = 100;
  rig.fakes.sockets.stir(socket);
  rig.run();
  EXPECT_EQ(rig.program(socket).heard, "abcdef");
  EXPECT_EQ(rig.op(), kOpRst);
  EXPECT_TRUE(rig.program(socket).closed);
}

TEST(VsockRelay, a_program_that_leaves_is_told_to_the_guest_after_its_last_words) {
  Rig rig;
  const SocketId socket = rig.guest_connects();
  rig.program(socket).says = "bye";
  rig.program(socket).gone = true;
  rig.fakes.sockets.stir(socket);
  rig.run();
  EXPECT_EQ(rig.hear()->payload, "bye");
  const auto shut = rig.hear();
  ASSERT_TRUE(shut);
  EXPECT_EQ(shut->header.op, kOpShutdown);
  EXPECT_EQ(shut->header.flags, kShutdownSend | kShutdownReceive);
  rig.say(kOpRw, 52, "for nobody");
  rig.run();
  rig.say(kOpRst, 52);
  rig.run();
  EXPECT_EQ(rig.field("connections"), 0U);
}

TEST(VsockRelay, packets_of_no_connection_are_answered_by_resets_which_are_not) {
  Rig rig;
  for (const std::uint16_t op :
       {kOpResponse, kOpShutdown, kOpRw, kOpCreditUpdate, kOpCreditRequest, std::uint16_t{99}}) {
    rig.say(op, 77);
    rig.run();
    const auto reset = rig.hear();
    ASSERT_TRUE(reset) << op;
    EXPECT_EQ(reset->header.op, kOpRst);
    EXPECT_EQ(reset->header.src_port, 77U);
    EXPECT_EQ(reset->header.dst_port, kGuestPort);
  }
  rig.say(kOpRst, 77);
  rig.run();
  EXPECT_FALSE(rig.hear());
  // However many, with no room to answer: a bounded number is remembered.
  rig.fakes.link.room = 0;
  for (std::uint32_t i = 0; i < 10'000; ++i) rig.say(kOpRw, i);
  rig.run();
  rig.fakes.link.room = 1U << 20;
  rig.run();
  EXPECT_EQ(rig.fakes.link.sent.size(), VsockRelay::kMostOrphans);
}

TEST(VsockRelay, other_types_of_sockets_are_refused) {
  Rig rig;
  rig.say(kOpRequest, 52);
  reinterpret_cast<VsockHeader*>(rig.fakes.link.incoming.back().data())->type = 2;
  rig.run();
  const auto reset = rig.hear();
  ASSERT_TRUE(reset);
  EXPECT_EQ(reset->header.op, kOpRst);
  EXPECT_EQ(reset->header.type, 2U);
  EXPECT_TRUE(rig.fakes.sockets.asked.empty());
}

TEST(VsockRelay, connections_are_so_many_and_no_more) {
  Rig rig;
  for (std::uint32_t i = 0; i <= kMostSockets; ++i) rig.say(kOpRequest, 10'000 + i);
  rig.run();
  EXPECT_EQ(rig.field("connections"), kMostSockets);
  EXPECT_EQ(rig.op(), kOpRst);
  EXPECT_FALSE(rig.hear());
  rig.say(kOpRst, 10'000);
  rig.say(kOpRequest, 5);
  rig.run();
  EXPECT_EQ(rig.fakes.sockets.asked.back().first, 5U);
}

TEST(VsockRelay, a_successor_begins_anew_and_a_guest_that_was_reset_does_too) {
  Rig rig;
  const SocketId socket = rig.guest_connects();
  const std::uint32_t before = rig.fakes.link.epoch;
  rig.relay.restore();
  EXPECT_EQ(rig.fakes.link.epoch, before + 1);
  rig.say(kOpRw, 52, "old");
  rig.run();
  EXPECT_EQ(rig.op(), kOpRst);
  const SocketId second = rig.guest_connects();
  ++rig.fakes.link.peers;
  rig.run();
  EXPECT_TRUE(rig.program(second).closed);
  EXPECT_FALSE(rig.hear()) << "the guest has forgotten it itself";
  EXPECT_EQ(rig.field("connections"), 0U);
  (void)socket;
}

TEST(VsockRelay, an_answer_to_a_predecessor_is_nobodys) {
  Rig rig;
  rig.say(kOpRequest, 52);
  rig.run();
  const std::uint32_t asked_before = rig.fakes.sockets.asked.back().second;
  VsockRelay successor(rig.state, {.guest_cid = kCid}, rig.fakes.link, rig.fakes.sockets);
  successor.restore();
  rig.say(kOpRequest, 53);
  (void)successor.on_backend(VsockRelay::kLink);
  ASSERT_EQ(rig.fakes.sockets.asked.back().first, 53U);
  const SocketId late = rig.fakes.sockets.answer(asked_before);  // to whoever listens at 52
  (void)successor.on_backend(VsockRelay::kSockets);
  EXPECT_TRUE(rig.program(late).closed);
  const SocketId right = rig.fakes.sockets.answer(rig.fakes.sockets.asked.back().second);
  (void)successor.on_backend(VsockRelay::kSockets);
  EXPECT_FALSE(rig.program(right).closed);
  EXPECT_EQ(rig.op(), kOpResponse);
}

TEST(VsockRelay, a_guest_that_only_sends_hears_of_a_program_that_leaves) {
  Rig rig;
  const SocketId socket = rig.guest_connects();
  rig.say(kOpShutdown, 52, {}, kShutdownReceive);
  rig.run();
  rig.program(socket).says = "unheard";
  rig.program(socket).gone = true;
  rig.fakes.sockets.stir(socket);
  rig.run();
  const auto shut = rig.hear();
  ASSERT_TRUE(shut) << "it would wait for credit for ever";
  EXPECT_EQ(shut->header.op, kOpShutdown);
  EXPECT_EQ(shut->header.flags, kShutdownSend | kShutdownReceive);
  EXPECT_TRUE(rig.program(socket).closed);
}

// Programs and guest say what they like, the link is full or not: every byte once and in order, both ways.
TEST(VsockRelay, every_byte_once_and_in_order) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    std::mt19937_64 random(seed);
    Rig rig;
    const SocketId socket = seed % 2 == 0 ? rig.guest_connects() : rig.host_connects();
    std::string said;
    std::string heard;
    std::string from_guest;
    std::uint32_t guest_taken = 0;
    std::uint32_t allowed = kBufAlloc;  // as the guest reckons
    std::uint32_t sent = 0;
    const auto listen = [&] {
      while (const auto got = rig.hear()) {
        heard += got->payload;
        allowed = got->header.fwd_cnt + got->header.buf_alloc;
      }
    };
    rig.fakes.link.room = 0;
    rig.program(socket).room = 0;
    for (int step = 0; step < 300; ++step) {
      switch (random() % 5) {
        case 0: {
          const std::string text(random() % 3000, static_cast<char>('a' + step % 26));
          said += text;
          rig.program(socket).says += text;
          rig.fakes.sockets.stir(socket);
          break;
        }
        case 1: {
          const std::string text(std::min<std::uint64_t>(random() % 5000, allowed - sent),
                                 static_cast<char>('A' + step % 26));
          if (text.empty()) break;
          sent += static_cast<std::uint32_t>(text.size());
          from_guest += text;
          rig.say(kOpRw, rig.port, text, 0, guest_taken, 4000);
          break;
        }
        case 2: rig.fakes.link.room = random() % 5000; break;
        case 3:
          rig.program(socket).room += random() % 4000;
          rig.fakes.sockets.stir(socket);
          break;
        default:
          listen();
          guest_taken = static_cast<std::uint32_t>(heard.size() - random() % (heard.size() + 1) / 4);
          rig.say(kOpCreditUpdate, rig.port, {}, 0, guest_taken, 4000);
      }
      rig.run();
    }
    rig.fakes.link.room = 1U << 24;
    rig.program(socket).room = 1U << 24;
    rig.fakes.sockets.stir(socket);
    for (int i = 0; i < 1000 && heard.size() < said.size(); ++i) {
      listen();
      rig.say(kOpCreditUpdate, rig.port, {}, 0, static_cast<std::uint32_t>(heard.size()), 4000);
      rig.run();
    }
    listen();
    ASSERT_EQ(heard, said) << "seed " << seed;
    ASSERT_EQ(rig.program(socket).heard, from_guest) << "seed " << seed;
  }
}

}  // namespace
}  // namespace bulkhead::devproc
