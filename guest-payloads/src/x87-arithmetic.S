// # The results of the x87 unit
//
// Numbers of 80 bits in, numbers of 80 bits out, and what the status word says about them. Each row of a table is two observations: the significand,
// and a word (`.w`) with sign and exponent in its lower half and the status word in its upper one. Of the status only what is defined is kept: the
// exceptions, ES, C1 (rounded up, or the kind of stack fault), and the other condition codes where the instruction sets them.

#include "rb.inc"
#include "rows.inc"
#include "float.inc"

#define EXCEPTIONS_C1 0x82ff
#define CONDITIONS 0xc7ff // C0 to C3 as well

BEGIN
.globl main

// The top of the stack and the status, reported as the next row.
.macro REPORT mask=EXCEPTIONS_C1
  mov edx, \mask
  call report
.endm
report:
  fnstsw ax
  and eax, edx
  mov [result + 10], ax
  fstp tbyte ptr [result]
  mov ax, [result + 8]
  mov [words], ax
  mov ax, [result + 10]
  mov [words + 2], ax
  ROW [result]
  ROW [words], 'w'
  NEXT_ROW
  ret

// For each pair of the table: the first in ST(0), the second in ST(1), masked exceptions, `control` as the control word.
.macro BINARY name, table, control, op:vararg
  GROUP \name
  mov ebx, offset \table
91:
  mov word ptr [words], \control
  fninit
  fldcw [words]
  fld tbyte ptr [xbx + 16]
  fld tbyte ptr [xbx]
  \op
  REPORT
  add ebx, 32
  cmp ebx, offset \table\()_end
  jb 91b
.endm

.macro UNARY name, table, control, mask, op:vararg
  GROUP \name
  mov ebx, offset \table
91:
  mov word ptr [words], \control
  fninit
  fldcw [words]
  fld tbyte ptr [xbx]
  \op
  REPORT \mask
  add ebx, 16
  cmp ebx, offset \table\()_end
  jb 91b
.endm

// The remainder comes in steps; C2 says that there is more to do. The quotient's last three bits are in C0, C3 and C1.
.macro REMAINDER name, op
  GROUP \name
  mov ebx, offset remainders
91:
  fninit
  fld tbyte ptr [xbx + 16]
  fld tbyte ptr [xbx]
  mov ecx, 100
92:
  \op
  fnstsw ax
  test ah, 4
  jz 93f
  dec ecx
  jnz 92b
93:
  REPORT CONDITIONS
  add ebx, 32
  cmp ebx, offset remainders_end
  jb 91b
.endm

main:
  X87_ON
  STAGE arithmetic
  BINARY fadd, pairs, 0x37f, fadd st, st(1)
  BINARY fsub, pairs, 0x37f, fsub st, st(1)
  BINARY fsubr, short_pairs, 0x37f, fsubr st, st(1)
  BINARY fmul, pairs, 0x37f, fmul st, st(1)
  BINARY fdiv, pairs, 0x37f, fdiv st, st(1)
  BINARY fdivr, short_pairs, 0x37f, fdivr st, st(1)
  UNARY fsqrt, singles, 0x37f, EXCEPTIONS_C1, fsqrt
  UNARY fabs, singles, 0x37f, EXCEPTIONS_C1, fabs
  UNARY fchs, singles, 0x37f, EXCEPTIONS_C1, fchs

// ## Rounding control and precision control
//
// Bits 10 and 11 of the control word choose one of four directions, bits 8 and 9 the number of significand bits that a result of the basic operations is
// rounded to; the range of the exponent stays that of 80 bits.

  STAGE rounding
  BINARY fadd.up, short_pairs, 0xb7f, fadd st, st(1)
  BINARY fadd.down, short_pairs, 0x77f, fadd st, st(1)
  BINARY fadd.zero, short_pairs, 0xf7f, fadd st, st(1)
  BINARY fmul.up, short_pairs, 0xb7f, fmul st, st(1)
  BINARY fmul.down, short_pairs, 0x77f, fmul st, st(1)
  BINARY fdiv.up, short_pairs, 0xb7f, fdiv st, st(1)
  BINARY fdiv.down, short_pairs, 0x77f, fdiv st, st(1)
  BINARY fdiv.zero, short_pairs, 0xf7f, fdiv st, st(1)
  BINARY fadd.single, short_pairs, 0x07f, fadd st, st(1)
  BINARY fadd.double, short_pairs, 0x27f, fadd st, st(1)
  BINARY fmul.single, short_pairs, 0x07f, fmul st, st(1)
  BINARY fmul.double, short_pairs, 0x27f, fmul st, st(1)
  BINARY fdiv.single.up, short_pairs, 0x87f, fdiv st, st(1)
  BINARY fdiv.double.down, short_pairs, 0x67f, fdiv st, st(1)
  UNARY fsqrt.double, roots, 0x27f, EXCEPTIONS_C1, fsqrt
  UNARY frndint, halves, 0x37f, EXCEPTIONS_C1, frndint
  UNARY frndint.down, halves, 0x77f, EXCEPTIONS_C1, frndint
  UNARY frndint.up, halves, 0xb7f, EXCEPTIONS_C1, frndint
  UNARY frndint.zero, halves, 0xf7f, EXCEPTIONS_C1, frndint

// The constants are rounded as the control word says. (On the 8087 and the 80287 they were not.)

  STAGE constants
.irp direction, 0x37f, 0x77f, 0xb7f, 0xf7f
  GROUP constant.\direction
  .irp constant, fld1, fldz, fldpi, fldl2e, fldl2t, fldlg2, fldln2
  mov word ptr [words], \direction
  fninit
  fldcw [words]
  \constant
  REPORT
  .endr
.endr

// ## Parts and remainders

  STAGE parts
  REMAINDER fprem, fprem
  REMAINDER fprem1, fprem1
  BINARY fscale, scales, 0x37f, fscale
  GROUP fxtract // the exponent as a number, then the significand on top of it
  mov ebx, offset singles
1:
  fninit
  fld tbyte ptr [xbx]
  fxtract
  REPORT
  fnclex
  REPORT
  add ebx, 16
  cmp ebx, offset singles_end
  jb 1b

// Of the transcendental functions only what is exact, or special, is the same in every processor.

  STAGE functions
  UNARY f2xm1, powers, 0x37f, 0x5, f2xm1
  BINARY fyl2x, logarithms, 0x37f, fyl2x
  UNARY fsin, angles, 0x37f, 0x405, fsin // C2: the argument is out of range, and nothing was done
  UNARY fcos, angles, 0x37f, 0x405, fcos
  DONE

#define ZERO 0, 0
#define ONE 0x3fff, 0x8000000000000000
#define INFINITE 0x7fff, 0x8000000000000000
#define QNAN 0x7fff, 0xc000000000000000
#define SNAN 0x7fff, 0x8000000000000001

.macro PAIR se, significand, se2, significand2
  T80 \se, \significand
  T80 \se2, \significand2
.endm

.section .rodata.tables, "a"
.balign 16
pairs:
  PAIR 0x4000, 0x8000000000000000, 0x4000, 0xc000000000000000 // 2, 3
  PAIR ONE, 0xbfff, 0x8000000000000000 // 1, -1: the sum is +0
  PAIR 0x0000, 0, 0x8000, 0 // 0, -0
  PAIR 0x8000, 0, 0x8000, 0
  PAIR ONE, ZERO
  PAIR 0xbfff, 0x8000000000000000, 0x0000, 0
  PAIR INFINITE, ONE
  PAIR INFINITE, 0xffff, 0x8000000000000000
  PAIR INFINITE, INFINITE
  PAIR INFINITE, ZERO
  PAIR 0x7ffe, 0xffffffffffffffff, 0x7ffe, 0xffffffffffffffff // the largest, twice
  PAIR 0x0001, 0x8000000000000000, 0x7ffe, 0xffffffffffffffff // the smallest normal and the largest
  PAIR 0x7ffe, 0xffffffffffffffff, 0x0001, 0x8000000000000000
  PAIR 0x0001, 0x8000000000000000, 0x4000, 0x8000000000000000
  PAIR 0x0000, 0x0000000000000001, 0x3fff, 0xc000000000000000 // the smallest denormal, 1.5
  PAIR 0x0000, 0x7fffffffffffffff, 0x0000, 0x0000000000000001
  PAIR 0x0001, 0x8000000000000000, 0x8000, 0x0000000000000001
  PAIR 0x0001, 0x8000000000000001, 0x3ffe, 0x8000000000000000 // half of it is a denormal, inexact
  PAIR QNAN, ONE
  PAIR ONE, SNAN
  PAIR 0x7fff, 0xc000000000000005, 0xffff, 0xc000000000000009 // of two NaNs, the one with the larger significand
  PAIR 0x7fff, 0xc000000000000005, 0xffff, 0xc000000000000005 // equal: the positive one
  PAIR 0xffff, 0xc000000000000005, 0x7fff, 0xc000000000000005
  PAIR 0x7fff, 0x8000000000000123, 0x7fff, 0xc000000000000001 // signalling against quiet
  PAIR 0x7fff, 0xc000000000000001, 0x7fff, 0x8000000000000123
  PAIR 0x7fff, 0x8000000000000123, 0xffff, 0x8000000000000456
  PAIR SNAN, ZERO
  PAIR 0x4005, 0x7000000000000000, 0x3fff, 0x8000000000000000 // an unnormal: not a number since the 80387
  PAIR 0x0000, 0x8000000000000000, 0x3fff, 0x8000000000000000 // a pseudo-denormal: the same value as the smallest normal
  PAIR 0x7fff, 0x0000000000000000, 0x3fff, 0x8000000000000000 // a pseudo-infinity
  PAIR 0x7fff, 0x4000000000000000, 0x7fff, 0xc000000000000000 // a pseudo-NaN and a NaN
  PAIR 0x3fff, 0x8000000000000001, 0xbfff, 0x8000000000000000 // what is left is one unit in the last place
  PAIR 0x4040, 0x8000000000000000, 0xbfff, 0x8000000000000001 // far apart: a sticky bit
pairs_end:

short_pairs:
  PAIR 0x403e, 0x8000000000000000, 0x3ffe, 0x8000000000000000 // 2^63 and 1/2: exactly between two numbers, the even one below
  PAIR 0x403e, 0x8000000000000001, 0x3ffe, 0x8000000000000000 // the even one above
  PAIR 0xc03e, 0x8000000000000001, 0xbffd, 0x8000000000000000
  PAIR ONE, 0x4000, 0xc000000000000000 // 1, 3
  PAIR 0xbfff, 0x8000000000000000, 0x4000, 0xc000000000000000
  PAIR 0x3fff, 0x80000080000000ff, 0x3fff, 0x8000000000000401
  PAIR 0x3fff, 0x9249249249249249, 0xc000, 0xe38e38e38e38e38e
  PAIR 0x7ffe, 0xffffffffffffffff, 0x7ffe, 0xffffffffffffffff
  PAIR 0x0001, 0x8000000000000001, 0x8001, 0xc000000000000003
  PAIR ONE, 0xbfff, 0x8000000000000000 // rounding down, the sum is -0
short_pairs_end:

singles:
  T80 ONE
  T80 0xbfff, 0x8000000000000000
  T80 0x4000, 0x8000000000000000
  T80 0x4001, 0x9000000000000000 // 4.5
  T80 ZERO
  T80 0x8000, 0
  T80 INFINITE
  T80 0xffff, 0x8000000000000000
  T80 QNAN
  T80 0xffff, 0xa000000000000000 // signalling, negative
  T80 0x0000, 0x0000000000000400 // denormal
  T80 0x0000, 0x8000000000000000 // pseudo-denormal
  T80 0x4005, 0x7000000000000000 // unnormal
  T80 0x7ffe, 0xffffffffffffffff
singles_end:

roots:
  T80 0x4000, 0x8000000000000000
  T80 0x4000, 0xc000000000000000
  T80 0x3fff, 0x8000000000000001
roots_end:

halves:
  T80 0x3ffe, 0x8000000000000000 // 1/2
  T80 0x3fff, 0xc000000000000000 // 3/2
  T80 0x4000, 0xa000000000000000 // 5/2
  T80 0xbffe, 0x8000000000000000
  T80 0xbfff, 0xc000000000000000
  T80 0x3ffd, 0xffffffffffffffff
  T80 0xbffe, 0x8000000000000001
  T80 0x403d, 0xffffffffffffffff // 2^63 - 1/2
  T80 0x403e, 0xffffffffffffffff // an integer already
  T80 0x0000, 0x0000000000000001
halves_end:

remainders:
  PAIR 0x4001, 0xe000000000000000, 0x4000, 0xc000000000000000 // 7, 3
  PAIR 0xc001, 0xe000000000000000, 0x4000, 0xc000000000000000 // -7, 3
  PAIR 0x4001, 0xa000000000000000, 0x4000, 0x8000000000000000 // 5, 2: a tie for FPREM1
  PAIR 0x4001, 0xe000000000000000, 0x4000, 0x8000000000000000 // 7, 2
  PAIR 0x4001, 0xc000000000000000, 0x4000, 0xc000000000000000 // 6, 3: the remainder is a zero
  PAIR 0xc001, 0xc000000000000000, 0x4000, 0xc000000000000000
  PAIR 0x4100, 0xfedcba9876543211, 0x3fff, 0xc90fdaa22168c235 // far apart
  PAIR 0x4050, 0xfedcba9876543211, 0x4001, 0x9249249249249249
  PAIR ONE, INFINITE
  PAIR INFINITE, ONE
  PAIR ONE, ZERO
  PAIR ZERO, ONE
  PAIR 0x0000, 0x0000000000000007, 0x0000, 0x0000000000000002
  PAIR QNAN, ONE
remainders_end:

scales:
  PAIR ONE, 0x4001, 0xa000000000000000 // by 5
  PAIR ONE, 0xc000, 0xf000000000000000 // by -3.75: towards zero
  PAIR ONE, 0x400d, 0x8000000000000000 // out of range
  PAIR ONE, 0xc00e, 0x8000000000000000
  PAIR 0x3fff, 0x8000000000000001, 0xc00d, 0x8002000000000000 // into the denormals
  PAIR INFINITE, 0xffff, 0x8000000000000000
  PAIR ZERO, INFINITE
  PAIR 0xbfff, 0x8000000000000000, 0x7fff, 0x8000000000000000
  PAIR ONE, 0xffff, 0x8000000000000000
scales_end:

powers:
  T80 ZERO
  T80 0x8000, 0
  T80 ONE
  T80 0xbfff, 0x8000000000000000 // 1/2 - 1
  T80 QNAN
powers_end:

logarithms: // the argument, and what it is multiplied with
  PAIR 0x4002, 0x8000000000000000, 0x4000, 0xc000000000000000 // 8, 3
  PAIR ONE, 0x4000, 0xc000000000000000
  PAIR ZERO, ONE
  PAIR 0x3ffe, 0x8000000000000000, 0x3fff, 0x8000000000000000 // 1/2
  PAIR 0xbfff, 0x8000000000000000, 0x3fff, 0x8000000000000000
  PAIR INFINITE, ONE
  PAIR ONE, INFINITE
  PAIR ZERO, ZERO
logarithms_end:

angles:
  T80 ZERO
  T80 0x8000, 0
  T80 0x403e, 0x8000000000000000 // 2^63
  T80 INFINITE
  T80 QNAN
angles_end:

.bss
.balign 16
result: .skip 16
words: .skip 8
