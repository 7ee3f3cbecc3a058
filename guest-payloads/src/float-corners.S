// # Corners of floating point
//
// Single facts that a table of operands does not meet: what is tiny, which of two exceptions is told, what a tag says of a denormal, who clears C1, who
// looks for an exception that waits, and how long the flags of MXCSR stay.

#include "rb.inc"
#include "float.inc"

BEGIN
.globl main

.macro STATUS name
  fnstsw ax
  movzx eax, ax
  OBS \name, xax
.endm

.macro MXCSR name
  stmxcsr [control]
  mov eax, [control]
  OBS \name, xax
.endm

main:
  SSE_ON

// ## What is tiny
//
// A result underflows if it would be below the least normal number *after* rounding with as many exponents as one likes. So of two numbers that both round
// up to the least normal one, the nearer is inexact and no more.

  STAGE tiny
  fninit
  fld tbyte ptr [nearest]
  fstp qword ptr [number]
  STATUS tiny.near
  mov eax, [number + 4]
  OBS tiny.near.high, xax
  fninit
  fld tbyte ptr [further]
  fstp qword ptr [number]
  STATUS tiny.further
  mov eax, [number + 4]
  OBS tiny.further.high, xax
  fninit
  fld tbyte ptr [nearest_single]
  fstp dword ptr [number]
  STATUS tiny.near.single
  mov eax, [number]
  OBS tiny.near.single.value, xax
  mov dword ptr [control], 0x1f80
  ldmxcsr [control]
  movsd xmm0, [least]
  mulsd xmm0, [below_one] // 1 - 2^-53 of the least normal number: exactly between
  movsd [number], xmm0
  MXCSR tiny.product
  mov eax, [number + 4]
  OBS tiny.product.high, xax

// ## A denormal number divided by zero
//
// Division by zero comes first, and hides that an operand was denormal.

  STAGE order
  fninit
  fldz
  fld tbyte ptr [denormal]
  fdivrp st(1), st
  STATUS divide.denormal-zero
  mov dword ptr [control], 0x1f80
  ldmxcsr [control]
  movsd xmm0, [denormal_double]
  xorpd xmm1, xmm1
  divsd xmm0, xmm1
  MXCSR divide.sse

// ## Tags

  STAGE tags
  fninit
  fld tbyte ptr [denormal]
  fnstenv [environment]
  movzx eax, word ptr [environment + 8]
  OBS tag.denormal, xax
  fninit
  fld1
  fldz
  fld tbyte ptr [infinity]
  fnstenv [environment]
  movzx eax, word ptr [environment + 8]
  OBS tag.others, xax

// ## C1
//
// An inexact result says by it that it was rounded up. Exchanging registers is no result, and clears it.

  STAGE c1
  fninit
  fldpi
  fld1
  fld dword ptr [three]
  fdivp st(1), st
  STATUS c1.third
  fxch st(1)
  STATUS c1.exchanged
  fninit
  fld1
  fld dword ptr [three]
  fdivp st(1), st
  fchs
  STATUS c1.sign
  fninit
  fldpi
  fld1
  fld dword ptr [three]
  fdivp st(1), st
  fucom st(1)
  STATUS c1.compared

// ## Exceptions that wait
//
// An unmasked one is raised by the next instruction of the unit that waits, and MMX instructions are such.

  STAGE waiting
  fninit
  fldcw [unmasked]
  fld1
  fldz
  fdivp st(1), st
  PROBE
1: movd mm0, eax
  CAUGHT mmx
  fninit
  fldcw [unmasked]
  fld1
  fldz
  fdivp st(1), st
  PROBE
1: emms
  CAUGHT emms
  fninit
  fldcw [unmasked]
  fld1
  fldz
  fdivp st(1), st
  PROBE
1: movaps xmm0, xmm1 // not of the unit
  CAUGHT sse
  fnclex

// ## Flags that stay

  STAGE sticky
  mov dword ptr [control], 0x1f80
  ldmxcsr [control]
  movss xmm0, [one]
  divss xmm0, [three]
  MXCSR sticky.inexact
  movss xmm0, [one]
  addss xmm0, [one]
  MXCSR sticky.exact
  movss xmm0, [one]
  xorps xmm1, xmm1
  divss xmm0, xmm1
  MXCSR sticky.zero
  movaps xmm0, [ones]
  mulps xmm0, [ones]
  MXCSR sticky.packed
  movaps xmm0, [ones]
  sqrtps xmm0, xmm0
  MXCSR sticky.root

// ## One denormal lane

.macro LANES name, instruction, operand, before=0x1f80
  mov dword ptr [control], \before
  ldmxcsr [control]
  movaps xmm0, [ones]
  \instruction xmm0, [\operand]
  MXCSR \name
.endm
  STAGE lanes
  LANES addps, addps, denormal_lane
  LANES mulps, mulps, denormal_lane
  LANES divps, divps, denormal_lane
  LANES maxps, maxps, denormal_lane
  LANES addpd, addpd, denormal_pair
  LANES cmpps, cmpeqps, denormal_lane
  LANES exact, addps, ones
  LANES again.addps, addps, denormal_lane, 0x1fa0 // an inexact result is nothing new
  LANES again.divps, divps, denormal_lane, 0x1fa0
  LANES again.addpd, addpd, denormal_pair, 0x1fa0
  LANES again.exact, addps, ones, 0x1fa0
  mov dword ptr [control], 0x1fc0 // denormals are zeros
  ldmxcsr [control]
  movaps xmm0, [ones]
  addps xmm0, [denormal_lane]
  MXCSR zeros
  DONE

.section .rodata
.balign 16
nearest: T80 0x3c00, 0xffffffffffffffff
further: T80 0x3c00, 0xfffffffffffffa00
nearest_single: T80 0x3f80, 0xffffffffffffffff
denormal: T80 0, 1
infinity: T80 0x7fff, 0x8000000000000000
least: .quad 0x0010000000000000
below_one: .quad 0x3fefffffffffffff
denormal_double: .quad 1
.balign 16
denormal_lane: .long 0x3f800000, 1, 0x3f800000, 0x3f800000
denormal_pair: .quad 0x3ff0000000000000, 1
ones: .long 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000
one: .long 0x3f800000
three: .long 0x40400000
unmasked: .short 0x37b // ZM clear

.bss
.balign 16
number: .skip 16
control: .skip 16
environment: .skip 32
