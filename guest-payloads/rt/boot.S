// # The door of firmware: a boot sector
//
// Firmware of the PC kind knows nothing of ELF or multiboot. It reads the first 512 bytes of a disk to 0x7C00, checks the last two, and jumps there
// in real mode with the drive number in DL. This sector is followed on the disk by a payload's image. It is a multiboot loader in 440 bytes: it
// reads the image, finds the multiboot header at the place where our images have it, puts the bytes where the header says, and enters the 32-bit
// door in protected mode.

#include "rb.inc"

#define BUFFER 0x10000 // where the image waits: above this sector, below the firmware's own data
#define IMAGE_LIMIT 0x70000
#define HEADER 0xb0 // multiboot header inside an image
#define LOAD 16
#define LOAD_END 20
#define BSS_END 24
#define ENTRY 28

.section .boot, "ax"
CODE16
.globl boot
boot:
  ljmp 0, offset 1f // some firmware enters at 07C0:0000
1:
  cli
  xor ax, ax
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov sp, 0x7c00
  sti
  cld
  mov [drive], dl

// ## Which way to read
//
// Disks are read by block number where the firmware has the extensions for it. Floppies, and old firmware, want cylinder, head and sector, for
// which the geometry is asked first.

  mov ah, 0x41
  mov bx, 0x55aa
  int 0x13
  jc 1f
  cmp bx, 0xaa55
  jne 1f
  test cl, 1
  jz 1f
  mov byte ptr [extended], 1
  jmp 2f
1:
  mov ah, 8
  mov dl, [drive]
  xor di, di // ES:DI zero: some firmware needs it
  int 0x13
  jc failed
  and cx, 63
  mov [sectors_per_track], cx
  movzx dx, dh
  inc dx
  mov [heads], dx
2:

// The first sector of the image tells how many there are.

  call read_sector
  mov ax, BUFFER >> 4
  mov fs, ax
  cmp dword ptr fs:[HEADER], 0x1badb002
  jne failed
  mov eax, fs:[HEADER + LOAD_END]
  sub eax, fs:[HEADER + LOAD]
  jbe failed
  cmp eax, IMAGE_LIMIT
  ja failed
  add eax, 511
  shr eax, 9
  mov bp, ax
3:
  dec bp
  jz 4f
  add word ptr [packet_segment], 512 >> 4
  inc dword ptr [packet_block]
  call read_sector
  jmp 3b

// ## To protected mode
//
// Address line 20 first: without it every odd megabyte is the even one below. The firmware may have left it closed.

4:
  mov ax, 0x2401
  int 0x15
  in al, 0x92
  test al, 2
  jnz 5f
  or al, 2
  and al, ~1
  out 0x92, al
5:
  cli
  lgdt [gdt_pointer]
  mov eax, cr0
  or eax, 1
  mov cr0, eax
  ljmp 8, offset protected

read_sector:
  cmp byte ptr [extended], 0
  je 1f
  mov si, offset packet
  mov ah, 0x42
  jmp 2f
1:
  mov ax, [packet_block]
  xor dx, dx
  div word ptr [sectors_per_track]
  mov cx, dx
  inc cx
  xor dx, dx
  div word ptr [heads]
  mov dh, dl
  mov ch, al
  shl ah, 6
  or cl, ah
  mov es, [packet_segment]
  xor bx, bx
  mov ax, 0x0201
2:
  mov dl, [drive]
  int 0x13
  jc failed
  ret

failed:
  mov si, offset failed_text
1:
  lodsb
  test al, al
  jz 2f
  mov dx, COM1
  out dx, al
  jmp 1b
2:
  cli
  hlt
  jmp 2b

CODE32
protected:
  mov eax, 16
  mov ds, eax
  mov es, eax
  mov ss, eax
  mov esp, 0x7c00
  mov ebx, BUFFER + HEADER
  mov esi, BUFFER
  mov edi, [ebx + LOAD]
  mov ecx, [ebx + LOAD_END]
  sub ecx, edi
  rep movsb
  mov ecx, [ebx + BSS_END]
  sub ecx, edi
  xor eax, eax
  rep stosb
  mov edx, [ebx + ENTRY]
  mov ebx, offset information
  mov eax, 0x2badb002
  push edx
  xor edx, edx
  ret

.balign 4
packet:
  .word 16, 1, 0
packet_segment:
  .word BUFFER >> 4
packet_block:
  .long 1, 0
sectors_per_track: .word 0
heads: .word 0
drive: .byte 0
extended: .byte 0
failed_text: .asciz "RB1 abort boot.S:0 cannot read the disk\n"
.balign 8
gdt:
  .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
  .word 23
  .long gdt
.balign 4
information: // a multiboot information structure in which no field is valid
  .long 0
.org 510
  .byte 0x55, 0xaa
