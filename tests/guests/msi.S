// Message interrupts of the PCI test function in slot 3: MSI with four vectors, MSI-X with eight; masks, pending bits,
// targets, and messages that a posted write, a timer or a finished copy sends. Two CPUs.
#include "guest.inc"

.set REGS, 0xd0000000
.set BELLS, 0xd0001000
.set TABLE, 0xd0002000          // BAR 4: MSI-X table, pending bits in its upper half
.set PENDING, TABLE + 0x800
.set PORTS, 0xd000

.set PM, 0x40                   // capabilities, where find_capability has to find them
.set MSI, 0x48
.set MSIX, 0x60
.set MSI_CONTROL, MSI + 2
.set MSI_ADDRESS, MSI + 4
.set MSI_ADDRESS_HIGH, MSI + 8
.set MSI_DATA, MSI + 12
.set MSI_MASK, MSI + 16
.set MSI_PENDING, MSI + 20
.set MSIX_CONTROL, MSIX + 2

.set ALL_ON, COMMAND_IO|COMMAND_MEMORY|COMMAND_MASTER
.set INTX_VECTOR, 0x4b
.set MSI_VECTOR, 0x50           // and the next three
.set MSIX_VECTOR, 0x60          // and the next seven

    .bss
source: .skip 4096
target: .skip 4096
last_of_target: .skip 4

    .text
    .globl guest_main
guest_main:
    push $wait_for_interrupts
    push $2
    call start_cpus
    place_function 3, REGS, BELLS, PORTS
    config_write32 3, PCI_BAR4, $TABLE
    config_write32 3, PCI_BAR4+4, $0
    find_capability 3, CAP_MSI
    expect "place of the MSI capability", %eax, $MSI
    find_capability 3, CAP_MSIX
    expect "place of the MSI-X capability", %eax, $MSIX
    ioapic_route 11, INTX_VECTOR, IOAPIC_LEVEL
    sti
    call msi
    call msi_masks
    call msi_targets
    call msi_off
    call msix
    call msix_masks
    call msix_table
    call other_senders
    call d3hot
    ret

wait_for_interrupts:
    sti
    hlt
    jmp wait_for_interrupts

// Exactly `count` messages came at `vector`, and no more come.
.macro expect_count what:req, vector:req, count:req
    wait_for "\what", count_of(\vector), $\count
    wait_ms 2
    expect "\what: later", count_of(\vector), $\count
.endm
.macro clear_counts first:req
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7
    movl $0, count_of(\first + \vector)
    .endr
.endm

msi:
    config_read16 3, MSI_CONTROL
    expect "MSI control: four vectors, 64 bits, maskable", %eax, $0x0184
    movl $0, REGS + T_MSI_SEND
    expect_count "MSI off", MSI_VECTOR, 0
    config_write32 3, MSI_ADDRESS, $LAPIC
    config_write16 3, MSI_DATA, $MSI_VECTOR
    config_write16 3, MSI_CONTROL, $0x21     // four vectors, on
    movl $0, REGS + T_MSI_SEND
    expect_count "no bus master", MSI_VECTOR, 0
    config_write16 3, PCI_COMMAND, $ALL_ON
    expect_count "before any", MSI_VECTOR, 0
    movl $0, REGS + T_MSI_SEND
    expect_count "vector 0", MSI_VECTOR, 1
    movl $1, REGS + T_MSI_SEND
    expect_count "vector 1", MSI_VECTOR+1, 1
    movl $2, REGS + T_MSI_SEND
    expect_count "vector 2", MSI_VECTOR+2, 1
    movl $3, REGS + T_MSI_SEND
    expect_count "vector 3", MSI_VECTOR+3, 1
    movl $4, REGS + T_MSI_SEND
    expect_count "vector 4, which there is not", MSI_VECTOR+4, 0
    expect "vector 0 at the end", count_of(MSI_VECTOR), $1
    // With MSI on, INTx is not used.
    movl $0x100, REGS + T_INT_RAISE
    expect_count "INTx beside MSI", INTX_VECTOR, 0
    movl $0x100, REGS + T_INT_STATUS
    // One after the other, none is lost.
    clear_counts MSI_VECTOR
    mov $50, %ecx
1:  movl $2, REGS + T_MSI_SEND
    mov $51, %ebx
    sub %ecx, %ebx
    wait_for "messages in a row", count_of(MSI_VECTOR + 2), %ebx
    loop 1b
    done "msi"
    ret

msi_masks:
    clear_counts MSI_VECTOR
    config_write32 3, MSI_MASK, $2
    movl $1, REGS + T_MSI_SEND
    movl $2, REGS + T_MSI_SEND
    expect_count "beside a masked one", MSI_VECTOR+2, 1
    expect_count "masked", MSI_VECTOR+1, 0
    config_read32 3, MSI_PENDING
    expect "pending", %eax, $2
    movl $1, REGS + T_MSI_SEND
    config_read8 3, MSI_PENDING
    expect "pending, twice", %eax, $2
    config_write32 3, MSI_MASK, $0
    expect_count "unmasked: both in one", MSI_VECTOR+1, 1
    config_read32 3, MSI_PENDING
    expect "pending no more", %eax, $0
    done "msi masks"
    ret

msi_targets:
    clear_counts MSI_VECTOR
    config_write32 3, MSI_ADDRESS, $LAPIC+0x1000
    movl $3, REGS + T_MSI_SEND
    expect_count "to the other CPU", MSI_VECTOR+3, 1
    expect "it went to", interrupt_cpus+4*(MSI_VECTOR+3), $1
    config_write32 3, MSI_ADDRESS, $LAPIC
    movl $3, REGS + T_MSI_SEND
    expect_count "to this CPU", MSI_VECTOR+3, 2
    expect "it went to", interrupt_cpus+4*(MSI_VECTOR+3), $0
    // The function owns the low bits of the data.
    config_write16 3, MSI_DATA, $MSI_VECTOR+7
    movl $1, REGS + T_MSI_SEND
    expect_count "data 57h, vector 1", MSI_VECTOR+5, 1
    config_write16 3, MSI_DATA, $MSI_VECTOR
    done "msi targets"
    ret

msi_off:
    clear_counts MSI_VECTOR
    mov REGS + T_MESSAGES_SENT, %ebx
    config_write16 3, MSI_CONTROL, $0x20
    movl $0, REGS + T_MSI_SEND
    expect_count "MSI off again", MSI_VECTOR, 0
    expect "nothing was sent", REGS+T_MESSAGES_SENT, %ebx
    config_write16 3, MSI_CONTROL, $0x21
    expect_count "nothing was kept", MSI_VECTOR, 0
    config_write16 3, MSI_CONTROL, $0
    done "msi off"
    ret

.macro table_entry vector:req, address:req, data:req, control:req
    movl \address, TABLE + 16 * (\vector)
    movl $0, TABLE + 16 * (\vector) + 4
    movl \data, TABLE + 16 * (\vector) + 8
    movl \control, TABLE + 16 * (\vector) + 12
.endm

msix:
    config_read16 3, MSIX_CONTROL
    expect "MSI-X control: eight vectors", %eax, $7
    config_read32 3, MSIX+4
    expect "MSI-X table", %eax, $4
    config_read32 3, MSIX+8
    expect "MSI-X pending bits", %eax, $0x804
    expect "vector 7 after reset", TABLE+16*7+12, $1
    // Pending before it was ever unmasked.
    table_entry 7, $LAPIC, $MSIX_VECTOR+7, $1
    config_write16 3, MSIX_CONTROL, $0x8000
    movl $7, REGS + T_MSI_SEND
    expect_count "masked since reset", MSIX_VECTOR+7, 0
    expect "pending since then", PENDING, $0x80
    movl $0, TABLE + 16 * 7 + 12
    expect_count "unmasked for the first time", MSIX_VECTOR+7, 1
    movl $0, count_of(MSIX_VECTOR+7)
    config_write16 3, MSIX_CONTROL, $0
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7
    table_entry \vector, $LAPIC, $MSIX_VECTOR+\vector, $0
    .endr
    config_write16 3, MSIX_CONTROL, $0x8000
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7
    movl $\vector, REGS + T_MSI_SEND
    .endr
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7
    wait_for "vector \vector", count_of(MSIX_VECTOR + \vector), $1
    .endr
    wait_ms 2
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7
    expect "vector \vector, later", count_of(MSIX_VECTOR + \vector), $1
    .endr
    expect "pending bits", PENDING, $0
    done "msi-x"
    ret

msix_masks:
    clear_counts MSIX_VECTOR
    movl $1, TABLE + 16 * 6 + 12
    movl $6, REGS + T_MSI_SEND
    movl $6, REGS + T_MSI_SEND
    expect_count "masked entry", MSIX_VECTOR+6, 0
    expect "pending bit", PENDING, $0x40
    // Sent to where the entry points when it is unmasked.
    movl $MSIX_VECTOR + 15, TABLE + 16 * 6 + 8
    movl $0, TABLE + 16 * 6 + 12
    expect_count "unmasked entry, new data", MSIX_VECTOR+15, 1
    expect "its old vector", count_of(MSIX_VECTOR+6), $0
    expect "no pending bit", PENDING, $0
    movl $MSIX_VECTOR + 6, TABLE + 16 * 6 + 8
    config_write16 3, MSIX_CONTROL, $0xc000
    movl $3, REGS + T_MSI_SEND
    movl $5, REGS + T_MSI_SEND
    expect_count "masked function", MSIX_VECTOR+3, 0
    expect "its pending bits", PENDING, $0x28
    config_write16 3, MSIX_CONTROL, $0x8000
    expect_count "unmasked function, vector 3", MSIX_VECTOR+3, 1
    expect_count "unmasked function, vector 5", MSIX_VECTOR+5, 1
    expect "none pending", PENDING, $0
    expect "vector 6 all the while", count_of(MSIX_VECTOR+6), $0
    done "msi-x masks"
    ret

// The table itself: widths, read-only pending bits, targets.
msix_table:
    clear_counts MSIX_VECTOR
    expect "address", TABLE+16*2, $LAPIC
    expect "data", TABLE+16*2+8, $MSIX_VECTOR+2
    mov $LAPIC, %eax
    xor %edx, %edx
    mov $LAPIC + 0x1000, %ebx
    xor %ecx, %ecx
    cmpxchg8b TABLE + 16 * 2
    expect_flag "address as a quadword", z
    expect "new address", TABLE+16*2, $LAPIC+0x1000
    movl $2, REGS + T_MSI_SEND
    expect_count "to the other CPU", MSIX_VECTOR+2, 1
    expect "it went to", interrupt_cpus+4*(MSIX_VECTOR+2), $1
    movl $0xffffffff, PENDING
    expect "pending bits written", PENDING, $0
    movl $LAPIC, TABLE + 16 * 2
    movl $2, REGS + T_MSI_SEND
    expect_count "and back", MSIX_VECTOR+2, 2
    expect "it went to", interrupt_cpus+4*(MSIX_VECTOR+2), $0
    done "msi-x table"
    ret

other_senders:
    clear_counts MSIX_VECTOR
    movl $1, BELLS + T_BELL_MSI
    expect_count "by doorbell", MSIX_VECTOR+1, 1
    mov $2, %eax
    mov $PORTS + T_PORT_MSI, %edx
    out %eax, %dx
    expect_count "by port", MSIX_VECTOR+2, 1
    movl $0x80000003, REGS + T_TIMER_ACTION
    movl $2000000, REGS + T_TIMER_DELAY
    expect_count "by timer", MSIX_VECTOR+3, 1
    // What was copied is there when its message comes.
    on_interrupt MSIX_VECTOR, 1f
    movl $source, REGS + T_DMA_SOURCE
    movl $target, REGS + T_DMA_TARGET
    movl $4096, REGS + T_DMA_LENGTH
    movl $0x7e57da7a, source + 4092
    movl $5, REGS + T_DMA_COMMAND
    expect_count "by a copy", MSIX_VECTOR, 1
    expect "the end of the copy, in the handler", last_of_target, $0x7e57da7a
    done "other senders"
    ret
1:  mov target + 4092, %eax
    mov %eax, last_of_target
    ret

// In D3hot a function answers in configuration space alone, and sends nothing.
d3hot:
    clear_counts MSIX_VECTOR
    movl $0x80000004, REGS + T_TIMER_ACTION
    movl $20000000, REGS + T_TIMER_DELAY
    config_write16 3, PM+4, $3
    mov REGS + T_ID, %eax
    expect "a register in D3hot", %eax, $0xffffffff
    wait_ms 30
    expect "messages in D3hot", count_of(MSIX_VECTOR+4), $0
    config_write16 3, PM+4, $0
    mov REGS + T_ID, %eax
    expect "a register in D0", %eax, $T_ID_VALUE
    expect "the timer", REGS+T_TIMER_FIRED, $2
    expect_count "messages in D0", MSIX_VECTOR+4, 0
    movl $4, REGS + T_MSI_SEND
    expect_count "a message in D0", MSIX_VECTOR+4, 1
    done "d3hot"
    ret
