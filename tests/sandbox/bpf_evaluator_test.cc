#include "sandbox/bpf_evaluator.h"

#include <gtest/gtest.h>
#include <linux/seccomp.h>

#include <cstddef>

namespace bulkhead::sandbox {
namespace {

Result<std::uint32_t> run(std::vector<sock_filter> program, const SyscallAttempt& attempt = {}) {
  Result<CompiledFilter> filter = CompiledFilter::from_program(std::move(program));
  if (!filter) return filter.error();
  return evaluate(*filter, attempt);
}

constexpr sock_filter load(std::uint32_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); }
constexpr sock_filter give_back(std::uint32_t value) { return BPF_STMT(BPF_RET | BPF_K, value); }
constexpr sock_filter give_back_a() { return BPF_STMT(BPF_RET | BPF_A, 0); }

TEST(Evaluator, reads_number_architecture_and_both_halves_of_arguments) {
  SyscallAttempt attempt;
  attempt.number = 17;
  attempt.arguments[5] = 0x1122334455667788;
  attempt.instruction_pointer = 0xaabb;
  EXPECT_EQ(*run({load(offsetof(seccomp_data, nr)), give_back_a()}, attempt), 17U);
  EXPECT_EQ(*run({load(offsetof(seccomp_data, arch)), give_back_a()}, attempt), AUDIT_ARCH_X86_64);
  EXPECT_EQ(*run({load(offsetof(seccomp_data, instruction_pointer)), give_back_a()}, attempt), 0xaabbU);
  EXPECT_EQ(*run({load(offsetof(seccomp_data, args[5])), give_back_a()}, attempt), 0x55667788U);
  EXPECT_EQ(*run({load(offsetof(seccomp_data, args[5]) + 4), give_back_a()}, attempt), 0x11223344U);
}

TEST(Evaluator, takes_both_branches_of_each_comparison) {
  struct Case {
    std::uint16_t operation;
    int number;
    std::uint32_t verdict;
  };
  for (const Case& c : {Case{BPF_JEQ, 10, 1}, Case{BPF_JEQ, 11, 2}, Case{BPF_JGT, 11, 1}, Case{BPF_JGT, 10, 2},
                        Case{BPF_JGE, 10, 1}, Case{BPF_JGE, 9, 2}, Case{BPF_JSET, 2, 1}, Case{BPF_JSET, 5, 2}}) {
    SyscallAttempt attempt;
    attempt.number = c.number;
    const auto code = static_cast<std::uint16_t>(BPF_JMP | c.operation | BPF_K);
    EXPECT_EQ(*run({load(0), BPF_JUMP(code, 10, 0, 1), give_back(1), give_back(2)}, attempt), c.verdict)
        << c.operation << " " << c.number;
  }
}

TEST(Evaluator, computes) {
  SyscallAttempt attempt;
  attempt.number = 100;
  const auto compute = [&](std::uint16_t operation, std::uint32_t operand) {
    return run({load(0), BPF_STMT(static_cast<std::uint16_t>(BPF_ALU | operation | BPF_K), operand), give_back_a()},
               attempt);
  };
  EXPECT_EQ(*compute(BPF_ADD, 5), 105U);
  EXPECT_EQ(*compute(BPF_SUB, 101), 0xffffffffU);
  EXPECT_EQ(*compute(BPF_MUL, 3), 300U);
  EXPECT_EQ(*compute(BPF_DIV, 7), 14U);
  EXPECT_EQ(*compute(BPF_AND, 0x0f), 4U);
  EXPECT_EQ(*compute(BPF_OR, 0x0f), 0x6fU);
  EXPECT_EQ(*compute(BPF_XOR, 0xff), 0x9bU);
  EXPECT_EQ(*compute(BPF_LSH, 4), 1600U);
  EXPECT_EQ(*compute(BPF_RSH, 2), 25U);
  EXPECT_EQ(*compute(BPF_NEG, 0), 0U - 100U);
}

TEST(Evaluator, keeps_scratch_and_index_register) {
  EXPECT_EQ(*run({BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_ST, 3), BPF_STMT(BPF_LDX | BPF_MEM, 3),
                  BPF_STMT(BPF_LD | BPF_IMM, 1), BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0), give_back_a()}),
            8U);
  EXPECT_EQ(*run({BPF_STMT(BPF_LDX | BPF_IMM, 9), BPF_STMT(BPF_MISC | BPF_TXA, 0), give_back_a()}), 9U);
}

TEST(Evaluator, refuses_a_program_without_a_return) { EXPECT_FALSE(run({load(0)})); }
TEST(Evaluator, refuses_a_jump_past_the_end) {
  EXPECT_FALSE(run({BPF_STMT(BPF_JMP | BPF_JA, 1), give_back(0)}));
  EXPECT_FALSE(run({BPF_STMT(BPF_JMP | BPF_JA, 0xffffffff), give_back(0)}));
  EXPECT_FALSE(run({BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 9, 9), give_back(0)}));
}
TEST(Evaluator, refuses_a_load_past_the_data) { EXPECT_FALSE(run({load(sizeof(seccomp_data)), give_back(0)})); }
TEST(Evaluator, refuses_an_unaligned_load) { EXPECT_FALSE(run({load(2), give_back(0)})); }
TEST(Evaluator, refuses_scratch_out_of_range) { EXPECT_FALSE(run({BPF_STMT(BPF_ST, 16), give_back(0)})); }
TEST(Evaluator, refuses_division_by_zero) { EXPECT_FALSE(run({BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0), give_back(0)})); }
TEST(Evaluator, refuses_instructions_that_seccomp_lacks) {
  EXPECT_FALSE(run({BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), give_back(0)}));
}

}  // namespace
}  // namespace bulkhead::sandbox
