// # Virtual-8086 mode
//
// The first virtual machine on this processor: with the VM flag set, a task of ring 3 computes addresses as an 8086 did, and the instructions that
// would tell it the truth trap to the monitor in ring 0, if IOPL is below 3. A monitor that emulates CLI, STI, PUSHF, POPF, INT n and IRET, and lets
// everything else run directly, is a hypervisor for 8086 programs; `EMM386` and OS/2's DOS boxes were that.

#include "rb.inc"
BEGIN
.globl main

#define VM 0x20000
#define IOPL3 0x3000

// Enters V86 mode at the 16-bit code `entry`, with CS of the paragraph that makes its offset zero-based at 0, and a stack below 0x7000.
.macro TO_V86 entry, flags=VM | 2
  push 0x1111 // GS
  push 0x2222 // FS
  push 0x0800 // DS
  push 0x0900 // ES
  push 0x0000 // SS
  push 0x7000
  push \flags
  push 0
  push offset \entry
  iretd
.endm

main:

// ## In, and a look around

  STAGE enter
  PROBE
  TO_V86 look
  RESUME
  OBS vector, [trap_vector]
  OBS cs, [trap_cs]
  mov eax, [trap_flags]
  and eax, VM | IOPL3 | 2
  OBS flags, eax
  OBS seen.cs, dword ptr [seen_cs]
  OBS seen.byte, dword ptr [seen_byte]
  OBS seen.msw, dword ptr [seen_msw] // SMSW does not trap: the 8086 program can see that it is in protected mode

// The processor pushed the data segments as well, above the stack pointer, and cleared the registers: the handler needs selectors, not paragraphs.

  mov edi, [trap_frame]
  OBS frame.ss, [edi + 16]
  OBS frame.es, [edi + 20]
  OBS frame.ds, [edi + 24]
  OBS frame.fs, [edi + 28]
  OBS frame.gs, [edi + 32]
  mov eax, offset rb_trap_stack
  sub eax, edi
  OBS frame.bytes, eax

// ## What traps with IOPL 0
//
// All of these are general-protection faults with error code 0.

  STAGE sensitive
  PROBE
  TO_V86 v_cli
  RESUME
  OBS cli, [trap_vector]
  PROBE
  TO_V86 v_sti
  RESUME
  OBS sti, [trap_vector]
  PROBE
  TO_V86 v_pushf
  RESUME
  OBS pushf, [trap_vector]
  PROBE
  TO_V86 v_popf
  RESUME
  OBS popf, [trap_vector]
  PROBE
  TO_V86 v_int
  RESUME
  OBS int, [trap_vector]
  OBS int.error, [trap_error]
  PROBE
  TO_V86 v_iret
  RESUME
  OBS iret, [trap_vector]
  PROBE
  TO_V86 v_hlt
  RESUME
  OBS hlt, [trap_vector]
  PROBE
  TO_V86 v_in // decided by the I/O permission bitmap, of which there is none
  RESUME
  OBS in, [trap_vector]
  PROBE
  TO_V86 v_lgdt
  RESUME
  OBS lgdt, [trap_vector]
  PROBE
  TO_V86 v_str // system-segment instructions are not recognised at all, as in real mode
  RESUME
  OBS str, [trap_vector]

// ## With IOPL 3 the flags are the program's own
//
// Now CLI does what it says, INT n goes through the gate to ring 0 (the probe's gate 0x30 has privilege 3), and POPF cannot change IOPL.

  STAGE iopl3
  PROBE
  TO_V86 v_popf_then_int, VM | IOPL3 | 2
  RESUME
  OBS iopl3.vector, [trap_vector]
  mov eax, [trap_flags]
  and eax, VM | IOPL3 | 0x200
  OBS iopl3.flags, eax
  PROBE
  TO_V86 v_int20, VM | IOPL3 | 2 // a gate that is not for ring 3
  RESUME
  OBS iopl3.int20, [trap_vector]
  OBS iopl3.int20.error, [trap_error]
  mov word ptr [rb_idt + 0x31 * 8 + 2], RPL3(UCODE32) // a gate for ring 3, to a handler that would run there: only ring 0 can take over from V86 mode
  mov byte ptr [rb_idt + 0x31 * 8 + 5], 0xee
  PROBE
  TO_V86 v_int31, VM | IOPL3 | 2
  RESUME
  OBS iopl3.int31, [trap_vector]
  OBS iopl3.int31.error, [trap_error]

// ## Limits are 64 KiB

  STAGE limit
  PROBE
  TO_V86 v_limit
  RESUME
  OBS limit, [trap_vector]
  OBS limit.error, [trap_error]
  DONE

LOW_TEXT
CODE16
look:
  mov ax, cs
  movzx eax, ax
  mov cs:[seen_cs], eax
  mov byte ptr ds:[0x7fff], 0x77 // 0800:7FFF is linear 0xFFFF
  movzx eax, byte ptr es:[0x6fff] // and so is 0900:6FFF
  mov cs:[seen_byte], eax
  smsw ax
  and eax, 1
  mov cs:[seen_msw], eax
  hlt
v_cli: // HLT would trap as well, with the same vector; UD2 tells apart an instruction that was let through
  cli
  ud2
v_sti:
  sti
  ud2
v_pushf:
  pushf
  ud2
v_popf:
  popf
  ud2
v_int:
  int 0x30
v_iret:
  iret
v_hlt:
  hlt
v_in:
  mov dx, 0x3f8
  in al, dx
  ud2
v_lgdt:
  lgdt cs:[0]
v_str:
  str ax
  hlt
v_popf_then_int:
  cli
  push 0x0202
  popf
  int 0x30
v_int31:
  int 0x31
v_int20:
  int 0x20
v_limit:
  mov bx, 0xffff
  mov ax, cs:[bx]
  hlt

LOW_DATA
.balign 4
seen_cs: .long 0
seen_byte: .long 0
seen_msw: .long 0
