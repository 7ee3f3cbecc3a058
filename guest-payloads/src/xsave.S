// # Extended state
//
// XSAVE and XRSTOR, and the register that says which state the system has learnt to save. A processor may have more components than x87 and SSE; nothing here
// asks for those. Which components are *in use* a processor may judge with caution, so the marks of a block are looked at only where they must be set.

#include "rb.inc"
#include "float.inc"

#define OSXSAVE 0x40000
#define FILL 0xa5a5a5a5
#define MARKS (area + 512)

BEGIN
.globl main

.macro XCR0_SET low, high=0, index=0
  mov ecx, \index
  mov eax, \low
  mov edx, \high
.endm

.macro OSXSAVE_BIT name
  mov eax, 1
  xor ecx, ecx
  cpuid
  shr ecx, 27
  and ecx, 1
  OBS \name, xcx
.endm

// All bytes of the block, so that what was not stored is seen; the header as it must be.
.macro FRESH marks=0
  cld
  mov xdi, offset area
  mov eax, FILL
  mov ecx, 512 / 4
  rep stosd
  xor eax, eax
  mov ecx, 64 / 4
  rep stosd
  mov dword ptr [MARKS], \marks
.endm

// Something in each component.
.macro USE
  fninit
  fld1
  mov dword ptr [word], 0x1fa0
  ldmxcsr [word]
  movdqu xmm0, [pattern]
.endm

.macro BLOCK name
  mov eax, [area]
  OBS \name\().control, xax
  mov eax, [area + 36]
  OBS \name\().st0, xax
  mov eax, [area + 24]
  OBS \name\().mxcsr, xax
  mov eax, [area + 160]
  OBS \name\().xmm0, xax
  mov eax, [MARKS]
  OBS \name\().marks, xax
.endm

// What the registers hold, by the older instruction.
.macro REGISTERS name
  fxsave [registers]
  movzx eax, word ptr [registers]
  OBS \name\().control, xax
  movzx eax, byte ptr [registers + 4]
  OBS \name\().tags, xax
  mov eax, [registers + 24]
  OBS \name\().mxcsr, xax
  mov eax, [registers + 160]
  OBS \name\().xmm0, xax
.endm

.macro MASK value
  mov eax, \value
  xor edx, edx
.endm

main:
  SSE_ON

// ## Off
//
// Until the system sets CR4.OSXSAVE the instructions do not exist, and CPUID tells programs so.

  STAGE off
  OSXSAVE_BIT off.cpuid
  PROBE
  xor ecx, ecx
1: xgetbv
  CAUGHT off.xgetbv
  PROBE
  XCR0_SET 1
1: xsetbv
  CAUGHT off.xsetbv
  PROBE
  MASK 1
1: xsave [area]
  CAUGHT off.xsave
  PROBE
1: xrstor [area]
  CAUGHT off.xrstor

// ## XCR0

  STAGE xcr0
  mov xax, cr4
  or eax, OSXSAVE
  mov cr4, xax
  OSXSAVE_BIT on.cpuid
  xor ecx, ecx
  xgetbv
  OBS reset.low, xax
  OBS reset.high, xdx
  PROBE
  mov ecx, 0x1000
1: xgetbv
  CAUGHT xgetbv.index
  PROBE
  XCR0_SET 3, 0, 1
1: xsetbv
  CAUGHT xsetbv.index
  PROBE
  XCR0_SET 2
1: xsetbv
  CAUGHT xsetbv.without-x87
  PROBE
  XCR0_SET 5 // AVX, which there may not be, and not without SSE
1: xsetbv
  CAUGHT xsetbv.without-sse
  PROBE
  XCR0_SET 3, 0x80000000
1: xsetbv
  CAUGHT xsetbv.reserved
  PROBE
  XCR0_SET 3
  TO_RING3
1: xsetbv
  CAUGHT3 xsetbv.user
  xor ecx, ecx
  xgetbv
  OBS kept.low, xax
  OBS kept.high, xdx
  XCR0_SET 3
  xsetbv
  xor ecx, ecx
  xgetbv
  OBS set.low, xax
  OBS set.high, xdx
  PROBE
  TO_RING3
  xor ecx, ecx
1: xgetbv // not privileged
  CAUGHT3 xgetbv.user
  mov eax, 0xd
  xor ecx, ecx
  cpuid
  and eax, 3
  OBS leaf.components, xax
  OBS leaf.bytes, xbx

// ## Saving

  STAGE xsave
  FRESH 0x4 // a component that is not asked for keeps its mark
  USE
  MASK 3
  xsave [area]
  BLOCK both
  mov eax, [area + 508]
  OBS both.unused, xax
  FRESH 2
  USE
  MASK 1
  xsave [area]
  BLOCK x87
  FRESH 1
  USE
  MASK 2
  xsave [area]
  BLOCK sse
  FRESH 1
  USE
  MASK 0
  xsave [area]
  BLOCK none
  FRESH
  mov dword ptr [area + 520], FILL // the rest of the header is not XSAVE's
  mov dword ptr [area + 528], FILL
  USE
  MASK 3
  xsave [area]
  mov eax, [area + 520]
  OBS header.8, xax
  mov eax, [area + 528]
  OBS header.16, xax

// ## Restoring
//
// A component without its mark becomes what it is after a reset. MXCSR comes from the block all the same.

  STAGE xrstor
  FRESH 0
  mov dword ptr [area + 24], 0x1f82
  USE
  MASK 3
  xrstor [area]
  REGISTERS initial
  FRESH 0
  USE
  MASK 1
  xrstor [area]
  REGISTERS initial.x87
  FRESH 0
  mov dword ptr [area + 24], 0x1f82
  USE
  MASK 2
  xrstor [area]
  REGISTERS initial.sse
  FRESH
  USE
  mov word ptr [word], 0x27f
  fldcw [word]
  MASK 3
  xsave [area]
  fninit
  pxor xmm0, xmm0
  mov dword ptr [word], 0x1f80
  ldmxcsr [word]
  MASK 3
  xrstor [area]
  REGISTERS again
  fninit
  pxor xmm0, xmm0
  MASK 2
  xrstor [area]
  REGISTERS again.sse

// ## What is refused

  STAGE refused
  fninit
  FRESH
  mov dword ptr [area + 24], 0x1f80
  PROBE
  MASK 3
1: xsave [area + 16]
  CAUGHT xsave.odd
  PROBE
  MASK 3
1: xrstor [area + 32]
  CAUGHT xrstor.odd
  PROBE
  mov dword ptr [MARKS + 4], 0x40000000
  MASK 3
1: xrstor [area]
  CAUGHT xrstor.marks
  PROBE
  mov dword ptr [MARKS + 4], 0
  mov dword ptr [MARKS + 8], 1
  MASK 3
1: xrstor [area]
  CAUGHT xrstor.compact
  PROBE
  mov dword ptr [MARKS + 8], 0
  mov dword ptr [MARKS + 20], 1
  MASK 3
1: xrstor [area]
  CAUGHT xrstor.header
  PROBE
  mov dword ptr [MARKS + 20], 0
  mov dword ptr [area + 24], 0x10000
  MASK 2
1: xrstor [area]
  CAUGHT xrstor.mxcsr
  PROBE
  MASK 1
1: xrstor [area] // MXCSR is not x87's
  CAUGHT xrstor.mxcsr.unasked
  PROBE
  mov xax, cr0
  or eax, 8
  mov cr0, xax
  MASK 3
1: xsave [area]
  CAUGHT xsave.lazy
  PROBE
  MASK 3
1: xrstor [area]
  CAUGHT xrstor.lazy
  clts
  DONE

.section .rodata.tables, "a"
.balign 8
pattern: .quad 0x0123456789abcdef, 0xfedcba9876543210

.bss
.balign 64
area: .skip 640
registers: .skip 512
word: .skip 4
