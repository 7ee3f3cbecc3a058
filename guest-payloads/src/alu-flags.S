// # Results and flags
//
// One row for each operation: two operands in, result and the arithmetic flags out (OF, SF, ZF, AF, PF and CF: mask 8D5). All rows are folded into
// one check number per operation and width, so that the records stay short; a few rows are reported by themselves, for the eye.
//
// Where the manual leaves a flag undefined (AF after AND, OF after a shift by more than one) the flag is masked out.

#include "rb.inc"

#define ALL 0x8d5
#define NO_AF 0x8c5
#define CARRY_ONLY 0x801
#define CF_ONLY 0x1

BEGIN
.globl main

// check = rotate(check, 5) ^ result ^ flags << 16, in 32 bits, so that the three widths of code give the same numbers.
fold: // eax: result, edx: flags; keeps all but the check number
  PUSHF
  push xax
  push xdx
  shl edx, 16
  xor eax, edx
  mov edx, [check]
  rol edx, 5
  xor edx, eax
  mov [check], edx
  pop xdx
  pop xax
  POPF
  ret

// Runs `op` on every pair of operands. CF alternates before, for the operations that use it. `a` and `b` are the operands as registers of the width.
.macro TABLE name, op, mask, a, b, width
  mov dword ptr [check], 0
  mov esi, offset operands
91:
  mov edi, offset operands
92:
  mov eax, [xsi]
  mov ecx, [xdi]
  bt edi, 2 // some carry or other
  \op \a, \b
  PUSHF
  pop xdx
  and edx, \mask
  .if \width == 8
    movzx eax, al
  .elseif \width == 16
    movzx eax, ax
  .endif
  call fold
  add edi, 4
  cmp edi, offset operands_end
  jb 92b
  add esi, 4
  cmp esi, offset operands_end
  jb 91b
  mov eax, [check]
  OBS \name, xax
.endm

.macro ALL_WIDTHS name, op, mask
  TABLE \name\().8, \op, \mask, al, cl, 8
  TABLE \name\().16, \op, \mask, ax, cx, 16
  TABLE \name\().32, \op, \mask, eax, ecx, 32
.endm

// MUL has one operand; this gives it the form of the others.
.macro MUL_CL a, b
  mul cl
.endm

// One operand.
.macro TABLE1 name, op, mask, a, width
  mov dword ptr [check], 0
  mov esi, offset operands
91:
  mov eax, [xsi]
  bt esi, 2
  \op \a
  PUSHF
  pop xdx
  and edx, \mask
  .if \width == 8
    movzx eax, al
  .elseif \width == 16
    movzx eax, ax
  .endif
  call fold
  add esi, 4
  cmp esi, offset operands_end
  jb 91b
  mov eax, [check]
  OBS \name, xax
.endm

.macro ALL_WIDTHS1 name, op, mask
  TABLE1 \name\().8, \op, \mask, al, 8
  TABLE1 \name\().16, \op, \mask, ax, 16
  TABLE1 \name\().32, \op, \mask, eax, 32
.endm

// Shifts and rotates by every count from 0 to 33 in CL: the count is taken modulo 32, and zero leaves all flags alone. OF is defined for a count of
// one only.
.macro SHIFT name, op, a, width, mask
  mov dword ptr [check], 0
  mov esi, offset operands
91:
  xor ecx, ecx
92:
  mov eax, [xsi]
  mov edx, ecx
  shr edx, 1 // carry in: the lowest bit of the count
  \op \a, cl
  PUSHF
  pop xdx
  and edx, \mask
  .if \width == 8
    movzx eax, al
  .elseif \width == 16
    movzx eax, ax
  .endif
  call fold
  inc ecx
  cmp ecx, \width + 2 // beyond the width CF is not always defined
  jb 92b
  add esi, 4
  cmp esi, offset operands_end
  jb 91b
  mov eax, [check]
  OBS \name, xax
.endm

main:
  STAGE examples
  mov eax, 0x7fffffff
  add eax, 1
  PUSHF
  pop xcx
  and ecx, ALL
  OBS add.result, xax
  OBS add.flags, xcx // OF SF AF PF
  xor eax, eax
  sub eax, 1
  PUSHF
  pop xcx
  and ecx, ALL
  OBS sub.flags, xcx // SF AF PF CF
  mov eax, 0x80000000
  neg eax
  PUSHF
  pop xcx
  and ecx, ALL
  OBS neg.flags, xcx // OF SF PF CF
  stc
  mov eax, 0xffffffff
  inc eax // CF stays
  PUSHF
  pop xcx
  and ecx, ALL
  OBS inc.flags, xcx // ZF AF PF CF

  STAGE add-subtract
  ALL_WIDTHS add, add, ALL
  ALL_WIDTHS adc, adc, ALL
  ALL_WIDTHS sub, sub, ALL
  ALL_WIDTHS sbb, sbb, ALL
  ALL_WIDTHS cmp, cmp, ALL
  ALL_WIDTHS1 inc, inc, ALL
  ALL_WIDTHS1 dec, dec, ALL
  ALL_WIDTHS1 neg, neg, ALL
  ALL_WIDTHS1 not, not, 0

  STAGE logic
  ALL_WIDTHS and, and, NO_AF
  ALL_WIDTHS or, or, NO_AF
  ALL_WIDTHS xor, xor, NO_AF
  ALL_WIDTHS test, test, NO_AF

  STAGE shifts
  SHIFT shl.8, shl, al, 8, 0
  SHIFT shl.16, shl, ax, 16, 0
  SHIFT shl.32, shl, eax, 32, 0xc4
  SHIFT shr.8, shr, al, 8, 0
  SHIFT shr.16, shr, ax, 16, 0
  SHIFT shr.32, shr, eax, 32, 0xc4
  SHIFT sar.8, sar, al, 8, 0
  SHIFT sar.16, sar, ax, 16, 0
  SHIFT sar.32, sar, eax, 32, 0xc4
  SHIFT rol.8, rol, al, 8, CF_ONLY
  SHIFT rol.16, rol, ax, 16, CF_ONLY
  SHIFT rol.32, rol, eax, 32, CF_ONLY
  SHIFT ror.8, ror, al, 8, CF_ONLY
  SHIFT ror.16, ror, ax, 16, CF_ONLY
  SHIFT ror.32, ror, eax, 32, CF_ONLY
  SHIFT rcl.8, rcl, al, 8, CF_ONLY
  SHIFT rcl.16, rcl, ax, 16, CF_ONLY
  SHIFT rcl.32, rcl, eax, 32, CF_ONLY
  SHIFT rcr.8, rcr, al, 8, CF_ONLY
  SHIFT rcr.16, rcr, ax, 16, CF_ONLY
  SHIFT rcr.32, rcr, eax, 32, CF_ONLY
  TABLE1 shl1.32, shl, NO_AF, eax, 32
  TABLE1 shr1.32, shr, NO_AF, eax, 32
  TABLE1 sar1.32, sar, NO_AF, eax, 32
  TABLE1 rol1.32, rol, CARRY_ONLY, eax, 32
  TABLE1 rcr1.32, rcr, CARRY_ONLY, eax, 32
  mov eax, 0x12345678
  mov edx, 0x9abcdef0
  mov cl, 12
  shld eax, edx, cl
  OBS shld, xax
  mov eax, 0x12345678
  shrd eax, edx, 20
  OBS shrd, xax

// ## Multiplication and division
//
// MUL and IMUL define CF and OF only: the upper half says something. Division defines no flag.

  STAGE multiply
  TABLE mul.8, MUL_CL, CARRY_ONLY, al, cl, 16
  TABLE imul.16, imul, CARRY_ONLY, ax, cx, 16
  TABLE imul.32, imul, CARRY_ONLY, eax, ecx, 32
  mov eax, 0xfedcba98
  mov ecx, 0x76543210
  mul ecx
  OBS mul.low, xax
  OBS mul.high, xdx
  mov eax, 0xfedcba98
  imul ecx
  OBS imul.high, xdx
  mov edx, 0x12345678
  mov eax, 0x9abcdef0
  mov ecx, 0x23456789
  div ecx
  OBS div.quotient, xax
  OBS div.remainder, xdx
  mov edx, 0xffffffff
  mov eax, -1000
  mov ecx, 7
  idiv ecx
  OBS idiv.quotient, xax
  OBS idiv.remainder, xdx // has the sign of the dividend

// ## Bits

  STAGE bits
  mov eax, 0x00100800
  bsf ecx, eax
  OBS bsf, xcx
  bsr ecx, eax
  OBS bsr, xcx
  xor eax, eax
  bsf ecx, eax
  setz cl
  movzx ecx, cl
  OBS bsf.zero, xcx
  mov eax, 0x12345678
  bswap eax
  OBS bswap, xax
  mov eax, 0x80
  bt eax, 39 // modulo the width for a register
  setc cl
  movzx ecx, cl
  OBS bt, xcx
  mov dword ptr [memory + 4], 0
  mov ecx, 37
  bts [memory], ecx // a bit string in memory: word 1, bit 5
  mov eax, [memory + 4]
  OBS bts.memory, xax
  mov ecx, -3
  btc [memory + 4], ecx // and backwards: word 0, bit 29
  mov eax, [memory]
  OBS btc.memory, xax

// ## Conversions, exchanges, conditions

  STAGE rest
  mov eax, 0x1234ff80
  cbw
  OBS cbw, xax
  cwde
  OBS cwde, xax
  cdq
  OBS cdq, xdx
  mov eax, 5
  mov ecx, 9
  mov dword ptr [memory], 5
  cmpxchg [memory], ecx
  setz dl
  movzx edx, dl
  OBS cmpxchg.zf, xdx
  mov eax, [memory]
  OBS cmpxchg.value, xax
  mov eax, 1
  xadd [memory], eax
  OBS xadd, xax
  mov dword ptr [memory], 0x11111111
  mov dword ptr [memory + 4], 0x22222222
  mov eax, 0x11111111
  mov edx, 0x22222222
  mov ebx, 0x33333333
  mov ecx, 0x44444444
  cmpxchg8b [memory]
  mov eax, [memory + 4]
  OBS cmpxchg8b, xax
  mov eax, -1
  cmp eax, 1
  setl al
  setb ah
  sets cl
  setp ch
  movzx eax, ax
  OBS set.lb, xax
  movzx ecx, cx
  OBS set.sp, xcx
  mov eax, 1
  mov ecx, 2
  cmp eax, ecx
  cmovl eax, ecx
  OBS cmovl, xax
  lahf
  movzx eax, ah
  OBS lahf, xax
  mov ah, 0xd5
  sahf
  PUSHF
  pop xax
  and eax, ALL
  OBS sahf, xax

#if MODE != 64

// ## Decimal arithmetic
//
// Four instructions for numbers in decimal digits, with the only use for the auxiliary carry. 64-bit mode dropped them.

  STAGE decimal
  mov eax, 0x79
  add al, 0x35
  daa
  PUSHF
  pop ecx
  and ecx, 0xd5
  OBS daa, eax
  OBS daa.flags, ecx
  mov eax, 0x35
  sub al, 0x47
  das
  PUSHF
  pop ecx
  and ecx, 0xd5
  OBS das, eax
  OBS das.flags, ecx
  mov eax, 0x0008
  add al, 9
  aaa
  OBS aaa, eax
  mov eax, 0x0203
  sub al, 9
  aas
  OBS aas, eax
  mov eax, 0x003f
  aam
  OBS aam, eax
  mov eax, 0x0603
  aad
  OBS aad, eax
#else

// ## Sixty-four bits

  STAGE wide
  mov rax, 0x7fffffffffffffff
  add rax, 1
  PUSHF
  pop rcx
  and ecx, ALL
  OBS add64, rax
  OBS add64.flags, rcx
  mov rax, 0xfedcba9876543210
  mov rcx, 0x0123456789abcdef
  mul rcx
  OBS mul64.low, rax
  OBS mul64.high, rdx
  mov rcx, 0xfedcba9876543210
  div rcx
  OBS div64.quotient, rax
  OBS div64.remainder, rdx
  mov rax, 0xfedcba9876543210
  mov cl, 68
  shr rax, cl // modulo 64 here
  OBS shr64, rax
  bswap rax
  OBS bswap64, rax
  mov eax, 0x80000000
  cdqe
  OBS cdqe, rax
  cqo
  OBS cqo, rdx
#endif
  DONE

#if MODE == 16
LOW_DATA
#else
.data
#endif
.balign 8 // the tables use a bit of the operand's address as a carry
operands:
  .long 0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x12345678, 0x89abcdef, 0x0f0f0f0f, 0x55aa55aa
operands_end:
memory: .long 0, 0
check: .long 0
