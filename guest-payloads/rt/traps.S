// # Exceptions as observations
//
// Installs an interrupt descriptor table in which every gate leads to one routine. The routine writes down what the processor pushed and
// continues where the payload asked. An exception that nobody asked for ends the payload with its vector and address: a payload that dies says
// why.

#include "rb.inc"

#if MODE == 32
.section .text.traps32, "ax"
CODE32
#else
.section .text.traps64, "ax"
CODE64
#endif

// ## One entry point for each vector
//
// The processor does not tell a handler which vector it serves, nor whether an error code was pushed. So every vector has its own few bytes that
// push what is missing. Eight of the first 32 vectors come with an error code already on the stack; this is the set, one bit each.

#define HAS_ERROR_CODE ((1 << 8) | (1 << 10) | (1 << 11) | (1 << 12) | (1 << 13) | (1 << 14) | (1 << 17) | (1 << 21))
#define VECTORS 64

.balign 16
trap_entries:
.set vector, 0
.rept VECTORS
  .balign 16
  .if !((vector < 32) && ((HAS_ERROR_CODE >> vector) & 1))
    push 0
  .endif
  push vector
  jmp trap_common
  .set vector, vector + 1
.endr

// ## Writing it down
//
// Stack, from the top: vector, error code, instruction pointer, CS, flags; then stack pointer and SS if the privilege changed (in 64-bit mode
// always). The first thing to do is to get segments that can be relied on: ring 3 may have loaded its own.

trap_common:
  push xax
  mov eax, KDATA
  mov ds, eax
  mov es, eax
  cmp xword ptr [trap_resume], 0
  je unexpected
  mov xax, [xsp + WORD_BYTES]
  mov [trap_vector], xax
  mov xax, [xsp + WORD_BYTES * 2]
  mov [trap_error], xax
  mov xax, [xsp + WORD_BYTES * 3]
  mov [trap_ip], xax
  mov xax, [xsp + WORD_BYTES * 4]
  mov [trap_cs], xax
  mov xax, [xsp + WORD_BYTES * 5]
  mov [trap_flags], xax
  lea xax, [xsp + WORD_BYTES * 3]
  mov [trap_frame], xax
  mov xax, cr2
  mov [trap_cr2], xax
  pop xax
  // Back to the place that PROBE chose, with its stack. The gate has cleared IF and TF already; NT and AC go here.
  mov xsp, [trap_sp]
  push xax
  mov eax, KDATA
  mov ss, eax
  pop xax
  push 2
  popf
  push xword ptr [trap_resume]
  mov xword ptr [trap_resume], 0
  ret

unexpected:
  mov xax, [xsp + WORD_BYTES]
  mov esi, offset unexpected_text
  call M(rb_puts)
  call M(rb_hex)
  mov esi, offset error_text
  call M(rb_puts)
  mov xax, [xsp + WORD_BYTES * 2]
  call M(rb_hex)
  mov esi, offset at_text
  call M(rb_puts)
  mov xax, [xsp + WORD_BYTES * 3]
  call M(rb_hex)
  mov esi, offset newline_text
  jmp M(rb_abort)

// ## The report of CAUGHT

.globl M(rb_caught)
M(rb_caught): // xsi: name, xbx: address of label 1; keeps everything
  push xax
  mov xword ptr [trap_resume], 0
  mov xax, [trap_vector]
  call field_vector
  cmp eax, NO_TRAP
  je 1f
  cmp eax, 31
  ja 2f
  push xcx
  mov ecx, eax
  mov eax, HAS_ERROR_CODE
  bt eax, ecx
  pop xcx
  jnc 2f
  mov xax, [trap_error]
  call field_error
2:
  mov xax, [trap_ip]
  sub xax, xbx
  call field_ip
1:
  pop xax
  ret

field_vector:
  push xdi
  mov edi, offset vector_suffix
  jmp field
field_error:
  push xdi
  mov edi, offset error_suffix
  jmp field
field_ip:
  push xdi
  mov edi, offset ip_suffix
field: // xsi: name, xdi: suffix, xax: value
  push xsi
  mov esi, offset obs_start
  call M(rb_puts)
  mov xsi, [xsp]
  call M(rb_puts)
  mov xsi, xdi
  call M(rb_puts)
  call M(rb_hex)
  mov esi, offset newline_text
  call M(rb_puts)
  pop xsi
  pop xdi
  ret

// ## Building the table
//
// A gate scatters the handler's address over the descriptor, which no linker relocation can do; so the table is made at run time. Gates 3, 4
// and 0x30 may be called from ring 3: the first two for INT3 and INTO, the third is how a ring-3 probe says that it came through.

#if MODE == 32
#define GATE_BYTES 8
#define GATE_SELECTOR KCODE32
#else
#define GATE_BYTES 16
#define GATE_SELECTOR KCODE64
#endif

.globl M(rb_traps)
M(rb_traps): // clobbers xax, xcx, xdi
  mov edi, offset rb_idt
  mov eax, offset trap_entries
  xor ecx, ecx
1:
  mov [xdi], ax
  mov word ptr [xdi + 2], GATE_SELECTOR
  mov word ptr [xdi + 4], 0x8e00 // present, DPL 0, interrupt gate
  cmp ecx, 3
  je 2f
  cmp ecx, 4
  je 2f
  cmp ecx, 0x30
  jne 3f
2:
  or word ptr [xdi + 4], 0x6000 // DPL 3
3:
  push xax
  shr eax, 16
  mov [xdi + 6], ax
#if MODE == 64
  mov qword ptr [rdi + 8], 0
#endif
  pop xax
  add edi, GATE_BYTES
  add eax, 16
  inc ecx
  cmp ecx, VECTORS
  jb 1b
  lidt [M(rb_idt_pointer)]
  ret

.section .rodata.traps, "a"
unexpected_text: .asciz "RB1 abort traps.S:0 unexpected vector "
error_text: .asciz " error "
at_text: .asciz " at "
newline_text: .asciz "\n"
obs_start: .asciz "RB1 obs "
vector_suffix: .asciz ".vector "
error_suffix: .asciz ".error "
ip_suffix: .asciz ".ip "
.balign 8
.globl M(rb_idt_pointer)
M(rb_idt_pointer):
  .word VECTORS * GATE_BYTES - 1
  .long rb_idt, 0
