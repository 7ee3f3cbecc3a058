// # The interrupt window
//
// An interrupt that arrives while the guest has interrupts off must wait, and must be delivered at the first boundary at which the guest can take it:
// not earlier, and not lost. The hypervisor asks the hardware to tell when that *window* opens.

#include "rb.inc"
#include "inject.inc"
#if MODE == 64
#define GATE(vector) (rb_idt + (vector) * 16)
#define IRET iretq
#else
#define GATE(vector) (rb_idt + (vector) * 8)
#define IRET iretd
#endif
#define VECTOR 0x35
#define LOWER 0x25

.macro SET_GATE vector, handler
  mov eax, offset \handler
  mov [GATE(\vector)], ax
  shr eax, 16
  mov [GATE(\vector) + 6], ax
.endm

BEGIN
.globl main
main:
  INTERRUPTS_ON
  SET_GATE VECTOR, handler
  SET_GATE LOWER, lower_handler

// ## Closed

  STAGE closed
  RAISE VECTOR
  mov ecx, 1000
1:
  dec ecx
  jnz 1b
  mov eax, [count]
  OBS closed, xax

// ## Opening
//
// STI takes effect after the *next* instruction, so that `sti; hlt` and `sti; ret` leave no gap. The interrupt therefore comes after the first NOP.

  STAGE open
  sti
1:
  nop
  nop
  nop
  cli
  mov eax, [count]
  OBS open.count, xax
  mov eax, [ip]
  sub eax, offset 1b
  OBS open.ip, xax

// STI followed at once by CLI opens no window at all.

  STAGE sliver
  mov dword ptr [count], 0
  RAISE VECTOR
  sti
  cli
  mov eax, [count]
  OBS sliver, xax
  sti
  nop
  nop
  cli
  mov eax, [count]
  OBS sliver.after, xax

// POPF that sets the flag has no such shadow: the interrupt comes before the next instruction.

  STAGE popf
  mov dword ptr [count], 0
  RAISE VECTOR
  push 0x202
  popf
1:
  nop
  cli
  mov eax, [ip]
  sub eax, offset 1b
  OBS popf.ip, xax

// ## Open already
//
// With interrupts on it comes at the latest a few instructions later. A port write left the guest, so then it is there when the next instruction
// starts.

  STAGE ready
  mov dword ptr [count], 0
  sti
  nop
  RAISE VECTOR
1:
  nop
  nop
  nop
  nop
  cli
  mov eax, [count]
  OBS ready.count, xax

// ## Waking
//
// HLT with interrupts on ends when one comes; the saved address is that of the instruction behind HLT.

  STAGE wake
  mov dword ptr [count], 0
  RAISE VECTOR
  sti
  hlt
1:
  cli
  mov eax, [count]
  OBS wake.count, xax
  mov eax, [ip]
  sub eax, offset 1b
  OBS wake.ip, xax

// ## Inside a handler
//
// The gate switched interrupts off, so a second one waits for IRET.

  STAGE nested
  mov dword ptr [count], 0
  mov dword ptr [again], 1
  RAISE VECTOR
  sti
  nop
1:
  nop
  nop
  cli
  mov eax, [count]
  OBS nested.count, xax
  mov eax, [depth_max]
  OBS nested.depth, xax

// ## One vector, then another
//
// Two different vectors, one after the other has been taken.

  STAGE two
  mov dword ptr [count], 0
  mov dword ptr [lower_count], 0
  RAISE LOWER
  sti
  nop
  nop
  RAISE VECTOR
  nop
  nop
  nop
  cli
  mov eax, [count]
  OBS two.high, xax
  mov eax, [lower_count]
  OBS two.low, xax

// ## In ring 3
//
// An interrupt takes ring 3 to ring 0 and its stack, whatever ring 3 does.

  STAGE ring3
  mov dword ptr [count], 0
  RAISE VECTOR
  PROBE
  TO_RING3 0x202
1:
  mov ecx, 100000
2:
  cmp dword ptr [count], 0
  jne 3f
  dec ecx
  jnz 2b
3:
  int 0x30
  RESUME
  mov eax, [count]
  OBS ring3.count, xax
  mov eax, [cs_seen]
  OBS ring3.cs, xax
  DONE

handler:
  push xax
  push xdx
#if MODE == 32
  push ds
  mov eax, KDATA
  mov ds, eax
#define SAVED (WORD_BYTES * 3)
#else
#define SAVED (WORD_BYTES * 2)
#endif
  inc dword ptr [count]
  inc dword ptr [depth]
  mov eax, [depth]
  cmp eax, [depth_max]
  jbe 1f
  mov [depth_max], eax
1:
  mov xax, [xsp + SAVED]
  mov [ip], eax
  mov xax, [xsp + SAVED + WORD_BYTES]
  mov [cs_seen], eax
  ACKNOWLEDGE
  cmp dword ptr [again], 0
  je 2f
  mov dword ptr [again], 0
  RAISE VECTOR
  nop
  nop
2:
  dec dword ptr [depth]
#if MODE == 32
  pop ds
#endif
  pop xdx
  pop xax
  IRET

lower_handler:
  inc dword ptr [lower_count]
  ACKNOWLEDGE
  IRET

.bss
.balign 8
count: .skip 4
lower_count: .skip 4
ip: .skip 4
cs_seen: .skip 4
depth: .skip 4
depth_max: .skip 4
again: .skip 4
