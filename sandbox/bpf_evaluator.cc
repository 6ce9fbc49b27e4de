#include "sandbox/bpf_evaluator.h"

#include <fmt/format.h>
#include <linux/seccomp.h>

#include <cstring>
#include <optional>

namespace bulkhead::sandbox {
namespace {

Error bad_program(std::size_t at, const char* why) {
  return make_error(fmt::format("the kernel would refuse this filter: instruction {} {}", at, why));
}

// The machine of classic BPF: two registers and 16 words of scratch.
struct Machine {
  std::uint32_t a = 0;
  std::uint32_t x = 0;
  std::array<std::uint32_t, BPF_MEMWORDS> scratch{};
};

seccomp_data data_of(const SyscallAttempt& attempt) {
  seccomp_data data{};
  data.nr = attempt.number;
  data.arch = attempt.arch;
  data.instruction_pointer = attempt.instruction_pointer;
  for (std::size_t i = 0; i < attempt.arguments.size(); ++i) data.args[i] = attempt.arguments[i];
  return data;
}

// False: no such arithmetic, or a division by zero.
bool arithmetic(std::uint16_t operation, std::uint32_t& a, std::uint32_t operand) {
  switch (operation) {
    case BPF_ADD: a += operand; return true;
    case BPF_SUB: a -= operand; return true;
    case BPF_MUL: a *= operand; return true;
    case BPF_DIV:
      if (operand == 0) return false;
      a /= operand;
      return true;
    case BPF_AND: a &= operand; return true;
    case BPF_OR: a |= operand; return true;
    case BPF_XOR: a ^= operand; return true;
    case BPF_LSH: a = operand < 32 ? a << operand : 0; return true;
    case BPF_RSH: a = operand < 32 ? a >> operand : 0; return true;
    case BPF_NEG: a = 0U - a; return true;
    default: return false;
  }
}

// nullopt: no such comparison.
std::optional<bool> compare(std::uint16_t operation, std::uint32_t a, std::uint32_t operand) {
  switch (operation) {
    case BPF_JEQ: return a == operand;
    case BPF_JGT: return a > operand;
    case BPF_JGE: return a >= operand;
    case BPF_JSET: return (a & operand) != 0;
    default: return std::nullopt;
  }
}

// Loads and stores. False: not an instruction that seccomp knows.
bool transfer(const sock_filter& instruction, const seccomp_data& data, Machine& machine) {
  const std::uint32_t k = instruction.k;
  switch (instruction.code) {
    case BPF_LD | BPF_W | BPF_ABS: {
      if (k % 4 != 0 || k > sizeof data - 4) return false;
      std::memcpy(&machine.a, reinterpret_cast<const char*>(&data) + k, 4);
      return true;
    }
    case BPF_LD | BPF_IMM: machine.a = k; return true;
    case BPF_LDX | BPF_IMM: machine.x = k; return true;
    case BPF_LD | BPF_W | BPF_LEN: machine.a = sizeof data; return true;
    case BPF_LDX | BPF_W | BPF_LEN: machine.x = sizeof data; return true;
    case BPF_MISC | BPF_TAX: machine.x = machine.a; return true;
    case BPF_MISC | BPF_TXA: machine.a = machine.x; return true;
    default: break;
  }
  if (k >= BPF_MEMWORDS) return false;
  switch (instruction.code) {
    case BPF_LD | BPF_MEM: machine.a = machine.scratch[k]; return true;
    case BPF_LDX | BPF_MEM: machine.x = machine.scratch[k]; return true;
    case BPF_ST: machine.scratch[k] = machine.a; return true;
    case BPF_STX: machine.scratch[k] = machine.x; return true;
    default: return false;
  }
}

}  // namespace

Result<std::uint32_t> evaluate(const CompiledFilter& filter, const SyscallAttempt& attempt) {
  const std::span<const sock_filter> program = filter.program();
  const seccomp_data data = data_of(attempt);
  Machine machine;
  // Jumps only go forward, so every program ends.
  for (std::size_t at = 0; at < program.size(); ++at) {
    const sock_filter& instruction = program[at];
    const std::uint32_t operand = BPF_SRC(instruction.code) == BPF_X ? machine.x : instruction.k;
    switch (BPF_CLASS(instruction.code)) {
      case BPF_RET:
        if (BPF_RVAL(instruction.code) == BPF_X) return bad_program(at, "returns what it cannot");
        return BPF_RVAL(instruction.code) == BPF_A ? machine.a : instruction.k;
      case BPF_ALU:
        if (!arithmetic(BPF_OP(instruction.code), machine.a, operand))
          return bad_program(at, "is no arithmetic, or divides by zero");
        break;
      case BPF_JMP: {
        if (BPF_OP(instruction.code) == BPF_JA) {
          if (instruction.k >= program.size() - at - 1) return bad_program(at, "jumps out of the program");
          at += instruction.k;
          break;
        }
        const std::optional<bool> taken = compare(BPF_OP(instruction.code), machine.a, operand);
        if (!taken) return bad_program(at, "is no comparison");
        at += *taken ? instruction.jt : instruction.jf;
        break;
      }
      default:
        if (!transfer(instruction, data, machine)) return bad_program(at, "loads or stores what it cannot");
    }
  }
  return bad_program(program.size(), "is past the end");
}

}  // namespace bulkhead::sandbox
