// # Sensitive, and not privileged
//
// A hypervisor of the classical kind runs the guest's kernel in ring 3 and waits for it to trap. That needs every instruction whose result depends
// on privilege, or tells about it, to trap in ring 3. On this processor seventeen do not. Here they are run in ring 3, with what each gave away. `30`
// in a `.vector` is the INT 0x30 that we end with: the instruction went through.

#include "rb.inc"
BEGIN
.globl main
main:

// ## Reading what the kernel has set up
//
// A guest kernel in ring 3 would see the *hypervisor's* tables and segments.

  STAGE tables
  PROBE
  TO_RING3
1: sgdt [seen]
  CAUGHT3 sgdt
  movzx eax, word ptr [seen]
  OBS sgdt.limit, xax
  mov eax, [seen + 2]
  sub eax, offset rb_gdt
  OBS sgdt.base, xax
  PROBE
  TO_RING3
1: sidt [seen]
  CAUGHT3 sidt
  mov eax, [seen + 2]
  sub eax, offset rb_idt
  OBS sidt.base, xax
  PROBE
  TO_RING3
  xor ecx, ecx
1: sldt cx
  CAUGHT3 sldt
  OBS sldt.value, xcx
  PROBE
  TO_RING3
  xor ecx, ecx
1: str cx
  CAUGHT3 str
  OBS str.value, xcx
  PROBE
  TO_RING3
  xor ecx, ecx
1: smsw cx
  CAUGHT3 smsw
  and ecx, 1
  OBS smsw.pe, xcx

// ## Flags
//
// PUSHF shows the real IF and IOPL. POPF neither changes them nor complains.

  STAGE flags
  PROBE
  TO_RING3 0x1002 // IOPL 1
  pushf
  pop xcx
1: nop
  CAUGHT3 pushf
  and ecx, 0x3200
  OBS pushf.value, xcx
  PROBE
  TO_RING3
  push 0x3202
1: popf
  CAUGHT3 popf
  mov xcx, [trap_flags]
  and ecx, 0x3200
  OBS popf.value, xcx

// ## Segments
//
// The privilege level is in the low bits of CS and SS for everyone to read, and the segment instructions answer from the hypervisor's table.

  STAGE segments
  PROBE
  TO_RING3
  xor ecx, ecx
  mov cx, cs
1: nop
  CAUGHT3 cs
  OBS cs.value, xcx
  PROBE
  TO_RING3
  xor ecx, ecx
  mov cx, ss
1: nop
  CAUGHT3 ss
  OBS ss.value, xcx
#if MODE == 32
  PROBE
  TO_RING3
  xor ecx, ecx
  push ss
  pop ecx
1: nop
  CAUGHT3 push.ss
  and ecx, 0xffff
  OBS push.ss.value, ecx
#endif
  PROBE
  TO_RING3
  mov edx, KDATA
  xor ecx, ecx
1: lar ecx, edx // invisible from ring 3: ZF clear
  setz cl
  CAUGHT3 lar.kernel
  movzx ecx, cl
  OBS lar.kernel.zf, xcx
  PROBE
  TO_RING3
  mov edx, RPL3(UDATA)
  xor ecx, ecx
1: lsl ecx, edx
  CAUGHT3 lsl.user
  OBS lsl.user.value, xcx
  PROBE
  TO_RING3
  mov edx, KDATA
1: verr dx
  setz cl
  CAUGHT3 verr.kernel
  movzx ecx, cl
  OBS verr.kernel.zf, xcx
  PROBE
  TO_RING3
  mov edx, KDATA
1: verw dx
  setz cl
  CAUGHT3 verw.kernel
  movzx ecx, cl
  OBS verw.kernel.zf, xcx

// ## Transfers
//
// A far call, a far return and INT n check privilege against the level they run at, so a kernel's call to its own level-0 segment fails in ring 3.

  STAGE transfers
  PROBE
  TO_RING3
1: .byte 0xff, 0x2c, 0x25 // JMP FAR [absolute], as SIB form: the same bytes in both widths
  .long far_kernel
  CAUGHT3 far.jump
  PROBE
  TO_RING3
#if MODE == 64
  mov ecx, KCODE64
#else
  mov ecx, KCODE32
#endif
  push xcx
  mov ecx, offset 2f
  push xcx
1:
#if MODE == 64
  .byte 0x48
#endif
  .byte 0xcb // far return
2:
  CAUGHT3 far.return
  PROBE
  TO_RING3
#if MODE == 64
  mov ecx, KCODE64
#else
  mov ecx, KCODE32
#endif
  pushf
  push xcx
  mov ecx, offset 2f
  push xcx
1:
#if MODE == 64
  iretq
#else
  iretd
#endif
2:
  CAUGHT3 iret.return
  PROBE
  TO_RING3
1: int 0x20
  CAUGHT3 int

// ## And those that do trap
//
// The rest of the privileged instructions are well behaved: a general-protection fault, which a monitor can catch and emulate.

  STAGE privileged
  PROBE
  TO_RING3
1: lgdt [seen]
  CAUGHT3 lgdt
  PROBE
  TO_RING3
1: mov xax, cr3
  CAUGHT3 cr3
  PROBE
  TO_RING3
1: hlt
  CAUGHT3 hlt
  PROBE
  TO_RING3
1: invlpg [main]
  CAUGHT3 invlpg
  PROBE
  TO_RING3
  mov ecx, 0x174
1: rdmsr
  CAUGHT3 rdmsr
  PROBE
  TO_RING3
1: wbinvd
  CAUGHT3 wbinvd
  PROBE
  TO_RING3
1: clts
  CAUGHT3 clts
  PROBE
  TO_RING3
1: mov xax, dr7
  CAUGHT3 dr7
  PROBE
  TO_RING3
1: sti
  CAUGHT3 sti

// ## Alignment
//
// The one check that concerns ring 3 alone: CR0.AM permits it, EFLAGS.AC asks for it.

  STAGE alignment
  mov xax, cr0
  or eax, 0x40000
  mov cr0, xax
  PROBE
  TO_RING3 0x40002
1: mov ecx, [seen + 1]
  CAUGHT3 misaligned
  mov xax, cr0
  and eax, ~0x40000
  mov cr0, xax

// ## What later processors added
//
// CR4.UMIP (2016) makes SGDT, SIDT, SLDT, STR and SMSW privileged after all. By then the hardware had guest mode.

  STAGE umip
  mov eax, 7
  xor ecx, ecx
  cpuid
  bt ecx, 2
  jnc 3f
  mov xax, cr4
  or eax, 0x800
  mov cr4, xax
  PROBE
  TO_RING3
1: sgdt [seen]
  CAUGHT3 umip.sgdt
  PROBE
  TO_RING3
1: smsw cx
  CAUGHT3 umip.smsw
3:
  DONE

.data
.balign 8
seen: .skip 16
far_kernel:
  .long main
#if MODE == 64
  .word KCODE64
#else
  .word KCODE32
#endif
