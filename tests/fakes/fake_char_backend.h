// FakeCharBackend: a byte stream with a bounded outgoing side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "devproc/core/wires.h"

namespace bulkhead::devproc {

class FakeCharBackend final : public CharBackend {
 public:
  bool put(std::uint8_t byte) override {
    if (room() == 0) return false;
    output.push_back(static_cast<char>(byte));
    --room_left;
    return true;
  }
  [[nodiscard]] std::size_t room() const override { return room_left; }
  std::optional<std::uint8_t> get() override {
    if (input.empty()) return std::nullopt;
    const std::uint8_t byte = input.front();
    input.pop_front();
    return byte;
  }
  [[nodiscard]] bool readable() const override { return !input.empty(); }

  // What the far side sends. The test calls Device::on_stream() itself.
  void feed(std::string_view bytes) { input.insert(input.end(), bytes.begin(), bytes.end()); }
  void feed(std::span<const std::uint8_t> bytes) { input.insert(input.end(), bytes.begin(), bytes.end()); }

  std::deque<std::uint8_t> input;     // not yet taken by the model
  std::string output;                 // everything that the model put
  std::size_t room_left = 1'000'000;  // how many more bytes the stream takes
};

}  // namespace bulkhead::devproc
