// # Interrupts through gates
//
// INT n, the gate, the handler, IRET. From ring 0 the frame goes on the stack in use; from ring 3 the processor first takes a new stack from the
// task-state segment, and puts the old one's SS and pointer into the frame.

#include "rb.inc"
#if MODE == 64
#define GATE(vector) (rb_idt + (vector) * 16)
#define IRET iretq
#define CODE KCODE64
#define UCODE UCODE64
#else
#define GATE(vector) (rb_idt + (vector) * 8)
#define IRET iretd
#define CODE KCODE32
#define UCODE UCODE32
#endif

// Points the gate at a handler of our own; type and privilege in `access`.
.macro SET_GATE vector, handler, access=0x8e
  mov eax, offset \handler
  mov [GATE(\vector)], ax
  shr eax, 16
  mov [GATE(\vector) + 6], ax
  mov byte ptr [GATE(\vector) + 5], \access
.endm

BEGIN
.globl main
main:

// ## Ring 0 to ring 0

  STAGE same-privilege
  SET_GATE 0x20, handler
  mov [before], xsp
  push 0xad7 // the arithmetic flags, IF and OF
  popf
  int 0x20
after_int:
  pushf
  cli
  pop xax
  OBS flags.after, xax
  mov xax, [frame_flags]
  OBS flags.pushed, xax
  mov xax, [inside_flags]
  OBS flags.inside, xax
  mov xax, [frame_ip]
  sub xax, offset after_int
  OBS ip, xax
  OBS cs, [frame_cs]
  mov xax, [before]
  sub xax, [frame]
  OBS frame.bytes, xax

// A *trap* gate leaves the interrupt flag alone.

  STAGE trap-gate
  SET_GATE 0x21, handler, 0x8f
  sti
  int 0x21
  cli
  mov xax, [inside_flags]
  and eax, 0x200
  OBS trap.if, xax

#if MODE == 64

// In 64-bit mode the stack pointer is aligned to sixteen before the frame is pushed, whatever it was.

  STAGE alignment
  mov rbx, rsp
  mov eax, offset rb_ist_stack - 3
  mov rsp, rax
  int 0x20
  mov rsp, rbx
  mov rax, offset rb_ist_stack
  sub rax, [frame]
  OBS aligned, rax
  mov rdi, [frame]
  mov rax, [rdi + 24]
  sub rax, offset rb_ist_stack
  OBS aligned.rsp, rax
.irp distance, 1, 8, 15
  mov rbx, rsp
  mov eax, offset odd_stack - \distance
  mov rsp, rax
  int 0x20
  mov rsp, rbx
  mov rax, offset odd_stack
  sub rax, [frame]
  OBS aligned.\distance, rax
.endr

// The interrupt-stack table gives a gate a stack of its own even within ring 0.

  STAGE ist
  mov byte ptr [GATE(0x20) + 4], 1
  int 0x20
  mov byte ptr [GATE(0x20) + 4], 0
  mov rax, offset rb_ist_stack
  sub rax, [frame]
  OBS ist, rax
#endif

// ## Ring 3 to ring 0 and back

  STAGE from-ring3
  SET_GATE 0x22, handler, 0xee
  PROBE
  TO_RING3
  mov [before], xsp
  int 0x22
  mov [after], xsp
  mov eax, cs
  mov [after_cs], eax
1: int 0x30
  RESUME
  mov xax, offset rb_trap_stack
  sub xax, [frame]
  OBS user.frame.bytes, xax
  OBS user.cs, [frame_cs]
  mov xdi, [frame]
  OBS user.ss, [xdi + WORD_BYTES * 4]
  mov xax, [xdi + WORD_BYTES * 3]
  sub xax, [before]
  OBS user.sp, xax
  mov xax, [after]
  sub xax, [before]
  OBS user.balance, xax
  mov eax, [after_cs]
  OBS user.back.cs, xax
  mov eax, [inside_ss]
  OBS user.inside.ss, xax // in 64-bit mode a null selector is what a stack switch leaves

// ## Frames that IRET refuses

  STAGE iret
  PROBE
#if MODE == 64
  push KDATA
  push offset rb_stack
#endif
  push 2
  push KDATA // not a code segment
  push offset 2f
1: IRET
2:
  CAUGHT iret.data
  PROBE
  push RPL3(UDATA)
  push offset rb_user_stack
  push 2
  push UCODE // requested privilege 0, descriptor privilege 3
  push offset 2f
1: IRET
2:
  CAUGHT iret.rpl
  PROBE
  push KDATA // ring 3 needs a stack of ring 3
  push offset rb_user_stack
  push 2
  push RPL3(UCODE)
  push offset 2f
1: IRET
2:
  CAUGHT iret.ss

// Ring 3 cannot raise its own IOPL or switch interrupts on by IRET or POPF; the bits are silently kept. This is one of the instructions that made
// trap-and-emulate impossible: a kernel run in ring 3 would not notice.

  STAGE flags
  PROBE
  TO_RING3
  push 0x3202 // IOPL 3, IF
  popf
1: int 0x30
  RESUME
  mov xax, [trap_flags]
  and eax, 0x3200
  OBS popf.ring3, xax
  DONE

handler:
  mov [frame], xsp
  push xax
  mov xax, [xsp + WORD_BYTES]
  mov [frame_ip], xax
  mov xax, [xsp + WORD_BYTES * 2]
  mov [frame_cs], xax
  mov xax, [xsp + WORD_BYTES * 3]
  mov [frame_flags], xax
  xor eax, eax
  mov ax, ss
  mov [inside_ss], eax
  pushf
  pop xax
  mov [inside_flags], xax
  pop xax
  IRET

.bss
.balign 256
  .skip 128
odd_stack: .skip 8
.balign 8
frame: .skip 8
frame_ip: .skip 8
frame_cs: .skip 8
frame_flags: .skip 8
inside_flags: .skip 8
inside_ss: .skip 8
before: .skip 8
after: .skip 8
after_cs: .skip 8
