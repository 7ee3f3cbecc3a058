// Runs short pieces of code on the processor of the machine at hand, in user mode, and reports everything that they changed.
//
// usage: oracle CASES RESULTS
//
// CASES and RESULTS are files, mapped here, in the format of native.ts; a request is a count of cases on standard input, the answer is the same number
// on standard output. CASES begins with the description of the small world in which all cases live: local descriptors and the contents of the data
// pages. What a case changed there is reported and undone, so cases do not depend on each other.
//
// A case ends when it arrives at the bytes that follow its code (a jump back to here), or with a signal. A system call that it makes is not made: the
// kernel is told to turn it into a signal.
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

enum {
  PAGE = 0x1000,
  CODE = 0x100000, CODE_BYTES = 2 * PAGE,      // read and execute
  DATA = 0x103000, WRITABLE = 2 * PAGE,        // read and write; a page without anything lies on either side of the data
  DATA_BYTES = WRITABLE + PAGE,                // the last page is read-only
  CODE_MAX = 64, DESCRIPTORS = 16,
  // Where native.ts lets the bytes after the code jump to.
  POINTER = 0x7e570000,  // holds the address of `leave`, for 64-bit code
  LANDING = 0x7e571000,  // a jump to `leave`, in 64-bit code, for far jumps from 16- and 32-bit code
};

struct world {
  struct user_desc ldt[DESCRIPTORS];
  uint8_t data[DATA_BYTES];
};
struct test_case {
  uint32_t length, end, offset, pad0; // bytes of code, those before the jump back, where in the code pages they go
  uint16_t cs, ss, ds, es, fs, gs; // selectors to begin with
  uint16_t pad[2];
  uint64_t flags, fs_base, gs_base;
  uint8_t code[CODE_MAX];
  uint64_t gpr[16];
  uint8_t fx[512];
};
struct outcome {
  uint64_t gpr[16], rip, flags, fs_base, gs_base, cr2;
  uint32_t signal, vector, error, ticks;
  uint16_t cs, ss, ds, es, fs, gs, pad[2];
  uint32_t first, bytes; // what has changed in the data pages
  uint64_t changed;      // where in RESULTS the new contents are
  uint8_t fx[512];
};

// Everything that the assembly below touches.
static struct {
  uint64_t gpr[16];
  uint64_t rip, cs, flags, rsp, ss; // an interrupt's frame, to leave through
  uint64_t saved_rsp, saved_fs;
  uint64_t out_flags;
  uint32_t rip_cs[2]; // the same as a far pointer
  uint16_t ds, es, fs, gs;
  uint64_t fs_base, gs_base;
  uint8_t fx[512] __attribute__((aligned(64)));
} cpu __attribute__((aligned(64), used));
#define AT(field) [field] "i"(__builtin_offsetof(__typeof__(cpu), field))

static volatile uint8_t syscalls __attribute__((used)); // 0 allowed, 1 turned into SIGSYS
static volatile uint64_t case_number;
static volatile int disturbed; // a tick of the timer has come in the middle of the case
static struct outcome *now;
static uint64_t end_of_code;
static uint16_t case_cs;
static volatile int fsgsbase __attribute__((used));
extern char leave_here[], resume[], restorer[];

// Loads everything and returns from an interrupt that never was: that way the flags, TF among them, are loaded together with the jump.
__attribute__((naked, noinline)) static void enter(void) {
  __asm__ volatile(
      "push %%rbx; push %%rbp; push %%r12; push %%r13; push %%r14; push %%r15\n"
      "lea cpu(%%rip), %%rax\n"
      "mov %%rsp, %c[saved_rsp](%%rax)\n"
      "fxrstor64 %c[fx](%%rax)\n"
      "mov %c[ds](%%rax), %%ds; mov %c[es](%%rax), %%es; mov %c[fs](%%rax), %%fs; mov %c[gs](%%rax), %%gs\n"
      "cmpl $0, fsgsbase(%%rip); je 1f\n"
      "cmpw $0x33, %c[cs](%%rax); jne 1f\n"
      "mov %c[fs_base](%%rax), %%rcx; wrfsbase %%rcx\n"
      "mov %c[gs_base](%%rax), %%rcx; wrgsbase %%rcx\n"
      "1: mov %c[rip](%%rax), %%ecx; mov %%ecx, %c[rip_cs](%%rax); mov %c[cs](%%rax), %%ecx; mov %%cx, %c[rip_cs]+4(%%rax)\n"
      "lea %c[rip](%%rax), %%rsp\n"
      "mov 8(%%rax), %%rcx; mov 16(%%rax), %%rdx; mov 24(%%rax), %%rbx\n"
      "mov 40(%%rax), %%rbp; mov 48(%%rax), %%rsi; mov 56(%%rax), %%rdi\n"
      "mov 64(%%rax), %%r8; mov 72(%%rax), %%r9; mov 80(%%rax), %%r10; mov 88(%%rax), %%r11\n"
      "mov 96(%%rax), %%r12; mov 104(%%rax), %%r13; mov 112(%%rax), %%r14; mov 120(%%rax), %%r15\n"
      "cmpw $0x2b, %c[ss](%%rax); jne 4f\n"
      "mov 0(%%rax), %%rax\n"
      "iretq\n"
      // An IRET to a 16-bit stack would leave the upper half of ESP as it is here. (No TF on this way.)
      "4: pushq %c[flags](%%rax); popfq\n"
      "mov %c[ss](%%rax), %%ss; mov %c[rsp](%%rax), %%rsp; mov 0(%%rax), %%rax\n"
      "ljmpl *cpu+%c[rip_cs](%%rip)\n"
      // The code comes back to here, with everything still in its registers.
      ".globl leave_here\nleave_here:\n"
      "mov %%rax, cpu(%%rip)\n"
      "lea cpu(%%rip), %%rax\n"
      "mov %%rcx, 8(%%rax); mov %%rdx, 16(%%rax); mov %%rbx, 24(%%rax); mov %%rsp, 32(%%rax)\n"
      "mov %%rbp, 40(%%rax); mov %%rsi, 48(%%rax); mov %%rdi, 56(%%rax)\n"
      "mov %%r8, 64(%%rax); mov %%r9, 72(%%rax); mov %%r10, 80(%%rax); mov %%r11, 88(%%rax)\n"
      "mov %%r12, 96(%%rax); mov %%r13, 104(%%rax); mov %%r14, 112(%%rax); mov %%r15, 120(%%rax)\n"
      "mov %%ss, %c[ss](%%rax)\n"
      "mov %c[saved_rsp](%%rax), %%rsp\n"
      "pushfq; popq %c[out_flags](%%rax)\n"
      "pushq $2; popfq\n"
      "fxsave64 %c[fx](%%rax)\n"
      "movl $0, %c[rip](%%rax)\n"
      // And the signal handler to here.
      ".globl resume\nresume:\n"
      "lea cpu(%%rip), %%rax\n"
      "mov %%ds, %c[ds](%%rax); mov %%es, %c[es](%%rax); mov %%fs, %c[fs](%%rax); mov %%gs, %c[gs](%%rax)\n"
      "mov $0x2b, %%ecx; mov %%ecx, %%ss\n"
      "cmpl $0, fsgsbase(%%rip); je 2f\n"
      "rdfsbase %%rcx; mov %%rcx, %c[fs_base](%%rax)\n"
      "rdgsbase %%rcx; mov %%rcx, %c[gs_base](%%rax)\n"
      "xor %%ecx, %%ecx; mov %%ecx, %%ds; mov %%ecx, %%es; mov %%ecx, %%fs; mov %%ecx, %%gs\n"
      "mov %c[saved_fs](%%rax), %%rcx; wrfsbase %%rcx\n"
      "jmp 3f\n"
      "2: xor %%ecx, %%ecx; mov %%ecx, %%ds; mov %%ecx, %%es; mov %%ecx, %%gs; movb $0, syscalls(%%rip)\n"
      "mov $158, %%eax; mov $0x1002, %%edi; mov %c[saved_fs]+cpu(%%rip), %%rsi; syscall\n" // arch_prctl(ARCH_SET_FS)
      "3: fninit; pushq $0x1f80; ldmxcsr (%%rsp); add $8, %%rsp\n"
      "pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%rbp; pop %%rbx\n"
      "ret\n"
      ".globl restorer\nrestorer: mov $15, %%eax; syscall; nop\n" // rt_sigreturn, the one system call that stays allowed
      :
      : AT(rip), AT(cs), AT(flags), AT(rsp), AT(rip_cs), AT(ss), AT(saved_rsp), AT(saved_fs), AT(out_flags), AT(ds), AT(es), AT(fs), AT(gs), AT(fs_base), AT(gs_base), AT(fx));
}

// The order of `gregs` on x86-64 Linux, by hardware register number.
static const int REG[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void handler(int signal, siginfo_t *info, void *context) {
  (void)info;
  __asm__ volatile("pushq $2; popfq" ::: "memory", "cc"); // no alignment checks here
  ucontext_t *uc = context;
  greg_t *g = uc->uc_mcontext.gregs;
  if (signal == SIGVTALRM) {
    static uint64_t last, count;
    if (last != case_number || !now) {
      last = case_number;
      count = 0;
      disturbed = 1;
      return;
    }
    if (++count < 3) {
      disturbed = 1; // what comes back to the case has no ID and NT flags any more
      return;
    }
    count = 0;
  }
  if (!now) _exit(9); // not in a case: a fault of this program's own
  syscalls = 0;
  uint64_t rip = g[REG_RIP];
  // A trap after the instruction that leaves: the case had come to its end.
  if (signal == SIGTRAP && g[REG_TRAPNO] == 1 && (rip == LANDING || rip == (uint64_t)leave_here)) {
    signal = 0;
    rip = end_of_code;
  }
  for (int i = 0; i < 16; i++) now->gpr[i] = g[REG[i]];
  now->rip = rip;
  now->flags = g[REG_EFL];
  now->signal = signal;
  now->vector = g[REG_TRAPNO];
  now->error = g[REG_ERR];
  now->cr2 = g[REG_CR2];
  now->cs = signal ? g[REG_CSGSFS] : case_cs;
  now->ss = (uint64_t)g[REG_CSGSFS] >> 48;
  memcpy(now->fx, uc->uc_mcontext.fpregs, 512);
  now->ticks = 1;
  __asm__ volatile("mov %0, %%rsp; jmp resume" ::"r"(cpu.saved_rsp));
  __builtin_unreachable();
}

struct kernel_sigaction {
  void (*handler)(int, siginfo_t *, void *);
  unsigned long flags;
  void *restorer;
  unsigned long mask;
};

static void *map_at(uintptr_t at, size_t bytes, int protection, int file, int kind) {
  void *got = mmap((void *)at, bytes, protection, kind | MAP_FIXED_NOREPLACE, file, 0);
  if (got != (void *)at) {
    fprintf(stderr, "cannot map %lx\n", (long)at);
    exit(3);
  }
  return got;
}
static void *map_file(const char *path, int protection, size_t *bytes) {
  struct stat info;
  int file = open(path, protection & PROT_WRITE ? O_RDWR : O_RDONLY);
  if (file < 0 || fstat(file, &info)) exit(2);
  *bytes = info.st_size;
  void *at = mmap(0, info.st_size, protection, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) exit(2);
  return at;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  // Linux keeps the number of the processor in a segment limit that programs may read. On the first one it is 0.
  unsigned long first = 1;
  syscall(SYS_sched_setaffinity, 0, sizeof first, &first);
  size_t in_bytes, out_bytes;
  uint8_t *in = map_file(argv[1], PROT_READ, &in_bytes), *out = map_file(argv[2], PROT_READ | PROT_WRITE, &out_bytes);
  const struct world *world = (void *)in;
  const struct test_case *cases = (void *)(in + sizeof *world);
  struct outcome *outcomes = (void *)out;

  int memory = memfd_create("code", 0);
  if (memory < 0 || ftruncate(memory, CODE_BYTES)) return 2;
  uint8_t *writable = mmap(0, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  map_at(CODE, CODE_BYTES, PROT_READ | PROT_EXEC, memory, MAP_SHARED);
  int file = memfd_create("data", 0);
  if (file < 0 || ftruncate(file, DATA_BYTES)) return 2;
  uint8_t *data = mmap(0, DATA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  map_at(DATA, DATA_BYTES, PROT_READ | PROT_WRITE, file, MAP_SHARED);
  mprotect((void *)(uintptr_t)(DATA + WRITABLE), PAGE, PROT_READ);
  uint8_t *pointer = map_at(POINTER, PAGE, PROT_READ | PROT_WRITE, -1, MAP_PRIVATE | MAP_ANONYMOUS);
  uint8_t *landing = map_at(LANDING, PAGE, PROT_READ | PROT_WRITE, -1, MAP_PRIVATE | MAP_ANONYMOUS);
  if (writable == MAP_FAILED || data == MAP_FAILED) return 3;
  uint64_t target = (uint64_t)leave_here;
  memcpy(pointer, &target, 8);
  memcpy(landing, "\xff\x25\2\0\0\0", 6); // jmp *[rip + 2]: aligned, for RFLAGS.AC may be set
  memcpy(landing + 8, &target, 8);
  mprotect(pointer, PAGE, PROT_READ);
  mprotect(landing, PAGE, PROT_READ | PROT_EXEC);
  memset(writable, 0xcc, CODE_BYTES);

  fsgsbase = getauxval(AT_HWCAP2) & 2;
  syscall(SYS_arch_prctl, 0x1003, &cpu.saved_fs);
  for (int i = 0; i < DESCRIPTORS; i++)
    if (world->ldt[i].limit && syscall(SYS_modify_ldt, 1, &world->ldt[i], sizeof world->ldt[i])) return 4;
  stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
  sigaltstack(&stack, 0);
  int signals[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGSYS, SIGVTALRM};
  for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) {
    struct kernel_sigaction action = {handler, SA_SIGINFO | SA_ONSTACK | SA_NODEFER | 0x04000000, restorer, 0};
    if (syscall(SYS_rt_sigaction, signals[i], &action, 0, 8)) return 5;
  }
  if (prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, restorer, 16, &syscalls)) return 6;
  struct itimerval tick = {{0, 10000}, {0, 10000}};
  setitimer(ITIMER_VIRTUAL, &tick, 0);

  for (;;) {
    uint32_t count;
    ssize_t got = read(0, &count, sizeof count);
    if (got == 0) return 0;
    if (got != sizeof count) continue; // interrupted
    uint64_t changed = (uint64_t)(count * sizeof *outcomes + 63) & ~63ull;
    memcpy(data, world->data, DATA_BYTES);
    // A page that has not been touched would fault as one that is not there.
    for (int page = 0; page < DATA_BYTES; page += PAGE) (void)*(volatile uint8_t *)(uintptr_t)(DATA + page);
    for (int page = 0; page < CODE_BYTES; page += PAGE) (void)*(volatile uint8_t *)(uintptr_t)(CODE + page);
    for (uint32_t n = 0; n < count; n++) {
      const struct test_case *test = &cases[n];
      struct outcome *outcome = &outcomes[n];
      memset(outcome, 0, __builtin_offsetof(struct outcome, fx));
      uint32_t length = test->length > CODE_MAX ? CODE_MAX : test->length;
      uint32_t offset = test->offset > CODE_BYTES - CODE_MAX ? CODE_BYTES - CODE_MAX : test->offset;
      // Code is only written when it is another: the processor has to throw away what it has decoded.
      if (n == 0 || offset != cases[n - 1].offset || memcmp(writable + offset, test->code, length)) {
        if (n > 0) memset(writable + cases[n - 1].offset, 0xcc, CODE_MAX);
        memcpy(writable + offset, test->code, length);
      }
      memcpy(cpu.gpr, test->gpr, sizeof cpu.gpr);
      memcpy(cpu.fx, test->fx, sizeof cpu.fx);
      cpu.rip = (test->cs & 4 ? 0 : CODE) + offset;
      cpu.cs = test->cs;
      cpu.flags = test->flags;
      cpu.rsp = test->gpr[4];
      cpu.ss = test->ss;
      cpu.ds = test->ds, cpu.es = test->es, cpu.fs = test->fs, cpu.gs = test->gs;
      cpu.fs_base = test->fs_base, cpu.gs_base = test->gs_base;
      end_of_code = cpu.rip + test->end;
      case_cs = test->cs;
      now = outcome;
      case_number++;
      disturbed = 0;
      syscalls = 1;
      enter();
      syscalls = 0;
      now = 0;
      if (!outcome->ticks) {
        memcpy(outcome->gpr, cpu.gpr, sizeof cpu.gpr);
        memcpy(outcome->fx, cpu.fx, sizeof cpu.fx);
        outcome->rip = end_of_code;
        outcome->flags = cpu.out_flags;
        outcome->cs = test->cs;
        outcome->ss = cpu.ss;
      }
      outcome->ds = cpu.ds, outcome->es = cpu.es, outcome->fs = cpu.fs, outcome->gs = cpu.gs;
      outcome->fs_base = cpu.fs_base, outcome->gs_base = cpu.gs_base;
      if (memcmp(data, world->data, WRITABLE)) {
        uint32_t first = 0, last = WRITABLE;
        while (data[first] == world->data[first]) first++;
        while (data[last - 1] == world->data[last - 1]) last--;
        outcome->first = first;
        outcome->bytes = last - first;
        if (changed + outcome->bytes > out_bytes) return 7;
        memcpy(out + changed, data + first, last - first);
        outcome->changed = changed;
        changed += (outcome->bytes + 7) & ~7u;
        memcpy(data + first, world->data + first, last - first);
      }
      if (disturbed && outcome->signal != SIGVTALRM) n--; // once more
    }
    if (count > 0) memset(writable + cases[count - 1].offset, 0xcc, CODE_MAX);
    while (write(1, &count, sizeof count) != sizeof count) {
    }
  }
}
