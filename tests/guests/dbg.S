#include "guest.inc"
.set REGS3, 0xd0000000
    .text
    .globl guest_main
guest_main:
    place_function 3, REGS3, REGS3+0x1000, 0xd000
    push $0xffff
    call pic_init
    on_interrupt 0x4b, hook
    ioapic_route 11, 0x4b, IOAPIC_LEVEL
    sti
    movl $0x100, REGS3 + T_INT_RAISE
    wait_ms 3
    print_decimal count_of(0x4b)
    print " count\n"
    ret
hook:
    mov REGS3 + T_INT_STATUS, %eax
    mov %eax, REGS3 + T_INT_STATUS
    ret
