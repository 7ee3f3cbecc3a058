// # Prefixes, and what they do together
//
// Each prefix is simple; what they do in combination, repeated, or in front of an instruction that has no use for them, is where decoders differ.

#include "rb.inc"
#include "rows.inc"
BEGIN
.globl main

// The bytes are run as they are; what came of it is the vector, or 100 if they went through.
.macro TRY name, bytes:vararg
  PROBE
1: .byte \bytes
  CAUGHT \name
.endm

#define LOCK 0xf0

main:

// ## LOCK
//
// Allowed on the read-modify-write instructions whose destination is memory, and on nothing else.

  STAGE lock
  mov ebx, offset memory
  mov edi, offset memory
  mov eax, 0
  mov edx, 0
  mov ecx, 1
.irp opcode, 0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30 // ADD to XOR [BX], CL
  TRY lock.\opcode, LOCK, \opcode, 0x0b
.endr
  TRY lock.cmp, LOCK, 0x38, 0x0b
  TRY lock.test, LOCK, 0x84, 0x0b
  TRY lock.load, LOCK, 0x02, 0x0b // ADD CL, [BX]: the destination is a register
  TRY lock.register, LOCK, 0x00, 0xc9
.irp digit, 0x03, 0x0b, 0x13, 0x1b, 0x23, 0x2b, 0x33, 0x3b // group 1 with an immediate
  TRY lock.group1.\digit, LOCK, 0x80, \digit, 0x01
.endr
  TRY lock.mov, LOCK, 0x88, 0x0b
  TRY lock.xchg, LOCK, 0x86, 0x0b
  TRY lock.xchg.register, LOCK, 0x86, 0xc9
  TRY lock.inc, LOCK, 0xfe, 0x03
  TRY lock.dec, LOCK, 0xff, 0x0b
  TRY lock.push, LOCK, 0xff, 0x33
  TRY lock.not, LOCK, 0xf6, 0x13
  TRY lock.neg, LOCK, 0xf6, 0x1b
  TRY lock.mul, LOCK, 0xf6, 0x23
  TRY lock.test.immediate, LOCK, 0xf6, 0x03, 0x01
  TRY lock.shl, LOCK, 0xd0, 0x23
  TRY lock.bt, LOCK, 0x0f, 0xa3, 0x0b
  TRY lock.bts, LOCK, 0x0f, 0xab, 0x0b
  TRY lock.bts.immediate, LOCK, 0x0f, 0xba, 0x2b, 0x01
  TRY lock.bt.immediate, LOCK, 0x0f, 0xba, 0x23, 0x01
  TRY lock.shld, LOCK, 0x0f, 0xa5, 0x0b
  TRY lock.xadd, LOCK, 0x0f, 0xc0, 0x0b
  TRY lock.cmpxchg, LOCK, 0x0f, 0xb0, 0x0b
  mov ebx, offset memory
  TRY lock.lea, LOCK, 0x8d, 0x03
  TRY lock.jmp, LOCK, 0xeb, 0x00
  TRY lock.movs, LOCK, 0xa4
  TRY lock.fault, LOCK, 0x38, 0x0d, 0xff, 0xff, 0xff, 0xff // the operand is not even looked at

// ## Fifteen bytes
//
// However the bytes are used up: repeated prefixes of any kind, a displacement, an immediate.

  STAGE length
  mov ebx, offset memory
  TRY length.15.segment, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x8b, 0x03
  TRY length.16.segment, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x8b, 0x03
  TRY length.15.rep, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0x90
  TRY length.16.rep, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0x90
  TRY length.16.lock, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0x90 // general protection, not an undefined opcode
#if MODE == 64
  mov eax, 0
  TRY length.16.immediate, 0x3e, 0x3e, 0x65, 0x67, 0x48, 0x81, 0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0 // the immediate does not fit any more
#endif

// ## The last one counts
//
// Of several segment overrides, and of REP and REPNE.

  STAGE repeated
  GROUP repeated
  mov dword ptr [memory], 0x11223344
#if MODE == 32
  mov ebp, offset memory
  .byte 0x2e, 0x36, 0x3e // CS, SS, DS
  mov eax, [ebp]
  ROW_VALUE eax
  NEXT_ROW
#else
  mov rbp, offset memory
  .byte 0x64, 0x2e, 0x3e // FS, and then two that mean nothing in 64-bit mode: FS remains
  mov eax, [rbp]
  ROW_VALUE rax
  NEXT_ROW
#endif
  mov edi, offset text
  mov ecx, 10
  mov al, 'a'
  .byte 0xf2, 0xf3 // REPNE, REPE: as long as equal
  scasb
  ROW_VALUE xcx
  NEXT_ROW
  mov edi, offset text
  mov ecx, 10
  mov al, 'b'
  .byte 0xf3, 0xf2 // REPE, REPNE: as long as not equal
  scasb
  ROW_VALUE xcx
  NEXT_ROW
  mov esi, offset text
  mov edi, offset memory
  mov ecx, 3
  .byte 0xf2 // with MOVS both repeat
  movsb
  ROW_VALUE xcx
  NEXT_ROW
  mov eax, 5
  mov ecx, 7
  .byte 0xf3
  add eax, ecx // REP where it has no meaning
  .byte 0x65, 0x26
  add eax, ecx
  ROW_VALUE xax
  NEXT_ROW
  mov eax, -1
  .byte 0x66, 0x66
  mov ax, 0x1234
  ROW_VALUE xax
  NEXT_ROW
  mov ecx, 2
  mov eax, 0
  .byte 0xf2, 0xf3
  nop // F3 90 is PAUSE
  ROW_VALUE xcx
  NEXT_ROW

// ## Sizes

  STAGE sizes
  GROUP sizes
  mov xax, -1
  .byte 0x67
  mov eax, 0x12345678 // the address size is of no use here
  ROW_VALUE xax
  NEXT_ROW
  mov ecx, 0x10002
#if MODE == 32
  .byte 0x67
  loop 1f // counts CX
1:
  ROW_VALUE ecx
  NEXT_ROW
  mov ecx, 0x10000
  mov eax, 1
  .byte 0x67
  jecxz 1f // JCXZ
  mov eax, 2
1:
  ROW_VALUE eax
  NEXT_ROW
#else
  mov rcx, 0x100000002
  .byte 0x67
  loop 1f // counts ECX, and clears the upper half
1:
  ROW_VALUE rcx
  NEXT_ROW
  mov rcx, 0x100000000
  mov eax, 1
  .byte 0x67
  jrcxz 1f
  mov eax, 2
1:
  ROW_VALUE rax
  NEXT_ROW
  mov rcx, 0x100000003
  mov rdi, 0x100000000
  add rdi, offset memory
  xor eax, eax
  .byte 0x67
  rep stosb
  ROW_VALUE rcx
  NEXT_ROW
  mov eax, offset memory
  sub rdi, rax
  ROW_VALUE rdi // only EDI was used
  NEXT_ROW

// ## REX
//
// It counts only right before the opcode. W beats 66. With any REX prefix, byte registers 4 to 7 are SPL to DIL.

  mov rax, 0x1122334455667788
  mov rcx, -1
  .byte 0x48, 0x66, 0x8b, 0xc8 // REX.W, then 66: REX is forgotten
  ROW_VALUE rcx
  NEXT_ROW
  mov rcx, -1
  .byte 0x66, 0x48, 0x8b, 0xc8 // 66, then REX.W: 64 bits
  ROW_VALUE rcx
  NEXT_ROW
  mov rcx, -1
  .byte 0x48, 0x40, 0x8b, 0xc8 // the last of two
  ROW_VALUE rcx
  NEXT_ROW
  mov r8, -1
  mov rcx, -1
  .byte 0x44, 0x2e, 0x8b, 0xc0 // REX.R, then a segment prefix
  ROW_VALUE r8
  NEXT_ROW
  mov rsi, 0x7777777777777711
  mov rdx, 0x2200
  mov rax, 0
  .byte 0x88, 0xf0 // MOV AL, DH
  ROW_VALUE rax
  NEXT_ROW
  .byte 0x40, 0x88, 0xf0 // MOV AL, SIL
  ROW_VALUE rax
  NEXT_ROW
  mov rax, 0x0102030405060708
  mov r8, 0x1112131415161718
  .byte 0x90 // NOP
  .byte 0x48, 0x90 // and still
  ROW_VALUE rax
  NEXT_ROW
  .byte 0x41, 0x90 // XCHG R8D, EAX
  ROW_VALUE rax
  NEXT_ROW
  ROW_VALUE r8
  NEXT_ROW
  mov rax, rsp
  .byte 0x66
  push 0x1234 // two bytes
  sub rax, rsp
  add rsp, rax
  ROW_VALUE rax
  NEXT_ROW
  xor eax, eax
  .byte 0x67, 0x67
  lea rax, [rax - 1]
  ROW_VALUE rax
  NEXT_ROW
  .byte 0x48, 0x63, 0xc8 // MOVSXD RCX, EAX
  ROW_VALUE rcx
  NEXT_ROW
  mov rcx, 0
  .byte 0x63, 0xc8 // without W: 32 bits, as MOV
  ROW_VALUE rcx
  NEXT_ROW
#endif

// ## Reserved and dropped opcodes

  STAGE undefined
#if MODE == 64
.irp opcode, 0x06, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x62, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea
  TRY dropped.\opcode, \opcode, 0, 0, 0, 0, 0, 0
.endr
#endif
  TRY ud2, 0x0f, 0x0b
  TRY ud1, 0x0f, 0xb9, 0xc0
  TRY ud.0f04, 0x0f, 0x04
  TRY ud.0f0a, 0x0f, 0x0a
  TRY ud.0f24, 0x0f, 0x24, 0xc0 // the test registers of the 386
  TRY ud.0fa6, 0x0f, 0xa6, 0x00 // a reserved byte
  TRY ud.8d, 0x8d, 0xc0 // LEA of a register
  TRY ud.c6, 0xc6, 0x08, 0x00 // groups with missing members
  TRY ud.8f, 0x8f, 0xc8
  TRY ud.fe, 0xfe, 0x10
  TRY ud.ff, 0xff, 0x38
  TRY ud.0fba, 0x0f, 0xba, 0x00, 0x00
  TRY ud.0fc7, 0x0f, 0xc7, 0x00
  TRY ud.callf, 0xff, 0xd8 // a far call needs memory
  TRY ud.0f00, 0x0f, 0x00, 0x30
  TRY ud.0f01, 0x0f, 0x01, 0x28
  TRY ud.sse, 0x66, 0x0f, 0x52, 0xc0 // no packed double of RSQRT
  TRY nop.0f1f, 0x0f, 0x1f, 0x00
  TRY nop.0f18, 0x0f, 0x18, 0x00
  TRY nop.0f1f.fault, 0x0f, 0x1f, 0x05, 0xff, 0xff, 0xff, 0xff // its operand is not accessed
  DONE

.section .rodata.text, "a"
text: .ascii "aaabbbcccddd"

.bss
.balign 16
memory: .skip 32
