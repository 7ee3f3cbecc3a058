// # The runtime as C sees it
//
// A few shims with C's calling convention around the words of `rb.inc`, and the probes: one memory access each, from ring 0 or ring 3, that may
// fault. What happened is in `trap_vector` and its neighbours afterwards.

#include "rb.inc"

#if MODE == 16
.section .low.text.c16, "ax"
CODE16

// gcc writes 16-bit code as 32-bit code with prefixes: arguments are four bytes each, and so is the return address.

.globl obs16, stage16, done16, fail16
obs16:
  push esi
  push eax
  mov esi, [esp + 12]
  mov eax, [esp + 16]
  call rb_obs16
  pop eax
  pop esi
  data32 ret
stage16:
  push esi
  mov esi, offset stage_prefix16
  call rb_puts16
  mov esi, [esp + 8]
  call rb_puts16
  mov esi, offset newline16
  call rb_puts16
  pop esi
  data32 ret
done16:
  jmp rb_done16
fail16:
  mov esi, [esp + 4]
  jmp rb_abort16
.section .low.rodata.c16, "a"
stage_prefix16: .asciz "RB1 stage "
newline16: .asciz "\n"

#else
#if MODE == 32
.section .text.c32, "ax"
CODE32
#else
.section .text.c64, "ax"
CODE64
#endif

// The arguments of the moment, in registers whatever the width.
.macro ARGUMENTS
#if MODE == 32
  mov esi, [esp + 12]
  mov eax, [esp + 16]
#else
  mov rax, rsi
  mov rsi, rdi
#endif
.endm

.globl M(obs), M(stage), M(done), M(fail), M(obs_trap)
M(obs):
  push xsi
  push xbx
  ARGUMENTS
  call M(rb_obs)
  pop xbx
  pop xsi
  ret
M(obs_trap): // name, address that the saved instruction pointer is reported against
  push xsi
  push xbx
  ARGUMENTS
  mov xbx, xax
  call M(rb_caught)
  pop xbx
  pop xsi
  ret
M(stage):
  push xsi
  push xbx
  ARGUMENTS
  push xsi
  mov esi, offset stage_prefix
  call M(rb_puts)
  pop xsi
  call M(rb_puts)
  mov esi, offset newline
  call M(rb_puts)
  pop xbx
  pop xsi
  ret
M(done):
  jmp M(rb_done)
M(fail):
#if MODE == 32
  mov esi, [esp + 4]
#else
  mov rsi, rdi
#endif
  jmp M(rb_abort)

// ## Probes
//
// `probe(kind, address, value)` does one access from ring 0, `user_probe` from ring 3: a byte read, a byte written, or a call of code at the
// address. The vector that stopped it is the result, or 0x100 if it came through. What a read saw is in `probe_value`.

.section .text.probe, "ax"
.macro ACCESS // xcx: kind, xbx: address, xax: value
  cmp ecx, 1
  je 3f
  cmp ecx, 2
  je 4f
  movzx eax, byte ptr [xbx]
  jmp 5f
3:
  mov [xbx], al
  jmp 5f
4:
  call xbx
5:
.endm

.macro ENTER_PROBE
#if MODE == 32
  push ebp
  push edi
  push esi
  push ebx
  mov ecx, [esp + 20]
  mov ebx, [esp + 24]
  mov eax, [esp + 28]
#else
  push rbp
  push r12
  push r13
  push r14
  push r15
  push rbx
  mov rcx, rdi
  mov rbx, rsi
  mov rax, rdx
#endif
  PROBE
.endm
.macro LEAVE_PROBE
  mov xword ptr [trap_resume], 0
#if MODE == 32
  pop ebx
  pop esi
  pop edi
  pop ebp
#else
  pop rbx
  pop r15
  pop r14
  pop r13
  pop r12
  pop rbp
#endif
  mov xax, [trap_vector]
  ret
.endm

#if MODE == 32
.globl probe32, user_probe32
CODE32
probe32:
#else
.globl probe64, user_probe64
CODE64
probe64:
#endif
  ENTER_PROBE
  ACCESS
  mov [probe_value], xax
  RESUME
  LEAVE_PROBE

M(user_probe):
  ENTER_PROBE
#if MODE == 32
  push RPL3(UDATA)
  push offset rb_user_stack
  push 2
  push RPL3(UCODE32)
  push offset in_ring3
  iretd
#else
  push RPL3(UDATA)
  push offset rb_user_stack
  push 2
  push RPL3(UCODE64)
  push offset in_ring3
  iretq
#endif
in_ring3:
#if MODE == 32
  mov edx, RPL3(UDATA)
  mov ds, edx
  mov es, edx
#endif
  ACCESS
  int 0x30
  RESUME
  cmp dword ptr [trap_vector], 0x30
  jne 6f
  mov [probe_value], xax
  mov dword ptr [trap_vector], NO_TRAP
6:
  LEAVE_PROBE

.section .rodata.c, "a"
stage_prefix: .asciz "RB1 stage "
newline: .asciz "\n"
#endif
