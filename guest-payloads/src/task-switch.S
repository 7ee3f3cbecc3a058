// # Tasks in hardware
//
// A far jump or call to a task-state segment, an interrupt through a task gate, and IRET with NT set, all change every register at once. Two tasks here:
// A, which is the payload, and B, which looks around, writes down what it sees, and returns the way it is told to.

#include "rb.inc"
BEGIN
.globl main

#define TSS_B SPARE
#define TSS_C (SPARE + 8)
#define GATE_B (SPARE + 16)
#define ODD (SPARE + 32)

// Offsets in a 32-bit TSS.
#define T_LINK 0
#define T_ESP0 4
#define T_SS0 8
#define T_CR3 28
#define T_EIP 32
#define T_EFLAGS 36
#define T_EAX 40
#define T_EBX 52
#define T_ESP 56
#define T_ES 72
#define T_CS 76
#define T_SS 80
#define T_DS 84
#define T_FS 88
#define T_GS 92
#define T_LDT 96
#define T_TRAP 100
#define T_MAP 102

#define NT 0x4000
#define AVAILABLE 0x89
#define IDT_GATE(vector) (rb_idt + (vector) * 8)

// How B returns.
#define BY_JUMP 0
#define BY_IRET 1
#define BY_IRET_FROM_FAULT 2

.macro TSS_DESCRIPTOR selector, at, limit, access
  mov eax, offset \at
  mov word ptr [rb_gdt + \selector], \limit
  mov [rb_gdt + \selector + 2], ax
  shr eax, 16
  mov [rb_gdt + \selector + 4], al
  mov byte ptr [rb_gdt + \selector + 5], \access
  mov byte ptr [rb_gdt + \selector + 6], 0
  mov [rb_gdt + \selector + 7], ah
.endm

// B as it starts: known registers, its own stack.
make_b:
  mov edi, offset tss_b
  xor eax, eax
  mov ecx, 26
  rep stosd
  mov dword ptr [tss_b + T_ESP0], offset stack_b
  mov dword ptr [tss_b + T_SS0], KDATA
  mov eax, cr3
  mov [tss_b + T_CR3], eax
  mov dword ptr [tss_b + T_EIP], offset task_b
  mov dword ptr [tss_b + T_EFLAGS], 0x8d7 // every arithmetic flag
  mov dword ptr [tss_b + T_EAX], 0xaaaaaaaa
  mov dword ptr [tss_b + T_EBX], 0xbbbbbbbb
  mov dword ptr [tss_b + T_ESP], offset stack_b
.irp segment, T_ES, T_SS, T_DS, T_FS, T_GS
  mov dword ptr [tss_b + \segment], KDATA
.endr
  mov dword ptr [tss_b + T_CS], KCODE32
  mov word ptr [tss_b + T_MAP], 104
  TSS_DESCRIPTOR TSS_B, tss_b, 103, AVAILABLE
  ret

// After a fault in the middle of a switch: A is the current task again.
recover:
  clts
  and byte ptr [rb_gdt + TSS + 5], ~2
  mov eax, TSS
  ltr ax
  mov eax, KDATA
  mov ds, eax
  mov es, eax
  mov fs, eax
  mov gs, eax
  xor eax, eax
  lldt ax
  jmp make_b

.macro TYPE name, selector
  movzx eax, byte ptr [rb_gdt + \selector + 5]
  OBS \name, eax
.endm

// What B saw.
.macro REPORT name
  OBS \name\().tr, dword ptr [b_tr]
  OBS \name\().flags, dword ptr [b_flags]
  OBS \name\().ts, dword ptr [b_ts]
  OBS \name\().types, dword ptr [b_types]
  OBS \name\().link, dword ptr [b_link]
  OBS \name\().eax, dword ptr [b_eax]
  OBS \name\().stack, dword ptr [b_stack]
.endm

main:
  call make_b

// ## A jump
//
// The old task becomes available, the new one busy; there is no way back but another jump.

  STAGE jump
  mov dword ptr [b_way], BY_JUMP
  mov ebx, 0x12345678
  mov eax, 0x87654321
  stc
  ljmp TSS_B, 0
1:
  PUSHF
  pop ecx
  mov [a_eax], eax
  REPORT jump
  OBS jump.back.eax, dword ptr [a_eax]
  OBS jump.back.ebx, ebx
  and ecx, 0x4001
  OBS jump.back.flags, ecx
  mov eax, [rb_tss + T_EIP]
  sub eax, offset 1b
  OBS jump.saved.eip, eax
  OBS jump.saved.eax, dword ptr [rb_tss + T_EAX]
  movzx eax, word ptr [rb_tss + T_DS]
  OBS jump.saved.ds, eax
  mov eax, [rb_tss + T_ESP]
  sub eax, esp
  OBS jump.saved.esp, eax
  TYPE jump.back.a, TSS
  TYPE jump.back.b, TSS_B
  mov eax, cr0
  and eax, 8
  OBS jump.back.ts, eax
  clts

// ## A call, and the way back
//
// The caller stays busy, the link says who it is, and NT in the flags of the new task makes its IRET a task switch. That IRET clears NT in the image that it
// leaves behind: the next time, B starts where it left off.

  STAGE call
  mov dword ptr [b_way], BY_IRET
  call make_b
  lcall TSS_B, 0
  PUSHF
  pop ecx
  REPORT call
  and ecx, NT
  OBS call.back.nt, ecx
  TYPE call.back.a, TSS
  TYPE call.back.b, TSS_B
  mov eax, [tss_b + T_EFLAGS]
  and eax, NT
  OBS call.saved.nt, eax
  mov eax, [tss_b + T_EIP]
  sub eax, offset after_iret
  OBS call.saved.eip, eax
  mov dword ptr [tss_b + T_EAX], 0xcccccccc
  lcall TSS_B, 0 // once more
  REPORT again
  clts

// ## Interrupts and exceptions through a task gate

  STAGE gate
  call make_b
  mov dword ptr [rb_gdt + GATE_B], TSS_B << 16
  mov dword ptr [rb_gdt + GATE_B + 4], 0x8500
  lcall GATE_B, 0x7777 // the offset is not looked at
  REPORT gate.call
  clts
  call make_b
  mov dword ptr [IDT_GATE(0x21)], TSS_B << 16
  mov dword ptr [IDT_GATE(0x21) + 4], 0x8500
  int 0x21
  REPORT gate.int
  clts
  call make_b
  mov eax, [IDT_GATE(13)]
  mov edx, [IDT_GATE(13) + 4]
  mov [saved_gate], eax
  mov [saved_gate + 4], edx
  mov dword ptr [IDT_GATE(13)], TSS_B << 16
  mov dword ptr [IDT_GATE(13) + 4], 0x8500
  mov dword ptr [b_way], BY_IRET_FROM_FAULT
  mov dword ptr [b_continue], offset 2f
  mov eax, 0x1003
1:
  mov es, eax
2:
  mov eax, [b_eip]
  sub eax, offset 1b
  REPORT gate.fault
  OBS gate.fault.eip, eax
  OBS gate.fault.error, dword ptr [b_error]
  clts
  mov eax, [saved_gate]
  mov edx, [saved_gate + 4]
  mov [IDT_GATE(13)], eax
  mov [IDT_GATE(13) + 4], edx

// From ring 3, through a gate that is open to it.

  call make_b
  mov dword ptr [b_way], BY_IRET
  mov byte ptr [rb_gdt + GATE_B + 5], 0xe5
  PROBE
  TO_RING3
  lcall RPL3(GATE_B), 0
1:
  int 0x30
  CAUGHT gate.ring3
  REPORT gate.ring3
  call recover
  mov byte ptr [rb_gdt + GATE_B + 5], 0x85
  PROBE
  TO_RING3
1: lcall RPL3(GATE_B), 0
  CAUGHT3 gate.dpl
  PROBE
  TO_RING3
1: lcall RPL3(TSS_B), 0
  CAUGHT3 tss.dpl

// ## Address spaces

  STAGE spaces
  mov eax, cr4
  or eax, 0x10 // PSE
  mov cr4, eax
  mov dword ptr [directory_a], 0x87
  mov dword ptr [directory_b], 0x87
  mov dword ptr [directory_a + 0x400], offset table_a + 7
  mov dword ptr [directory_b + 0x400], offset table_b + 7
  mov dword ptr [table_a], offset frame_a + 7
  mov dword ptr [table_b], offset frame_b + 7
  mov dword ptr [frame_a], 0xa
  mov dword ptr [frame_b], 0xb
  mov eax, offset directory_a
  mov cr3, eax
  mov [rb_tss + T_CR3], eax
  mov eax, cr0
  or eax, 0x80000000
  mov cr0, eax
  call make_b
  mov dword ptr [tss_b + T_CR3], offset directory_b
  mov dword ptr [tss_b + T_EIP], offset look_b
  mov ecx, [0x40000000]
  lcall TSS_B, 0
  OBS space.a, ecx
  OBS space.b, dword ptr [b_eax]
  OBS space.back, [0x40000000]
  mov eax, [rb_tss + T_CR3] // is not saved by a switch
  sub eax, offset directory_a
  OBS space.saved, eax
  mov eax, cr0
  and eax, 0x7fffffff
  mov cr0, eax
  clts

// ## Sixteen bits
//
// The segment of the 80286 has 44 bytes, and room for the lower halves of the registers.

  STAGE sixteen
  mov edi, offset tss_c
  xor eax, eax
  mov ecx, 11
  rep stosd
  mov word ptr [tss_c + 14], offset task_c
  mov word ptr [tss_c + 16], 2
  mov word ptr [tss_c + 18], 0x1a1a // AX
  mov word ptr [tss_c + 26], 0x7e00 // SP
  mov word ptr [tss_c + 34], DATA16_SELECTOR
  mov word ptr [tss_c + 36], KCODE16
  mov word ptr [tss_c + 38], DATA16_SELECTOR
  mov word ptr [tss_c + 40], DATA16_SELECTOR
  TSS_DESCRIPTOR TSS_C, tss_c, 43, 0x81
  lcall TSS_C, 0
  movzx eax, word ptr [c_seen]
  OBS sixteen.ax, eax
  movzx eax, word ptr [c_seen + 2]
  OBS sixteen.tr, eax
  movzx eax, word ptr [c_seen + 4]
  OBS sixteen.nt, eax
  movzx eax, word ptr [tss_c]
  OBS sixteen.link, eax
  movzx eax, word ptr [tss_c + 18]
  OBS sixteen.saved.ax, eax
  movzx eax, byte ptr [rb_gdt + TSS_C + 5]
  OBS sixteen.type, eax
  clts

// ## Switches that are refused
//
// Before the switch: the fault is the old task's, and nothing has changed. After it: the new task's, at its first instruction.

  STAGE refused
  PROBE
1: ljmp TSS, 0 // the current task is busy
  CAUGHT busy
  mov byte ptr [rb_gdt + TSS_B + 5], AVAILABLE & 0x7f
  PROBE
1: ljmp TSS_B, 0
  CAUGHT not.present
  mov byte ptr [rb_gdt + TSS_B + 5], AVAILABLE
  mov word ptr [rb_gdt + TSS_B], 102
  PROBE
1: ljmp TSS_B, 0
  CAUGHT short
  mov word ptr [rb_gdt + TSS_B], 103
  PROBE
1: ljmp TSS_B | 4, 0 // in the local table
  CAUGHT local
  PROBE
1: lcall 0x100, 0
  CAUGHT outside
  mov dword ptr [rb_gdt + GATE_B], 0
  PROBE
1: lcall GATE_B, 0
  CAUGHT gate.null
  mov dword ptr [rb_gdt + GATE_B], KDATA << 16
  PROBE
1: lcall GATE_B, 0
  CAUGHT gate.data
  mov dword ptr [rb_gdt + GATE_B], TSS << 16
  PROBE
1: lcall GATE_B, 0
  CAUGHT gate.busy
  mov dword ptr [rb_gdt + GATE_B], TSS_B << 16
  mov byte ptr [rb_gdt + GATE_B + 5], 5
  PROBE
1: lcall GATE_B, 0
  CAUGHT gate.absent
.macro NESTED_RETURN name, link
  mov word ptr [rb_tss], \link
  PROBE
  push NT | 2
  popfd
1: iretd
  CAUGHT \name
  str ax
  movzx eax, ax
  OBS \name\().tr, eax
.endm
  NESTED_RETURN iret.null, 0
  NESTED_RETURN iret.available, TSS_B // not busy
  NESTED_RETURN iret.data, KDATA
  NESTED_RETURN iret.local, TSS_B | 4
  mov word ptr [rb_tss], 0
.macro REFUSED name, field, value
  call make_b
  mov dword ptr [tss_b + \field], \value
  PROBE
1: ljmp TSS_B, 0
  RESUME
  OBS \name\().vector, dword ptr [trap_vector]
  OBS \name\().error, dword ptr [trap_error]
  mov eax, [trap_ip]
  sub eax, offset task_b
  OBS \name\().ip, eax
  str ax
  movzx eax, ax
  OBS \name\().tr, eax
  call recover
.endm
  STAGE segments
  REFUSED ds.outside, T_DS, 0x200
  REFUSED ds.code, T_ES, TSS
  DESCRIPTOR ODD, 0, 0xfffff, 0x13, 0xc // data, not present
  REFUSED fs.absent, T_FS, ODD
  call make_b // nothing is wrong with a null selector: B runs, and comes back
  mov dword ptr [tss_b + T_GS], 0
  mov dword ptr [b_tr], 0
  mov dword ptr [b_way], BY_JUMP
  ljmp TSS_B, 0
  OBS gs.null, dword ptr [b_tr]
  clts

// ## The trap bit

  STAGE trap
  call make_b
  mov byte ptr [tss_b + T_TRAP], 1
  PROBE
1: ljmp TSS_B, 0
  RESUME
  OBS trap.vector, dword ptr [trap_vector]
  mov eax, [trap_ip]
  sub eax, offset task_b
  OBS trap.ip, eax // before the first instruction of B
  mov eax, dr6
  and eax, 0xe00f
  OBS trap.dr6, eax
  xor eax, eax
  mov dr6, eax
  call recover
  DONE

task_b:
  mov [b_eax], eax
  PUSHF
  pop dword ptr [b_flags]
  mov eax, cr0
  and eax, 8
  mov [b_ts], eax
  str ax
  movzx eax, ax
  mov [b_tr], eax
  movzx eax, byte ptr [rb_gdt + TSS_B + 5]
  mov ah, [rb_gdt + TSS + 5]
  mov [b_types], eax
  movzx eax, word ptr [tss_b]
  mov [b_link], eax
  mov eax, offset stack_b
  sub eax, esp
  mov [b_stack], eax
  clts
  cmp dword ptr [b_way], BY_JUMP
  je 1f
  cmp dword ptr [b_way], BY_IRET
  je 2f
  pop dword ptr [b_error]
  mov eax, [b_continue]
  xchg eax, [rb_tss + T_EIP]
  mov [b_eip], eax
2:
  iretd
after_iret:
  jmp task_b
1:
  ljmp TSS, 0
  jmp task_b

look_b:
  mov eax, [0x40000000]
  mov [b_eax], eax
  iretd

LOW_TEXT
CODE16
task_c:
  mov ds:[c_seen], ax
  str ax
  mov ds:[c_seen + 2], ax
  pushf
  pop ax
  and ax, NT
  mov ds:[c_seen + 4], ax
  mov ax, 0x2b2b
  iret

LOW_DATA
.balign 4
c_seen: .word 0, 0, 0, 0

.bss
.balign 16
tss_b: .skip 104
tss_c: .skip 44
.balign 4
b_way: .skip 4
b_eax: .skip 4
b_flags: .skip 4
b_ts: .skip 4
b_tr: .skip 4
b_types: .skip 4
b_link: .skip 4
b_stack: .skip 4
b_error: .skip 4
b_eip: .skip 4
b_continue: .skip 4
a_eax: .skip 4
saved_gate: .skip 8
.balign 16
  .skip 1024
stack_b: .skip 64
.balign 4096
directory_a: .skip 4096
directory_b: .skip 4096
table_a: .skip 4096
table_b: .skip 4096
frame_a: .skip 4096
frame_b: .skip 4096
