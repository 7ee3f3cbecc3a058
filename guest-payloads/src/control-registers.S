// # Control registers that refuse values
//
// Some combinations of bits make no sense and some bits are reserved. Writing them is a general-protection fault, and the register keeps its value.
// A processor that accepts one of these may not survive the next instruction, so the harmless ones come first.

#include "rb.inc"
BEGIN
.globl main
main:
  mov xax, cr0
  mov [good_cr0], xax
  mov xax, cr4
  mov [good_cr4], xax

.macro RESTORE
  push xax
  mov xax, [good_cr4]
  mov cr4, xax
  mov xax, [good_cr0]
  mov cr0, xax
  pop xax
.endm

  STAGE model-specific
  PROBE
  mov ecx, 0x12345678
1: rdmsr
  CAUGHT rdmsr
  PROBE
  mov ecx, 0x12345678
  xor eax, eax
  xor edx, edx
1: wrmsr
  CAUGHT wrmsr

// ## CR0
//
// NW without CD is a cache that is neither off nor on. The low bit ET reads as one whatever is written.

  STAGE cr0
  PROBE
  mov xax, [good_cr0]
  or eax, 0x20000000
1: mov cr0, xax
  CAUGHT cr0.nw
  RESTORE
  mov xax, [good_cr0]
  and eax, ~0x10
  mov cr0, xax
  mov xax, cr0
  and eax, 0x10
  OBS cr0.et, xax
  RESTORE
#if MODE == 64
  PROBE
  mov rax, [good_cr0]
  bts rax, 32
1: mov cr0, rax
  CAUGHT cr0.high
  RESTORE
#endif

// LMSW sets the low four bits and can set PE but not clear it; CLTS clears TS. Both are older than the control registers.

  STAGE lmsw
  mov eax, 0xe
  lmsw ax
  mov xax, cr0
  and eax, 0xf
  OBS lmsw, xax
  clts
  mov xax, cr0
  and eax, 0xf
  OBS clts, xax
  RESTORE

#if MODE == 64

// ## What long mode rests on

  STAGE long
  PROBE
  mov ecx, 0xc0000100
  xor eax, eax
  mov edx, 0x8000 // FS base must be canonical
1: wrmsr
  CAUGHT fsbase
  PROBE
  mov ecx, 0xc0000080
  rdmsr
  and eax, ~0x100 // LME may not change while paging is on
1: wrmsr
  CAUGHT efer.lme
  mov ecx, 0xc0000080
  rdmsr
  or eax, 0x100
  wrmsr
  PROBE
  mov ecx, 0xc0000080
  rdmsr
  or eax, 2 // reserved
1: wrmsr
  CAUGHT efer.reserved
  PROBE
  mov rax, [good_cr0]
  btr rax, 31 // paging off in 64-bit code: only compatibility mode may
1: mov cr0, rax
  CAUGHT cr0.pg
#endif

// ## CR4

  STAGE cr4
  PROBE
  mov xax, [good_cr4]
  or eax, 0x80000000 // reserved
1: mov cr4, xax
  CAUGHT cr4.reserved
  RESTORE
#if MODE == 64
  PROBE
  mov rax, [good_cr4]
  bts rax, 32
1: mov cr4, rax
  CAUGHT cr4.high
  RESTORE
#endif

#if MODE == 64
  PROBE
  mov rax, [good_cr4]
  and eax, ~0x20
1: mov cr4, rax
  CAUGHT cr4.pae
#else

// ## Paging rests on protection

  STAGE paging
  PROBE
  mov eax, 0x80000010 // PG without PE
1: mov cr0, eax
  CAUGHT cr0.pg
#endif
  DONE

.bss
.balign 8
good_cr0: .skip 8
good_cr4: .skip 8
