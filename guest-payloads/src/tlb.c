// # Stale translations
//
// The processor remembers translations and does not watch the tables. After a change in memory the old one *may* still be used, until software
// says INVLPG or loads CR3. What must hold afterwards is exact; what may be seen before is either.

#include "paging.h"

#if MODE == 64
typedef u64 entry;
extern entry rb_pml4[512];
static PAGE entry pdpt[512], pd[512];
#define AT 0x8000000000ul
#define LARGE_BYTES 0x200000ul
#define DIRECTORY pd
#else
typedef u32 entry;
static PAGE entry directory[1024], identity[1024];
#define AT 0x40000000ul
#define LARGE_BYTES 0x400000ul
#define DIRECTORY (directory + (AT >> 22))
#endif
static PAGE entry pt[4096 / sizeof(entry)];
static PAGE volatile u8 one[4096], two[4096];

#define MAP(index, frame, flags) (*(volatile entry *)&pt[index] = address_of(frame) | PRESENT | WRITABLE | (flags))

_Noreturn void main(void) {
#if MODE == 64
  rb_pml4[1] = address_of(pdpt) | PRESENT | WRITABLE | USER;
  pdpt[0] = address_of(pd) | PRESENT | WRITABLE | USER;
#else
  for (u32 i = 0; i < 1024; i++) identity[i] = i << 12 | PRESENT | WRITABLE | USER;
  directory[0] = address_of(identity) | PRESENT | WRITABLE | USER;
  write_cr3(address_of(directory));
  write_cr4(read_cr4() | CR4_PSE);
  write_cr0(read_cr0() | CR0_PG);
#endif
  DIRECTORY[0] = address_of(pt) | PRESENT | WRITABLE | USER;
  one[0] = 0x11;
  two[0] = 0x22;

  stage("invlpg");
  MAP(0, one, 0);
  obs("before", touch(READ, AT, 0));
  MAP(0, two, 0);
  obs("either", touch(READ, AT, 0)); // 11 if remembered, 22 if not
  invlpg((void *)AT);
  obs("after", touch(READ, AT, 0));

  // Any address on the page will do.
  MAP(0, one, 0);
  invlpg((void *)(AT + 0xabc));
  obs("inside", touch(READ, AT, 0));

  // That nothing is there is never remembered: a page that appears needs no invalidation.
  stage("absent");
  obs("absent", touch(READ, AT + 0x1000, 0));
  MAP(1, two, 0);
  obs("appeared", touch(READ, AT + 0x1000, 0));
  pt[1] = 0;
  invlpg((void *)(AT + 0x1000));
  obs("gone", touch(READ, AT + 0x1000, 0));

  // More permission takes effect without invalidation as well: the fault that the old one causes makes the processor walk again.
  stage("permission");
  write_cr0(read_cr0() | CR0_WP);
  pt[2] = address_of(one) | PRESENT;
  touch(READ, AT + 0x2000, 0);
  obs("readonly", touch(WRITE, AT + 0x2000, 0x11));
  MAP(2, one, 0);
  obs("writable", touch(WRITE, AT + 0x2000, 0x11));

  stage("cr3");
  MAP(0, one, 0);
  touch(READ, AT, 0);
  MAP(0, two, 0);
  write_cr3(read_cr3());
  obs("cr3", touch(READ, AT, 0));

  // A change higher up: the directory entry is pointed to another table, and one INVLPG has to be enough for its page.
  static PAGE entry other[4096 / sizeof(entry)];
  other[0] = address_of(one) | PRESENT | WRITABLE;
  *(volatile entry *)&DIRECTORY[0] = address_of(other) | PRESENT | WRITABLE | USER;
  invlpg((void *)AT);
  obs("directory", touch(READ, AT, 0));
  *(volatile entry *)&DIRECTORY[0] = address_of(pt) | PRESENT | WRITABLE | USER;
  write_cr3(read_cr3());

  // Global pages outlive a load of CR3, if CR4.PGE is set. They may; INVLPG and a change of CR4.PGE end them.
  stage("global");
  write_cr4(read_cr4() | CR4_PGE);
  MAP(3, one, GLOBAL);
  touch(READ, AT + 0x3000, 0);
  MAP(3, two, GLOBAL);
  write_cr3(read_cr3());
  obs("global.either", touch(READ, AT + 0x3000, 0));
  invlpg((void *)(AT + 0x3000));
  obs("global.invlpg", touch(READ, AT + 0x3000, 0));
  MAP(3, one, GLOBAL);
  write_cr4(read_cr4() & ~CR4_PGE);
  obs("global.pge", touch(READ, AT + 0x3000, 0));

  // A large page is forgotten as a whole, by whichever address in it. An implementation that caches it in 4 KiB pieces has to forget them all.
  stage("large");
  DIRECTORY[1] = 0 | PRESENT | WRITABLE | LARGE; // the first megabytes, as they are
  word offset = address_of(one) & (LARGE_BYTES - 1);
  word far_offset = address_of(two) & (LARGE_BYTES - 1);
  obs("large", touch(READ, AT + LARGE_BYTES + offset, 0));
  obs("large.far", touch(READ, AT + LARGE_BYTES + far_offset, 0));
  *(volatile entry *)&DIRECTORY[1] = 0;
  invlpg((void *)(AT + LARGE_BYTES));
  obs("large.gone", touch(READ, AT + LARGE_BYTES + offset, 0));
  obs("large.far.gone", touch(READ, AT + LARGE_BYTES + far_offset, 0));

  // Instruction fetches are translated by the same tables.
  stage("code");
  one[0x10] = 0xb8; // MOV EAX, imm32; RET
  one[0x11] = 0x61;
  one[0x15] = 0xc3;
  two[0x10] = 0xb8;
  two[0x11] = 0x62;
  two[0x15] = 0xc3;
  word (*volatile function)(void) = (word(*)(void))(AT + 0x4010);
  MAP(4, one, 0);
  obs("code.before", function());
  MAP(4, two, 0);
  invlpg((void *)(AT + 0x4000));
  obs("code.after", function());
  done();
}
