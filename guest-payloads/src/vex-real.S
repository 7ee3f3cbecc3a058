// # No vectors for the 8086
//
// The prefixes C4 and C5 were LES and LDS, with a second byte that those could not have. In real mode they have stayed that and no more: an instruction
// with a VEX prefix is undefined there, on the newest processor.

#include "rb.inc"
BEGIN
.globl main

// Executes `code`; the vector that came (100: none), and where.
.macro SEE name, code:vararg
  mov word ptr [vector], 0x100
  mov word ptr [at], 0xffff
  mov word ptr [begin], offset 1f
  mov word ptr [resume], offset 2f
1: .byte \code
2:
  movzx eax, word ptr [vector]
  OBS \name, eax
  movzx eax, word ptr [at]
  OBS \name\().ip, eax
.endm

main:
  xor ax, ax
  mov es, ax
  mov word ptr [6 * 4], offset undefined
  mov word ptr [6 * 4 + 2], 0
  STAGE vex
  SEE andn, 0xc4, 0xe2, 0x70, 0xf2, 0xc2
  SEE andn.memory, 0xc4, 0xe2, 0x70, 0xf2, 0x06
  SEE bextr, 0xc4, 0xe2, 0x70, 0xf7, 0xc2
  SEE two-byte, 0xc5, 0xf8, 0x77
  SEE tzcnt, 0xf3, 0x0f, 0xbc, 0xc2 // has no such prefix

// With a memory operand the bytes are LES and LDS.

  STAGE pointers
  mov word ptr [pointer], 0x1234
  mov word ptr [pointer + 2], 0x0800
  les bx, [pointer]
  movzx eax, bx
  OBS les.offset, eax
  mov ax, es
  movzx eax, ax
  OBS les.segment, eax
  xor ax, ax
  mov es, ax
  DONE

undefined:
  mov word ptr [vector], 6
  push bp
  mov bp, sp
  mov ax, [bp + 2]
  sub ax, [begin]
  mov [at], ax
  mov ax, [resume]
  mov [bp + 2], ax
  pop bp
  iret

LOW_DATA
.balign 4
vector: .word 0
at: .word 0
begin: .word 0
resume: .word 0
pointer: .word 0, 0
