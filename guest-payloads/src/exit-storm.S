// # A storm of exits
//
// A hundred thousand writes to a port, or to a device's memory, one after the other: as many times out of guest mode and back. Timed from outside, this is what an exit costs.

#include "rb.inc"
#ifndef EXITS
#define EXITS 100000
#endif
BEGIN
.globl main
main:
  STAGE storm
  OBS exits, EXITS
#ifdef MMIO
  mov ebx, SCRATCH_MMIO
  mov ecx, EXITS
  mov eax, 0x55
1:
  mov [xbx], eax
  dec ecx
  jnz 1b
#else
  mov edx, 0xed // a port at which nothing lives
  mov ecx, EXITS
  mov eax, 0x55
1:
  out dx, al
  dec ecx
  jnz 1b
#endif
  OBS left, xcx
  DONE
