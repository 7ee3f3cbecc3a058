// # Real mode
//
// The processor comes out of reset as an 8086 with wider registers: no protection, no paging, and an address that is a segment times sixteen plus
// an offset.

#include "rb.inc"
BEGIN
.globl main
main:
  STAGE real
  mov eax, cr0
  and eax, 0x80000001 // PG and PE
  OBS cr0, eax
  smsw ax
  and eax, 1
  OBS smsw.pe, eax

// ## One byte, many names
//
// 0000:9ABC and 09AB:000C are the same byte. So are 4095 other pairs.

  mov ax, 0x09ab
  mov es, ax
  mov byte ptr [0x9abc], 0x5a
  movzx eax, byte ptr es:[0x000c]
  OBS alias, eax

// ## Past the first megabyte
//
// FFFF:0010 is the address 0x100000, one more than twenty bits can say. An 8086 wrapped round to zero; since the 286, with address line 20 open, it
// is the first byte above. This image is loaded there, and an ELF file starts with 7F.

  mov ax, 0xffff
  mov es, ax
  movzx eax, byte ptr es:[0x0010]
  OBS a20, eax

// ## The interrupt table
//
// Four bytes a vector, from address zero: offset, then segment. INT pushes FLAGS, CS and IP, two bytes each, and clears IF and TF.

  STAGE interrupt
  xor ax, ax
  mov es, ax
  mov word ptr [0x21 * 4], offset handler
  mov word ptr [0x21 * 4 + 2], 0
  mov [saved_sp], sp
  push 0x0ed7 // every arithmetic flag, IF and DF; TF off
  popf
  mov eax, 0x1234
  int 0x21
after_int:
  pushf
  cld
  cli
  pop ax
  movzx eax, ax
  OBS int.flags.after, eax
  movzx eax, word ptr [seen_flags]
  OBS int.flags.pushed, eax
  movzx eax, word ptr [seen_now]
  OBS int.flags.inside, eax
  movzx eax, word ptr [seen_ip]
  sub ax, offset after_int
  OBS int.ip, eax
  movzx eax, word ptr [seen_cs]
  OBS int.cs, eax
  mov ax, [saved_sp]
  sub ax, [seen_sp]
  OBS int.bytes, eax

// ## A fault in real mode
//
// Exceptions use the same table, and push no error code. Division by zero is a fault: the saved IP is that of DIV itself.

  STAGE divide
  mov word ptr [0], offset divide_handler
  mov word ptr [2], 0
  mov [saved_sp], sp
  xor ecx, ecx
divide:
  div cx
divided:
  movzx eax, word ptr [seen_ip]
  sub ax, offset divide
  OBS de.ip, eax
  mov ax, [saved_sp]
  sub ax, [seen_sp]
  OBS de.bytes, eax

// ## Segment limits exist here too
//
// The limit is 64 KiB and nobody can raise it in real mode. A word at offset FFFF ends beyond it: a general-protection fault, vector 13, which on
// a machine of 1981 would have wrapped.

  STAGE limit
  mov word ptr [13 * 4], offset limit_handler
  mov word ptr [13 * 4 + 2], 0
  mov dword ptr [hits], 0
  mov bx, 0xffff
limit:
  mov ax, [bx]
limited:
  OBS limit.gp, dword ptr [hits]
  DONE

handler:
  mov [seen_sp], sp
  push bp
  mov bp, sp
  push ax
  mov ax, [bp + 2]
  mov [seen_ip], ax
  mov ax, [bp + 4]
  mov [seen_cs], ax
  mov ax, [bp + 6]
  mov [seen_flags], ax
  pushf
  pop ax
  mov [seen_now], ax
  pop ax
  pop bp
  iret

divide_handler:
  mov [seen_sp], sp
  mov bp, sp
  mov ax, [bp]
  mov [seen_ip], ax
  mov word ptr [bp], offset divided
  iret

limit_handler:
  inc dword ptr [hits]
  mov bp, sp
  mov word ptr [bp], offset limited
  iret

LOW_DATA
.balign 4
saved_sp: .word 0
seen_sp: .word 0
seen_ip: .word 0
seen_cs: .word 0
seen_flags: .word 0
seen_now: .word 0
hits: .long 0
