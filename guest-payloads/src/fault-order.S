// # Which fault comes first
//
// An instruction can be wrong in several ways at once, and only one exception is raised. And whatever it is, nothing of the instruction may have happened:
// the registers and memory are as before, so that it can be run again.
//
// Three pages in a row: one that may be written, one that is not there, and one that may only be read.

#include "rb.inc"
#include "float.inc"
BEGIN
.globl main

#define PAGES 0x8000000000
#define HOLE (PAGES + 0x1000)
#define READ_ONLY (PAGES + 0x2000)
#define NOWHERE 0x800000000000 // not canonical

// What was raised. The error code without the bit that says who it was; of a page fault, where it was in the three pages.
.macro AFTER name
9:
  OBS \name, [trap_vector]
  cmp qword ptr [trap_vector], NO_TRAP
  je 92f
  mov rax, [trap_ip]
  mov rdx, offset 1b
  sub rax, rdx
  OBS \name\().ip, rax
  cmp qword ptr [trap_vector], 14
  jne 92f
  mov rax, [trap_error]
  and eax, ~4
  OBS \name\().error, rax
  mov rax, [trap_cr2]
  mov rdx, PAGES
  sub rax, rdx
  OBS \name\().cr2, rax
92:
.endm

.macro TRY name, instruction:vararg
  PROBE
1: \instruction
  AFTER \name
.endm

main:
  SSE_ON
#ifdef NATIVE
  mov rdi, PAGES
.irp protection, 7, 0, 1
  mov esi, 0x1000
  mov edx, \protection
  mov r10d, 0x8032 // private, anonymous, exactly there, at once
  mov r8, -1
  xor r9d, r9d
  mov eax, 9
  push rdi
  syscall
  pop rdi
  add rdi, 0x1000
.endr
#else
  mov rax, offset table + 7
  mov [directory], rax
  mov rax, offset directory + 7
  mov [pointers], rax
  mov rax, offset pointers + 7
  mov [rb_pml4 + 8], rax
  mov rax, offset first + 7
  mov [table], rax
  mov rax, offset third + 5
  mov [table + 16], rax
  mov rax, cr0
  or eax, 0x10000 // WP
  mov cr0, rax
  mov rax, cr3
  mov cr3, rax
#endif
  mov rbx, HOLE
  mov rsi, PAGES
  mov rdi, READ_ONLY
  mov r8, NOWHERE

// ## The instruction before its operands

  STAGE decode
  TRY lock, .byte 0xf0, 0x8b, 0x03 // an undefined opcode, whatever the operand is
  TRY ud.memory, .byte 0x0f, 0xff, 0x03
  mov word ptr [rsi + 0xffe], 0x0b0f // UD2 at the end of the page
  lea rax, [rsi + 0xffe]
  PROBE
1: jmp rax
9:
  OBS ud.at.end, [trap_vector]
  mov byte ptr [rsi + 0xfff], 0x0f // half of an opcode
  lea rax, [rsi + 0xfff]
  PROBE
1: jmp rax
9:
  mov rax, [trap_vector]
  OBS half, rax
  mov rax, [trap_cr2]
  sub rax, rbx
  OBS half.cr2, rax
  mov rax, [trap_ip]
  sub rax, rsi
  OBS half.ip, rax
  mov dword ptr [rsi + 0xffb], 0xcccccc04
  mov word ptr [rsi + 0xffa], 0x04b0 // MOV AL, 4; then MOV EAX, imm32 with two bytes here
  mov dword ptr [rsi + 0xffc], 0x0201b8
  lea rcx, [rsi + 0xffa]
  mov eax, 0x99
  PROBE
1: jmp rcx
9:
  mov edx, eax
  OBS part.al, rdx
  mov rax, [trap_ip]
  sub rax, rsi
  OBS part.ip, rax
  mov rax, [trap_cr2]
  sub rax, rbx
  OBS part.cr2, rax

// ## The address before the page, the page before the operation

  STAGE operands
  TRY canonical, mov al, [r8]
  TRY canonical.stack, mov al, [rsp + r8]
  mov rbp, r8
  TRY canonical.rbp, mov al, [rbp]
  TRY sse.misaligned, movaps xmm0, [rbx + 4] // alignment before presence
  TRY sse.aligned, movaps xmm0, [rbx]
  TRY cmpxchg16b, cmpxchg16b [rbx + 8]
  xor ecx, ecx
  TRY div.memory, div dword ptr [rbx] // cannot be read, so it is not zero
  mov edx, 1
  TRY div.zero, div ecx
  TRY cmov, cmovo eax, [rbx] // the condition is false, and the operand is read
  mov eax, 1
  mov ecx, 2
  TRY cmpxchg.read.only, cmpxchg [rdi], ecx // differs, and is written all the same
  TRY bt.read.only, bt dword ptr [rdi], 1
  TRY bts.read.only, bts dword ptr [rdi], 1
  TRY test.read.only, test dword ptr [rdi], 1
  TRY and.read.only, and dword ptr [rdi], -1 // changes nothing
  TRY shift.zero, shl dword ptr [rdi], 0x20 // a count of zero writes, too
  TRY nop, nop dword ptr [rbx]
  TRY prefetch, prefetcht0 [rbx]
  TRY lea, lea rax, [rbx]
  TRY xchg, xchg [rdi], eax

// ## Nothing has happened

  STAGE restart
  mov dword ptr [rsi + 0xffc], 0x11111111
  mov rax, 0x2222222222222222
  TRY across, mov [rsi + 0xffc], rax
  mov eax, [rsi + 0xffc]
  OBS across.memory, rax
  mov eax, 5
  TRY across.add, add [rsi + 0xffe], eax
  mov eax, [rsi + 0xffc]
  OBS across.add.memory, rax
  mov rbp, rsp
  lea rsp, [rsi + 0x1004] // the stack begins in the hole
  PROBE
  mov [trap_sp], rbp
1: push rax
9:
  mov rax, [trap_vector]
  OBS push, rax
  mov rdx, rsp
  mov rsp, rbp
  mov rbp, rsp
  PROBE
1: pop qword ptr [rbx]
9:
  mov rax, [trap_vector]
  OBS pop, rax
  mov rax, rbp
  sub rax, rsp
  OBS pop.sp, rax
  PROBE
1: push qword ptr [rbx]
9:
  mov rax, [trap_vector]
  OBS push.memory, rax
  PROBE
1: call qword ptr [rbx]
9:
  mov rax, [trap_cr2]
  sub rax, rbx
  OBS call.memory, rax
  PROBE
1: call r8
9:
  mov rax, [trap_vector]
  OBS call.canonical, rax
  mov rax, [trap_ip]
  mov rdx, offset 1b
  sub rax, rdx
  OBS call.canonical.ip, rax // of the CALL: nothing was pushed
  mov qword ptr [rsi], 0
  mov r9, rsi
  lea rsi, [r9 + 0xff8]
  mov rdi, r9
  mov ecx, 4
  TRY movs.source, rep movsd
  OBS movs.source.left, rcx
  sub rsi, r9
  OBS movs.source.at, rsi
  mov rsi, r9
  lea rdi, [r9 + 0xff6]
  mov ecx, 4
  TRY movs.target, rep movsd // the third doubleword does not fit
  OBS movs.target.left, rcx
  sub rdi, r9
  OBS movs.target.at, rdi
  mov rsi, rbx
  mov rdi, r8
  mov ecx, 1
  TRY movs.both, movsb // the source is read first
  mov rdi, rbx
  mov ecx, 0
  TRY stos.none, rep stosb // no iteration, no access
  mov rsi, r9
  fld1
  TRY fst, fstp dword ptr [rbx]
  fstp dword ptr [rsi]
  mov eax, [rsi]
  OBS fst.kept, rax // it is still on the stack
  mov eax, 0x7777
  mov edx, 0x8888
  PROBE
1: xadd [rbx], eax
9:
  OBS xadd.register, rax
  mov eax, 0x7777
  stc
  PROBE
1: adc [rbx], eax
9:
  mov eax, [trap_flags]
  and eax, 1
  OBS adc.carry, rax

#ifndef NATIVE

// ## The unit, and the level

  STAGE unit
  mov rax, cr0
  or eax, 8
  mov cr0, rax
  TRY nm.memory, fld dword ptr [rbx]
  TRY nm.sse, movaps xmm0, [rbx + 4]
  TRY nm.lock, .byte 0xf0, 0xd9, 0x03 // an undefined opcode all the same
  clts
.macro TRY3 name, instruction:vararg
  PROBE
  TO_RING3
1: \instruction
  int 0x30
  AFTER \name
.endm
  TRY3 level.lgdt, lgdt [rbx] // the level before the operand
  TRY3 level.invlpg, invlpg [rbx]
  TRY3 level.ltr, ltr word ptr [rbx]
  TRY3 level.sgdt, sgdt [rbx] // no such rule for this one
  TRY3 level.in, insb
  TRY3 level.wrmsr, wrmsr
  TRY3 level.mov.cr1, .byte 0x0f, 0x22, 0xc8 // a register that is not there, before the level
#endif
  DONE

#ifndef NATIVE
.bss
.balign 4096
first: .skip 4096
third: .skip 4096
table: .skip 4096
directory: .skip 4096
pointers: .skip 4096
#endif
