// Works with every device in turn, and expects each answer to be exactly what a device that never died gives: counters
// that count each access once, registers that hold what was written last. A second CPU does so at the same time on the
// same device process. Goes on until the test sends a byte.
// The PCI test function is in slot 3.
#include "guest.inc"

.set REGS, 0xd0000000
.set OTHER_REGS, 0xd0100000
.set BELLS, 0xd0001000
.set PORTS, 0xd000
.set MSI, 0x48
.set VECTOR, 0x50
.set W_BAR, 0x80                // VIRTIO_PCI_CAP_PCI_CFG
.set W_OFFSET, 0x84
.set W_LENGTH, 0x88
.set W_DATA, 0x8c
.set ALL_ON, COMMAND_IO|COMMAND_MEMORY|COMMAND_MASTER

    .bss
    .balign 4
rounds: .skip 4
second_rounds: .skip 4
wrong: .skip 4                  // what the second CPU found wrong
posted: .skip 4

    .text
    .globl guest_main
guest_main:
    place_function 3, REGS, BELLS, PORTS, ALL_ON
    config_write32 3, MSI + 4, $LAPIC
    config_write16 3, MSI + 12, $VECTOR
    config_write16 3, MSI + 2, $0x21
    push $second_cpu
    push $2
    call start_cpus
    sti
    print "@running\n"
round:
    call on_pci
    call on_platform
    call on_function
    call on_both
    incl rounds
    read_port8 COM1 + 5
    test $1, %al
    jz round
    read_port8 COM1
    expect "what the other CPU found wrong", wrong, $0
    print "rounds "
    print_decimal rounds
    print " and "
    print_decimal second_rounds
    print "\n"
    ret

// A BAR that moves there and back, and the routing of an interrupt.
on_pci:
    mov rounds, %ebx
    mov %ebx, REGS + T_SCRATCH
    config_write32 3, PCI_BAR0, $OTHER_REGS
    expect "register where its BAR has gone", OTHER_REGS + T_SCRATCH, %ebx
    expect "where the BAR was", REGS + T_SCRATCH, $0xffffffff
    config_read32 3, PCI_BAR0
    expect "BAR 0", %eax, $OTHER_REGS
    config_write32 3, PCI_BAR0, $REGS
    expect "register after the BAR's return", REGS + T_SCRATCH, %ebx
    config_write8 PIIX3, PIRQRC + 1, $5
    config_read8 PIIX3, PIRQRC + 1
    expect "PIRQRC", %eax, $5
    config_write8 PIIX3, PIRQRC + 1, $10
    config_read8 PIIX3, PIRQRC + 1
    expect "PIRQRC again", %eax, $10
    ret

// Serial port, real-time clock, keyboard controller, power management.
on_platform:
    movzbl rounds, %ebx
    write_port8 COM2 + 3, $0x1b
    write_port8 COM2 + 4, $0x0b
    write_port8 0x70, $0x50
    write_port8 0x71, %ebx
    write_port8 0x70, $0x0b
    read_port8 0x71
    expect "register B", %eax, $0x02
    write_port8 0x70, $0x50
    read_port8 0x71
    expect "NVRAM", %eax, %ebx
    read_port8 COM2 + 3
    expect "LCR", %eax, $0x1b
    write_port8 COM2 + 3, $0x03
    read_port8 COM2 + 3
    expect "LCR again", %eax, $0x03
    write_port8 0x64, $0x60                             // a command of two bytes: write the command byte
    write_port8 0x60, $0x74
    write_port8 0x64, $0x20
    call from_keyboard
    expect "command byte", %eax, $0x74
    write_port8 0x64, $0x60
    write_port8 0x60, $0x64
    write_port8 0x64, $0x20
    call from_keyboard
    expect "command byte again", %eax, $0x64
    mov $PM_BASE + 2, %edx
    mov $0x0120, %eax
    out %ax, %dx
    xor %eax, %eax
    in %dx, %ax
    expect "PM1 enable", %eax, $0x0120
    mov $0x0100, %eax
    out %ax, %dx
    in %dx, %ax
    expect "PM1 enable again", %eax, $0x0100
    ret

// %eax = the byte that is in the output buffer. It is there at once: nothing is slow here but what is emulated.
from_keyboard:
    read_port8 0x64
    and $1, %eax
    expect "output buffer full", %eax, $1
    read_port8 0x60
    ret

// Reads that count, writes that nobody waits for, and a message interrupt.
on_function:
    mov REGS + T_POSTED_COUNT, %eax
    expect "posted writes until now", %eax, posted
    movl $7, REGS + T_COUNTER
    .irp count, 7, 8, 9, 10
    mov REGS + T_COUNTER, %eax
    expect "counter", %eax, $\count
    .endr
    .irp value, 1, 2, 3, 4, 5
    movl $\value, BELLS + 8 * \value
    .endr
    addl $5, posted
    mov REGS + T_POSTED_COUNT, %eax
    expect "posted writes", %eax, posted
    expect "last posted write", REGS + T_LAST_POSTED, $5
    movl $0, count_of(VECTOR)
    movl $0, REGS + T_MSI_SEND
    wait_for_more "message interrupt", count_of(VECTOR), $1
    ret

// Registers of the function through its configuration space: an access of `pci`, then one of the function, each once.
on_both:
    config_write8 3, W_BAR, $0
    config_write32 3, W_OFFSET, $T_COUNTER
    config_write32 3, W_LENGTH, $4
    config_write32 3, W_DATA, $100
    .irp count, 100, 101, 102
    config_read32 3, W_DATA
    expect "counter through configuration space", %eax, $\count
    .endr
    config_write8 3, W_BAR, $1
    .irp value, 1, 2, 3
    config_write32 3, W_DATA, $\value
    .endr
    addl $3, posted
    mov REGS + T_POSTED_COUNT, %eax
    expect "posted writes through configuration space", %eax, posted
    expect "the last of them", REGS + T_LAST_POSTED, $3
    ret

second_cpu:
    mov $0, %ebp
1:  inc %ebp
    mov %ebp, %eax
    mov $COM2 + 7, %edx
    out %al, %dx
    mov $PORTS + T_PORT_COUNTER, %edx
    out %eax, %dx
    in %dx, %eax
    cmp %ebp, %eax
    jne 2f
    in %dx, %eax
    dec %eax
    cmp %ebp, %eax
    jne 2f
    mov $COM2 + 7, %edx
    in %dx, %al
    mov %ebp, %ecx
    cmp %cl, %al
    jne 2f
    incl second_rounds
    jmp 1b
2:  incl wrong
    jmp 1b
