// Between Cap'n Proto messages and plain structs: limits, error translation, and the small checks that
// every decoder shares. For ipc/control/*.cc and vmm/api/*.cc only: it is what keeps KJ and capnp types in
// there.
//
// Trust: readers are backed by bytes of a possibly hostile peer. Traversal is limited to a small multiple
// of the message, nesting to kMaxNesting; both make capnp throw, and read_message() turns that into an
// Error. Decoders report what they refuse by throwing Refused, which read_message() catches as well.
#pragma once

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <fmt/format.h>
#include <kj/exception.h>

#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ipc/base/result.h"
#include "ipc/control/channel.h"
#include "ipc/control/device_messages.h"

namespace bulkhead::control::codec {

inline constexpr int kMaxNesting = 12;
// Lists of pointers may be read twice (size, then content), never more.
inline constexpr std::uint64_t kTraversalFactor = 4;

// What a decoder throws; never leaves read_message() and write_message().
struct Refused {
  std::string why;
};

template <class... T>
[[noreturn]] void refuse(fmt::format_string<T...> format, T&&... args) {
  throw Refused{fmt::format(format, std::forward<T>(args)...)};
}

inline Error bad_message(std::string_view what) {
  return Error{fmt::format("bad control message: {}", what), kBadMessage};
}

[[nodiscard]] inline capnp::ReaderOptions reader_options(std::size_t message_words) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = message_words * kTraversalFactor + 64;
  options.nestingLimit = kMaxNesting;
  return options;
}

// Runs `body`, which may throw Refused or a KJ exception, and returns its result.
template <class T, class Body>
Result<T> guarded(Body body) {
  try {
    return body();
  } catch (const Refused& refused) {
    return bad_message(refused.why);
  } catch (const kj::Exception& exception) {
    return bad_message(exception.getDescription().cStr());
  } catch (const std::exception& exception) {
    return bad_message(exception.what());
  }
}

// Calls decode(Root::Reader) -> T on the one message in `bytes`.
template <class Root, class T, class Decode>
Result<T> read_message(std::span<const std::byte> bytes, Decode decode) {
  if (bytes.empty() || bytes.size() > kMaxMessageBytes || bytes.size() % sizeof(capnp::word) != 0)
    return bad_message(fmt::format("{} bytes long", bytes.size()));
  return guarded<T>([&]() -> Result<T> {
    const std::size_t words = bytes.size() / sizeof(capnp::word);
    kj::Array<capnp::word> aligned;  // only when the caller's bytes are not
    const auto* data = static_cast<const capnp::word*>(static_cast<const void*>(bytes.data()));
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(capnp::word) != 0) {
      aligned = kj::heapArray<capnp::word>(words);
      std::memcpy(static_cast<void*>(aligned.begin()), bytes.data(), bytes.size());
      data = aligned.begin();
    }
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(data, words), reader_options(words));
    if (reader.getEnd() != data + words) refuse("bytes after the message");
    return decode(reader.getRoot<Root>());
  });
}

// Calls fill(Root::Builder) and returns the message's bytes.
template <class Root, class Fill>
Result<std::vector<std::byte>> write_message(Fill fill) {
  return guarded<std::vector<std::byte>>([&]() -> Result<std::vector<std::byte>> {
    capnp::MallocMessageBuilder builder(128);
    fill(builder.initRoot<Root>());
    const auto segments = builder.getSegmentsForOutput();
    const std::size_t size = capnp::computeSerializedSizeInWords(segments) * sizeof(capnp::word);
    if (size > kMaxMessageBytes) refuse("{} bytes long, at most {} allowed", size, kMaxMessageBytes);
    const kj::Array<capnp::word> words = capnp::messageToFlatArray(segments);
    std::vector<std::byte> bytes(size);
    std::memcpy(bytes.data(), words.begin(), size);
    return bytes;
  });
}

[[nodiscard]] inline std::string_view view(capnp::Text::Reader text) { return {text.begin(), text.size()}; }
[[nodiscard]] inline capnp::Text::Reader text(const std::string& string) { return {string.c_str(), string.size()}; }

// A name: not empty, is_name().
[[nodiscard]] std::string read_name(capnp::Text::Reader text, const char* field);
// Empty, or a name.
[[nodiscard]] std::string read_optional_name(capnp::Text::Reader text, const char* field);
// At most `limit` characters; each that is not printable ASCII becomes '?', so that what a device process
// wrote cannot drive a terminal. With `lines`, newlines stay.
[[nodiscard]] std::string read_sentence(capnp::Text::Reader text, const char* field, std::size_t limit,
                                        bool lines = false);
// At most `limit` bytes and no NUL, otherwise as it is: paths, the kernel's command line.
[[nodiscard]] std::string read_text(capnp::Text::Reader text, const char* field, std::size_t limit);

// Before a list is walked: elements of size zero cost the sender nothing.
template <class List>
void check_size(const List& list, const char* field, std::size_t limit) {
  if (list.size() > limit) refuse("{} {}, at most {} allowed", list.size(), field, limit);
}

// Enum values are consecutive from 0 to `last`.
template <class Enum>
[[nodiscard]] Enum read_enum(std::uint64_t value, Enum last, const char* field) {
  if (value > static_cast<std::uint64_t>(last)) refuse("{} is {}", field, value);
  return static_cast<Enum>(value);
}

}  // namespace bulkhead::control::codec
