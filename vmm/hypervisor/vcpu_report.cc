// KvmVcpu::describe_state(): the crash report's view of one vCPU.
#include <fmt/format.h>

#include <array>
#include <iterator>
#include <string>

#include "vmm/hypervisor/kvm_vcpu.h"

namespace bulkhead::vmm {

namespace {

constexpr std::size_t kCodeBefore = 16;
constexpr std::size_t kCodeAfter = 32;
constexpr std::uint64_t kPageBytes = 4096;

void add_general(std::string& out, const kvm_regs& r) {
  fmt::format_to(std::back_inserter(out),
                 "  rip {:016x}  rflags {:016x}\n"
                 "  rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}\n"
                 "  rsi {:016x}  rdi {:016x}  rsp {:016x}  rbp {:016x}\n"
                 "  r8  {:016x}  r9  {:016x}  r10 {:016x}  r11 {:016x}\n"
                 "  r12 {:016x}  r13 {:016x}  r14 {:016x}  r15 {:016x}\n",
                 r.rip, r.rflags, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11,
                 r.r12, r.r13, r.r14, r.r15);
}

void add_segment(std::string& out, const char* name, const kvm_segment& s) {
  fmt::format_to(std::back_inserter(out),
                 "  {:4} {:04x} base {:016x} limit {:08x} type {:x} s {} dpl {} p {} l {} db {} g {}\n", name,
                 s.selector, s.base, s.limit, s.type, s.s, s.dpl, s.present, s.l, s.db, s.g);
}

void add_special(std::string& out, const kvm_sregs& s) {
  fmt::format_to(std::back_inserter(out),
                 "  cr0 {:016x}  cr2 {:016x}  cr3 {:016x}  cr4 {:016x}\n"
                 "  cr8 {:016x}  efer {:016x}  apic_base {:016x}\n",
                 s.cr0, s.cr2, s.cr3, s.cr4, s.cr8, s.efer, s.apic_base);
  add_segment(out, "cs", s.cs);
  add_segment(out, "ds", s.ds);
  add_segment(out, "es", s.es);
  add_segment(out, "ss", s.ss);
  add_segment(out, "fs", s.fs);
  add_segment(out, "gs", s.gs);
  add_segment(out, "tr", s.tr);
  add_segment(out, "ldt", s.ldt);
  fmt::format_to(std::back_inserter(out), "  gdt  base {:016x} limit {:04x}   idt  base {:016x} limit {:04x}\n",
                 s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit);
}

const char* mp_state_name(std::uint32_t state) {
  switch (state) {
    case KVM_MP_STATE_RUNNABLE: return "running";
    case KVM_MP_STATE_UNINITIALIZED: return "waiting for INIT";
    case KVM_MP_STATE_INIT_RECEIVED: return "waiting for SIPI";
    case KVM_MP_STATE_HALTED: return "halted";
    case KVM_MP_STATE_SIPI_RECEIVED: return "starting";
    default: return "unknown";
  }
}

}  // namespace

std::string KvmVcpu::describe_state() {
  std::string out = fmt::format("vCPU {} (APIC ID)", apic_id_);
  if (const auto state = mp_state()) {
    fmt::format_to(std::back_inserter(out), ", {}\n", mp_state_name(*state));
  } else {
    out += "\n";
  }
  const auto general = regs();
  const auto special = sregs();
  if (!general || !special) {
    fmt::format_to(std::back_inserter(out), "  registers cannot be read: {}\n",
                   general ? special.error().message : general.error().message);
    return out;
  }
  add_general(out, *general);
  add_special(out, *special);

  // In 64-bit code the base of CS does not count; elsewhere linear addresses are 32 bits wide.
  std::uint64_t linear = general->rip;
  if (special->cs.l == 0) linear = (linear + special->cs.base) & 0xFFFFFFFF;
  out += "  code";
  std::uint64_t address = linear < kCodeBefore ? 0 : linear - kCodeBefore;
  const std::uint64_t end = linear > UINT64_MAX - kCodeAfter ? UINT64_MAX : linear + kCodeAfter;
  std::optional<std::uint64_t> page;
  for (bool first = true; address < end; ++address) {
    if (first || address % kPageBytes == 0) page = translate(address & ~(kPageBytes - 1));
    first = false;
    std::array<std::byte, 1> byte{};
    const bool readable =
        page && guest_reader_ && guest_reader_((*page & ~(kPageBytes - 1)) + address % kPageBytes, byte);
    const std::string text = readable ? fmt::format("{:02x}", static_cast<unsigned>(byte[0])) : std::string("??");
    out += address == linear ? " <" + text + ">" : " " + text;
  }
  out += "\n";
  return out;
}

}  // namespace bulkhead::vmm
