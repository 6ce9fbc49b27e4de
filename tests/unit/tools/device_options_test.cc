// --virtio-console, --balloon and --vsock as they are parsed, and the socket that goes with its VM.
#include "tools/bulkhead/device_options.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "tests/unit/tools/program.h"
#include "tools/bulkhead/socket_file.h"

namespace bulkhead::cli {
namespace {

using control::DeviceRequest;
using control::Property;
using test::Scratch;

TEST(VirtioConsole, where_it_is) {
  EXPECT_EQ(parse_virtio_console("stdio").value(),
            (DeviceRequest{.type = "virtio_console", .properties = {{"where", "stdio"}}, .files = 2}));
  EXPECT_EQ(parse_virtio_console("pty,slot=9").value(),
            (DeviceRequest{.type = "virtio_console", .properties = {{"where", "pty"}, {"slot", "9"}}, .files = 2}));
  EXPECT_EQ(parse_virtio_console("none").value().files, 0);
  EXPECT_EQ(parse_virtio_console("file:/a,,b,columns=80").value(),
            (DeviceRequest{.type = "virtio_console",
                           .properties = {{"where", "file"}, {"path", "/a,b"}, {"columns", "80"}},
                           .files = 1}));
  for (const char* text : {"", "tty", "file:", "file", "stdio,", "stdio,where=pty", "pty,path=/a", "stdiox"})
    EXPECT_FALSE(parse_virtio_console(text)) << text;
}

TEST(VirtioConsole, stdio_is_one_consoles) {
  RunOptions run;
  EXPECT_TRUE(add_virtio_consoles({"stdio", "pty"}, std::nullopt, run));
  EXPECT_EQ(run.console, control::ConsoleKind::kNone) << "the serial port gives way";
  EXPECT_EQ(run.devices.size(), 2U);
  RunOptions both;
  EXPECT_FALSE(add_virtio_consoles({"stdio"}, "stdio", both));
  RunOptions two;
  EXPECT_FALSE(add_virtio_consoles({"stdio", "stdio"}, std::nullopt, two));
  RunOptions pty;
  EXPECT_TRUE(add_virtio_consoles({"stdio"}, "pty", pty));
}

TEST(BalloonOption, size_and_properties) {
  EXPECT_EQ(parse_balloon("64M,stats=5").value(),
            (DeviceRequest{.type = "virtio_balloon", .properties = {{"target", "67108864"}, {"stats", "5"}}}));
  for (const char* text : {"", "x", "-1", "1M,", "stats=5"}) EXPECT_FALSE(parse_balloon(text)) << text;
}

TEST(VsockOption, path_becomes_absolute) {
  const DeviceRequest request = parse_vsock("cid=3,path=/run/x.sock,slot=4").value();
  EXPECT_EQ(request.files, 1);
  EXPECT_EQ(request.properties, (std::vector<Property>{{"cid", "3"}, {"path", "/run/x.sock"}, {"slot", "4"}}));
  EXPECT_EQ(parse_vsock("path=x,cid=3").value().properties[0].value.front(), '/');
  for (const auto& text : {std::string(""), std::string("cid=3"), std::string("path=/a"), std::string("cid=3,path="),
                           "cid=3,path=/" + std::string(96, 'x')})
    EXPECT_FALSE(parse_vsock(text)) << text;
  EXPECT_TRUE(parse_vsock("cid=3,path=/" + std::string(95, 'x')));
}

TEST(SocketFile, goes_with_its_owner) {
  const Scratch scratch;
  const std::string path = scratch.path("sock");
  struct stat info {};
  {
    SocketFile file = SocketFile::listen("--vsock", path).value();
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    const SocketFile moved = std::move(file);
    EXPECT_EQ(SocketFile::listen("--vsock", path).error().message,
              "--vsock " + path + ": another program listens there");
    EXPECT_EQ(::stat(path.c_str(), &info), 0);
  }
  EXPECT_NE(::stat(path.c_str(), &info), 0);
}

TEST(SocketFile, one_that_was_left_behind_is_replaced_and_nothing_else_is) {
  const Scratch scratch;
  const std::string path = scratch.path("sock");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  EXPECT_TRUE(SocketFile::listen("--vsock", path));
  const std::string file = scratch.write("file", "text");
  EXPECT_EQ(SocketFile::listen("--vsock", file).error().message,
            "--vsock " + file + ": is there already, and no socket");
  EXPECT_TRUE(std::ifstream(file).good());
  EXPECT_FALSE(SocketFile::listen("--vsock", scratch.path("no/sock")));
}

}  // namespace
}  // namespace bulkhead::cli
