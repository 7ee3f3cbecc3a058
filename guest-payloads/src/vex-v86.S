// # VEX by mode
//
// Instructions on general registers that have a VEX prefix need no state that a system must save, so they are there from the first moment of protected mode;
// and not at all in virtual-8086 mode.

#include "rb.inc"
BEGIN
.globl main

#define VM 0x20000

.macro TO_V86 entry
  push 0
  push 0
  push 0
  push 0
  push 0
  push 0x7000
  push VM | 2
  push 0
  push offset \entry
  iretd
.endm

.macro SEE name, entry
  PROBE
  TO_V86 \entry
  RESUME
  OBS \name, [trap_vector]
  mov eax, [trap_ip]
  sub eax, offset \entry
  OBS \name\().ip, eax
.endm

main:
  STAGE protected
  mov ecx, 0x0ff0
  mov edx, 0x3ffc
  PROBE
1: .byte 0xc4, 0xe2, 0x70, 0xf2, 0xc2 // andn eax, ecx, edx
  CAUGHT protected
  OBS protected.result, eax
  PROBE
1: .byte 0x66, 0xc4, 0xe2, 0x70, 0xf2, 0xc2 // another prefix before it
  CAUGHT prefix.66
  PROBE
1: .byte 0xf3, 0xc4, 0xe2, 0x70, 0xf2, 0xc2
  CAUGHT prefix.f3
  PROBE
1: .byte 0xf0, 0xc4, 0xe2, 0x70, 0xf2, 0xc2
  CAUGHT prefix.lock
  PROBE
1: .byte 0xc4, 0xe2, 0x74, 0xf2, 0xc2 // 256 bits of a general register
  CAUGHT length

  STAGE v86
  SEE andn, v_andn
  SEE bextr, v_bextr
  SEE two-byte, v_two
  SEE tzcnt, v_tzcnt // has no such prefix: the HLT behind it is what traps
  DONE

LOW_TEXT
CODE16
v_andn: .byte 0xc4, 0xe2, 0x70, 0xf2, 0xc2
  hlt
v_bextr: .byte 0xc4, 0xe2, 0x70, 0xf7, 0xc2
  hlt
v_two: .byte 0xc5, 0xf8, 0x77
  hlt
v_tzcnt: .byte 0xf3, 0x0f, 0xbc, 0xc2
  hlt
