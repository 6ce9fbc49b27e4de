#include "sandbox/filter.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "sandbox/policies.h"

namespace bulkhead::sandbox {
namespace {

std::vector<sock_filter> allow_all(std::size_t length) {
  return std::vector<sock_filter>(length, sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
}

constexpr int kAllSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;

UniqueFd file_of(std::size_t size, int seals) {
  UniqueFd fd(::memfd_create("filter", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const std::string bytes(size, '\x06');
  EXPECT_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(size));
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

TEST(Filter, takes_1_to_4096_instructions) {
  EXPECT_FALSE(CompiledFilter::from_program({}));
  EXPECT_TRUE(CompiledFilter::from_program(allow_all(1)));
  EXPECT_TRUE(CompiledFilter::from_program(allow_all(4096)));
  EXPECT_FALSE(CompiledFilter::from_program(allow_all(4097)));
}

TEST(Filter, comes_back_from_its_memory_file_as_often_as_wanted) {
  const CompiledFilter filter = *compile_role_filter({});
  const UniqueFd fd = *export_filter(filter);
  for (int i = 0; i < 2; ++i) {
    const Result<CompiledFilter> again = import_filter(fd.borrow());
    ASSERT_TRUE(again) << again.error().message;
    ASSERT_EQ(again->program().size(), filter.program().size());
    EXPECT_EQ(std::memcmp(again->program().data(), filter.program().data(), filter.program().size_bytes()), 0);
  }
}

TEST(Filter, cannot_be_changed_once_exported) {
  const UniqueFd fd = *export_filter(*compile_role_filter({}));
  EXPECT_LT(::pwrite(fd.get(), "x", 1, 0), 0);
  EXPECT_NE(::ftruncate(fd.get(), 8), 0);
}

TEST(ImportFilter, refuses_what_is_no_memory_file) {
  const UniqueFd null = *UniqueFd::open("/dev/null", O_RDONLY);
  EXPECT_FALSE(import_filter(null.borrow()));
  EXPECT_FALSE(import_filter(BorrowedFd(-1)));
}
TEST(ImportFilter, refuses_an_unsealed_file) {
  EXPECT_FALSE(import_filter(file_of(8, F_SEAL_SHRINK | F_SEAL_GROW).borrow()));
}
TEST(ImportFilter, refuses_an_empty_file) { EXPECT_FALSE(import_filter(file_of(0, kAllSeals).borrow())); }
TEST(ImportFilter, refuses_half_an_instruction) { EXPECT_FALSE(import_filter(file_of(12, kAllSeals).borrow())); }
TEST(ImportFilter, refuses_more_than_4096_instructions) {
  EXPECT_TRUE(import_filter(file_of(4096 * 8, kAllSeals).borrow()));
  EXPECT_FALSE(import_filter(file_of(4097 * 8, kAllSeals).borrow()));
}

}  // namespace
}  // namespace bulkhead::sandbox
