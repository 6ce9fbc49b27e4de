// Does what the test tells it, one letter at a time, after each start of the machine. A start checks that everything is
// as after power-on and then leaves its mark everywhere, so that a reset which forgets something fails the next start.
// Two CPUs: the second keeps a device busy, so that a reset meets it at work. The PCI test function is in slot 3.
#include "guest.inc"

.set REGS, 0xe0000000           // where firmware puts it
.set OWN_REGS, 0xd0000000
.set VECTOR, 0x4b
.set MSI, 0x48
.set T_DEADLY, T_SCRATCH + 0x20 // registers at which a frail device dies (tests/kvm/frail_device.cc)
.set T_BELL_DEADLY, 0x40

    .bss
    .balign 8
longest: .skip 4                // longest step of VM time in one turn of `clock`, microseconds
turns: .skip 4

    .data
no_idt:
    .word 0
    .long 0

    .text
    .globl guest_main
guest_main:
    call check_start
    call leave_marks
    print "boot\n"
next_command:
    call get_char
    movzbl %al, %eax
    .macro command letter:req, routine:req
    cmp $\letter, %eax
    je \routine
    .endm
    command 'c', reset_by_cf9
    command 'k', reset_by_keyboard
    command '9', reset_by_port_92
    command 'T', reset_by_trc
    command 't', triple_fault
    command 'u', not_emulated
    command 'b', wait_for_button
    command 'o', soft_off
    command 'i', wait_for_sci
    command 'v', clock
    command 'p', say_pong
    command 'x', examine
    command 'd', deadly_read
    command 'w', deadly_write
    command 'e', deadly_posted_write
    command 'q', leave_well
    jmp next_command

leave_well:
    pass
// What the PCI test function shows: identity, BAR 0, and a register where BAR 0 was put.
examine:
    config_read32 3, 0
    print "config "
    print_hex %eax
    config_read32 3, PCI_BAR0
    print " bar "
    print_hex %eax
    mov OWN_REGS + T_SCRATCH, %eax
    print " scratch "
    print_hex %eax
    print "\n"
    jmp next_command
// What a frail device dies of, and how often its scratch register and its doorbells have been written since.
deadly_read:
    mov OWN_REGS + T_DEADLY, %eax
    print "read "
    print_hex %eax
    print "\n"
    jmp next_command
deadly_write:
    movl $0x55667788, OWN_REGS + T_DEADLY
    print "written\n"
    jmp next_command
deadly_posted_write:
    mov OWN_REGS + T_POSTED_COUNT, %ebx
    movl $1, 0xe0001000 + 0x10
    movl $1, 0xe0001000 + T_BELL_DEADLY
    movl $1, 0xe0001000 + 0x20
    mov OWN_REGS + T_POSTED_COUNT, %eax
    print "posted\n"
    jmp next_command
say_pong:
    print "pong\n"
    jmp next_command

check_start:
    config_read32 3, PCI_BAR0
    expect "BAR 0", %eax, $REGS
    config_read16 3, PCI_COMMAND
    expect "command register", %eax, $0x103
    config_read16 3, MSI+2
    expect "MSI control", %eax, $0x0184
    config_read8 PIIX3, PIRQRC+2
    expect "PIRQRC", %eax, $11
    mov REGS + T_ACCESSES, %eax
    expect "accesses", %eax, $0
    expect "scratch register", REGS+T_SCRATCH, $0
    expect "interrupt status", REGS+T_INT_STATUS, $0
    expect "posted writes", REGS+T_POSTED_COUNT, $0
    expect "control bits", REGS+T_CONTROL, $3
    read_port8 COM2 + 7
    expect "SCR of the other serial port", %eax, $0
    read_port8 COM1 + 3
    expect "LCR", %eax, $0
    read_port8 0x92
    expect "port 92", %eax, $2
    read_port8 0xcf9
    expect "port CF9", %eax, $0
    read_port16 PM_BASE
    and $~1, %eax               // TMR_STS comes every 2.3 s, whatever else happens
    expect "PM1 status", %eax, $0
    read_port16 PM_BASE + 2
    expect "PM1 enable", %eax, $0
    read_port8 ELCR2
    expect "ELCR", %eax, $0x0e
    read_port8 PIC1 + 1
    expect "mask of the first PIC", %eax, $0
    movl $0x10 + 2 * 11, IOAPIC
    mov IOAPIC + 0x10, %eax
    and $IOAPIC_MASKED, %eax
    expect "IOAPIC pin 11 is masked", %eax, $IOAPIC_MASKED
    mov LAPIC + 0x80, %eax
    expect "task priority", %eax, $0
    ret

leave_marks:
    config_write32 3, PCI_BAR0, $OWN_REGS
    config_write16 3, PCI_COMMAND, $COMMAND_IO|COMMAND_MEMORY|COMMAND_MASTER
    movl $0x11223344, OWN_REGS + T_SCRATCH
    movl $0x22, LAPIC + 0x80
    write_port8 COM2 + 7, $0x77
    write_port8 COM1 + 3, $0x03
    push $0xffff
    call pic_init
    write_port8 ELCR2, $0x0a
    mov $PM_BASE + 2, %edx
    mov $0x0100, %eax
    out %ax, %dx
    ioapic_route 11, VECTOR, IOAPIC_LEVEL
    movl $0xffffffff, OWN_REGS + T_INT_RAISE            // asserted: interrupts are off
    config_write8 PIIX3, PIRQRC+2, $5
    config_write8 PIIX3, PIRQRC+2, $11
    config_write32 3, MSI+4, $LAPIC
    config_write16 3, MSI+12, $0x50
    config_write16 3, MSI+2, $0x21
    movl $0, OWN_REGS + T_MSI_SEND                      // and one message that nobody takes
    push $busy_cpu
    push $2
    call start_cpus
    ret

busy_cpu:
    incl OWN_REGS + T_SCRATCH + 4
    read_port8 COM2 + 7
    movl $1, OWN_REGS + 0x1000                          // where no BAR is
    movl $1, 0xe0001000                                 // a doorbell
    jmp busy_cpu

reset_by_cf9:
    write_port8 0xcf9, $0x02
    write_port8 0xcf9, $0x06
    jmp no_reset
reset_by_keyboard:
    write_port8 0x64, $0xfe
    jmp no_reset
reset_by_port_92:
    write_port8 0x92, $0x03
    jmp no_reset
reset_by_trc:                                           // turbo reset control of the 82441FX
    config_write8 0, 0x93, $0x02
    config_write8 0, 0x93, $0x06
// Not one instruction runs behind the one that resets.
no_reset:
    print "FAIL still here\n"
    mov $1, %eax
    jmp leave

triple_fault:
    mov $0x600df00d, %eax
    mov $0xcafef00d, %ebx
    lidt no_idt
    .globl faulting_instruction
faulting_instruction:
    ud2

// The x87 loads from a register, which KVM's emulator does not do; elsewhere it comes as a surprise, too.
not_emulated:
    mov $0xbadc0de5, %ecx
    lidt no_idt
    fldl OWN_REGS + T_SCRATCH
    jmp no_reset

// The power button sets PWRBTN_STS and, since PWRBTN_EN is set, asserts the SCI.
wait_for_button:
    print "waiting\n"
1:  pause
    read_port16 PM_BASE
    test $0x100, %eax
    jz 1b
    print "button\n"
soft_off:
    mov $PM_BASE + 4, %edx
    mov $0x2001, %eax
    out %ax, %dx
    jmp no_reset

wait_for_sci:
    movl $0, LAPIC + 0x80
    ioapic_route 11, VECTOR, IOAPIC_LEVEL|IOAPIC_MASKED
    ioapic_route 9, 0x49, IOAPIC_LEVEL
    on_interrupt 0x49, 2f
    print "waiting\n"
1:  sti
    hlt
    cli
    cmpl $0, count_of(0x49)
    je 1b
    print "SCI\n"
    read_port16 PM_BASE
    and $~1, %eax               // TMR_STS comes every 2.3 s, whatever else happens
    expect "PM1 status", %eax, $0
    jmp next_command
2:  mov $PM_BASE, %edx
    mov $0x100, %eax
    out %ax, %dx
    ret

// Looks at the VM's time until a byte comes, and says by how much it ever leapt.
clock:
    print "ticking\n"
    movl $0, longest
    movl $0, turns
    call read_time
    mov %eax, %ebx
1:  call read_time
    mov %eax, %ecx
    sub %ebx, %eax
    mov %ecx, %ebx
    cmp longest, %eax
    jbe 2f
    mov %eax, longest
2:  incl turns
    read_port8 COM1 + 5
    test $1, %al
    jz 1b
    print "longest "
    print_decimal longest
    print " of "
    print_decimal turns
    print "\n"
    jmp next_command
read_time:                      // %eax = microseconds; wraps after an hour
    mov OWN_REGS + T_TIME, %eax
    mov OWN_REGS + T_TIME + 4, %edx
    push %ecx
    mov $1000, %ecx
    push %eax
    mov %edx, %eax
    xor %edx, %edx
    div %ecx
    pop %eax
    div %ecx
    pop %ecx
    ret
