// # One page to play with, in any paging mode
//
// Three paging modes differ in the width of an entry and the number of levels, and in nothing that a test of permissions or of invalidation wants to
// know. So they are hidden here: `tables_on()` makes an identity mapping and switches paging on, and `leaf(n)` is the entry of the n-th page at `AT`,
// `directory(n)` the entry one level up. PAE paging in 32-bit code is asked for by defining `PAE`.

#pragma once

#include "paging.h"

#if MODE == 64
typedef u64 entry;
extern entry rb_pml4[512];
#define AT 0x8000000000ul
#elif defined(PAE)
typedef u64 entry;
#define AT 0x40000000ul
#else
typedef u32 entry;
#define AT 0x40000000ul
#endif

#define ENTRIES (4096 / sizeof(entry))
#define LARGE_BYTES (ENTRIES * 4096ul)
#if MODE == 64 || defined(PAE)
#define HAS_NX 1
#else
#define HAS_NX 0
#endif

static PAGE entry tables_page[ENTRIES];
#if HAS_NX // where tables have 512 entries, the directory of AT is a table of its own
static PAGE entry tables_directory[ENTRIES];
#endif
#if MODE == 64
static PAGE entry tables_pointers[ENTRIES];
#else
static PAGE entry tables_low[ENTRIES], tables_identity[ENTRIES];
#ifdef PAE
static __attribute__((aligned(32))) u64 tables_roots[4];
#endif
#endif

static inline volatile entry *leaf(u32 n) {
  return &tables_page[n];
}
static inline volatile entry *directory(u32 n) {
#if !HAS_NX
  return &tables_low[(AT >> 22) + n];
#else
  return &tables_directory[n];
#endif
}

/** Everything at its own address for whoever asks, and the page table of `AT` empty. */
static inline void tables_on(void) {
#if MODE == 64
  rb_pml4[1] = address_of(tables_pointers) | PRESENT | WRITABLE | USER;
  tables_pointers[0] = address_of(tables_directory) | PRESENT | WRITABLE | USER;
#else
  for (u32 i = 0; i < ENTRIES; i++) tables_identity[i] = (entry)i << 12 | PRESENT | WRITABLE | USER;
  tables_low[0] = address_of(tables_identity) | PRESENT | WRITABLE | USER;
#ifdef PAE
  for (u32 i = 1; i < 4; i++) tables_low[i] = (entry)i << 21 | PRESENT | WRITABLE | USER | LARGE;
  tables_roots[0] = address_of(tables_low) | PRESENT;
  tables_roots[1] = address_of(tables_directory) | PRESENT;
  write_cr4(read_cr4() | CR4_PAE);
  write_cr3(address_of(tables_roots));
#else
  write_cr4(read_cr4() | CR4_PSE);
  write_cr3(address_of(tables_low));
#endif
#endif
  *directory(0) = address_of(tables_page) | PRESENT | WRITABLE | USER;
#if HAS_NX
  write_msr(EFER, read_msr(EFER) | EFER_NXE);
#endif
#if MODE == 32
  write_cr0(read_cr0() | CR0_PG);
#endif
}

static inline void flush(void) {
  write_cr3(read_cr3());
}

// A name that is put together: the case names its observations one by one, and some payloads have a hundred.
static char composed[32];
static inline const char *compose(const char *parts, u32 number) {
  u32 at = 0;
  while (*parts && at < 20) composed[at++] = *parts++;
  for (int shift = number > 0xff ? 8 : 4; shift >= 0; shift -= 4) composed[at++] = "0123456789abcdef"[number >> shift & 15];
  composed[at] = 0;
  return composed;
}
