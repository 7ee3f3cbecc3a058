// # Accessed and dirty
//
// The processor itself writes page tables: it sets the accessed bit in every entry a walk uses, and the dirty bit in the last one when the page is
// written. Operating systems choose what to throw out by them, hypervisors find out what to send again.

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
static PAGE volatile u8 frame[4096];

#define AD (ACCESSED | DIRTY)

static volatile entry *leaf(u32 index) {
  return &pt[index];
}
static void fresh(u32 index, entry flags) {
  *leaf(index) = address_of(frame) | PRESENT | flags;
  invlpg((void *)(AT + index * 4096));
}

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
  frame[0] = 0xc3;

  stage("leaf");
  fresh(0, WRITABLE);
  obs("untouched", *leaf(0) & AD);
  touch(READ, AT, 0);
  obs("read", *leaf(0) & AD);
  touch(WRITE, AT, 0xc3);
  obs("write", *leaf(0) & AD);
  fresh(1, WRITABLE);
  touch(WRITE, AT + 0x1000, 0xc3);
  obs("write.first", *leaf(1) & AD);
  fresh(2, WRITABLE);
  touch(EXECUTE, AT + 0x2000, 0);
  obs("execute", *leaf(2) & AD);
  obs("neighbour", *leaf(3) & AD);

  // Directories get the accessed bit and never the dirty one.
  stage("directory");
#if MODE == 64
  obs("top", rb_pml4[1] & AD);
  obs("second", pdpt[0] & AD);
#endif
  obs("directory", DIRECTORY[0] & AD);

  // A write that is refused does not make the page dirty. Whether it counts as an access is left to the processor.
  stage("refused");
  write_cr0(read_cr0() | CR0_WP);
  fresh(4, 0);
  obs("refused.outcome", touch(WRITE, AT + 0x4000, 0));
  obs("refused.dirty", *leaf(4) & DIRTY);
  obs("refused.accessed", *leaf(4) & ACCESSED);

  // With CR0.WP clear ring 0 may write a read-only page, and that makes it dirty.
  write_cr0(read_cr0() & ~CR0_WP);
  obs("wp0.outcome", touch(WRITE, AT + 0x4000, 0xc3));
  obs("wp0.dirty", *leaf(4) & DIRTY);

  // Cleared by software, set again by the next access once the cached translation is gone.
  stage("again");
  *leaf(0) &= ~AD;
  invlpg((void *)AT);
  touch(READ, AT, 0);
  obs("again.read", *leaf(0) & AD);
  touch(WRITE, AT, 0xc3); // cached as clean: the processor has to walk once more to mark it
  obs("again.write", *leaf(0) & AD);

  // One frame under two names: each entry has bits of its own.
  stage("names");
  fresh(5, WRITABLE);
  fresh(6, WRITABLE);
  touch(WRITE, AT + 0x5000, 0xc3);
  touch(READ, AT + 0x6000, 0);
  obs("names.written", *leaf(5) & AD);
  obs("names.read", *leaf(6) & AD);

  // A large page has its bits in the directory entry. Two entries for one large page, as a hypervisor's shadow tables once got wrong with WP clear.
  stage("large");
  DIRECTORY[1] = 0 | PRESENT | WRITABLE | LARGE;
  DIRECTORY[2] = 0 | PRESENT | LARGE;
  touch(READ, AT + LARGE_BYTES + 0x100000, 0);
  obs("large.read", DIRECTORY[1] & AD);
  touch(WRITE, AT + LARGE_BYTES + address_of(frame) + 8, 1);
  obs("large.write", DIRECTORY[1] & AD);
  touch(READ, AT + 2 * LARGE_BYTES + address_of(frame) + 8, 0);
  obs("large.other.read", DIRECTORY[2] & AD);
  touch(WRITE, AT + 2 * LARGE_BYTES + address_of(frame) + 8, 2); // read-only, WP clear
  obs("large.other.write", DIRECTORY[2] & AD);
  obs("large.value", frame[8]);

  // From ring 3 it is no different.
  stage("ring3");
  fresh(7, WRITABLE | USER);
  user_touch(READ, AT + 0x7000, 0);
  obs("user.read", *leaf(7) & AD);
  user_touch(WRITE, AT + 0x7000, 0xc3);
  obs("user.write", *leaf(7) & AD);
  done();
}
