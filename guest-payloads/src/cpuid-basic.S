// # CPUID
//
// What the processor says of itself. Most of it differs from one machine to the next; what is reported here is what has to be consistent: that leaves
// beyond the last give something defined, that the upper halves of registers are cleared, that features agree with what the processor then does.

#include "rb.inc"
BEGIN
.globl main
main:
  STAGE leaves
  xor eax, eax
  xor ecx, ecx
  cpuid
  OBS max.leaf, xax
  OBS vendor.b, xbx
  OBS vendor.d, xdx
  OBS vendor.c, xcx
  mov eax, 0x80000000
  xor ecx, ecx
  cpuid
  OBS max.extended, xax

#if MODE == 64

// In 64-bit mode the four registers are written as 32-bit registers are: their upper halves become zero.

  STAGE upper
  mov rax, 0x1122334400000000
  mov rbx, rax
  mov rdx, rax
  mov rcx, rax
  cpuid
  shr rax, 32
  shr rbx, 32
  shr rcx, 32
  shr rdx, 32
  or rax, rbx
  or rax, rcx
  or rax, rdx
  OBS upper, rax
#endif

// ## Features that can be tried
//
// Bit by bit: what leaf 1 says in EDX, and whether the thing works.

  STAGE features
  mov eax, 1
  xor ecx, ecx
  cpuid
  mov [feature_d], edx
  mov [feature_c], ecx
.macro BIT name, number
  mov eax, [feature_d]
  shr eax, \number
  and eax, 1
  OBS \name, xax
.endm
  BIT fpu, 0
  BIT pse, 3
  BIT tsc, 4
  BIT msr, 5
  BIT pae, 6
  BIT cx8, 8
  BIT sep, 11
  BIT pge, 13
  BIT cmov, 15
  PROBE
1: rdtsc
  CAUGHT rdtsc
  PROBE
1: cmovz ecx, edx
  CAUGHT cmovz
  PROBE
1: cmpxchg8b [scratch]
  CAUGHT cmpxchg8b

// Bit 31 of ECX is not used by processors; hypervisors set it to be recognised, and then answer leaf 0x40000000.

  STAGE hypervisor
  mov eax, [feature_c]
  shr eax, 31
  OBS hypervisor, xax

// ## Time moves forwards

  STAGE tsc
  rdtsc
  mov esi, eax
  mov edi, edx
  rdtsc
  sub eax, esi
  sbb edx, edi
  setb cl
  movzx ecx, cl
  OBS tsc.backwards, xcx

// CR4.TSD takes RDTSC away from ring 3.

  mov xax, cr4
  or eax, 4
  mov cr4, xax
  PROBE
  TO_RING3
1: rdtsc
  CAUGHT3 tsd.user
  PROBE
1: rdtsc
  CAUGHT tsd.kernel
  DONE

.bss
.balign 8
feature_d: .skip 8
feature_c: .skip 8
scratch: .skip 8
