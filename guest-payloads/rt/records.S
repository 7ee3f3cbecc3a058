// # Saying what was seen
//
// The only thing a payload asks of the machine around it is a serial port that takes bytes. Records are lines of ASCII:
//
// ```
// RB1 stage <name>
// RB1 obs <key> <value in hexadecimal>
// RB1 done
// RB1 abort <file>:<line> <text>
// ```
//
// A payload *observes*. Which values are right is written in the case that runs it, and the program that judges is neither this one nor the
// machine under test. A line cut short, a time-out and a wrong value are then three different findings.
//
// This file is assembled three times, for 16-, 32- and 64-bit code, with the same text.

#include "rb.inc"

#if MODE == 16
.section .low.text.records16, "ax"
CODE16
#elif MODE == 32
.section .text.records32, "ax"
CODE32
#else
.section .text.records64, "ax"
CODE64
#endif

// ## One byte
//
// Bit 5 of the line status register says that the transmitter holding register is empty. Some machines say so always; a broken one might never.
// Waiting for ever would turn a fault of the serial port into silence, so the wait is bounded and then the byte is sent anyway.

.globl M(rb_putc)
M(rb_putc): // al; keeps everything
  pushf
  push xdx
  push xcx
  push xax
  mov ecx, 0x10000
  mov edx, COM1 + 5
1:
  in al, dx
  test al, 0x20
  jnz 2f
  dec ecx
  jnz 1b
2:
  pop xax
  mov edx, COM1
  out dx, al
  pop xcx
  pop xdx
  popf
  ret

.globl M(rb_puts)
M(rb_puts): // xsi: a string that ends in zero; keeps everything
  pushf
  push xax
  push xsi
1:
  mov al, [xsi]
  inc xsi
  test al, al
  jz 2f
  call M(rb_putc)
  jmp 1b
2:
  pop xsi
  pop xax
  popf
  ret

// ## A number
//
// Lower case, no leading zeros: one value has one spelling, so records can be compared as text.

.globl M(rb_hex)
M(rb_hex): // xax; keeps everything
  pushf
  push xax
  push xbx
  push xcx
  push xdx
  mov xbx, xax
  mov ecx, WORD_BYTES * 2
  xor edx, edx // becomes non-zero at the first digit that counts
1:
  rol xbx, 4
  mov al, bl
  and al, 15
  or dl, al
  cmp ecx, 1
  je 2f
  test dl, dl
  jz 4f
2:
  cmp al, 10
  jb 3f
  add al, 'a' - '0' - 10
3:
  add al, '0'
  call M(rb_putc)
4:
  dec ecx
  jnz 1b
  pop xdx
  pop xcx
  pop xbx
  pop xax
  popf
  ret

.globl M(rb_obs)
M(rb_obs): // xsi: key, xax: value; keeps everything
  pushf
  push xsi
  push xax
  push xsi
  mov esi, offset obs_prefix
  call M(rb_puts)
  pop xsi
  call M(rb_puts)
  mov al, ' '
  call M(rb_putc)
  pop xax
  call M(rb_hex)
  push xax
  mov al, '\n'
  call M(rb_putc)
  pop xax
  pop xsi
  popf
  ret

// ## Leaving
//
// What comes after the last line may stop the machine in the middle of a byte. So wait for bit 6 of the line status: everything is on the wire.

.globl M(rb_last)
M(rb_last): // xsi: the last line; clobbers xax, xcx, xdx
  call M(rb_puts)
  mov ecx, 0x10000
  mov edx, COM1 + 5
1:
  in al, dx
  test al, 0x40
  jnz 2f
  dec ecx
  jnz 1b
2:
  ret

// QEMU's `isa-debug-exit` device turns a byte written to its port into the exit status of the process. Where there is no such device the write
// goes nowhere, and a processor that is halted with interrupts off is the end.

.globl M(rb_done)
M(rb_done):
  mov esi, offset done_text
  call M(rb_last)
  xor eax, eax
1:
  mov edx, DEBUG_EXIT
  out dx, al
2:
  cli
  hlt
  jmp 2b

.globl M(rb_abort)
M(rb_abort): // xsi: the whole line
  call M(rb_last)
  mov eax, 1
  jmp 1b

#if MODE == 16
.section .low.rodata.records16, "a"
#else
.section .rodata.records, "a"
#endif
obs_prefix: .asciz "RB1 obs "
done_text: .asciz "RB1 done\n"
