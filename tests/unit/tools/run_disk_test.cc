// `bulkhead run --disk` with a fake VMM: what it hands over, and which files it refuses.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "ipc/control/vm_config.h"
#include "tests/unit/tools/program.h"

namespace bulkhead::cli {
namespace {

using test::Finished;
using test::run_program;
using test::Scratch;

// The lines of `text` that begin with `start`, each without it.
std::vector<std::string> lines_of(const std::string& text, const std::string& start) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    if (text.compare(at, start.size(), start) == 0)
      lines.push_back(text.substr(at + start.size(), end - at - start.size()));
    at = end + 1;
  }
  return lines;
}

std::vector<std::string> files_of(const Finished& finished) {
  EXPECT_EQ(finished.status, 0) << finished.err;
  return lines_of(finished.out, "device file ");
}

void expect_refused(const Finished& finished, int status, const std::string& sentence) {
  EXPECT_EQ(finished.status, status) << finished.err;
  EXPECT_EQ(finished.out, "");
  EXPECT_EQ(finished.err, "bulkhead: " + sentence + "\n");
}

// As the kernel spells it.
std::string real(const std::string& path) { return std::filesystem::canonical(path).string(); }

TEST(RunDisk, vmm_gets_each_disk_open_and_in_order) {
  const Scratch scratch;
  const std::string a = scratch.write("a", "disk");
  const std::string b = scratch.write("b,c", "disk");
  const Finished finished =
      run_program(scratch.run("facts", {"--disk", a + ",serial=x", "--device", "pci_test", "--disk",
                                        scratch.path("b,,c") + ",readonly=on", "--disk", a + ",readonly=off"}));
  EXPECT_EQ(files_of(finished), (std::vector<std::string>{real(a), real(b) + " read-only", real(a)}));
  EXPECT_EQ(lines_of(finished.out, "device virtio_blk "),
            (std::vector<std::string>{"[path]=[" + a + "] [serial]=[x]", "[path]=[" + b + "] [readonly]=[on]",
                                      "[path]=[" + a + "] [readonly]=[off]"}));
}

TEST(RunDisk, direct_is_a_property_of_the_descriptor) {
  const Scratch scratch;
  const std::string disk = scratch.write("disk", std::string(4096, 'd'));
  const int direct = ::open(disk.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  if (direct < 0) GTEST_SKIP() << "no O_DIRECT here";
  ::close(direct);
  EXPECT_EQ(
      files_of(run_program(scratch.run("facts", {"--disk", disk + ",direct=on", "--disk",
                                                 disk + ",direct=on,readonly=on", "--disk", disk + ",direct=off"}))),
      (std::vector<std::string>{real(disk) + " direct", real(disk) + " read-only direct", real(disk)}));
}

TEST(RunDisk, direct_where_there_is_none_is_refused) {
  const Scratch scratch;
  expect_refused(run_program(scratch.run("facts", {"--disk", "/proc/version,direct=on,readonly=on"})), 1,
                 "--disk /proc/version: its file system does not take direct=on (O_DIRECT)");
}

TEST(RunDisk, files_that_are_no_disks_are_refused_in_one_sentence) {
  const Scratch scratch;
  const auto run = [&](const std::string& disk) { return run_program(scratch.run("facts", {"--disk", disk})); };
  expect_refused(run(scratch.path("none")), 1, "--disk " + scratch.path("none") + ": No such file or directory");
  expect_refused(run("/nowhere/a,readonly=on"), 1, "--disk /nowhere/a: No such file or directory");
  for (const char* more : {"", ",readonly=on", ",readonly=off"})
    expect_refused(run("/tmp" + std::string(more)), 1, "--disk /tmp: is a directory");
  expect_refused(run("a\x1b[2J\n"), 1, "--disk a?[2J?: No such file or directory");
}

TEST(RunDisk, nothing_is_created_when_a_disk_is_wrong) {
  const Scratch scratch;
  expect_refused(run_program(scratch.run("facts", {"--disk", scratch.path("none"), "--log", scratch.path("log"),
                                                   "--console", "file:" + scratch.path("console")})),
                 1, "--disk " + scratch.path("none") + ": No such file or directory");
  for (const char* name : {"none", "log", "console"}) EXPECT_NE(::access(scratch.path(name).c_str(), F_OK), 0) << name;
}

TEST(RunDisk, file_that_may_not_be_written_is_a_disk_when_read_only) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everything";
  const Scratch scratch;
  const std::string disk = scratch.write("disk", "disk");
  ASSERT_EQ(::chmod(disk.c_str(), 0400), 0);
  expect_refused(run_program(scratch.run("facts", {"--disk", disk})), 1, "--disk " + disk + ": Permission denied");
  EXPECT_EQ(files_of(run_program(scratch.run("facts", {"--disk", disk + ",readonly=on"}))),
            (std::vector<std::string>{real(disk) + " read-only"}));
  ASSERT_EQ(::chmod(disk.c_str(), 0), 0);
  expect_refused(run_program(scratch.run("facts", {"--disk", disk + ",readonly=on"})), 1,
                 "--disk " + disk + ": Permission denied");
}

// The VMM is who refuses it (disk_image_test.cc).
TEST(RunDisk, fifo_holds_nobody_up) {
  const Scratch scratch;
  const std::string fifo = scratch.path("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(files_of(run_program(scratch.run("facts", {"--disk", fifo}))), (std::vector<std::string>{real(fifo)}));
  EXPECT_EQ(files_of(run_program(scratch.run("facts", {"--disk", fifo + ",readonly=on"}))),
            (std::vector<std::string>{real(fifo) + " read-only"}));
}

TEST(RunDisk, so_many_disks_and_no_more) {
  const Scratch scratch;
  const std::string disk = scratch.write("disk", "disk");
  const auto with = [&](std::size_t disks, std::size_t devices) {
    std::vector<std::string> more;
    for (std::size_t i = 0; i < disks; ++i) more.insert(more.end(), {"--disk", disk});
    for (std::size_t i = 0; i < devices; ++i) more.insert(more.end(), {"--device", "pci_test"});
    return run_program(scratch.run("facts", more));
  };
  EXPECT_EQ(files_of(with(control::kMaxDeviceFiles, control::kMaxDevices - control::kMaxDeviceFiles)).size(),
            control::kMaxDeviceFiles);
  expect_refused(with(control::kMaxDeviceFiles + 1, 0), 2, "--disk: given 49 times, at most 48 allowed");
  expect_refused(with(1, control::kMaxDevices), 2, "--device: given 65 times, at most 64 allowed");
}

}  // namespace
}  // namespace bulkhead::cli
