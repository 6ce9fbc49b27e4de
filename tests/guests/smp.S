// Start-up of application processors by INIT and SIPI, interrupts between CPUs, and one device that all of them use at
// once. The command line is the number of CPUs, 1 to 32.
#include "guest.inc"

.set REGS, 0xd0000000
.set IPI_VECTOR, 0x51
.set ALL_VECTOR, 0x52
.set READS, 200                 // of each CPU
.set ADDITIONS, 300             // of each CPU

    .bss
cpus: .skip 4
apic_ids: .skip 4               // one bit for each id that was seen
restarts: .skip 4
go: .skip 4
finished: .skip 4
sum: .skip 4
wrong: .skip 4
broadcasts: .skip 4
seen: .skip (READS * 32 + 7) / 8 + 4

    .text
    .globl guest_main
guest_main:
    place_function 3, REGS, REGS+0x1000, 0xd000
    command_line
    xor %eax, %eax
1:  movzbl (%esi), %ecx
    sub $'0', %ecx
    jb 2f
    imul $10, %eax, %eax
    add %ecx, %eax
    inc %esi
    jmp 1b
2:  mov %eax, cpus
    call note_apic_id
    push $other_cpu
    pushl cpus
    call start_cpus
    mov $32, %ecx
    sub cpus, %ecx
    mov $-1, %ebx
    shr %cl, %ebx
    wait_for "APIC ids", apic_ids, %ebx
    wait_ms 5
    mov cpus, %eax
    expect "processors in the end", cpus_started, %eax
    done "start-up"
    call one_by_one
    call everybody
    call in_common
    call again
    ret

// Sets this CPU's bit, and counts in `wrong` when CPUID names another than the local APIC does.
note_apic_id:
    pushal
    mov LAPIC + LAPIC_ID, %edi
    shr $24, %edi
    mov $1, %eax
    cpuid
    shr $24, %ebx
    cmp %edi, %ebx
    je 1f
    lock incl wrong
1:  lock btsl %edi, apic_ids
    popal
    ret

other_cpu:
    call note_apic_id
1:  cmpl $0, go
    jne 2f
    sti
    hlt
    cli
    jmp 1b
2:  call work
    movl $0, %eax
3:  sti
    hlt
    jmp 3b

// An interrupt for each CPU in turn.
one_by_one:
    mov $1, %ebx
1:  cmp cpus, %ebx
    jae 2f
    movl $0, count_of(IPI_VECTOR)
    mov %ebx, %eax
    shl $24, %eax
    mov %eax, LAPIC + LAPIC_ICR_HIGH
    movl $0x4000 | IPI_VECTOR, LAPIC + LAPIC_ICR
    wait_for "interrupt for one CPU", count_of(IPI_VECTOR), $1
    expect "who took it", interrupt_cpus+4*IPI_VECTOR, %ebx
    inc %ebx
    jmp 1b
2:  done "one by one"
    ret

everybody:
    on_interrupt ALL_VECTOR, 1f
    sti
    mov $20, %ecx
    mov cpus, %ebx
2:  movl $0, broadcasts
    movl $0x00084000 | ALL_VECTOR, LAPIC + LAPIC_ICR    // all including self
    wait_for "interrupt for all", broadcasts, %ebx
    loop 2b
    cli
    done "everybody"
    ret
1:  lock incl broadcasts
    ret

// Every CPU reads a counter that counts its reads: each value is seen once.
work:
    mov $READS, %ecx
1:  mov REGS + T_COUNTER, %eax
    cmp $READS * 32, %eax
    jae 2f
    lock btsl %eax, seen
    jnc 3f
2:  lock incl wrong
3:  loop 1b
    mov $ADDITIONS, %ecx
4:  lock addl $3, sum
    loop 4b
    lock incl finished
    ret

in_common:
    movl $1, go
    movl $0x000c4000 | IPI_VECTOR, LAPIC + LAPIC_ICR    // wakes the others
    call work
    mov cpus, %ebx
    wait_for "processors that finished", finished, %ebx
    expect "values that came twice, and ids that differ", wrong, $0
    mov cpus, %eax
    imul $READS, %eax, %eax
    mov REGS + T_COUNTER, %ebx
    expect "reads", %ebx, %eax
    mov cpus, %eax
    imul $3 * ADDITIONS, %eax, %eax
    expect "locked additions", sum, %eax
    done "in common"
    ret

// INIT takes a CPU out of whatever it does; it starts anew.
again:
    movl $0, go
    movl $1, cpus_started
    movl $1, apic_ids
    push $once_more
    pushl cpus
    call start_cpus
    mov cpus, %ebx
    dec %ebx
    wait_for "processors that started again", restarts, %ebx
    done "again"
    ret
once_more:
    lock incl restarts
1:  hlt
    jmp 1b
