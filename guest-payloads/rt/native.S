// # A payload as a program of the host
//
// What a payload observes of the instruction set alone does not need a bare machine. With this file in front of the runtime the same source is a
// program for Linux: its bytes go to standard output, its exceptions arrive as signals, and what it says is what the real processor does.
//
// The linker takes the first definition of a symbol, so the ones here replace those of the runtime that talk to a serial port.

#include "rb.inc"

#if MODE == 64
#define SYS_WRITE 1
#define SYS_RT_SIGACTION 13
#define SYS_RT_SIGRETURN 15
#define SYS_EXIT 60
#define CONTEXT(index) (40 + 8 * (index)) // general registers in a signal's context
#define CONTEXT_SP CONTEXT(15)
#define CONTEXT_IP CONTEXT(16)
#define CONTEXT_FLAGS CONTEXT(17)
#define CONTEXT_ERROR CONTEXT(19)
#define CONTEXT_VECTOR CONTEXT(20)
#define CONTEXT_CR2 CONTEXT(22)
#else
#define SYS_WRITE 4
#define SYS_RT_SIGACTION 174
#define SYS_RT_SIGRETURN 173
#define SYS_EXIT 1
#define CONTEXT(index) (20 + 4 * (index))
#define CONTEXT_SP CONTEXT(7)
#define CONTEXT_IP CONTEXT(14)
#define CONTEXT_FLAGS CONTEXT(16)
#define CONTEXT_ERROR CONTEXT(13)
#define CONTEXT_VECTOR CONTEXT(12)
#define CONTEXT_CR2 CONTEXT(21)
#endif
#define SA_FLAGS 0x44000004 // SA_SIGINFO, SA_RESTORER, SA_NODEFER

.text
#if MODE == 64
CODE64
#else
CODE32
#endif

.macro SYSTEM number, first, second, third, fourth
#if MODE == 64
  mov eax, \number
  mov rdi, \first
  mov rsi, \second
  mov rdx, \third
  mov r10, \fourth
  syscall
#else
  mov eax, \number
  mov ebx, \first
  mov ecx, \second
  mov edx, \third
  mov esi, \fourth
  int 0x80
#endif
.endm

.globl _start
_start:
  mov ebx, offset signals
1:
  push xbx
  movzx edi, byte ptr [xbx]
  SYSTEM SYS_RT_SIGACTION, xdi, "offset action", 0, 8
  pop xbx
  inc ebx
  cmp byte ptr [xbx], 0
  jne 1b
  jmp main

// ## An exception
//
// The context of a signal holds what the processor pushed. The payload continues where its probe says, when the context is restored.

on_signal:
#if MODE == 32
  mov edx, [esp + 12]
#endif
  cmp xword ptr [trap_resume], 0
  je unexpected
  mov xax, [xdx + CONTEXT_VECTOR]
  mov [trap_vector], xax
  mov xax, [xdx + CONTEXT_ERROR]
  mov [trap_error], xax
  mov xax, [xdx + CONTEXT_CR2]
  mov [trap_cr2], xax
  mov xax, [xdx + CONTEXT_FLAGS]
  mov [trap_flags], xax
  mov xword ptr [xdx + CONTEXT_FLAGS], 2
  mov xax, [xdx + CONTEXT_IP]
  mov [trap_ip], xax
  mov xax, [trap_resume]
  mov [xdx + CONTEXT_IP], xax
  mov xax, [trap_sp]
  mov [xdx + CONTEXT_SP], xax
  mov xword ptr [trap_resume], 0
  ret
unexpected:
  mov xax, [xdx + CONTEXT_VECTOR]
  mov xbx, [xdx + CONTEXT_IP]
  mov esi, offset unexpected_text
  call M(rb_puts)
  call M(rb_hex)
  mov al, ' '
  call M(rb_putc)
  mov xax, xbx
  call M(rb_hex)
  mov esi, offset newline
  jmp M(rb_abort)

restore:
  mov eax, SYS_RT_SIGRETURN
#if MODE == 64
  syscall
#else
  int 0x80
#endif

// ## Output

.globl M(rb_putc), M(rb_last), M(rb_done), M(rb_abort)
M(rb_putc): // al; keeps everything
  pushf
  push xdi
  mov edi, [used]
  mov [xdi + output], al
  inc edi
  mov [used], edi
  pop xdi
  popf
  ret

M(rb_last): // xsi: the last line
  call M(rb_puts)
  SYSTEM SYS_WRITE, 1, "offset output", [used], 0
  ret

M(rb_done):
  mov esi, offset done_line
  call M(rb_last)
  SYSTEM SYS_EXIT, 0, 0, 0, 0
M(rb_abort):
  call M(rb_last)
  SYSTEM SYS_EXIT, 1, 0, 0, 0

.data
.balign 8
action: // the 32-bit structure has the same fields in half the width
#if MODE == 64
  .quad on_signal, SA_FLAGS, restore, 0
#else
  .long on_signal, SA_FLAGS, restore, 0, 0
#endif
signals: .byte 4, 5, 7, 8, 11, 0 // SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV
unexpected_text: .asciz "RB1 abort native.S:0 unexpected vector and address "
newline: .asciz "\n"
done_line: .asciz "RB1 done\n"

.bss
.balign 8
used: .skip 8
output: .skip 1 << 20
