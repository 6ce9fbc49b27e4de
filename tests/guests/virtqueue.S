// A driver of the virtio entropy device in slot 3: VIRTIO 1.2, sections 3.1 (initialization) and 2.7 (split virtqueues).
// A letter on the console says what it does: `r` a thousand requests, one after another; `h` one of HANGING bytes, which
// only a device program of the tests minds (tests/kvm/frail_device.cc), kicked twice; `s` tells whether the device needs a
// reset; `q` ends the guest.
#include "guest.inc"

.set COMMON, 0xd0000000
.set BELLS, 0xd0010000
.set FEATURE_SELECT, COMMON + 0x08
.set FEATURE, COMMON + 0x0c
.set STATUS, COMMON + 0x14
.set SELECT, COMMON + 0x16
.set SIZE, COMMON + 0x18
.set ENABLE, COMMON + 0x1c
.set DESC, COMMON + 0x20
.set DRIVER, COMMON + 0x28
.set DEVICE, COMMON + 0x30
.set QUEUE_SIZE, 4
.set REQUESTS, 1000
.set HANGING, 13

    .bss
    .balign 4096
descriptors: .skip 16 * QUEUE_SIZE
    .balign 4
avail: .skip 6 + 2 * QUEUE_SIZE
    .balign 4
used: .skip 6 + 8 * QUEUE_SIZE
    .balign 16
buffer: .skip 64
answered: .skip 4

    .text
    .globl guest_main
guest_main:
    config_write16 3, PCI_COMMAND, $0
    config_write32 3, PCI_BAR0, $COMMON
    config_write32 3, PCI_BAR1, $BELLS
    config_write16 3, PCI_COMMAND, $COMMAND_MEMORY|COMMAND_MASTER|COMMAND_INTX_DISABLE
    movb $0, STATUS
    movb $3, STATUS                 // ACKNOWLEDGE, DRIVER
    movl $1, FEATURE_SELECT
    movl $1, FEATURE                // VIRTIO_F_VERSION_1
    movl $0, FEATURE_SELECT
    movl $0, FEATURE
    movb $0xb, STATUS
    movzbl STATUS, %eax
    expect "device_status", %eax, $0xb
    movw $0, SELECT
    movw $QUEUE_SIZE, SIZE
    movl $descriptors, DESC
    movl $0, DESC + 4
    movl $avail, DRIVER
    movl $0, DRIVER + 4
    movl $used, DEVICE
    movl $0, DEVICE + 4
    movw $1, ENABLE
    movb $0xf, STATUS               // DRIVER_OK
    movl $buffer, descriptors
    movl $16, descriptors + 8
    movw $2, descriptors + 12       // VIRTQ_DESC_F_WRITE
    print "ready\n"

next_command:
    call get_char
    cmp $'r', %al
    je many
    cmp $'h', %al
    je hang
    cmp $'s', %al
    je status
    cmp $'q', %al
    jne next_command
    pass

many:
    mov $REQUESTS, %ebx
1:  call request
    dec %ebx
    jnz 1b
    print "answered\n"
    jmp next_command

// Descriptor 0 again, and the answer.
request:
    call offer
1:  movzwl used + 2, %eax
    cmp avail + 2, %ax
    je 2f
    pause
    jmp 1b
2:  dec %eax
    and $QUEUE_SIZE - 1, %eax
    mov used + 8(,%eax,8), %eax     // length of the used element
    expect "bytes", %eax, $16
    ret

offer:
    movzwl avail + 2, %eax
    and $QUEUE_SIZE - 1, %eax
    movw $0, avail + 4(,%eax,2)
    incw avail + 2
    lock orl $0, (%esp)
    movw $0, BELLS
    ret

// The first kick is taken; what follows finds nobody. No register of the device is touched.
hang:
    movl $HANGING, descriptors + 8
    call offer
    wait_ms 300
    movw $0, BELLS
    print "kicked\n"
    jmp next_command

status:
    movzbl STATUS, %eax
    test $0x40, %eax
    jz 1f
    print "needs reset\n"
    jmp next_command
1:  print "works\n"
    jmp next_command
