// # Floating point in SSE and SSE2
//
// Singles and doubles, one or several at a time. MXCSR has the masks, the direction of rounding, two bits that replace denormals by zeros (on the way in:
// DAZ, bit 6; on the way out: FTZ, bit 15), and six sticky flags. A row is the result and the flags: of singles in one number, flags in the upper half; of
// doubles in two, the flags as `.f`. It is one program in three PARTs.

#include "rb.inc"
#include "rows.inc"
#include "float.inc"

#define MASKED 0x1f80
#define DOWN 0x2000
#define UP 0x4000
#define TO_ZERO 0x6000
#define FTZ 0x8000
#define DAZ 0x40

BEGIN
.globl main

.macro MXCSR value
  mov dword ptr [control], \value
  ldmxcsr [control]
.endm

.macro FLAGS_ROW letter='f'
  stmxcsr [control]
  mov eax, [control]
  and eax, 0x3f
  ROW_VALUE xax, \letter
  NEXT_ROW
.endm

.macro SINGLES name, mxcsr, op:vararg
  GROUP \name
  mov ebx, offset singles
91:
  MXCSR \mxcsr
  movss xmm0, dword ptr [xbx]
  movss xmm1, dword ptr [xbx + 4]
  \op
  movss dword ptr [result], xmm0
  stmxcsr [control]
  mov eax, [control]
  and eax, 0x3f
  mov [result + 4], eax
  ROW [result]
  NEXT_ROW
  add ebx, 8
  cmp ebx, offset singles_end
  jb 91b
.endm

.macro DOUBLES name, mxcsr, op:vararg
  GROUP \name
  mov ebx, offset doubles
91:
  MXCSR \mxcsr
  movsd xmm0, qword ptr [xbx]
  movsd xmm1, qword ptr [xbx + 8]
  \op
  movsd qword ptr [result], xmm0
  ROW [result]
  FLAGS_ROW
  add ebx, 16
  cmp ebx, offset doubles_end
  jb 91b
.endm

// Two vectors in, one out.
.macro PACKED name, table, op:vararg
  GROUP \name
  mov ebx, offset \table
91:
  MXCSR MASKED
  movups xmm0, [xbx]
  movups xmm1, [xbx + 16]
  \op
  movups [result], xmm0
  ROW [result]
  ROW [result + 8], 'h'
  FLAGS_ROW
  add ebx, 32
  cmp ebx, offset \table\()_end
  jb 91b
.endm

// Conversions: sixteen bytes of the table in XMM1, the result in XMM0 or EAX.
.macro CONVERT name, table, step, mxcsr, op:vararg
  GROUP \name
  mov ebx, offset \table
91:
  MXCSR \mxcsr
  movups xmm1, [xbx]
  pcmpeqd xmm0, xmm0
  \op
  movups [result], xmm0
  ROW [result]
  ROW [result + 8], 'h'
  FLAGS_ROW
  add ebx, \step
  cmp ebx, offset \table\()_end
  jb 91b
.endm

.macro TO_INTEGER name, table, step, mxcsr, register, op:vararg
  GROUP \name
  mov ebx, offset \table
91:
  MXCSR \mxcsr
  movups xmm1, [xbx]
  \op
  ROW_VALUE \register
  FLAGS_ROW
  add ebx, \step
  cmp ebx, offset \table\()_end
  jb 91b
.endm

// COMISS and its relatives answer in ZF, PF and CF.
.macro ORDER name, table, step, op:vararg
  GROUP \name
  mov ebx, offset \table
91:
  MXCSR MASKED
  movsd xmm0, qword ptr [xbx]
  movsd xmm1, qword ptr [xbx + \step / 2]
  mov eax, 0x80000000
  add eax, 0x80000000
  \op
  PUSHF
  pop xdx
  and edx, 0x8d5
  shl edx, 16
  stmxcsr [control]
  mov eax, [control]
  and eax, 0x3f
  or eax, edx
  ROW_VALUE xax
  NEXT_ROW
  add ebx, \step
  cmp ebx, offset \table\()_end
  jb 91b
.endm

// An unmasked exception stops the instruction before it has written anything but the flags.
.macro UNMASKED name, pair, mxcsr, op:vararg
  movups xmm0, [\pair]
  movups xmm1, [\pair + 16]
  MXCSR \mxcsr
  PROBE
1: \op
  CAUGHT \name
  stmxcsr [control]
  movups [result], xmm0
  mov eax, [control]
  and eax, 0x3f
  MXCSR MASKED
  OBS \name\().flags, xax
  mov eax, [result]
  OBS \name\().low, xax
  mov eax, [result + 12]
  OBS \name\().high, xax
.endm

main:
  SSE_ON
#if PART == 1

  STAGE singles
  SINGLES addss, MASKED, addss xmm0, xmm1
  SINGLES subss, MASKED, subss xmm0, xmm1
  SINGLES mulss, MASKED, mulss xmm0, xmm1
  SINGLES divss, MASKED, divss xmm0, xmm1
  SINGLES minss, MASKED, minss xmm0, xmm1
  SINGLES maxss, MASKED, maxss xmm0, xmm1
  SINGLES sqrtss, MASKED, sqrtss xmm0, xmm0
  STAGE doubles
  DOUBLES addsd, MASKED, addsd xmm0, xmm1
  DOUBLES subsd, MASKED, subsd xmm0, xmm1
  DOUBLES mulsd, MASKED, mulsd xmm0, xmm1
  DOUBLES divsd, MASKED, divsd xmm0, xmm1
  DOUBLES minsd, MASKED, minsd xmm0, xmm1
  DOUBLES maxsd, MASKED, maxsd xmm0, xmm1
  DOUBLES sqrtsd, MASKED, sqrtsd xmm0, xmm0

  STAGE control
  SINGLES addss.down, MASKED | DOWN, addss xmm0, xmm1
  SINGLES addss.up, MASKED | UP, addss xmm0, xmm1
  SINGLES mulss.zero, MASKED | TO_ZERO, mulss xmm0, xmm1
  SINGLES divss.up, MASKED | UP, divss xmm0, xmm1
  SINGLES mulss.ftz, MASKED | FTZ, mulss xmm0, xmm1
  SINGLES addss.daz, MASKED | DAZ, addss xmm0, xmm1
  SINGLES mulss.both, MASKED | DAZ | FTZ | UP, mulss xmm0, xmm1
  SINGLES sqrtss.daz, MASKED | DAZ, sqrtss xmm0, xmm0
  SINGLES minss.daz, MASKED | DAZ, minss xmm0, xmm1
  DOUBLES addsd.down, MASKED | DOWN, addsd xmm0, xmm1
  DOUBLES divsd.up, MASKED | UP, divsd xmm0, xmm1
  DOUBLES mulsd.zero, MASKED | TO_ZERO, mulsd xmm0, xmm1
  DOUBLES mulsd.ftz, MASKED | FTZ, mulsd xmm0, xmm1
  DOUBLES divsd.daz, MASKED | DAZ, divsd xmm0, xmm1
  DOUBLES sqrtsd.up, MASKED | UP, sqrtsd xmm0, xmm0

  STAGE compare
.irp predicate, 0, 1, 2, 3, 4, 5, 6, 7
  SINGLES cmpss.\predicate, MASKED, cmpss xmm0, xmm1, \predicate
.endr
  DOUBLES cmpsd.1, MASKED, cmpsd xmm0, xmm1, 1
  DOUBLES cmpsd.4, MASKED, cmpsd xmm0, xmm1, 4
  ORDER comiss, singles, 8, comiss xmm0, xmm1
  ORDER ucomiss, singles, 8, ucomiss xmm0, xmm1
  ORDER comisd, doubles, 16, comisd xmm0, xmm1
  ORDER ucomisd, doubles, 16, ucomisd xmm0, xmm1

#elif PART == 2

// ## Several at a time
//
// Flags are those of all lanes together. A scalar operation leaves the upper lanes of its destination as they were; a scalar load from memory clears them.

  STAGE packed
  PACKED addps, vectors, addps xmm0, xmm1
  PACKED subps, vectors, subps xmm0, xmm1
  PACKED mulps, vectors, mulps xmm0, xmm1
  PACKED divps, vectors, divps xmm0, xmm1
  PACKED minps, vectors, minps xmm0, xmm1
  PACKED maxps, vectors, maxps xmm0, xmm1
  PACKED sqrtps, vectors, sqrtps xmm0, xmm1
  PACKED cmpps, vectors, cmpltps xmm0, xmm1
  PACKED addpd, vectors, addpd xmm0, xmm1
  PACKED mulpd, vectors, mulpd xmm0, xmm1
  PACKED divpd, vectors, divpd xmm0, xmm1
  PACKED sqrtpd, vectors, sqrtpd xmm0, xmm1
  PACKED addss.upper, vectors, addss xmm0, xmm1
  PACKED sqrtsd.upper, vectors, sqrtsd xmm0, xmm1
  PACKED movss.upper, vectors, movss xmm0, xmm1
  PACKED movsd.load, vectors, movsd xmm0, qword ptr [xbx + 16]
  PACKED movss.load, vectors, movss xmm0, dword ptr [xbx + 16]
  PACKED andnps, vectors, andnps xmm0, xmm1
  PACKED shufps, vectors, shufps xmm0, xmm1, 0x8d
  PACKED shufpd, vectors, shufpd xmm0, xmm1, 1
  PACKED unpckhps, vectors, unpckhps xmm0, xmm1
  PACKED unpcklpd, vectors, unpcklpd xmm0, xmm1
  PACKED movhlps, vectors, movhlps xmm0, xmm1
  PACKED movlhps, vectors, movlhps xmm0, xmm1
  PACKED movhps, vectors, movhps xmm0, qword ptr [xbx + 16]
  GROUP movmsk
  movups xmm0, [vectors]
  movmskps eax, xmm0
  ROW_VALUE xax
  NEXT_ROW
  movmskpd eax, xmm0
  ROW_VALUE xax

// ## Conversions
//
// What does not fit into an integer is the integer indefinite, with the invalid flag; the forms with a second T truncate whatever MXCSR says.

  STAGE convert
  TO_INTEGER cvtss2si, conversions_single, 4, MASKED, xax, cvtss2si eax, xmm1
  TO_INTEGER cvttss2si, conversions_single, 4, MASKED | UP, xax, cvttss2si eax, xmm1
  TO_INTEGER cvtsd2si, conversions_double, 8, MASKED, xax, cvtsd2si eax, xmm1
  TO_INTEGER cvtsd2si.down, conversions_double, 8, MASKED | DOWN, xax, cvtsd2si eax, xmm1
  TO_INTEGER cvttsd2si, conversions_double, 8, MASKED, xax, cvttsd2si eax, xmm1
#if MODE == 64
  TO_INTEGER cvtss2si.64, conversions_single, 4, MASKED, rax, cvtss2si rax, xmm1
  TO_INTEGER cvttsd2si.64, conversions_double, 8, MASKED, rax, cvttsd2si rax, xmm1
  CONVERT cvtsi2sd.64, integers, 8, MASKED, cvtsi2sd xmm0, qword ptr [rbx]
  CONVERT cvtsi2ss.64, integers, 8, MASKED | UP, cvtsi2ss xmm0, qword ptr [rbx]
#endif
  CONVERT cvtsi2ss, integers, 4, MASKED, cvtsi2ss xmm0, dword ptr [xbx]
  CONVERT cvtsi2sd, integers, 4, MASKED, cvtsi2sd xmm0, dword ptr [xbx]
  CONVERT cvtss2sd, conversions_single, 4, MASKED, cvtss2sd xmm0, xmm1
  CONVERT cvtsd2ss, conversions_double, 8, MASKED, cvtsd2ss xmm0, xmm1
  CONVERT cvtsd2ss.ftz, conversions_double, 8, MASKED | FTZ, cvtsd2ss xmm0, xmm1
  CONVERT cvtps2pd, conversions_single, 16, MASKED, cvtps2pd xmm0, xmm1
  CONVERT cvtpd2ps, conversions_double, 16, MASKED, cvtpd2ps xmm0, xmm1
  CONVERT cvtdq2ps, integers, 16, MASKED, cvtdq2ps xmm0, xmm1
  CONVERT cvtdq2pd, integers, 16, MASKED, cvtdq2pd xmm0, xmm1
  CONVERT cvtps2dq, conversions_single, 16, MASKED, cvtps2dq xmm0, xmm1
  CONVERT cvttps2dq, conversions_single, 16, MASKED, cvttps2dq xmm0, xmm1
  CONVERT cvtpd2dq, conversions_double, 16, MASKED, cvtpd2dq xmm0, xmm1
  CONVERT cvttpd2dq, conversions_double, 16, MASKED, cvttpd2dq xmm0, xmm1

#else

// ## Exceptions

  STAGE unmasked
  UNMASKED xm.invalid, invalid_pair, MASKED & ~0x80, addps xmm0, xmm1
  UNMASKED xm.denormal, denormal_pair, MASKED & ~0x100, mulps xmm0, xmm1
  UNMASKED xm.zero, zero_pair, MASKED & ~0x200, divps xmm0, xmm1
  UNMASKED xm.overflow, overflow_pair, MASKED & ~0x400, mulps xmm0, xmm1
  UNMASKED xm.underflow, underflow_pair, MASKED & ~0x800, mulps xmm0, xmm1
  UNMASKED xm.precision, precision_pair, MASKED & ~0x1000, divps xmm0, xmm1
  UNMASKED xm.exact.underflow, exact_pair, MASKED & ~0x800, mulps xmm0, xmm1 // tiny and exact: unmasked, that is an underflow, too
  UNMASKED xm.both, both_pair, MASKED & ~0x280, divps xmm0, xmm1 // an invalid lane and a division by zero: both flags
  UNMASKED xm.before, before_pair, MASKED & ~0x200, divps xmm0, xmm1 // a division by zero in one lane: the flags of results are not computed
  UNMASKED xm.sticky, precision_pair, (MASKED & ~0x80) | 1, divps xmm0, xmm1 // a flag that was set before raises nothing
  UNMASKED xm.comiss, quiet_pair, MASKED & ~0x80, comiss xmm0, xmm1
  UNMASKED xm.ucomiss, quiet_pair, MASKED & ~0x80, ucomiss xmm0, xmm1
  UNMASKED xm.cvt, zero_pair, MASKED & ~0x1000, cvtps2dq xmm0, xmm1
#ifndef NATIVE
  mov xax, cr4
  and eax, ~0x400
  mov cr4, xax
  UNMASKED ud.osxmmexcpt, zero_pair, MASKED & ~0x200, divps xmm0, xmm1 // without CR4.OSXMMEXCPT it is an undefined opcode
  mov xax, cr4
  or eax, 0x400
  mov cr4, xax
#endif

// ## State in memory
//
// FXSAVE keeps the registers of both units. Its tag byte has a bit for each physical register that is not empty.

  STAGE state
  MXCSR (MASKED | UP | 1)
  fninit
  fld1
  fldpi
  movups xmm0, [vectors]
  movups xmm7, [vectors + 16]
  fxsave [area]
  GROUP fxsave
  movzx eax, word ptr [area] // FCW
  ROW_VALUE xax
  NEXT_ROW
  movzx eax, word ptr [area + 2] // FSW
  ROW_VALUE xax
  NEXT_ROW
  movzx eax, byte ptr [area + 4] // tags
  ROW_VALUE xax
  NEXT_ROW
  mov eax, [area + 24] // MXCSR
  ROW_VALUE xax
  NEXT_ROW
  ROW [area + 32] // ST(0)
  NEXT_ROW
  ROW [area + 48] // ST(1)
  NEXT_ROW
  ROW [area + 160] // XMM0
  NEXT_ROW
  ROW [area + 160 + 7 * 16 + 8]
  mov byte ptr [area + 4], 0x80 // ST(1) only
  xorps xmm0, xmm0
  MXCSR MASKED
  fxrstor [area]
  stmxcsr [control]
  mov eax, [control]
  OBS fxrstor.mxcsr, xax
  movmskps eax, xmm0
  OBS fxrstor.xmm0, xax
  fnstenv [area]
  movzx eax, word ptr [area + 8]
  OBS fxrstor.tags, xax
  PROBE
1: ldmxcsr [bad_mxcsr]
  CAUGHT mxcsr.reserved
  PROBE
1: movaps xmm0, [vectors + 4]
  CAUGHT movaps.odd
  PROBE
1: addps xmm0, [vectors + 4]
  CAUGHT addps.odd
  PROBE
1: movups xmm0, [vectors + 4]
  CAUGHT movups.odd
  PROBE
1: addss xmm0, dword ptr [vectors + 1]
  CAUGHT addss.odd
  MXCSR MASKED
#endif
  DONE

.section .rodata.tables, "a"
.balign 16
singles:
  .long 0x3f800000, 0x40400000 // 1, 3
  .long 0x3f800001, 0x33800000 // half a unit in the last place: a tie
  .long 0x3f800000, 0xbf800000
  .long 0x00000000, 0x80000000 // +0, -0: MIN and MAX give the second
  .long 0x80000000, 0x00000000
  .long 0xbf800000, 0x00000000
  .long 0x7f7fffff, 0x7f7fffff
  .long 0x00800000, 0x3f000001 // the product is denormal and inexact
  .long 0x00800000, 0x3f000000 // denormal and exact
  .long 0x00ffffff, 0x3f000000 // rounds up to the smallest normal: tiny before rounding and not after
  .long 0x00000001, 0x3f000000
  .long 0x807fffff, 0x3fc00000
  .long 0x00000001, 0x00000001
  .long 0x7f800000, 0xff800000
  .long 0x7f800000, 0x00000000
  .long 0x7fc00001, 0x3f800000 // a quiet NaN first
  .long 0x3f800000, 0xffc00002 // second
  .long 0x7fc00003, 0xffc00004 // both: the first
  .long 0x7f800005, 0x7fc00006 // signalling: quieted
  .long 0x3f800000, 0x7f800007
  .long 0x40490fdb, 0x402df854
  .long 0x4b7fffff, 0x3f000001
singles_end:

.balign 16
doubles:
  .quad 0x3ff0000000000000, 0x4008000000000000
  .quad 0x3ff0000000000001, 0x3ca0000000000000
  .quad 0x3ff0000000000000, 0xbff0000000000000
  .quad 0x0000000000000000, 0x8000000000000000
  .quad 0xbff0000000000000, 0x0000000000000000
  .quad 0x7fefffffffffffff, 0x7fefffffffffffff
  .quad 0x0010000000000000, 0x3fe0000000000001
  .quad 0x001fffffffffffff, 0x3fe0000000000000
  .quad 0x0000000000000001, 0x3ff8000000000000
  .quad 0x7ff0000000000000, 0xfff0000000000000
  .quad 0x7ff8000000000001, 0xfff8000000000002
  .quad 0x7ff0000000000003, 0x7ff8000000000004
  .quad 0x3ff0000000000000, 0x7ff0000000000005
  .quad 0x400921fb54442d18, 0x4005bf0a8b145769
doubles_end:

.balign 16
vectors:
  .long 0x3f800000, 0xc0400000, 0x7f7fffff, 0x00000001
  .long 0x40400000, 0x3f800001, 0x7f7fffff, 0x40000000
  .long 0x80000000, 0x00000000, 0x7fc12345, 0xff800000
  .long 0x00000000, 0x80000000, 0x3f800000, 0x7f800000
  .long 0x54442d18, 0x400921fb, 0x8b145769, 0xc005bf0a
  .long 0x9999999a, 0x3fb99999, 0x00000001, 0x7ff00000
vectors_end:

.balign 16
conversions_single:
  .long 0x3f000000, 0x3fc00000, 0xc0200000, 0x3f7fffff
  .long 0x4effffff, 0x4f000000, 0xcf000000, 0xcf000001
  .long 0x5effffff, 0x5f000000, 0x7f800000, 0x7fc00001
  .long 0x7f800001, 0x00000001, 0x80000000, 0x7f7fffff
conversions_single_end:
  .skip 16

.balign 16
conversions_double:
  .quad 0x3fe0000000000000, 0xbff8000000000000
  .quad 0x41dfffffffe00000, 0x41dfffffffc00000 // 2^31 - 1/2, 2^31 - 1
  .quad 0xc1e00000001fffff, 0xc1e0000000100000
  .quad 0x43dfffffffffffff, 0x43e0000000000000
  .quad 0xc3e0000000000000, 0x7ff0000000000000
  .quad 0x7ff4000000000001, 0x0000000000000001
  .quad 0x3ff0000010000000, 0x3ff0000030000000 // ties as singles
  .quad 0x47efffffefffffff, 0x47effffff0000000 // about the largest single
  .quad 0x380fffffe0000000, 0x380fffffffffffff // about the smallest normal one
  .quad 0x36a0000000000000, 0x3690000000000000
conversions_double_end:
  .skip 16

.balign 16
integers: .long 0, 1, -1, 0x7fffffff, 0x80000000, 0x01000001, 0xfeffffff, 0x7fffff80
integers_end:
  .skip 16

.balign 16
invalid_pair: .long 0x3f800000, 0x7f800000, 0x40000000, 0x40400000, 0x3f800000, 0xff800000, 0x3f800000, 0x3f800000
denormal_pair: .long 0x3f800000, 0x00000001, 0x40000000, 0x40400000, 0x3f800000, 0x40000000, 0x3f800000, 0x3f800000
zero_pair: .long 0x3f800000, 0x3f800000, 0x40000000, 0x40400000, 0x3f800000, 0x00000000, 0x3fc00000, 0x3f800000
overflow_pair: .long 0x3f800000, 0x7f000000, 0x40000000, 0x40400000, 0x3f800000, 0x7f000000, 0x3f800000, 0x3f800000
underflow_pair: .long 0x3f800000, 0x00800001, 0x40000000, 0x40400000, 0x3f800000, 0x3f000000, 0x3f800000, 0x3f800000
precision_pair: .long 0x3f800000, 0x3f800000, 0x40000000, 0x40400000, 0x3f800000, 0x40400000, 0x3f800000, 0x3f800000
exact_pair: .long 0x3f800000, 0x00800000, 0x40000000, 0x40400000, 0x3f800000, 0x3f000000, 0x3f800000, 0x3f800000
both_pair: .long 0x00000000, 0x3f800000, 0x40000000, 0x40400000, 0x00000000, 0x00000000, 0x3f800000, 0x3f800000
before_pair: .long 0x3f800000, 0x3f800000, 0x40000000, 0x40400000, 0x40400000, 0x00000000, 0x3f800000, 0x3f800000
quiet_pair: .long 0x7fc00000, 0x3f800000, 0x40000000, 0x40400000, 0x40400000, 0x00000000, 0x3f800000, 0x3f800000
bad_mxcsr: .long 0x80001f80

.bss
.balign 16
result: .skip 16
control: .skip 8
.balign 16
area: .skip 512
