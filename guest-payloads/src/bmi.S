// # Bit manipulation
//
// BMI1, BMI2, LZCNT and MOVBE: three-operand forms in VEX encoding, counts that define their result for zero, and moves that reverse bytes. A row is the
// result in its lower half and the defined flags in its upper one.

#include "rb.inc"
#include "rows.inc"

#define ZF_SF_CF_OF 0x8c1

BEGIN
.globl main

.macro RESULT mask
  PUSHF
  pop xdx
  and edx, \mask
  mov [row_value], eax
  mov [row_value + 4], edx
  ROW [row_value]
  NEXT_ROW
.endm

.macro EACH name, mask, op:vararg // operands in EBX and ECX, result in EAX
  GROUP \name
  mov xsi, offset operands
91:
  mov ebx, [xsi]
  mov ecx, [xsi + 4]
  mov edx, 0x12345678
  mov eax, 0x55555555
  xor edi, edi
  stc
  \op
  RESULT \mask
  add xsi, 8
  cmp xsi, offset operands_end
  jb 91b
.endm

main:
  STAGE bmi1
  EACH andn, ZF_SF_CF_OF, andn eax, ebx, ecx
  EACH bextr, 0x841, bextr eax, ebx, ecx // start and length in CL and CH
  EACH blsi, ZF_SF_CF_OF, blsi eax, ebx
  EACH blsmsk, 0x8c1, blsmsk eax, ebx
  EACH blsr, ZF_SF_CF_OF, blsr eax, ebx
  EACH tzcnt, 0x41, tzcnt eax, ebx
  EACH lzcnt, 0x41, lzcnt eax, ebx
  EACH tzcnt.16, 0x41, tzcnt ax, bx
  EACH lzcnt.16, 0x41, lzcnt ax, cx
  STAGE bmi2 // of these only BZHI touches the flags
  EACH bzhi, ZF_SF_CF_OF, bzhi eax, ebx, ecx
  EACH pdep, 1, pdep eax, ebx, ecx
  EACH pext, 1, pext eax, ebx, ecx
  EACH rorx, 1, rorx eax, ebx, 37
  EACH sarx, 1, sarx eax, ebx, ecx
  EACH shlx, 1, shlx eax, ebx, ecx
  EACH shrx, 1, shrx eax, ebx, ecx
  EACH mulx.high, 1, mulx eax, ebp, ecx
  EACH mulx.same, 1, mulx eax, eax, ebx // both results into one register: the upper half stays
  STAGE movbe
  GROUP movbe
  mov eax, 0x55555555
  movbe eax, [operands]
  RESULT 0
  movbe ax, [operands + 8]
  RESULT 0
  mov ebx, 0x01020304
  movbe [memory], ebx
  movbe [memory + 4], bx
  ROW [memory]
#if MODE == 64
  STAGE wide
  GROUP wide
.macro WIDE op:vararg
  mov rbx, 0x8000000180f0ff00
  mov rcx, 0x0ff00f0f00003c04
  mov rdx, 0xfedcba9876543210
  \op
  ROW_VALUE rax
  NEXT_ROW
.endm
  WIDE andn rax, rbx, rcx
  WIDE bextr rax, rbx, rcx
  WIDE blsi rax, rbx
  WIDE blsmsk rax, rbx
  WIDE blsr rax, rbx
  WIDE tzcnt rax, rbx
  WIDE lzcnt rax, rcx
  WIDE bzhi rax, rbx, rcx
  WIDE pdep rax, rdx, rcx
  WIDE pext rax, rdx, rcx
  WIDE rorx rax, rbx, 101
  WIDE sarx rax, rbx, rcx
  WIDE shlx rax, rbx, rcx
  WIDE shrx rax, rbx, rcx
  WIDE mulx rax, r15, rbx
  WIDE movbe rax, [operands]
  mov rax, -1
  andn eax, ebx, ecx // the upper half is cleared
  ROW_VALUE rax
#endif

// ## Encodings that are none
//
// A legacy prefix before VEX, VEX.L set, or the register forms of MOVBE are undefined opcodes.

  STAGE undefined
  PROBE
1: .byte 0x66, 0xc4, 0xe2, 0x60, 0xf2, 0xc1 // 66 ANDN
  CAUGHT ud.66
  PROBE
1: .byte 0xf3, 0xc4, 0xe2, 0x60, 0xf2, 0xc1
  CAUGHT ud.f3
  PROBE
1: .byte 0xf0, 0xc4, 0xe2, 0x60, 0xf2, 0xc1
  CAUGHT ud.lock
#if MODE == 64
  PROBE
1: .byte 0x48, 0xc4, 0xe2, 0x60, 0xf2, 0xc1
  CAUGHT ud.rex
#endif
  PROBE
1: .byte 0xc4, 0xe2, 0x64, 0xf2, 0xc1 // L = 1
  CAUGHT ud.l
  PROBE
1: .byte 0x0f, 0x38, 0xf0, 0xc1 // MOVBE with a register
  CAUGHT ud.movbe
  PROBE
1: .byte 0xc4, 0xe2, 0x60, 0xf3, 0xc1 // group 17, number 0
  CAUGHT ud.group
  DONE

.section .rodata.tables, "a"
.balign 8
operands:
  .long 0x00000000, 0x00000000
  .long 0x80000000, 0x0000081f
  .long 0x00000001, 0x00002000
  .long 0x12345678, 0xf0f0f0f0
  .long 0xffffffff, 0x00000105
  .long 0x00010000, 0x00001c04
  .long 0xdeadbeef, 0x00ff00ff
  .long 0x00008000, 0x80000021
operands_end:

.bss
.balign 8
memory: .skip 8
