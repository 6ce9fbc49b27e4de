# Guest code for blk_kill_stall: 64-bit, CPL 3, position-independent, copied into guest memory.
#
# RDI: struct DiskReads (figure_disk.cc). Makes the register writes of a script, which set up a virtio-blk queue, then
# reads 4 KiB from the disk again and again, one request at a time, each into another page, and times each read.
    .section .rodata
    .globl disk_reads_begin, disk_reads_end

disk_reads_begin:
    mov 16(%rdi), %rsi          # script: address (64 bits), value (32), width (32); width 0 ends it
1:  mov (%rsi), %rbx
    mov 8(%rsi), %eax
    mov 12(%rsi), %ecx
    add $16, %rsi
    test %ecx, %ecx
    jz 6f
    cmp $0x10000, %rbx
    jae 3f
    mov %ebx, %edx
    cmp $2, %ecx
    je 2f
    out %eax, %dx
    jmp 1b
2:  out %ax, %dx
    jmp 1b
3:  cmp $2, %ecx
    je 4f
    ja 5f
    mov %al, (%rbx)
    jmp 1b
4:  mov %ax, (%rbx)
    jmp 1b
5:  mov %eax, (%rbx)
    jmp 1b

6:  mov (%rdi), %r9             # count
    mov 8(%rdi), %r10           # results
    mov 24(%rdi), %r11          # descriptors: 0 header, 1 data, 2 status
    mov 32(%rdi), %r12          # available ring, whose entries are all 0
    mov 40(%rdi), %r13          # used ring
    mov 48(%rdi), %r14          # doorbell
    mov 56(%rdi), %r15          # header; the status byte follows it
    mov 64(%rdi), %rbx          # first buffer
    xor %ecx, %ecx              # requests so far
    xor %ebp, %ebp              # sector
7:  mov %rbx, 16(%r11)
    mov %rbp, 8(%r15)
    movb $0xff, 16(%r15)
    lfence
    rdtsc
    lfence
    shl $32, %rdx
    or %rax, %rdx
    mov %rdx, %r8
    inc %ecx
    mov %cx, 2(%r12)
    mfence
    movw $0, (%r14)
8:  pause
    cmp %cx, 2(%r13)
    jne 8b
    lfence
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    sub %r8, %rax
    cmpb $0, 16(%r15)
    jne 9f
    mov %rax, (%r10)
    add $8, %r10
    add $8, %rbp
    and $0x7fff, %ebp
    add 72(%rdi), %rbx          # from one buffer to the next
    cmp 80(%rdi), %rbx          # their end
    jb 10f
    sub 80(%rdi), %rbx
    add 64(%rdi), %rbx
10: dec %r9
    jnz 7b
    xor %eax, %eax
    jmp 11f
9:  mov $1, %eax                # a read failed
11: mov $0xf4, %edx             # the debug-exit port ends the VM
    out %eax, %dx
12: jmp 12b
disk_reads_end:
    .section .note.GNU-stack,"",@progbits
