// # Corners of hot code
//
// What a translator must not forget where two ways of getting to an instruction meet: which instruction set the flags, how much of a register was written, and
// which of two pages under one address the code came from. Each piece runs often enough to be taken up.

#include "rb.inc"
BEGIN
.globl main

#define HOT 30000
#define WINDOW 0x8000000000

// Adds what is in xax to a checksum.
.macro FOLD
  rol edi, 1
  xor edi, eax
.endm

main:

// ## Flags where two ways meet
//
// The carry of a comparison or of an addition, by turns, and read behind the join.

  STAGE joins
  xor edi, edi
  xor esi, esi
  mov ecx, HOT
1:
  mov ebx, ecx
  imul ebx, ebx, 0x9e3779b1
  test ecx, 1
  jz 2f
  cmp ebx, 0x40000000
  jmp 3f
2:
  add ebx, 0x40000000
3:
  seto al
  sets ah
  adc esi, 0 // CF of CMP is a borrow, of ADD a carry
  movzx eax, ax
  FOLD
  dec ecx
  jnz 1b
  OBS join.carry, xsi
  OBS join.folded, xdi
  xor edi, edi
  xor esi, esi
  mov ecx, HOT
1:
  mov ebx, ecx
  imul ebx, ebx, 0x85ebca6b
  xor eax, eax
  test ecx, 3
  jz 2f
  shl ebx, 3
  jmp 3f
2:
  inc ebx // leaves CF as TEST had it
  sub ebx, 0x12345678
  and ebx, ebx
3:
  setc al
  setp ah
  FOLD
  sbb esi, ebx
  dec ecx
  jnz 1b
  OBS join.three, xdi
  OBS join.three.sum, xsi

// A carry that goes round a loop past a DEC.

  xor edi, edi
  mov ebx, 0x89abcdef
  mov esi, 0x01234567
  mov ecx, HOT
  stc
1:
  adc ebx, esi
  rcl esi, 1
  mov eax, ebx
  dec ecx
  jnz 1b
  setc al
  OBS round.carry, xbx
  OBS round.rotated, xsi

// ## Parts of registers
//
// Eight or sixteen bits are written and the rest stays; thirty-two, and in 64-bit mode the rest goes.

  STAGE parts
  xor edi, edi
  mov ecx, HOT
  mov xax, -1
  mov xbx, -1
1:
  mov ax, cx
  FOLD
  mov al, 0x5a
  mov ah, cl
  FOLD
  mov bl, ah
  mov bh, al
  xchg bl, bh
  add ebx, eax
  add xax, xbx
  mov dx, bx
  ror xdx, 7
  add xdx, xax
  dec ecx
  jnz 1b
  OBS parts.folded, xdi
  OBS parts.a, xax
  OBS parts.b, xbx
  OBS parts.d, xdx

#if MODE == 64

// ## A function of two blocks, and the page under it
//
// The same address, two pages by turns. The jump in the function's middle is remembered with the page that it was in.

  STAGE pages
  mov rsi, cr3
  and rsi, ~0xfff
  mov eax, offset pdpt + 7
  mov [rsi + 8], rax
  mov eax, offset pd + 7
  mov [pdpt], rax
  mov eax, offset pt + 7
  mov [pd], rax
  mov eax, offset page_a + 7
  mov [pt], rax
  mov rbx, WINDOW
  invlpg [rbx]
  xor esi, esi
  mov ecx, HOT
1:
  call rbx
  add esi, eax
  test ecx, 63
  jnz 2f
  mov eax, offset page_a + 7 // the other page
  cmp [pt], rax
  jne 3f
  mov eax, offset page_b + 7
3:
  mov [pt], rax
  invlpg [rbx]
2:
  dec ecx
  jnz 1b
  OBS pages.sum, rsi

// Code that changes the page it is on, and jumps within it: what follows comes from the other page.

  mov eax, offset page_a + 7
  mov [pt], rax
  invlpg [rbx]
  xor esi, esi
  mov ecx, 200
1:
  lea rdx, [rbx + 0x80]
  call rdx
  add esi, eax
  dec ecx
  jnz 1b
  OBS pages.own, rsi
#endif

// ## Data beside code
//
// Many stores to a page with code on it, none of them to the code; then one that is.

  STAGE beside
  mov ecx, HOT
1:
  call beside
  dec ecx
  jnz 1b
  mov ecx, 1000
1:
  mov [beside_data], ecx
  dec ecx
  jnz 1b
  mov byte ptr [beside + 1], 9
  call beside
  OBS beside, xax
  mov ecx, 1000
1:
  mov [beside_data + 4], ecx
  dec ecx
  jnz 1b
  mov byte ptr [beside + 1], 17
  call beside
  OBS beside.again, xax
  DONE

.text
.balign 4096
beside:
  .byte 0xb8, 3, 0, 0, 0 // mov eax, 3
  ret
.balign 64
beside_data: .skip 64
.balign 4096

#if MODE == 64
page_a:
  jmp 1f
.balign 32
1:
  mov eax, 1
  jmp 2f
.balign 32
2:
  add eax, 2
  ret
.org page_a + 0x80
  mov eax, offset page_b + 7
  mov [pt], rax
  invlpg [rbx]
  jmp 3f
.org page_a + 0xc0
3:
  mov eax, 1
  ret
.balign 4096
page_b:
  jmp 1f
.balign 32
1:
  mov eax, 10
  jmp 2f
.balign 32
2:
  add eax, 20
  ret
.org page_b + 0x80
  mov eax, offset page_a + 7
  mov [pt], rax
  invlpg [rbx]
  jmp 3f
.org page_b + 0xc0
3:
  mov eax, 10
  ret
.balign 4096
.bss
.balign 4096
pdpt: .skip 4096
pd: .skip 4096
pt: .skip 4096
#endif
