// # Virtual-8086 mode, in detail
//
// What an 8086 program may do under a monitor: which ports, which instructions, which way back. `mode-v86` looks around in it; here are the rules that a
// monitor is built on. With EXTENSIONS it is about CR4.VME: interrupts that the program handles by itself, and an interrupt flag of its own.

#include "rb.inc"
BEGIN
.globl main

#define VM 0x20000
#define VIF 0x80000
#define VIP 0x100000
#define IOPL(level) ((level) << 12)
#define IF 0x200
#define REDIRECTION (rb_tss + 104) // 32 bytes before the map of ports
#define PORTS (rb_tss + 136)
#define LIMIT (136 + 8192)

.macro TO_V86 entry, flags
  push 0
  push 0
  push 0
  push 0
  push 0
  push 0x7000
  push \flags
  push 0
  push offset \entry
  iretd
.endm

// Runs V86 code until something stops it. The low words of the frame are what the program had.
.macro RUN name, entry, flags
  PROBE
  TO_V86 \entry, \flags
  RESUME
  OBS \name\().vector, [trap_vector]
  mov eax, [trap_ip]
  mov edx, offset \entry
  sub eax, edx
  OBS \name\().ip, eax
.endm

.macro FLAGS name
  mov eax, [trap_flags]
  and eax, VM | VIF | VIP | IOPL(3) | IF
  OBS \name, eax
.endm

main:
  mov word ptr [rb_tss + 102], 136
  mov word ptr [rb_gdt + TSS], LIMIT
  mov edi, offset REDIRECTION
  mov ecx, 32 + 8192 + 1
  mov al, 0xff
  rep stosb
  and byte ptr [rb_gdt + TSS + 5], ~2
  mov eax, TSS
  ltr ax
  mov dword ptr [0x21 * 4], offset v_handler // the program's own vector table
  mov dword ptr [0x22 * 4], offset v_handler
#ifndef EXTENSIONS

// ## Ports
//
// IOPL does not matter in this mode: every port is looked up. A wide access needs all of its bits clear, and the last byte of the map has to be ones.

  STAGE ports
  and byte ptr [PORTS + 0x80 / 8], ~(1 << (0x80 & 7)) // port 80h alone
  RUN in.allowed, v_in_80, VM | 2
  RUN in.denied, v_in_81, VM | 2
  RUN in.word, v_in_80_word, VM | 2
  RUN in.iopl3, v_in_81, VM | IOPL(3) | 2
  RUN outs.denied, v_outs, VM | 2
  OBS outs.si, dword ptr [0x6f00]
  mov word ptr [rb_gdt + TSS], 135 + 0x100 / 8 // a map of 256 ports: the rest is denied
  and byte ptr [rb_gdt + TSS + 5], ~2
  mov eax, TSS
  ltr ax
  RUN in.short.map, v_in_high, VM | 2
  RUN in.allowed.still, v_in_80, VM | 2
  mov word ptr [rb_gdt + TSS], LIMIT
  and byte ptr [rb_gdt + TSS + 5], ~2
  mov eax, TSS
  ltr ax

// ## What is never there, and what always traps

  STAGE privileged
  RUN hlt, v_hlt, VM | IOPL(3) | 2
  RUN mov.cr0, v_cr0, VM | IOPL(3) | 2
  RUN lidt, v_lidt, VM | IOPL(3) | 2
  RUN clts, v_clts, VM | IOPL(3) | 2
  RUN lldt, v_lldt, VM | IOPL(3) | 2
  RUN lar, v_lar, VM | IOPL(3) | 2
  RUN verr, v_verr, VM | IOPL(3) | 2
  RUN arpl, v_arpl, VM | IOPL(3) | 2
  RUN sidt, v_sidt, VM | 2

// ## The flags

  STAGE flags
  RUN iopl3.cli, v_cli, VM | IOPL(3) | IF | 2
  FLAGS iopl3.cli.flags
  RUN iopl3.popf, v_popf, VM | IOPL(3) | IF | 2
  FLAGS iopl3.popf.flags
  RUN iopl3.popfd, v_popfd, VM | IOPL(3) | IF | 2 // VM and IOPL stay
  FLAGS iopl3.popfd.flags
  RUN iopl3.pushfd, v_pushfd, VM | IOPL(3) | 2
  mov eax, [0x6f00] // the image that was pushed has no VM
  and eax, VM | IOPL(3)
  OBS iopl3.pushfd.image, eax
  RUN iopl3.iret, v_iret, VM | IOPL(3) | 2
  FLAGS iopl3.iret.flags
  RUN iopl0.int3, v_int3, VM | 2 // has no such restriction
  RUN iopl0.into, v_into, VM | 2
  RUN iopl0.int, v_int21, VM | 2
  RUN iopl0.pushfd, v_pushfd, VM | 2

// ## Segments
//
// Loading one never faults; far calls go wherever they say; every limit is FFFF, whatever was there before.

  STAGE segments
  RUN far, v_far, VM | 2
  OBS far.cs, dword ptr [0x6f00]
  OBS far.offset, dword ptr [0x6f04]
  RUN wrap, v_wrap, VM | 2
  RUN stack, v_stack, VM | 2 // a push at SP 0 wraps to FFFE
  OBS stack.sp, dword ptr [0x6f00]
  RUN call32, v_call32, VM | 2 // a target beyond 64 KiB
#else

// ## Whose interrupt it is
//
// With CR4.VME set, INT n looks at a bit of its own in the task-state segment: zero sends it to the program's table, as an 8086 would have it, without
// leaving the mode.

  mov eax, cr4
  or eax, 1
  mov cr4, eax
  STAGE redirection
  and byte ptr [REDIRECTION + 0x21 / 8], ~(1 << (0x21 & 7))
  mov dword ptr [0x6f00], 0
  RUN redirected, v_int21, VM | 2
  OBS redirected.flags, dword ptr [0x6f00] // as it was pushed: IOPL 3, and VIF for IF
  FLAGS redirected.state
  RUN redirected.vif, v_int21, VM | VIF | 2
  OBS redirected.vif.flags, dword ptr [0x6f00]
  FLAGS redirected.vif.state
  RUN redirected.iopl3, v_int21, VM | IOPL(3) | IF | 2
  OBS redirected.iopl3.flags, dword ptr [0x6f00]
  FLAGS redirected.iopl3.state
  RUN monitor.iopl0, v_int22, VM | 2 // its bit is one
  RUN monitor.iopl3, v_int30, VM | IOPL(3) | 2

// ## A virtual interrupt flag
//
// CLI and STI change VIF, PUSHF shows it as IF. An interrupt that the monitor has pending (VIP) turns an STI into a fault.

  STAGE virtual
  RUN cli, v_cli, VM | VIF | 2
  FLAGS cli.flags
  RUN sti, v_sti, VM | 2
  FLAGS sti.flags
  RUN sti.pending, v_sti, VM | VIP | 2
  RUN pushf, v_pushf, VM | VIF | 2
  OBS pushf.image, dword ptr [0x6f00]
  RUN pushf.clear, v_pushf, VM | 2
  OBS pushf.clear.image, dword ptr [0x6f00]
  RUN popf, v_popf_on, VM | 2
  FLAGS popf.flags
  RUN popf.pending, v_popf_on, VM | VIP | 2
  RUN popf.trap, v_popf_trap, VM | 2 // TF may not be set this way
  RUN pushfd, v_pushfd, VM | 2 // the 32-bit forms fault as before
  RUN iret, v_iret_on, VM | 2
  FLAGS iret.flags
  RUN iret.pending, v_iret_on, VM | VIP | 2

// The same in protected mode, at level 3, is CR4.PVI.

  STAGE protected
  mov eax, cr4
  and eax, ~1
  or eax, 2
  mov cr4, eax
.macro PVI name, flags, instruction:vararg
  PROBE
  TO_RING3 \flags
1: \instruction
  int 0x30
  RESUME
  OBS \name\().vector, [trap_vector]
  FLAGS \name\().flags
.endm
  PVI pvi.sti, 2, sti
  PVI pvi.cli, (VIF | 2), cli
  PVI pvi.sti.pending, (VIP | 2), sti
  PVI pvi.popf, 2, popfd
  mov eax, cr4
  and eax, ~2
  mov cr4, eax
  PVI pvi.off, 2, sti
#endif
  DONE

LOW_TEXT
CODE16
v_in_80:
  in al, 0x80
  ud2
v_in_81:
  in al, 0x81
  ud2
v_in_80_word:
  in ax, 0x80
  ud2
v_in_high:
  mov dx, 0x3f8
  in al, dx
  ud2
v_outs:
  mov si, 0x1234
  mov dx, 0x81
  mov ds:[0x6f00], esi
  outsb
  ud2
v_hlt:
  hlt
v_cr0:
  mov eax, cr0
v_lidt:
  lidt ds:[0]
v_clts:
  clts
v_lldt:
  lldt ax
v_lar:
  lar ax, ax
v_verr:
  verr ax
v_arpl:
  .byte 0x63, 0xc0
v_sidt:
  sidt ds:[0x6f00]
  ud2
v_cli:
  cli
  ud2
v_sti:
  sti
  ud2
v_popf:
  push 0x0202
  popf
  ud2
v_popf_on:
  push 0x3202
  popf
  ud2
v_popf_trap:
  push 0x0102
  popf
  ud2
v_popfd:
  .byte 0x66, 0x68
  .long 0x2
  popfd
  ud2
v_pushf:
  pushf
  pop ax
  movzx eax, ax
  mov ds:[0x6f00], eax
  ud2
v_pushfd:
  pushfd
  pop eax
  mov ds:[0x6f00], eax
  ud2
v_iret:
v_iret_on:
  push 0x0202
  push 0
  push offset 1f
  iret
1:
  ud2
v_int3:
  int3
v_into:
  mov al, 0x7f
  add al, 1
  into
  ud2
v_int21:
  int 0x21
  ud2
v_int22:
  int 0x22
  ud2
v_int30:
  int 0x30
  ud2
v_handler:
  mov bp, sp
  movzx eax, word ptr [bp + 4]
  mov ds:[0x6f00], eax
  ud2
v_far:
  mov ax, 0x1234
  mov es, ax // anything will do
  lcall 0, offset 1f
1:
  pop ax
  movzx eax, ax
  sub eax, offset 1b
  mov ds:[0x6f04], eax
  pop ax
  movzx eax, ax
  mov ds:[0x6f00], eax
  push 0xf000
  pop ds
  ud2
v_wrap:
  mov bx, 0xfffe
  mov eax, [bx] // four bytes from FFFE
v_stack:
  mov sp, 0
  push 0x55
  movzx eax, sp
  mov ds:[0x6f00], eax
  ud2
v_call32:
  .byte 0x66, 0xe8
  .long 0x20000
