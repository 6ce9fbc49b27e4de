// The values of options that are numbers, sizes, times, signals or paths (options.h).
#include "tools/bulkhead/option_values.h"

#include <fmt/format.h>

#include <array>
#include <csignal>
#include <utility>

#include "ipc/base/checked.h"
#include "tools/bulkhead/options.h"

namespace bulkhead::cli {

Result<std::uint64_t> parse_size(std::string_view text) {
  unsigned shift = 0;
  std::string_view digits = text;
  if (!digits.empty()) {
    switch (digits.back()) {
      case 'K':
      case 'k': shift = 10; break;
      case 'M':
      case 'm': shift = 20; break;
      case 'G':
      case 'g': shift = 30; break;
      case 'T':
      case 't': shift = 40; break;
      default: break;
    }
    if (shift != 0) digits.remove_suffix(1);
  }
  const auto number = parse_number<std::uint64_t>(digits);
  if (!number) return make_error("must be a whole number with K, M, G or T, such as 512M");
  const auto bytes = checked_mul(*number, std::uint64_t{1} << shift);
  if (!bytes) return make_error("is larger than any machine");
  return *bytes;
}

Result<std::int64_t> parse_duration(std::string_view text) {
  const bool milliseconds = text.ends_with("ms");
  if (!milliseconds && !text.ends_with('s')) return make_error("has no unit");
  const auto number = parse_number<std::int64_t>(text.substr(0, text.size() - (milliseconds ? 2 : 1)));
  if (!number || *number < 0) return make_error("is not a whole number");
  const auto nanoseconds =
      checked_mul<std::uint64_t>(static_cast<std::uint64_t>(*number), milliseconds ? 1'000'000 : 1'000'000'000);
  if (!nanoseconds || *nanoseconds > INT64_MAX) return make_error("is too long");
  return static_cast<std::int64_t>(*nanoseconds);
}

Result<std::string_view> split_path(const std::string& what, std::string_view text, std::string& path) {
  std::size_t at = 0;
  for (; at < text.size(); ++at) {
    if (text[at] == ',' && (at + 1 == text.size() || text[at + 1] != ',')) break;
    if (text[at] == ',') ++at;
    path.push_back(text[at]);
  }
  if (path.empty()) return make_error(what + ": must begin with a file");
  if (path.size() > control::kMaxPathLength) return make_error(what + ": the path is too long");
  return text.substr(at);
}

Result<int> parse_signal(std::string_view text) {
  const std::string_view name = text.starts_with("SIG") ? text.substr(3) : text;
  for (const auto& [known, number] : {std::pair("KILL", SIGKILL), std::pair("SEGV", SIGSEGV),
                                      std::pair("STOP", SIGSTOP), std::pair("ABRT", SIGABRT)}) {
    if (name == known) return number;
  }
  return make_error(fmt::format("--signal {}: must be KILL, SEGV, STOP or ABRT", text));
}

Result<control::Topology> parse_topology(std::string_view text) {
  const auto fail = [&] {
    return make_error(fmt::format("--topology {}: must be three whole numbers, SOCKETS:CORES:THREADS", text));
  };
  std::array<std::uint32_t, 3> numbers{};
  std::string_view rest = text;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::size_t colon = rest.find(':');
    if ((colon == std::string_view::npos) != (i == 2)) return fail();
    const auto number = parse_number<std::uint32_t>(rest.substr(0, colon));
    if (!number || *number == 0 || *number > control::kMaxCpus) return fail();
    numbers[i] = *number;
    if (i < 2) rest.remove_prefix(colon + 1);
  }
  return control::Topology{.sockets = numbers[0], .cores = numbers[1], .threads = numbers[2]};
}

}  // namespace bulkhead::cli
