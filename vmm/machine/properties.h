// Properties: what a --device request says of its device, taken one by one, so that what is left over nobody knows.
// Errors: one sentence that names the property. Threading: a value. Trust: the configuration is the user's.
#pragma once

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <optional>
#include <string>

#include "ipc/base/result.h"
#include "ipc/control/vm_config.h"

namespace bulkhead::vmm {

// A request's properties, each of which is taken once; what is left over nobody knows.
class Properties {
 public:
  static Result<Properties> of(const control::DeviceRequest& request) {
    Properties properties(request.type);
    for (const control::Property& property : request.properties) {
      if (!properties.values_.emplace(property.key, property.value).second)
        return make_error(fmt::format("device {} is given two of \"{}\"", request.type, property.key));
    }
    return properties;
  }

  std::optional<std::string> take(const std::string& key) {
    known_ += fmt::format("{}{}", known_.empty() ? "" : ", ", key);
    const auto at = values_.find(key);
    if (at == values_.end()) return std::nullopt;
    std::string value = std::move(at->second);
    values_.erase(at);
    return value;
  }
  Result<std::optional<unsigned>> take_number(const std::string& key, unsigned least, unsigned most,
                                              const std::string& what) {
    const std::optional<std::string> value = take(key);
    if (!value) return std::optional<unsigned>();
    unsigned number = 0;
    const char* end = value->data() + value->size();
    const auto parsed = std::from_chars(value->data(), end, number);
    if (parsed.ec != std::errc{} || parsed.ptr != end || number < least || number > most)
      return make_error(fmt::format("{}={} is not {}; {} to {} are", key, *value, what, least, most));
    return std::optional(number);
  }
  Result<bool> take_flag(const std::string& key, bool otherwise) {
    const std::optional<std::string> value = take(key);
    if (value && *value != "on" && *value != "off")
      return make_error(fmt::format("{}={} must be on or off", key, *value));
    return value ? *value == "on" : otherwise;
  }
  // After all that a type knows were taken.
  [[nodiscard]] Status expect_none_left() const {
    if (values_.empty()) return ok();
    return make_error(
        fmt::format("device {} has no property \"{}\"; it takes {}", type_, values_.begin()->first, known_));
  }

 private:
  explicit Properties(std::string type) : type_(std::move(type)) {}
  std::string type_;
  std::string known_;
  std::map<std::string, std::string> values_;
};

}  // namespace bulkhead::vmm
