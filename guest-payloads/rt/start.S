// # One image, many doors
//
// Virtual machines do not agree on how to start a program. QEMU and v86 know *multiboot*, a convention made for boot loaders. Xen's *PVH* entry is
// found through an ELF note, and Firecracker, Cloud Hypervisor and QEMU take it. Others jump to the ELF entry point *already in 64-bit mode*, as
// the Linux boot protocol allows. Firmware knows none of these and reads the first sector of a disk.
//
// All four doors lead into this file. It is assembled once for every payload with `ROOM` set to the width in which the payload wants to live, and
// goes there from wherever it was let in.

#include "rb.inc"

#define LOAD_ADDRESS 0x100000

// ## The head of the file
//
// The linker is not trusted with the ELF header: written out by hand it is the same with every version of the tools, and a reader sees what a
// loader sees. The whole file is one segment and is loaded at one megabyte as it is, header included, so a loader that understands nothing
// of ELF can copy the file there.

.section .head, "a"
.globl head
head:
  .byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0 // 64-bit, little-endian, version 1, System V
  .quad 0
  .word 2, 62 // an executable, for x86-64
  .long 1
  .quad door_long // entry point: in 64-bit mode
  .quad program_headers - head
  .quad 0
  .long 0
  .word 64, 56, 2, 64, 0, 0 // header sizes; two program headers; no sections

program_headers:
  .long 1, 7 // PT_LOAD, readable, writable, executable
  .quad 0, head, head, image_bytes, memory_bytes, 0x1000
  .long 4, 4 // PT_NOTE
  .quad note - head, note, note, note_end - note, note_end - note, 4

// ### Multiboot
//
// A magic number within the first 8 KiB, four-byte aligned. Bit 16 of the flags says that the addresses follow here, so that the loader need not
// read the ELF header; without it QEMU refuses a 64-bit ELF file.

.balign 4
#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_ADDRESSES 0x10000
.globl multiboot_header
multiboot_header:
  .long MULTIBOOT_MAGIC, MULTIBOOT_ADDRESSES, -(MULTIBOOT_MAGIC + MULTIBOOT_ADDRESSES)
  .long multiboot_header, head, image_end, memory_end, door_multiboot

// ### PVH
//
// An ELF note with the owner `Xen` and type 18 (XEN_ELFNOTE_PHYS32_ENTRY). Its four bytes are the address of a 32-bit entry point.

note:
  .long 4, 4, 18
  .asciz "Xen"
  .long door_pvh
note_end:

// ## The 32-bit doors
//
// Multiboot and PVH promise the same: protected mode, flat 4 GiB segments, paging off, interrupts off. There is no stack. What EBX points to (a
// description of the machine) is of no use to us.
//
// A machine with a second processor starts it through the same door with 0x5242 in the upper half of EDX and the processor's number in the lower.
// No firmware leaves that there by chance, and the first processor's EDX may hold anything else.

.section .text.start, "ax"
CODE32
.globl door_multiboot, door_pvh, door_long
door_multiboot:
  mov edi, 1
  jmp 1f
door_pvh:
  mov edi, 2
1:
  cli
  cld
  mov ebp, edx
  shr ebp, 16
  cmp ebp, 0x5242
  movzx ebp, dx
  je 2f
  xor ebp, ebp
2:
protected: // ebp: processor number, edi: door
  lgdt [rb_gdt_pointer]
  ljmp KCODE32, offset 1f
1:
  mov eax, KDATA
  mov ds, eax
  mov es, eax
  mov fs, eax
  mov gs, eax
  mov ss, eax
  mov eax, 0x11 // PE, ET: caches on, no paging, no write protection, nothing trapped
  mov cr0, eax
  mov esp, offset rb_stack
  test ebp, ebp
  jz 3f
  mov esp, offset rb_second_stack
  // The second processor waits here until the first lets it go: the tables below are made once.
4:
  pause
  cmp dword ptr [rb_release], 0
  je 4b
  jmp 5f
3:
  call rb_once32
5:

#if ROOM == 16

// ## Into real mode
//
// Real mode uses whatever limits and attributes the hidden parts of the segment registers hold. So they are loaded from descriptors that look
// like real mode's own *before* protection goes off; the far jump then makes CS a real-mode value.

  lidt [real_idt_pointer]
  ljmp KCODE16, offset to_real
.section .low.text.start, "ax"
CODE16
to_real:
  mov eax, DATA16_SELECTOR
  mov ds, eax
  mov es, eax
  mov fs, eax
  mov gs, eax
  mov ss, eax
  mov eax, cr0
  and eax, ~1
  mov cr0, eax
  ljmp 0, offset 1f
1:
  xor eax, eax
  mov ds, eax
  mov es, eax
  mov fs, eax
  mov gs, eax
  mov ss, eax
  mov esp, 0x7f00
  jmp main
.section .rodata.start, "a"
.balign 8
real_idt_pointer:
  .word 0x3ff
  .long 0

#elif ROOM == 32

// ## Staying in protected mode

  xor eax, eax
  mov cr4, eax
  test ebp, ebp
  jnz 6f
  call rb_tss_setup32
  call rb_traps32
  jmp main
6:
  lidt [rb_idt_pointer32]
  jmp secondary

#else

// ## Into long mode
//
// Long mode has to be asked for in this order: physical address extension, a page table, the enable bit in EFER, and then paging, which activates
// it. The far jump picks a code segment with the L bit, and 64-bit code begins.

  mov eax, 0x80000000
  cpuid
  cmp eax, 0x80000001
  jb no_long_mode
  mov eax, 0x80000001
  cpuid
  bt edx, 29
  jnc no_long_mode
  test ebp, ebp
  jnz 6f
  call rb_identity_map32
6:
  mov eax, 0x20 // PAE
  mov cr4, eax
  mov eax, offset rb_pml4
  mov cr3, eax
  mov ecx, 0xc0000080 // EFER
  rdmsr
  or eax, 0x100 // LME
  wrmsr
  mov eax, 0x80000011 // PG, ET, PE
  mov cr0, eax
  ljmp KCODE64, offset long_room
no_long_mode:
  ABORT(this processor has no long mode)
CODE64
long_room:
  mov eax, KDATA
  mov ds, eax
  mov es, eax
  mov fs, eax
  mov gs, eax
  mov ss, eax
  mov ebp, ebp // the upper halves are undefined after the switch
  mov esp, esp
  test ebp, ebp
  jnz 7f
  call rb_tss_setup64
  call rb_traps64
  jmp main
7:
  lidt [rb_idt_pointer64]
  jmp secondary

#endif

// A payload that uses a second processor defines `secondary`; in all others it would have nothing to do.
.weak secondary_main
#if ROOM == 64
.section .text.start, "ax"
CODE64
secondary:
  mov eax, offset secondary_main
  test eax, eax
  jz 1f
  jmp rax
#else
.section .text.start, "ax"
CODE32
secondary:
  mov eax, offset secondary_main
  test eax, eax
  jz 1f
  jmp eax
#endif
1:
  cli
  hlt
  jmp 1b

// ## The 64-bit door
//
// The Linux protocol promises 64-bit mode with paging on and the loaded image mapped at its physical address; nothing more. A payload that lives
// in 64-bit mode replaces the tables by its own without leaving it. The others have to climb down: through a compatibility-mode segment, then
// paging off, then the enable bit off.

.section .text.start, "ax"
CODE64
door_long:
  cli
  cld
  mov ebp, edx
  shr ebp, 16
  cmp ebp, 0x5242
  movzx ebp, dx
  je 1f
  xor ebp, ebp
1:
  lgdt [rb_gdt_pointer]
#if ROOM == 64
  mov esp, offset rb_stack
  mov edi, 3
  test ebp, ebp
  jz 3f
  mov esp, offset rb_second_stack
2:
  pause
  cmp dword ptr [rb_release], 0
  je 2b
  jmp 4f
3:
  call rb_once64
  call rb_identity_map64
4:
  mov eax, offset rb_pml4
  mov cr3, rax
  mov eax, 0x20
  mov cr4, rax
  mov eax, 0x80000011
  mov cr0, rax
  jmp fword ptr [room_pointer]
#else
  jmp fword ptr [room_pointer]
CODE32
down:
  mov eax, KDATA
  mov ds, eax
  mov es, eax
  mov ss, eax
  mov eax, 0x11
  mov cr0, eax
  mov ecx, 0xc0000080
  rdmsr
  and eax, ~0x100
  wrmsr
  mov edi, 3
  jmp protected
#endif

// ## Tables

.section .data.start, "aw"
.balign 8
.globl rb_gdt, rb_gdt_pointer, rb_release
rb_gdt:
  .quad 0
  .quad 0x00cf9b000000ffff // KCODE32
  .quad 0x00cf93000000ffff // KDATA
  .quad 0x00cffb000000ffff // UCODE32
  .quad 0x00cff3000000ffff // UDATA
  .quad 0x00affb000000ffff // UCODE64
  .quad 0x00cff3000000ffff // UDATA2
  .quad 0x00af9b000000ffff // KCODE64
  .quad 0x00cf93000000ffff // KDATA2
  .quad 0x00009b000000ffff // KCODE16
  .quad 0x000093000000ffff // DATA16
  .quad 0, 0 // TSS
  .quad 0, 0, 0, 0, 0, 0, 0, 0 // SPARE
.balign 8
rb_gdt_pointer:
  .word GDT_LIMIT
  .quad rb_gdt
.balign 8
room_pointer:
#if ROOM == 64
  .long long_room
  .word KCODE64
#else
  .long down
  .word KCODE32
#endif
rb_release: .long 0
