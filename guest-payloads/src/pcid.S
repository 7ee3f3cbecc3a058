// # Process-context identifiers
//
// A number in the low bits of CR3 says whose translations are whose, so that a change of tables need not throw them all away. Bit 63 of what is moved to CR3
// asks that even the new context's be kept. What may be kept nobody can see; what must not be mixed up, or must be gone, is looked at here.

#include "rb.inc"
BEGIN
.globl main

#define PCIDE 17
#define KEEP 63
#define WINDOW 0x8000000000 // the second entry of the first level

// Tables that differ from the others in what WINDOW leads to.
.macro TABLES which
  mov rsi, [good]
  mov edi, offset pml4_\which
  mov ecx, 512
  cld
  rep movsq
  mov eax, offset pdpt_\which + 7
  mov [pml4_\which + 8], rax
  mov eax, offset pd_\which + 7
  mov [pdpt_\which], rax
  mov eax, offset pt_\which + 7
  mov [pd_\which], rax
  mov eax, offset frame_\which + 7
  mov [pt_\which], rax
.endm

.macro ENTER which, context, keep=1
  mov eax, offset pml4_\which + \context
.if \keep
  bts rax, KEEP
.endif
  mov cr3, rax
.endm

.macro SEE name
  mov rax, WINDOW
  mov rax, [rax]
  OBS \name, rax
.endm

.macro INVALIDATE type, context, address=0
  mov rax, \context
  mov [descriptor], rax
  mov rax, \address
  mov [descriptor + 8], rax
  mov eax, \type
.endm

main:
  mov rax, cr3
  and rax, ~0xfff
  mov [good], rax
  mov dword ptr [frame_a], 0xa
  mov dword ptr [frame_b], 0xb
  mov dword ptr [frame_c], 0xc
  TABLES a
  TABLES b

// ## Switching it on
//
// Not while CR3 names a context other than 0; and before, bit 63 is reserved, and INVPCID knows one context only.

  STAGE enable
  PROBE
  mov rax, [good]
  bts rax, KEEP
1: mov cr3, rax
  CAUGHT off.keep
  PROBE
  INVALIDATE 1, 1
1: invpcid rax, [descriptor]
  CAUGHT off.invpcid
  PROBE
  INVALIDATE 1, 0
1: invpcid rax, [descriptor]
  CAUGHT off.invpcid.zero
  mov rax, [good]
  or eax, 8 // a bit with another meaning, for now
  mov cr3, rax
  PROBE
  mov rax, cr4
  bts rax, PCIDE
1: mov cr4, rax
  CAUGHT enable.context
  mov rax, [good]
  mov cr3, rax
  PROBE
  mov rax, cr4
  bts rax, PCIDE
1: mov cr4, rax
  CAUGHT enable
  mov rax, cr4
  shr rax, PCIDE
  and eax, 1
  OBS enabled, rax

// ## Moving to CR3

  STAGE load
  PROBE
  mov rax, [good]
  or eax, 0xfff
  bts rax, KEEP
1: mov cr3, rax
  CAUGHT load.keep
  mov rax, cr3
  shr rax, KEEP
  OBS load.bit63, rax
  mov rax, cr3
  and eax, 0xfff
  OBS load.context, rax
  PROBE
  mov rax, [good]
  bts rax, 62
1: mov cr3, rax
  CAUGHT load.reserved

// Two contexts, each with its own page in the same place.

  ENTER a, 1, 0
  SEE a.first
  ENTER b, 2, 0
  SEE b.first
  ENTER a, 1
  SEE a.kept
  ENTER b, 2
  SEE b.kept

// Without bit 63 the context starts afresh: what its tables say now counts.

  mov eax, offset frame_c + 7
  mov [pt_b], rax
  ENTER b, 2, 0
  SEE b.fresh

// The other context's translations survive or not; they do not become this one's.

  ENTER a, 1
  SEE a.after

// ## INVPCID

  STAGE invpcid
  mov eax, offset frame_b + 7
  mov [pt_b], rax
  INVALIDATE 0, 2, WINDOW // one address of a context that is not in use
  invpcid rax, [descriptor]
  ENTER b, 2
  SEE address
  ENTER a, 1
  mov eax, offset frame_c + 7
  mov [pt_b], rax
  INVALIDATE 1, 2
  invpcid rax, [descriptor]
  ENTER b, 2
  SEE context
  mov eax, offset frame_b + 7
  mov [pt_b], rax
  INVALIDATE 2, 0
  invpcid rax, [descriptor]
  SEE all
  mov eax, offset frame_c + 7
  mov [pt_b], rax
  INVALIDATE 3, 0
  invpcid rax, [descriptor]
  SEE not-global

.macro REFUSED name, type, context, address=0
  PROBE
  INVALIDATE \type, \context, \address
1: invpcid rax, [descriptor]
  CAUGHT \name
.endm
  STAGE refused
  REFUSED type, 4, 0
  REFUSED type.high, 0x80000000, 0
  REFUSED context.reserved, 1, 0x1000
  REFUSED address.reserved, 0, 0x1000
  REFUSED address.not-canonical, 0, 2, 0x800000000000
  REFUSED address.unused, 1, 2, 0x800000000000 // looked at for type 0 only
  PROBE
  INVALIDATE 2, 0
  TO_RING3
1: invpcid rax, [descriptor]
  CAUGHT3 user

// ## Switching it off

  STAGE disable
  PROBE
  mov rax, cr0
  btr rax, 31
1: mov cr0, rax
  CAUGHT paging
  PROBE
  mov rax, cr4
  btr rax, PCIDE
1: mov cr4, rax // whatever the context
  CAUGHT disable
  mov rax, [good]
  mov cr3, rax
  DONE

.bss
.balign 16
descriptor: .skip 16
good: .skip 8
.balign 4096
.irp which, a, b
pml4_\which: .skip 4096
pdpt_\which: .skip 4096
pd_\which: .skip 4096
pt_\which: .skip 4096
frame_\which: .skip 4096
.endr
frame_c: .skip 4096
