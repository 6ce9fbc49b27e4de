// The network device's feature bits, configuration, frame header and control commands, by the specification's names
// spelled as constants are here: VIRTIO_NET_F_CSUM is kNetFCsum. All fields are little-endian, as is this host.
//
// Document: Virtual I/O Device (VIRTIO) Version 1.2, section 5.1.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace bulkhead::devproc::virtio_net_spec {

// Feature bits, as numbers of bits (section 5.1.3).
inline constexpr unsigned kNetFCsum = 0;               // takes frames with a partial checksum
inline constexpr unsigned kNetFGuestCsum = 1;          // the driver does
inline constexpr unsigned kNetFCtrlGuestOffloads = 2;  // needs CTRL_VQ
inline constexpr unsigned kNetFMtu = 3;                // the field mtu is there
inline constexpr unsigned kNetFMac = 5;                // the field mac is there
inline constexpr unsigned kNetFGuestTso4 = 7;          // needs GUEST_CSUM
inline constexpr unsigned kNetFGuestTso6 = 8;          // needs GUEST_CSUM
inline constexpr unsigned kNetFGuestEcn = 9;           // needs GUEST_TSO4 or GUEST_TSO6
inline constexpr unsigned kNetFHostTso4 = 11;          // needs CSUM
inline constexpr unsigned kNetFHostTso6 = 12;          // needs CSUM
inline constexpr unsigned kNetFHostEcn = 13;           // needs HOST_TSO4 or HOST_TSO6
inline constexpr unsigned kNetFMrgRxbuf = 15;          // a frame may lie in several receive buffers
inline constexpr unsigned kNetFStatus = 16;            // the field status is there
inline constexpr unsigned kNetFCtrlVq = 17;            // there is a control queue
inline constexpr unsigned kNetFCtrlRx = 18;            // needs CTRL_VQ, as do those below
inline constexpr unsigned kNetFCtrlVlan = 19;
inline constexpr unsigned kNetFCtrlRxExtra = 20;
inline constexpr unsigned kNetFMq = 22;
inline constexpr unsigned kNetFCtrlMacAddr = 23;
inline constexpr unsigned kNetFSpeedDuplex = 63;  // the fields speed and duplex are there

// struct virtio_net_config (section 5.1.4), as far as it is there.
struct NetConfig {
  std::array<std::uint8_t, 6> mac{};
  std::uint16_t status = 0;  // kNetSLinkUp
  std::uint16_t max_virtqueue_pairs = 0;
  std::uint16_t mtu = 0;                  // bytes, without the link header
  std::uint32_t speed = 0;                // Mbit/s
  std::uint8_t duplex = 0;                // kNetFullDuplex
  std::array<std::uint8_t, 3> padding{};  // where fields of features that are not offered begin
};
static_assert(sizeof(NetConfig) == 20 && offsetof(NetConfig, speed) == 12);

inline constexpr std::uint16_t kNetSLinkUp = 1;
inline constexpr std::uint8_t kNetFullDuplex = 1;
inline constexpr std::uint16_t kLeastMtu = 68;

// struct virtio_net_hdr (section 5.1.6), in front of every frame.
struct NetHdr {
  std::uint8_t flags = 0;
  std::uint8_t gso_type = 0;
  std::uint16_t hdr_len = 0;      // of the link, network and transport headers: a hint
  std::uint16_t gso_size = 0;     // payload of each segment
  std::uint16_t csum_start = 0;   // from the frame's begin
  std::uint16_t csum_offset = 0;  // from csum_start
  std::uint16_t num_buffers = 0;  // received frames: in how many chains it lies
  bool operator==(const NetHdr&) const = default;
};
static_assert(sizeof(NetHdr) == 12 && std::has_unique_object_representations_v<NetHdr>);

inline constexpr std::uint8_t kNetHdrFNeedsCsum = 1;
inline constexpr std::uint8_t kNetHdrFDataValid = 2;

inline constexpr std::uint8_t kNetHdrGsoNone = 0;
inline constexpr std::uint8_t kNetHdrGsoTcpV4 = 1;
inline constexpr std::uint8_t kNetHdrGsoTcpV6 = 4;
inline constexpr std::uint8_t kNetHdrGsoEcn = 0x80;  // with one of the others

// struct virtio_net_ctrl (section 5.1.6.5): class, command, data of the command; then the device's ack.
inline constexpr std::uint8_t kNetOk = 0;
inline constexpr std::uint8_t kNetErr = 1;

inline constexpr std::uint8_t kNetCtrlRx = 0;  // class; data: one byte, 1 or 0
inline constexpr std::uint8_t kNetCtrlRxPromisc = 0;
inline constexpr std::uint8_t kNetCtrlRxAllmulti = 1;
inline constexpr std::uint8_t kNetCtrlRxAlluni = 2;  // this and the following with CTRL_RX_EXTRA
inline constexpr std::uint8_t kNetCtrlRxNomulti = 3;
inline constexpr std::uint8_t kNetCtrlRxNouni = 4;
inline constexpr std::uint8_t kNetCtrlRxNobcast = 5;

inline constexpr std::uint8_t kNetCtrlMac = 1;          // class
inline constexpr std::uint8_t kNetCtrlMacTableSet = 0;  // data: twice a 32-bit count and as many addresses
inline constexpr std::uint8_t kNetCtrlMacAddrSet = 1;   // data: an address

inline constexpr std::uint8_t kNetCtrlVlan = 2;  // class; data: 16 bits
inline constexpr std::uint8_t kNetCtrlVlanAdd = 0;
inline constexpr std::uint8_t kNetCtrlVlanDel = 1;

inline constexpr std::uint8_t kNetCtrlMq = 4;            // class
inline constexpr std::uint8_t kNetCtrlMqVqPairsSet = 0;  // data: 16 bits

inline constexpr std::uint8_t kNetCtrlGuestOffloads = 5;     // class
inline constexpr std::uint8_t kNetCtrlGuestOffloadsSet = 0;  // data: 64 bits, numbered as the feature bits

// Ethernet (IEEE 802.3, 802.1Q).
inline constexpr std::size_t kEthernetHeader = 14;
inline constexpr std::size_t kEthernetType = 12;
inline constexpr std::uint16_t kTypeVlan = 0x8100;

}  // namespace bulkhead::devproc::virtio_net_spec
