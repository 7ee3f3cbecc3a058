// # Compatibility mode
//
// A 64-bit kernel runs 32-bit programs without leaving long mode: the L bit of the code segment alone decides how instructions are decoded. Paging
// and interrupts stay those of long mode.

#include "rb.inc"
BEGIN
.globl main
main:
  STAGE enter
  mov rbx, 0x1122334455667788
  jmp fword ptr [to_compat]

CODE32
compat:
  mov [seen_ebx], ebx
  .byte 0x48 // DEC EAX here, a REX prefix in 64-bit code
  nop
  mov eax, 0x10
  .byte 0x48
  nop
  mov [seen_eax], eax
  mov ebx, 5 // clears nothing above bit 31 that 32-bit code could see
  mov eax, cs
  mov [seen_cs], eax
  ljmp KCODE64, offset back
CODE64
back:
  OBS ebx, qword ptr [seen_ebx]
  OBS dec.eax, qword ptr [seen_eax]
  OBS cs, qword ptr [seen_cs]

// ## Addresses wrap at 32 bits

  STAGE wrap
  mov dword ptr [marker], 0x600df00d
  jmp fword ptr [to_wrap]
CODE32
wrap:
  mov ebx, 0xfffffff0
  mov eax, [ebx + marker + 0x10]
  mov [seen_eax], eax
  ljmp KCODE64, offset 2f
CODE64
2:
  OBS wrapped, qword ptr [seen_eax]

// ## Interrupts leave compatibility mode
//
// The gates are 64-bit gates: the handler runs in 64-bit mode, the frame has eight-byte slots and always holds SS:RSP, though the privilege is the
// same.

  STAGE interrupt
  PROBE
  sub qword ptr [trap_sp], 0x100 // go on below the frame, so that it is still there to be looked at
  jmp fword ptr [to_interrupt]
CODE32
interrupt:
  int 0x20
CODE64
  RESUME
  OBS int.vector, [trap_vector]
  OBS int.cs, [trap_cs]
  mov rdi, [trap_frame]
  OBS int.frame.ss, [rdi + 32]
  mov rax, cs
  OBS int.now, rax

// ## In compatibility mode 32-bit opcodes live again

  STAGE opcodes
  jmp fword ptr [to_opcodes]
CODE32
opcodes:
  mov eax, 0x0f
  aaa
  mov [seen_eax], eax
  push ds
  pop eax
  mov [seen_ebx], eax
  ljmp KCODE64, offset 3f
CODE64
3:
  OBS aaa, qword ptr [seen_eax]
  OBS push.ds, qword ptr [seen_ebx]

// ## 16-bit protected mode inside long mode

  STAGE sixteen
  jmp fword ptr [to_sixteen]
LOW_TEXT
CODE16
sixteen:
  mov eax, 0xfffff
  mov ax, 1 // two bytes of immediate: this is decoded as 16-bit code
  mov [seen_low], eax
  data32 ljmp KCODE64, offset back_from_16
.text
CODE64
back_from_16:
  mov eax, [seen_low]
  OBS sixteen, rax

// ## Segment limits count again, though only here
//
// Compatibility mode checks limits; 64-bit mode does not. FS with a limit of one page shows both.

  STAGE limits
  DESCRIPTOR SPARE, 0x20000, 0x0fff, 0x93, 4
  mov eax, SPARE
  mov fs, eax
  PROBE
1: mov al, fs:[0x1000]
  CAUGHT limit.long
  PROBE
  jmp fword ptr [to_limit]
CODE32
limit32:
  mov al, fs:[0x1000]
  int 0x20
CODE64
  RESUME
  OBS limit.compat, [trap_vector]
  DONE

.macro FAR name, target, selector=KCODE32
\name:
  .long \target
  .word \selector
.endm
.data
.balign 8
seen_ebx: .quad 0
seen_eax: .quad 0
seen_cs: .quad 0
marker: .quad 0
FAR to_compat, compat
FAR to_wrap, wrap
FAR to_interrupt, interrupt
FAR to_opcodes, opcodes
FAR to_limit, limit32
FAR to_sixteen, sixteen, KCODE16
LOW_DATA
seen_low: .long 0
