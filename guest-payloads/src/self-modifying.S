// # Code that changes itself
//
// A processor must behave as if it decoded each instruction just before running it, after a jump at the latest; Intel's and AMD's do so even without
// one. A translator that keeps translated code has to notice every store.

#include "rb.inc"
BEGIN
.globl main
main:

// ## The operand of a later instruction

  STAGE operand
  mov ecx, 5
  xor ebx, ebx
1:
  mov byte ptr [2f + 1], cl
2:
  mov eax, 0x7f // its first byte of immediate is written just before
  add ebx, eax
  dec ecx
  jnz 1b
  OBS operand.sum, xbx

// ## The very next instruction

  STAGE next
  xor eax, eax
#if MODE == 64
  mov byte ptr [1f], 0xff // with C0 behind it: INC EAX
#else
  mov byte ptr [1f], 0x40 // INC EAX
#endif
1:
#if MODE == 64
  .byte 0x8b, 0xc0 // MOV EAX, EAX: nothing
#else
  nop
#endif
  OBS next, xax

// ## Through another address of the same byte
//
// The store goes through a different linear address; in real hardware the check is on physical addresses. Without paging the same is had by a segment
// with a base; in 64-bit mode, through the second mapping made here.

  STAGE alias
#if MODE == 32
  DESCRIPTOR SPARE, 0x100000, 0xfffff, 0x93, 0xc
  mov eax, SPARE
  mov fs, eax
  mov edi, offset aliased
  sub edi, 0x100000
  call aliased
  mov ebx, eax
  mov byte ptr fs:[edi + 1], 2
#else
  mov qword ptr [rb_pml4 + 8], offset rb_pdpt + 7 // 512 GiB further up, everything again
  mov rax, cr3
  mov cr3, rax
  mov rdi, 0x8000000000
  add rdi, offset aliased
  call aliased
  mov ebx, eax
  mov byte ptr [rdi + 1], 2
#endif
  call aliased
  OBS alias.before, xbx
  OBS alias.after, xax

// ## Fresh code in data
//
// Eight times another function at the same place, as a just-in-time compiler makes them.

  STAGE fresh
  xor ebx, ebx
  mov ecx, 8
1:
  mov byte ptr [buffer], 0xb8 // MOV EAX, imm32
  mov eax, ecx
  imul eax, ecx
  mov [buffer + 1], eax
  mov byte ptr [buffer + 5], 0xc3 // RET
  mov eax, offset buffer
  call xax
  add ebx, eax
  dec ecx
  jnz 1b
  OBS fresh.sum, xbx

// ## By a string instruction, over the code that follows it

  STAGE string
  mov esi, offset replacement
  mov edi, offset 2f
  mov ecx, replacement_end - replacement
  rep movsb
2:
  mov ebx, 1
3:
  OBS string, xbx

// ## Across a page boundary
//
// An instruction of which the last bytes lie on another page: a change of either page counts.

  STAGE pages
  mov byte ptr [page_end - 2], 0xb8
  mov dword ptr [page_end - 1], 0x00000011
  mov byte ptr [page_end + 3], 0xc3
  mov eax, offset page_end - 2
  call xax
  mov ebx, eax
  mov byte ptr [page_end], 0x22 // second byte of the operand: on the second page
  mov eax, offset page_end - 2
  call xax
  OBS pages.before, xbx
  OBS pages.second, xax
  mov byte ptr [page_end - 1], 0x33 // first byte: on the first page
  mov eax, offset page_end - 2
  call xax
  OBS pages.first, xax
  DONE

aliased:
  mov eax, 1
  ret
replacement:
  mov ebx, 2
replacement_end:

.bss
.balign 16
buffer: .skip 16
.balign 4096
  .skip 4096
page_end:
  .skip 16
