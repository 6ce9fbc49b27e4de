// open_net() on TAPs in a network namespace of its own.
#include "tools/bulkhead/net.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>

#include "tests/unit/tools/program.h"

namespace bulkhead::cli {
namespace {

constexpr int kNoNamespace = 77;

// A TAP that goes with its descriptor. Invalid: not possible here.
UniqueFd make_tap(const char* name, int flags) {
  UniqueFd tap(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request{};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(flags);
  if (!tap.valid() || ::ioctl(tap.get(), TUNSETIFF, &request) != 0) return {};
  return tap;
}
// One that stays.
bool make_lasting_tap(const char* name, int flags) {
  const UniqueFd tap = make_tap(name, flags);
  return tap.valid() && ::ioctl(tap.get(), TUNSETPERSIST, 1) == 0;
}

// "ok", or what was said.
std::string open_of(const std::string& text, std::vector<UniqueFd>& files) {
  const auto request = parse_net(text);
  if (!request) return request.error().message;
  NewFiles made;
  const Status status = open_net(*request, files, made);
  return status ? "ok" : status.error().message;
}

// In a child, whose complaints it prints. The child's checks return what is wrong; empty: nothing.
void in_a_namespace(const std::function<std::string()>& checks) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0 || !make_tap("probe", IFF_TAP | IFF_NO_PI).valid())
      ::_exit(kNoNamespace);
    const std::string wrong = checks();
    if (!wrong.empty()) fmt::print(stderr, "{}\n", wrong);
    ::_exit(wrong.empty() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNoNamespace) GTEST_SKIP() << "no network namespace or no TAP here";
  EXPECT_EQ(status, 0);
}

std::string differs(const std::string& got, const std::string& wanted) {
  return got == wanted ? "" : fmt::format("said: {}\nnot:  {}\n", got, wanted);
}

int flags_of(const UniqueFd& tap) {
  ifreq request{};
  return ::ioctl(tap.get(), TUNGETIFF, &request) == 0 ? static_cast<unsigned short>(request.ifr_flags) : -1;
}
bool is_ready(const UniqueFd& tap) {
  int header = 0;
  return (flags_of(tap) & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) == (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) &&
         ::ioctl(tap.get(), TUNGETVNETHDRSZ, &header) == 0 && header == 12 &&
         (::fcntl(tap.get(), F_GETFL) & O_NONBLOCK) != 0 && (::fcntl(tap.get(), F_GETFD) & FD_CLOEXEC) != 0;
}

TEST(OpenNet, taps_by_name) {
  in_a_namespace([] {
    std::string wrong;
    if (!make_lasting_tap("one", IFF_TAP | IFF_NO_PI) ||
        !make_lasting_tap("many", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE) ||
        !make_lasting_tap("tun", IFF_TUN | IFF_NO_PI))
      return std::string("no TAPs");
    std::vector<UniqueFd> files;
    wrong += differs(open_of("tap=one", files), "ok");
    wrong += differs(open_of("tap=many", files), "ok");
    wrong += differs(open_of("tap=many,queues=3", files), "ok");
    if (files.size() != 5) return wrong + "not five descriptors";
    for (const UniqueFd& file : files) wrong += is_ready(file) ? "" : "a TAP is not set up\n";
    if ((flags_of(files[0]) & IFF_MULTI_QUEUE) != 0) wrong += "one queue became many\n";

    wrong += differs(open_of("tap=one", files), "--net tap=one: is in use by another process");
    wrong += differs(open_of("tap=one,queues=2", files),
                     "--net tap=one: is no TAP with several queues; ip tuntap add one mode tap multi_queue makes one");
    wrong += differs(open_of("tap=tun", files), "--net tap=tun: is an interface, but no TAP");
    wrong += differs(open_of("tap=lo", files), "--net tap=lo: is an interface, but no TAP");
    for (const char* queues : {"", ",queues=2"})
      wrong +=
          differs(open_of(fmt::format("tap=none{}", queues), files),
                  fmt::format("--net tap=none: there is no such interface; ip tuntap add none mode tap{} makes one",
                              *queues == 0 ? "" : " multi_queue"));
    if (::if_nametoindex("none") != 0) wrong += "it was made";
    return wrong;
  });
}

TEST(OpenNet, descriptors) {
  in_a_namespace([] {
    const int good = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    const UniqueFd one = make_tap("one", good);
    const UniqueFd first = make_tap("many", good | IFF_MULTI_QUEUE);
    const UniqueFd second = make_tap("many", good | IFF_MULTI_QUEUE);
    const UniqueFd plain = make_tap("plain", IFF_TAP | IFF_NO_PI);
    const UniqueFd tun = make_tap("tun", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR);
    if (!one.valid() || !second.valid() || !plain.valid() || !tun.valid()) return std::string("no TAPs");
    const auto option = [](const UniqueFd& fd) { return fmt::format("fd={}", fd.get()); };
    const auto both = [](const UniqueFd& a, const UniqueFd& b) { return fmt::format("fd={}:{}", a.get(), b.get()); };
    std::string wrong;
    std::vector<UniqueFd> files;
    wrong += differs(open_of(option(one), files), "ok");
    wrong += differs(open_of(both(first, second), files), "ok");
    if (files.size() != 3) return wrong + "not three descriptors";
    for (const UniqueFd& file : files) wrong += is_ready(file) ? "" : "a TAP is not set up\n";
    wrong += differs(open_of("fd=900", files), "--net fd=900: there is no descriptor 900");
    wrong += differs(open_of("fd=2", files), "--net fd=2: descriptor 2 is no TAP");
    wrong +=
        differs(open_of(option(tun), files), fmt::format("--net {}: descriptor {} is no TAP", option(tun), tun.get()));
    wrong += differs(open_of(option(plain), files),
                     fmt::format("--net {}: descriptor {} must be a TAP opened with IFF_VNET_HDR and IFF_NO_PI",
                                 option(plain), plain.get()));
    wrong += differs(
        open_of(both(one, first), files),
        fmt::format("--net {}: descriptors of one card are queues of one TAP, not of one and many", both(one, first)));
    const UniqueFd again = UniqueFd::duplicate(one.borrow()).value();
    wrong +=
        differs(open_of(both(one, again), files), fmt::format("--net {}: one has one queue only", both(one, again)));
    return wrong;
  });
}

TEST(OpenNet, whoever_listens_at_a_ring_and_takes_nobody_is_not_waited_for) {
  const test::Scratch scratch;
  const std::string path = scratch.path("cable");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* where = reinterpret_cast<const sockaddr*>(&address);
  const UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), where, sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  std::vector<UniqueFd> waiting;
  do waiting.emplace_back(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  while (::connect(waiting.back().get(), where, sizeof address) == 0);
  std::vector<UniqueFd> files;
  const std::string said = open_of("ring=" + path, files);
  EXPECT_TRUE(said.ends_with("cable: whoever listens there takes no connection")) << said;
}

// Whether there is such an interface and whether it is up: "up", "down" or "none".
std::string state_of(const char* name) {
  const UniqueFd any(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (::ioctl(any.get(), SIOCGIFFLAGS, &request) != 0) return "none";
  return (request.ifr_flags & IFF_UP) != 0 ? "up" : "down";
}

TEST(OpenNet, tap_can_be_made_and_goes_with_its_descriptors) {
  in_a_namespace([]() -> std::string {
    std::vector<UniqueFd> files;
    if (const std::string said = open_of("tap=made0,create=on,queues=2", files); said != "ok") return said;
    if (files.size() != 2) return "it has another number of queues";
    if (state_of("made0") != "up") return "it is " + state_of("made0");
    std::vector<UniqueFd> more;
    if (open_of("tap=made0,create=on", more).find("there is such an interface") == std::string::npos)
      return "it was made twice";
    files.clear();
    if (state_of("made0") != "none") return "it has stayed";
    if (open_of("tap=made0", more).find("there is no such interface") == std::string::npos) return "made unasked";
    return open_of("tap=made0,create=off", more).find("there is no such interface") == std::string::npos ? "made by off"
                                                                                                         : "";
  });
}

TEST(OpenNet, create_goes_with_a_name) {
  for (const char* text : {"fd=7,create=on", "user,create=on", "ring=/tmp/x,create=on", "tap=x,create=maybe"}) {
    const auto request = parse_net(text);
    ASSERT_FALSE(request) << text;
    EXPECT_NE(request.error().message.find("create="), std::string::npos) << request.error().message;
  }
}

}  // namespace
}  // namespace bulkhead::cli
