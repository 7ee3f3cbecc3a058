// # Integer instructions at their edges
//
// Counts of zero and beyond the width, quotients that just fit, bit strings with negative offsets, addresses with every kind of base: what a table of random
// operands does not meet. A row is the result in its lower half and the flags that are defined in its upper one, unless its name says otherwise.

#include "rb.inc"
#include "rows.inc"

#define ALL 0x8d5
#define CARRY 1

BEGIN
.globl main

// The flags of the moment, as much of them as `mask` says, above the 32 bits of EAX.
.macro RESULT mask
  PUSHF
  pop xdx
  and edx, \mask
  mov [row_value], eax
  mov [row_value + 4], edx
  ROW [row_value]
  NEXT_ROW
.endm

// A shift by each of the counts, in CL; CF and the result always, OF after a shift by one, and all flags as they were after a shift by none.
.macro SHIFT name, table, op:vararg
  GROUP \name
  mov ebx, offset \table
91:
  movzx ecx, byte ptr [xbx]
  mov eax, 0x80000000
  add eax, 0x80000001 // OF, CF; not ZF, SF, PF
  mov eax, 0x9abc5af1
  \op
  PUSHF
  pop xdx
  movzx ecx, byte ptr [xbx + 1] // which flags are defined
  shl ecx, 8
  mov cl, byte ptr [xbx + 2]
  and edx, ecx
  mov [row_value], eax
  mov [row_value + 4], edx
  ROW [row_value]
  NEXT_ROW
  add ebx, 3
  cmp byte ptr [xbx], 0xff
  jne 91b
.endm

.macro DIVIDE name, high, low, divisor, op:vararg
  mov edx, \high
  mov eax, \low
  mov ecx, \divisor
  PROBE
1: \op
  CAUGHT \name
  mov [row_value], eax
  mov [row_value + 4], edx
  GROUP \name\().result
  ROW [row_value]
.endm

main:
  STAGE shifts
  mov esi, 0x5a5a1234
.irp op, shl, shr, sar
  SHIFT \op\().8, shift_counts, \op al, cl
  SHIFT \op\().16, shift_counts, \op ax, cl
  SHIFT \op\().32, shift_counts, \op eax, cl
.endr
.irp op, rol, ror, rcl, rcr
  SHIFT \op\().8, rotate_counts, \op al, cl
  SHIFT \op\().16, rotate_counts, \op ax, cl
  SHIFT \op\().32, rotate_counts, \op eax, cl
.endr
  SHIFT shld.32, shift_counts, shld eax, esi, cl
  SHIFT shrd.32, shift_counts, shrd eax, esi, cl
.irp op, shl, shr, sar, rol, ror, rcl, rcr
  GROUP \op\().large // past the width of a byte; the rotations go on round
  mov eax, 0x9abc5af1
  stc
  \op al, 8
  RESULT 0
  stc
  mov eax, 0x9abc5af1
  \op al, 9
  RESULT 0
  stc
  mov eax, 0x9abc5af1
  \op ax, 17
  RESULT 0
  stc
  mov eax, 0x9abc5af1
  \op al, 31
  RESULT 0
  mov eax, 0x9abc5af1
  stc
  \op eax, 1
  RESULT 0x801
.endr
  GROUP rotate.carry // a rotation by a multiple of the width changes nothing, but sets CF
  mov eax, 0x81
  clc
  rol al, 8
  RESULT CARRY
  clc
  ror al, 16
  RESULT CARRY
  mov eax, 0x7e
  stc
  rol al, 24
  RESULT CARRY
  stc
  rcl al, 9 // all the way round
  RESULT CARRY
  stc
  rcr ax, 17
  RESULT CARRY
  stc
  rol eax, 32 // a count of zero, after masking: CF stays
  RESULT CARRY

// ## Multiplication and division

  STAGE multiply
  GROUP imul
  mov eax, -128
  mov cl, -1
  imul cl
  RESULT 0x801
  mov eax, 0x1234ff80
  mov ecx, 0x80
  mul cl // AH is not part of it
  RESULT 0x801
  mov eax, 0x8000
  mov ecx, 0x8000
  imul ax, cx
  RESULT 0x801
  imul eax, ecx, -3
  RESULT 0x801
  mov ecx, 0x7fffffff
  imul eax, ecx, 0x10001
  RESULT 0x801
  mov eax, 0x80000000
  imul eax, eax, -1
  RESULT 0x801
  mov eax, 0xffff8000
  mov edx, 0x55555555
  mov ecx, 0xffff0002
  mul cx
  RESULT 0x801
  mov eax, 0x80000000
  mov ecx, 0x80000000
  mul ecx
  RESULT 0x801
  STAGE divide
  DIVIDE div.8, 0x77777777, 0xfeff, 0xff, div cl
  DIVIDE div.8.over, 0x77777777, 0xff00, 0xff, div cl
  DIVIDE idiv.8.lowest, 0, 0xff80, 1, idiv cl // -128 / 1
  DIVIDE idiv.8.highest, 0, 0x7f, 1, idiv cl
  DIVIDE idiv.8.over, 0, 0x80, 1, idiv cl
  DIVIDE idiv.8.under, 0, 0xff7f, 1, idiv cl
  DIVIDE idiv.8.sign, 0, 0xfff9, 2, idiv cl // -7 / 2
  DIVIDE div.16, 0xfffe, 0xffff, 0xffff, div cx
  DIVIDE div.16.over, 0xffff, 0, 0xffff, div cx
  DIVIDE idiv.16.lowest, 0xffff, 0x8000, 1, idiv cx
  DIVIDE idiv.16.over, 0, 0x8000, 1, idiv cx
  DIVIDE div.32, 0xfffffffe, 0xffffffff, 0xffffffff, div ecx
  DIVIDE div.32.over, 0xffffffff, 0, 0xffffffff, div ecx
  DIVIDE idiv.32.lowest, 0xffffffff, 0x80000000, 1, idiv ecx
  DIVIDE idiv.32.minus, 0xffffffff, 0x80000000, -1, idiv ecx
  DIVIDE idiv.32.large, 0xc0000000, 0, 0x7fffffff, idiv ecx
  DIVIDE idiv.32.mixed, 7, 0x12345678, -0x23456789, idiv ecx

// ## Exchanges

  STAGE exchange
  GROUP cmpxchg
  mov eax, 0x12345678
  mov ecx, 0xcafebabe
  mov dword ptr [memory], 0x12345679
  cmpxchg byte ptr [memory], cl // 78 against 79
  RESULT ALL
  mov eax, 0x12345679
  cmpxchg word ptr [memory], cx
  RESULT ALL
  mov eax, [memory]
  RESULT 0
  cmpxchg ecx, eax // registers: EAX is loaded
  RESULT ALL
  mov eax, 7
  cmpxchg eax, ecx
  RESULT ALL
  GROUP xadd
  mov eax, 0x7fffffff
  xadd eax, eax // both operands the same: the sum remains
  RESULT ALL
  mov ecx, 0x80
  mov byte ptr [memory], 0x80
  xadd [memory], cl
  mov al, [memory]
  mov ah, cl
  movzx eax, ax
  RESULT ALL
  GROUP cmpxchg8b
  mov dword ptr [memory], 1
  mov dword ptr [memory + 4], 2
  mov eax, 1
  mov edx, 3
  mov ebx, 0x33333333
  mov ecx, 0x44444444
  cmp eax, eax // ZF is to be cleared, the other flags stay
  stc
  cmpxchg8b [memory]
  RESULT ALL
  mov dword ptr [memory + 4], 0x77777777
  mov edx, 0x77777777
  test eax, eax
  cmpxchg8b [memory]
  RESULT ALL
  ROW [memory]
  PROBE
1: .byte 0x0f, 0xc7, 0xc8 // with a register as operand
  CAUGHT cmpxchg8b.register
  GROUP bswap
  mov eax, 0x01020304
  bswap eax
  RESULT 0
#if MODE == 64
  mov rax, 0x0102030405060708
  bswap rax
  ROW_VALUE rax
  NEXT_ROW
  mov rax, -1
  bswap eax // the upper half is cleared
  ROW_VALUE rax
#endif

// ## Bits
//
// The bit offset is taken modulo the width for a register or an immediate operand; a register offset into memory reaches the whole string of bits around
// the address. CF is the bit, ZF stays.

  STAGE bits
  GROUP bits
.irp op, bt, bts, btr, btc
  mov eax, 0x80000001
  mov ecx, 63
  cmp ecx, ecx
  \op eax, ecx
  RESULT 0x41
  \op eax, 32 + 3
  RESULT 0x41
  mov ecx, 0x12340010
  \op ax, cx
  RESULT 0x41
  mov dword ptr [memory], 0x0f0f0f0f
  mov dword ptr [memory + 4], 0xf0f0f0f0
  mov dword ptr [memory + 8], 0x3c3c3c3c
  mov ecx, -31
  \op dword ptr [memory + 4], ecx
  mov eax, [memory]
  RESULT 0x41
  mov ecx, 33
  \op dword ptr [memory + 4], ecx
  mov eax, [memory + 8]
  RESULT 0x41
  mov ecx, -17
  \op word ptr [memory + 4], cx
  mov eax, [memory]
  RESULT 0x41
  \op dword ptr [memory + 4], 37 // an immediate offset does not leave the operand
  mov eax, [memory + 4]
  RESULT 0x41
.endr
  GROUP scan
  mov ecx, 0x00a0
  mov eax, 0
  bsf ax, cx
  RESULT 0x40
  bsr eax, ecx
  RESULT 0x40
  mov ecx, 0x80000000
  bsf eax, ecx
  RESULT 0x40

// ## Conditions
//
// Eight settings of the flags; the sixteen conditions as sixteen bits, by SETcc, by CMOVcc and by Jcc.

  STAGE conditions
  GROUP conditions
  mov ebx, offset settings
91:
  xor edi, edi
  xor esi, esi
  xor ebp, ebp
.irp condition, o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g
  mov eax, [xbx]
  push xax
  POPF
  set\condition cl
  PUSHF
  pop xax
  shr cl, 1
  rcr edi, 1
  mov ecx, 0
  mov edx, 1
  push xax
  POPF
  cmov\condition ecx, edx
  PUSHF
  pop xax
  shr ecx, 1
  rcr esi, 1
  push xax
  POPF
  j\condition 92f
  clc
  jmp 93f
92:
  stc
93:
  rcr ebp, 1
.endr
  mov eax, edi
  or eax, esi
  mov [row_value], eax
  xor edi, esi // all three are the same
  xor esi, ebp
  or edi, esi
  mov [row_value + 4], edi
  ROW [row_value]
  NEXT_ROW
  add ebx, 4
  cmp ebx, offset settings_end
  jb 91b

// ## Addresses

  STAGE addresses
  GROUP lea
.macro LEA_ROW op:vararg
  \op
  ROW_VALUE xax
  NEXT_ROW
.endm
  mov ebx, 0x10001000
  mov ecx, 0x40000003
  mov ebp, 0x00020000
  mov esi, 0x0000fff0
  LEA_ROW lea eax, [xbx + xcx * 4 + 5]
  LEA_ROW lea eax, [xcx * 8 + 0x12345678]
  LEA_ROW lea eax, [xbp + xcx * 2]
  lea eax, [xsp + xbx]
  sub eax, esp
  LEA_ROW nop
  LEA_ROW lea eax, [ebp - 0x20001]
  LEA_ROW lea ax, [xbx + 0x7fffffff] // 16 bits of the result; the others stay
  mov eax, -1
  LEA_ROW lea ax, [xcx + xcx]
#if MODE == 32
  mov ebx, 0x1234fff0
  mov eax, -1
  LEA_ROW lea eax, [bx + si + 0x30] // a 16-bit address: wraps, and the upper half is zero
  LEA_ROW lea eax, [bp + di - 1]
  LEA_ROW lea eax, [bx + 0x7f]
  mov dword ptr [memory], 0x99887766
  mov ebx, offset memory
  mov eax, fs
  mov al, ds:[ebx + 1]
  LEA_ROW movzx eax, al
#else
  mov rbx, 0x1122334455667788
  mov r12, 0x10000000000
  mov r13, 0x20000000000
  LEA_ROW lea rax, [rbx + r12 * 2 - 1]
  LEA_ROW lea rax, [r13]
  LEA_ROW lea rax, [r12]
  LEA_ROW lea rax, [r12 + r13 * 8 + 0x7f]
  LEA_ROW lea rax, [ebx + ebx] // a 32-bit address: wraps, and the upper half is zero
  LEA_ROW lea eax, [rbx]
  lea rax, [rip + 9f]
9:
  sub rax, offset 9b
  LEA_ROW nop
  .byte 0x67
  lea rax, [rip + 9f]
9:
  sub rax, offset 9b
  LEA_ROW nop
  mov dword ptr [memory], 0x99887766
  mov rbx, 0xffffffff00000000
  add rbx, offset memory
  LEA_ROW mov eax, [ebx] // the address is truncated before it is used
  mov rax, -1
  LEA_ROW movsxd rax, dword ptr [memory]
  LEA_ROW movsx eax, byte ptr [memory + 3]
  LEA_ROW movzx rax, word ptr [memory + 2]
#endif

// ## The stack

  STAGE stack
  GROUP stack
.macro STACK_ROW value
  mov xax, \value
  ROW_VALUE xax
  NEXT_ROW
.endm
  mov xbp, xsp
  push xsp // the value before
  pop xax
  sub xax, xbp
  STACK_ROW xax
  push 0x1234
  pop xsp // overwrites what POP had added
  mov xax, xsp
  mov xsp, xbp
  STACK_ROW xax
  push -2
  pop xax
  STACK_ROW xax
  push 0x7654321
  pop xword ptr [xsp - WORD_BYTES] // the address is computed after the increment
  mov xax, [xsp - WORD_BYTES]
  STACK_ROW xax
  mov xax, xsp
  pushw 0x1234
  sub xax, xsp
  mov xsp, xbp
  STACK_ROW xax
  push xbp
  mov xbp, xsp
  mov xdi, xsp
  enter 16, 0
  mov xax, xdi
  sub xax, xsp
  STACK_ROW xax
  leave
  mov xax, xdi
  sub xax, xsp
  STACK_ROW xax
  mov xword ptr [xsp - WORD_BYTES], 0
  mov xbp, xsp
  mov xword ptr [xbp - WORD_BYTES], 0x5151
  lea xbp, [xsp - 3 * WORD_BYTES]
  mov xword ptr [xbp - WORD_BYTES], 0x6161
  mov xword ptr [xbp - 2 * WORD_BYTES], 0x7171
  sub xsp, 8 * WORD_BYTES
  mov xsi, xsp
  enter 0, 3 // copies two frame pointers, and pushes its own
  mov xax, xsi
  sub xax, xsp
  STACK_ROW xax
  mov xax, [xsp + 3 * WORD_BYTES]
  sub xax, xsi // the frame pointer that was saved first
  STACK_ROW xax
  mov xax, xbp
  sub xax, [xsp]
  STACK_ROW xax // and the one that was pushed last is the new frame
  STACK_ROW [xsp + WORD_BYTES]
  STACK_ROW [xsp + 2 * WORD_BYTES]
  mov xsp, xdi
  pop xbp
#if MODE == 32
  mov eax, 0x11
  mov ecx, 0x22
  mov edx, 0x33
  mov ebx, 0x44
  mov esi, 0x66
  mov edi, 0x77
  mov ebp, esp
  pushad
  mov eax, [esp + 12] // ESP as it was
  sub eax, ebp
  STACK_ROW eax
  mov dword ptr [esp + 12], 0 // not loaded by POPAD
  mov dword ptr [esp + 28], 0x99
  popad
  STACK_ROW eax
  mov eax, esp
  sub eax, ebp
  STACK_ROW eax
  mov eax, 0x8001
  mov ax, ds
  and eax, ~0xffff
  STACK_ROW eax
#endif

// ## Odds and ends

  STAGE rest
  GROUP rest
  mov ebx, offset table
  mov eax, 0x11223305
  xlatb
  ROW_VALUE xax
  NEXT_ROW
  mov ecx, 3
  xor eax, eax
9:
  inc eax
  cmp eax, 2
  loopne 9b
  shl ecx, 8
  or eax, ecx
  ROW_VALUE xax
  NEXT_ROW
  mov ecx, 0
  mov eax, 1
  jecxz 9f
  mov eax, 2
9:
  ROW_VALUE xax
  NEXT_ROW
  stc
  lahf
  mov al, ah
  cmc
  lahf
  movzx eax, ax
  ROW_VALUE xax
  NEXT_ROW
  mov eax, 0xff00
  sahf
  PUSHF
  pop xax
  and eax, 0x8ff // bit 1 is one, bits 3 and 5 are zero
  ROW_VALUE xax
  NEXT_ROW
  PUSHF
  pop xax
  mov ecx, eax
  xor eax, 0x240000 // AC and ID can be changed by anybody
  push xax
  POPF
  PUSHF
  pop xax
  push xcx
  POPF
  xor eax, ecx
  and eax, 0x240000
  ROW_VALUE xax
  NEXT_ROW
  push 0x30002 // RF and VM are not in the image that is pushed
  POPF
  PUSHF
  pop xax
  and eax, 0x30002
  ROW_VALUE xax
  NEXT_ROW
#if MODE == 32

// ## Decimal arithmetic
//
// All values of AL with both carries: one in thirty-two is a row, and the number at the end is all of them folded together.

  STAGE decimal
.irp op, daa, das, aaa, aas
  GROUP \op
  xor ebp, ebp
  xor ebx, ebx // AL, and the carries in bits 8 and 9
91:
  movzx eax, bl
  mov ecx, ebx
  shr ecx, 8
  mov edx, ecx
  and ecx, 1
  shl edx, 3
  and edx, 0x10
  or ecx, edx
  or ecx, 2
  push ecx
  popfd
  mov ah, 0x7f
  \op
  pushfd
  pop edx
  and edx, 0xd5
  .ifc \op, aaa
  and edx, 0x11
  .endif
  .ifc \op, aas
  and edx, 0x11
  .endif
  rol ebp, 5
  xor ebp, eax
  shl edx, 16
  xor ebp, edx
  or eax, edx
  mov ecx, ebx
  and ecx, 0x1f
  cmp ecx, 0x1b
  jne 92f
  ROW_VALUE eax
92:
  inc dword ptr [row_number]
  inc ebx
  cmp ebx, 0x400
  jb 91b
  ROW_VALUE ebp, 's'
.endr
  GROUP aam
.irp base, 10, 16, 7, 255
  mov eax, 0x12ee
  .byte 0xd4, \base
  RESULT 0xc4
  mov eax, 0x12ee
  .byte 0xd5, \base
  RESULT 0xc4
.endr
  PROBE
1: .byte 0xd4, 0
  CAUGHT aam.zero
#else
  STAGE wide
  GROUP wide
.irp op, shl, shr, sar, rol, ror
.irp count, 0, 1, 32, 63, 64, 65
  mov ecx, \count
  mov rax, 0x9abcdef012345671
  \op rax, cl
  ROW_VALUE rax
  NEXT_ROW
.endr
.endr
  stc
  rcl rax, 33
  ROW_VALUE rax
  NEXT_ROW
  rcr rax, 40
  ROW_VALUE rax
  NEXT_ROW
  shld rax, rbx, 40
  ROW_VALUE rax
  NEXT_ROW
  mov rax, 0x8000000000000000
  mov rcx, -1
  imul rcx
  ROW_VALUE rax
  ROW_VALUE rdx, 'h'
  NEXT_ROW
  imul rax, rax, -3
  ROW_VALUE rax
  NEXT_ROW
  mov rcx, -70
  mov qword ptr [memory], 0
  bts qword ptr [memory + 16], rcx
  mov rax, [memory]
  ROW_VALUE rax
  NEXT_ROW
  mov rax, 0x8000000000000000
  bsr rcx, rax
  ROW_VALUE rcx
  NEXT_ROW
  mov rax, -1
  cmpxchg eax, ecx // a 32-bit destination that is compared equal: EAX is not written, ECX goes to EAX
  ROW_VALUE rax
  NEXT_ROW
  mov rax, -1
  mov rcx, 0x1111111122222222
  cmpxchg ecx, edx // not equal: EAX is loaded, and ECX written with itself
  ROW_VALUE rax
  ROW_VALUE rcx, 'c'
  NEXT_ROW
  mov rax, -1
  mov rcx, -1
  mov edx, 1
  cmp edx, edx
  cmovne eax, edx // the upper half is cleared even if nothing is moved
  ROW_VALUE rax
  NEXT_ROW
  mov rax, 0x8000000000000000
  mov rdx, -1
  mov rcx, -1
  PROBE
1: idiv rcx
  CAUGHT idiv.64.minus
  mov rdx, 0x0123456789abcdef
  mov rax, 0xfedcba9876543210
  mov rcx, 0x0123456789abcdf0
  PROBE
1: div rcx
  CAUGHT div.64
  GROUP div.64.result
  ROW_VALUE rax
  ROW_VALUE rdx, 'r'
#endif
  DONE

.section .rodata.tables, "a"
// Counts; and which flags are defined after them. 20h is a count of zero, 21h one of one.
.macro COUNT count, flags
  .byte \count, (\flags) >> 8, (\flags) & 0xff
.endm
shift_counts:
  COUNT 0, ALL
  COUNT 1, 0x8c5
  COUNT 2, 0xc5
  COUNT 5, 0xc5
  COUNT 7, 0xc5
  COUNT 0x20, ALL
  COUNT 0x21, 0x8c5
  .byte 0xff
rotate_counts: // SF, ZF, AF and PF stay
  COUNT 0, ALL
  COUNT 1, ALL
  COUNT 2, 0xd5
  COUNT 5, 0xd5
  COUNT 7, 0xd5
  COUNT 0x20, ALL
  COUNT 0x21, ALL
  .byte 0xff
.balign 4
settings: .long 2, 0x803, 0x82, 0x43, 0x802, 0x882, 0x8c6, 0x46, 0x7
settings_end:
table: .byte 0x10, 0x21, 0x32, 0x43, 0x54, 0x65

.bss
.balign 16
memory: .skip 32
