// # Numbers that nobody chose
//
// The number itself cannot be judged; what the instruction says about it can. CF tells that there is one, the other flags are clear, whatever they were.

#include "rb.inc"
BEGIN
.globl main

#define TRIES 1000
#define FLAGS 0x8d5 // OF, SF, ZF, AF, PF, CF

// Tries until there is a number; leaves the flags in FOUND.
.macro TRY name, cf, code:vararg
  mov ebp, TRIES
771:
  mov xax, -1
  push 0x8d7 - \cf // the others set, CF clear
  POPF
  .byte \code
  PUSHF
  pop xcx
  and ecx, FLAGS
  test ecx, 1
  jnz 772f
  dec ebp
  jnz 771b
772:
  OBS \name\().flags, xcx
.endm

main:
  STAGE flags
  TRY rdrand.16, 1, 0x66, 0x0f, 0xc7, 0xf0
  shr xax, 16
  OBS rdrand.16.rest, xax // stays
  TRY rdrand.32, 1, 0x0f, 0xc7, 0xf0
#if MODE == 64
  shr rax, 32
  OBS rdrand.32.rest, rax // is cleared
  TRY rdrand.64, 1, 0x48, 0x0f, 0xc7, 0xf0
#endif
  TRY rdseed.32, 1, 0x0f, 0xc7, 0xf8

// Two in a row are the same once in four thousand million times: a source that is stuck is not one.

  STAGE source
  mov ebx, 8
  xor esi, esi
  xor edi, edi
1:
  .byte 0x0f, 0xc7, 0xf0
  jnc 1b
  cmp eax, edi
  setne cl
  movzx ecx, cl
  add esi, ecx
  mov edi, eax
  dec ebx
  jnz 1b
  cmp esi, 7
  setae cl
  movzx ecx, cl
  OBS differ, xcx

// With an operand in memory, or with LOCK, there is no such instruction. REP means nothing.

  STAGE encodings
  PROBE
1: .byte 0xf0, 0x0f, 0xc7, 0xf0
  CAUGHT lock
  DONE
