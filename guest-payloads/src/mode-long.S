// # 64-bit mode
//
// Long mode is entered by paging: with EFER.LME set, switching paging on sets EFER.LMA, and a code segment whose L bit is set then means 64-bit code.

#include "rb.inc"
BEGIN
.globl main
main:
  STAGE long
  OBS door, [rb_door]
  mov rax, cr0
  and eax, 0x80000001
  OBS cr0, rax
  mov rax, cr4
  and eax, 0x20
  OBS cr4.pae, rax
  mov ecx, 0xc0000080
  rdmsr
  and eax, 0x500 // LMA, LME
  OBS efer, rax
  xor eax, eax
  mov ax, cs
  OBS cs, rax
  lar ecx, eax
  and ecx, 0xf0ff00
  OBS cs.rights, rcx

// ## Sixteen wide registers

  STAGE registers
  mov rax, 0x123456789abcdef0
  mov r8, rax
  mov r15, rax
  rol r15, 4
  OBS r8, r8
  OBS r15, r15
  mov r8d, -1 // a 32-bit result clears the upper half
  OBS r8d, r8
  mov r15w, 0 // a 16-bit one does not
  OBS r15w, r15
  mov spl, spl // with a REX prefix byte registers 4 to 7 are the low ones
  mov rax, 0x11
  mov ah, 0x22
  OBS ah, rax

// ## Addresses
//
// Relative to the instruction pointer; and canonical: bits 63 to 47 alike. Anything else is a general-protection fault before any table is looked
// at, or a stack fault if it goes through RSP or RBP.

  STAGE addresses
  mov rax, [rip + sample]
  OBS rip.relative, rax
  PROBE
  mov rax, 0x0000800000000000
1: mov al, [rax]
  CAUGHT noncanonical
  PROBE
  mov rbp, 0x0000800000000000
1: mov al, [rbp]
  CAUGHT noncanonical.stack
  PROBE
  mov rax, 0xffff800000000000 // canonical, and not mapped
1: mov al, [rax]
  CAUGHT unmapped
  mov rax, cr2
  OBS unmapped.cr2, rax

// ## What long mode dropped
//
// Bases and limits of CS, DS, ES and SS are ignored; FS and GS have bases of 64 bits, in MSRs. Several short opcodes are gone.

  STAGE dropped
  mov rax, offset sample
  mov rdx, rax
  shr rdx, 32
  mov ecx, 0xc0000100 // FS base
  wrmsr
  mov rax, fs:[0]
  OBS fs.base, rax
  PROBE
1: .byte 0x06 // push es
  CAUGHT push.es
  PROBE
1: .byte 0x37 // aaa
  CAUGHT aaa
  PROBE
1: .byte 0xd6 // salc: undocumented, and gone
  CAUGHT salc
  PROBE
1: .byte 0x9a, 0, 0, 0, 0, 8, 0 // far call with the pointer in the instruction
  CAUGHT far.call
  DONE

.data
.balign 8
sample: .quad 0x1122334455667788
