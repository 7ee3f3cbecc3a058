// # The triple fault
//
// A fault, a second one while delivering it, and the double fault cannot be delivered either: the processor gives up and enters *shutdown*. A PC's
// board answers by pulling the reset line; a hypervisor gets a VM exit. Nothing can be reported afterwards, so `done` comes first.

#include "rb.inc"
BEGIN
.globl main
main:
  STAGE no-idt
  SAY_DONE
  lidt [empty]
  ud2
  ABORT(the processor went on after a triple fault)

.data
.balign 8
empty:
  .word 0
  .quad 0
