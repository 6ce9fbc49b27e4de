// The serial port, byte by byte. The command line says what to do, and with how many KiB:
//   eN  sends back what comes
//   sN  sends the low bytes of x(n+1) = x(n) * 1664525 + 1013904223 from bit 24 on, x(0) = 1
//   rN  takes such bytes, and says whether they were right
//   d   writes a line of text to the debug port that would drive a terminal
#include "guest.inc"

.set RECEIVE_INTERRUPTS, 1       // IER; no interrupt controller lets them through
.set DATA_AVAILABLE, 0xc4       // IIR: as many as the trigger level says
.set DATA_WAITS, 0xcc           // IIR: some
.set TRIGGER, 14

    .bss
chunk: .skip 16

    .text
    .globl guest_main
guest_main:
    write_port8 COM1 + 2, $0xc1
    write_port8 COM1 + 1, $RECEIVE_INTERRUPTS
    command_line
    movzbl (%esi), %ebx
    xor %ebp, %ebp
1:  inc %esi
    movzbl (%esi), %eax
    sub $'0', %eax
    cmp $9, %eax
    ja 2f
    imul $10, %ebp, %ebp
    add %eax, %ebp
    jmp 1b
2:  shl $10, %ebp               // bytes left
    mov $1, %edi                // x
    print "@ready\n"
    cmp $'e', %ebx
    je send_back
    cmp $'s', %ebx
    je send
    cmp $'r', %ebx
    je take
    cmp $'d', %ebx
    je debug
    print "FAIL what?\n"
    mov $1, %eax
    jmp leave

well:
    mov $0, %eax
    jmp leave

    .data
rude:
    .ascii "a\033[2J\302\233b\n"
rude_end:
    .text

debug:
    mov $rude, %esi
    mov $(rude_end - rude), %ecx
    mov $0xe9, %edx
    rep outsb
    jmp well

send_back:
    call get_chunk
    sub %ecx, %ebp
    call put_chunk
    jg send_back
    jmp well

send:
    xor %ecx, %ecx
1:  call next_byte
    mov %al, chunk(%ecx)
    inc %ecx
    cmp $16, %ecx
    jne 1b
    call put_chunk
    sub $16, %ebp
    jg send
    jmp well

take:
    call get_chunk
    xor %ebx, %ebx
1:  call next_byte
    movzbl %al, %eax
    movzbl chunk(%ebx), %edx
    expect "byte", %edx, %eax
    inc %ebx
    cmp %ecx, %ebx
    jne 1b
    sub %ecx, %ebp
    jg take
    ret

next_byte:                      // %al
    imul $1664525, %edi, %edi
    add $1013904223, %edi
    mov %edi, %eax
    shr $24, %eax
    ret

// Waits for bytes and puts them into `chunk`; %ecx = how many.
get_chunk:
    push %edi
    mov $chunk, %edi
1:  pause
    read_port8 COM1 + 2
    mov $TRIGGER, %ecx
    cmp $DATA_AVAILABLE, %eax
    je 2f
    mov $1, %ecx
    cmp $DATA_WAITS, %eax
    jne 1b
2:  mov $COM1, %edx
    push %ecx
    rep insb
    pop %ecx
    pop %edi
    ret

// Sends %ecx bytes of `chunk`, 16 at most. Keeps the flags.
put_chunk:
    pushfl
    push %ecx
1:  read_port8 COM1 + 5
    test $0x20, %al
    jz 1b
    mov $chunk, %esi
    mov $COM1, %edx
    rep outsb
    pop %ecx
    popfl
    ret
