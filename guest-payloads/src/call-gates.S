// # Calls to more privilege
//
// A call gate is a door in the wall between rings: whoever may use it lands at one place, on a stack that the task-state segment names. 64-bit mode kept it,
// with descriptors of sixteen bytes, and without the copying of parameters. A conforming segment is the other way to share code: it runs at the privilege of
// its caller.

#include "rb.inc"
BEGIN
.globl main

#define GATE SPARE
#define GATE16 (SPARE + 16)
#define OTHER (SPARE + 32)
#define CONFORMING (SPARE + 48)

#if MODE == 64
#define KCODE KCODE64
#define GATE_TYPE 0x8c
#define FAR_RETURN .byte 0x48, 0xcb
#define CONFORMING_FLAGS 0xa
#else
#define KCODE KCODE32
#define GATE_TYPE 0x8c
#define FAR_RETURN .byte 0xcb
#define CONFORMING_FLAGS 0xc
#endif

.macro CALL_GATE selector, target, code, access, count=0
  mov eax, offset \target
  mov [rb_gdt + \selector], ax
  mov word ptr [rb_gdt + \selector + 2], \code
  mov byte ptr [rb_gdt + \selector + 4], \count
  mov byte ptr [rb_gdt + \selector + 5], \access
  shr eax, 16
  mov [rb_gdt + \selector + 6], ax
#if MODE == 64
  mov qword ptr [rb_gdt + \selector + 8], 0
#endif
.endm

// A far call through memory, which both widths have. The offset is not looked at.
.macro FAR_CALL selector
  mov dword ptr [pointer], 0x7777
  mov word ptr [pointer + 4], \selector
  lcall [pointer]
.endm
.macro FAR_JUMP selector
  mov dword ptr [pointer], 0x7777
  mov word ptr [pointer + 4], \selector
  ljmp [pointer]
.endm

.macro TRY name, instruction:vararg
  PROBE
  TO_RING3
  \instruction
  int 0x30
  RESUME
  OBS \name\().vector, [trap_vector]
  cmp xword ptr [trap_vector], 0x30
  je 92f
  OBS \name\().error, [trap_error]
92:
.endm

main:

// ## From ring 3 to ring 0 and back

  STAGE inner
  CALL_GATE GATE, door, KCODE, GATE_TYPE | 0x60
  PROBE
  TO_RING3
  mov xbp, xsp
  FAR_CALL RPL3(GATE)
1:
  mov xax, xsp
  sub xax, xbp
  mov [balance], xax // the outer stack is as before
  int 0x30
  RESUME
  OBS inner.vector, [trap_vector]
  OBS inner.cs, [seen_cs]
  OBS inner.ss, [seen_ss]
  mov xax, offset rb_trap_stack
  sub xax, [seen_sp]
  OBS inner.frame, xax // how far below the top of the inner stack
  mov xax, [seen_frame]
  mov xdx, offset 1b
  sub xax, xdx
  OBS inner.frame.ip, xax
  OBS inner.frame.cs, [seen_frame + WORD_BYTES]
  mov xax, [seen_frame + 2 * WORD_BYTES]
  mov xdx, offset rb_user_stack
  sub xax, xdx
  OBS inner.frame.sp, xax
  OBS inner.frame.ss, [seen_frame + 3 * WORD_BYTES]
  OBS inner.balance, [balance]
  OBS inner.flags, [seen_flags] // a gate of this kind changes no flags
#if MODE == 32

// The gate says how many words of the outer stack go along; RET n removes them from both.

  STAGE parameters
  CALL_GATE GATE, door_with_two, KCODE, GATE_TYPE | 0x60, 2
  PROBE
  TO_RING3
  mov ebp, esp
  push 0x11111111
  push 0x22222222
  FAR_CALL RPL3(GATE)
  sub ebp, esp
  mov [balance], ebp
  int 0x30
  RESUME
  OBS parameters.vector, [trap_vector]
  OBS parameters.first, [seen_frame + 8]
  OBS parameters.second, [seen_frame + 12]
  mov eax, [seen_frame + 16]
  sub eax, offset rb_user_stack
  OBS parameters.sp, eax
  OBS parameters.balance, [balance]

// A 16-bit gate pushes words.

  CALL_GATE GATE16, door_of_words, KCODE, 0xe4
  PROBE
  TO_RING3
  FAR_CALL RPL3(GATE16)
  int 0x30
  RESUME
  mov xax, offset rb_trap_stack
  sub xax, [seen_sp]
  OBS sixteen.frame, xax
  OBS sixteen.vector, [trap_vector]
  mov eax, [seen_frame + 4]
  OBS sixteen.ss, eax
#endif

// ## In ring 0 itself
//
// No change of privilege, no change of stack: the frame is an ordinary far return address. A jump through a gate may not change the ring at all.

  STAGE same
  CALL_GATE GATE, door, KCODE, GATE_TYPE
  mov xbp, xsp
  FAR_CALL GATE
  mov xax, xbp
  sub xax, [seen_sp]
  OBS same.frame, xax
  OBS same.frame.cs, [seen_frame + WORD_BYTES]
  CALL_GATE GATE, jumped_to, KCODE, GATE_TYPE
  FAR_JUMP GATE
jumped_to:
  OBS same.jump, 1
  CALL_GATE GATE, door, KCODE, GATE_TYPE | 0x60
  TRY jump.inner, FAR_JUMP RPL3(GATE)

// ## Conforming code

  STAGE conforming
  DESCRIPTOR CONFORMING, 0, 0xfffff, 0x9f, CONFORMING_FLAGS
  CALL_GATE GATE, door, CONFORMING, GATE_TYPE | 0x60
  PROBE
  TO_RING3
  FAR_CALL RPL3(GATE) // stays in ring 3
  int 0x30
  RESUME
  OBS conforming.gate.vector, [trap_vector]
  OBS conforming.gate.cs, [seen_cs]
  PROBE
  TO_RING3
  mov xax, offset conforming_entry
  mov [pointer], eax
  mov word ptr [pointer + 4], CONFORMING
  ljmp [pointer] // without any gate
conforming_entry:
  mov eax, cs
  mov [seen_cs], xax
  int 0x30
  RESUME
  OBS conforming.jump.vector, [trap_vector]
  OBS conforming.jump.cs, [seen_cs]
  and byte ptr [rb_gdt + CONFORMING + 5], 0x7f
  TRY conforming.absent, FAR_JUMP RPL3(CONFORMING)
  DESCRIPTOR OTHER, 0, 0xfffff, 0xff, CONFORMING_FLAGS // conforming code of ring 3
  PROBE
1: FAR_JUMP OTHER // from ring 0 to less privilege
  RESUME
  OBS conforming.outer.vector, [trap_vector]
  OBS conforming.outer.error, [trap_error]

// ## Doors that stay shut

  STAGE refused
  CALL_GATE GATE, door, KCODE, GATE_TYPE // for ring 0 only
  TRY gate.dpl, FAR_CALL RPL3(GATE)
  CALL_GATE GATE, door, KCODE, GATE_TYPE
  PROBE
  FAR_CALL RPL3(GATE) // ring 0 itself, in the name of ring 3
  RESUME
  OBS gate.rpl.vector, [trap_vector]
  OBS gate.rpl.error, [trap_error]
  CALL_GATE GATE, door, KCODE, GATE_TYPE | 0x60
  and byte ptr [rb_gdt + GATE + 5], 0x7f
  TRY gate.absent, FAR_CALL RPL3(GATE)
  CALL_GATE GATE, door, 0, GATE_TYPE | 0x60
  TRY gate.null, FAR_CALL RPL3(GATE)
  CALL_GATE GATE, door, KDATA, GATE_TYPE | 0x60
  TRY gate.data, FAR_CALL RPL3(GATE)
  CALL_GATE GATE, door, 0x200, GATE_TYPE | 0x60
  TRY gate.outside, FAR_CALL RPL3(GATE)
  DESCRIPTOR OTHER, 0, 0xfffff, 0x1b, CONFORMING_FLAGS // code, not present
  CALL_GATE GATE, door, OTHER, GATE_TYPE | 0x60
  TRY gate.code.absent, FAR_CALL RPL3(GATE)
  TRY direct, FAR_CALL RPL3(KCODE)
  TRY data, FAR_CALL RPL3(KDATA)
  TRY null, FAR_CALL 3
#if MODE == 64
  CALL_GATE GATE, door, KCODE32, GATE_TYPE | 0x60 // the target must be 64-bit code
  TRY gate.compat, FAR_CALL RPL3(GATE)
  CALL_GATE GATE, door, KCODE, GATE_TYPE | 0x60
  mov dword ptr [rb_gdt + GATE + 8], 0x8000 // not canonical
  TRY gate.offset, FAR_CALL RPL3(GATE)
  CALL_GATE GATE, door, KCODE, GATE_TYPE | 0x60
  mov word ptr [rb_gdt + GATE + 12], 0x0c00 // the type of the upper half is not zero
  TRY gate.upper, FAR_CALL RPL3(GATE)
  CALL_GATE GATE, door, KCODE, 0xe4 // a 16-bit gate is reserved here
  TRY gate.sixteen, FAR_CALL RPL3(GATE)
#else
  CALL_GATE GATE, door, KCODE, GATE_TYPE | 0x60
.macro STACK name, value
  mov word ptr [rb_tss + 8], \value
  mov dword ptr [stack_error], 0
  PROBE
  TO_RING3
1: FAR_CALL RPL3(GATE)
  RESUME
  OBS stack.\name\().vector, [stack_vector]
  OBS stack.\name\().error, [stack_error]
.endm

// The inner stack has to fit. A handler in ring 0 would need that stack, too; so these faults are handled in ring 3.

  STAGE stacks
.irp vector, 10, 11, 12
  mov eax, offset stack_fault_\vector
  mov [rb_idt + \vector * 8], ax
  mov word ptr [rb_idt + \vector * 8 + 2], RPL3(UCODE32)
  shr eax, 16
  mov [rb_idt + \vector * 8 + 6], ax
.endr
  STACK null, 0
  STACK user, RPL3(UDATA)
  STACK code, KCODE32
  DESCRIPTOR OTHER, 0, 0xfffff, 0x13, 0xc
  STACK absent, OTHER
  STACK outside, 0x200
  DESCRIPTOR OTHER, 0, 0x00100, 0x93, 4 // a segment too small for a frame
  STACK small, OTHER
#endif
  DONE

// What the gate leads to.
door:
  push xax
  push xdx
  PUSHF
  pop xax
  and eax, 0x200
  mov [seen_flags], xax
  xor eax, eax
  mov eax, cs
  mov [seen_cs], xax
  mov eax, ss
  mov [seen_ss], xax
  lea xax, [xsp + 2 * WORD_BYTES]
  mov [seen_sp], xax
.irp index, 0, 1, 2, 3, 4, 5
  mov xax, [xsp + (2 + \index) * WORD_BYTES]
  mov [seen_frame + \index * WORD_BYTES], xax
.endr
  pop xdx
  pop xax
  FAR_RETURN
#if MODE == 32
door_with_two:
  push eax
.irp index, 0, 1, 2, 3, 4, 5
  mov eax, [esp + (1 + \index) * 4]
  mov [seen_frame + \index * 4], eax
.endr
  pop eax
  lret 8
#endif

#if MODE == 32
.irp vector, 10, 11, 12
stack_fault_\vector:
  mov dword ptr [stack_vector], \vector
  jmp stack_fault
.endr
stack_fault: // in ring 3, on its stack
  pop dword ptr [stack_error]
  pop dword ptr [stack_ip]
  mov word ptr [rb_tss + 8], KDATA
  int 0x30

LOW_TEXT // a 16-bit gate has a 16-bit offset
CODE32
door_of_words: // its return address has lost its upper half
  mov [seen_sp], esp
  mov eax, [esp]
  mov [seen_frame], eax
  movzx eax, word ptr [esp + 6]
  mov [seen_frame + 4], eax
  int 0x30
#endif

.bss
.balign 8
pointer: .skip 8
seen_cs: .skip 8
seen_ss: .skip 8
seen_sp: .skip 8
seen_flags: .skip 8
seen_frame: .skip 48
balance: .skip 8
stack_vector: .skip 4
stack_error: .skip 4
stack_ip: .skip 4
