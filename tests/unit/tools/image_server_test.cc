// ImageServer with the real server: what it shows, what it leaves behind, and what it refuses. Skipped where there is
// no FUSE or no such program.
#include "tools/bulkhead/image_server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "ipc/base/host_ids.h"
#include "tests/unit/tools/program.h"

namespace bulkhead::cli {
namespace {

using test::Scratch;

int run(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()); }

class ImageServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/fuse", R_OK | W_OK) != 0 || run("command -v qemu-storage-daemon && command -v qemu-img") != 0)
      GTEST_SKIP() << "no FUSE or no qemu-storage-daemon here";
    image_ = scratch_.path("disk.qcow2");
    ASSERT_EQ(run("qemu-img create -f qcow2 " + image_ + " 8M"), 0);
  }
  Result<ImageServer> start(const std::string& path, bool read_only = false) {
    ASSIGN_OR_RETURN(const UniqueFd file, UniqueFd::open(path, read_only ? O_RDONLY : O_RDWR));
    return ImageServer::start(file.borrow(), {.what = "disk", .read_only = read_only});
  }
  std::string refusal(const std::string& path) {
    const auto server = start(path);
    return server ? "not refused" : server.error().message;
  }
  [[nodiscard]] bool clean() const { return run("qemu-img check " + image_) == 0; }

  Scratch scratch_;
  std::string image_;
};

TEST_F(ImageServerTest, an_image_is_a_raw_file_while_it_lasts) {
  std::array<char, 4096> block{};
  {
    auto server = start(image_);
    ASSERT_TRUE(server) << server.error().message;
    const UniqueFd disk = server->take_disk();
    struct stat info {};
    ASSERT_EQ(::fstat(disk.get(), &info), 0);
    EXPECT_TRUE(S_ISREG(info.st_mode));
    EXPECT_EQ(info.st_size, 8 << 20);
    block.fill('x');
    EXPECT_EQ(::pwrite(disk.get(), block.data(), block.size(), 1 << 20), 4096);
    EXPECT_EQ(::pwrite(disk.get(), block.data(), block.size(), 2 << 20), 4096);
    EXPECT_EQ(::fdatasync(disk.get()), 0);
    EXPECT_EQ(::fallocate(disk.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 2 << 20, 4096), 0);
    EXPECT_NE(::kill(server->keeper(), 0), -1);
  }
  EXPECT_TRUE(clean()) << "it was closed in order";
  const std::string raw = scratch_.path("raw");
  ASSERT_EQ(run("qemu-img convert -O raw " + image_ + " " + raw), 0);
  std::ifstream file(raw);
  file.seekg(1 << 20);
  std::string found(4096, '\0');
  file.read(found.data(), 4096);
  EXPECT_EQ(found, std::string(4096, 'x'));
  file.seekg(2 << 20);
  file.read(found.data(), 4096);
  EXPECT_EQ(found, std::string(4096, '\0'));
}

// As root's device processes are: users that nobody else is.
TEST_F(ImageServerTest, whoever_root_made_a_jail_for_may_use_the_disk) {
  if (::geteuid() != 0) GTEST_SKIP() << "an ordinary user's device processes are that user";
  auto server = start(image_);
  ASSERT_TRUE(server) << server.error().message;
  const UniqueFd disk = server->take_disk();
  const pid_t child = ::fork();
  if (child == 0) {
    const uid_t id = kFirstHostId + kHostIds - 1;
    std::array<char, 512> block{};
    const bool done = ::setresgid(id, id, id) == 0 && ::setresuid(id, id, id) == 0 &&
                      ::pwrite(disk.get(), block.data(), block.size(), 0) == 512 &&
                      ::pread(disk.get(), block.data(), block.size(), 4096) == 512 && ::fdatasync(disk.get()) == 0;
    ::_exit(done ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(ImageServerTest, read_only_is_read_only) {
  auto server = start(image_, true);
  ASSERT_TRUE(server) << server.error().message;
  const UniqueFd disk = server->take_disk();
  EXPECT_EQ(::fcntl(disk.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  auto second = start(image_, true);
  EXPECT_TRUE(second) << "readers may share it: " << second.error().message;
}

TEST_F(ImageServerTest, an_image_in_use_is_refused) {
  auto server = start(image_);
  ASSERT_TRUE(server) << server.error().message;
  EXPECT_NE(refusal(image_).find("lock"), std::string::npos) << refusal(image_);
}

TEST_F(ImageServerTest, images_of_more_than_one_file_are_refused) {
  const std::string over = scratch_.path("over");
  ASSERT_EQ(run("qemu-img create -f qcow2 -b " + image_ + " -F qcow2 " + over), 0);
  EXPECT_EQ(refusal(over).substr(0, 24), "disk: has a backing file");
  const std::string apart = scratch_.path("apart");
  ASSERT_EQ(run("qemu-img create -f qcow2 -o data_file=" + scratch_.path("data") + " " + apart + " 1M"), 0);
  EXPECT_EQ(refusal(apart).substr(0, 37), "disk: keeps its data in another file,");
}

TEST_F(ImageServerTest, what_is_no_image_is_refused) {
  EXPECT_EQ(refusal(scratch_.write("text", std::string(4096, 'a'))), "disk: is no qcow2 image");
  EXPECT_EQ(refusal(scratch_.write("short", "QFI\xfb")), "disk: is no qcow2 image");
  std::string broken("QFI\xfb\0\0\0\3", 8);
  broken.resize(4096, '\xff');
  std::fill_n(broken.begin() + 8, 8, '\0');
  EXPECT_NE(refusal(scratch_.write("broken", broken)), "not refused");
}

TEST_F(ImageServerTest, an_image_that_was_cut_short_is_no_empty_disk) {
  for (const int bytes : {300, 65536, 131072}) {
    ASSERT_EQ(run("cp " + image_ + " " + scratch_.path("cut") + " && truncate -s " + std::to_string(bytes) + " " +
                  scratch_.path("cut")),
              0);
    EXPECT_EQ(refusal(scratch_.path("cut")), "disk: is cut short: the image's tables are not all there") << bytes;
  }
}

TEST_F(ImageServerTest, a_missing_program_is_named) {
  const auto file = UniqueFd::open(image_, O_RDWR);
  const auto server = ImageServer::start(file->borrow(), {.what = "disk", .program = "no-such-program"});
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().message, "disk: format=qcow2 needs no-such-program (Debian: qemu-system-common)");
}

TEST_F(ImageServerTest, a_server_that_dies_is_an_io_error_and_no_hang) {
  auto server = start(image_);
  ASSERT_TRUE(server) << server.error().message;
  const UniqueFd disk = server->take_disk();
  ASSERT_EQ(run("pkill -KILL -P " + std::to_string(server->keeper())), 0);
  std::array<char, 512> block{};
  ssize_t got = 0;
  for (int i = 0; i < 1000 && got >= 0; ++i) {
    got = ::pwrite(disk.get(), block.data(), block.size(), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_LT(got, 0);
}

TEST_F(ImageServerTest, a_server_that_stands_still_is_not_waited_for_without_end) {
  const UniqueFd file = UniqueFd::open(image_, O_RDWR).value();
  pid_t keeper = -1;
  {
    const auto server =
        ImageServer::start(file.borrow(), {.what = "disk", .end_patience = std::chrono::milliseconds(100)});
    ASSERT_TRUE(server) << server.error().message;
    keeper = server->keeper();
    ASSERT_EQ(run("pkill -STOP -P " + std::to_string(keeper)), 0);
  }
  EXPECT_NE(::kill(keeper, 0), 0) << "it is gone, and its server with it";
}

}  // namespace
}  // namespace bulkhead::cli
