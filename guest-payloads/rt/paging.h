// # Words for page tables
//
// A page-table entry is an address with flags in the bits that an aligned address does not need.

#pragma once

#include "rb.h"

#define PRESENT 0x1ull
#define WRITABLE 0x2ull
#define USER 0x4ull
#define ACCESSED 0x20ull
#define DIRTY 0x40ull
#define LARGE 0x80ull
#define GLOBAL 0x100ull
#define NX (1ull << 63)

#define CR0_WP (1ul << 16)
#define CR0_PG (1ul << 31)
#define CR4_PSE (1ul << 4)
#define CR4_PAE (1ul << 5)
#define CR4_PGE (1ul << 7)
#define EFER 0xc0000080
#define EFER_NXE 0x800

#define PAGE __attribute__((aligned(4096)))
#define address_of(thing) ((word)(thing))

// What a probe of memory saw: the byte, or 0x1000 plus the error code of the page fault, or 0x2000 plus another vector. One number that cannot be
// mistaken for another.
static inline word outcome(enum access kind, word vector) {
  if (vector == NO_TRAP) return kind == READ ? probe_value & 0xff : 0x100;
  return vector == 14 ? 0x1000 | trap_error : 0x2000 | vector;
}
static inline word touch(enum access kind, word address, word value) {
  return outcome(kind, probe(kind, (volatile void *)address, value));
}
static inline word user_touch(enum access kind, word address, word value) {
  return outcome(kind, user_probe(kind, (volatile void *)address, value));
}
