// Legacy interrupts: level INTx through the IOAPIC and the PICs, shared on one pin and through two, masked at each
// place that can mask, re-routed by the PIIX3. PCI test functions in slots 3 and 7, which share PIRQC#, and in slot 4,
// which has PIRQD#; firmware routes both to IRQ 11.
#include "guest.inc"

.set REGS3, 0xd0000000
.set REGS4, 0xd0010000
.set REGS7, 0xd0020000
.set BELLS, 0x1000
.set PORTS3, 0xd000

.set VECTOR_5, 0x45
.set VECTOR_10, 0x4a
.set VECTOR_11, 0x4b
.set PIC_VECTOR_11, 0x2b
.set PIC_VECTOR_5, 0x25

    .bss
served: .skip 12                // times that a handler found slots 3, 4, 7 asserting
patience: .skip 4

    .text
    .globl guest_main
guest_main:
    config_read8 3, PCI_INTERRUPT_LINE
    expect "interrupt line of slot 3", %eax, $11
    config_read8 PIIX3, PIRQRC+2
    expect "route of PIRQC#", %eax, $11
    read_port8 ELCR1
    expect "ELCR, IRQ 0-7", %eax, $0
    read_port8 ELCR2
    expect "ELCR, IRQ 8-15: 9, 10 and 11 are level", %eax, $0x0e
    place_function 3, REGS3, REGS3+BELLS, PORTS3
    place_function 4, REGS4, REGS4+BELLS, PORTS3+0x100
    place_function 7, REGS7, REGS7+BELLS, PORTS3+0x200
    done "set-up"
    push $0xffff
    call pic_init
    ioapic_route 5, VECTOR_5, IOAPIC_LEVEL
    ioapic_route 10, VECTOR_10, IOAPIC_LEVEL
    ioapic_route 11, VECTOR_11, IOAPIC_LEVEL
    call handle_all
    sti
    call look_for_early_eoi
    call one_source
    call shared
    call insistent
    call masked
    call pic
    call rerouting
    call rerouting_under_fire
    ret

handle_all:
    .irp vector, VECTOR_5, VECTOR_10, VECTOR_11, PIC_VECTOR_5, PIC_VECTOR_11
    on_interrupt \vector, serve_all
    .endr
    ret

// Takes what slot's function asserts away, as its driver would. %eax = 0: it was another's interrupt.
.macro serve regs:req, index:req
    mov \regs + T_INT_STATUS, %eax
    test %eax, %eax
    jz .Lnone\@
    mov %eax, \regs + T_INT_STATUS
    incl served + 4 * \index
.Lnone\@:
.endm

serve_all:
    serve REGS3, 0
    serve REGS4, 1
    serve REGS7, 2
    ret

// Of those on IRQ 5, while slot 4 is elsewhere: where EOIs come early, so may an interrupt for nothing.
serve_3_and_7:
    serve REGS3, 0
    serve REGS7, 2
    ret

// As if each function's driver had its turn in another interrupt.
serve_one:
    serve REGS3, 0
    test %eax, %eax
    jnz 1f
    serve REGS4, 1
    test %eax, %eax
    jnz 1f
    serve REGS7, 2
1:  ret

// Takes nothing away until the fifth time.
serve_late:
    decl patience
    jz serve_all
    ret

.macro clear_counts
    movl $0, count_of(VECTOR_5)
    movl $0, count_of(VECTOR_10)
    movl $0, count_of(VECTOR_11)
    movl $0, count_of(PIC_VECTOR_5)
    movl $0, count_of(PIC_VECTOR_11)
    movl $0, served
    movl $0, served + 4
    movl $0, served + 8
.endm

// `count` interrupts came at `vector`, and no more come. Where a level may come once more for nothing (early_eoi), at
// least so many; none is none everywhere.
.macro expect_count what:req, vector:req, count:req
    wait_for_more "\what", count_of(\vector), $\count
    wait_ms 3
    push $\count
    push $count_of(\vector)
    push $9f
    call check_count
    .pushsection .rodata
9:  .asciz "\what"
    .popsection
.endm
.macro expect_served what:req, slot3:req, slot4:req, slot7:req
    expect "\what: slot 3", served, $\slot3
    expect "\what: slot 4", served+4, $\slot4
    expect "\what: slot 7", served+8, $\slot7
.endm

// check_count(what, address, count)
check_count:
    mov 8(%esp), %eax
    mov (%eax), %eax
    cmp 12(%esp), %eax
    je 1f
    cmpl $0, early_eoi
    je 2f
    cmpl $0, 12(%esp)
    je 2f
1:  ret $12
2:  pushl 12(%esp)
    push %eax
    pushl 12(%esp)
    call mismatch

one_source:
    clear_counts
    // Where EOIs come early the count may be ahead of what was served, and two causes would be served as one.
    movl $0x100, REGS3 + T_INT_RAISE
    wait_for "served by register", served, $1
    expect_count "by register", VECTOR_11, 1
    movl $0x200, REGS3 + BELLS + T_BELL_RAISE
    wait_for "served by doorbell", served, $2
    expect_count "by doorbell", VECTOR_11, 2
    mov $0x400, %eax
    mov $PORTS3 + T_PORT_RAISE, %edx
    out %eax, %dx
    wait_for "served by port", served, $3
    expect_count "by port", VECTOR_11, 3
    movl $1000000, REGS3 + T_TIMER_DELAY
    wait_for "served by timer", served, $4
    expect_count "by timer", VECTOR_11, 4
    mov REGS3 + T_TIMER_FIRED, %eax
    expect "timers", %eax, $1
    expect_served "one source", 4, 0, 0
    done "one source"
    ret

shared:
    // Both handled in one interrupt.
    clear_counts
    cli
    movl $0x100, REGS3 + T_INT_RAISE
    movl $0x100, REGS7 + T_INT_RAISE
    sti
    wait_ms 3
    expect_served "one pin, one handler", 1, 0, 1
    // The one that is left asserts again after EOI, on the same pin and through the other PIRQ.
    on_interrupt VECTOR_11, serve_one
    clear_counts
    cli
    movl $0x100, REGS3 + T_INT_RAISE
    movl $0x100, REGS7 + T_INT_RAISE
    sti
    expect_count "two on one pin", VECTOR_11, 2
    expect_served "two on one pin", 1, 0, 1
    clear_counts
    cli
    movl $0x100, REGS4 + T_INT_RAISE
    movl $0x100, REGS3 + T_INT_RAISE
    movl $0x100, REGS7 + T_INT_RAISE
    sti
    expect_count "three on two pins", VECTOR_11, 3
    expect_served "three on two pins", 1, 1, 1
    call handle_all
    // Many times in turns: none is lost.
    clear_counts
    mov $20, %ebx
1:  movl $1, REGS4 + T_INT_RAISE
    movl $1, REGS7 + T_INT_RAISE
    movl $1, REGS3 + T_INT_RAISE
    wait_for "slot 3 in turns", REGS3 + T_INT_STATUS, $0
    wait_for "slot 4 in turns", REGS4 + T_INT_STATUS, $0
    wait_for "slot 7 in turns", REGS7 + T_INT_STATUS, $0
    dec %ebx
    jnz 1b
    expect_served "in turns", 20, 20, 20
    done "shared"
    ret

// A level is there until its source is taken away.
insistent:
    clear_counts
    movl $5, patience
    on_interrupt VECTOR_11, serve_late
    movl $0x100, REGS3 + T_INT_RAISE
    expect_count "a source that was left alone", VECTOR_11, 5
    call handle_all
    done "insistent"
    ret

masked:
    clear_counts
    movl $0x100, REGS3 + T_INT_MASK
    movl $0x100, REGS3 + T_INT_RAISE
    expect_count "masked in the function", VECTOR_11, 0
    movl $0, REGS3 + T_INT_MASK
    expect_count "unmasked in the function", VECTOR_11, 1
    clear_counts
    config_write16 3, PCI_COMMAND, $COMMAND_IO|COMMAND_MEMORY|COMMAND_INTX_DISABLE
    movl $0x100, REGS3 + T_INT_RAISE
    expect_count "INTx disabled", VECTOR_11, 0
    config_write16 3, PCI_COMMAND, $COMMAND_IO|COMMAND_MEMORY
    expect_count "INTx enabled", VECTOR_11, 1
    clear_counts
    ioapic_route 11, VECTOR_11, IOAPIC_LEVEL|IOAPIC_MASKED
    movl $0x100, REGS3 + T_INT_RAISE
    expect_count "masked in the IOAPIC", VECTOR_11, 0
    ioapic_route 11, VECTOR_11, IOAPIC_LEVEL
    expect_count "unmasked in the IOAPIC", VECTOR_11, 1
    expect_served "masked", 1, 0, 0
    done "masked"
    ret

pic:
    clear_counts
    ioapic_route 11, VECTOR_11, IOAPIC_LEVEL|IOAPIC_MASKED
    write_port8 PIC1 + 1, $0xfb     // the cascade
    write_port8 PIC2 + 1, $0xf7     // IRQ 11
    movl $0x100, REGS3 + T_INT_RAISE
    expect_count "through the PICs", PIC_VECTOR_11, 1
    on_interrupt PIC_VECTOR_11, serve_one
    cli
    movl $0x100, REGS3 + T_INT_RAISE
    movl $0x100, REGS4 + T_INT_RAISE
    movl $0x100, REGS7 + T_INT_RAISE
    sti
    expect_count "three through the PICs", PIC_VECTOR_11, 4
    expect_served "three through the PICs", 2, 1, 1
    movl $3, patience
    on_interrupt PIC_VECTOR_11, serve_late
    movl $0x100, REGS7 + T_INT_RAISE
    expect_count "left alone, through the PICs", PIC_VECTOR_11, 7
    // PIRQC# to IRQ 5, whose level ELCR has to allow.
    call handle_all
    write_port8 PIC2 + 1, $0xff
    write_port8 PIC1 + 1, $0xdb
    write_port8 ELCR1, $0x20
    on_interrupt PIC_VECTOR_5, serve_3_and_7
    on_interrupt VECTOR_5, serve_3_and_7
    on_interrupt PIC_VECTOR_11, serve_3_and_7
    on_interrupt VECTOR_11, serve_3_and_7
    config_write8 PIIX3, PIRQRC+2, $5
    movl $0x100, REGS3 + T_INT_RAISE
    movl $0x100, REGS7 + T_INT_RAISE
    wait_for "slot 3 on IRQ 5", REGS3 + T_INT_STATUS, $0
    wait_for "slot 7 on IRQ 5", REGS7 + T_INT_STATUS, $0
    movl $0x100, REGS4 + T_INT_RAISE
    wait_ms 3
    expect "slot 4 is still on IRQ 11, masked", served+4, $1
    call handle_all
    write_port8 PIC1 + 1, $0xdb
    write_port8 PIC2 + 1, $0xf7
    wait_for "slot 4 on IRQ 11", REGS4 + T_INT_STATUS, $0
    config_write8 PIIX3, PIRQRC+2, $11
    write_port8 PIC1 + 1, $0xff
    write_port8 PIC2 + 1, $0xff
    ioapic_route 11, VECTOR_11, IOAPIC_LEVEL
    done "pic"
    ret

rerouting:
    clear_counts
    config_write8 PIIX3, PIRQRC+2, $5
    config_read8 PIIX3, PIRQRC+2
    expect "PIRQRC", %eax, $5
    movl $0x100, REGS3 + T_INT_RAISE
    expect_count "PIRQC# on IRQ 5", VECTOR_5, 1
    clear_counts
    movl $0x100, REGS7 + T_INT_RAISE
    expect_count "the other function of PIRQC#", VECTOR_5, 1
    expect_count "PIRQC#, at its old place", VECTOR_11, 0
    movl $0x100, REGS4 + T_INT_RAISE
    expect_count "PIRQD# stays on IRQ 11", VECTOR_11, 1
    // Asserted when its route changes: it is seen at the new place, and no longer at the old one.
    clear_counts
    ioapic_route 5, VECTOR_5, IOAPIC_LEVEL|IOAPIC_MASKED
    movl $0x100, REGS3 + T_INT_RAISE
    movl $0x100, REGS7 + T_INT_RAISE
    wait_ms 2
    config_write8 PIIX3, PIRQRC+2, $10
    wait_for "slot 3, moved while asserted", REGS3 + T_INT_STATUS, $0
    wait_for "slot 7, moved while asserted", REGS7 + T_INT_STATUS, $0
    wait_ms 2
    ioapic_route 5, VECTOR_5, IOAPIC_LEVEL
    expect_count "the old place after the move", VECTOR_5, 0
    expect_served "moved while asserted", 1, 0, 1
    // Routed nowhere.
    clear_counts
    config_write8 PIIX3, PIRQRC+2, $0x80
    movl $0x100, REGS3 + T_INT_RAISE
    expect_count "PIRQC# off, IRQ 10", VECTOR_10, 0
    expect_count "PIRQC# off, IRQ 5", VECTOR_5, 0
    expect_count "PIRQC# off, IRQ 11", VECTOR_11, 0
    config_write8 PIIX3, PIRQRC+2, $11
    expect_count "PIRQC# on again", VECTOR_11, 1
    expect_served "off and on", 1, 0, 0
    done "re-routing"
    ret

// The route changes while interrupts are on their way; each is served in the end.
rerouting_under_fire:
    clear_counts
    mov $60, %ebx
1:  movl $1, REGS3 + T_INT_RAISE
    config_write8 PIIX3, PIRQRC+2, $5
    movl $1, REGS7 + T_INT_RAISE
    movl $1, REGS4 + T_INT_RAISE
    config_write8 PIIX3, PIRQRC+2, $10
    wait_for "slot 3 under fire", REGS3 + T_INT_STATUS, $0
    wait_for "slot 7 under fire", REGS7 + T_INT_STATUS, $0
    config_write8 PIIX3, PIRQRC+2, $11
    wait_for "slot 4 under fire", REGS4 + T_INT_STATUS, $0
    dec %ebx
    jnz 1b
    wait_ms 3
    expect_served "under fire", 60, 60, 60
    // And nothing is stuck: one more comes once.
    clear_counts
    movl $1, REGS3 + T_INT_RAISE
    expect_count "after the fire", VECTOR_11, 1
    expect_count "after the fire, IRQ 10", VECTOR_10, 0
    done "re-routing under fire"
    ret
