// What the network figures' host side (figure_net.cc) and their guest (net_guest.cc) say to each other: one message a
// frame, behind its Ethernet header. Shared by a program of the host and one that runs without any library.
#pragma once

#include <cstdint>

namespace bulkhead::bench {

inline constexpr std::uint16_t kMessageType = 0x88b5;  // Ethernet types for local experiments (IEEE 802)
inline constexpr std::uint16_t kLoadType = 0x88b6;     // what is only counted: nobody on the host listens
inline constexpr std::uint16_t kIpv4Type = 0x0800;
inline constexpr unsigned kEthernetBytes = 14;
inline constexpr unsigned kFullFrame = 1514;
inline constexpr unsigned kSmallFrame = 60;
// IPv4 and TCP headers of 20 bytes and 44 segments of 1,448 bytes: what fits 64 KiB.
inline constexpr unsigned kSegmentBytes = 1448;
inline constexpr unsigned kSegments = 44;
inline constexpr unsigned kBigFrame = kEthernetBytes + 40 + kSegments * kSegmentBytes;

// struct virtio_net_hdr (VIRTIO 1.2, section 5.1.6), as cards and packet sockets have it.
struct NetHeader {
  std::uint8_t flags;
  std::uint8_t gso_type;
  std::uint16_t header_bytes;
  std::uint16_t segment_bytes;
  std::uint16_t checksum_start;
  std::uint16_t checksum_offset;
};
inline constexpr NetHeader kBigHeader{1, 1, kEthernetBytes + 40, kSegmentBytes, kEthernetBytes + 20, 16};

// A frame for `type` in the first bytes at `frame`; that of a big one takes the IPv4 and TCP headers, too.
inline void put_ethernet(std::uint8_t* frame, std::uint16_t type) {
  for (unsigned i = 0; i < 12; ++i) frame[i] = static_cast<std::uint8_t>(i % 6 == 0 ? 2 : i);
  frame[12] = static_cast<std::uint8_t>(type >> 8);
  frame[13] = static_cast<std::uint8_t>(type);
}
inline void put_big(std::uint8_t* frame) {
  put_ethernet(frame, kIpv4Type);
  std::uint8_t* const ip = frame + kEthernetBytes;
  constexpr unsigned kIpBytes = kBigFrame - kEthernetBytes;
  ip[0] = 0x45;
  ip[2] = kIpBytes >> 8;
  ip[3] = kIpBytes & 0xff;
  ip[8] = 64;  // time to live
  ip[9] = 6;   // TCP
  ip[12] = ip[16] = 10;
  ip[15] = 2;
  ip[19] = 1;
  ip[32] = 0x50;  // five words of header
}

inline constexpr unsigned kDiskBytes = 256 << 20;
inline constexpr unsigned kReads = 32;
inline constexpr unsigned kWarmUp = 512;  // more than a guest has buffers

enum class NetOp : std::uint32_t {
  kReady = 1,  // from the guest: its card works
  kSend,       // to the guest: send full frames for `ticks`, then report
  kSendBig,    // the same with frames that hold many TCP segments
  kReceive,    // take `frames` load frames, for `ticks` at most; report those behind the first kWarmUp, and their time
  kEcho,       // send a ping, wait for it to come back, for `ticks`, then report
  kRead,       // read 4 KiB at random places of the disk, kReads at once, for `ticks`, then report
  kReadAhead,  // the same one after the other, 1 MiB each, four at once
  kPing,       // both ways
  kReport,     // from the guest: what it was asked for is over
};

struct NetMessage {
  NetOp op;
  std::uint32_t round;   // of the command; whatever belongs to it has the same
  std::uint64_t ticks;   // of the time-stamp counter
  std::uint64_t frames;  // sent, taken, or come back
  std::uint64_t kicks;   // doorbells that the guest rang for it
};

}  // namespace bulkhead::bench
