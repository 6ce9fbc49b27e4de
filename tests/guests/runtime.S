// The runtime of the test guests: start, serial port, time, interrupts, application processors. guest.inc has the macros
// over it and says what a guest may expect. Arguments are pushed, and taken off the stack by the routine.
#include "guest.inc"

    .section .note.Xen, "a", @note
    .long 4, 4, 18              // name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

.set MAX_CPUS, 64
.set STACK_SIZE, 4096

    .bss
    .balign 16
    .globl interrupt_counts, interrupt_hooks, interrupt_cpus, start_info, cpus_started, early_eoi
stacks: .skip STACK_SIZE * MAX_CPUS
interrupt_counts: .skip 4 * 256
interrupt_hooks: .skip 4 * 256
interrupt_cpus: .skip 4 * 256   // local APIC id of the CPU that took the last one
idt: .skip 8 * 256
start_info: .skip 4             // address of PVH's hvm_start_info
cpus_started: .skip 4
ap_main: .skip 4
early_eoi: .skip 4              // look_for_early_eoi()

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    // 08h: code, flat
    .quad 0x00cf93000000ffff    // 10h: data, flat
gdt_register:
    .word 23
    .long gdt
idt_register:
    .word 256 * 8 - 1
    .long idt

    .text
    .globl _start
_start:
    cli
    cld
    mov $stacks + STACK_SIZE, %esp
    mov %ebx, start_info
    lgdt gdt_register
    ljmp $8, $1f
1:  mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    // Receive and transmit FIFOs on, nothing in them.
    write_port8 COM1 + 2, $0x07
    call fill_idt
    lidt idt_register
    movl $0x1ff, LAPIC + LAPIC_SVR
    movl $1, cpus_started
    call guest_main
    pass

// Ends the VM with status 64 + %eax.
    .globl leave
leave:
    mov $DEBUG_EXIT, %edx
    out %eax, %dx
1:  cli
    hlt
    jmp 1b

// ---- Serial port ----

// Prints %al, and keeps all registers.
    .globl put_char
put_char:
    push %edx
    push %eax
    mov $COM1 + 5, %edx
1:  in %dx, %al
    test $0x20, %al
    jz 1b
    mov (%esp), %eax
    mov $COM1, %edx
    out %al, %dx
    pop %eax
    pop %edx
    ret

// %al = the next byte that comes in.
    .globl get_char
get_char:
    push %edx
    mov $COM1 + 5, %edx
1:  pause
    in %dx, %al
    test $1, %al
    jz 1b
    mov $COM1, %edx
    in %dx, %al
    pop %edx
    ret

// put_string(text)
    .globl put_string
put_string:
    push %esi
    push %eax
    mov 12(%esp), %esi
1:  lodsb
    test %al, %al
    jz 2f
    call put_char
    jmp 1b
2:  pop %eax
    pop %esi
    ret $4

// put_hex(value): eight digits.
    .globl put_hex
put_hex:
    push %ebx
    push %ecx
    push %eax
    mov 16(%esp), %ebx
    mov $8, %ecx
1:  rol $4, %ebx
    mov %ebx, %eax
    and $15, %eax
    mov hex_digits(%eax), %al
    call put_char
    loop 1b
    pop %eax
    pop %ecx
    pop %ebx
    ret $4
    .section .rodata
hex_digits: .ascii "0123456789abcdef"
    .text

// put_decimal(value)
    .globl put_decimal
put_decimal:
    pushal
    mov 36(%esp), %eax
    mov $10, %ebx
    xor %ecx, %ecx
1:  xor %edx, %edx
    div %ebx
    add $'0', %edx
    push %edx
    inc %ecx
    test %eax, %eax
    jnz 1b
2:  pop %eax
    call put_char
    loop 2b
    popal
    ret $4

// mismatch(what, got, want): the end of a test that failed.
    .globl mismatch
mismatch:
    cli
    add $4, %esp
    print "FAIL "
    call put_string
    print ": got "
    call put_hex
    print ", want "
    call put_hex
    print "\n"
    mov $1, %eax
    jmp leave

// ---- Time ----

// wait_ticks(ticks of the PM timer)
    .globl wait_ticks
wait_ticks:
    push %eax
    push %ebx
    push %edx
    mov $PM_TIMER, %edx
    in %dx, %eax
    mov %eax, %ebx
1:  pause
    in %dx, %eax
    sub %ebx, %eax
    and $0xffffff, %eax
    cmp 16(%esp), %eax
    jb 1b
    pop %edx
    pop %ebx
    pop %eax
    ret $4

// wait_for_more(what, address, value): until the dword is `value` or more.
    .globl wait_for_more
wait_for_more:
    pushal
    mov $PM_TIMER, %edx
    in %dx, %eax
    mov %eax, %ebx
1:  mov 40(%esp), %esi
    mov (%esi), %ecx
    cmp 44(%esp), %ecx
    jae 2f
    pause
    in %dx, %eax
    sub %ebx, %eax
    and $0xffffff, %eax
    cmp $2000 * TICKS_PER_MS, %eax
    jb 1b
    pushl 44(%esp)
    push %ecx
    pushl 44(%esp)
    call mismatch
2:  popal
    ret $12

// wait_for_value(what, address, value)
    .globl wait_for_value
wait_for_value:
    pushal
    mov $PM_TIMER, %edx
    in %dx, %eax
    mov %eax, %ebx
1:  mov 40(%esp), %esi
    mov (%esi), %ecx
    cmp 44(%esp), %ecx
    je 2f
    pause
    in %dx, %eax
    sub %ebx, %eax
    and $0xffffff, %eax
    cmp $2000 * TICKS_PER_MS, %eax
    jb 1b
    pushl 44(%esp)
    push %ecx
    pushl 44(%esp)              // `what`: two pushes ago at 36(%esp)
    call mismatch
2:  popal
    ret $12

// ---- PCI ----

// find_capability_of(address of configuration register 0, id): %eax = its offset, or 0.
    .globl find_capability_of
find_capability_of:
    push %ebx
    push %ecx
    push %edx
    mov $PCI_CAPABILITIES, %ebx
    mov $48, %ecx               // as many as fit: a loop in the list ends here
1:  mov 16(%esp), %eax
    or %ebx, %eax
    and $~3, %eax
    mov $0xcf8, %edx
    out %eax, %dx
    mov $0xcfc, %edx
    in %dx, %eax
    cmp $PCI_CAPABILITIES, %ebx
    je 2f
    cmp 20(%esp), %al
    je 3f
    shr $8, %eax
2:  movzbl %al, %ebx
    test %ebx, %ebx
    jz 3f
    loop 1b
    xor %ebx, %ebx
3:  mov %ebx, %eax
    pop %edx
    pop %ecx
    pop %ebx
    ret $8

// ---- Interrupts ----

fill_idt:
    mov $idt, %edi
    mov $exception_entries, %eax
    mov $FIRST_VECTOR, %ecx
    call fill_gates
    mov $interrupt_entries, %eax
    mov $LAST_VECTOR - FIRST_VECTOR + 1, %ecx
fill_gates:                     // %ecx interrupt gates at %edi, to entries of 16 bytes from %eax on
1:  mov %ax, (%edi)
    movw $8, 2(%edi)
    movw $0x8e00, 4(%edi)
    mov %eax, %edx
    shr $16, %edx
    mov %dx, 6(%edi)
    add $16, %eax
    add $8, %edi
    loop 1b
    ret

    .balign 16
exception_entries:
    .set vector, 0
    .rept FIRST_VECTOR
    .balign 16
    pushl $vector
    jmp exception
    .set vector, vector + 1
    .endr
    .balign 16
interrupt_entries:
    .rept LAST_VECTOR - FIRST_VECTOR + 1
    .balign 16
    pushl $vector
    jmp interrupt
    .set vector, vector + 1
    .endr

// On the stack: vector, [error code,] EIP, ...
exception:
    print "FAIL exception "
    call put_decimal
    print ": "
    call put_hex
    print " "
    call put_hex
    print "\n"
    mov $1, %eax
    jmp leave

// On the stack: vector, EIP, CS, EFLAGS.
interrupt:
    pushal
    mov 32(%esp), %ebx
    mov LAPIC + LAPIC_ID, %eax
    shr $24, %eax
    mov %eax, interrupt_cpus(, %ebx, 4)
    mov interrupt_hooks(, %ebx, 4), %eax
    test %eax, %eax
    jz 1f
    call *%eax
1:  lock incl interrupt_counts(, %ebx, 4)
    cmp $0x30, %ebx
    jae 3f
    mov $0x20, %al              // unspecific EOI
    cmp $0x28, %ebx
    jb 2f
    out %al, $PIC2
2:  out %al, $PIC1
    jmp 4f
3:  movl $0, LAPIC + LAPIC_EOI
4:  popal
    add $4, %esp
    // IRET within one privilege level, without IRET: EIP, CS, EFLAGS become CS's slot, EFLAGS, EIP. Safe against an
    // interrupt between POPF and RET, since what is still needed lies on the stack.
    push %eax
    mov 4(%esp), %eax
    xchg %eax, 12(%esp)
    mov %eax, 8(%esp)
    pop %eax
    lea 4(%esp), %esp
    popfl
    ret

// Whether an interrupt is out of service before its handler has begun. KVM on PVM hosts ends it as it injects it into
// code that it interprets; a level that is still there then comes a second time, for nothing. To be called with
// interrupts on.
.set EOI_PROBE, 0x30
    .globl look_for_early_eoi
look_for_early_eoi:
    on_interrupt EOI_PROBE, 1f
    movl $0x00040000 | EOI_PROBE, LAPIC + LAPIC_ICR
    wait_for "interrupt from this CPU to itself", count_of(EOI_PROBE), $1
    ret
1:  testl $1 << (EOI_PROBE & 31), LAPIC + 0x100 + 0x10 * (EOI_PROBE >> 5)
    jnz 2f
    movl $1, early_eoi
2:  ret

// pic_init(mask of both: 16 bits, 1 = masked): vectors 20h-2Fh.
    .globl pic_init
pic_init:
    push %eax
    mov $0x11, %al              // ICW1: edge (ELCR decides), cascade, ICW4 follows
    out %al, $PIC1
    out %al, $PIC2
    mov $0x20, %al
    out %al, $PIC1 + 1
    mov $0x28, %al
    out %al, $PIC2 + 1
    mov $4, %al
    out %al, $PIC1 + 1
    mov $2, %al
    out %al, $PIC2 + 1
    mov $1, %al
    out %al, $PIC1 + 1
    out %al, $PIC2 + 1
    mov 8(%esp), %eax
    out %al, $PIC1 + 1
    mov %ah, %al
    out %al, $PIC2 + 1
    pop %eax
    ret $4

// ---- Application processors ----

.set TRAMPOLINE, 0x8000

// start_cpus(count, routine): starts CPUs 1 ... count - 1 by INIT and SIPI to all but this one, waits for them. Each
// runs `routine` on a stack of its own, interrupts off, with its number in %eax: 1, 2, ... in the order of arrival.
    .globl start_cpus
start_cpus:
    pushal
    mov 40(%esp), %eax
    mov %eax, ap_main
    mov $trampoline, %esi
    mov $TRAMPOLINE, %edi
    mov $trampoline_end - trampoline, %ecx
    rep movsb
    movl $0x000c4500, LAPIC + LAPIC_ICR     // INIT, all excluding self
    wait_ms 10
    movl $0x000c4600 | (TRAMPOLINE >> 12), LAPIC + LAPIC_ICR
    wait_ms 1
    movl $0x000c4600 | (TRAMPOLINE >> 12), LAPIC + LAPIC_ICR
    wait_for "processors that started", cpus_started, 36(%esp)
    popal
    ret $8

    .code16
trampoline:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    lgdtl TRAMPOLINE + trampoline_gdt - trampoline
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $ap_start
    .balign 4
trampoline_gdt:
    .word 23
    .long gdt
trampoline_end:

    .code32
ap_start:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    lidt idt_register
    movl $0x1ff, LAPIC + LAPIC_SVR
    mov $1, %eax
    lock xadd %eax, cpus_started
    mov %eax, %ecx
    shl $12, %ecx               // STACK_SIZE
    lea stacks + STACK_SIZE(%ecx), %esp
    call *ap_main
1:  cli
    hlt
    jmp 1b
