# Entry of the network figures' guest: a PVH kernel (32-bit, CPL 0) that goes on as 64-bit code at CPL 3, where a KVM
# without hardware virtualization runs it as natively as one with. Everything below 4 GiB is mapped as it is, and open
# to CPL 3, as are all ports.
    .section .note.Xen, "a", @note
    .long 4, 4, 18              # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

    .set CR0_PE_NE_PG, 0x80000031
    .set CR4_PAE_OSFXSR_OSXMMEXCPT, 0x620
    .set MSR_SYSENTER_CS, 0x174
    .set MSR_EFER, 0xc0000080
    .set EFER_LME, 0x100

    .set KERNEL_CODE, 0x08      # SYSEXIT finds the others from here: +32 and +40
    .set KERNEL_DATA, 0x10
    .set USER_CODE, 0x28
    .set USER_DATA, 0x30
    .set TASK, 0x38

    .text
    .code32
    .globl _start
_start:
    lgdt gdt_pointer
    mov $CR4_PAE_OSFXSR_OSXMMEXCPT, %eax
    mov %eax, %cr4
    mov $level4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    mov $EFER_LME, %eax
    xor %edx, %edx
    wrmsr
    mov $CR0_PE_NE_PG, %eax
    mov %eax, %cr0
    ljmp $KERNEL_CODE, $1f
    .code64
1:  mov $KERNEL_DATA, %eax
    mov %eax, %ss
    mov $USER_DATA | 3, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov $TASK, %eax
    ltr %ax
    # SYSEXIT, because KVM's instruction emulator knows no other way down.
    mov $MSR_SYSENTER_CS, %ecx
    mov $KERNEL_CODE, %eax
    xor %edx, %edx
    wrmsr
    mov $stack_end - 8, %rcx    # as behind a call
    mov $run, %rdx
    sysexitq

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # kernel code, 64-bit
    .quad 0x00cf93000000ffff    # kernel data
    .quad 0x00cffb000000ffff    # user code, 32-bit
    .quad 0x00cff3000000ffff    # user data
    .quad 0x00affb000000ffff    # user code, 64-bit
    .quad 0x00cff3000000ffff    # user data
    .word task_end - task - 1   # the task state segment, 16 bytes; at 1 MiB to 16 MiB
    .word TASK_LOW
    .byte TASK_MIDDLE
    .byte 0x89, 0, 0
    .quad 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .balign 4096
level4:
    .quad level3 + 0x27         # present, writable, user, accessed
    .fill 511, 8, 0
level3:
    .quad level2 + 0x27, level2 + 0x1027, level2 + 0x2027, level2 + 0x3027
    .fill 508, 8, 0
level2:
    .set at, 0
    .rept 2048
    .quad at + 0xe7             # the same, dirty, and 2 MiB
    .set at, at + 0x200000
    .endr

    .balign 4096
    .globl task
task:
    .fill 102, 1, 0
    .word 104                   # the bitmap of ports: all open
    .fill 8192, 1, 0
    .byte 0xff
task_end:

    .bss
    .balign 16
    .skip 65536
stack_end:
    .section .note.GNU-stack,"",@progbits
