// # What else the x87 unit has to get right
//
// The stack and its tags, comparisons, conversions to and from memory, decimal numbers, the environment in its two formats, and exceptions that are not
// masked. The control word that FNINIT leaves (37F) masks everything; the value of an unmasked one has a zero where the exception is named.

#include "rb.inc"
#include "rows.inc"
#include "float.inc"

#define IM 1
#define DM 2
#define ZM 4
#define OM 8
#define UM 0x10
#define PM 0x20
#define CONDITIONS 0x4700 // C3, C2, C1, C0
#define TOP 0x3800
#define WITHOUT_CONDITIONS 0xb8ff

BEGIN
.globl main

.macro STATUS name, mask=0xffff
  fnstsw ax
  and eax, \mask
  OBS \name, xax
.endm

.macro CONTROL value
  mov word ptr [words], \value
  fldcw [words]
.endm

// Two comparisons of each pair: conditions and exceptions.
.macro COMPARE name, op:vararg
  GROUP \name
  mov ebx, offset pairs
91:
  fninit
  fld tbyte ptr [xbx + 16]
  fld tbyte ptr [xbx]
  \op
  fnstsw ax
  and eax, 0x47ff & ~TOP & ~0x200
  ROW_VALUE xax
  NEXT_ROW
  add ebx, 32
  cmp ebx, offset pairs_end
  jb 91b
.endm

// FCOMI and its relatives answer in EFLAGS: ZF, PF, CF. OF, SF and AF are cleared.
.macro COMPARE_FLAGS name, op:vararg
  GROUP \name
  mov ebx, offset pairs
91:
  fninit
  fld tbyte ptr [xbx + 16]
  fld tbyte ptr [xbx]
  mov eax, 0x80000000 // flags that are to disappear
  add eax, 0x80000000
  \op
  PUSHF
  pop xax
  and eax, 0x8d5
  shl eax, 16
  mov edx, eax
  fnstsw ax
  and eax, 0xff
  or eax, edx
  ROW_VALUE xax
  NEXT_ROW
  add ebx, 32
  cmp ebx, offset pairs_end
  jb 91b
.endm

// Stores each number of the table in all four directions: eight bytes of memory, and the exceptions.
.macro STORE name, op:vararg
  GROUP \name
  mov ebx, offset numbers
91:
  mov ecx, 0
92:
  fninit
  fld tbyte ptr [xbx]
  mov eax, ecx
  shl eax, 10
  or eax, 0x37f
  mov [words], ax
  fldcw [words]
  mov dword ptr [memory], 0x55555555
  mov dword ptr [memory + 4], 0x55555555
  \op [memory]
  ROW [memory]
  fnstsw ax
  and eax, 0x2ff
  ROW_VALUE xax, 'w'
  NEXT_ROW
  inc ecx
  cmp ecx, 4
  jb 92b
  add ebx, 16
  cmp ebx, offset numbers_end
  jb 91b
.endm

// An unmasked exception: the status after the operation, what is on the stack, and then the instruction that waits.
.macro UNMASKED name, table, masks, op:vararg
  fninit
  fld tbyte ptr [\table + 16]
  fld tbyte ptr [\table]
  CONTROL (0x37f & ~(\masks))
  \op
  fnstsw ax
  and eax, 0xbaff
  OBS \name\().status, xax
  PROBE
1: fwait
  CAUGHT \name
  fnsave [area]
  GROUP \name\().result
  ROW [area + 28]
  movzx eax, word ptr [area + 36]
  ROW_VALUE xax, 'w'
.endm

main:
  X87_ON
#ifndef STORES

// ## The stack
//
// Eight registers; TOP says which is ST(0). Pushing onto a full register, or using an empty one, is an invalid operation with SF set; C1 tells which.

  STAGE stack
  fninit
  STATUS stack.reset
  fnstcw [words]
  movzx eax, word ptr [words]
  OBS stack.reset.control, xax
  .rept 8
  fld1
  .endr
  STATUS stack.full, 0xbfff
  fldz
  STATUS stack.overflow, 0xbfff & ~0x4500
  fnclex
  fstp tbyte ptr [memory]
  GROUP stack.overflow.result
  ROW [memory]
  movzx eax, word ptr [memory + 8]
  ROW_VALUE xax, 'w'
  fninit
  fadd st, st(1)
  STATUS stack.underflow, 0xbaff
  fstp tbyte ptr [memory]
  movzx eax, word ptr [memory + 8]
  OBS stack.underflow.result, xax
  fninit
  fld1
  fxch st(3) // the empty one becomes the indefinite
  STATUS stack.fxch, 0xbaff
  fstp qword ptr [memory]
  mov eax, [memory + 4]
  OBS stack.fxch.result, xax
  fninit
  fst dword ptr [memory]
  mov eax, [memory]
  OBS stack.store.empty, xax
  STATUS stack.store.empty.status, 0xbaff
  fninit
  fld1
  fdecstp
  STATUS stack.fdecstp, TOP
  fincstp
  fincstp
  STATUS stack.fincstp, TOP
  fninit
  fld1
  ffree st(0)
  fxam // empty: C3 and C0
  STATUS stack.ffree, 0x4500
  fninit
  fld1
  fldz
  fcomp st(1) // pops once
  STATUS stack.fcomp, TOP | 0x4500
  fninit
  fld1
  fldz
  fucompp
  STATUS stack.fucompp, TOP | 0x4500
  fninit
  fld1
  fldpi
  mov eax, 0
  cmp eax, 1
  fcmovb st, st(1)
  fstp qword ptr [memory]
  mov eax, [memory + 4]
  OBS stack.fcmovb, xax
  fcmovnbe st, st(5) // the condition is not met, and still: empty
  STATUS stack.fcmov.empty, 0xbaff

// ## Classes and comparisons

  STAGE compare
  GROUP fxam
  mov ebx, offset numbers
1:
  fninit
  fld tbyte ptr [xbx]
  fxam
  fnstsw ax
  and eax, CONDITIONS
  ROW_VALUE xax
  NEXT_ROW
  add ebx, 16
  cmp ebx, offset numbers_end
  jb 1b
  COMPARE fcom, fcom st(1)
  COMPARE fucom, fucom st(1)
  COMPARE ftst, ftst
  COMPARE_FLAGS fcomi, fcomi st, st(1)
  COMPARE_FLAGS fucomi, fucomi st, st(1)

// ## The environment
//
// Two formats, by operand size: seven words or seven doublewords. The tag word has two bits for each physical register: valid, zero, special, empty. The
// registers of FSAVE are in the order of the stack.

  STAGE environment
  fninit
  fldz
  fld1
  fldpi
  fld tbyte ptr [numbers_special]
  fnstenv [area] // and masks everything
  GROUP environment.32
  movzx eax, word ptr [area]
  ROW_VALUE xax, 'c'
  movzx eax, word ptr [area + 4]
  ROW_VALUE xax, 's'
  movzx eax, word ptr [area + 8]
  ROW_VALUE xax, 't'
  CONTROL 0x37e
  .byte 0x66
  fnstenv [area]
  GROUP environment.16
  movzx eax, word ptr [area]
  ROW_VALUE xax, 'c'
  movzx eax, word ptr [area + 2]
  ROW_VALUE xax, 's'
  movzx eax, word ptr [area + 4]
  ROW_VALUE xax, 't'
  fnstcw [words]
  movzx eax, word ptr [words]
  OBS environment.masked, xax
  fninit
  fld1
  fldpi
  fnsave [area]
  STATUS fnsave.after, 0xffff
  GROUP fnsave
  ROW [area + 28] // ST(0)
  NEXT_ROW
  ROW [area + 38] // ST(1)
  NEXT_ROW
  movzx eax, word ptr [area + 8]
  ROW_VALUE xax
  NEXT_ROW
  mov word ptr [area + 8], 0xffff // all empty, whatever the registers hold
  frstor [area]
  fxam
  STATUS frstor.empty, CONDITIONS & ~0x200
  mov word ptr [area + 8], 0x0fff // only physical 6 and 7, and the tag says valid: what is in them decides
  frstor [area]
  fnstenv [area]
  movzx eax, word ptr [area + 8]
  OBS frstor.tags, xax
  fninit
  fld1
  fnsave [area]
  mov word ptr [area + 4], 0x3881 // an exception that is not masked any more
  mov word ptr [area], 0x37e
  fldenv [area]
  STATUS fldenv.pending, 0xb8ff
  fnclex

// ## Exceptions that are not masked
//
// The operation that fails says nothing; the next one that waits raises the exception. If its operands were wrong nothing is stored; an overflow or
// underflow stores the result with its exponent moved by 24576, so that a handler can go on with it; an inexact result is stored as it is.

  STAGE unmasked
  UNMASKED invalid, invalid_pair, IM, fmul st, st(1)
  UNMASKED denormal, denormal_pair, DM, fadd st, st(1)
  UNMASKED zero, zero_pair, ZM, fdiv st, st(1)
  UNMASKED overflow, overflow_pair, OM, fmul st, st(1)
  UNMASKED underflow, underflow_pair, UM, fmul st, st(1)
  UNMASKED precision, precision_pair, PM, fdiv st, st(1)
  UNMASKED stack, precision_pair, IM, fadd st, st(5)
  fninit
  CONTROL 0x37e
  fldz
  fldz
  fdivp st(1), st
  PROBE
1: fnop // waits, too
  CAUGHT wait.fnop
  PROBE
1: fld1
  CAUGHT wait.fld1
  PROBE
1: fnstsw ax // does not
  CAUGHT nowait.fnstsw
  PROBE
1: fninit
  CAUGHT nowait.fninit
  fninit
  CONTROL 0x37b
  fld1
  fldz
  fnclex
  fdivp st(1), st
  mov dword ptr [memory], 0x12345678
  PROBE
1: fst dword ptr [memory]
  CAUGHT wait.fst
  mov eax, [memory]
  OBS wait.fst.memory, xax // the exception comes before the store
  fninit
  CONTROL (0x37f & ~OM)
  fld tbyte ptr [overflow_pair]
  mov dword ptr [memory], 0x12345678
  fst dword ptr [memory] // to memory, an unmasked overflow stores nothing
  mov eax, [memory]
  OBS overflow.memory, xax
  STATUS overflow.memory.status, 0xbaff
  fnclex

#ifndef NATIVE

// ## Without a unit
//
// WAIT asks for MP and TS together, every other instruction for TS or EM alone.

  STAGE available
  fninit
.irp bits, 2, 4, 6, 8, 0xa, 0xc, 0xe
  mov xax, cr0
  and eax, ~0xe
  or eax, \bits
  mov cr0, xax
  PROBE
1: fwait
  CAUGHT fwait.\bits
  PROBE
1: fnop
  CAUGHT fnop.\bits
.endr
  mov xax, cr0
  and eax, ~0xe
  or eax, 2
  mov cr0, xax
#endif

#else

// ## To memory and back

  STAGE stores
  STORE fst.32, fst dword ptr
  STORE fst.64, fst qword ptr
  STORE fist.16, fist word ptr
  STORE fist.32, fist dword ptr
  STORE fistp.64, fistp qword ptr
  GROUP fbstp
  mov ebx, offset numbers
1:
  fninit
  fld tbyte ptr [xbx]
  fbstp tbyte ptr [memory]
  ROW [memory]
  fnstsw ax
  and eax, 0x2ff
  shl eax, 16
  mov ax, [memory + 8]
  ROW_VALUE xax, 'w'
  NEXT_ROW
  add ebx, 16
  cmp ebx, offset numbers_end
  jb 1b
  GROUP fld.32
  mov ebx, offset floats
1:
  fninit
  fld dword ptr [xbx]
  fnstsw ax
  and eax, 0x3f
  shl eax, 16
  fstp tbyte ptr [memory]
  mov ax, [memory + 8]
  ROW [memory]
  ROW_VALUE xax, 'w'
  NEXT_ROW
  add ebx, 4
  cmp ebx, offset floats_end
  jb 1b
  GROUP fld.64
  mov ebx, offset doubles
1:
  fninit
  fld qword ptr [xbx]
  fnstsw ax
  and eax, 0x3f
  shl eax, 16
  fstp tbyte ptr [memory]
  mov ax, [memory + 8]
  ROW [memory]
  ROW_VALUE xax, 'w'
  NEXT_ROW
  add ebx, 8
  cmp ebx, offset doubles_end
  jb 1b
  fninit
  GROUP integers
  fild word ptr [integers + 6] // -32768
  fiadd dword ptr [integers + 8]
  fimul word ptr [integers + 12]
  fidivr dword ptr [integers + 8]
  fisub word ptr [integers + 12]
  fstp tbyte ptr [memory]
  ROW [memory]
  movzx eax, word ptr [memory + 8]
  ROW_VALUE xax, 'w'
  fninit
  fild qword ptr [integers]
  PROBE
1: fbld tbyte ptr [decimal]
  CAUGHT fbld
  fadd st, st(1)
  fstp tbyte ptr [memory]
  GROUP fbld
  ROW [memory]
  movzx eax, word ptr [memory + 8]
  ROW_VALUE xax, 'w'
#endif
  DONE

.macro PAIR se, significand, se2, significand2
  T80 \se, \significand
  T80 \se2, \significand2
.endm

.section .rodata.tables, "a"
.balign 16
pairs:
  PAIR 0x3fff, 0x8000000000000000, 0x4000, 0x8000000000000000 // less
  PAIR 0x4000, 0x8000000000000000, 0x3fff, 0x8000000000000000 // greater
  PAIR 0xbfff, 0x8000000000000000, 0xbfff, 0x8000000000000000 // equal
  PAIR 0x0000, 0, 0x8000, 0
  PAIR 0x8000, 0, 0x0000, 1
  PAIR 0x7fff, 0x8000000000000000, 0x7ffe, 0xffffffffffffffff
  PAIR 0xffff, 0x8000000000000000, 0x7fff, 0x8000000000000000
  PAIR 0x7fff, 0xc000000000000000, 0x3fff, 0x8000000000000000 // unordered
  PAIR 0x3fff, 0x8000000000000000, 0x7fff, 0x8000000000000001 // unordered, signalling
  PAIR 0x4005, 0x7000000000000000, 0x3fff, 0x8000000000000000 // no number
  PAIR 0x0001, 0x8000000000000000, 0x0000, 0x8000000000000000 // the same value in two encodings
pairs_end:

numbers:
  T80 0x3fff, 0x8000000000000000 // 1
  T80 0x3ffe, 0x8000000000000000 // 1/2
  T80 0xbfff, 0xc000000000000000 // -3/2
  T80 0x3fff, 0x8000008000000000 // halfway between two singles
  T80 0x3fff, 0xfffffffffffffc00 // halfway between the largest double below two, and two
  T80 0x400d, 0xffff000000000000 // 32767.5
  T80 0xc00e, 0x8000800000000000 // -32768.5
  T80 0x401e, 0x8000000000000000 // 2^31
  T80 0xc03e, 0x8000000000000000 // -2^63
  T80 0x403a, 0xde0b6b3a763fffff // just below 10^18
  T80 0x403a, 0xde0b6b3a76400000 // 10^18
  T80 0xc036, 0x8ac7230489e7ffff
  T80 0x407f, 0x8000000000000000 // 2^128: too much for a single
  T80 0x3f80, 0xc000000000000001 // denormal as a single, inexact
  T80 0x3b00, 0x8000000000000000 // nothing is left
  T80 0x8000, 0x0000000000000001
  T80 0x0000, 0
  T80 0xffff, 0x8000000000000000
  T80 0x7fff, 0xffffffffffffffff // a quiet NaN whose payload is cut off
  T80 0xffff, 0x80000000deadbeef // signalling
numbers_special:
  T80 0x4005, 0x7000000000000000
numbers_end:

invalid_pair:
  PAIR 0x7fff, 0x8000000000000000, 0x0000, 0
denormal_pair:
  PAIR 0x0000, 1, 0x3fff, 0x8000000000000000
zero_pair:
  PAIR 0x3fff, 0x8000000000000000, 0x0000, 0
overflow_pair:
  PAIR 0x7ffe, 0xc000000000000000, 0x4001, 0xa000000000000000
underflow_pair:
  PAIR 0x0001, 0xc000000000000000, 0x3ffd, 0xa000000000000000
precision_pair:
  PAIR 0x3fff, 0x8000000000000000, 0x4000, 0xc000000000000000

floats: .long 0x3f800000, 0xff800000, 0x7f800001, 0xffc12345, 0x00000001, 0x807fffff, 0x80000000, 0x7f7fffff
floats_end:
.balign 8
doubles: .quad 0x3ff0000000000000, 0xfff0000000000000, 0x7ff0000000000001, 0xfff8000000012345, 0x0000000000000001, 0x800fffffffffffff
doubles_end:
integers: .quad 0x8000000000000001
  .long 123456789, -7
decimal: .byte 0x89, 0x67, 0x45, 0x23, 0x01, 0x89, 0x67, 0x45, 0x23, 0x80 // -234567890123456789

.bss
.balign 16
memory: .skip 16
words: .skip 8
area: .skip 128
