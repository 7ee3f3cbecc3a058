// # Between paging modes
//
// The same address in one program: without paging, with 32-bit entries, with PAE; under one set of tables and under another. Every switch makes all earlier
// translations wrong, and some entries mean something else than a moment ago. A hypervisor that keeps tables of its own has to notice each.

#include "paging.h"

#define AT 0x800000ul // ordinary memory when paging is off

static PAGE u32 narrow[1024], narrow_table[1024], other[1024], other_table[1024];
static PAGE u64 wide_low[512], wide_table[512];
static __attribute__((aligned(32))) u64 roots[4];
static PAGE volatile u8 one[4096], two[4096], three[4096];

static u8 seen(void) {
  return *(volatile u8 *)AT;
}
static void paging(u32 on) {
  write_cr0(on ? read_cr0() | CR0_PG : read_cr0() & ~CR0_PG);
}

_Noreturn void main(void) {
  one[0] = 0x11;
  two[0] = 0x22;
  three[0] = 0x33;
  *(volatile u8 *)AT = 0x99;
  // Everything in 4 MiB pages or 2 MiB pages at its own address, except AT.
  for (u32 i = 0; i < 1024; i++) narrow[i] = other[i] = i << 22 | PRESENT | WRITABLE | LARGE;
  narrow[AT >> 22] = address_of(narrow_table) | PRESENT | WRITABLE;
  other[AT >> 22] = address_of(other_table) | PRESENT | WRITABLE;
  narrow_table[0] = address_of(one) | PRESENT | WRITABLE;
  other_table[0] = address_of(two) | PRESENT | WRITABLE;
  for (u32 i = 0; i < 512; i++) wide_low[i] = (u64)i << 21 | PRESENT | WRITABLE | LARGE;
  wide_low[AT >> 21] = address_of(wide_table) | PRESENT | WRITABLE;
  wide_table[0] = address_of(three) | PRESENT | WRITABLE;
  roots[0] = address_of(wide_low) | PRESENT;

  stage("on-and-off");
  obs("raw", seen());
  write_cr4(read_cr4() | CR4_PSE);
  write_cr3(address_of(narrow));
  paging(1);
  obs("paged", seen());
  paging(0);
  obs("raw.again", seen());
  paging(1);
  obs("paged.again", seen());
  paging(0);
  narrow_table[0] = address_of(two) | PRESENT | WRITABLE; // while nobody looks at it
  paging(1);
  obs("changed.while.off", seen());
  narrow_table[0] = address_of(one) | PRESENT | WRITABLE;

  stage("two-spaces");
  word log = 0;
  for (u32 i = 0; i < 8; i++) {
    write_cr3(i & 1 ? address_of(other) : address_of(narrow));
    log = log << 4 | (seen() & 15);
  }
  obs("spaces", log);
  // A table that belongs to the space that is not in use is changed.
  write_cr3(address_of(narrow));
  other_table[0] = address_of(three) | PRESENT | WRITABLE;
  obs("spaces.mine", seen());
  write_cr3(address_of(other));
  obs("spaces.changed", seen());
  other_table[0] = address_of(two) | PRESENT | WRITABLE;
  write_cr3(address_of(narrow));

  // Without CR4.PSE bit 7 of a directory entry means nothing, and the entry leads to a table.
  stage("page-size");
  u32 *unreal = (u32 *)0xc00000ul; // what a 4 MiB page would be, and a table otherwise
  for (u32 i = 0; i < 1024; i++) unreal[i] = i << 12 | PRESENT | WRITABLE;
  unreal[0] = address_of(two) | PRESENT | WRITABLE;
  narrow[0x1000000ul >> 22] = 0xc00000 | PRESENT | WRITABLE | LARGE;
  paging(0);
  for (u32 i = 0; i < 1024; i++) narrow_table[i] = i << 12 | PRESENT | WRITABLE; // code and stack by small pages, for the others are large
  narrow[0] = address_of(narrow_table) | PRESENT | WRITABLE;
  write_cr3(address_of(narrow));
  paging(1);
  obs("pse.large", *(volatile u8 *)0x1000000ul == (u8)unreal[0]);
  obs("pse.value", *(volatile u32 *)0x1000000ul == unreal[0]);
  write_cr4(read_cr4() & ~CR4_PSE);
  obs("pse.table", *(volatile u8 *)0x1000000ul);
  write_cr4(read_cr4() | CR4_PSE);
  obs("pse.back", *(volatile u32 *)0x1000000ul == unreal[0]);
  paging(0);
  narrow[0] = 0 | PRESENT | WRITABLE | LARGE;
  narrow_table[0] = address_of(one) | PRESENT | WRITABLE;

  stage("wide");
  write_cr4(read_cr4() | CR4_PAE);
  write_cr3(address_of(roots));
  paging(1);
  obs("wide", seen());
  paging(0);
  write_cr4(read_cr4() & ~CR4_PAE);
  write_cr3(address_of(narrow));
  paging(1);
  obs("narrow", seen());
  paging(0);
  write_cr4(read_cr4() | CR4_PAE);
  write_cr3(address_of(roots));
  paging(1);
  obs("wide.again", seen());
  paging(0);
  obs("off", seen());
  done();
}
