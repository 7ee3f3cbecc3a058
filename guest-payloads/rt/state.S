// # The runtime's variables
//
// Zero at the start, eight bytes each so that 32- and 64-bit code may share them, and all outside the image file.

#include "rb.inc"

.bss
.balign 4096
.globl rb_pml4, rb_pdpt, rb_pd
rb_pml4: .skip 4096
rb_pdpt: .skip 4096
rb_pd: .skip 4096 * 4 // four gigabytes in 2 MiB pages

.balign 16
.globl rb_idt
rb_idt: .skip 16 * 256

.globl trap_vector, trap_error, trap_ip, trap_cs, trap_flags, trap_frame, trap_cr2, trap_resume, trap_sp
trap_vector: .skip 8
trap_error: .skip 8
trap_ip: .skip 8
trap_cs: .skip 8
trap_flags: .skip 8
trap_frame: .skip 8 // where the processor put the instruction pointer: tells which stack it used
trap_cr2: .skip 8
trap_resume: .skip 8
trap_sp: .skip 8

.globl probe_value
probe_value: .skip 8 // what the last probe read

.globl rb_door, rb_tss
rb_door: .skip 8 // 1 multiboot, 2 PVH, 3 64-bit entry
.balign 16
rb_tss: .skip 104 + 8192 + 8 // the task-state segment, and room for an I/O permission bitmap after it

.balign 16
.globl rb_stack, rb_trap_stack, rb_ist_stack, rb_user_stack, rb_second_stack
  .skip 8192
rb_stack:
  .skip 2048
rb_trap_stack: // where the processor goes from ring 3
  .skip 2048
rb_ist_stack:
  .skip 2048
rb_user_stack:
  .skip 4096
rb_second_stack:
