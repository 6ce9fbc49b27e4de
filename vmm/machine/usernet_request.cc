#include "vmm/machine/usernet_request.h"

#include <charconv>
#include <string_view>

namespace bulkhead::vmm {
namespace {

constexpr unsigned kLeastBits = 8;
constexpr unsigned kMostBits = 27;  // the fifteenth address is in it, and some more

template <class T>
std::optional<T> number(std::string_view text, T most) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > most) return std::nullopt;
  return value;
}

// "10.0.2.15", in host byte order.
std::optional<std::uint32_t> parse_address(std::string_view text) {
  std::uint32_t address = 0;
  for (int i = 0; i < 4; ++i) {
    const std::size_t dot = i < 3 ? text.find('.') : text.size();
    if (dot == std::string_view::npos) return std::nullopt;
    const auto byte = number<unsigned>(text.substr(0, dot), 255);
    if (!byte) return std::nullopt;
    address = address << 8 | *byte;
    text.remove_prefix(i < 3 ? dot + 1 : dot);
  }
  return address;
}

Status read_network(Properties& properties, UsernetConfig& config) {
  const std::optional<std::string> net = properties.take("net");
  if (net) {
    const std::string_view text = *net;
    const std::size_t slash = text.find('/');
    const auto address = parse_address(text.substr(0, slash));
    const auto bits =
        slash == std::string_view::npos ? std::optional(24U) : number<unsigned>(text.substr(slash + 1), 32);
    if (!address || !bits || *bits < kLeastBits || *bits > kMostBits)
      return make_error(
          fmt::format("net={} is no network such as 10.0.2.0/24, with {} to {} bits", *net, kLeastBits, kMostBits));
    config.mask = ~std::uint32_t{0} << (32 - *bits);
    config.network = *address & config.mask;
    const std::uint32_t first = *address >> 24;
    if (first == 0 || first == 127 || first >= 224)
      return make_error(fmt::format("net={} has addresses that no guest can have", *net));
  }
  config.host = config.network + 2;
  config.dns = config.network + 3;
  config.guest = config.network + 15;
  return ok();
}

Status read_address(Properties& properties, const char* key, const UsernetConfig& config, std::uint32_t& out) {
  const std::optional<std::string> text = properties.take(key);
  if (!text) return ok();
  const auto address = parse_address(*text);
  if (!address) return make_error(fmt::format("{}={} is no address such as 10.0.2.2", key, *text));
  const std::uint32_t within = *address & ~config.mask;
  if ((*address & config.mask) != config.network || within == 0 || within == ~config.mask)
    return make_error(fmt::format("{}={} is no address of the user network", key, *text));
  out = *address;
  return ok();
}

Result<bool> read_switch(Properties& properties, const char* key) {
  const std::optional<std::string> text = properties.take(key);
  if (!text || *text == "off") return false;
  if (*text == "on") return true;
  return make_error(fmt::format("{}={} must be on or off", key, *text));
}

// [tcp|udp]:[HOSTADDRESS]:PORT-[GUESTADDRESS]:PORT
std::optional<PortForward> parse_forward(std::string_view text, const UsernetConfig& config) {
  PortForward forward;
  const auto cut = [&text](char at) -> std::optional<std::string_view> {
    const std::size_t end = text.find(at);
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view part = text.substr(0, end);
    text.remove_prefix(end + 1);
    return part;
  };
  const auto protocol = cut(':');
  const auto host = cut(':');
  const auto host_port = cut('-');
  const auto guest = cut(':');
  if (!protocol || !host || !host_port || !guest) return std::nullopt;
  if (*protocol != "tcp" && *protocol != "udp" && !protocol->empty()) return std::nullopt;
  forward.udp = *protocol == "udp";
  const auto host_address = host->empty() ? std::optional(std::uint32_t{0}) : parse_address(*host);
  const auto guest_address = guest->empty() ? std::optional(config.guest) : parse_address(*guest);
  const auto from = number<std::uint16_t>(*host_port, UINT16_MAX);
  const auto to = number<std::uint16_t>(text, UINT16_MAX);
  if (!host_address || !guest_address || !from || !to || *from == 0 || *to == 0) return std::nullopt;
  if ((*guest_address & config.mask) != config.network) return std::nullopt;
  forward.host_address = *host_address;
  forward.guest_address = *guest_address;
  forward.host_port = *from;
  forward.guest_port = *to;
  return forward;
}

Status read_forwards(Properties& properties, UsernetConfig& config) {
  const std::optional<std::string> rules = properties.take("hostfwd");
  if (!rules) return ok();
  std::string_view left = *rules;
  for (;;) {
    const std::string_view rule = left.substr(0, left.find(';'));
    const auto forward = parse_forward(rule, config);
    if (!forward)
      return make_error(
          fmt::format("hostfwd={} is no rule such as tcp:127.0.0.1:2222-:22 or udp::5353-:53, with ports from 1 to "
                      "65535 and a guest address of the user network",
                      rule));
    for (const PortForward& other : config.forwards) {
      if (other.udp == forward->udp && other.host_port == forward->host_port &&
          (other.host_address == forward->host_address || other.host_address == 0 || forward->host_address == 0))
        return make_error(fmt::format("hostfwd={}: another rule has that port of the host", rule));
    }
    config.forwards.push_back(*forward);
    if (config.forwards.size() > kMaxPortForwards)
      return make_error(fmt::format("hostfwd: at most {} rules are taken", kMaxPortForwards));
    if (rule.size() == left.size()) return ok();
    left.remove_prefix(rule.size() + 1);
  }
}

}  // namespace

Result<UsernetConfig> read_usernet(Properties& properties) {
  UsernetConfig config;
  RETURN_IF_ERROR(read_network(properties, config));
  RETURN_IF_ERROR(read_address(properties, "host", config, config.host));
  RETURN_IF_ERROR(read_address(properties, "dns", config, config.dns));
  RETURN_IF_ERROR(read_address(properties, "dhcpstart", config, config.guest));
  if (config.host == config.dns || config.host == config.guest || config.dns == config.guest)
    return make_error("host=, dns= and dhcpstart= of a user network are three different addresses");
  config.hostname = properties.take("hostname").value_or("");
  if (config.hostname.size() > kMaxHostname)
    return make_error(fmt::format("hostname={} is longer than {} characters", config.hostname, kMaxHostname));
  config.bootfile = properties.take("bootfile").value_or("");
  if (config.bootfile.size() > kMaxBootfile)
    return make_error(fmt::format("bootfile={} is longer than {} characters", config.bootfile, kMaxBootfile));
  ASSIGN_OR_RETURN(config.restricted, read_switch(properties, "restrict"));
  ASSIGN_OR_RETURN(config.host_loopback, read_switch(properties, "host-loopback"));
  RETURN_IF_ERROR(read_forwards(properties, config));
  return config;
}

}  // namespace bulkhead::vmm
