// # String instructions
//
// A repeated string instruction is a loop in one instruction: count in CX, ECX or RCX, indices that move with the direction flag, interruptible
// between any two elements.

#include "rb.inc"
BEGIN
.globl main
main:

// ## Copying

  STAGE movs
  mov esi, offset source
  mov edi, offset target
  mov ecx, 16
  rep movsb
  OBS movsb.count, xcx
  mov xax, xsi
  sub xax, offset source
  OBS movsb.source, xax
  mov eax, [target + 12]
  OBS movsb.data, xax
  std
  mov esi, offset source + 4
  mov edi, offset target + 12
  mov ecx, 2
  rep movsd
  cld
  mov xax, xdi
  sub xax, offset target
  OBS movsd.down, xax
  mov eax, [target + 8]
  OBS movsd.data, xax

// A copy onto itself one further up spreads the first byte: elements are moved one after the other, and that is guaranteed.

  mov esi, offset target
  mov edi, offset target + 1
  mov ecx, 15
  mov byte ptr [target], 0xee
  rep movsb
  mov eax, [target + 12]
  OBS overlap, xax

// ## A count of zero does nothing at all
//
// Not even a fault, though the address may be absurd.

  STAGE zero
  xor ecx, ecx
  xor edi, edi
  dec xdi
  rep stosb
  inc xdi
  OBS zero.index, xdi

// ## Comparing and searching
//
// REPE goes on while equal, REPNE while not; the count tells where it stopped, the flags how. With a count of zero the flags stay.

  STAGE compare
  mov esi, offset source
  mov edi, offset other
  mov ecx, 16
  repe cmpsb
  PUSHF
  pop xax
  and eax, 0x8d5
  OBS cmpsb.flags, xax
  OBS cmpsb.count, xcx
  mov edi, offset source
  mov ecx, 16
  mov al, 0x0a
  repne scasb
  OBS scasb.count, xcx
  mov xax, xdi
  sub xax, offset source
  OBS scasb.index, xax
  mov edi, offset source
  mov ecx, 4
  mov eax, 0xffffffff
  repne scasd
  setz al
  movzx eax, al
  OBS scasd.missing, xax
  xor ecx, ecx
  cmp ecx, ecx
  mov edi, offset source
  repne scasb
  setz al
  movzx eax, al
  OBS scasb.nothing, xax

// ## Filling and loading

  STAGE stos
  mov edi, offset target
  mov ecx, 3
  mov eax, 0x55667788
  rep stosw
  mov eax, [target + 4]
  OBS stosw, xax
  mov esi, offset source
  mov ecx, 3
  rep lodsb // the last one stays
  movzx eax, al
  OBS lodsb, xax
#if MODE == 64
  mov rdi, offset target
  mov rax, 0x0102030405060708
  mov ecx, 2
  rep stosq
  mov rax, [target + 8]
  OBS stosq, rax
#endif

// ## The width of the index is the width of the address
//
// A 16-bit address size uses SI, DI and CX only, and wraps them at 64 KiB; the upper halves stay.

  STAGE address-size
#if MODE == 64
  mov rcx, 0x100000002
  mov rdi, 0x700000000
  add rdi, offset target
  mov al, 0x99
  .byte 0x67, 0xf3, 0xaa // REP STOSB with EDI and ECX
  OBS narrow.count, rcx // the upper halves are cleared, as by any 32-bit result
  mov rax, rdi
  sub rax, offset target
  OBS narrow.index, rax
  movzx eax, byte ptr [target + 1]
  OBS narrow.data, rax
#else
  mov ecx, 0x00050002
  mov edi, 0x0003ffff
  mov ebx, 0xffff
  mov byte ptr [ebx], 0
  mov al, 0x99
#if MODE == 32
  .byte 0x67, 0xf3, 0xaa
#else
  rep stosb
#endif
  OBS narrow.count, ecx
  OBS narrow.index, edi
  movzx eax, byte ptr [ebx]
  OBS narrow.data, eax
#endif

#if MODE != 16

// ## Interrupted by a fault
//
// When an element faults, count and indices say how far it came, so that the instruction can go on after the handler has mended things. In 32-bit code
// the fault is a segment's end, in 64-bit code a page that is not there.

  STAGE fault
#if MODE == 32
  DESCRIPTOR SPARE, 0x20000, 0x0fff, 0x93, 4
  mov eax, SPARE
  mov es, eax
  mov edi, 0xffd
  mov ecx, 8
  PROBE
1: rep stosb
  CAUGHT fault
  OBS fault.count, ecx
  OBS fault.index, edi
#else
  mov rdi, 0xfffffffd // the identity map ends at 4 GiB
  mov ecx, 8
  mov esi, offset source
  PROBE
1: rep stosb
  CAUGHT fault
  OBS fault.count, rcx
  OBS fault.index, rdi
#endif
#endif
  DONE

#if MODE == 16
LOW_DATA
#else
.data
#endif
.balign 8
source: .long 0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c
other: .long 0x03020100, 0x07060504, 0x0b0a7f08, 0x0f0e0d0c
target: .long 0, 0, 0, 0
