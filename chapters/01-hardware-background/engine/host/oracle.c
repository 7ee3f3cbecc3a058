// Runs single instructions on the processor of the machine at hand, for comparison with the interpreter.
//
// usage: oracle CASES RESULTS
//
// Cases and results are arrays of the structures below. All cases share one data window, which is not reset between them. Code lies at CODE, filled up
// with INT3, and cannot be written by the instruction under test; the data window follows it; what lies around them is not mapped.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { CODE = 0x100000, CODE_BYTES = 0x1000, DATA = 0x101000, DATA_BYTES = 0x2000 };

struct test_case {
  uint32_t bits, length, offset, pad; // 64 or 32; bytes of code; where in the page it goes
  uint8_t code[16];
  uint64_t gpr[16], flags;
};
struct outcome {
  uint64_t gpr[16], rip, flags, signal, hash;
};

// Everything that the assembly below touches, at known offsets.
struct {
  uint64_t gpr[16];       // 0
  uint64_t flags;         // 128
  uint64_t target;        // 136: for a jump within 64-bit code
  uint64_t saved_rsp;     // 144
  uint32_t far_offset;    // 152: for a jump to 32-bit code
  uint16_t far_selector;  // 156
} cpu;

static struct outcome *now;
extern char resume[];

// Loads the registers and jumps. The signal handler comes back to `resume`.
__attribute__((naked, noinline)) static void enter(void) {
  __asm__ volatile(
      "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
      "mov %rsp, cpu+144(%rip)\n"
      "pushq cpu+128(%rip); popfq\n"
      "mov cpu+0(%rip), %rax; mov cpu+8(%rip), %rcx; mov cpu+16(%rip), %rdx; mov cpu+24(%rip), %rbx\n"
      "mov cpu+32(%rip), %rsp; mov cpu+40(%rip), %rbp; mov cpu+48(%rip), %rsi; mov cpu+56(%rip), %rdi\n"
      "mov cpu+64(%rip), %r8; mov cpu+72(%rip), %r9; mov cpu+80(%rip), %r10; mov cpu+88(%rip), %r11\n"
      "mov cpu+96(%rip), %r12; mov cpu+104(%rip), %r13; mov cpu+112(%rip), %r14; mov cpu+120(%rip), %r15\n"
      "jmp *cpu+136(%rip)\n"
      ".globl resume\nresume:\n"
      "cld\n"
      "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
      "ret\n");
}
__attribute__((naked, used)) static void far32(void) {
  __asm__ volatile("far32_jump: ljmp *cpu+152(%rip)\n");
}
extern char far32_jump[];

// The order of `gregs` on x86-64 Linux, by hardware register number.
static const int REG[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void handler(int signal, siginfo_t *info, void *context) {
  (void)info;
  ucontext_t *uc = context;
  greg_t *g = uc->uc_mcontext.gregs;
  for (int i = 0; i < 16; i++) now->gpr[i] = g[REG[i]];
  now->rip = g[REG_RIP];
  now->flags = g[REG_EFL];
  now->signal = signal;
  g[REG_RIP] = (greg_t)resume;
  g[REG_RSP] = cpu.saved_rsp;
  g[REG_EFL] &= ~0x40500ll;
  g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffll) | 0x33;
}

static uint64_t hash(const uint8_t *data, size_t bytes) {
  uint32_t h = 0x811c9dc5;
  const uint32_t *words = (const uint32_t *)data;
  for (size_t i = 0; i < bytes / 4; i++) h = (h ^ words[i]) * 0x01000193;
  return h;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  if (!in || !out) return 2;
  int memory = memfd_create("code", 0);
  if (memory < 0 || ftruncate(memory, CODE_BYTES)) return 2;
  uint8_t *writable = mmap(0, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  uint8_t *code = mmap((void *)(uintptr_t)CODE, CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, memory, 0);
  uint8_t *data = mmap((void *)(uintptr_t)DATA, DATA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (writable == MAP_FAILED || code != (void *)(uintptr_t)CODE || data != (void *)(uintptr_t)DATA) return 3;
  memset(writable, 0xcc, CODE_BYTES);
  uint32_t seed = 1;
  for (int i = 0; i < DATA_BYTES; i++) {
    seed = seed * 1664525 + 1013904223;
    data[i] = seed >> 24;
  }
  stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
  sigaltstack(&stack, 0);
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
  int signals[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS};
  for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, 0);

  struct test_case test;
  struct outcome outcome;
  while (fread(&test, sizeof test, 1, in) == 1) {
    memset(&outcome, 0, sizeof outcome);
    now = &outcome;
    memcpy(writable + test.offset, test.code, test.length);
    memcpy(cpu.gpr, test.gpr, sizeof cpu.gpr);
    cpu.flags = test.flags;
    if (test.bits == 32) {
      __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0x2b));
      cpu.far_offset = CODE + test.offset;
      cpu.far_selector = 0x23;
      cpu.target = (uint64_t)far32_jump;
    } else {
      cpu.target = CODE + test.offset;
    }
    enter();
    memset(writable + test.offset, 0xcc, test.length);
    outcome.hash = hash(data, DATA_BYTES);
    fwrite(&outcome, sizeof outcome, 1, out);
  }
  return fclose(out) ? 4 : 0;
}
