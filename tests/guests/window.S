// BARs of the PCI test function in slot 3 through its configuration space: VIRTIO 1.2, section 4.1.4.9
// (VIRTIO_PCI_CAP_PCI_CFG).
#include "guest.inc"

.set REGS, 0xd0000000
.set BELLS, 0xd0001000
.set PORTS, 0xd000

// The capability, and its fields.
.set WINDOW, 0x7c
.set W_BAR, WINDOW + 4
.set W_OFFSET, WINDOW + 8
.set W_LENGTH, WINDOW + 12
.set W_DATA, WINDOW + 16

.macro aim bar:req, offset:req, length:req
    config_write8 3, W_BAR, $\bar
    config_write32 3, W_OFFSET, $\offset
    config_write32 3, W_LENGTH, $\length
.endm

    .bss
buffer: .skip 64

    .text
    .globl guest_main
guest_main:
    find_capability 3, CAP_VENDOR
    expect "the first capability of virtio", %eax, $0x6c
    config_read32 3, 0x6c
    expect "device configuration", %eax, $0x04107c09
    config_read32 3, WINDOW
    expect "the window", %eax, $0x05140009
    config_write16 3, PCI_COMMAND, $0   // no BAR decodes
    call identity
    call scratch
    place_function 3, REGS, BELLS, PORTS
    call in_common
    call other_bars
    call strings
    call msix
    call nowhere
    ret

identity:
    aim 0, T_ID, 4
    config_read32 3, W_DATA
    expect "ID", %eax, $T_ID_VALUE
    config_read16 3, W_DATA
    expect "low half of ID", %eax, $0xbeef
    config_read16 3, W_DATA + 2
    expect "high half of ID", %eax, $0xb41c
    config_read8 3, W_DATA + 3
    expect "last byte of ID", %eax, $0xb4
    aim 0, T_ID + 2, 2
    config_read32 3, W_DATA
    expect "word of ID", %eax, $0xb41c
    config_read16 3, W_DATA
    expect "word of ID, as a word", %eax, $0xb41c
    aim 0, T_ID + 1, 1
    config_read8 3, W_DATA
    expect "byte of ID", %eax, $0xbe
    config_read32 3, W_DATA
    expect "byte of ID, as a dword", %eax, $0xbe
    done "identity"
    ret

scratch:
    aim 0, T_SCRATCH, 4
    config_write32 3, W_DATA, $0x44332211
    config_read32 3, W_DATA
    expect "dword", %eax, $0x44332211
    aim 0, T_SCRATCH + 1, 1
    config_write8 3, W_DATA, $0x5a
    config_read8 3, W_DATA
    expect "byte", %eax, $0x5a
    aim 0, T_SCRATCH + 2, 2
    config_write16 3, W_DATA, $0xcafe
    config_read16 3, W_DATA
    expect "word", %eax, $0xcafe
    aim 0, T_SCRATCH, 4
    config_read32 3, W_DATA
    expect "all of them", %eax, $0xcafe5a11
    done "scratch"
    ret

// What the window reached is what the BARs have, and each access was one.
in_common:
    mov REGS + T_SCRATCH, %eax
    expect "scratch through BAR 0", %eax, $0xcafe5a11
    movl $0x01020304, REGS + T_SCRATCH
    config_read32 3, W_DATA
    expect "scratch through the window", %eax, $0x01020304
    mov REGS + T_ACCESSES, %ebp
    config_read32 3, W_DATA
    config_read8 3, W_DATA + 1
    config_write32 3, W_DATA, $7
    mov REGS + T_ACCESSES, %eax
    sub %ebp, %eax
    expect "accesses", %eax, $4
    done "in common"
    ret

other_bars:
    aim 1, 0x10, 4
    config_write32 3, W_DATA, $0xdeadbeef
    mov REGS + T_LAST_POSTED, %eax
    expect "posted through the window", %eax, $0xdeadbeef
    mov REGS + T_POSTED_WHERE, %eax
    expect "where", %eax, $0x00040010
    mov REGS + T_POSTED_COUNT, %eax
    expect "how often", %eax, $1
    aim 2, T_PORT_ID, 4
    config_read32 3, W_DATA
    expect "ID in ports", %eax, $T_ID_VALUE
    done "other bars"
    ret

// Each element is an access of the BAR.
strings:
    movl $100, REGS + T_COUNTER
    aim 0, T_COUNTER, 4
    config_address 3, W_DATA
    mov $0xcfc, %edx
    mov $buffer, %edi
    mov $16, %ecx
    rep insl
    expect "first element", buffer, $100
    expect "second element", buffer+4, $101
    expect "last element", buffer+60, $115
    aim 1, 0x20, 4
    config_address 3, W_DATA
    mov $0xcfc, %edx
    mov $buffer, %esi
    mov $16, %ecx
    rep outsl
    mov REGS + T_LAST_POSTED, %eax
    expect "last element written", %eax, $115
    mov REGS + T_POSTED_COUNT, %eax
    expect "elements written", %eax, $17
    done "strings"
    ret

// The MSI-X BAR, whose registers are where configuration space is.
msix:
    aim 4, 0, 4
    config_write32 3, W_DATA, $0xfee01000
    config_read32 3, W_DATA
    expect "message address", %eax, $0xfee01000
    aim 4, 8, 4
    config_write32 3, W_DATA, $0x4041
    aim 4, 12, 4
    config_read32 3, W_DATA
    expect "vector control", %eax, $1
    config_read32 3, PCI_BAR4
    and $~0xf, %eax
    mov %eax, %ebx
    mov (%ebx), %eax
    expect "message address through BAR 4", %eax, $0xfee01000
    mov 8(%ebx), %eax
    expect "message data through BAR 4", %eax, $0x4041
    aim 4, 8, 2
    config_read16 3, W_DATA
    expect "no register takes a word", %eax, $0xffff
    aim 4, 0x800, 4
    config_read32 3, W_DATA
    expect "nothing is pending: MSI-X is off", %eax, $0
    // A message to a masked vector waits, and its bit is the VMM's answer.
    config_write16 3, PCI_COMMAND, $COMMAND_IO|COMMAND_MEMORY|COMMAND_MASTER
    config_write16 3, 0x62, $0x8000
    movl $2, REGS + T_MSI_SEND
    config_read32 3, W_DATA
    expect "vector 2 is pending", %eax, $4
    config_write16 3, 0x62, $0
    done "msi-x"
    ret

.macro expect_nowhere what:req
    config_read32 3, W_DATA
    expect "\what", %eax, $0xffffffff
    config_write32 3, W_DATA, $0x99999999
.endm

nowhere:
    movl $0x600d, REGS + T_SCRATCH
    aim 0, T_SCRATCH, 3
    expect_nowhere "length 3"
    aim 0, T_SCRATCH, 0
    expect_nowhere "length 0"
    aim 0, T_SCRATCH, 8
    expect_nowhere "length 8"
    aim 3, T_SCRATCH, 4
    expect_nowhere "no BAR 3"
    aim 5, 0, 4
    expect_nowhere "the upper half of BAR 4"
    aim 255, T_SCRATCH, 4
    expect_nowhere "BAR 255"
    aim 0, 4093, 4
    expect_nowhere "beyond BAR 0"
    aim 0, 0xfffffffc, 4
    expect_nowhere "far beyond BAR 0"
    mov REGS + T_SCRATCH, %eax
    expect "scratch", %eax, $0x600d
    done "nowhere"
    ret
