// # Software interrupts in real mode
//
// Vector times four is where the processor looks. Nested calls, the flags inside, and what IRET brings back.

#include "rb.inc"
BEGIN
.globl main
main:
  STAGE nest
  mov word ptr [0x60 * 4], offset outer
  mov word ptr [0x60 * 4 + 2], 0
  mov word ptr [0x61 * 4], offset inner - 0x1000 // the same byte by another name
  mov word ptr [0x61 * 4 + 2], 0x100
  mov [saved_sp], sp
  int 0x60
  xor eax, eax
  mov ax, [saved_sp]
  sub ax, sp
  OBS balance, eax
  OBS depth, dword ptr [depth]
  OBS order, dword ptr [order]
  movzx eax, word ptr [inner_cs]
  OBS inner.cs, eax
  mov ax, [saved_sp]
  sub ax, [inner_sp]
  OBS inner.bytes, eax

// IRET restores all flags, IF and TF included; the handler can change them in the frame.

  STAGE flags
  mov word ptr [0x62 * 4], offset carry_setter
  mov word ptr [0x62 * 4 + 2], 0
  clc
  int 0x62
  setc al
  movzx eax, al
  OBS carry, eax

// ## A table elsewhere
//
// LIDT works in real mode as well. The table then needs no low memory; few programs know.

  STAGE moved
  mov ax, 0x1000
  mov es, ax
  mov word ptr es:[0x60 * 4], offset elsewhere
  mov word ptr es:[0x60 * 4 + 2], 0
  lidt [moved_idt]
  int 0x60
  OBS moved, dword ptr [moved_hits]

// A vector beyond the limit is a general-protection fault, which goes through vector 13 of the same table.

  mov word ptr es:[13 * 4], offset outside
  mov word ptr es:[13 * 4 + 2], 0
beyond:
  int 0x70
beyond_end:
  movzx eax, word ptr [outside_ip]
  sub ax, offset beyond
  OBS outside.ip, eax
  OBS outside.hits, dword ptr [outside_hits]
  DONE

outer:
  inc dword ptr [depth]
  shl dword ptr [order], 4
  or dword ptr [order], 1
  int 0x61
  shl dword ptr [order], 4
  or dword ptr [order], 3
  iret
inner:
  mov word ptr cs:[inner_cs - 0x1000], cs
  mov word ptr cs:[inner_sp - 0x1000], sp
  inc dword ptr [depth]
  shl dword ptr [order], 4
  or dword ptr [order], 2
  iret
carry_setter:
  push bp
  mov bp, sp
  or word ptr [bp + 6], 1
  pop bp
  iret
elsewhere:
  inc dword ptr [moved_hits]
  iret
outside:
  inc dword ptr [outside_hits]
  mov bp, sp
  mov ax, [bp]
  mov [outside_ip], ax
  mov word ptr [bp], offset beyond_end
  iret

LOW_DATA
.balign 4
depth: .long 0
order: .long 0
moved_hits: .long 0
outside_hits: .long 0
saved_sp: .word 0
inner_cs: .word 0
inner_sp: .word 0
outside_ip: .word 0
moved_idt:
  .word 0x61 * 4 - 1
  .long 0x10000
