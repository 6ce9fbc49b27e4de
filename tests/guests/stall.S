// Four CPUs, each at a register of a device process of its own choice, for as long as no byte comes from the test. Then
// each says how often it was answered, how often not as it should have been, and how long an answer took at most, by the
// time stamp counter.
// The PCI test function is in slot 3.
#include "guest.inc"

.set REGS, 0xd0000000
.set TABLE, 0xd0002000
.set CPUS, 4

    .bss
    .balign 4
running: .skip 4
finished: .skip 4
answers: .skip 4 * CPUS
wrong: .skip 4 * CPUS
longest: .skip 4 * CPUS         // in 1024 cycles of the TSC

    .text
    .globl guest_main
guest_main:
    place_function 3, REGS, REGS+0x1000, 0xd000
    config_write32 3, PCI_BAR4, $TABLE
    config_write32 3, PCI_BAR4+4, $0
    movl $0x5eed5eed, TABLE
    write_port8 COM2 + 7, $0x5a
    movl $1, running
    push $other_cpu
    push $CPUS
    call start_cpus
    print "@running\n"
    config_address 3, 0
    xor %ebp, %ebp
    mov $read_pci, %esi
    call measure
    call get_char
    movl $0, running
    wait_for "CPUs that finished", finished, $CPUS-1
    xor %ebx, %ebx
1:  print "cpu "
    print_decimal %ebx
    print " answers "
    mov answers(, %ebx, 4), %eax
    print_decimal %eax
    print " wrong "
    mov wrong(, %ebx, 4), %eax
    print_decimal %eax
    print " longest "
    mov longest(, %ebx, 4), %eax
    print_decimal %eax
    print " kilocycles\n"
    inc %ebx
    cmp $CPUS, %ebx
    jne 1b
    ret

// %eax = the time stamp counter, in 1024 cycles.
kilocycles:
    push %edx
    rdtsc
    shrd $10, %edx, %eax
    pop %edx
    ret

other_cpu:
    mov %eax, %ebp
    mov readers(, %eax, 4), %esi
    call measure
    lock incl finished
1:  hlt
    jmp 1b
    .section .rodata
readers: .long 0, read_serial_port, read_function, read_table
    .text

// CPU %ebp calls the routine at %esi over and over. The boot processor also looks for the byte that ends it all.
measure:
    call kilocycles
    mov %eax, %edi
1:  call *%esi
    je 2f
    incl wrong(, %ebp, 4)
2:  incl answers(, %ebp, 4)
    call kilocycles
    mov %eax, %ecx
    sub %edi, %eax
    mov %ecx, %edi
    cmp longest(, %ebp, 4), %eax
    jbe 3f
    mov %eax, longest(, %ebp, 4)
3:  cmpl $0, running
    je 4f
    test %ebp, %ebp
    jnz 1b
    read_port8 COM1 + 5
    test $1, %al
    jz 1b
4:  ret

// Each sets ZF when the answer is right.
read_pci:                       // process `pci`, ports
    read_port32 0xcf8
    cmp $0x80001800, %eax
    ret
read_serial_port:               // process `platform`
    read_port8 COM2 + 7
    cmp $0x5a, %eax
    ret
read_function:                  // process of the PCI test function
    mov REGS + T_ID, %eax
    cmp $T_ID_VALUE, %eax
    ret
read_table:                     // process `pci`, memory
    mov TABLE, %eax
    cmp $0x5eed5eec, %eax       // bits 1:0 of an address are zero
    ret
