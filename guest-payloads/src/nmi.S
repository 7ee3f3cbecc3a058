// # The interrupt that cannot be masked
//
// An NMI ignores the interrupt flag. What keeps a second one out of the handler of the first is a hidden state that ends with IRET, any IRET.

#include "rb.inc"
#include "inject.inc"
#if MODE == 64
#define GATE(vector) (rb_idt + (vector) * 16)
#define IRET iretq
#else
#define GATE(vector) (rb_idt + (vector) * 8)
#define IRET iretd
#endif

.macro SET_GATE vector, handler
  mov eax, offset \handler
  mov [GATE(\vector)], ax
  shr eax, 16
  mov [GATE(\vector) + 6], ax
.endm

.macro WAIT_A_LITTLE
  mov ecx, 1000
7:
  dec ecx
  jnz 7b
.endm

BEGIN
.globl main
main:
  INTERRUPTS_ON
  SET_GATE 2, handler
  SET_GATE 0x20, plain

// ## With interrupts off

  STAGE masked
  cli
  RAISE_NMI
  WAIT_A_LITTLE
  mov eax, [count]
  OBS count, xax

// INT 2 runs the same handler and is no NMI: it blocks nothing.

  STAGE int2
  mov dword ptr [count], 0
  int 2
  mov eax, [count]
  OBS int2, xax

// ## A second one, inside the handler
//
// It waits. An IRET inside the handler, of something else, lets it in early.

  STAGE nested
  mov dword ptr [count], 0
  mov dword ptr [mode], 1
  RAISE_NMI
  WAIT_A_LITTLE
  mov eax, [count]
  OBS nested.count, xax
  mov eax, [depth_max]
  OBS nested.depth, xax

  STAGE early
  mov dword ptr [count], 0
  mov dword ptr [depth_max], 0
  mov dword ptr [mode], 2
  RAISE_NMI
  WAIT_A_LITTLE
  mov eax, [count]
  OBS early.count, xax
  mov eax, [depth_max]
  OBS early.depth, xax

// ## None is lost
//
// Sixteen, each after the one before has been handled.

  STAGE count
  mov dword ptr [count], 0
  mov dword ptr [mode], 0
  mov ecx, 16
1:
  push xcx
  RAISE_NMI
  WAIT_A_LITTLE
  pop xcx
  dec ecx
  jnz 1b
  mov eax, [count]
  OBS sixteen, xax
  DONE

handler:
  push xax
  push xcx
  push xdx
  inc dword ptr [count]
  inc dword ptr [depth]
  mov eax, [depth]
  cmp eax, [depth_max]
  jbe 1f
  mov [depth_max], eax
1:
  cmp dword ptr [mode], 0
  je 3f
  mov eax, [mode]
  mov dword ptr [mode], 0
  push xax
  RAISE_NMI
  WAIT_A_LITTLE
  pop xax
  cmp eax, 2
  jne 3f
  int 0x20 // returns by IRET
  WAIT_A_LITTLE
3:
  dec dword ptr [depth]
  pop xdx
  pop xcx
  pop xax
  IRET
plain:
  IRET

.bss
.balign 8
count: .skip 4
depth: .skip 4
depth_max: .skip 4
mode: .skip 4
