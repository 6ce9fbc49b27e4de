#include "vmm/machine/device_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "ipc/roles/virtio_decl.h"

namespace bulkhead::vmm {
namespace {

constexpr unsigned kLeastMtu = 68;  // of IPv4
constexpr unsigned kMostMtu = 65'535;

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
  for (const char* seen_to : {"path", "readonly", "direct", "aio"}) properties.take(seen_to);
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

// "02:00:00:00:00:01" in either case.
Result<MacAddress> parse_mac(const std::string& text) {
  const auto fail = [&](std::string_view why) { return make_error(fmt::format("mac={} {}", text, why)); };
  constexpr std::size_t kStep = 3;  // two digits and a colon
  MacAddress mac{};
  if (text.size() != mac.size() * kStep - 1) return fail("is no MAC address, such as 02:12:34:56:78:9a");
  for (std::size_t i = 0; i < mac.size(); ++i) {
    const char* at = text.data() + i * kStep;
    const auto parsed = std::from_chars(at, at + 2, mac[i], 16);
    if (parsed.ec != std::errc{} || parsed.ptr != at + 2 || (i + 1 < mac.size() && at[2] != ':'))
      return fail("is no MAC address, such as 02:12:34:56:78:9a");
  }
  if ((mac[0] & 1) != 0) return fail("is a multicast address: its first byte must be even");
  if (mac == MacAddress{}) return fail("is nobody's address");
  return mac;
}

Result<VirtioNetConfig> read_virtio_net(Properties& properties, std::uint8_t files, const MacAddress& default_mac) {
  for (const char* seen_to : {"tap", "fd"}) properties.take(seen_to);
  VirtioNetConfig config{.mac = default_mac};
  if (const std::optional<std::string> mac = properties.take("mac"); mac) {
    ASSIGN_OR_RETURN(config.mac, parse_mac(*mac));
  }
  ASSIGN_OR_RETURN(const std::optional<unsigned> mtu, properties.take_number("mtu", kLeastMtu, kMostMtu, "an MTU"));
  config.mtu = static_cast<std::uint16_t>(mtu.value_or(config.mtu));
  ASSIGN_OR_RETURN(const std::optional<unsigned> queues,
                   properties.take_number("queues", 1, kVirtioNetMaxPairs, "a number of queues"));
  if (files == 0) return make_error("device virtio_net needs a TAP: --net tap=NAME gives it one");
  if (files > kVirtioNetMaxPairs || (queues && *queues != files))
    return make_error(fmt::format("device virtio_net was given {} queues of a TAP", files));
  config.queue_pairs = files;
  return config;
}

}  // namespace

MacAddress default_mac(std::string_view vm, std::size_t nic) {
  // FNV-1a.
  std::uint64_t hash = 0xcbf2'9ce4'8422'2325;
  for (const char c : fmt::format("{}/{}", vm, nic)) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100'0000'01b3;
  MacAddress mac{0x02};  // locally administered
  for (std::size_t i = 1; i < mac.size(); ++i) mac[i] = static_cast<std::uint8_t>(hash >> (8 * i));
  return mac;
}

Result<FunctionRequest> read_request(const control::DeviceRequest& request, const std::optional<DiskGeometry>& disk,
                                     const MacAddress& mac) {
  FunctionRequest function;
  function.type = find_device_type(request.type);
  ASSIGN_OR_RETURN(Properties properties, Properties::of(request));
  ASSIGN_OR_RETURN(const std::optional<unsigned> slot,
                   properties.take_number("slot", kFirstFreeSlot, kSlots - 1, "a PCI slot"));
  if (slot) function.slot = static_cast<std::uint8_t>(*slot);
  if (request.type == "virtio_blk") {
    ASSIGN_OR_RETURN(function.config, read_virtio_blk(properties, disk));
  } else if (request.type == "virtio_net") {
    ASSIGN_OR_RETURN(function.config, read_virtio_net(properties, request.files, mac));
  } else if (request.type == "virtio_rng") {
    function.config = VirtioRngConfig{};
  } else {
    function.config = PciTestConfig{};
  }
  RETURN_IF_ERROR(properties.expect_none_left());
  return function;
}

}  // namespace bulkhead::vmm
