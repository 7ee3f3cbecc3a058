// # Hello
//
// A port, a byte, again. Nothing of the runtime is used: this is as little as a guest can do and still be heard.

#include "rb.inc"
BEGIN
.globl main
main:
  mov esi, offset text
  mov ecx, offset text_end - text
  mov edx, COM1
  rep outsb
  xor eax, eax
  out DEBUG_EXIT, al
  cli
  hlt

text: .ascii "hello\n"
text_end:
