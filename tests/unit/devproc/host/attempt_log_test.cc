// Attempt: the note of an input tells it from every other kind and number, and keeps its key from try to try.
#include "devproc/host/attempt_log.h"

#include <gtest/gtest.h>

#include <map>

#include "devproc/host/host_wires.h"
#include "ipc/ring/layout.h"
#include "ipc/roles/device_types.h"

namespace bulkhead::devproc {
namespace {

// Every input that is not a request, as of `commit`.
std::map<std::string, Attempt> all_inputs(std::uint64_t commit) {
  std::map<std::string, Attempt> all;
  const auto add = [&](const std::string& kind, std::uint32_t count, Attempt (*make)(std::uint32_t, std::uint64_t)) {
    for (std::uint32_t i = 0; i < count; ++i) all.emplace(kind + std::to_string(i), make(i, commit));
  };
  add("timer", kMaxTimers, Attempt::timer);
  add("stream", ipc::kStreams, Attempt::stream);
  add("queue", kMaxKicks, Attempt::queue);
  add("backend", kMaxBackings, Attempt::backend);
  return all;
}

TEST(Attempt, keys_of_all_inputs_differ) {
  std::map<std::uint64_t, std::string> keys;
  for (const auto& [name, attempt] : all_inputs(7)) {
    const auto [at, is_new] = keys.emplace(attempt.key(), name);
    EXPECT_TRUE(is_new) << name << " and " << at->second;
    EXPECT_NE(attempt.key(), 0U) << "0: nothing is suspected";
    EXPECT_FALSE(attempt.is_start()) << name;
    EXPECT_FALSE(keys.contains(Attempt::start().key()));
  }
  for (ipc::Ticket ticket = 1; ticket < 1000; ++ticket) EXPECT_FALSE(keys.contains(Attempt::request(ticket).key()));
}

TEST(Attempt, key_is_the_same_for_every_try) {
  const auto now = all_inputs(7);
  for (const std::uint64_t commit : {std::uint64_t{0}, std::uint64_t{8}, std::uint64_t{1} << 52}) {
    for (const auto& [name, attempt] : all_inputs(commit)) {
      EXPECT_EQ(attempt.key(), now.at(name).key()) << name;
      EXPECT_NE(attempt.word(), now.at(name).word()) << name;
    }
  }
}

TEST(Attempt, input_is_committed_when_a_commit_followed) {
  for (const auto& [name, attempt] : all_inputs(7)) {
    EXPECT_FALSE(attempt.committed(100, 7)) << name;
    EXPECT_TRUE(attempt.committed(0, 8)) << name;
    EXPECT_EQ(Attempt::from_word(attempt.word()).key(), attempt.key()) << name;
  }
}

}  // namespace
}  // namespace bulkhead::devproc
