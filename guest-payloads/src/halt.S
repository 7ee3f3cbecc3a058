// # Halt
//
// HLT stops until an interrupt comes. With interrupts off only an NMI, an SMI or a reset could end it; where none comes this is where the machine
// stays. The debug-exit port is not touched.

#include "rb.inc"
BEGIN
.globl main
main:
  STAGE halt
  OBS before, 1
  SAY_DONE
  cli
  hlt
  ABORT(the processor went on after HLT with interrupts off)
