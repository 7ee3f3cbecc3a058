// # One frame, many names
//
// What tests the tables of a hypervisor is not a guest that maps a page, but one that maps it twice: large here and small there, writable here and
// read-only there, as data here and as a page table there. Each of these has once gone wrong in a real hypervisor.

#include "tables.h"

static PAGE volatile u8 one[4096], two[4096];
static PAGE entry second[ENTRIES];

#define FAR_PAGES 2
#define SMALL(n) (AT + (n)*4096ul)
#define LARGE_AT(n) (AT + (n)*LARGE_BYTES)
#define INSIDE(thing) (address_of(thing) & (LARGE_BYTES - 1)) // all of the payload lies in the first large page

static void copy(word to, word from, word bytes) {
  asm volatile("cld; rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory", "cc");
}

_Noreturn void main(void) {
  tables_on();
  write_cr0(read_cr0() | CR0_WP);
  one[0] = 0x11;
  two[0] = 0x22;

  // Large and small: a write through one is seen through the other, at once.
  stage("large-and-small");
  *leaf(0) = address_of(one) | PRESENT | WRITABLE;
  *directory(1) = 0 | PRESENT | WRITABLE | LARGE;
  obs("small", touch(READ, SMALL(0), 0));
  obs("large", touch(READ, LARGE_AT(1) + INSIDE(one), 0));
  touch(WRITE, SMALL(0), 0x33);
  obs("large.sees", touch(READ, LARGE_AT(1) + INSIDE(one), 0));
  touch(WRITE, LARGE_AT(1) + INSIDE(one), 0x44);
  obs("small.sees", touch(READ, SMALL(0), 0));

  // Read-only by one name and writable by the other. The refusal belongs to the name, not to the frame.
  stage("permissions");
  *leaf(1) = address_of(one) | PRESENT;
  *directory(2) = 0 | PRESENT | LARGE;
  flush();
  obs("small.readonly", touch(WRITE, SMALL(1), 0));
  obs("large.readonly", touch(WRITE, LARGE_AT(2) + INSIDE(one), 0));
  obs("small.writable", touch(WRITE, SMALL(0), 0x45));
  obs("large.writable", touch(WRITE, LARGE_AT(1) + INSIDE(one), 0x46));
  obs("both.see", touch(READ, SMALL(1), 0) << 8 | touch(READ, LARGE_AT(2) + INSIDE(one), 0));

  // A copy from one small page to another, both inside one large page and named by it.
  stage("inside-one-large-page");
  one[0] = 0x51;
  one[4095] = 0x52;
  copy(LARGE_AT(1) + INSIDE(two), LARGE_AT(1) + INSIDE(one), 4096);
  obs("copied.first", two[0]);
  obs("copied.last", two[4095]);

  // One page table under two directory entries, the first for reading only. What the second allows must not depend on who came first.
  stage("shared-table");
  *leaf(2) = address_of(one) | PRESENT | WRITABLE | USER;
  *directory(3) = address_of(tables_page) | PRESENT | USER;
  *directory(4) = address_of(tables_page) | PRESENT | WRITABLE | USER;
  *directory(5) = address_of(tables_page) | PRESENT | WRITABLE;
  flush();
  obs("readonly.read", touch(READ, LARGE_AT(3) + 2 * 4096, 0));
  obs("readonly.write", touch(WRITE, LARGE_AT(3) + 2 * 4096, 0x53));
  obs("writable.write", touch(WRITE, LARGE_AT(4) + 2 * 4096, 0x54));
  obs("readonly.write.again", touch(WRITE, LARGE_AT(3) + 2 * 4096, 0x55));
  obs("user.read", user_touch(READ, LARGE_AT(4) + 2 * 4096, 0));
  obs("supervisor.user.read", user_touch(READ, LARGE_AT(5) + 2 * 4096, 0));
  obs("supervisor.write", touch(WRITE, LARGE_AT(5) + 2 * 4096, 0x56));
  obs("user.write", user_touch(WRITE, LARGE_AT(4) + 2 * 4096, 0x57));
  obs("one", one[0]);

  // A page table that is itself mapped, and is changed through that name: an operating system that maps its tables does nothing else.
  stage("table-as-data");
  *leaf(3) = address_of(tables_page) | PRESENT | WRITABLE;
  *leaf(4) = address_of(one) | PRESENT | WRITABLE;
  one[0] = 0x61;
  two[0] = 0x62;
  obs("before", touch(READ, SMALL(4), 0));
  ((volatile entry *)SMALL(3))[4] = address_of(two) | PRESENT | WRITABLE;
  invlpg((void *)SMALL(4));
  obs("whole", touch(READ, SMALL(4), 0));
  // One byte of the entry, the second: the frame number's lowest nibble is in it. Then back with an exchange, then a bit at a time.
  volatile u8 *bytes = (volatile u8 *)&((volatile entry *)SMALL(3))[4];
  bytes[1] = (u8)(address_of(one) >> 8);
  bytes[2] = (u8)(address_of(one) >> 16);
  invlpg((void *)SMALL(4));
  obs("bytes", touch(READ, SMALL(4), 0));
  u32 swapped = (u32)address_of(two) | PRESENT | WRITABLE;
  asm volatile("xchgl %0, (%1)" : "+r"(swapped) : "r"(bytes) : "memory");
  invlpg((void *)SMALL(4));
  obs("exchanged", touch(READ, SMALL(4), 0));
  obs("was", swapped & 0xfff & ~(word)(ACCESSED | DIRTY));
  asm volatile("lock andl %0, (%1)" : : "r"((u32)~WRITABLE), "r"(bytes) : "memory", "cc");
  invlpg((void *)SMALL(4));
  obs("protected", touch(WRITE, SMALL(4), 0));
  asm volatile("lock btrl $0, (%0)" : : "r"(bytes) : "memory", "cc");
  invlpg((void *)SMALL(4));
  obs("removed", touch(READ, SMALL(4), 0));
  asm volatile("lock btsl $0, (%0)" : : "r"(bytes) : "memory", "cc");
  obs("restored", touch(READ, SMALL(4), 0)); // nothing absent is remembered: no INVLPG

  // A whole table written by a string instruction, through a mapping of itself that is a large page.
  stage("string");
  for (u32 n = 0; n < ENTRIES; n++) second[n] = address_of(n & 1 ? two : one) | PRESENT;
  copy(LARGE_AT(1) + INSIDE(tables_page) + 16 * sizeof(entry), address_of(second), 8 * sizeof(entry));
  flush();
  obs("string.even", touch(READ, SMALL(18), 0));
  obs("string.odd", touch(READ, SMALL(19), 0));
  obs("string.readonly", touch(WRITE, SMALL(19), 0));

  // A directory entry that leads to the directory: the same page is a directory in one walk and a page table in the next. The pages of this mapping *are*
  // the page tables.
  stage("recursive");
  *directory(6) = (entry)(address_of((void *)directory(0)) & ~(word)4095) | PRESENT | WRITABLE;
  flush();
  volatile entry *window = (volatile entry *)(LARGE_AT(6)); // page n of it is what directory entry n leads to
  word of_leaf = (((word)directory(0) & 4095) / sizeof(entry)) * 4096;
  volatile entry *through = (volatile entry *)((word)window + of_leaf);
  obs("recursive.reads", through[4] == *leaf(4));
  through[4] = address_of(one) | PRESENT | WRITABLE;
  invlpg((void *)SMALL(4));
  obs("recursive.wrote", touch(READ, SMALL(4), 0));
  *directory(6) = 0;
  flush();
  obs("recursive.gone", touch(READ, LARGE_AT(6) + of_leaf, 0));

  // A page that was a page table becomes data again, and the other way round.
  stage("reuse");
  *directory(7) = address_of(second) | PRESENT | WRITABLE;
  one[0] = 0x71;
  obs("as.table", touch(READ, LARGE_AT(7), 0));
  *directory(7) = 0;
  flush();
  for (u32 n = 0; n < ENTRIES; n++) second[n] = n;
  word sum = 0;
  for (u32 n = 0; n < ENTRIES; n++) sum += second[n];
  obs("as.data", sum == ENTRIES * (ENTRIES - 1) / 2);
  second[0] = address_of(two) | PRESENT;
  two[0] = 0x72;
  *directory(7) = address_of(second) | PRESENT | WRITABLE;
  obs("as.table.again", touch(READ, LARGE_AT(7), 0));

  // Entries of the same number in the two halves of one table. A hypervisor whose own tables hold half as many entries needs two of them for this one.
  stage("halves");
  one[0] = 0x73;
  two[0] = 0x74;
  *leaf(9) = address_of(one) | PRESENT | WRITABLE;
  *leaf(ENTRIES / 2 + 9) = address_of(two) | PRESENT | WRITABLE;
  flush();
  obs("half.lower", touch(READ, SMALL(9), 0));
  obs("half.upper", touch(READ, SMALL(ENTRIES / 2 + 9), 0));
  obs("half.lower.again", touch(READ, SMALL(9), 0));
  touch(WRITE, SMALL(ENTRIES / 2 + 9), 0x75);
  obs("half.apart", one[0] << 8 | two[0]);
  done();
}
