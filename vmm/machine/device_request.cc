#include "vmm/machine/device_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "ipc/roles/virtio_decl.h"

namespace bulkhead::vmm {
namespace {

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

Result<VirtioBlkConfig> read_virtio_blk(Properties& properties, const std::optional<DiskGeometry>& disk) {
  VirtioBlkConfig config;
  for (const char* seen_to : {"path", "readonly", "direct"}) properties.take(seen_to);
  config.serial = properties.take("serial").value_or("");
  if (config.serial.size() > kMaxDiskSerial)
    return make_error(fmt::format("serial={} has {} bytes; at most {} are shown to a guest", config.serial,
                                  config.serial.size(), kMaxDiskSerial));
  ASSIGN_OR_RETURN(const std::optional<unsigned> queues,
                   properties.take_number("queues", 1, kVirtioBlkMaxQueues, "a number of queues"));
  config.queues = static_cast<std::uint16_t>(queues.value_or(1));
  if (!disk) return make_error("device virtio_blk needs a file: --disk FILE gives it one");
  config.disk = *disk;
  return config;
}

}  // namespace

Result<FunctionRequest> read_request(const control::DeviceRequest& request, const std::optional<DiskGeometry>& disk) {
  FunctionRequest function;
  function.type = find_device_type(request.type);
  ASSIGN_OR_RETURN(Properties properties, Properties::of(request));
  ASSIGN_OR_RETURN(const std::optional<unsigned> slot,
                   properties.take_number("slot", kFirstFreeSlot, kSlots - 1, "a PCI slot"));
  if (slot) function.slot = static_cast<std::uint8_t>(*slot);
  if (request.type == "virtio_blk") {
    ASSIGN_OR_RETURN(function.config, read_virtio_blk(properties, disk));
  } else if (request.type == "virtio_rng") {
    function.config = VirtioRngConfig{};
  } else {
    function.config = PciTestConfig{};
  }
  RETURN_IF_ERROR(properties.expect_none_left());
  return function;
}

}  // namespace bulkhead::vmm
