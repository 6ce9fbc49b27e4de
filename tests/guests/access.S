// Port and memory-mapped accesses of each width, through string instructions, across the ends of claims, and where
// nobody answers. The PCI test function is in slot 3.
#include "guest.inc"

.set REGS, 0xd0000000
.set BELLS, 0xd0001000          // right behind REGS
.set PORTS, 0xd000

// The last entry of the function's log: {size | 100h if a write | region << 16, offset, value}.
.set LOG_COUNT, 0x84
.set LOG, 0x400
.macro expect_logged what:req, entry:req, offset:req
    call find_log_entry
    expect "\what: size and direction", (%ebx), $\entry
    expect "\what: offset", 4(%ebx), $\offset
.endm

    .bss
buffer: .skip 8192
copy: .skip 8192

    .text
    .globl guest_main
guest_main:
    config_read32 3, PCI_BAR0
    expect "firmware's place for BAR 0", %eax, $0xe0000000
    mov 0xe0000000 + T_ID, %eax
    expect "ID where firmware put the function", %eax, $T_ID_VALUE
    place_function 3, REGS, BELLS, PORTS
    done "placement"
    call mmio_widths
    call mmio_strings
    call posted_widths
    call claim_ends
    call port_widths
    call string_input
    call string_output
    call dma
    call nobody
    ret

// %ebx = address of the newest log entry.
find_log_entry:
    mov REGS + LOG_COUNT, %ebx
    dec %ebx
    and $63, %ebx
    shl $4, %ebx
    add $REGS + LOG, %ebx
    ret

mmio_widths:
    movzbl REGS + T_ID, %eax
    expect "byte 0 of ID", %eax, $0xef
    expect_logged "byte read", 1, T_ID
    movzbl REGS + T_ID + 3, %eax
    expect "byte 3 of ID", %eax, $0xb4
    movzwl REGS + T_ID + 2, %eax
    expect "word 1 of ID", %eax, $0xb41c
    expect_logged "word read", 2, T_ID + 2
    mov REGS + T_ID, %eax
    expect "ID", %eax, $T_ID_VALUE
    expect_logged "dword read", 4, T_ID
    // CMPXCHG8B reads eight bytes and writes eight, also when they differ from EDX:EAX.
    xor %eax, %eax
    xor %edx, %edx
    cmpxchg8b REGS + T_ID
    expect "low half of a quadword", %eax, $T_ID_VALUE
    expect "high half of a quadword", %edx, $1
    expect_logged "quadword write", 0x108, T_ID
    // Unaligned, within a quadword and across.
    mov REGS + T_ID + 1, %eax
    expect "unaligned dword", %eax, $0x01b41cbe
    expect_logged "unaligned dword read", 4, T_ID + 1
    mov REGS + T_ID + 6, %eax
    expect "dword across quadwords: no register", %eax, $0xffffffff

    movb $0x11, REGS + T_SCRATCH
    movb $0x22, REGS + T_SCRATCH + 1
    movb $0x33, REGS + T_SCRATCH + 2
    movb $0x44, REGS + T_SCRATCH + 3
    expect_logged "byte write", 0x101, T_SCRATCH + 3
    mov REGS + T_SCRATCH, %eax
    expect "four bytes written", %eax, $0x44332211
    movw $0x6655, REGS + T_SCRATCH + 4
    movw $0x8877, REGS + T_SCRATCH + 6
    expect_logged "word write", 0x102, T_SCRATCH + 6
    mov REGS + T_SCRATCH + 4, %eax
    expect "two words written", %eax, $0x88776655
    mov $0x44332211, %eax
    mov $0x88776655, %edx
    mov $0x99aabbcc, %ebx
    mov $0xddeeff00, %ecx
    cmpxchg8b REGS + T_SCRATCH
    expect_flag "CMPXCHG8B found what was written", z
    mov REGS + T_SCRATCH, %eax
    expect "low half of a quadword written", %eax, $0x99aabbcc
    mov REGS + T_SCRATCH + 4, %eax
    expect "high half of a quadword written", %eax, $0xddeeff00
    movl $0x04030201, REGS + T_SCRATCH + 9
    mov REGS + T_SCRATCH + 8, %eax
    expect "unaligned dword written, first part", %eax, $0x03020100
    mov REGS + T_SCRATCH + 12, %eax
    expect "unaligned dword written, second part", %eax, $0x00000004
    movl $0xffffffff, REGS + T_SCRATCH + 0x16
    mov REGS + T_SCRATCH + 0x14, %eax
    expect "dword written across quadwords: dropped", %eax, $0
    // One read is one access, whatever its width.
    movl $100, REGS + T_COUNTER
    movzbl REGS + T_COUNTER, %eax
    movzwl REGS + T_COUNTER, %eax
    mov REGS + T_COUNTER, %eax
    expect "reads so far", %eax, $102
    // Read, modify, write.
    movl $0x0f0f0f0f, REGS + T_SCRATCH
    lock orl $0xf0000000, REGS + T_SCRATCH
    addb $1, REGS + T_SCRATCH
    mov $0x12345678, %eax
    xchg %eax, REGS + T_SCRATCH
    expect "modified in place", %eax, $0xff0f0f10
    mov REGS + T_SCRATCH, %eax
    expect "exchanged", %eax, $0x12345678
    done "mmio widths"
    ret

// REP MOVS to and from registers, each element an access of its own.
mmio_strings:
    mov $16, %ecx
1:  mov %ecx, buffer - 4(, %ecx, 4)
    loop 1b
    mov REGS + T_ACCESSES, %ebp
    mov $buffer, %esi
    mov $REGS + T_SCRATCH, %edi
    mov $16, %ecx
    rep movsl
    mov $REGS + T_SCRATCH, %esi
    mov $copy, %edi
    mov $16, %ecx
    rep movsl
    mov REGS + T_ACCESSES, %eax
    sub %ebp, %eax
    expect "accesses of two REP MOVS", %eax, $33
    mov $buffer, %esi
    mov $copy, %edi
    mov $16, %ecx
    repe cmpsl
    expect_flag "what went to registers and back", z, %ecx
    mov $0xa5a5a5a5, %eax
    mov $REGS + T_SCRATCH, %edi
    mov $64, %ecx
    rep stosb
    mov REGS + T_SCRATCH + 60, %eax
    expect "REP STOSB", %eax, $0xa5a5a5a5
    done "mmio strings"
    ret

// BAR 1 takes writes that nobody waits for, at every offset and width, in order with everything else.
posted_widths:
    mov REGS + T_POSTED_COUNT, %ebp
    expect "no posted write yet", %ebp, $0
    movb $0x5a, BELLS + 7
    mov REGS + T_LAST_POSTED, %eax
    expect "posted byte", %eax, $0x5a
    mov REGS + T_POSTED_WHERE, %eax
    expect "where", %eax, $0x00010007
    movw $0x1234, BELLS + 0x10
    mov REGS + T_LAST_POSTED, %eax
    expect "posted word", %eax, $0x1234
    mov REGS + T_POSTED_WHERE, %eax
    expect "where", %eax, $0x00020010
    movl $0xdeadbeef, BELLS + 0x21
    mov REGS + T_LAST_POSTED, %eax
    expect "posted dword", %eax, $0xdeadbeef
    mov REGS + T_POSTED_WHERE, %eax
    expect "where", %eax, $0x00040021
    mov $3, %eax                // a read of a doorbell is the count
    mov $0, %edx
    mov $0x55667788, %ebx
    mov $0x11223344, %ecx
    cmpxchg8b BELLS + 0x30
    expect_flag "posted count in a quadword", z
    mov REGS + T_LAST_POSTED, %eax
    expect "posted quadword, low", %eax, $0x55667788
    mov REGS + T_LAST_POSTED + 4, %eax
    expect "posted quadword, high", %eax, $0x11223344
    mov REGS + T_POSTED_WHERE, %eax
    expect "where", %eax, $0x00080030
    // More than the ring has slots, back to back; the read behind them sees them all.
    mov $1000, %ecx
1:  mov %ecx, BELLS + 0x100
    loop 1b
    mov REGS + T_POSTED_COUNT, %eax
    expect "posted writes", %eax, $1004
    mov REGS + T_LAST_POSTED, %eax
    expect "the last of them", %eax, $1
    done "posted writes"
    ret

// Accesses that begin in one claim and end in another, or in none: KVM and the bus split them.
claim_ends:
    mov REGS + T_POSTED_COUNT, %ebp
    // Two bytes of no register of BAR 0, then two of BAR 1.
    movl $0x77665544, REGS + 0xffe
    mov REGS + T_LAST_POSTED, %eax
    expect "the part that BAR 1 got", %eax, $0x7766
    mov REGS + T_POSTED_WHERE, %eax
    expect "its width and place", %eax, $0x00020000
    mov REGS + 0xffe, %eax
    shl $16, %ebp
    add $0x1ffff, %ebp          // one posted write later; BAR 0 has no register there
    expect "read across BARs", %eax, %ebp
    // One byte, and three that no device takes in one.
    movl $0x44332211, REGS + 0xfff
    mov REGS + T_POSTED_WHERE, %eax
    expect "the last piece of three bytes", %eax, $0x00010002
    mov REGS + T_LAST_POSTED, %eax
    expect "its value", %eax, $0x44
    // Out of BAR 1 into nowhere.
    movl $0xccbbaa99, BELLS + 0xffd
    mov REGS + T_LAST_POSTED, %eax
    expect "the last byte that BAR 1 got", %eax, $0xbb
    mov BELLS + 0xfff, %eax
    or $0xff, %eax
    expect "read beyond BAR 1", %eax, $0xffffffff
    mov REGS - 2, %eax
    expect "read across the beginning of BAR 0", %eax, $0xbeefffff
    done "ends of claims"
    ret

port_widths:
    mov $PORTS, %edx
    mov $0x11, %al
    out %al, %dx
    inc %edx
    mov $0x22, %al
    out %al, %dx
    inc %edx
    mov $0x4433, %eax
    out %ax, %dx
    mov $PORTS, %edx
    in %dx, %eax
    expect "bytes and word", %eax, $0x44332211
    xor %eax, %eax
    mov $PORTS + 1, %edx
    in %dx, %ax
    expect "word in the middle", %eax, $0x3322
    in %dx, %al
    expect "byte", %eax, $0x3322
    mov $PORTS + 4, %edx
    mov $0xcafebabe, %eax
    out %eax, %dx
    xor %eax, %eax
    in %dx, %al
    expect "first byte of a dword", %eax, $0xbe
    mov $PORTS + T_PORT_ID, %edx
    in %dx, %eax
    expect "ID in ports", %eax, $T_ID_VALUE
    mov $PORTS + 3, %edx
    in %dx, %eax
    expect "dword across dwords: no register", %eax, $0xffffffff
    // Byte registers answer wider accesses in pieces: LCR and MCR, then MCR to SCR.
    mov $COM1 + 3, %edx
    mov $0x031b, %eax
    out %ax, %dx
    xor %eax, %eax
    in %dx, %ax
    expect "LCR and MCR in one", %eax, $0x031b
    mov $0x0003, %eax
    out %ax, %dx
    write_port8 COM1 + 7, $0x5a
    read_port32 COM1 + 4
    and $0xff0000ff, %eax
    expect "MCR and SCR in one", %eax, $0x5a000000
    // Half of it belongs to nobody.
    read_port16 COM1 + 7
    expect "SCR and nobody", %eax, $0xff5a
    read_port16 0x91
    expect "nobody and port 92", %eax, $0x02ff
    // Immediate port numbers are 8 bits wide.
    mov $0x42, %al
    out %al, $0x80
    xor %eax, %eax
    in $0x80, %al
    expect "POST code", %eax, $0x42
    done "port widths"
    ret

.macro expect_stream what:req, bytes:req
    mov $\bytes, %ecx
    call check_stream
    read_port32 PORTS + T_PORT_STREAM_IN
    expect "\what: bytes taken", %eax, %ebp
.endm

// The buffer holds the next %ecx bytes of the stream; %ebp counts them.
check_stream:
    mov $buffer, %esi
1:  lodsb
    movzbl %al, %eax
    movzbl %bl, %ebx
    expect "byte of the stream", %eax, %ebx
    inc %ebx
    inc %ebp
    loop 1b
    ret

// Input from one port: what comes must be whole and in order, however KVM cuts it into exits.
string_input:
    xor %ebp, %ebp
    xor %ebx, %ebx
    mov $PORTS + T_PORT_STREAM, %edx
    .irp bytes, 1, 3, 100, 1000
    mov $buffer, %edi
    mov $\bytes, %ecx
    rep insb
    expect "REP INSB: rest", %ecx, $0
    expect "REP INSB: EDI", %edi, $buffer+\bytes
    expect_stream "REP INSB", \bytes
    .endr
    mov $buffer, %edi
    mov $501, %ecx
    rep insw
    expect "REP INSW: EDI", %edi, $buffer+1002
    expect_stream "REP INSW", 1002
    // Over the end of a page, which no element crosses evenly.
    mov $buffer, %edi
    mov $303, %ecx
    rep insl
    expect_stream "REP INSL", 1212
    mov $(buffer + 4096) - 1, %edi
    mov %edi, %esi
    mov $16, %ecx
    rep insl
    mov $buffer, %edi
    mov $16, %ecx
    rep movsl
    expect_stream "REP INSL, unaligned", 64
    // Backwards, and no element at all.
    mov $buffer + 9, %edi
    mov $10, %ecx
    std
    rep insb
    cld
    expect "REP INSB backwards: EDI", %edi, $buffer-1
    mov $buffer + 9, %esi
    mov $copy, %edi
    mov $10, %ecx
1:  mov (%esi), %al
    stosb
    dec %esi
    loop 1b
    mov $copy, %esi
    mov $buffer, %edi
    mov $10, %ecx
    rep movsb
    expect_stream "REP INSB backwards", 10
    xor %ecx, %ecx
    rep insb
    read_port32 PORTS + T_PORT_STREAM_IN
    expect "after REP INSB of nothing", %eax, %ebp
    // From where nobody is.
    mov $0x100, %edx
    mov $buffer, %edi
    mov $100, %ecx
    rep insb
    mov $buffer, %edi
    mov $100, %ecx
    mov $0xff, %al
    repe scasb
    expect_flag "REP INSB from nobody", z, %ecx
    done "string input"
    ret

// %eax = FNV-1a of all that was written so far and %ecx bytes at %esi.
hash:
    push %ecx
    push %esi
    mov %ebp, %eax
1:  movzbl (%esi), %edx
    xor %edx, %eax
    imul $0x01000193, %eax, %eax
    inc %esi
    loop 1b
    mov %eax, %ebp
    pop %esi
    pop %ecx
    ret

string_output:
    mov $1100, %ecx
    mov $1, %eax
    mov $buffer, %edi
1:  imul $1664525, %eax, %eax
    add $1013904223, %eax
    rol $7, %eax
    stosb
    loop 1b
    mov $0x811c9dc5, %ebp
    .irp bytes, 1, 3, 100, 1000
    mov $buffer, %esi
    mov $\bytes, %ecx
    call hash
    mov $PORTS + T_PORT_STREAM, %edx
    rep outsb
    expect "REP OUTSB: ESI", %esi, $buffer+\bytes
    read_port32 PORTS + T_PORT_STREAM_HASH
    expect "REP OUTSB: hash", %eax, %ebp
    .endr
    mov $buffer + 1, %esi
    mov $1000, %ecx
    call hash
    mov $500, %ecx
    mov $PORTS + T_PORT_STREAM, %edx
    rep outsw
    read_port32 PORTS + T_PORT_STREAM_HASH
    expect "REP OUTSW: hash", %eax, %ebp
    mov $buffer + 3, %esi
    mov $1000, %ecx
    call hash
    mov $250, %ecx
    mov $PORTS + T_PORT_STREAM, %edx
    rep outsl
    read_port32 PORTS + T_PORT_STREAM_HASH
    expect "REP OUTSL: hash", %eax, %ebp
    read_port32 PORTS + T_PORT_STREAM_OUT
    expect "bytes written", %eax, $3104
    .pushsection .rodata
1:  .ascii "ok REP OUTSB\n"
2:  .popsection
    mov $1b, %esi
    mov $2b-1b, %ecx
    mov $COM1, %edx
    rep outsb
    done "string output"
    ret

dma:
    movl $buffer, REGS + T_DMA_SOURCE
    movl $copy, REGS + T_DMA_TARGET
    movl $4097, REGS + T_DMA_LENGTH
    movl $1, REGS + T_DMA_COMMAND
    mov REGS + T_DMA_STATUS, %eax
    expect "copy without bus mastering", %eax, $3
    config_write16 3, PCI_COMMAND, $COMMAND_IO|COMMAND_MEMORY|COMMAND_MASTER
    mov REGS + T_CONTROL, %eax
    test $1, %eax
    expect_flag "the function knows that it may be a master", nz
    movl $0x600df00d, buffer + 4093
    movl $0, copy + 4093
    movb $0x77, copy + 4097
    movl $1, REGS + T_DMA_COMMAND
    mov REGS + T_DMA_STATUS, %eax
    expect "copy", %eax, $1
    mov buffer, %eax
    expect "first dword", copy, %eax
    expect "last dword", copy+4093, $0x600df00d
    movzbl copy + 4097, %eax
    expect "behind it", %eax, $0x77
    movl $0x04000000 - 8, REGS + T_DMA_TARGET   // RAM ends there
    movl $1, REGS + T_DMA_COMMAND
    mov REGS + T_DMA_STATUS, %eax
    expect "copy beyond RAM", %eax, $2
    movl $buffer + 1, REGS + T_DMA_TARGET
    movl $1, REGS + T_DMA_COMMAND
    mov REGS + T_DMA_STATUS, %eax
    expect "copy onto itself", %eax, $5
    mov REGS + T_DMA_COUNT, %eax
    expect "copies done", %eax, $1
    done "dma"
    ret

// Reads of nobody are all ones; the test compares the VMM's count between the two holds.
nobody:
    hold "before"
    .rept 5
    read_port8 0x100
    expect "port of nobody", %eax, $0xff
    .endr
    .irp address, 0xd8000000, 0xfebfffff, 0xfed00000, 0x04000000, 0xcfffffff
    movzbl \address, %eax
    expect "address of nobody", %eax, $0xff
    movb $0, \address
    .endr
    write_port8 0x101, $0
    read_port16 0x100
    expect "two ports of nobody", %eax, $0xffff
    read_port32 0x0                     // no DMA controller
    expect "four ports of nobody", %eax, $0xffffffff
    mov 0xd8000000, %eax
    expect "dword of nobody", %eax, $0xffffffff
    movzwl 0xd8000fff, %eax             // over the end of a page
    expect "word of nobody", %eax, $0xffff
    xor %eax, %eax
    xor %edx, %edx
    cmpxchg8b 0xd8000000
    expect "quadword of nobody, low", %eax, $0xffffffff
    expect "quadword of nobody, high", %edx, $0xffffffff
    mov 0x03fffffe, %eax                // over the end of RAM
    shr $16, %eax
    expect "end of RAM", %eax, $0xffff
    hold "after"
    config_read32 31, 0
    expect "function that is not there", %eax, $0xffffffff
    config_read32 3, 0, 1
    expect "function 1 of a device with one", %eax, $0xffffffff
    done "nobody"
    ret
