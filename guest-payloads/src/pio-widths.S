// # Port I/O of each width
//
// Ports are bytes in a space of their own, 64 Ki of them. A word or a doubleword access is *one* access to several ports, and the device sees its
// width. A hypervisor has to carry the width, the direction, the count of a string instruction, and the partial update of the accumulator.

#include "rb.inc"
BEGIN
.globl main
main:
  mov edx, SCRATCH_PORT

// ## Out and in

  STAGE widths
  mov eax, 0x44332211
  out dx, eax
  mov xax, -1
  in al, dx // the other bits of the accumulator stay
  OBS in8, xax
  mov xax, -1
  in ax, dx
  OBS in16, xax
  mov xax, -1
  in eax, dx // in 64-bit code a 32-bit result clears the upper half
  OBS in32, xax

// One byte of the four, and what is around it.

  STAGE partial
  add edx, 1
  mov al, 0xaa
  out dx, al
  add edx, 1
  mov ax, 0xccbb
  out dx, ax
  sub edx, 2
  xor eax, eax
  in eax, dx
  OBS mixed, xax
  add edx, 1
  xor eax, eax
  in ax, dx // unaligned word
  OBS unaligned16, xax
  in eax, dx // and doubleword: the fifth byte is zero still
  OBS unaligned32, xax

// ## The short form
//
// Ports below 256 can be written in the instruction. Nothing lives at port 0xed; an old habit writes there to lose a microsecond.

  STAGE immediate
  mov al, 0x5a
  out 0xed, al
  OBS immediate, 1

// ## String I/O
//
// REP OUTS reads memory upwards, or downwards with the direction flag, and leaves the index behind the last element and the count at zero.

  STAGE string-out
  mov edx, SCRATCH_PORT
  mov esi, offset source
  mov ecx, 3
  rep outsb // the same port three times: the last byte stays
  OBS outsb.count, xcx
  mov xax, xsi
  sub xax, offset source
  OBS outsb.index, xax
  xor eax, eax
  in al, dx
  OBS outsb.last, xax
  mov esi, offset source
  mov ecx, 2
  rep outsw
  mov xax, xsi
  sub xax, offset source
  OBS outsw.index, xax
  xor eax, eax
  in ax, dx
  OBS outsw.last, xax
  std
  mov esi, offset source + 12
  mov ecx, 4
  rep outsd
  cld
  mov xax, xsi
  sub xax, offset source
  OBS outsd.index, xax
  in eax, dx
  OBS outsd.last, xax
  mov ecx, 0
  rep outsd // nothing at all
  in eax, dx
  OBS outs.zero, xax

  STAGE string-in
  mov eax, 0x88776655
  out dx, eax
  mov edi, offset target
  mov ecx, 3
  rep insb
  mov xax, xdi
  sub xax, offset target
  OBS insb.index, xax
  mov eax, [target]
  OBS insb.data, xax
  mov edi, offset target
  mov ecx, 3
  rep insw
  mov eax, [target]
  OBS insw.data, xax
  mov eax, [target + 4]
  OBS insw.data2, xax
  mov edi, offset target
  mov ecx, 2
  rep insd
  mov eax, [target + 4]
  OBS insd.data, xax
  mov xax, xdi
  sub xax, offset target
  OBS insd.index, xax

// ## More than one page of data
//
// A real hypervisor moves a string in pieces: it has a buffer of limited size, and a page of the guest may end. Nothing of that may show. The last
// byte that arrives is the last of 5000 sent, and the count is used up.

  STAGE long
  mov edi, offset big
  mov ecx, 5000
  xor eax, eax
1:
  mov [xdi], al
  inc edi
  inc eax
  dec ecx
  jnz 1b
  mov esi, offset big
  mov ecx, 5000
  rep outsb
  OBS long.count, xcx
  mov xax, xsi
  sub xax, offset big
  OBS long.index, xax
  xor eax, eax
  in al, dx
  OBS long.last, xax

#if MODE != 64

// ## A segment of its own
//
// OUTS reads through DS, and a prefix may name another segment; INS always writes through ES. Emulators have forgotten the first.

  STAGE segments
#if MODE == 32
  DESCRIPTOR SPARE, 0x20000, 0xffff, 0x93, 4
  mov eax, SPARE
#else
  mov eax, 0x2000
#endif
  mov fs, eax
  mov byte ptr fs:[0x100], 0x3c
  mov byte ptr ds:[0x600], 0x11
  mov byte ptr fs:[0x600], 0x22
  mov esi, 0x600
  fs outsb
  xor eax, eax
  in al, dx
  OBS outs.fs, xax
  mov es, [fs_selector]
  mov edi, 0x100
  insb
  xor eax, eax
  mov al, fs:[0x100]
  OBS ins.es, xax
#endif
  DONE

#if MODE == 16
LOW_DATA
#else
.data
#endif
.balign 8
source: .long 0x04030201, 0x08070605, 0x0c0b0a09, 0x100f0e0d
target: .long 0, 0, 0, 0
#if MODE == 32
fs_selector: .word SPARE
#else
fs_selector: .word 0x2000
#endif
#if MODE == 16
.section .low.bss, "aw", @nobits
#else
.bss
#endif
big: .skip 5000
