// # Four levels
//
// Nine bits of the address for each of four levels, twelve for the byte: 48 bits, sign-extended. An entry on the second-lowest level can map 2 MiB,
// one above it 1 GiB on processors that have that.

#include "paging.h"

extern u64 rb_pml4[512];
static PAGE u64 pdpt[512], pd[512], pt[512], low_pt[512];
static PAGE volatile u8 one[4096], two[4096];

#define AT 0x8000000000ul // entry 1 of the top level
#define HIGH 0xffff800000000000ul // entry 256: the first address of the upper half

static word indices(word address) {
  return (address >> 39 & 511) << 36 | (address >> 30 & 511) << 24 | (address >> 21 & 511) << 12 | (address >> 12 & 511);
}

_Noreturn void main(void) {
  one[0] = 0x11;
  one[4095] = 0x1f;
  two[0] = 0x22;
  two[0x123] = 0x2f;
  pdpt[0] = address_of(pd) | PRESENT | WRITABLE | USER;
  pd[0] = address_of(pt) | PRESENT | WRITABLE | USER;
  pt[0] = address_of(one) | PRESENT | WRITABLE | USER;
  pt[1] = address_of(two) | PRESENT | WRITABLE | USER;
  pt[511] = address_of(two) | PRESENT | WRITABLE | USER;
  rb_pml4[1] = address_of(pdpt) | PRESENT | WRITABLE | USER;
  rb_pml4[256] = address_of(pdpt) | PRESENT | WRITABLE | USER;

  stage("four-kib");
  obs("indices", indices(0xffff812345678abcul));
  obs("first", touch(READ, AT, 0));
  obs("second", touch(READ, AT + 0x1123, 0));
  obs("last", touch(READ, AT + 0x1ff000, 0));
  obs("high", touch(READ, HIGH, 0)); // the same tables from the upper half
  touch(WRITE, HIGH + 1, 0x5a);
  obs("shared", touch(READ, AT + 1, 0));
  obs("straddle", *(volatile u16 *)(AT + 0xfff));

  // Missing on each level: always the same error code, always the address in CR2.
  stage("absent");
  obs("absent.pt", touch(READ, AT + 0x2000, 0));
  obs("absent.pt.cr2", trap_cr2);
  obs("absent.pd", touch(READ, AT + 0x200000, 0));
  obs("absent.pdpt", touch(READ, AT + 0x40000000, 0));
  obs("absent.pml4", touch(READ, AT * 2, 0));
  obs("absent.pml4.cr2", trap_cr2);
  obs("absent.top", touch(READ, 0xfffffffffffff123ul, 0));
  obs("absent.top.cr2", trap_cr2);

  // 2 MiB of physical memory from zero; the payload's ELF header is in the middle of it.
  stage("two-mib");
  pd[1] = 0 | PRESENT | WRITABLE | LARGE;
  obs("two", touch(READ, AT + 0x200000 + 0x100000, 0));
  obs("two.data", touch(READ, AT + 0x200000 + (address_of(two) & 0x1fffff) + 0x123, 0));
  pd[2] = 1ul << 13 | PRESENT | WRITABLE | LARGE; // bits 20 to 13 must be zero
  obs("two.reserved", touch(READ, AT + 0x400000, 0));

  // Inside one large page, from one 4 KiB piece of it to another. A hypervisor that backs the large page by small ones must make progress.
  two[8] = 0x77;
  word from = AT + 0x200000 + (address_of(two) & 0x1fffff) + 8, to = AT + 0x200000 + (address_of(one) & 0x1fffff) + 8, count = 1;
  asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
  obs("two.movs", one[8]);

  // 1 GiB pages, where CPUID says so.
  stage("one-gib");
  u32 leaf[4];
  cpuid(0x80000001, 0, leaf);
  if (leaf[3] >> 26 & 1) {
    pdpt[1] = 0 | PRESENT | WRITABLE | LARGE;
    obs("one", touch(READ, AT + 0x40000000 + 0x100000, 0));
    pdpt[2] = 1ul << 21 | PRESENT | WRITABLE | LARGE;
    obs("one.reserved", touch(READ, AT + 0x80000000, 0));
  }

  // Bit 7 means nothing on the top level: reserved.
  stage("top");
  rb_pml4[2] = address_of(pdpt) | PRESENT | WRITABLE | LARGE;
  obs("top.reserved", touch(READ, AT * 2, 0));

  // A walk may come back to a table it has passed: the four levels are indistinguishable.
  stage("recursive");
  rb_pml4[511] = address_of(rb_pml4) | PRESENT | WRITABLE;
  volatile u64 *self = (u64 *)0xfffffffffffff000ul;
  obs("recursive", (self[511] & ~0xffful) == address_of(rb_pml4));
  volatile u64 *leaf_table = (u64 *)(0xffffff8000000000ul | (AT >> 9 & 0x7ffffffff8ul));
  obs("recursive.leaf", (leaf_table[0] & ~0xffful & ~NX) == address_of(one));

  // Splitting a large page: the same addresses, now through a table. Nothing to be seen, after INVLPG.
  stage("split");
  for (u32 i = 0; i < 512; i++) low_pt[i] = (u64)i << 12 | PRESENT | WRITABLE;
  pd[1] = address_of(low_pt) | PRESENT | WRITABLE;
  invlpg((void *)(AT + 0x200000));
  obs("split", touch(READ, AT + 0x200000 + 0x100000, 0));
  done();
}
