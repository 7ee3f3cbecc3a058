// # A fault while delivering a fault
//
// To deliver an exception the processor reads the IDT, loads a code segment and pushes a frame, and each of these can fault. Whether the second
// fault simply replaces the first, or the two together become a *double fault*, depends on their classes: benign, contributory (#DE #TS #NP #SS
// #GP), page fault.

#include "rb.inc"
#if MODE == 64
#define GATE(vector) (rb_idt + (vector) * 16)
#else
#define GATE(vector) (rb_idt + (vector) * 8)
#endif
#define HIDE(vector) and byte ptr [GATE(vector) + 5], 0x7f
#define SHOW(vector) or byte ptr [GATE(vector) + 5], 0x80

BEGIN
.globl main
main:

// Benign, then contributory: the second is delivered alone. Its error code has bit 0 set, for what it interrupted was not an INT instruction.

  STAGE benign
  HIDE(6)
  PROBE
1: ud2
  CAUGHT ud.np
  SHOW(6)

// Contributory, then contributory: a double fault, with an error code that is always zero.

  STAGE contributory
  HIDE(13)
  PROBE
  mov eax, 0x1000
1: mov es, eax
  CAUGHT gp.np
  SHOW(13)
  HIDE(0)
  PROBE
  xor ecx, ecx
1: div ecx
  CAUGHT de.np
  SHOW(0)

// An INT instruction is benign whatever its number, and it is not an event from outside: bit 0 is clear.

  STAGE requested
  HIDE(0x20)
  PROBE
1: int 0x20
  CAUGHT int.np
  SHOW(0x20)

#if MODE == 64

// With a page fault as one of the two. A gate can name a stack of its own; one that points at nothing makes the push fault. Contributory and then a
// page fault: delivered as a page fault. Page fault and then anything of weight: double.

#define NOWHERE 0x7000000000
  STAGE stacks
  mov rax, NOWHERE
  mov [rb_tss + 44], rax // IST2
  mov byte ptr [GATE(13) + 4], 2
  PROBE
  mov eax, 0x1000
1: mov es, eax
  CAUGHT gp.pf
  mov rax, cr2
  OBS gp.pf.cr2, rax
  mov byte ptr [GATE(13) + 4], 0
  mov byte ptr [GATE(14) + 4], 2
  PROBE
  mov rax, NOWHERE + 0x100000
1: mov al, [rax]
  CAUGHT pf.pf
  mov rax, cr2
  OBS pf.pf.cr2, rax
  mov byte ptr [GATE(14) + 4], 0
  HIDE(14)
  PROBE
  mov rax, NOWHERE + 0x100000
1: mov al, [rax]
  CAUGHT pf.np
  SHOW(14)

// A stack pointer that is not canonical is a stack fault when the frame is pushed.

  mov rax, 0x0000900000000000 // and so is every word below it
  mov [rb_tss + 44], rax
  mov byte ptr [GATE(6) + 4], 2
  PROBE
1: ud2
  CAUGHT ud.ss
  mov byte ptr [GATE(6) + 4], 0
#endif
  DONE
