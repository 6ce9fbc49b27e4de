# Guest code for the exit figures: 64-bit, CPL 3, position-independent, copied into guest memory.
#
# RDI: struct ExitPairs (exit_guest.h). Times pairs of writes, one to each of two places, exit by exit.
    .section .rodata
    .globl exit_pairs_begin, exit_pairs_end

    .macro timed write
    lfence
    rdtsc
    lfence
    shl $32, %rdx
    or %rax, %rdx
    mov %rdx, %r8
    \write
    lfence
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    sub %r8, %rax
    .endm

    .macro port_write offset
    movzwl \offset(%rdi), %edx
    mov $0x5a, %eax
    out %al, %dx
    .endm

    .macro memory_write offset
    mov \offset(%rdi), %rdx
    mov %r9d, (%rdx)
    .endm

exit_pairs_begin:
    mov (%rdi), %r9             # count
    mov 8(%rdi), %r10           # results, first place
    mov 16(%rdi), %r11          # results, second place
    cmpq $0, 32(%rdi)
    jne 2f
1:  timed "port_write 24"
    mov %rax, (%r10)
    add $8, %r10
    timed "port_write 26"
    mov %rax, (%r11)
    add $8, %r11
    dec %r9
    jnz 1b
    jmp 3f
2:  timed "memory_write 32"
    mov %rax, (%r10)
    add $8, %r10
    timed "memory_write 40"
    mov %rax, (%r11)
    add $8, %r11
    dec %r9
    jnz 2b
3:  mov $0xf4, %edx             # the debug-exit port ends the VM
    xor %eax, %eax
    out %eax, %dx
4:  jmp 4b
exit_pairs_end:
    .section .note.GNU-stack,"",@progbits
