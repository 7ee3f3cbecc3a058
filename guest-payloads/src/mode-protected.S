// # Protected mode
//
// One bit in CR0, and a segment register no longer holds an address but the number of a descriptor. The descriptor has the address.

#include "rb.inc"
BEGIN
.globl main
main:
  STAGE protected
  OBS door, [rb_door]
  mov eax, cr0
  and eax, 0x80000001
  OBS cr0, eax
  xor eax, eax
  mov ax, cs
  OBS cs, eax
  mov ax, ss
  OBS ss, eax
  str ax
  OBS tr, eax
  sldt ax
  OBS ldtr, eax

// The privilege level is in the low two bits of CS. Flags at the start: bit 1 is always one, interrupts are off.

  pushfd
  pop eax
  and eax, 0x37702 // VM, RF, NT, IOPL, IF, TF, and the bit that is always one
  OBS flags, eax

// ## A segment with a base
//
// A descriptor for one page that starts at our own data: offset zero of FS is then the first byte of `sample`, whatever the linker did.

  STAGE segment
  mov eax, offset sample
  mov edi, offset rb_gdt + SPARE
  mov word ptr [edi], 7 // limit: eight bytes
  mov [edi + 2], ax
  shr eax, 16
  mov [edi + 4], al
  mov byte ptr [edi + 5], 0x93 // present, ring 0, data, writable, accessed
  mov byte ptr [edi + 6], 0x40
  mov [edi + 7], ah
  mov eax, SPARE
  mov fs, eax
  mov eax, fs:[0]
  OBS fs.first, eax
  mov eax, fs:[4]
  OBS fs.last, eax
  PROBE
1: mov eax, fs:[5]
  CAUGHT beyond

// The hidden part of FS was loaded once. Changing the table behind it changes nothing until FS is loaded again.

  mov byte ptr [rb_gdt + SPARE], 3
  mov eax, fs:[4]
  OBS hidden, eax
  mov eax, SPARE
  mov fs, eax
  PROBE
1: mov eax, fs:[4]
  CAUGHT reloaded

// ## What the segment instructions say

  STAGE inquire
  mov eax, SPARE
  lsl ecx, eax
  OBS lsl, ecx
  lar ecx, eax
  and ecx, 0xf0ff00
  OBS lar, ecx
  xor ecx, ecx
  verw ax
  setz cl
  OBS verw.data, ecx
  mov eax, KCODE32
  verr ax
  setz cl
  OBS verr.code, ecx
  verw ax
  setz cl
  OBS verw.code, ecx
  mov eax, 0x1000 // beyond the table
  lar ecx, eax
  setz cl
  movzx ecx, cl
  OBS lar.outside, ecx
  DONE

.data
sample: .long 0x11223344, 0x55667788
