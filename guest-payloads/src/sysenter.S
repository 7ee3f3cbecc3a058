// # SYSENTER and SYSEXIT
//
// The Pentium II's fast system call: code segment, stack and entry come from three MSRs, the rest of the segments from fixed distances. It saves
// *nothing*; where to return to is an agreement between kernel and program, in EDX and ECX.

#include "rb.inc"
#define SYSENTER_CS 0x174
#define SYSENTER_ESP 0x175
#define SYSENTER_EIP 0x176
#if MODE == 64
#define SELECTOR KCODE64
#else
#define SELECTOR KCODE32
#endif

.macro WRITE_MSR index, low
  mov ecx, \index
  mov eax, \low
  xor edx, edx
  wrmsr
.endm

BEGIN
.globl main
main:

// With a null selector in the MSR the instruction is a general-protection fault: the way to switch it off.

  STAGE disabled
  WRITE_MSR SYSENTER_CS, 0
  PROBE
1: sysenter
  CAUGHT disabled

  WRITE_MSR SYSENTER_CS, SELECTOR
  WRITE_MSR SYSENTER_ESP, "offset rb_trap_stack"
  WRITE_MSR SYSENTER_EIP, "offset entry"

  STAGE call
  mov al, 0xff // no interrupts from outside: IF will be set
  out 0x21, al
  out 0xa1, al
  PROBE
  TO_RING3 0x202
  mov xcx, xsp
  mov edx, offset returned
  sysenter
returned:
  mov [after_sp], xsp
  xor eax, eax
  mov ax, cs
  mov [after_cs], xax
  mov ax, ss
  mov [after_ss], xax
  mov ax, ds
#if MODE == 32
  mov [after_ds], eax
#endif
  int 0x30
  RESUME
  OBS entry.cs, [entry_cs]
  OBS entry.ss, [entry_ss]
  mov xax, [entry_sp]
  sub xax, offset rb_trap_stack
  OBS entry.sp, xax
  mov xax, [entry_flags]
  and eax, 0x20200 // IF and VM are cleared
  OBS entry.flags, xax
  OBS return.cs, [after_cs]
  OBS return.ss, [after_ss]
  mov xax, [after_sp]
  sub xax, offset rb_user_stack
  OBS return.sp, xax

  STAGE faults
  PROBE
  TO_RING3
1: .byte 0x0f, 0x35 // SYSEXIT
  CAUGHT3 ring3
#if MODE == 64
  PROBE
  mov ecx, offset rb_user_stack
  xor edx, edx
  bts rdx, 63
1: .byte 0x48, 0x0f, 0x35 // SYSEXIT to an address that is not canonical: refused while still in ring 0
  CAUGHT exit.noncanonical
  OBS exit.noncanonical.cs, [trap_cs]
#endif
  WRITE_MSR SYSENTER_CS, 0
  PROBE
1: .byte 0x0f, 0x35 // SYSEXIT
  CAUGHT exit.disabled
  DONE

entry:
  mov [entry_sp], xsp
  pushf
  pop xax
  mov [entry_flags], xax
  xor eax, eax
  mov ax, cs
  mov [entry_cs], xax
  mov ax, ss
  mov [entry_ss], xax
#if MODE == 64
  .byte 0x48 // to 64-bit code; without the prefix, to 32-bit code
#endif
  .byte 0x0f, 0x35 // SYSEXIT

.bss
.balign 8
entry_sp: .skip 8
entry_flags: .skip 8
entry_cs: .skip 8
entry_ss: .skip 8
after_sp: .skip 8
after_cs: .skip 8
after_ss: .skip 8
after_ds: .skip 8
