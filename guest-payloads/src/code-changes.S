// # Hot code that changes
//
// A processor that decodes each instruction anew has no trouble with code that changes. One that keeps what it has decoded or translated has to notice every
// store to it, by whatever instruction, under whatever address, and however often the code has run before. So each change here comes after the code has run
// often enough for a translator to have taken it up.

#include "rb.inc"
#include "rows.inc"

#define HOT 6000 // runs before a change
#define LOOPS 1500 // runs with a change in each

BEGIN
.globl main

// Calls the function at `at` so often, and keeps the last result.
.macro HEAT at
  mov ecx, HOT
  mov ebx, offset \at
91:
  call xbx
  dec ecx
  jnz 91b
.endm

// Heats the function, changes it, and calls it again.
.macro CHANGE name, change:vararg
  mov dword ptr [victim + 1], 0x01010101
  HEAT victim
  \change
  call victim
  OBS \name, xax
.endm

main:

// ## In a loop
//
// The instruction that follows the store, the one before it, and one in the middle of what a translator would take for a straight line.

  STAGE loops
  xor eax, eax
  xor ebx, ebx
  mov ecx, LOOPS
1:
  mov [2f + 2], ecx
2:
  .byte 0x81, 0xc3, 0, 0, 0, 0 // ADD EBX, imm32: the number was just written
  xor eax, ebx
  dec ecx
  jnz 1b
  OBS loop.next, xbx
  OBS loop.next.folded, xax
  xor ebx, ebx
  mov ecx, LOOPS
1:
  .byte 0x81, 0xc3 // ADD EBX, imm32: the number of the last time
2:
  .long 5
  mov [2b], ecx
  dec ecx
  jnz 1b
  OBS loop.previous, xbx
  xor ebx, ebx
  mov ecx, LOOPS
1:
  cmp ecx, 100 // only once, late
  jne 3f
  mov byte ptr [4f + 2], 7
3:
  nop
4:
  add ebx, 1
  dec ecx
  jnz 1b
  OBS loop.once, xbx

// From one kind of instruction to another, back and forth: ADD becomes SUB and ADD again.

  xor ebx, ebx
  mov ecx, LOOPS
1:
  xor byte ptr [2f + 1], 0x28 // ModRM C3 and EB
  mov eax, ecx
2:
  .byte 0x81, 0xc3, 3, 0, 0, 0
  dec ecx
  jnz 1b
  OBS loop.flip, xbx

// A jump whose target changes, and a condition that does.

  xor ebx, ebx
  mov ecx, LOOPS
1:
  mov eax, ecx
  and eax, 1
  lea eax, [xax + xax * 2] // 0 or 3
  mov [2f - 1], al
  jmp 2f
2:
  add ebx, 1
  add ebx, 16
  dec ecx
  jnz 1b
  OBS loop.jump, xbx
  xor ebx, ebx
  mov ecx, LOOPS
1:
  mov al, cl
  and al, 1
  or al, 0x74 // JE or JNE
  mov [2f], al
  test ecx, 2
2:
  je 3f
  add ebx, ecx
3:
  dec ecx
  jnz 1b
  OBS loop.condition, xbx

// ## By every kind of store

  STAGE stores
  mov edx, 0x02020202
  CHANGE store.mov, mov [victim + 1], edx
  CHANGE store.byte, mov byte ptr [victim + 3], 3
  CHANGE store.word, mov word ptr [victim + 2], 0x0404
  CHANGE store.before, mov dword ptr [victim - 3], 0xb8909090 // the last byte is the opcode, as it was
  CHANGE store.across, mov dword ptr [victim - 2], 0x06b89090
  CHANGE store.add, add dword ptr [victim + 1], 7
  CHANGE store.inc, inc byte ptr [victim + 4]
  CHANGE store.bts, bts dword ptr [victim + 1], 20
  CHANGE store.shift, shl dword ptr [victim + 1], 2
  mov edx, 0x08080808
  CHANGE store.xchg, xchg [victim + 1], edx
  mov edx, 0x09090909
  CHANGE store.xadd, xadd [victim + 1], edx
.macro BY_CMPXCHG
  mov eax, 0x01010101
  mov edx, 0x0a0a0a0a
  lock cmpxchg [victim + 1], edx
.endm
  CHANGE store.cmpxchg, BY_CMPXCHG
.macro BY_CMPXCHG8B
  mov eax, [victim]
  mov edx, [victim + 4]
  mov ebx, eax
  mov ecx, edx
  or ebx, 0x0b000000
  cmpxchg8b [victim]
.endm
  CHANGE store.cmpxchg8b, BY_CMPXCHG8B
.macro BY_PUSH
  mov xax, xsp
  mov xdx, [victim + 1]
  and xdx, ~0xff
  or xdx, 0x0c
  mov xsp, offset victim + 1 + WORD_BYTES
  push xdx
  mov xsp, xax
.endm
  CHANGE store.push, BY_PUSH
.macro BY_CALL // the return address is the operand
  mov xsi, xsp
  mov xsp, offset victim + 1 + WORD_BYTES
  mov xdi, [victim + 1]
  mov eax, 92f
  call 93f
92:
93:
  mov edx, [victim + 1]
  sub edx, offset 92b
  mov xsp, xsi
  mov [victim + 1], xdi
  mov [victim + 1], dl
.endm
  CHANGE store.call, BY_CALL
.macro BY_STOS
  mov edi, offset victim + 1
  mov al, 0x0d
  stosb
.endm
  CHANGE store.stos, BY_STOS
.macro BY_MOVS
  mov esi, offset template
  mov edi, offset victim
  mov ecx, 6
  rep movsb
.endm
  CHANGE store.movs, BY_MOVS
.macro BY_MOVSD
  mov esi, offset template + 1
  mov edi, offset victim + 1
  movsd
.endm
  CHANGE store.movsd, BY_MOVSD
.macro BY_SET
  stc
  setc byte ptr [victim + 2]
  setnc byte ptr [victim + 1]
.endm
  CHANGE store.setc, BY_SET
.macro BY_STRING_BACKWARDS
  std
  mov edi, offset victim + 4
  mov ecx, 4
  mov al, 0x0f
  rep stosb
  cld
.endm
  CHANGE store.backwards, BY_STRING_BACKWARDS

// ## Many versions at one place, and many places

  STAGE versions
  xor ebp, ebp
  mov edx, 0
1:
  mov [victim + 1], edx
  mov ecx, 40
2:
  call victim
  add ebp, eax
  rol ebp, 1
  dec ecx
  jnz 2b
  inc edx
  cmp edx, 200
  jb 1b
  mov eax, ebp
  OBS versions, xax
  mov edi, offset places // 64 functions a page apart, each its own
  xor edx, edx
1:
  mov byte ptr [xdi], 0xb8
  mov [xdi + 1], edx
  mov byte ptr [xdi + 5], 0xc3
  add edi, 4096 + 64
  inc edx
  cmp edx, 48
  jb 1b
  xor ebp, ebp
  mov ecx, 20
2:
  mov edi, offset places
  mov edx, 48
3:
  call xdi
  add ebp, eax
  inc dword ptr [xdi + 1]
  add edi, 4096 + 64
  dec edx
  jnz 3b
  dec ecx
  jnz 2b
  mov eax, ebp
  OBS places, xax

// ## Over the edge of a page
//
// A function whose instructions lie on both sides of the edge, and one of them across. Each byte of it is changed in turn.

  STAGE pages
  mov edi, offset edge - 3
  mov byte ptr [xdi], 0xb8 // MOV EAX, imm32: three bytes before the edge, two behind it
  mov dword ptr [xdi + 1], 0x11111111
  mov dword ptr [xdi + 5], 0x22222205 // ADD EAX, imm32: all there
  mov word ptr [xdi + 8], 0x2222
  mov byte ptr [xdi + 10], 0xc3
  xor ebp, ebp
  mov esi, 1
1:
  cmp esi, 5 // not the opcode
  je 3f
  mov ecx, 2000
  mov ebx, edi
2:
  call xbx
  dec ecx
  jnz 2b
  mov edx, esi
  add [xdi + xsi], dl
  call xbx
  rol ebp, 3
  add ebp, eax
3:
  inc esi
  cmp esi, 10
  jb 1b
  mov eax, ebp
  OBS edge, xax

#ifndef NATIVE

// ## The same bytes under another address, and the same address with other bytes

  STAGE mappings
#if MODE == 64
  mov qword ptr [rb_pml4 + 8], offset rb_pdpt + 7
  mov rax, cr3
  mov cr3, rax
  mov rdi, 0x8000000000
  add rdi, offset victim
#define ALIAS [rdi + 1]
#else
  DESCRIPTOR SPARE, 0x100000, 0xfffff, 0x93, 0xc
  mov eax, SPARE
  mov fs, eax
  mov edi, offset victim
  sub edi, 0x100000
#define ALIAS fs:[edi + 1]
#endif
  CHANGE alias.store, mov dword ptr ALIAS, 0x10101010
  xor ebp, ebp
  mov ecx, 300
1:
  mov ALIAS, ecx
  call victim
  add ebp, eax
  dec ecx
  jnz 1b
  mov eax, ebp
  OBS alias.loop, xax
#if MODE == 64

// Two frames with different functions take turns at one address. INVLPG makes the processor look, and nothing has been written to either.

  mov byte ptr [frame_one], 0xb8
  mov dword ptr [frame_one + 1], 1
  mov byte ptr [frame_one + 5], 0xc3
  mov byte ptr [frame_two], 0xb8
  mov dword ptr [frame_two + 1], 2
  mov byte ptr [frame_two + 5], 0xc3
  mov eax, offset remap_pd + 7
  mov [remap_pdpt], rax
  mov eax, offset remap_pt + 7
  mov [remap_pd], rax
  mov eax, offset remap_pdpt + 7
  mov [rb_pml4 + 16], rax
  mov rbx, 0x10000000000
  xor ebp, ebp
  mov edx, 20
1:
  mov eax, offset frame_one + 7
  test edx, 1
  jz 2f
  mov eax, offset frame_two + 7
2:
  mov [remap_pt], rax
  invlpg [rbx]
  mov ecx, 1000
3:
  call rbx
  dec ecx
  jnz 3b
  rol ebp, 1
  add ebp, eax
  dec edx
  jnz 1b
  mov eax, ebp
  OBS remap, xax
  mov dword ptr [frame_one + 1], 0x33
  mov dword ptr [frame_two + 1], 0x44
  call rbx
  OBS remap.written, xax
#endif
#endif
  DONE

.text
#if MODE == 64
CODE64
#else
CODE32
#endif
.balign 16
  nop
  nop
  nop
victim:
  mov eax, 0x01010101
  ret
  .skip 16, 0x90
template:
  mov eax, 0x0e0e0e0e
  ret

.bss
.balign 4096
  .skip 4096
edge:
  .skip 64
places:
  .skip (4096 + 64) * 48
#if MODE == 64
.balign 4096
frame_one: .skip 4096
frame_two: .skip 4096
remap_pdpt: .skip 4096
remap_pd: .skip 4096
remap_pt: .skip 4096
#endif
