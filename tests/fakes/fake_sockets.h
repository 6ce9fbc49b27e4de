// FakeSockets: programs of the host, each with what it says and what it has heard.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devproc/core/stream_sockets.h"

namespace bulkhead::devproc {

class FakeSockets final : public StreamSockets {
 public:
  struct Program {
    std::string says;   // not yet read
    bool ends = false;  // it has said all
    bool gone = false;  // it has closed
    std::string heard;
    std::size_t room = 1U << 20;  // how much more it takes
    bool heard_end = false;
    bool closed = false;  // by the relay
  };

  std::optional<SocketEvent> next_event() override {
    if (events.empty()) return std::nullopt;
    const SocketEvent event = events.front();
    events.pop_front();
    return event;
  }
  bool connect(std::uint32_t port, std::uint32_t tag) override {
    if (deaf) return false;
    asked.emplace_back(port, tag);
    return true;
  }
  Moved read(SocketId socket, std::span<std::byte> out) override {
    Program& one = programs[socket];
    if (one.closed) return {Moved::Result::kError};
    if (one.says.empty()) return {one.ends || one.gone ? Moved::Result::kEnd : Moved::Result::kWait};
    const std::size_t n = std::min(out.size(), one.says.size());
    std::copy_n(reinterpret_cast<const std::byte*>(one.says.data()), n, out.begin());
    one.says.erase(0, n);
    return {Moved::Result::kDone, n};
  }
  Moved write(SocketId socket, std::span<const std::byte> in) override {
    Program& one = programs[socket];
    if (one.closed || one.gone) return {Moved::Result::kError};
    const std::size_t n = std::min(in.size(), one.room);
    if (n == 0) return {Moved::Result::kWait};
    one.heard.append(reinterpret_cast<const char*>(in.data()), n);
    one.room -= n;
    return {Moved::Result::kDone, n};
  }
  void shut_write(SocketId socket) override { programs[socket].heard_end = true; }
  void close(SocketId socket) override { programs[socket].closed = true; }

  // ---- the test's side ----
  SocketId arrive() {
    const SocketId socket = next_++;
    programs[socket] = {};
    events.push_back({.kind = SocketEvent::Kind::kAccepted, .socket = socket});
    return socket;
  }
  SocketId answer(std::uint32_t tag) {
    const SocketId socket = next_++;
    programs[socket] = {};
    events.push_back({.kind = SocketEvent::Kind::kConnected, .socket = socket, .tag = tag});
    return socket;
  }
  void refuse(std::uint32_t tag) { events.push_back({.kind = SocketEvent::Kind::kRefused, .tag = tag}); }
  void stir(SocketId socket) {
    events.push_back({.kind = SocketEvent::Kind::kReady, .socket = socket, .gone = programs[socket].gone});
  }

  std::map<SocketId, Program> programs;
  std::deque<SocketEvent> events;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> asked;  // port, tag
  bool deaf = false;

 private:
  SocketId next_ = 0;
};

}  // namespace bulkhead::devproc
