// # Sixteen bytes at once
//
// CMPXCHG16B is the widest locked operation. Unlike every other it insists on the alignment of its operand.

#include "rb.inc"
#include "rows.inc"
BEGIN
.globl main
main:
  STAGE exchange
  GROUP cmpxchg16b
.irp equal, 1, 0
  mov rax, 0x1111111111111111
  mov [memory], rax
  mov rdx, 0x2222222222222222
  mov [memory + 8], rdx
  .if !\equal
  inc rdx
  .endif
  mov rbx, 0x3333333333333333
  mov rcx, 0x4444444444444444
  cmp eax, eax
  stc
  lock cmpxchg16b [memory]
  pushfq
  ROW_VALUE rax
  ROW_VALUE rdx, 'd'
  ROW [memory], 'm'
  ROW [memory + 8], 'n'
  pop rax
  and eax, 0x8d5
  ROW_VALUE rax, 'f'
  NEXT_ROW
.endr
  PROBE
1: cmpxchg16b [memory + 8]
  CAUGHT odd
  PROBE
1: .byte 0x48, 0x0f, 0xc7, 0xc8 // with a register
  CAUGHT register
  mov rax, 5
  mov [memory + 4], rax
  mov rdx, rax
  shr rdx, 32
  cmpxchg8b [memory + 4] // eight bytes need no alignment
  setz al
  movzx eax, al
  OBS eight, rax
  DONE

.bss
.balign 16
memory: .skip 32
