// # SYSCALL and SYSRET
//
// A system call without a gate: the target comes from an MSR, no stack is switched, nothing is pushed. RCX keeps the return address, R11 the flags.

#include "rb.inc"
#define EFER 0xc0000080
#define STAR 0xc0000081
#define LSTAR 0xc0000082
#define FMASK 0xc0000084
#define GS_BASE 0xc0000101
#define KERNEL_GS_BASE 0xc0000102

.macro WRITE_MSR index, low, high=0
  mov ecx, \index
  mov eax, \low
  mov edx, \high
  wrmsr
.endm

BEGIN
.globl main
main:

// Until EFER.SCE is set the opcode does not exist.

  STAGE disabled
  PROBE
1: syscall
  CAUGHT disabled

  mov ecx, EFER
  rdmsr
  or eax, 1
  wrmsr
  WRITE_MSR STAR, 0, ((UCODE32 | 3) << 16) | KCODE64
  WRITE_MSR LSTAR, "offset entry"
  WRITE_MSR FMASK, 0x601 // CF, IF and DF are cleared on entry; bit 10 is DF, bit 9 IF

// ## Ring 3 calls

  STAGE call
  PROBE
  TO_RING3
  mov rbx, rsp
  std
  stc
  syscall
returned:
  mov [after_rsp], rsp
  pushf
  pop rax
  mov [after_flags], rax
  mov eax, cs
  mov [after_cs], rax
  mov eax, ss
  mov [after_ss], rax
  cld
  int 0x30
  RESUME
  OBS entry.cs, [entry_cs]
  OBS entry.ss, [entry_ss]
  mov rax, [entry_rcx]
  sub rax, offset returned
  OBS entry.rcx, rax
  mov rax, [entry_r11]
  and eax, 0x601
  OBS entry.r11, rax
  mov rax, [entry_flags]
  and eax, 0x601
  OBS entry.flags, rax
  mov rax, [entry_rsp]
  sub rax, offset rb_user_stack
  OBS entry.rsp, rax // the user's own stack pointer
  OBS return.cs, [after_cs]
  OBS return.ss, [after_ss]
  mov rax, [after_flags]
  and eax, 0x601
  OBS return.flags, rax
  mov rax, [after_rsp]
  sub rax, offset rb_user_stack
  OBS return.rsp, rax

// ## SYSRET into compatibility mode
//
// Without the 64-bit operand size it returns to the 32-bit user segment.

  STAGE sysret32
  PROBE
  mov ecx, offset compat_user
  mov r11d, 2
  .byte 0x0f, 0x07 // SYSRET without REX.W
CODE32
compat_user:
  mov eax, cs
  mov [after_cs], eax
  int 0x30
CODE64
  RESUME
  OBS sysret32.cs, [after_cs]
  OBS sysret32.trap.cs, [trap_cs]

// ## What can go wrong
//
// SYSRET is for ring 0. And a return address that is not canonical faults *in ring 0*, with the user's stack pointer loaded already on some
// processors: a hole that several kernels had.

  STAGE faults
  PROBE
  TO_RING3
1: sysretq
  CAUGHT3 ring3
  PROBE
  mov rcx, 0x0000800000000000
  mov r11d, 2
1: sysretq
  RESUME
  OBS noncanonical.vector, [trap_vector]
  OBS noncanonical.error, [trap_error]
  OBS noncanonical.cs, [trap_cs] // ring 0 on Intel's; AMD's processors fault in ring 3, at the target
  PROBE
1: WRITE_MSR LSTAR, 0, 0x8000
  RESUME
  OBS lstar.noncanonical, [trap_vector]

// ## SWAPGS
//
// The kernel has no register to find its data with: so one instruction exchanges the base of GS with a hidden one.

  STAGE swapgs
  WRITE_MSR GS_BASE, "offset user_data"
  WRITE_MSR KERNEL_GS_BASE, "offset kernel_data"
  mov rax, gs:[0]
  OBS gs.before, rax
  swapgs
  mov rax, gs:[0]
  OBS gs.after, rax
  mov ecx, KERNEL_GS_BASE
  rdmsr
  sub eax, offset user_data
  OBS gs.hidden, rax
  swapgs
  PROBE
  TO_RING3
1: swapgs
  CAUGHT3 swapgs.ring3
  DONE

entry:
  mov [entry_rcx], rcx
  mov [entry_r11], r11
  mov [entry_rsp], rsp
  mov eax, cs
  mov [entry_cs], rax
  mov eax, ss
  mov [entry_ss], rax
  mov rsp, offset rb_trap_stack
  pushf
  pop rax
  mov [entry_flags], rax
  mov rsp, [entry_rsp]
  sysretq

.data
.balign 8
user_data: .quad 0x1111
kernel_data: .quad 0x2222
.bss
.balign 8
entry_rcx: .skip 8
entry_r11: .skip 8
entry_rsp: .skip 8
entry_cs: .skip 8
entry_ss: .skip 8
entry_flags: .skip 8
after_rsp: .skip 8
after_flags: .skip 8
after_cs: .skip 8
after_ss: .skip 8
