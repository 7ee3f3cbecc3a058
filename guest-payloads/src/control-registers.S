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

// ## Debug registers
//
// DR4 and DR5 are old names of DR6 and DR7, until CR4.DE takes them away. The upper halves of DR6 and DR7 are reserved.

  STAGE debug
  mov xax, [good_cr4]
  and eax, ~8
  mov cr4, xax
  mov xax, dr6
  .byte 0x0f, 0x21, 0xe1 // MOV xCX, DR4
  sub xcx, xax
  OBS dr4.alias, xcx
  mov xax, [good_cr4]
  or eax, 8
  mov cr4, xax
  PROBE
1: .byte 0x0f, 0x21, 0xe1
  CAUGHT dr4.gone
  RESTORE
#if MODE == 64
  PROBE
  mov eax, 0x400
  bts rax, 32
1: mov dr7, rax
  CAUGHT dr7.high
#endif

// ## Extended state
//
// SSE has two switches: CR4.OSFXSR says that the system knows how to save it, CR0.EM that there is no unit at all. FXSAVE itself needs only an
// aligned place.

  STAGE extended
  clts
  PROBE
1: fxsave [area + 8]
  CAUGHT fxsave.odd
  mov xax, [good_cr4]
  and eax, ~0x200
  mov cr4, xax
  PROBE
1: stmxcsr [area]
  CAUGHT sse.off
  mov xax, [good_cr4]
  or eax, 0x200
  mov cr4, xax
  stmxcsr [area]
  PROBE
  or dword ptr [area], 0xffff0000
1: ldmxcsr [area]
  CAUGHT mxcsr.reserved
  RESTORE
  mov xax, [good_cr4]
  or eax, 0x200
  mov cr4, xax
  mov xax, [good_cr0]
  or eax, 8
  mov cr0, xax
  PROBE
1: stmxcsr [area]
  CAUGHT sse.lazy
  RESTORE

#if MODE == 64
  PROBE
  mov rax, [good_cr4]
  and eax, ~0x20
1: mov cr4, rax
  CAUGHT cr4.pae
  RESTORE

// ## No tasks in long mode
//
// With NT set, IRET would return to another hardware task. There are none in long mode.

  STAGE nested
  PROBE
  push KDATA
  push offset rb_stack
  push 2
  push KCODE64
  push offset 2f
  push 0x4002
  popf
1: iretq
2:
  CAUGHT iret.nested
#else

// ## A base of 24 bits
//
// With a 16-bit operand LGDT loads a base as the 80286 knew it.

  STAGE tables
  sgdt [area + 2]
  mov byte ptr [area + 7], 0x5a
  .byte 0x66
  lgdt [area + 2]
  sgdt [area + 10]
  mov byte ptr [area + 7], 0
  lgdt [area + 2]
  movzx eax, byte ptr [area + 15]
  OBS gdt.top, eax

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
.balign 16
area: .skip 528
