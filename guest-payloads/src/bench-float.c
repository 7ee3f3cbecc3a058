// # Workloads: floating point, and integers side by side
//
// The compiler is not allowed these registers here, so the loops are written out. They are made like those of a numerical program: a few multiplications and
// additions for each load, now and then a division or a square root, a comparison with a branch.

#include "bench.h"

#define COUNT 256
static __attribute__((aligned(16))) u64 a[COUNT], b[COUNT];
static __attribute__((aligned(16))) u32 block[COUNT * 4];

#define CR0_EM 4ul
#define CR0_TS 8ul
#define CR0_MP 2ul
#define CR0_NE 32ul
#define CR4_OSFXSR 0x600ul

// Numbers between one and two, made of bits.
static void prepare(void) {
  write_cr0((read_cr0() & ~(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE);
  asm volatile("fninit");
  u32 seed = 1;
  for (u32 i = 0; i < COUNT; i++) {
    seed = seed * 1664525u + 1013904223u;
    a[i] = 0x3ff0000000000000ull | (u64)(seed >> 4) << 24 | i;
    seed = seed * 1664525u + 1013904223u;
    b[i] = 0x3ff0000000000000ull | (u64)(seed >> 4) << 24 | i * 5;
  }
}
static void prepare_sse(void) {
  prepare();
  write_cr4(read_cr4() | CR4_OSFXSR);
  u32 mxcsr = 0x1f80;
  asm volatile("ldmxcsr %0" : : "m"(mxcsr));
}
static u32 bits(u64 value) {
  return (u32)value ^ (u32)(value >> 32);
}

// ## x87
//
// A sum of products and differences, divided by its root now and then; and the logistic map, x to r x (1 - x), which forgets nothing: a last bit that is rounded
// wrongly anywhere is another number in the end.

static u32 x87(void) {
  static const u64 r = 0x400feb851eb851ecull; // 3.99
  static const u64 begin = 0x3fd3333333333333ull; // 0.3
  u64 sum, map;
  u32 whole, times = 16;
  word at, other, count;
  asm volatile(
    "fldz\n"
    "2: mov %[a], %[at]\n"
    "mov %[b], %[other]\n"
    "mov %[n], %[count]\n"
    "1: fldl (%[at])\n"
    "fmull (%[other])\n"
    "faddp\n"
    "fldl (%[at])\n"
    "fsubl (%[other])\n"
    "fabs\n"
    "faddp\n"
    "lea 8(%[at]), %[at]\n"
    "lea 8(%[other]), %[other]\n"
    "dec %[count]\n"
    "jnz 1b\n"
    "fistl %[whole]\n"
    "fld1\n"
    "fadd %%st(1), %%st\n"
    "fsqrt\n"
    "fdivrp %%st, %%st(1)\n"
    "decl %[times]\n"
    "jnz 2b\n"
    "fstpl %[sum]\n"
    "fldl %[begin]\n"
    "mov $2048, %[count]\n"
    "3: fld1\n"
    "fsub %%st(1), %%st\n"
    "fmulp\n"
    "fmull %[r]\n"
    "dec %[count]\n"
    "jnz 3b\n"
    "fstpl %[map]\n"
    : [sum] "=m"(sum), [map] "=m"(map), [whole] "=m"(whole), [times] "+r"(times), [at] "=&r"(at), [other] "=&r"(other), [count] "=&r"(count)
    : [a] "i"(a), [b] "i"(b), [n] "i"(COUNT), [r] "m"(r), [begin] "m"(begin)
    : "cc", "memory");
  return bits(sum) ^ bits(map) ^ whole;
}

// ## SSE2, two doubles at a time
//
// Products and squares of differences; the greatest of the numbers by comparison and branch, as scalar code does it; roots, quotients and conversions outside.

static u32 sse2_float(void) {
  u64 sums[2], greatest;
  u32 times = 32, whole = 0;
  word at, other, count;
  asm volatile(
    "xorpd %%xmm4, %%xmm4\n"
    "xorpd %%xmm5, %%xmm5\n"
    "xorpd %%xmm6, %%xmm6\n"
    "2: mov %[a], %[at]\n"
    "mov %[b], %[other]\n"
    "mov %[n], %[count]\n"
    "1: movapd (%[at]), %%xmm0\n"
    "movapd (%[other]), %%xmm1\n"
    "movapd %%xmm0, %%xmm2\n"
    "mulpd %%xmm1, %%xmm2\n"
    "addpd %%xmm2, %%xmm4\n"
    "subpd %%xmm0, %%xmm1\n"
    "mulpd %%xmm1, %%xmm1\n"
    "addpd %%xmm1, %%xmm5\n"
    "ucomisd %%xmm6, %%xmm0\n"
    "jbe 3f\n"
    "movsd %%xmm0, %%xmm6\n"
    "3: lea 16(%[at]), %[at]\n"
    "lea 16(%[other]), %[other]\n"
    "dec %[count]\n"
    "jnz 1b\n"
    "movapd %%xmm4, %%xmm0\n"
    "unpckhpd %%xmm0, %%xmm0\n"
    "addsd %%xmm4, %%xmm0\n"
    "cvttsd2si %%xmm0, %k[count]\n"
    "addl %k[count], %[whole]\n"
    "cvtsi2sdl %k[count], %%xmm1\n"
    "unpcklpd %%xmm1, %%xmm1\n"
    "sqrtpd %%xmm1, %%xmm1\n"
    "divpd %%xmm1, %%xmm4\n"
    "mulpd %%xmm4, %%xmm5\n"
    "divpd %%xmm1, %%xmm5\n"
    "decl %[times]\n"
    "jnz 2b\n"
    "mulpd %%xmm5, %%xmm4\n"
    "movupd %%xmm4, %[sums]\n"
    "movsd %%xmm6, %[greatest]\n"
    : [sums] "=m"(sums), [greatest] "=m"(greatest), [whole] "+r"(whole), [times] "+r"(times), [at] "=&r"(at), [other] "=&r"(other), [count] "=&r"(count)
    : [a] "i"(a), [b] "i"(b), [n] "i"(COUNT / 2)
    : "cc", "memory");
  return bits(sums[0]) ^ bits(sums[1]) ^ bits(greatest) ^ whole;
}

// ## SSE2, integers
//
// A hash of four lanes over 4 KiB with the instructions that codecs and ciphers are made of.

static void prepare_block(void) {
  prepare_sse();
  fill((volatile u8 *)block, sizeof block);
}
static u32 sse2_integer(void) {
  u32 sums[4];
  u32 times = 16, mask = 0;
  word at, count, scratch;
  asm volatile(
    "pxor %%xmm4, %%xmm4\n"
    "pcmpeqd %%xmm5, %%xmm5\n"
    "pxor %%xmm7, %%xmm7\n"
    "2: mov %[block], %[at]\n"
    "mov %[n], %[count]\n"
    "1: movdqa (%[at]), %%xmm0\n"
    "paddd %%xmm0, %%xmm4\n"
    "movdqa %%xmm4, %%xmm1\n"
    "pslld $7, %%xmm1\n"
    "psrld $25, %%xmm4\n"
    "por %%xmm1, %%xmm4\n"
    "pshufd $0x93, %%xmm0, %%xmm2\n"
    "pxor %%xmm2, %%xmm4\n"
    "pmuludq %%xmm4, %%xmm2\n"
    "paddq %%xmm2, %%xmm5\n"
    "movdqa %%xmm0, %%xmm3\n"
    "punpcklbw %%xmm7, %%xmm3\n"
    "punpckhbw %%xmm7, %%xmm0\n"
    "pmaddwd %%xmm0, %%xmm3\n"
    "psubw %%xmm3, %%xmm5\n"
    "pcmpgtd %%xmm4, %%xmm3\n"
    "pmovmskb %%xmm3, %k[scratch]\n"
    "addl %k[scratch], %[mask]\n"
    "packuswb %%xmm0, %%xmm3\n"
    "pavgb %%xmm3, %%xmm5\n"
    "lea 16(%[at]), %[at]\n"
    "dec %[count]\n"
    "jnz 1b\n"
    "decl %[times]\n"
    "jnz 2b\n"
    "pxor %%xmm5, %%xmm4\n"
    "movdqu %%xmm4, %[sums]\n"
    : [sums] "=m"(sums), [mask] "+r"(mask), [times] "+r"(times), [at] "=&r"(at), [count] "=&r"(count), [scratch] "=&r"(scratch)
    : [block] "i"(block), [n] "i"(sizeof block / 16)
    : "cc", "memory");
  return sums[0] ^ sums[1] * 3 ^ sums[2] * 5 ^ sums[3] * 7 ^ mask;
}

static const struct workload workloads[] = {
  {"x87", x87, prepare, 0},
  {"sse2-float", sse2_float, prepare_sse, 0},
  {"sse2-integer", sse2_integer, prepare_block, 0},
};
_Noreturn void main(void) {
  MEASURE(workloads);
}
