// VsockRelay: the host's end of a virtio_vsock: its connections, each a Unix socket here and a vsock stream there.
//
// Document: VIRTIO 1.2, section 5.10.6; spec.h for the host's side. Packets: devproc/models/virtio_vsock/spec.h.
// Implemented: connections from both sides, credit both ways, half-closed streams, resets.
// A socket cannot be exact when its process dies between a system call and a commit. So connections are not state: they
//   live and die with the process. Its successor begins a new epoch, of which the guest hears (transport reset), and
//   the listening socket, which is the VMM's, goes on. A death of the virtio_vsock process loses nothing: what it had
//   not taken is in the link, and what it had is committed there.
// Bounds: kMostSockets connections; kBufAlloc bytes for each whose program does not read; kMostOrphans resets for
// packets
//   of no connection, beyond which those are dropped.
// Units: bytes. Threading: single-threaded. Trust: packets come from a process that the guest may have taken over; what
//   the host's programs say is any bytes.
// Config: VsockRelayConfig{.guest_cid = 3}
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "devproc/core/device.h"
#include "devproc/core/packet_link.h"
#include "devproc/core/persistent.h"
#include "devproc/core/stream_sockets.h"
#include "devproc/models/virtio_vsock/spec.h"
#include "devproc/models/vsock_relay/spec.h"
#include "ipc/roles/device_config.h"

namespace bulkhead::devproc {

// Since the VM began.
struct VsockRelayState {
  std::uint64_t from_host = 0;  // connections that were established
  std::uint64_t from_guest = 0;
  std::uint64_t refused = 0;  // by either side, and for want of room
  std::uint64_t resets = 0;   // of established ones, by either side
  std::uint64_t to_host_bytes = 0;
  std::uint64_t to_guest_bytes = 0;
  std::uint64_t bad_packets = 0;
  std::uint32_t peer_epoch = 0;
  std::uint32_t reserved = 0;
  bool operator==(const VsockRelayState&) const = default;
};
static_assert(std::has_unique_object_representations_v<VsockRelayState>);

class VsockRelay final : public Device {
 public:
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr BackendId kLink = 0;
  static constexpr BackendId kSockets = 1;
  static constexpr std::size_t kMostOrphans = 64;
  static constexpr int kMostInputs = 64;  // packets, or events, of one input

  VsockRelay(Persistent<VsockRelayState> state, const VsockRelayConfig& config, PacketLink& link,
             StreamSockets& sockets);

  [[nodiscard]] std::string_view name() const override { return "vsock_relay"; }
  [[nodiscard]] std::span<const RegionSpec> regions() const override { return {}; }
  std::optional<std::uint64_t> read(const Access&) override { return std::nullopt; }
  bool write(const Access&, std::uint64_t) override { return false; }
  void reset() override;
  void restore() override;
  bool on_backend(BackendId backend) override;
  void on_backend_poisoned(BackendId backend) override;
  void inspect(Inspector& inspector) const override;

 private:
  using Header = virtio_vsock_spec::VsockHeader;

  // Packets that a connection owes the guest: they go out when the link has room.
  enum Owed : std::uint8_t { kRequest = 1, kResponse = 2, kReset = 4, kCredit = 8, kShutdown = 16 };
  struct Connection {
    enum class State : std::uint8_t {
      kFree,
      kHello,       // its program is to say which port it wants
      kAsked,       // the guest has been asked
      kConnecting,  // the VMM has been asked for the guest's sake
      kOpen,
      kEnded,  // it only owes a reset
    };
    State state = State::kFree;
    std::uint8_t owed = 0;
    bool from_host = false;
    bool readable = false;  // its socket may have something
    bool writable = false;
    bool gone = false;   // the program has closed its end wholly
    bool ended = false;  // the program has said all, and the guest has it
    bool write_shut = false;
    std::uint8_t guest_shut = 0;  // what the guest will not do any more: kOpShutdown's flags
    std::uint8_t our_shut = 0;    // what it was told, likewise
    std::uint32_t turn = 0;
    std::optional<SocketId> socket;
    std::uint32_t host_port = 0;
    std::uint32_t guest_port = 0;
    std::uint32_t peer_alloc = 0;  // the guest's buf_alloc and fwd_cnt
    std::uint32_t peer_passed = 0;
    std::uint32_t sent = 0;          // to the guest
    std::uint32_t passed = 0;        // to the program: our fwd_cnt
    std::uint32_t told = 0;          // `passed`, as the guest knows it
    std::vector<std::byte> waiting;  // for the program
    std::size_t waiting_done = 0;
    std::size_t greeting = 0;  // of what waits, bytes that are not the guest's
    std::array<char, vsock_relay_spec::kLongestHello> hello{};
    std::size_t hello_size = 0;
  };
  using State = Connection::State;

  void forget_all();
  Connection* find(std::uint32_t host_port, std::uint32_t guest_port);
  Connection* take_free();
  void name_it(Connection& one, std::uint32_t host_port, std::uint32_t guest_port);
  void free(Connection& one);
  [[nodiscard]] std::uint32_t tag_of(const Connection& one) const;
  void close_socket(Connection& one);
  void fail(Connection& one);  // resets it, whoever is to blame

  // From the guest.
  bool take_packets();
  void on_packet(std::span<const std::byte> packet);
  void on_request(const Header& header);
  void on_packet_of(Connection& one, const Header& header, std::span<const std::byte> payload);
  void on_data(Connection& one, std::span<const std::byte> payload);
  void refuse(const Header& header);

  // From the host's programs.
  bool take_events();
  void on_event(const SocketEvent& event);
  void on_accepted(SocketId socket);
  void on_answer(const SocketEvent& event);
  void read_hello(Connection& one);

  // Moves whatever can be moved. False: it goes on in the next input.
  bool pump(Connection& one);
  bool move_to_guest(Connection& one);
  void move_to_program(Connection& one);
  void settle(Connection& one);
  void pay(Connection& one);
  bool send(Connection& one, std::uint16_t op, std::span<const std::byte> payload = {}, std::uint32_t flags = 0);
  bool send_orphans();
  bool pump_all();
  [[nodiscard]] std::uint32_t credit(const Connection& one) const;
  [[nodiscard]] Connection* of_socket(SocketId socket);

  Persistent<VsockRelayState> state_;
  VsockRelayConfig config_;
  PacketLink& link_;
  StreamSockets& sockets_;
  std::vector<Connection> connections_;
  std::vector<std::uint16_t> free_;
  std::unordered_map<std::uint64_t, std::uint16_t> by_ports_;
  std::vector<std::uint16_t> by_socket_;
  std::deque<Header> orphans_;  // resets for packets of no connection
  std::uint32_t next_host_port_ = vsock_relay_spec::kFirstHostPort;
  std::size_t next_pumped_ = 0;
  bool blocked_ = false;  // somebody waits for room in the link
  std::vector<std::byte> scratch_;
};

}  // namespace bulkhead::devproc
