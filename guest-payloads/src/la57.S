// # Five levels of tables
//
// A processor with 57-bit linear addresses has one more level of tables, in use while CR4.LA57 is set; and that bit can only change where there is no long mode. So
// this program leaves 64-bit mode twice: to switch the fifth level on, and to switch it off again. Its own tables become the first entry of the new ones, so
// everything that it uses stays where it was.

#include "rb.inc"
BEGIN
.globl main

#define LA57 12
#define FS_BASE 0xc0000100
#define KERNEL_GS_BASE 0xc0000102
#define WIDE 0x0080000000000000 // needs bit 55: canonical with 57 bits, not with 48
#define WIDER 0x0100000000000000 // canonical with neither
#define WINDOW 0x0001000000000000 // the second entry of the fifth level

.macro WRITE_MSR msr, value
  mov rdx, \value
  mov eax, edx
  shr rdx, 32
  mov ecx, \msr
.endm

.macro READ name, address
  PROBE
  mov rax, \address
1: mov rax, [rax]
  CAUGHT \name
.endm

// Paging off, CR4 and CR3 exchanged, paging on again. The code is at the same place in linear and in physical addresses.

.macro CHANGE operation, tables:vararg
  mov eax, \tables
  mov [new_cr3], eax
  jmp fword ptr [1f]
.pushsection .data
1: .long 2f
  .word KCODE32
.popsection
CODE32
2:
  mov eax, cr0
  btr eax, 31
  mov cr0, eax
  mov eax, cr4
  \operation eax, LA57
  mov cr4, eax
  mov eax, [new_cr3]
  mov cr3, eax
  mov eax, cr0
  bts eax, 31
  mov cr0, eax
  ljmp KCODE64, offset 3f
CODE64
3:
.endm

main:
  mov rax, cr3
  mov [good], rax
  and rax, ~0xfff
  or rax, 7
  mov [pml5], rax

// ## While it is off
//
// Addresses have 48 bits. Registers that hold one for later have all that the processor can use, and so have the descriptor tables.

  STAGE off
  PROBE
  mov rax, cr4
  bts rax, LA57
1: mov cr4, rax
  CAUGHT off.change
  READ off.wide, WIDE
  READ off.window, WINDOW
  PROBE
  WRITE_MSR KERNEL_GS_BASE, WIDE
1: wrmsr
  CAUGHT off.base
  mov ecx, KERNEL_GS_BASE
  rdmsr
  shl rdx, 32
  or rax, rdx
  OBS off.base.read, rax
  PROBE
  WRITE_MSR KERNEL_GS_BASE, WIDER
1: wrmsr
  CAUGHT off.base.wider
  sidt [table]
  mov rax, [table + 2]
  mov [wide_table + 2], rax
  mov ax, [table]
  mov [wide_table], ax
  bts qword ptr [wide_table + 2], 55
  PROBE
1: lidt [wide_table]
  lidt [table]
  CAUGHT off.lidt

// ## Switched on

  STAGE on
  mov eax, offset pml4 + 7
  mov [pml5 + 8], rax
  mov [pml5 + 0x800], rax // entry 256, the first one of the upper half
  mov eax, offset pml4 + 0x87
  mov [pml5 + 24], rax
  mov eax, offset pml4 + 5
  mov [pml5 + 32], rax
  mov eax, offset pdpt + 7
  mov [pml4], rax
  mov eax, offset pd + 7
  mov [pdpt], rax
  mov eax, offset pt + 7
  mov [pd], rax
  mov eax, offset frame + 7
  mov [pt], rax
  CHANGE bts, offset pml5
  mov rax, cr4
  shr rax, LA57
  and eax, 1
  OBS on, rax
  mov ecx, 0xc0000080
  rdmsr
  and eax, 0x500 // LMA, LME
  OBS on.efer, rax
  mov rax, WINDOW
  mov rax, [rax]
  OBS window, rax
  mov rax, [pml5 + 8]
  and eax, 0x20
  OBS window.accessed, rax
  mov rax, 0xff00000000000000
  mov rax, [rax]
  OBS upper, rax
  mov rax, WINDOW + 8 // code: MOV EAX, 57h; RET
  call rax
  OBS code, rax
  WRITE_MSR FS_BASE, WINDOW
  wrmsr
  mov rax, fs:[0]
  OBS fs.base, rax
  mov eax, offset other + 7
  mov [pt], rax
  mov rax, WINDOW
  invlpg [rax]
  mov rax, [rax]
  OBS invalidated, rax

// ## What the fifth level refuses
//
// An address that is not canonical; an entry that is not there; one that claims to be a page, for there are no pages of that size; and a right that it withholds.

  STAGE refused
  READ wider, WIDER
  READ absent, 0x0002000000000000
  mov rax, cr2
  OBS absent.cr2, rax
  READ reserved, 0x0003000000000000
  PROBE
  mov rax, cr0
  bts rax, 16 // WP
  mov cr0, rax
  mov rax, 0x0004000000000000
1: mov [rax], rax
  CAUGHT read.only
  PROBE
  mov rax, cr4
  btr rax, LA57
1: mov cr4, rax
  CAUGHT on.change

// ## And off again

  STAGE again
  CHANGE btr, [good]
  mov rax, cr4
  shr rax, LA57
  and eax, 1
  OBS again, rax
  READ again.window, WINDOW
  DONE

.data
.balign 4096
frame:
  .quad 0xf00d
  .byte 0xb8, 0x57, 0, 0, 0, 0xc3
.balign 4096
other: .quad 0xbeef
.balign 4096

.bss
.balign 16
good: .skip 8
new_cr3: .skip 8
table: .skip 16
wide_table: .skip 16
.balign 4096
pml5: .skip 4096
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 4096
pt: .skip 4096
