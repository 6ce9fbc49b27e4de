#include "vmm/firmware/aml.h"

#include <cstddef>
#include <initializer_list>
#include <type_traits>

#include "ipc/base/check.h"

namespace bulkhead::vmm::aml {

namespace {

constexpr std::uint8_t kZeroOp = 0x00;
constexpr std::uint8_t kOneOp = 0x01;
constexpr std::uint8_t kNameOp = 0x08;
constexpr std::uint8_t kBytePrefix = 0x0A;
constexpr std::uint8_t kWordPrefix = 0x0B;
constexpr std::uint8_t kDwordPrefix = 0x0C;
constexpr std::uint8_t kStringPrefix = 0x0D;
constexpr std::uint8_t kQwordPrefix = 0x0E;
constexpr std::uint8_t kScopeOp = 0x10;
constexpr std::uint8_t kBufferOp = 0x11;
constexpr std::uint8_t kPackageOp = 0x12;
constexpr std::uint8_t kDualNamePrefix = 0x2E;
constexpr std::uint8_t kMultiNamePrefix = 0x2F;
constexpr std::uint8_t kExtOpPrefix = 0x5B;
constexpr std::uint8_t kDeviceOp = 0x82;
constexpr std::size_t kSegment = 4;

template <class T>
void put(Bytes& out, T value) {
  for (std::size_t n = 0; n < sizeof(T); ++n) out.push_back(static_cast<std::uint8_t>(value >> (8 * n)));
}

// 20.2.4: one to four bytes that count themselves and what follows.
Bytes package_length(std::size_t content) {
  if (content + 1 <= 0x3F) return {static_cast<std::uint8_t>(content + 1)};
  for (std::size_t extra = 1; extra <= 3; ++extra) {
    const std::size_t total = content + 1 + extra;
    if (total >= std::size_t{1} << (4 + 8 * extra)) continue;
    Bytes out = {static_cast<std::uint8_t>((extra << 6) | (total & 0xF))};
    for (std::size_t n = 0; n < extra; ++n) out.push_back(static_cast<std::uint8_t>(total >> (4 + 8 * n)));
    return out;
  }
  CHECK(false, content);
  return {};
}

// An opcode, the length of what follows, and that.
Bytes block(std::initializer_list<std::uint8_t> opcode, const Bytes& content) {
  Bytes out(opcode);
  append(out, package_length(content.size()));
  append(out, content);
  return out;
}

// Descriptor types and flags of address space descriptors (6.4.3.5).
enum class Space : std::uint8_t { kMemory = 0, kIo = 1, kBus = 2 };
constexpr std::uint8_t kFixedBothEnds = 0x0C;
constexpr std::uint8_t kCacheableReadWrite = 0x03;
constexpr std::uint8_t kEntireIoRange = 0x03;

template <class T>
Bytes window(std::uint8_t tag, Space space, std::uint8_t specific, T first, T last) {
  Bytes out = {tag};
  put(out, static_cast<std::uint16_t>(3 + 5 * sizeof(T)));
  out.push_back(static_cast<std::uint8_t>(space));
  out.push_back(kFixedBothEnds);
  out.push_back(specific);
  put<T>(out, 0);  // granularity
  put<T>(out, first);
  put<T>(out, last);
  put<T>(out, 0);  // translation
  put<T>(out, static_cast<T>(last - first + 1));
  return out;
}

}  // namespace

void append(Bytes& to, const Bytes& term) { to.insert(to.end(), term.begin(), term.end()); }

Bytes join(std::initializer_list<Bytes> terms) {
  Bytes out;
  for (const Bytes& term : terms) append(out, term);
  return out;
}

Bytes integer(std::uint64_t value) {
  Bytes out;
  if (value == 0) {
    out = {kZeroOp};
  } else if (value == 1) {
    out = {kOneOp};
  } else if (value <= UINT8_MAX) {
    out = {kBytePrefix, static_cast<std::uint8_t>(value)};
  } else if (value <= UINT16_MAX) {
    out = {kWordPrefix};
    put(out, static_cast<std::uint16_t>(value));
  } else if (value <= UINT32_MAX) {
    out = {kDwordPrefix};
    put(out, static_cast<std::uint32_t>(value));
  } else {
    out = {kQwordPrefix};
    put(out, value);
  }
  return out;
}

Bytes string(std::string_view text) {
  Bytes out;
  out.reserve(text.size() + 2);
  out.push_back(kStringPrefix);
  for (const char c : text) out.push_back(static_cast<std::uint8_t>(c));
  out.push_back(0);
  return out;
}

// 19.3.4 EISAID: three letters of five bits, four hexadecimal digits, most significant byte first.
Bytes eisa_id(std::string_view id) {
  CHECK(id.size() == 7, id);
  const auto letter = [&](std::size_t n) { return static_cast<std::uint32_t>(id[n] - '@') & 0x1F; };
  const auto digit = [&](std::size_t n) {
    const char c = id[n];
    return static_cast<std::uint32_t>(c <= '9' ? c - '0' : c - 'A' + 10) & 0xF;
  };
  const std::uint32_t value =
      letter(0) << 26 | letter(1) << 21 | letter(2) << 16 | digit(3) << 12 | digit(4) << 8 | digit(5) << 4 | digit(6);
  Bytes out = {kDwordPrefix};
  put(out, __builtin_bswap32(value));
  return out;
}

Bytes path(std::string_view path) {
  Bytes out;
  if (!path.empty() && path.front() == '\\') {
    out.push_back('\\');
    path.remove_prefix(1);
  }
  const std::size_t segments = (path.size() + 1) / (kSegment + 1);
  CHECK(segments >= 1 && path.size() == segments * (kSegment + 1) - 1, path);
  if (segments == 2) out.push_back(kDualNamePrefix);
  if (segments > 2) {
    out.push_back(kMultiNamePrefix);
    out.push_back(static_cast<std::uint8_t>(segments));
  }
  for (std::size_t n = 0; n < path.size(); ++n) {
    if (n % (kSegment + 1) != kSegment) out.push_back(static_cast<std::uint8_t>(path[n]));
  }
  return out;
}

Bytes name(std::string_view name, const Bytes& value) { return join({{kNameOp}, path(name), value}); }

Bytes package(const std::vector<Bytes>& elements) {
  CHECK(elements.size() <= UINT8_MAX, elements.size());
  Bytes content = {static_cast<std::uint8_t>(elements.size())};
  for (const Bytes& element : elements) append(content, element);
  return block({kPackageOp}, content);
}

Bytes scope(std::string_view where, const Bytes& terms) { return block({kScopeOp}, join({path(where), terms})); }

Bytes device(std::string_view name, const Bytes& terms) {
  return block({kExtOpPrefix, kDeviceOp}, join({path(name), terms}));
}

Bytes resources(const Bytes& descriptors) {
  Bytes content = descriptors;
  content.push_back(0x79);  // end tag
  content.push_back(0);     // "no checksum"
  return block({kBufferOp}, join({integer(content.size()), content}));
}

Bytes io(std::uint16_t base, std::uint8_t length) {
  Bytes out = {0x47, 0x01};  // 16-bit decode
  put(out, base);
  put(out, base);
  out.push_back(1);  // alignment
  out.push_back(length);
  return out;
}

Bytes irq(std::uint8_t number) {
  CHECK(number < 16, number);
  Bytes out = {0x22};
  put(out, static_cast<std::uint16_t>(1U << number));
  return out;
}

Bytes bus_window(std::uint16_t first, std::uint16_t last) { return window(0x88, Space::kBus, 0, first, last); }

Bytes io_window(std::uint16_t first, std::uint16_t last) {
  return window(0x88, Space::kIo, kEntireIoRange, first, last);
}

Bytes memory_window32(std::uint32_t first, std::uint32_t last) {
  return window(0x87, Space::kMemory, kCacheableReadWrite, first, last);
}

Bytes memory_window64(std::uint64_t first, std::uint64_t last) {
  return window(0x8A, Space::kMemory, kCacheableReadWrite, first, last);
}

Bytes fixed_memory32(std::uint32_t base, std::uint32_t length) {
  Bytes out = {0x86};
  put<std::uint16_t>(out, 9);
  out.push_back(1);  // read-write
  put(out, base);
  put(out, length);
  return out;
}

}  // namespace bulkhead::vmm::aml
