// Fuzzes VsockRelay: packets from a guest that may say anything, programs of the host that come, talk, stall and leave,
// links that are full, successors. Whatever comes, its tables stay within their bounds and it comes to rest.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "devproc/models/vsock_relay/vsock_relay.h"
#include "tests/fakes/fake_wires.h"
#include "tests/fuzz/device_fuzzer.h"

namespace bulkhead::devproc {
namespace {

using namespace virtio_vsock_spec;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

struct Count final : Inspector {
  void field(std::string_view name, std::uint64_t value) override {
    if (name == "connections") connections = value;
  }
  std::uint64_t connections = 0;
};

// Ports from a small set, so that packets meet connections.
void from_guest(FakeWires& fakes, FuzzBytes& bytes) {
  const std::uint8_t how = bytes.byte();
  const std::uint32_t length = (how & 1) != 0 ? bytes.byte() * 64U : 0U;
  VsockHeader header;
  header.src_cid = to_cid(3);
  header.dst_cid = to_cid(kHostCid);
  header.src_port = bytes.byte() % 4;
  header.dst_port = (how & 2) != 0 ? vsock_relay_spec::kFirstHostPort + bytes.byte() % 8 : bytes.byte() % 4;
  header.len = (how & 4) != 0 && (how & 8) != 0 ? static_cast<std::uint32_t>(bytes.number(4)) : length;
  header.type = (how & 0x30) == 0x30 ? bytes.byte() : kTypeStream;
  header.op = bytes.byte() % 9;
  header.flags = bytes.byte();
  header.buf_alloc = static_cast<std::uint32_t>(bytes.number(4));
  header.fwd_cnt = (how & 0x40) != 0 ? static_cast<std::uint32_t>(bytes.number(4)) : 0;
  FakeLink::Packet packet((how & 0x80) != 0 && (how & 1) == 0 ? how % 44U + 1 : sizeof header + length);
  std::memcpy(packet.data(), &header, std::min(sizeof header, packet.size()));
  fakes.link.incoming.push_back(std::move(packet));
}

void from_host(FakeWires& fakes, FuzzBytes& bytes) {
  FakeSockets& sockets = fakes.sockets;
  const std::uint8_t how = bytes.byte();
  switch (how % 4) {
    case 0:
      if (sockets.programs.size() < 512) {
        const SocketId socket = sockets.arrive();
        sockets.programs[socket].says = (how & 4) != 0 ? "CONNECT 2\nhello" : std::string(how, '1');
      }
      return;
    case 1:
      if (sockets.asked.empty() || sockets.programs.size() >= 512) return;
      if ((how & 4) != 0)
        sockets.answer(sockets.asked.back().second ^ (how & 8));
      else
        sockets.refuse(sockets.asked.back().second);
      return;
    default: break;
  }
  if (sockets.programs.empty()) return;
  const auto socket = static_cast<SocketId>(bytes.byte() % sockets.programs.size());
  FakeSockets::Program& program = sockets.programs[socket];
  program.says += std::string(bytes.byte() * 16U, 'x');
  program.room = bytes.byte() * 64U;
  program.ends |= (how & 0x1c) == 4;
  program.gone |= (how & 0x1c) == 8;
  sockets.deaf = (how & 0x1c) == 12;
  sockets.stir(socket);
}

void run(std::span<const std::uint8_t> script) {
  FakeWires fakes;
  VsockRelay relay(allocate_state<VsockRelayState>(fakes.state), {}, fakes.link, fakes.sockets);
  relay.reset();
  FuzzBytes bytes(script);
  while (!bytes.empty()) {
    const std::uint8_t what = bytes.byte();
    switch (what % 8) {
      case 0:
      case 1:
      case 2:
      case 3: from_guest(fakes, bytes); break;
      case 4:
      case 5: from_host(fakes, bytes); break;
      case 6: fakes.link.room = bytes.byte() * 1024U; break;
      default:
        if (what / 8 == 0) ++fakes.link.peers;
        if (what / 8 == 1) relay.restore();
        if (what / 8 == 2) relay.on_backend_poisoned(what / 64);
    }
    int inputs = 0;
    for (bool more = true; more; ++inputs) {
      more = relay.on_backend(VsockRelay::kSockets);
      more |= relay.on_backend(VsockRelay::kLink);
      require(inputs < 10'000, "it never comes to rest");
    }
    Count count;
    relay.inspect(count);
    require(count.connections <= kMostSockets, "more connections than there are");
    fakes.link.sent.clear();
    fakes.sockets.asked.resize(std::min<std::size_t>(fakes.sockets.asked.size(), 8));
  }
}

}  // namespace
}  // namespace bulkhead::devproc

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  bulkhead::devproc::run({data, size});
  return 0;
}
