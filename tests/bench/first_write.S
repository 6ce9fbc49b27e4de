# A PVH kernel whose first act is a port write ('X' to the first serial port), and which then halts for good.
    .section .note.Xen, "a", @note
    .long 4, 4, 18              # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

    .text
    .code32
    .globl _start
_start:
    mov $0x3f8, %edx
    mov $'X', %al
    out %al, %dx
    cli
1:  hlt
    jmp 1b
    .section .note.GNU-stack,"",@progbits
