// # The serial port
//
// The 16550 is the first device of every hypervisor: eight registers, and everything can be done by asking. What is looked at here is what programs
// rely on beyond sending a byte.

#include "rb.inc"
BEGIN
.globl main
main:

// ## Registers that store
//
// The scratch register stores a byte and means nothing; drivers write it to find out whether there is a port at all. LCR reads back what was
// written; with its top bit set, the first two registers are the divisor and not data and interrupts.

  STAGE registers
  mov edx, COM1 + 7
  mov al, 0xa5
  out dx, al
  xor eax, eax
  in al, dx
  OBS scratch, xax
  mov edx, COM1 + 1
  mov al, 0 // interrupts off
  out dx, al
  mov edx, COM1
  in al, dx // take what may have arrived
  mov edx, COM1 + 3
  mov al, 0x83
  out dx, al
  mov edx, COM1
  xor eax, eax
  in al, dx
  mov ebx, eax
  mov edx, COM1 + 1
  in al, dx
  mov bh, al
  mov edx, COM1 // another divisor, and back
  mov al, 3
  out dx, al
  in al, dx
  mov ecx, eax
  mov al, bl
  out dx, al
  mov edx, COM1 + 3
  in al, dx
  mov esi, eax
  mov al, 3
  out dx, al
  movzx ecx, cl
  movzx eax, si
  and eax, 0xff
  OBS lcr, xax
  OBS divisor.low, xcx
  mov edx, COM1 + 1
  xor eax, eax
  in al, dx
  OBS ier, xax

// ## Status
//
// Idle: transmitter empty (bits 5 and 6), nothing received (bit 0), no errors. IIR: bit 0 means that nothing is pending; bits 6 and 7 say that the
// FIFOs are on.

  STAGE status
  mov ecx, 0x100000
  mov edx, COM1 + 5
1:
  in al, dx
  test al, 0x40
  jnz 2f
  dec ecx
  jnz 1b
2:
  movzx eax, al
  OBS lsr, xax
  mov edx, COM1 + 2
  mov al, 7 // FIFOs on, both emptied
  out dx, al
  xor eax, eax
  in al, dx
  OBS iir.fifo, xax
  mov al, 0
  out dx, al
  in al, dx
  OBS iir.plain, xax

// ## Loopback
//
// MCR bit 4 connects the transmitter to the receiver inside the chip, and the modem's output lines to its input lines. A port can so be tested with
// nothing attached. No record may be sent meanwhile.

  STAGE loopback
  mov ecx, 0x100000
  mov edx, COM1 + 5
1:
  in al, dx
  test al, 0x40
  jnz 2f
  dec ecx
  jnz 1b
2:
  mov edx, COM1 + 4
  mov al, 0x1a // loop, OUT2, RTS
  out dx, al
  mov edx, COM1 + 6
  in al, dx
  mov bl, al // DCD and CTS
  mov edx, COM1
  mov al, 0x4c
  out dx, al
  mov ecx, 0x100000
  mov edx, COM1 + 5
3:
  in al, dx
  test al, 1
  jnz 4f
  dec ecx
  jnz 3b
4:
  mov bh, al
  mov edx, COM1
  in al, dx
  mov ah, al
  mov edx, COM1 + 5
  in al, dx
  mov ecx, eax
  mov edx, COM1 + 4
  mov al, 3
  out dx, al
  movzx eax, bl
  and eax, 0xf0
  OBS loop.msr, xax
  movzx eax, bh
  and eax, 1
  OBS loop.ready, xax
  movzx eax, ch
  OBS loop.byte, xax
  movzx eax, cl
  and eax, 1
  OBS loop.empty, xax
  DONE
