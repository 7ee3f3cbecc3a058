// # Workloads: integers
//
// What compilers make of ordinary programs: loops over bytes, calls, table look-ups, shifts and rotations, an interpreter's indirect jumps, and arithmetic on
// numbers that are longer than a register.

#include "bench.h"

// ## Primes below 65,536

#define LIMIT 65536
static u8 composite[LIMIT];

static u32 sieve(void) {
  u32 count = 0;
  for (u32 i = 0; i < LIMIT / sizeof(word); i++) ((word *)composite)[i] = 0;
  for (u32 i = 2; i < LIMIT; i++) {
    if (composite[i]) continue;
    count++;
    for (u32 j = i + i; j < LIMIT; j += i) composite[j] = 1;
  }
  return count;
}

// ## Fibonacci, the slow way

static __attribute__((noinline, noclone)) u32 fibonacci(u32 n) {
  if (n < 2) return n;
  return fibonacci(n - 1) + fibonacci(n - 2);
}
static u32 recursion(void) {
  return fibonacci(22);
}

// ## CRC-32 by table

static u8 message[65536];
static u32 crc_table[256];

static void prepare_message(void) {
  fill(message, sizeof message);
  for (u32 i = 0; i < 256; i++) {
    u32 value = i;
    for (u32 bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
    crc_table[i] = value;
  }
}
static u32 crc32(void) {
  u32 crc = ~0u;
  const u8 *bytes = message;
  for (u32 length = sizeof message; length; length--) crc = crc >> 8 ^ crc_table[(crc ^ *bytes++) & 255];
  return ~crc;
}

// ## SHA-256, FIPS 180-4
//
// The names of the eight variables move on from line to line instead of their values, as in any implementation that wants to be fast.

#define HASHED 16384 // whole blocks; the padding is a block of its own

static const u32 k[64] = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74,
  0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d,
  0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e,
  0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
  0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
static const u32 start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static inline u32 rotate(u32 value, u32 by) {
  return value >> by | value << (32 - by);
}
static inline u32 big_endian(const u8 *at) {
  u32 value = *(const u32 *)at;
  asm("bswap %0" : "+r"(value));
  return value;
}

#define STEP(a, b, c, d, e, f, g, h, n)                                                                            \
  {                                                                                                                \
    u32 t = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) + k[i + n] + w[i + n];        \
    d += t;                                                                                                        \
    h = t + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) | (c & (a | b)));                            \
  }

static void sha256_block(u32 state[8], const u8 *bytes) {
  u32 w[64];
  for (u32 i = 0; i < 16; i++) w[i] = big_endian(bytes + 4 * i);
  for (u32 i = 16; i < 64; i++) {
    u32 x = w[i - 15], y = w[i - 2];
    w[i] = w[i - 16] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[i - 7] + (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
  }
  u32 a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
  for (u32 i = 0; i < 64; i += 8) {
    STEP(a, b, c, d, e, f, g, h, 0)
    STEP(h, a, b, c, d, e, f, g, 1)
    STEP(g, h, a, b, c, d, e, f, 2)
    STEP(f, g, h, a, b, c, d, e, 3)
    STEP(e, f, g, h, a, b, c, d, 4)
    STEP(d, e, f, g, h, a, b, c, 5)
    STEP(c, d, e, f, g, h, a, b, 6)
    STEP(b, c, d, e, f, g, h, a, 7)
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
}
static const u8 padding[64] = {[0] = 0x80, [61] = HASHED * 8 >> 16 & 255, [62] = HASHED * 8 >> 8 & 255, [63] = HASHED * 8 & 255};

static u32 sha256(void) {
  u32 hash[8], sum = 0;
  for (u32 i = 0; i < 8; i++) hash[i] = start[i];
  for (u32 i = 0; i < HASHED; i += 64) sha256_block(hash, message + i);
  sha256_block(hash, padding);
  for (u32 i = 0; i < 8; i++) sum ^= hash[i];
  return sum;
}

// ## A byte-code interpreter
//
// Eight registers, ten instructions, and one indirect jump for each of them. The program adds up how many steps the numbers below 300 take to come down to
// one, by halves or by three times and one more.

enum code { LOAD, COPY, ADD, SHIFT, ODD, INCREMENT, LESS, IF, JUMP, STOP };
enum place { BEGIN = 3, WALK = 4, UP = 11, NEXT = 16 };
#define TO(place) ((place) * 4)
static const u8 program[] = {
  LOAD, 0, 1, 0, // r0: the number
  LOAD, 4, 300 & 255, 300 >> 8,
  LOAD, 5, 2, 0,
  COPY, 1, 0, 0, // BEGIN
  LESS, 2, 1, 5, // WALK
  IF, 2, TO(NEXT), 0,
  INCREMENT, 3, 0, 0, // r3: steps
  ODD, 2, 1, 0,
  IF, 2, TO(UP), 0,
  SHIFT, 1, 1, 0,
  JUMP, TO(WALK), 0, 0,
  COPY, 2, 1, 0, // UP
  ADD, 1, 2, 0,
  ADD, 1, 2, 0,
  INCREMENT, 1, 0, 0,
  JUMP, TO(WALK), 0, 0,
  INCREMENT, 0, 0, 0, // NEXT
  LESS, 2, 0, 4,
  IF, 2, TO(BEGIN), 0,
  STOP, 3, 0, 0,
};

static u32 interpret(const u8 *code) {
  static void *const labels[] = {&&load, &&copy, &&add, &&shift, &&odd, &&increment, &&less, &&test, &&jump, &&stop};
  u32 r[8] = {0};
  const u8 *at = code;
  goto *labels[at[0]];
#define ON goto *labels[(at += 4)[0]]
load:
  r[at[1]] = at[2] | (u32)at[3] << 8;
  ON;
copy:
  r[at[1]] = r[at[2]];
  ON;
add:
  r[at[1]] += r[at[2]];
  ON;
shift:
  r[at[1]] = r[at[2]] >> 1;
  ON;
odd:
  r[at[1]] = r[at[2]] & 1;
  ON;
increment:
  r[at[1]]++;
  ON;
less:
  r[at[1]] = r[at[2]] < r[at[3]];
  ON;
test:
  if (!r[at[1]]) ON;
  at = code + at[2];
  goto *labels[at[0]];
jump:
  at = code + at[1];
  goto *labels[at[0]];
stop:
  return r[at[1]];
}

static u32 bytecode(void) {
  return interpret(program);
}

// ## Numbers of 64 words
//
// The carry goes from word to word through the flag that is there for it, so nothing between two additions may change it: the pointers are moved by LEA, and the
// counter by DEC, which leaves the carry alone.

#define WORDS 64
static word one[WORDS], two[WORDS];

static void add_to(word *sum, const word *other) {
  word count = WORDS, scratch;
  asm volatile(
    "clc\n"
    "1: mov (%[other]), %[scratch]\n"
    "adc %[scratch], (%[sum])\n"
    "lea %c[bytes](%[other]), %[other]\n"
    "lea %c[bytes](%[sum]), %[sum]\n"
    "dec %[count]\n"
    "jnz 1b"
    : [sum] "+r"(sum), [other] "+r"(other), [count] "+r"(count), [scratch] "=&r"(scratch)
    : [bytes] "i"(sizeof(word))
    : "cc", "memory");
}
static u32 fold_all(const word *number) {
  u32 sum = 0;
  for (u32 i = 0; i < WORDS; i++) sum = rotate(sum, 5) ^ fold(number[i]);
  return sum;
}
// Fibonacci again: 1,000 additions, modulo a power of two.
static u32 additions(void) {
  for (u32 i = 0; i < WORDS; i++) one[i] = two[i] = 0;
  one[0] = 1;
  for (u32 i = 0; i < 500; i++) {
    add_to(two, one);
    add_to(one, two);
  }
  return fold_all(one);
}

// ## Multiplication and division
//
// Each number of 64 words is multiplied by a small one and divided by it again. The word that has left it at the top comes back in as the first remainder.

static word times(word *number, word by) {
  word carry = 0;
  for (u32 i = 0; i < WORDS; i++) {
    word low = number[i], high;
    asm("mul %[by]\n\tadd %[carry], %[low]\n\tadc $0, %[high]" : [low] "+a"(low), [high] "=&d"(high) : [by] "r"(by), [carry] "r"(carry) : "cc");
    number[i] = low;
    carry = high;
  }
  return carry;
}
static word divided(word *number, word by, word remainder) {
  for (u32 i = WORDS; i-- > 0;) asm("div %[by]" : "+a"(number[i]), "+d"(remainder) : [by] "r"(by) : "cc");
  return remainder;
}
static u32 products(void) {
  u32 seed = 1, rest = 0;
  for (u32 i = 0; i < WORDS; i++) one[i] = (word)0 - i * i;
  for (u32 i = 0; i < 400; i++) {
    seed = seed * 1664525u + 1013904223u;
    word by = (seed >> 3) | 1u << 30;
    word top = times(one, by);
    one[0] |= 1; // no longer a multiple, so the remainders differ
    rest ^= fold(divided(one, by, top));
  }
  return fold_all(one) ^ rest;
}

static const struct workload workloads[] = {
  {"sieve", sieve, 0, 0},
  {"recursion", recursion, 0, 0},
  {"crc32", crc32, prepare_message, 0},
  {"sha256", sha256, prepare_message, 0},
  {"bytecode", bytecode, 0, 0},
  {"additions", additions, 0, 0},
  {"products", products, 0, 0},
};
_Noreturn void main(void) {
  MEASURE(workloads);
}
