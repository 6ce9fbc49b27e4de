// BARs that move and overlap, first under the traffic of two CPUs, then case by case. PCI test functions in slots 3 and
// 7, three CPUs. RAM comes before every BAR, then what the chipset has fixed, then the lower function, then its lower
// BAR; what was refused takes hold by itself once its place is free.
#include "guest.inc"

.set A, 0xd0000000              // places of slot 3's BAR 0
.set B, 0xd4000000
.set BELLS_A, 0xd1000000        // ... BAR 1
.set BELLS_B, 0xd5000000
.set PORTS_A, 0xd000            // ... BAR 2
.set PORTS_B, 0xe000
.set REGS7, 0xd8000000
.set BELLS7, 0xd9000000
.set PORTS7, 0xd400
.set MOVES, 150

.set RAM, 0x00200000            // not used by this guest
.set PMBA, 0x40                 // of function 01.3
.set PM, 3

    .bss
    .balign 4
phase: .skip 4                  // what the other CPUs do: 0 nothing, 1 or 2
idle: .skip 4                   // CPUs that do nothing
next: .skip 4                   // the value that the counter gives next
hits: .skip 4
misses: .skip 4
wrong: .skip 4
wrong_value: .skip 4
posts: .skip 4                  // doorbell writes tried
ids: .skip 4
no_ids: .skip 4
saw3: .skip 4
saw7: .skip 4
saw_none: .skip 4

    .text
    .globl guest_main
guest_main:
    place_function 3, A, BELLS_A, PORTS_A
    place_function 7, REGS7, BELLS7, PORTS7
    movl $0x33333333, A + T_SCRATCH
    movl $0x77777777, REGS7 + T_SCRATCH
    mov $0x33333333, %eax
    mov $PORTS_A, %edx
    out %eax, %dx
    mov $0x77777777, %eax
    mov $PORTS7, %edx
    out %eax, %dx
    push $traffic
    push $3
    call start_cpus
    wait_for "idle CPUs", idle, $2
    done "set-up"
    call moves
    call overlap_under_traffic
    call sizing
    call over_ram
    call over_fixed_ports
    call over_pm_base
    call over_each_other
    call decoding_off
    ret

// The other CPUs: number 1 reads, number 2 writes.
traffic:
    lea reader, %ebp
    cmp $1, %eax
    je 1f
    lea writer, %ebp
1:  lock incl idle
2:  pause
    cmpl $0, phase
    je 2b
    lock decl idle
    call *%ebp
    jmp 1b

.macro note_wrong
    mov %eax, wrong_value
    lock incl wrong
.endm

reader:
    cmpl $2, phase
    je 5f
1:  .irp place, A, B
    mov \place + T_COUNTER, %eax
    cmp $0xffffffff, %eax
    je 2f
    cmp next, %eax
    je 3f
    note_wrong
3:  incl next
    incl hits
    jmp 4f
2:  incl misses
4:
    .endr
    cmpl $1, phase
    je 1b
    ret
// Slot 7's place, which slot 3's BAR covers at times: somebody always answers.
5:  mov REGS7 + T_SCRATCH, %eax
    cmp $0x33333333, %eax
    je 6f
    cmp $0x77777777, %eax
    je 7f
    note_wrong
6:  incl saw3
    jmp 8f
7:  incl saw7
8:  cmpl $2, phase
    je 5b
    ret

writer:
    cmpl $2, phase
    je 5f
1:  .irp place, BELLS_A, BELLS_B
    incl posts
    mov posts, %eax
    mov %eax, \place + 8
    .endr
    .irp place, PORTS_A, PORTS_B
    read_port32 \place + T_PORT_ID
    cmp $T_ID_VALUE, %eax
    je 2f
    cmp $0xffffffff, %eax
    je 3f
    note_wrong
3:  incl no_ids
    jmp 4f
2:  incl ids
4:
    .endr
    cmpl $1, phase
    je 1b
    ret
// Slot 3's other place.
5:  mov A + T_SCRATCH, %eax
    cmp $0x33333333, %eax
    je 6f
    cmp $0xffffffff, %eax
    je 7f
    note_wrong
6:  incl hits
    jmp 8f
7:  incl saw_none
8:  cmpl $2, phase
    je 5b
    ret

// Goes on moving, twenty rounds at most, until the other CPUs have met each case: they may not run all the time.
.macro until_seen again:req, counters:vararg
    .irp counter, \counters
    cmpl $0, \counter
    je 9f
    .endr
    jmp 8f
9:  mov $MOVES, %ecx
    dec %edi
    jnz \again
8:
.endm

.macro stop_traffic
    movl $0, phase
    wait_for "idle CPUs", idle, $2
.endm

moves:
    movl $1, phase
    mov $MOVES, %ecx
    mov $20, %edi
1:  config_write32 3, PCI_BAR0, $B
    config_write32 3, PCI_BAR1, $BELLS_B
    config_write32 3, PCI_BAR2, $PORTS_B
    test $1, %ecx
    jz 2f
    config_write16 3, PCI_COMMAND, $0       // every second time as the specification wants it
2:  config_write32 3, PCI_BAR0, $A
    config_write32 3, PCI_BAR1, $BELLS_A
    config_write32 3, PCI_BAR2, $PORTS_A
    config_write16 3, PCI_COMMAND, $COMMAND_IO|COMMAND_MEMORY
    dec %ecx
    jnz 1b
    until_seen 1b, hits, misses, ids, no_ids
    stop_traffic
    expect "answers that no register gives", wrong, $0
    mov A + T_COUNTER, %eax
    expect "reads that the function counted", hits, %eax
    cmpl $0, hits
    expect_flag "reads that were answered", nz
    cmpl $0, misses
    expect_flag "reads that were not", nz
    cmpl $0, ids
    expect_flag "ports that were answered", nz
    cmpl $0, no_ids
    expect_flag "ports that were not", nz
    mov A + T_POSTED_COUNT, %eax
    test %eax, %eax
    expect_flag "doorbells that rang", nz
    cmp posts, %eax
    expect_flag "not more than were written", be
    mov A + T_LAST_POSTED, %eax
    cmp posts, %eax
    expect_flag "the last that rang", be
    // Where nothing is any more.
    mov B + T_ID, %eax
    expect "the other place", %eax, $0xffffffff
    read_port32 PORTS_B + T_PORT_ID
    expect "the other ports", %eax, $0xffffffff
    done "moves under traffic"
    ret

overlap_under_traffic:
    movl $0, hits
    movl $2, phase
    mov $MOVES, %ecx
    mov $20, %edi
1:  config_write32 3, PCI_BAR0, $REGS7
    config_write32 3, PCI_BAR0, $A
    dec %ecx
    jnz 1b
    until_seen 1b, saw3, saw7, hits, saw_none
    stop_traffic
    expect "answers of neither", wrong, $0
    cmpl $0, saw3
    expect_flag "the lower function, in front", nz
    cmpl $0, saw7
    expect_flag "the higher one, in the open", nz
    cmpl $0, hits
    expect_flag "the lower one at its own place", nz
    cmpl $0, saw_none
    expect_flag "nobody there", nz
    done "overlap under traffic"
    ret

// Sizes are read while decoding is on, as careless software does: the window goes away and comes back.
sizing:
    config_write32 3, PCI_BAR0, $0xffffffff
    config_read32 3, PCI_BAR0
    expect "size of BAR 0", %eax, $0xfffff000
    mov 0xfffff000 + T_ID, %eax
    expect "what belongs to the chipset", %eax, $0xffffffff
    mov A + T_ID, %eax
    expect "BAR 0 is not here", %eax, $0xffffffff
    config_write32 3, PCI_BAR0, $A
    mov A + T_ID, %eax
    expect "BAR 0 is back", %eax, $T_ID_VALUE
    config_write32 3, PCI_BAR2, $0xffffffff
    config_read32 3, PCI_BAR2
    expect "size of BAR 2", %eax, $0xffffffc1
    config_write32 3, PCI_BAR2, $PORTS_A
    config_write32 3, PCI_BAR4, $0xffffffff
    config_write32 3, PCI_BAR4+4, $0xffffffff
    config_read32 3, PCI_BAR4
    expect "size of BAR 4", %eax, $0xfffff004
    config_read32 3, PCI_BAR4+4
    expect "size of BAR 4, high", %eax, $0xffffffff
    config_write32 3, PCI_BAR4, $0
    config_write32 3, PCI_BAR4+4, $0
    read_port32 PORTS_A
    expect "BAR 2 is back", %eax, $0x33333333
    done "sizing"
    ret

over_ram:
    movl $0xfeedface, RAM
    movl $0, RAM + T_SCRATCH
    config_write32 3, PCI_BAR0, $RAM
    config_read32 3, PCI_BAR0
    expect "BAR 0 as written", %eax, $RAM
    mov RAM, %eax
    expect "RAM below BAR 0", %eax, $0xfeedface
    movl $0x600d600d, RAM + T_SCRATCH
    config_write32 3, PCI_BAR0, $IOAPIC
    movl $1, IOAPIC
    mov IOAPIC + 0x10, %eax
    and $0xff00ff, %eax
    expect "version of the IOAPIC", %eax, $0x170011
    config_write32 3, PCI_BAR0, $LAPIC
    mov LAPIC + LAPIC_SVR, %eax
    expect "the local APIC", %eax, $0x1ff
    config_write32 3, PCI_BAR0, $A
    mov A + T_SCRATCH, %eax
    expect "what was written was not for the function", %eax, $0x33333333
    mov RAM + T_SCRATCH, %eax
    expect "but for RAM", %eax, $0x600d600d
    done "over RAM and interrupt controllers"
    ret

over_fixed_ports:
    write_port8 COM1 + 7, $0x5c
    config_write32 3, PCI_BAR2, $0x3c0      // 3C0h-3FFh; COM1 is at its end
    read_port8 COM1 + 7
    expect "the serial port", %eax, $0x5c
    read_port32 0x3c0
    expect "none of BAR 2, not even in front of it", %eax, $0xffffffff
    config_write32 3, PCI_BAR2, $PORTS_A
    read_port32 PORTS_A
    expect "BAR 2 in the open", %eax, $0x33333333
    done "over fixed ports"
    ret

// The PM block belongs to function 01.3, which comes before slot 3. It is this guest's clock, too.
over_pm_base:
    config_write32 3, PCI_BAR2, $PM_BASE
    read_port32 PM_BASE + T_PORT_ID
    cmp $T_ID_VALUE, %eax
    expect_flag "the PM block is in front", ne
    config_write32 1, PMBA, $0x701, PM
    read_port32 PM_BASE + T_PORT_ID
    expect "BAR 2, where the PM block was", %eax, $T_ID_VALUE
    read_port16 0x704
    expect "the PM block's new place: SCI_EN", %eax, $1
    config_write32 1, PMBA, $PM_BASE+1, PM
    read_port16 PM_BASE + 4
    expect "the PM block is back", %eax, $1
    read_port16 0x704
    expect "and not there any more", %eax, $0xffff
    config_write32 3, PCI_BAR2, $PORTS_A
    done "over the PM base"
    ret

over_each_other:
    config_write32 7, PCI_BAR2, $PORTS_A
    read_port32 PORTS_A
    expect "the lower function's ports", %eax, $0x33333333
    config_write16 3, PCI_COMMAND, $COMMAND_MEMORY
    read_port32 PORTS_A
    expect "the higher one's, when the lower has none", %eax, $0x77777777
    config_write16 3, PCI_COMMAND, $COMMAND_IO|COMMAND_MEMORY
    read_port32 PORTS_A
    expect "and the lower one's again", %eax, $0x33333333
    config_write32 7, PCI_BAR2, $PORTS7
    read_port32 PORTS7
    expect "the higher function's ports", %eax, $0x77777777
    config_write32 3, PCI_BAR1, $A          // BARs 0 and 1 of one function
    mov A + T_ID, %eax
    expect "BAR 0 in front of BAR 1", %eax, $T_ID_VALUE
    config_write32 3, PCI_BAR0, $B
    mov A + T_POSTED_COUNT, %ebx
    mov B + T_POSTED_COUNT, %eax
    expect "BAR 1 in the open", %ebx, %eax
    config_write32 3, PCI_BAR0, $A
    config_write32 3, PCI_BAR1, $BELLS_A
    done "over each other"
    ret

decoding_off:
    config_write16 3, PCI_COMMAND, $COMMAND_IO
    mov A + T_ID, %eax
    expect "memory off", %eax, $0xffffffff
    read_port32 PORTS_A + T_PORT_ID
    expect "ports on", %eax, $T_ID_VALUE
    config_write16 3, PCI_COMMAND, $COMMAND_MEMORY
    mov A + T_ID, %eax
    expect "memory on", %eax, $T_ID_VALUE
    read_port32 PORTS_A + T_PORT_ID
    expect "ports off", %eax, $0xffffffff
    config_write32 3, PCI_BAR0, $0          // an address that no BAR takes
    config_write16 3, PCI_COMMAND, $COMMAND_IO|COMMAND_MEMORY
    mov A + T_ID, %eax
    expect "BAR 0 without an address", %eax, $0xffffffff
    config_write32 3, PCI_BAR0, $A
    mov A + T_SCRATCH, %eax
    expect "nothing was lost", %eax, $0x33333333
    done "decoding off"
    ret
