// # Where a start-up message leads
//
// A processor that is woken by INIT and SIPI comes up in real mode at a page below 1 MiB. From there it goes to the door that every image has, with the
// mark of a second processor in EDX. A payload that wakes nobody does not have this linked in.

#include "rb.inc"

#if MODE == 32
.section .low.text.trampoline, "ax"
.balign 4096
.globl trampoline
CODE16
trampoline:
  cli
  xor eax, eax
  mov ds, ax
  lgdt [tramp_gdt]
  mov eax, cr0
  or eax, 1
  mov cr0, eax
  data32 ljmp KCODE32, offset tramp32
CODE32
tramp32:
  mov eax, KDATA
  mov ds, eax
  mov es, eax
  mov ss, eax
  mov edx, 0x52420001
  mov eax, offset door_multiboot
  jmp eax
.balign 8
tramp_gdt:
  .word GDT_LIMIT
  .long rb_gdt
#endif
