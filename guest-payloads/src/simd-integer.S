// # Integers, several at a time
//
// MMX has eight registers of 64 bits, which are the significands of the x87 stack; SSE2 has the same operations on 128 bits. Every operation is run on the
// same three pairs of operands: saturation, signs and lanes that overflow are all in them. A row is the lower half; `.h` the upper one.

#include "rb.inc"
#include "rows.inc"
#include "float.inc"

BEGIN
.globl main

// In the first register the first operand, in the second the second.
.macro XMM name, op:vararg
  GROUP \name
  mov ebx, offset operands
91:
  movdqu xmm0, [xbx]
  movdqu xmm1, [xbx + 16]
  \op
  movdqu [result], xmm0
  ROW [result]
  ROW [result + 8], 'h'
  NEXT_ROW
  add ebx, 32
  cmp ebx, offset operands_end
  jb 91b
.endm

.macro MM name, op:vararg
  GROUP \name
  mov ebx, offset operands
91:
  movq mm0, [xbx]
  movq mm1, [xbx + 16]
  \op
  movq [result], mm0
  ROW [result]
  NEXT_ROW
  add ebx, 32
  cmp ebx, offset operands_end
  jb 91b
.endm

.macro MASK name, op:vararg // into EAX
  GROUP \name
  mov ebx, offset operands
91:
  movdqu xmm0, [xbx]
  movq mm0, [xbx]
  \op
  ROW_VALUE xax
  NEXT_ROW
  add ebx, 32
  cmp ebx, offset operands_end
  jb 91b
.endm

main:
  SSE_ON
#if PART == 1

  STAGE sse2
.irp op, paddb, paddw, paddd, paddq, paddsb, paddsw, paddusb, paddusw, psubb, psubw, psubd, psubq, psubsb, psubsw, psubusb, psubusw
  XMM \op, \op xmm0, xmm1
.endr
.irp op, pmullw, pmulhw, pmulhuw, pmuludq, pmaddwd, psadbw, pavgb, pavgw, pminub, pmaxub, pminsw, pmaxsw
  XMM \op, \op xmm0, xmm1
.endr
.irp op, pcmpeqb, pcmpeqw, pcmpeqd, pcmpgtb, pcmpgtw, pcmpgtd, pand, pandn, por, pxor
  XMM \op, \op xmm0, xmm1
.endr
.irp op, packsswb, packssdw, packuswb, punpcklbw, punpcklwd, punpckldq, punpcklqdq, punpckhbw, punpckhwd, punpckhdq, punpckhqdq
  XMM \op, \op xmm0, xmm1
.endr
  XMM pshufd, pshufd xmm0, xmm1, 0x1b
  XMM pshuflw, pshuflw xmm0, xmm1, 0x93
  XMM pshufhw, pshufhw xmm0, xmm1, 0x39
  XMM pinsrw, pinsrw xmm0, [xbx + 17], 13 // the selector is taken modulo the lanes
  XMM psrldq, psrldq xmm0, 5
  XMM pslldq, pslldq xmm0, 11
  XMM psrldq.16, psrldq xmm0, 16 // everything is shifted out

// Counts that are too large clear the lanes, or fill them with the sign; a count in a register is all of its lower 64 bits.

.irp op, psllw, pslld, psllq, psrlw, psrld, psrlq, psraw, psrad
  XMM \op\().imm, \op xmm0, 3
  XMM \op\().large, \op xmm0, 200
  XMM \op\().count, \op xmm0, [counts]
  XMM \op\().wide, \op xmm0, [counts + 16]
.endr
  MASK pmovmskb, pmovmskb eax, xmm0
  MASK pextrw, pextrw eax, xmm0, 14

// MASKMOVDQU writes the bytes whose mask has its top bit set, at DI.

  STAGE masked
  movdqu xmm0, [operands]
  movdqu xmm1, [operands + 16]
  pcmpeqd xmm2, xmm2
  movdqu [result], xmm2
  mov edi, offset result
  maskmovdqu xmm0, xmm1
  GROUP maskmovdqu
  ROW [result]
  ROW [result + 8], 'h'

// A fault names what is wrong first: an alignment before an address that has no page would, but not before the unit is there.

  PROBE
1: paddb xmm0, [operands + 8]
  CAUGHT paddb.odd
  PROBE
1: movdqa [result + 4], xmm0
  CAUGHT movdqa.odd
  PROBE
1: movntdq [result + 4], xmm0
  CAUGHT movntdq.odd

#elif PART == 2

  STAGE mmx
.irp op, paddb, paddw, paddd, paddq, paddsb, paddsw, paddusb, paddusw, psubb, psubw, psubd, psubq, psubsb, psubsw, psubusb, psubusw
  MM mm.\op, \op mm0, mm1
.endr
.irp op, pmullw, pmulhw, pmulhuw, pmuludq, pmaddwd, psadbw, pavgb, pavgw, pminub, pmaxub, pminsw, pmaxsw
  MM mm.\op, \op mm0, mm1
.endr
.irp op, pcmpeqb, pcmpeqw, pcmpeqd, pcmpgtb, pcmpgtw, pcmpgtd, pand, pandn, por, pxor
  MM mm.\op, \op mm0, mm1
.endr
.irp op, packsswb, packssdw, packuswb, punpcklbw, punpcklwd, punpckldq, punpckhbw, punpckhwd, punpckhdq
  MM mm.\op, \op mm0, mm1
.endr
  MM mm.pshufw, pshufw mm0, mm1, 0x1b
  MM mm.pinsrw, pinsrw mm0, [xbx + 17], 6
.irp op, psllw, pslld, psllq, psrlw, psrld, psrlq, psraw, psrad
  MM mm.\op\().imm, \op mm0, 3
  MM mm.\op\().count, \op mm0, [counts]
  MM mm.\op\().wide, \op mm0, [counts + 16]
.endr
  MASK mm.pmovmskb, pmovmskb eax, mm0
  MASK mm.pextrw, pextrw eax, mm0, 7
  MM movdq2q, movdq2q mm0, xmm1
  XMM movq2dq, movq2dq xmm0, mm1
  XMM movq, movq xmm0, xmm1
  XMM movd, movd xmm0, dword ptr [xbx + 16]

// ## MMX and the stack
//
// An MMX instruction makes all tags valid and TOP zero, and writes ones to the sign and exponent of its register; EMMS makes all tags empty. Which of the
// x87 registers an MMX register is does not depend on TOP.

  STAGE aliasing
.irp register, mm0, mm1, mm2, mm3, mm4, mm5
  pxor \register, \register
.endr
  fninit
  fld1
  fldpi
  movq mm7, [operands]
  fnstenv [area]
  movzx eax, word ptr [area + 4]
  OBS alias.status, xax
  movzx eax, word ptr [area + 8]
  OBS alias.tags, xax
  fnsave [area]
  GROUP alias.7
  ROW [area + 28 + 70]
  movzx eax, word ptr [area + 28 + 78]
  ROW_VALUE xax, 'w'
  GROUP alias.6
  ROW [area + 28 + 60] // 3.14 was in physical register 6
  movzx eax, word ptr [area + 28 + 68]
  ROW_VALUE xax, 'w'
  fninit
  fld1
  movq [result], mm7 // reading does the same to tags and TOP
  GROUP alias.read
  ROW [result]
  fnstsw ax
  and eax, 0x3800
  OBS alias.top, xax
  emms
  fnstenv [area]
  movzx eax, word ptr [area + 8]
  OBS emms.tags, xax
  PROBE
1: paddb mm0, [operands + 1]
  CAUGHT mm.paddb.odd
  emms

#else

// ## SSE3 to SSE4.2, and POPCNT

  STAGE ssse3
.irp op, pshufb, phaddw, phaddd, phaddsw, phsubw, phsubd, phsubsw, pmaddubsw, pmulhrsw, psignb, psignw, psignd
  XMM \op, \op xmm0, xmm1
  MM mm.\op, \op mm0, mm1
.endr
.irp op, pabsb, pabsw, pabsd
  XMM \op, \op xmm0, xmm1
  MM mm.\op, \op mm0, mm1
.endr
.irp shift, 0, 5, 16, 23, 32
  XMM palignr.\shift, palignr xmm0, xmm1, \shift
.endr
  MM mm.palignr.3, palignr mm0, mm1, 3
  MM mm.palignr.11, palignr mm0, mm1, 11
  emms
  STAGE sse3
.irp op, addsubps, addsubpd, haddps, haddpd, hsubps, hsubpd, movsldup, movshdup, movddup
  GROUP \op
  movdqu xmm0, [floats]
  movdqu xmm1, [floats + 16]
  \op xmm0, xmm1
  movdqu [result], xmm0
  ROW [result]
  ROW [result + 8], 'h'
.endr
  XMM lddqu, lddqu xmm0, [xbx + 3]
  GROUP fisttp // truncates in any direction of rounding
  fninit
  fld qword ptr [minus_half]
  fisttp dword ptr [result]
  fld qword ptr [minus_half]
  fisttp qword ptr [result + 8]
  mov eax, [result]
  ROW_VALUE xax
  NEXT_ROW
  ROW [result + 8]

  STAGE sse4.1
.irp op, pcmpeqq, pmulld, pmuldq, pminsb, pminuw, pminsd, pminud, pmaxsb, pmaxuw, pmaxsd, pmaxud, packusdw, phminposuw
  XMM \op, \op xmm0, xmm1
.endr
.irp op, pmovsxbw, pmovsxbd, pmovsxbq, pmovsxwd, pmovsxwq, pmovsxdq, pmovzxbw, pmovzxbd, pmovzxbq, pmovzxwd, pmovzxwq, pmovzxdq
  XMM \op, \op xmm0, xmm1
.endr
  XMM pblendw, pblendw xmm0, xmm1, 0xa6
  XMM blendps, blendps xmm0, xmm1, 0xa
  XMM blendpd, blendpd xmm0, xmm1, 2
  XMM mpsadbw.5, mpsadbw xmm0, xmm1, 5
  XMM mpsadbw.2, mpsadbw xmm0, xmm1, 2
  XMM insertps, insertps xmm0, xmm1, 0xd9
  XMM pinsrb, pinsrb xmm0, [xbx + 19], 9
  XMM pinsrd, pinsrd xmm0, [xbx + 19], 2
  MASK pextrb, pextrb eax, xmm0, 13
  MASK pextrd, pextrd eax, xmm0, 3
  MASK extractps, extractps eax, xmm0, 1
.irp op, pblendvb, blendvps, blendvpd // the third operand is XMM0
  GROUP \op
  movdqu xmm0, [operands + 48]
  movdqu xmm2, [operands]
  movdqu xmm1, [operands + 16]
  \op xmm2, xmm1, xmm0
  movdqu [result], xmm2
  ROW [result]
  ROW [result + 8], 'h'
.endr
.irp control, 0, 1, 2, 3, 4, 8, 12
  mov dword ptr [result], 0x5f80 // upwards, where MXCSR is asked
  ldmxcsr [result]
  GROUP roundps.\control
  movdqu xmm1, [halves]
  roundps xmm0, xmm1, \control
  movdqu [result], xmm0
  ROW [result]
  ROW [result + 8], 'h'
  stmxcsr [result]
  mov eax, [result]
  and eax, 0x3f
  ROW_VALUE xax, 'f' // bit 3 keeps the precision flag down
  GROUP roundsd.\control
  movdqu xmm1, [halves_double]
  roundsd xmm0, xmm1, \control
  movdqu [result], xmm0
  ROW [result]
.endr
  mov dword ptr [result], 0x1f80
  ldmxcsr [result]
.irp mask, 0xf1, 0x7f, 0x38
  GROUP dpps.\mask
  movdqu xmm0, [floats]
  movdqu xmm1, [floats + 16]
  dpps xmm0, xmm1, \mask
  movdqu [result], xmm0
  ROW [result]
  ROW [result + 8], 'h'
.endr
  GROUP dppd
  movdqu xmm0, [floats + 32]
  movdqu xmm1, [floats + 48]
  dppd xmm0, xmm1, 0x31
  movdqu [result], xmm0
  ROW [result]
  ROW [result + 8], 'h'
  GROUP ptest // ZF and CF; the others are cleared
  mov ebx, offset operands
1:
  movdqu xmm0, [xbx]
  movdqu xmm1, [xbx + 16]
  mov eax, 0x80000000
  add eax, 0x80000000
  ptest xmm0, xmm1
  PUSHF
  pop xax
  and eax, 0x8d5
  ROW_VALUE xax
  NEXT_ROW
  pxor xmm0, xmm0
  ptest xmm0, xmm1
  PUSHF
  pop xax
  and eax, 0x8d5
  ROW_VALUE xax
  NEXT_ROW
  pcmpeqd xmm0, xmm0
  ptest xmm0, xmm1
  PUSHF
  pop xax
  and eax, 0x8d5
  ROW_VALUE xax
  NEXT_ROW
  add ebx, 32
  cmp ebx, offset operands_end
  jb 1b

// ## Strings
//
// Two strings, one in each register: of bytes or words, signed or not; equal any, ranges, equal each, equal ordered; the result negated or not, as an index
// or a mask. Implicit lengths end at a zero, explicit ones are in EAX and EDX, taken as absolute values.

  STAGE strings
.irp control, 0x00, 0x04, 0x08, 0x0c, 0x14, 0x1a, 0x3a, 0x44, 0x4a, 0x01, 0x09, 0x0d, 0x16, 0x72, 0x7b
  GROUP pcmpistri.\control
  movdqu xmm0, [text]
  movdqu xmm1, [text + 16]
  mov ecx, -1
  pcmpistri xmm0, xmm1, \control
  PUSHF
  pop xax
  and eax, 0x8d5
  shl eax, 16
  or eax, ecx
  ROW_VALUE xax
  NEXT_ROW
  movdqu xmm0, [text + 32]
  pcmpistri xmm0, xmm1, \control
  PUSHF
  pop xax
  and eax, 0x8d5
  shl eax, 16
  or eax, ecx
  ROW_VALUE xax
  GROUP pcmpestrm.\control
  movdqu xmm2, [text]
  mov eax, -5
  mov edx, 20
  pcmpestrm xmm2, xmm1, \control
  PUSHF
  pop xax
  and eax, 0x8d5
  movdqu [result], xmm0
  ROW [result]
  ROW [result + 8], 'h'
  ROW_VALUE xax, 'f'
.endr
  GROUP pcmpestri
  movdqu xmm0, [text]
  mov eax, 3
  mov edx, 16
  pcmpestri xmm0, [text + 17], 0x0c // no alignment is asked for
  ROW_VALUE xcx
  GROUP pcmpistrm
  movdqu xmm1, [text]
  pcmpistrm xmm1, [text + 16], 0x48
  movdqu [result], xmm0
  ROW [result]
  ROW [result + 8], 'h'
  XMM pcmpgtq, pcmpgtq xmm0, xmm1

  STAGE words
  GROUP crc32
  mov ebx, offset operands
  mov ecx, -1
1:
  crc32 ecx, byte ptr [xbx]
  ROW_VALUE xcx
  NEXT_ROW
  crc32 ecx, word ptr [xbx + 1]
  ROW_VALUE xcx
  NEXT_ROW
  crc32 ecx, dword ptr [xbx + 3]
  ROW_VALUE xcx
  NEXT_ROW
#if MODE == 64
  mov rdx, -1
  crc32 rdx, qword ptr [rbx]
  ROW_VALUE rdx, 'q'
  mov rdx, -1
  crc32 rdx, byte ptr [rbx]
  ROW_VALUE rdx, 'b'
#endif
  add ebx, 32
  cmp ebx, offset operands_end
  jb 1b
  GROUP popcnt
  mov ebx, offset operands
1:
  popcnt eax, dword ptr [xbx]
  PUSHF
  pop xdx
  and edx, 0x8d5
  shl edx, 16
  or eax, edx
  ROW_VALUE xax
  NEXT_ROW
  add ebx, 8
  cmp ebx, offset operands_end
  jb 1b
  xor edx, edx
  mov eax, 0x5555ffff
  popcnt ax, dx
  PUSHF
  pop xdx
  and edx, 0x8d5
  OBS popcnt.16, xax
  OBS popcnt.zero, xdx
#if MODE == 64
  popcnt rax, [operands]
  OBS popcnt.64, rax
  movdqu xmm0, [operands]
  pextrq rax, xmm0, 1
  OBS pextrq, rax
  pinsrq xmm0, [operands + 24], 0
  movq rax, xmm0
  OBS pinsrq, rax
#endif
#endif
  DONE

.section .rodata.tables, "a"
.balign 16
operands:
  .quad 0x7fff80000001ff80, 0x80807f7f00ff0100, 0x0001ffff7f808001, 0x80ff0180ff017f80
  .quad 0x0123456789abcdef, 0xfedcba9876543210, 0x00ff00ff80008000, 0x0303050709000280
  .quad 0xffffffff80000000, 0x8000000000000001, 0x7fffffff80000000, 0x0102030405060708
operands_end:
  .quad 0, 0
.balign 16
counts: .quad 15, 1, 0x100000003, 0
floats: .long 0x3f800000, 0xc0200000, 0x40600000, 0x42c80000, 0x3e800000, 0x40400000, 0xbf800000, 0x41200000
  .quad 0x3ff8000000000000, 0xc004000000000000, 0x4010000000000000, 0x3fd0000000000000
halves: .long 0x3f000000, 0x3fc00000, 0xc0200000, 0xbe99999a
halves_double: .quad 0xc004000000000000, 0
minus_half: .quad 0xc002666666666666 // -2.3
text: .ascii "aBcz09 \377aBc\200"
  .byte 0, 'z', 'z', 'z'
  .ascii "xaBczaBc"
  .byte 0, 'a', 'B', 'c', 'd', 0x80, 1, 2
  .ascii "az09AZ"
  .byte 0, 0, 1, 0, 2, 0, 3, 0, 4, 0

.bss
.balign 16
result: .skip 16
area: .skip 128
