#include "vmm/machine/rate_limits.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <string_view>

#include "ipc/base/checked.h"

namespace bulkhead::vmm {
namespace {

struct Key {
  const char* name;
  std::uint64_t RateLimit::*value;
};
using KeyTable = std::array<Key, 4>;

constexpr KeyTable kDiskKeys = {{{"bps", &RateLimit::bytes_per_second},
                                 {"bps-burst", &RateLimit::bytes_burst},
                                 {"iops", &RateLimit::operations_per_second},
                                 {"iops-burst", &RateLimit::operations_burst}}};
constexpr KeyTable kNetworkKeys = {{{"bps", &RateLimit::bytes_per_second},
                                    {"bps-burst", &RateLimit::bytes_burst},
                                    {"pps", &RateLimit::operations_per_second},
                                    {"pps-burst", &RateLimit::operations_burst}}};

Result<std::uint64_t> parse_amount(const std::string& key, const std::string& text) {
  const auto fail = [&] {
    return make_error(fmt::format(
        "{}={} must be a whole number, with K, M, G or T or without, such as 10M; 0 is no limit", key, text));
  };
  constexpr std::string_view kUnits = "KMGT";
  std::string_view digits = text;
  unsigned shift = 0;
  if (!digits.empty()) {
    const char last = digits.back() >= 'a' ? static_cast<char>(digits.back() - 'a' + 'A') : digits.back();
    if (const std::size_t unit = kUnits.find(last); unit != std::string_view::npos) {
      shift = 10 * (static_cast<unsigned>(unit) + 1);
      digits.remove_suffix(1);
    }
  }
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (digits.empty() || error == std::errc::invalid_argument || end != digits.data() + digits.size()) return fail();
  const auto amount = checked_mul(number, std::uint64_t{1} << shift);
  if (error != std::errc() || !amount || *amount > RateLimit::kMost)
    return make_error(fmt::format("{}={} is too much; 0 is no limit", key, text));
  return *amount;
}

}  // namespace

RateLimit merged(const RateLimit& old, const RateLimit& change) {
  RateLimit result = old;
  for (const Key& key : kDiskKeys) {
    if (change.*key.value != RateLimit::kUnchanged) result.*key.value = change.*key.value;
  }
  return result;
}

Result<Limits> read_limits(LimitKeys keys, const RateLimit& otherwise,
                           const std::function<std::optional<std::string>(const std::string&)>& take) {
  Limits limits{otherwise, otherwise};
  const bool network = keys == LimitKeys::kNetwork;
  for (const Key& key : network ? kNetworkKeys : kDiskKeys) {
    if (const auto text = take(key.name)) {
      ASSIGN_OR_RETURN(const std::uint64_t amount, parse_amount(key.name, *text));
      for (RateLimit& limit : limits) limit.*key.value = amount;
    }
    if (!network) continue;
    for (const auto& [prefix, which] : {std::pair("rx-", kReceiveLimit), std::pair("tx-", kSendLimit)}) {
      const std::string name = std::string(prefix) + key.name;
      if (const auto text = take(name)) {
        ASSIGN_OR_RETURN(limits[which].*key.value, parse_amount(name, *text));
      }
    }
  }
  return limits;
}

Result<Limits> read_limits_change(const DeviceTypeDecl& type, const std::vector<control::Property>& properties) {
  std::map<std::string, std::string> left;
  std::string known;
  for (const control::Property& property : properties) {
    if (!left.emplace(property.key, property.value).second)
      return make_error(fmt::format("{} is given twice", property.key));
  }
  if (left.empty()) return make_error("no limit is given");
  const LimitKeys keys = type.limits == 2 ? LimitKeys::kNetwork : LimitKeys::kDisk;
  ASSIGN_OR_RETURN(const Limits limits,
                   read_limits(keys, kLimitUnchanged, [&](const std::string& key) -> std::optional<std::string> {
                     known += fmt::format("{}{}", known.empty() ? "" : ", ", key);
                     const auto at = left.find(key);
                     if (at == left.end()) return std::nullopt;
                     std::string value = std::move(at->second);
                     left.erase(at);
                     return value;
                   }));
  if (!left.empty())
    return make_error(
        fmt::format("a device of type {} has no limit \"{}\"; it takes {}", type.type, left.begin()->first, known));
  return limits;
}

}  // namespace bulkhead::vmm
