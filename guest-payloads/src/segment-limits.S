// # Segment limits and types
//
// Every access in protected mode is checked against a descriptor: is the offset inside, and does the type allow this? That check needed no page
// table, and early hypervisors without hardware help used it to keep themselves apart from their guests.

#include "rb.inc"
#define BASE 0x20000
BEGIN
.globl main
main:
  mov dword ptr [BASE + 0x0ffc], 0x44332211
  mov dword ptr [BASE + 0x1000], 0x88776655

// ## Expand-up
//
// Offsets from zero to the limit, the limit included. Each byte of an access counts.

  STAGE expand-up
  DESCRIPTOR SPARE, BASE, 0x0fff, 0x92, 4 // one page, by bytes
  mov eax, SPARE
  mov fs, eax
  movzx eax, byte ptr [rb_gdt + SPARE + 5] // loading has set the accessed bit
  OBS accessed, eax
  mov eax, fs:[0xffc]
  OBS up.last, eax
  PROBE
1: mov eax, fs:[0xffd]
  CAUGHT up.straddle
  PROBE
1: mov al, fs:[0x1000]
  CAUGHT up.beyond
  PROBE
1: mov byte ptr fs:[0x1000], 0
  CAUGHT up.write

// With the granularity bit the limit counts pages, and its low twelve bits read as ones.

  STAGE granularity
  DESCRIPTOR SPARE, BASE, 0, 0x93, 0xc
  mov eax, SPARE
  mov fs, eax
  lsl ecx, eax
  OBS page.limit, ecx
  mov al, fs:[0xfff]
  PROBE
1: mov al, fs:[0x1000]
  CAUGHT page.beyond

// ## Expand-down
//
// For stacks: offsets *above* the limit are the valid ones, up to 0xFFFF or, with the B bit, 0xFFFFFFFF.

  STAGE expand-down
  mov dword ptr [BASE + 0x1000], 0x88776655 // again: a machine without limits has overwritten it
  DESCRIPTOR SPARE, BASE, 0x0fff, 0x97, 4
  mov eax, SPARE
  mov fs, eax
  PROBE
1: mov al, fs:[0x0fff]
  CAUGHT down.below
  PROBE
1: mov eax, fs:[0x0ffe]
  CAUGHT down.straddle
  mov eax, fs:[0x1000]
  OBS down.first, eax
  DESCRIPTOR SPARE, BASE, 0x0fff, 0x97, 0
  mov eax, SPARE
  mov fs, eax
  mov al, fs:[0xffff]
  PROBE
1: mov ax, fs:[0xffff]
  CAUGHT down.top16
  PROBE
1: mov al, fs:[0x10000]
  CAUGHT down.above16

// ## Types

  STAGE types
  DESCRIPTOR SPARE, BASE, 0xffff, 0x91, 4 // read-only data
  mov eax, SPARE
  mov fs, eax
  mov al, fs:[0]
  PROBE
1: mov fs:[0], al
  CAUGHT readonly.write
  DESCRIPTOR SPARE, BASE, 0xffff, 0x9b, 4 // readable code
  mov eax, SPARE
  mov fs, eax
  mov eax, fs:[0xffc]
  OBS code.read, eax
  PROBE
1: mov fs:[0], al
  CAUGHT code.write
  DESCRIPTOR SPARE, BASE, 0xffff, 0x99, 4 // execute-only code
  PROBE
  mov eax, SPARE
1: mov fs, eax
  CAUGHT xonly.load
  DESCRIPTOR SPARE, 0, 0xfffff, 0x99, 0xc
  PROBE
  ljmp SPARE, offset 2f
2:
1: mov eax, cs:[main]
  CAUGHT xonly.read

// ## The null selector may be loaded, not used

  STAGE null
  xor eax, eax
  mov fs, eax
  PROBE
1: mov al, fs:[0]
  CAUGHT null.read
  mov eax, 3
  mov fs, eax
  PROBE
1: mov fs:[0], al
  CAUGHT null.write

// ## Code
//
// The instruction pointer is checked as it moves: a jump target beyond the limit faults in the jump, running off the end faults at the next byte. A
// machine that checks nothing finds an INT 0x30 there.

  STAGE code
  DESCRIPTOR SPARE, BASE, 0x0fff, 0x9b, 4
  mov dword ptr [BASE + 0xffe], 0x30cd9090 // two NOPs, the end, INT 0x30
  PROBE
1: ljmp SPARE, 0x1000
  CAUGHT jump.beyond
  PROBE
1: ljmp SPARE, 0xffe
  RESUME
  OBS runoff.vector, [trap_vector]
  OBS runoff.error, [trap_error]
  OBS runoff.ip, [trap_ip]
  OBS runoff.cs, [trap_cs]

// ## The stack segment has a vector of its own
//
// Seen from ring 3, so that the handler has a good stack. PUSH below the segment, and any access through EBP, is #SS with error code zero.

  STAGE stack
  DESCRIPTOR SPARE, BASE, 0x0fff, 0xf3, 4
  PROBE
  push RPL3(SPARE)
  push 0x1000
  push 2
  push RPL3(UCODE32)
  push offset 8f
  iretd
8:
  push eax // the last four bytes
  mov ebp, 0x1000
1: mov eax, [ebp]
  CAUGHT3 ss.beyond
  PROBE
  push RPL3(SPARE)
  push 2 // two bytes are not enough for a push, and offsets wrap to the top
  push 2
  push RPL3(UCODE32)
  push offset 8f
  iretd
8:
1: push eax
  CAUGHT3 ss.push

// ## Privilege of data
//
// The larger of the current and the requested privilege level must not exceed the descriptor's.

  STAGE privilege
  PROBE
  mov eax, RPL3(KDATA)
1: mov fs, eax
  CAUGHT rpl
  PROBE
  TO_RING3
  mov eax, UDATA
1: mov fs, eax
  CAUGHT3 user.ok

// Returning to ring 3 clears data segments that ring 3 could not have loaded.

  mov eax, KDATA
  mov fs, eax
  mov eax, RPL3(UDATA)
  mov gs, eax
  PROBE
  TO_RING3
  mov ecx, fs
  mov edx, gs
1: int 0x30
  RESUME
  OBS return.fs, ecx
  OBS return.gs, edx
  DONE
