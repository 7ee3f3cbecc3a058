// # Exceptions, one by one
//
// For each: the vector, whether there is an error code and what is in it, and which address the processor saved. A *fault* saves the address of
// the instruction, which can then be run again; a *trap* that of the next one.

#include "rb.inc"
BEGIN
.globl main
main:

// ## Arithmetic

  STAGE arithmetic
  PROBE
  xor ecx, ecx
  mov eax, 7
  cdq
1: div ecx
  CAUGHT de.zero
  PROBE
  mov edx, 1 // the quotient needs 33 bits
  xor eax, eax
  mov ecx, 1
1: div ecx
  CAUGHT de.overflow
  PROBE
  mov eax, 0x80000000
  cdq
  mov ecx, -1
1: idiv ecx
  CAUGHT de.signed
  PROBE
  mov ax, 0x100
  mov cl, 1
1: div cl
  CAUGHT de.byte

// ## Traps on request

  STAGE requested
  PROBE
1: int3
  CAUGHT bp
  PROBE
1: .byte 0xcd, 3 // INT 3 in two bytes: the same vector, a longer instruction
  CAUGHT bp.long
  PROBE
1: .byte 0xf1 // INT1
  CAUGHT int1
  PROBE
1: int 0x20
  CAUGHT int20
#if MODE == 32
  PROBE
  mov al, 0x7f
  add al, 1
1: into
  CAUGHT of
  PROBE
  xor eax, eax
1: into
  CAUGHT of.clear
  PROBE
  mov eax, 5
1: bound eax, [bounds]
  CAUGHT br.inside
  PROBE
  mov eax, 8
1: bound eax, [bounds]
  CAUGHT br.above
  PROBE
  mov eax, -1
1: bound eax, [bounds]
  CAUGHT br.below
#endif

// ## Opcodes

  STAGE opcodes
  PROBE
1: ud2
  CAUGHT ud
  PROBE
1: .byte 0xf0, 0x90 // LOCK NOP
  CAUGHT ud.lock
  PROBE
1: .byte 0xf0, 0x8b, 0x00 // LOCK MOV from memory: nothing is written, so nothing can be locked
  CAUGHT ud.lock.load
  PROBE
1: .byte 0x8e, 0xc8 // MOV CS, AX
  CAUGHT ud.mov.cs
  PROBE
1: .byte 0x8c, 0xf8 // MOV AX from segment register 7
  CAUGHT ud.sreg7
  PROBE
1: .byte 0x0f, 0x20, 0xc8 // MOV EAX, CR1
  CAUGHT ud.cr1
  PROBE
1: .byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90 // fifteen bytes: allowed
  CAUGHT length15
  PROBE
1: .byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90 // sixteen: not
  CAUGHT length16

// ## The floating-point unit is not available
//
// CR0.TS was made for switching tasks lazily: the first use of the unit traps. CR0.EM says there is none.

  STAGE coprocessor
  mov xax, cr0
  or eax, 8
  mov cr0, xax
  PROBE
1: fnop
  CAUGHT nm.ts
  clts
  mov xax, cr0
  or eax, 4
  mov cr0, xax
  PROBE
1: fnop
  CAUGHT nm.em
  mov xax, cr0
  and eax, ~4
  mov cr0, xax

// ## Selectors
//
// A fault caused by a descriptor says which: the selector with its low bits replaced. Bit 0: the event came from outside the program; bit 1: the
// index is into the IDT; bit 2: into the local table.

  STAGE selectors
  PROBE
  mov eax, 0x1003 // beyond the table; the requested privilege is not part of the error code
1: mov es, eax
  CAUGHT gp.outside
  xor eax, eax
  lldt ax // no local table: a reset leaves the register usable, with whatever lies at address 0
  PROBE
  mov eax, 0x0c
1: mov es, eax
  CAUGHT gp.local
  DESCRIPTOR SPARE, 0, 0xfffff, 0x13, 0xc // like KDATA, but not present
  PROBE
  mov eax, SPARE
1: mov es, eax
  CAUGHT np
  PROBE
  mov eax, SPARE
1: mov ss, eax
  CAUGHT ss
  PROBE
  xor eax, eax
1: mov ss, eax
  CAUGHT gp.null.ss
  PROBE
  mov eax, UDATA // a stack must have exactly the current privilege
1: mov ss, eax
  CAUGHT gp.ss.dpl
  PROBE
  mov eax, KCODE32
1: mov ss, eax
  CAUGHT gp.ss.code
  PROBE
  mov eax, KDATA
1: ltr ax
  CAUGHT gp.ltr.data
  PROBE
  mov eax, TSS // the current one is marked busy
1: ltr ax
  CAUGHT gp.ltr.busy
  PROBE
  mov eax, KDATA
1: lldt ax
  CAUGHT gp.lldt.data
#if MODE == 64
  DESCRIPTOR SPARE, 0, 0xfffff, 0x9b, 0xe // L and D together
  PROBE
  push SPARE
  push offset 2f
1: .byte 0x48, 0xcb // far return
2:
  CAUGHT gp.code.both
#endif
  mov eax, KDATA
  mov es, eax

// ## Gates

  STAGE gates
  PROBE
1: int 0x60 // beyond the table
  CAUGHT gp.int.outside
#if MODE == 64
#define GATE(vector) (rb_idt + (vector) * 16)
#else
#define GATE(vector) (rb_idt + (vector) * 8)
#endif
  and byte ptr [GATE(0x21) + 5], 0x7f // not present
  PROBE
1: int 0x21
  CAUGHT np.int
  and byte ptr [GATE(0x22) + 5], 0xf0 // no kind of gate
  PROBE
1: int 0x22
  CAUGHT gp.int.type
  mov word ptr [GATE(0x23) + 2], 0 // no code segment
  PROBE
1: int 0x23
  CAUGHT gp.int.null
#if MODE == 64
  mov dword ptr [GATE(0x24) + 8], 0x8000 // the handler's address is not canonical
  PROBE
1: int 0x24
  CAUGHT gp.int.offset
#endif
  and byte ptr [GATE(6) + 5], 0x7f
  PROBE
1: ud2 // cannot be delivered; the second fault says that the first came from outside the program's wishes
  CAUGHT np.ud
  or byte ptr [GATE(6) + 5], 0x80

// ## Privilege

  STAGE privilege
  PROBE
  TO_RING3
1: hlt
  CAUGHT3 gp.hlt
  PROBE
  TO_RING3
1: cli
  CAUGHT3 gp.cli
  PROBE
  TO_RING3
1: in al, dx
  CAUGHT3 gp.in
  PROBE
  TO_RING3
1: mov xax, cr0
  CAUGHT3 gp.cr0
  PROBE
  TO_RING3
1: int 0x20 // a gate for ring 0 only
  CAUGHT3 gp.int
  PROBE
  TO_RING3
1: int3 // its gate is open to ring 3
  CAUGHT3 user.bp
  PROBE
  TO_RING3
  mov eax, KDATA
1: mov fs, eax
  CAUGHT3 gp.data
  PROBE
  TO_RING3
1: int 0x30
  CAUGHT user.int

  DONE

.data
.balign 8
bounds: .long 0, 7
