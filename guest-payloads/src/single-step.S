// # Single step and breakpoints
//
// With the trap flag set the processor raises #DB *after* each instruction. The handler here notes where it was, and a bit in DR6 why. A hypervisor
// that emulates an instruction has to raise the trap itself.

#include "rb.inc"
#if MODE == 64
#define GATE(vector) (rb_idt + (vector) * 16)
#define IRET iretq
#else
#define GATE(vector) (rb_idt + (vector) * 8)
#define IRET iretd
#endif
#define TF 0x100
#define STEPS 24

BEGIN
.globl main
main:
  mov eax, offset handler
  mov [GATE(1)], ax
  shr eax, 16
  mov [GATE(1) + 6], ax

.macro RESET
  mov dword ptr [steps], 0
.endm
.macro STEP_ON
  push TF | 2
  popf // the first trap comes after the next instruction
.endm
.macro STEP_OFF
  push 2
  popf
.endm

// ## One trap an instruction

  STAGE plain
  RESET
  STEP_ON
1:
  nop // 0
  mov eax, 5 // 1
  inc eax // 6
2:
  STEP_OFF
  mov eax, [steps]
  OBS plain.count, xax
  mov eax, [dr6_seen]
  and eax, 0xe00f
  OBS plain.dr6, xax
  mov eax, [trace]
  sub eax, offset 1b
  OBS plain.first, xax
  mov eax, [trace + 4]
  sub eax, offset 1b
  OBS plain.second, xax
  mov eax, [trace + 8]
  sub eax, offset 2b
  OBS plain.third, xax

// ## A taken branch, and a repeated string instruction
//
// Each iteration of a string instruction ends in a trap, with the instruction pointer still on the instruction.

  STAGE string
  RESET
  mov esi, offset source
  mov edi, offset target
  mov ecx, 3
  STEP_ON
1:
  rep movsb
2:
  STEP_OFF
  mov eax, [trace]
  sub eax, offset 1b
  OBS string.first, xax
  mov eax, [trace + 4]
  sub eax, offset 1b
  OBS string.second, xax
  mov eax, [trace + 8]
  sub eax, offset 2b
  OBS string.third, xax
  STAGE branch
  RESET
  STEP_ON
1:
  jmp 3f
  nop
3:
  STEP_OFF
  mov eax, [trace]
  sub eax, offset 3b
  OBS branch.first, xax

// ## Instructions that look at the flags
//
// PUSHF under a trap shows the flag set. The handler runs with it clear, or it would trap itself.

  STAGE flags
  RESET
  STEP_ON
  pushf
  STEP_OFF
  pop xax
  and eax, TF
  OBS pushf.tf, xax
  mov eax, [handler_flags]
  and eax, TF
  OBS handler.tf, xax

// ## The shadow of a stack switch
//
// A trap between loading SS and loading the stack pointer would find half a stack. So MOV SS holds the trap back until after the next instruction.

  STAGE shadow
  RESET
  mov eax, KDATA
  STEP_ON
1:
  mov ss, eax // no trap here
  nop // one here
2:
  STEP_OFF
  mov eax, [trace]
  sub eax, offset 2b
  OBS shadow.first, xax

// ## An instruction that the hypervisor emulates
//
// CPUID always leaves guest mode, port I/O usually. The trap must come all the same, after it and once.

  STAGE emulated
  RESET
  xor eax, eax
  STEP_ON
1:
  cpuid
2:
  STEP_OFF
  mov eax, [trace]
  sub eax, offset 2b
  OBS cpuid.first, xax
  RESET
  mov edx, COM1 + 5
  STEP_ON
1:
  in al, dx
2:
  STEP_OFF
  mov eax, [trace]
  sub eax, offset 2b
  OBS in.first, xax

// ## INT n clears the flag for its handler
//
// The step after INT n is the first instruction *outside*: the handler is not stepped, and IRET brings the flag back too late to trap on itself.

  STAGE int
  mov eax, offset plain_return
  mov [GATE(0x20)], ax
  shr eax, 16
  mov [GATE(0x20) + 6], ax
  RESET
  STEP_ON
1:
  int 0x20
2:
  nop
3:
  STEP_OFF
  mov eax, [trace]
  sub eax, offset 2b
  OBS int.first, xax

// ## Hardware breakpoints
//
// Four addresses, each for execution, writes, or any access. A breakpoint on execution is a fault: it comes before. RF in the saved flags lets the
// instruction run when the handler returns. One on data is a trap: it comes after.

  STAGE breakpoints
  RESET
  mov eax, offset 2f
  mov dr0, xax
  mov eax, offset target
  mov dr1, xax
  mov eax, 0x00d0070a // DR0: execute. DR1: write, four bytes. Enabled, with exact matching
  mov dr7, xax
1:
  nop
2:
  nop
  mov eax, [steps]
  OBS execute.count, xax
  mov eax, [trace]
  sub eax, offset 2b
  OBS execute.ip, xax
  mov eax, [dr6_seen]
  and eax, 0xf
  OBS execute.dr6, xax
  mov eax, [saved_flags]
  and eax, 0x10000
  OBS execute.rf, xax
  RESET
  mov eax, [target] // reading is not watched
  mov eax, [steps]
  OBS data.read, xax
1:
  mov byte ptr [target + 3], 1
2:
  mov eax, [steps]
  OBS data.write, xax
  mov eax, [trace]
  sub eax, offset 2b
  OBS data.ip, xax
  mov eax, [dr6_seen]
  and eax, 0xf
  OBS data.dr6, xax
  xor eax, eax
  mov dr7, xax

// ## General detect
//
// DR7.GD guards the debug registers themselves: touching one is a fault, and the processor clears the bit so that the handler can.

  STAGE detect
  RESET
  mov eax, 0x2400
  mov dr7, xax
1:
  mov xax, dr3
  mov eax, [trace]
  sub eax, offset 1b
  OBS detect.ip, xax
  mov eax, [dr6_seen]
  and eax, 0x2000
  OBS detect.dr6, xax
  mov xax, dr7
  and eax, 0x2000
  OBS detect.dr7, xax
  DONE

// Notes the saved instruction pointer and DR6. On a fault of an execution breakpoint it sets RF, as a debugger does.

handler:
  push xax
  push xcx
  pushf
  pop xax
  mov [handler_flags], eax
  mov ecx, [steps]
  cmp ecx, STEPS
  jae 1f
  mov xax, [xsp + WORD_BYTES * 2]
  mov [trace + xcx * 4], eax
1:
  inc dword ptr [steps]
  mov xax, dr6
  mov [dr6_seen], eax
  mov xax, [xsp + WORD_BYTES * 4]
  mov [saved_flags], eax
  mov eax, 0xffff0ff0
  mov dr6, xax
  test byte ptr [dr6_seen], 1
  jz 2f
  or dword ptr [xsp + WORD_BYTES * 4], 0x10000
2:
  pop xcx
  pop xax
  IRET
plain_return:
  nop
  IRET

.data
.balign 4
source: .byte 1, 2, 3, 4
.bss
.balign 8
target: .skip 8
steps: .skip 4
dr6_seen: .skip 4
handler_flags: .skip 4
saved_flags: .skip 4
trace: .skip STEPS * 4
