// StreamSockets: byte streams to programs of the host. Nothing about them outlives the process.
//
// Sockets are numbered 0 to kMostSockets - 1. News of them come by Device::on_backend(); next_event() tells which. What
// an event says of reading and writing stays true until a call says kWait.
// Threading: single-threaded. Trust: bytes are the host's programs'.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace bulkhead::devproc {

inline constexpr std::uint32_t kMostSockets = 1024;

using SocketId = std::uint32_t;

struct SocketEvent {
  enum class Kind : std::uint8_t {
    kAccepted,   // a program has connected: `socket` is new
    kConnected,  // what connect() asked for: `socket` is there, and `tag` is whose it is
    kRefused,    // likewise: nobody listens
    kReady,      // it may be read or written, or its other side is gone
  };
  Kind kind = Kind::kReady;
  SocketId socket = 0;
  std::uint32_t tag = 0;
  bool gone = false;  // kReady: the other side has closed it wholly
};

class StreamSockets {
 public:
  struct Moved {
    enum class Result : std::uint8_t { kDone, kWait, kEnd, kError } result = Result::kWait;
    std::size_t bytes = 0;
  };
  virtual ~StreamSockets() = default;
  virtual std::optional<SocketEvent> next_event() = 0;
  // Asks for a connection to the program that listens for `port`. False: it cannot be asked now.
  virtual bool connect(std::uint32_t port, std::uint32_t tag) = 0;
  virtual Moved read(SocketId socket, std::span<std::byte> out) = 0;
  virtual Moved write(SocketId socket, std::span<const std::byte> in) = 0;
  virtual void shut_write(SocketId socket) = 0;
  virtual void close(SocketId socket) = 0;
};

}  // namespace bulkhead::devproc
