// # Hello
//
// Wait until the port takes a byte, give it one, again. Nothing of the runtime is used: this is as little as a guest can do and still be heard.
// A machine whose serial port is always ready would do with `rep outsb`; a real one would lose letters.

#include "rb.inc"
BEGIN
.globl main
main:
  mov esi, offset text
  mov ecx, offset text_end - text
1:
  mov edx, COM1 + 5
2:
  in al, dx
  test al, 0x20
  jz 2b
  mov edx, COM1
  outsb
  loop 1b
  xor eax, eax
  out DEBUG_EXIT, al
3:
  cli
  hlt
  jmp 3b

text: .ascii "hello\n"
text_end:
