// # Workloads: the ways in
//
// From ring 3 to ring 0 and back by a gate and by the instructions that were made for it, and from the processor to a device by a port and by memory.

#include "bench.h"

#define CALLS 512
#define KCODE32 0x08
#define KDATA 0x10
#define UCODE32 0x18
#define UDATA 0x20
#define UCODE64 0x28
#define KCODE64 0x38
#define RPL3 "3"

extern u8 rb_idt[], rb_tss[], rb_trap_stack[], rb_user_stack[];

// ## To ring 3 and back
//
// `in_ring3` goes to a program in ring 3 with a count in ESI and a number in EBX. INT 0x81 is the program's way to end: it brings the kernel back to
// where it was. The system call under test adds the count to the number.

u32 in_ring3(void (*program)(void), word count);
void by_gate(void), by_instruction(void), gate_entry(void), instruction_entry(void), leave_ring3(void);
word kernel_sp;

#if MODE == 32
asm(".text\n"
    "in_ring3:\n"
    "  pushl %ebp\n  pushl %edi\n  pushl %esi\n  pushl %ebx\n"
    "  movl 20(%esp), %eax\n  movl 24(%esp), %esi\n  xorl %ebx, %ebx\n"
    "  movl %esp, kernel_sp\n"
    "  pushl $0x23\n  pushl $rb_user_stack\n  pushl $2\n  pushl $0x1b\n  pushl %eax\n"
    "  iretl\n"
    "leave_ring3:\n"
    "  movl $0x10, %eax\n  movl %eax, %ds\n  movl %eax, %es\n"
    "  movl kernel_sp, %esp\n  movl %ebx, %eax\n"
    "  popl %ebx\n  popl %esi\n  popl %edi\n  popl %ebp\n  ret\n"

    "by_gate:\n"
    "  movl $0x23, %eax\n  movl %eax, %ds\n  movl %eax, %es\n" // IRET has taken away what ring 3 may not have
    "1: movl $1, %eax\n  int $0x80\n  decl %esi\n  jnz 1b\n  int $0x81\n"
    "gate_entry:\n"
    "  pushl %ecx\n  pushl %edx\n  cmpl $2, %eax\n  jae 2f\n  call *table(,%eax,4)\n2: popl %edx\n  popl %ecx\n  iretl\n"

    "by_instruction:\n"
    "  movl $0x23, %eax\n  movl %eax, %ds\n  movl %eax, %es\n"
    "1: movl $1, %eax\n  movl %esp, %ecx\n  movl $3f, %edx\n  sysenter\n3: decl %esi\n  jnz 1b\n  int $0x81\n"
    "instruction_entry:\n"
    "  pushl %ecx\n  pushl %edx\n  cmpl $2, %eax\n  jae 2f\n  call *table(,%eax,4)\n2: popl %edx\n  popl %ecx\n  sysexit\n"

    "nothing: ret\n"
    "add: addl %esi, %ebx\n  roll $3, %ebx\n  ret\n"
    ".section .rodata\n.balign 8\ntable: .long nothing, add\n.text\n");
#else
asm(".text\n"
    "in_ring3:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  xorl %ebx, %ebx\n"
    "  movq %rsp, kernel_sp\n"
    "  pushq $0x23\n  pushq $rb_user_stack\n  pushq $2\n  pushq $0x2b\n  pushq %rdi\n"
    "  iretq\n"
    "leave_ring3:\n"
    "  movq kernel_sp, %rsp\n  movl %ebx, %eax\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"

    "by_gate:\n"
    "1: movl $1, %eax\n  int $0x80\n  decl %esi\n  jnz 1b\n  int $0x81\n"
    "gate_entry:\n"
    "  pushq %rcx\n  pushq %rdx\n  cmpl $2, %eax\n  jae 2f\n  call *table(,%rax,8)\n2: popq %rdx\n  popq %rcx\n  iretq\n"

    "by_instruction:\n"
    "1: movl $1, %eax\n  syscall\n  decl %esi\n  jnz 1b\n  int $0x81\n"
    "instruction_entry:\n" // the stack is still the program's
    "  movq %rsp, user_sp\n  movl $rb_trap_stack, %esp\n"
    "  pushq %rcx\n  pushq %r11\n  cmpl $2, %eax\n  jae 2f\n  call *table(,%rax,8)\n2: popq %r11\n  popq %rcx\n"
    "  movq user_sp, %rsp\n  sysretq\n"

    "nothing: ret\n"
    "add: addl %esi, %ebx\n  roll $3, %ebx\n  ret\n"
    ".section .rodata\n.balign 8\ntable: .quad nothing, add\n"
    ".bss\n.balign 8\nuser_sp: .skip 8\n.text\n");
#endif

#if MODE == 64
#define GATE_BYTES 16
#define SELECTOR KCODE64
#else
#define GATE_BYTES 8
#define SELECTOR KCODE32
#endif

static void gate(u32 vector, void (*entry)(void)) {
  volatile u16 *at = (volatile u16 *)(rb_idt + vector * GATE_BYTES);
  at[0] = (u16)(word)entry;
  at[1] = SELECTOR;
  at[2] = 0xee00; // present, for ring 3, an interrupt gate
  at[3] = (u16)((word)entry >> 16);
}
static void prepare_gates(void) {
  static struct {
    u16 limit;
    word base;
  } __attribute__((packed)) pointer;
  gate(0x80, gate_entry);
  gate(0x81, leave_ring3);
  pointer.limit = 256 * GATE_BYTES - 1;
  pointer.base = (word)rb_idt;
  asm volatile("lidt %0" : : "m"(pointer));
}
static u32 interrupts(void) {
  return in_ring3(by_gate, CALLS);
}

// ## SYSENTER in 32-bit code, SYSCALL in 64-bit code

static void prepare_calls(void) {
  prepare_gates();
#if MODE == 32
  write_msr(0x174, KCODE32);
  write_msr(0x175, (word)rb_trap_stack);
  write_msr(0x176, (word)instruction_entry);
#else
  write_msr(0xc0000080, read_msr(0xc0000080) | 1);
  write_msr(0xc0000081, (u64)(UCODE32 | 3) << 48 | (u64)KCODE64 << 32);
  write_msr(0xc0000082, (word)instruction_entry);
  write_msr(0xc0000084, 0x700);
#endif
}
static u32 system_calls(void) {
  return in_ring3(by_instruction, CALLS);
}

// ## Ports and devices
//
// Port 0x80 is where firmware shows how far it has come, and where old drivers write to when they want to wait a little. At the address of the memory access nothing
// lives; what a read gives there differs from machine to machine and is not looked at.

static u32 ports(void) {
  u32 count = 0;
  for (u32 i = 0; i < 1024; i++) {
    asm volatile("outb %b0, $0x80" : : "a"(i));
    count++;
  }
  return count;
}
static u32 devices(void) {
  volatile u32 *at = (volatile u32 *)0xfeb00000ul;
  u32 count = 0;
  for (u32 i = 0; i < 512; i++) {
    at[i & 15] = i;
    (void)at[i & 15];
    count++;
  }
  return count;
}

static const struct workload workloads[] = {
  {"int80", interrupts, prepare_gates, 0},
  {MODE == 32 ? "sysenter" : "syscall", system_calls, prepare_calls, 0},
  {"port-io", ports, 0, 0},
  {"mmio", devices, 0, 0},
};
_Noreturn void main(void) {
  MEASURE(workloads);
}
