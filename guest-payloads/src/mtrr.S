// # Memory types by range
//
// How memory may be cached, by physical address: registers that firmware fills. No program feels them but by its speed; and a system that finds one of them
// missing or broken complains at boot. What is looked at: which values they refuse.

#include "rb.inc"
BEGIN
.globl main

#define CAPABILITY 0xfe
#define BASE0 0x200
#define MASK0 0x201
#define FIX64K 0x250
#define FIX16K 0x258
#define FIX4K_F8 0x26f
#define DEFAULT 0x2ff

.macro WRITE name, register, low, high=0
  PROBE
  mov ecx, \register
  mov eax, \low
  mov edx, \high
1: wrmsr
  CAUGHT \name
.endm

.macro SEE name, register
  mov ecx, \register
  rdmsr
  OBS \name\().low, eax
  OBS \name\().high, edx
.endm

main:
  STAGE capability
  PROBE
  mov ecx, CAPABILITY
1: rdmsr
  CAUGHT capability.read
  and eax, 0x500 // fixed ranges, write combining
  OBS capability.bits, eax
  WRITE capability.write, CAPABILITY, 0x508

// ## Which types there are
//
// Uncacheable, write combining, and then with a gap: write through, write protected, write back.

  STAGE default
  WRITE default.wb, DEFAULT, 6
  SEE default, DEFAULT
.irp type, 2, 3, 7, 8, 0xff
  WRITE default.type.\type, DEFAULT, \type
.endr
  WRITE default.reserved, DEFAULT, 0x100 | 6
  WRITE default.reserved12, DEFAULT, 0x1006
  WRITE default.high, DEFAULT, 6, 1
  SEE default.kept, DEFAULT
  WRITE default.off, DEFAULT, 0

// ## Ranges of any size

  STAGE variable
  WRITE base, BASE0, 0xc0000006
  SEE base, BASE0
.irp type, 2, 3, 7
  WRITE base.type.\type, BASE0, 0xc0000000 + \type
.endr
  WRITE base.reserved, BASE0, 0xc0000106
  WRITE mask, MASK0, 0xf0000800
  SEE mask, MASK0
  WRITE mask.reserved, MASK0, 0xf0000801
  WRITE mask.high, MASK0, 0xf0000800, 0xfff00000
  WRITE mask.off, MASK0, 0
  WRITE base.off, BASE0, 0

// ## Ranges below one megabyte: eight types in a register

  STAGE fixed
  WRITE fixed, FIX64K, 0x06060606, 0x00010405
  SEE fixed, FIX64K
  WRITE fixed.type2, FIX64K, 0x06060206, 0x06060606
  WRITE fixed.type7, FIX16K, 0x06060606, 0x07060606
  WRITE fixed.last, FIX4K_F8, 0, 0
  WRITE fixed.type3, FIX4K_F8, 3, 0
  WRITE fixed.back, FIX64K, 0, 0
  DONE
