#include "tools/bulkhead/net.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <thread>

#include "ipc/roles/virtio_decl.h"
#include "tools/bulkhead/options.h"

namespace bulkhead::cli {
namespace {

constexpr int kHeaderBytes = 12;  // struct virtio_net_hdr_v1
constexpr short kFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

const std::string* find(const control::DeviceRequest& request, std::string_view key) {
  for (const control::Property& property : request.properties) {
    if (property.key == key) return &property.value;
  }
  return nullptr;
}

// "3:4:5"; empty: it is nothing of the kind.
std::vector<unsigned> descriptors(std::string_view text) {
  std::vector<unsigned> all;
  for (;;) {
    const std::size_t colon = text.find(':');
    const auto one = number(text.substr(0, colon));
    if (!one || *one > INT32_MAX || std::find(all.begin(), all.end(), *one) != all.end()) return {};
    all.push_back(*one);
    if (colon == std::string_view::npos) return all;
    text.remove_prefix(colon + 1);
  }
}

bool is_interface_name(const std::string& name) {
  return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
         std::none_of(name.begin(), name.end(), [](char c) { return c == '/' || c == ':' || c <= ' ' || c == 0x7f; });
}

Status set_up(const std::string& what, BorrowedFd tap) {
  if (::ioctl(tap.get(), TUNSETVNETHDRSZ, &kHeaderBytes) != 0)
    return make_errno_error(what + ": does not take headers of 12 bytes");
  const int flags = ::fcntl(tap.get(), F_GETFL);
  if (flags < 0 || ::fcntl(tap.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    return make_errno_error(what + ": cannot make it non-blocking");
  return ok();
}

// 0 or errno. `flags` gets IFF_MULTI_QUEUE when the interface cannot do without.
int attach(BorrowedFd tap, const std::string& name, short& flags) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), name.size());
  for (;;) {
    request.ifr_flags = flags;
    if (::ioctl(tap.get(), TUNSETIFF, &request) == 0) return 0;
    if (errno != EINVAL || (flags & IFF_MULTI_QUEUE) != 0) return errno;
    flags = static_cast<short>(flags | IFF_MULTI_QUEUE);
  }
}

// What `ip link set NAME up` does.
Status bring_up(const std::string& what, const std::string& name) {
  const UniqueFd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), name.size());
  if (!any.valid() || ::ioctl(any.get(), SIOCGIFFLAGS, &request) != 0) return make_errno_error(what);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(any.get(), SIOCSIFFLAGS, &request) != 0) return make_errno_error(what + ": cannot bring it up");
  return ok();
}

// `create`: the interface is made here, is up, and goes with its last descriptor, hence with the VM.
Status open_tap(const std::string& name, std::size_t queues, bool create, std::vector<UniqueFd>& files) {
  const std::string what = fmt::format("--net tap={}", name);
  const auto missing = [&] {
    return make_error(fmt::format("{}: there is no such interface; ip tuntap add {} mode tap{} makes one", what, name,
                                  queues > 1 ? " multi_queue" : ""));
  };
  unsigned index = ::if_nametoindex(name.c_str());
  if (index == 0 && !create) return missing();
  if (index != 0 && create)
    return make_error(fmt::format("{},create=on: there is such an interface; without create=on it is used", what));
  auto flags = static_cast<short>(queues > 1 ? kFlags | IFF_MULTI_QUEUE : kFlags);
  for (std::size_t i = 0; i < queues; ++i) {
    UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!tap.valid()) return make_errno_error(what + ": cannot open /dev/net/tun");
    switch (const int error = attach(tap.borrow(), name, flags); error) {
      case 0: break;
      case EINVAL:
        return make_error(queues > 1 ? fmt::format("{}: is no TAP with several queues; ip tuntap add {} mode tap "
                                                   "multi_queue makes one",
                                                   what, name)
                                     : what + ": is an interface, but no TAP");
      case EBUSY: return make_error(what + ": is in use by another process");
      case EPERM:
        if (create)
          return make_error(fmt::format("{},create=on: needs the right to make interfaces (CAP_NET_ADMIN)", what));
        return make_error(
            fmt::format("{}: belongs to another user; ip tuntap add {} mode tap user USER makes one "
                        "for USER",
                        what, name));
      default: return make_errno_error(what + ": cannot open a queue of it", error);
    }
    // It may have gone meanwhile: then the kernel has made another one, which goes with the descriptor.
    if (create && index == 0) index = ::if_nametoindex(name.c_str());
    if (::if_nametoindex(name.c_str()) != index) return missing();
    RETURN_IF_ERROR(set_up(what, tap.borrow()));
    files.push_back(std::move(tap));
  }
  return create ? bring_up(what, name) : ok();
}

Status take_descriptors(const std::string& list, std::vector<UniqueFd>& files) {
  const std::string what = fmt::format("--net fd={}", list);
  std::string interface;
  bool many = true;
  const std::vector<unsigned> all = descriptors(list);
  for (const unsigned given : all) {
    UniqueFd tap(::fcntl(static_cast<int>(given), F_DUPFD_CLOEXEC, 3));
    if (!tap.valid()) return make_error(fmt::format("{}: there is no descriptor {}", what, given));
    ifreq request{};
    if (::ioctl(tap.get(), TUNGETIFF, &request) != 0 || (request.ifr_flags & IFF_TAP) == 0)
      return make_error(fmt::format("{}: descriptor {} is no TAP", what, given));
    if ((request.ifr_flags & IFF_VNET_HDR) == 0 || (request.ifr_flags & IFF_NO_PI) == 0)
      return make_error(
          fmt::format("{}: descriptor {} must be a TAP opened with IFF_VNET_HDR and IFF_NO_PI", what, given));
    if (interface.empty()) interface = request.ifr_name;
    if (interface != request.ifr_name)
      return make_error(fmt::format("{}: descriptors of one card are queues of one TAP, not of {} and {}", what,
                                    interface, request.ifr_name));
    many = many && (request.ifr_flags & IFF_MULTI_QUEUE) != 0;
    RETURN_IF_ERROR(set_up(what, tap.borrow()));
    files.push_back(std::move(tap));
  }
  // The same queue by two numbers.
  if (all.size() > 1 && !many) return make_error(fmt::format("{}: {} has one queue only", what, interface));
  return ok();
}

// The property `model` becomes the device's type.
Status choose_model(const std::string& what, control::DeviceRequest& net) {
  const auto is_model = [](const control::Property& one) { return one.key == "model"; };
  if (std::ranges::count_if(net.properties, is_model) > 1) return make_error(what + ": model= is given twice");
  const std::string* model = find(net, "model");
  if (model == nullptr || *model == "virtio") {
    net.type = "virtio_net";
  } else if (*model == "e1000") {
    net.type = "e1000";
  } else {
    return make_error(fmt::format("{}: there is no model={}; known are virtio, e1000", what, *model));
  }
  std::erase_if(net.properties, is_model);
  return ok();
}

Result<control::DeviceRequest> one_queue_if_e1000(const std::string& what, control::DeviceRequest net) {
  if (net.type == "e1000" && net.files != 1) return make_error(what + ": model=e1000 has one queue");
  return net;
}

// What the user network is to be like the VMM reads; here only what names files of the user's is looked at.
Result<control::DeviceRequest> parse_user(const std::string& what, std::string_view text) {
  control::DeviceRequest given{.type = "virtio_net", .properties = {}, .files = 0};
  RETURN_IF_ERROR(read_properties(what, text.substr(std::string_view("user").size()), given));
  RETURN_IF_ERROR(choose_model(what, given));
  control::DeviceRequest net{.type = given.type, .properties = {{.key = "backend", .value = "user"}}, .files = 0};
  std::string forwards;
  for (control::Property& property : given.properties) {
    if (property.key == "hostfwd") {
      if (property.value.empty()) return make_error(what + ": hostfwd= names no port");
      forwards += (forwards.empty() ? "" : ";") + property.value;
      continue;
    }
    if (property.key == "tftp") {
      std::array<char, PATH_MAX> path{};
      struct stat info {};
      if (::realpath(property.value.c_str(), path.data()) == nullptr || ::stat(path.data(), &info) != 0)
        return make_errno_error(fmt::format("{}: tftp={}", what, property.value));
      if (!S_ISDIR(info.st_mode)) return make_error(fmt::format("{}: tftp={} is no directory", what, property.value));
      property.value = path.data();
    }
    for (const char* other : {"tap", "fd", "backend", "queues", "create"}) {
      if (property.key == other) return make_error(fmt::format("{}: {}= does not go with user", what, property.key));
    }
    net.properties.push_back(std::move(property));
  }
  if (!forwards.empty()) net.properties.push_back({.key = "hostfwd", .value = forwards});
  return net;
}

Result<control::DeviceRequest> finish_ring(const std::string& what, control::DeviceRequest net) {
  for (const char* other : {"tap", "fd", "backend", "queues", "create"}) {
    if (find(net, other) != nullptr) return make_error(fmt::format("{}: {}= does not go with ring=", what, other));
  }
  for (control::Property& property : net.properties) {
    if (property.key != "ring") continue;
    // As it will be reached from anywhere.
    const std::size_t slash = property.value.rfind('/');
    const std::string directory = slash == std::string::npos ? "." : property.value.substr(0, slash + 1);
    std::array<char, PATH_MAX> real{};
    const std::string name = slash == std::string::npos ? property.value : property.value.substr(slash + 1);
    if (name.empty()) return make_error(fmt::format("{}: ring={} names no socket", what, property.value));
    if (::realpath(directory.c_str(), real.data()) == nullptr)
      return make_errno_error(fmt::format("{}: ring={}", what, property.value));
    property.value = fmt::format("{}/{}", real.data(), name);
    if (property.value.size() >= sizeof(sockaddr_un::sun_path))
      return make_error(fmt::format("{}: ring={} is longer than the name of a socket can be", what, property.value));
  }
  net.properties.insert(net.properties.begin(), {.key = "backend", .value = "ring"});
  return net;
}

// Anybody who may look into a directory may lock it, so it is not waited for without end.
Status lock_directory(const std::string& what, BorrowedFd directory) {
  constexpr std::chrono::milliseconds kPause{10};
  constexpr int kTries = 300;
  for (int i = 0; i < kTries; ++i) {
    if (::flock(directory.get(), LOCK_EX | LOCK_NB) == 0) return ok();
    if (errno != EWOULDBLOCK && errno != EINTR) return make_errno_error(what);
    std::this_thread::sleep_for(kPause);
  }
  return make_error(what + ": another process keeps its directory locked");
}

// Who comes first listens there; the second one is connected.
Status open_ring(const std::string& path, std::vector<UniqueFd>& files, NewFiles& made) {
  const std::string what = fmt::format("--net ring={}", path);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const auto* where = reinterpret_cast<const sockaddr*>(&address);
  // Of two that come at once, one is first.
  const UniqueFd directory(::open(path.substr(0, path.rfind('/') + 1).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return make_errno_error(what);
  RETURN_IF_ERROR(lock_directory(what, directory.borrow()));
  for (int tries = 0; tries < 2; ++tries) {
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.valid()) return make_errno_error(what);
    if (::connect(socket.get(), where, sizeof address) == 0) {
      files.push_back(std::move(socket));
      return ok();
    }
    struct stat info {};
    const int error = errno;
    if (error == EAGAIN) return make_error(what + ": whoever listens there takes no connection");
    if (error == EPROTOTYPE) return make_error(what + ": is a socket of another kind");
    if (error != ENOENT && error != ECONNREFUSED) return make_errno_error(what, error);
    if (::lstat(path.c_str(), &info) == 0 && !S_ISSOCK(info.st_mode)) return make_error(what + ": is no socket");
    if (error == ECONNREFUSED && ::unlink(path.c_str()) != 0) return make_errno_error(what);  // of one that is gone
    if (::bind(socket.get(), where, sizeof address) == 0) {
      made.add(path);
      if (::listen(socket.get(), 4) != 0) return make_errno_error(what);
      files.push_back(std::move(socket));
      return ok();
    }
    if (errno != EADDRINUSE) return make_errno_error(what);
  }
  return make_error(what + ": another process keeps taking it");
}

}  // namespace

bool is_net(const control::DeviceRequest& request) { return request.type == "virtio_net" || request.type == "e1000"; }

bool has_user_network(const control::DeviceRequest& request) {
  const std::string* backend = find(request, "backend");
  return backend != nullptr && *backend == "user";
}

Result<control::DeviceRequest> parse_net(std::string_view text) {
  const std::string what = fmt::format("--net {}", text);
  constexpr std::string_view kBackends = ": must be user, or have one of tap=NAME, fd=N and ring=PATH";
  if (text.empty()) return make_error(fmt::format("{}{}", what, kBackends));
  if (text == "user" || text.starts_with("user,")) return parse_user(what, text);
  control::DeviceRequest net{.type = "virtio_net", .properties = {}, .files = 1};
  RETURN_IF_ERROR(read_properties(what, fmt::format(",{}", text), net));
  RETURN_IF_ERROR(choose_model(what, net));
  if (find(net, "ring") != nullptr) return finish_ring(what, std::move(net));
  const std::string* tap = find(net, "tap");
  const std::string* fd = find(net, "fd");
  if ((tap == nullptr) == (fd == nullptr)) return make_error(fmt::format("{}{}", what, kBackends));
  const std::string* queues = find(net, "queues");
  if (tap != nullptr) {
    if (!is_interface_name(*tap))
      return make_error(fmt::format("{}: '{}' is not the name of an interface", what, *tap));
    const std::string* create = find(net, "create");
    if (create != nullptr && *create != "on" && *create != "off")
      return make_error(fmt::format("{}: create={} must be on or off", what, *create));
    if (queues == nullptr) return net;
    const auto count = number(*queues);
    if (!count || *count == 0 || *count > kVirtioNetMaxPairs)
      return make_error(
          fmt::format("{}: queues={} must be a whole number from 1 to {}", what, *queues, kVirtioNetMaxPairs));
    net.files = static_cast<std::uint8_t>(*count);
    return one_queue_if_e1000(what, std::move(net));
  }
  if (find(net, "create") != nullptr) return make_error(what + ": create= goes with tap= only");
  if (queues != nullptr) return make_error(what + ": has as many queues as descriptors; queues= goes with tap= only");
  const std::vector<unsigned> all = descriptors(*fd);
  if (all.empty() || all.size() > kVirtioNetMaxPairs)
    return make_error(
        fmt::format("{}: fd={} must be 1 to {} different descriptors, N:N:...", what, *fd, kVirtioNetMaxPairs));
  net.files = static_cast<std::uint8_t>(all.size());
  return one_queue_if_e1000(what, std::move(net));
}

Status open_net(const control::DeviceRequest& request, std::vector<UniqueFd>& files, NewFiles& made) {
  if (const std::string* tap = find(request, "tap"); tap != nullptr) {
    const std::string* create = find(request, "create");
    return open_tap(*tap, request.files, create != nullptr && *create == "on", files);
  }
  if (const std::string* ring = find(request, "ring"); ring != nullptr) return open_ring(*ring, files, made);
  const std::string* list = find(request, "fd");
  return list == nullptr ? make_error("--net: names no TAP") : take_descriptors(*list, files);
}

}  // namespace bulkhead::cli
