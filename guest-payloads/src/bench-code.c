// # Workloads: code that is written while it runs
//
// A machine that translates code has to notice when the original changes. Two ways to change it: a number inside an instruction, over and over at the same place; and
// instructions that were not there before, as a compiler that runs beside its program makes them.

#include "bench.h"

static __attribute__((aligned(4096))) volatile u8 code[65536];
typedef u32 (*function)(void);

// ## Immediates
//
// MOV EAX, imm32; ADD EAX, imm32; RET.

static void prepare_immediates(void) {
  code[0] = 0xb8;
  code[5] = 0x05;
  code[10] = 0xc3;
}
static u32 immediates(void) {
  u32 sum = 0;
  for (u32 i = 0; i < 512; i++) {
    *(volatile u32 *)(code + 1) = i * 3;
    *(volatile u32 *)(code + 6) = i << 16;
    sum = sum * 5 + ((function)code)();
  }
  return sum;
}

// ## Fresh code
//
// A function of ten instructions is written behind the last one, and called eight times. Where the buffer ends it begins again.

// MOV ECX, imm32; MOV EAX, ECX; ADD EAX, ECX; ROL EAX, 5; XOR EAX, ECX; ADD ECX, 3; SUB EAX, ECX; ROR EAX, 1; ADD EAX, ECX; RET.
static const u32 text[6] = {0x000000b9, 0x01c88900, 0x05c0c1c8, 0xc183c831, 0xd1c82903, 0xc3c801c8};

/** The same, by the compiler. */
static u32 same(u32 c) {
  u32 a = c + c;
  a = (a << 5 | a >> 27) ^ c;
  c += 3;
  a -= c;
  return (a >> 1 | a << 31) + c;
}

// The number in the function is another one each time, in all rounds, so no place is ever written with what is there already.

static u32 fresh(void) {
  static u32 number, place;
  u32 right = 0;
  for (u32 i = 0; i < 128; i++) {
    volatile u32 *at = (volatile u32 *)(code + place);
    place = (place + 64) % sizeof code;
    number = (number + 1) & 0xffffff;
    at[0] = text[0] | number << 8;
    for (u32 n = 1; n < 6; n++) at[n] = text[n];
    u32 wanted = same(number);
    for (u32 n = 0; n < 8; n++) right += ((function)at)() == wanted;
  }
  return right;
}

static const struct workload workloads[] = {
  {"immediates", immediates, prepare_immediates, 0},
  {"fresh-code", fresh, 0, 0},
};
_Noreturn void main(void) {
  MEASURE(workloads);
}
