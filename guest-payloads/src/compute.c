// # Something to compute
//
// A sieve, a checksum and a hash: no device, no privilege, only the instructions that a compiler emits. The results are known, so a machine that
// gets one wrong is wrong; and the loop is long enough to be timed from outside.

#include "rb.h"

#ifndef ROUNDS
#define ROUNDS 1
#endif

// ## Primes below 8,192

#define LIMIT 8192
static u8 composite[LIMIT / 8];

static u32 sieve(void) {
  u32 count = 0;
  for (u32 i = 0; i < sizeof composite; i++) composite[i] = 0;
  for (u32 i = 2; i < LIMIT; i++) {
    if (composite[i >> 3] >> (i & 7) & 1) continue;
    count++;
    for (u32 j = i * i; j < LIMIT; j += i) composite[j >> 3] |= 1 << (j & 7);
  }
  return count;
}

// ## CRC-32 by table

static u32 crc_table[256];

static void make_crc_table(void) {
  for (u32 i = 0; i < 256; i++) {
    u32 value = i;
    for (u32 bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
    crc_table[i] = value;
  }
}
static u32 crc32(const u8 *bytes, u32 length) {
  u32 crc = ~0u;
  while (length--) crc = crc >> 8 ^ crc_table[(crc ^ *bytes++) & 255];
  return ~crc;
}

// ## SHA-256, FIPS 180-4
//
// Its constants are the first 32 bits of the fractional parts of cube roots and square roots of primes. They are computed here with integers only,
// which tests multiplication and saves a table.

static u32 rotate(u32 value, u32 by) {
  return value >> by | value << (32 - by);
}

static u32 k[64], start[8];

// The largest x with x**power * 2**-(32 * power) <= prime, its low 32 bits; numbers of up to 128 bits in pieces of 32.
static int at_most(u64 x, u32 power, u32 prime) {
  u32 product[5] = {1, 0, 0, 0, 0};
  u32 low = (u32)x, high = (u32)(x >> 32);
  for (u32 p = 0; p < power; p++) {
    u32 next[5] = {0, 0, 0, 0, 0};
    u64 carry = 0;
    for (u32 i = 0; i < 5; i++) {
      u64 sum = (u64)product[i] * low + carry;
      next[i] = (u32)sum;
      carry = sum >> 32;
    }
    carry = 0;
    for (u32 i = 0; i < 4; i++) {
      u64 sum = (u64)product[i] * high + next[i + 1] + carry;
      next[i + 1] = (u32)sum;
      carry = sum >> 32;
    }
    for (u32 i = 0; i < 5; i++) product[i] = next[i];
  }
  return product[4] == 0 && (power == 2 ? product[3] == 0 && product[2] < prime : product[3] < prime);
}
static u32 root_fraction(u32 power, u32 prime) {
  u64 root = 0;
  for (int bit = 36; bit >= 0; bit--)
    if (at_most(root | 1ull << bit, power, prime)) root |= 1ull << bit;
  return (u32)root;
}
static void make_constants(void) {
  u32 found = 0;
  for (u32 n = 2; found < 64; n++) {
    if (composite[n >> 3] >> (n & 7) & 1) continue;
    if (found < 8) start[found] = root_fraction(2, n);
    k[found++] = root_fraction(3, n);
  }
}

static void block(u32 state[8], const u8 *bytes) {
  u32 w[64], s[8];
  for (u32 i = 0; i < 16; i++) w[i] = (u32)bytes[4 * i] << 24 | (u32)bytes[4 * i + 1] << 16 | (u32)bytes[4 * i + 2] << 8 | bytes[4 * i + 3];
  for (u32 i = 16; i < 64; i++) {
    u32 a = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
    u32 b = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + a + w[i - 7] + b;
  }
  for (u32 i = 0; i < 8; i++) s[i] = state[i];
  for (u32 i = 0; i < 64; i++) {
    u32 t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
    u32 t2 = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    for (u32 j = 7; j > 0; j--) s[j] = s[j - 1];
    s[4] += t1;
    s[0] = t1 + t2;
  }
  for (u32 i = 0; i < 8; i++) state[i] += s[i];
}

static u8 padded[64];

_Noreturn void main(void) {
  u32 primes = 0, crc = 0, hash[8];
  for (u32 i = 0; i < 64; i++) padded[i] = 0;
  padded[0] = 'a';
  padded[1] = 'b';
  padded[2] = 'c';
  padded[3] = 0x80;
  padded[63] = 24; // bits

  stage("compute");
  make_crc_table();
  for (u32 round = 0; round < ROUNDS; round++) {
    primes = sieve();
    if (round == 0) make_constants();
    crc = crc32((const u8 *)"123456789", 9);
    for (u32 i = 0; i < 8; i++) hash[i] = start[i];
    block(hash, padded);
  }
  obs("rounds", ROUNDS);
  obs("primes", primes);
  obs("crc32", crc);
  obs("sha256.0", hash[0]);
  obs("sha256.7", hash[7]);
  obs("constant.first", k[0]);
  obs("constant.last", k[63]);
  done();
}
