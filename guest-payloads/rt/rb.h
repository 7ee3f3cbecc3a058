// # What a payload in C may call
//
// No C library, no operating system: this is all there is. Every name carries the width of the code, so the same source serves three widths.

#pragma once

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define STR_(a) #a
#define STR(a) STR_(a)
#define M(name) CAT(name, MODE)

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long word; // as wide as a register; 32 bits in 16-bit code, which has 32-bit registers too

#define obs M(obs)
#define stage M(stage)
#define done M(done)
#define fail M(fail)
#define obs_trap M(obs_trap)
#define probe M(probe)
#define user_probe M(user_probe)

void obs(const char *key, word value);
void stage(const char *name);
_Noreturn void done(void);
_Noreturn void fail(const char *line);
#define ABORT(text) fail("RB1 abort " STR(FILE) ":" STR(__LINE__) " " text "\n")

// ## Probes

enum access { READ, WRITE, EXECUTE };
#define NO_TRAP 0x100

word probe(enum access, volatile void *address, word value);
word user_probe(enum access, volatile void *address, word value);
void obs_trap(const char *name, word address);
extern volatile word trap_vector, trap_error, trap_ip, trap_cs, trap_flags, trap_frame, trap_cr2, probe_value;

// ## Instructions that C has no words for

#define READ_REGISTER(name, register)                 \
  static inline word name(void) {                     \
    word value;                                       \
    asm volatile("mov " register ", %0" : "=r"(value)); \
    return value;                                     \
  }
#define WRITE_REGISTER(name, register)                                  \
  static inline void name(word value) {                                 \
    asm volatile("mov %0, " register : : "r"(value) : "memory"); \
  }
READ_REGISTER(read_cr0, "%%cr0")
READ_REGISTER(read_cr3, "%%cr3")
READ_REGISTER(read_cr4, "%%cr4")
WRITE_REGISTER(write_cr0, "%%cr0")
WRITE_REGISTER(write_cr3, "%%cr3")
WRITE_REGISTER(write_cr4, "%%cr4")

static inline void invlpg(volatile void *address) {
  asm volatile("invlpg (%0)" : : "r"(address) : "memory");
}
static inline void write_msr(u32 index, u64 value) {
  asm volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
static inline u64 read_msr(u32 index) {
  u32 low, high;
  asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
  return (u64)high << 32 | low;
}
static inline void cpuid(u32 leaf, u32 subleaf, u32 out[4]) {
  asm volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(subleaf));
}
