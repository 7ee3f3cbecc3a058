// # Done once
//
// What the first processor prepares for itself and for a second one: the low copy, a page table, a task-state segment. Assembled for 32- and
// 64-bit code, for the 64-bit door never leaves 64-bit mode.

#include "rb.inc"

#if MODE == 32
.section .text.once32, "ax"
CODE32
#else
.section .text.once64, "ax"
CODE64
#endif

// ## Below 64 KiB
//
// A real-mode program with all segments zero reaches the first 64 KiB. Loaders are free to refuse an image there, so the 16-bit parts travel
// inside the image and are copied down here, and what they expect to be zero is cleared.

.globl M(rb_once)
M(rb_once): // edi: door
  mov [rb_door], edi
  mov esi, offset low_image
  mov edi, offset low_start
  mov ecx, offset low_bytes
  rep movsb
  mov ecx, offset low_zero_bytes
  xor eax, eax
  rep stosb
  mov al, 3 // eight bits, no parity; the divisor stays as the machine had it
  mov edx, COM1 + 3
  out dx, al
  mov al, 0xff // both interrupt controllers: nothing arrives that a payload did not ask for
  out 0x21, al
  out 0xa1, al
  ret

// ## An identity map
//
// Four gigabytes in 2 MiB pages: one entry at the top, four below it, 2048 below those. Every page is open to ring 3 (bit 2), so that a payload
// which looks at privilege needs no second table. 1 GiB pages would need four entries only, but not every processor has them.

.section .text.identity, "ax"
#if MODE == 32
.globl rb_identity_map32
CODE32
rb_identity_map32:
#else
.globl rb_identity_map64
CODE64
rb_identity_map64:
#endif
  mov dword ptr [rb_pml4], offset rb_pdpt + 7
  mov eax, offset rb_pd + 7
  mov edi, offset rb_pdpt
  mov ecx, 4
1:
  mov [xdi], eax
  add eax, 4096
  add edi, 8
  dec ecx
  jnz 1b
  mov eax, 0x87 // present, writable, user, large
  mov edi, offset rb_pd
  mov ecx, 2048
2:
  mov [xdi], eax
  add eax, 0x200000
  add edi, 8
  dec ecx
  jnz 2b
  ret

// ## The task-state segment
//
// The processor reads two things from it here: the stack to use when ring 3 is interrupted, and where the I/O permission bitmap starts. An offset
// beyond the segment's limit means that there is none.

#define TSS_LIMIT 103

.section .text.tss, "ax"
#if MODE == 32
.globl rb_tss_setup32
CODE32
rb_tss_setup32:
  mov dword ptr [rb_tss + 4], offset rb_trap_stack
  mov dword ptr [rb_tss + 8], KDATA
#else
.globl rb_tss_setup64
CODE64
rb_tss_setup64:
  mov dword ptr [rb_tss + 4], offset rb_trap_stack // RSP0
  mov dword ptr [rb_tss + 36], offset rb_ist_stack // IST1
#endif
  mov word ptr [rb_tss + 102], TSS_LIMIT + 1
  mov eax, offset rb_tss
  mov edi, offset rb_gdt + TSS
  mov word ptr [xdi], TSS_LIMIT
  mov [xdi + 2], ax
  shr eax, 16
  mov [xdi + 4], al
  mov byte ptr [xdi + 5], 0x89 // present, available TSS
  mov byte ptr [xdi + 6], 0
  mov [xdi + 7], ah
#if MODE == 64
  mov qword ptr [rdi + 8], 0
#endif
  mov eax, TSS
  ltr ax
  ret
