// # Every permission, every access
//
// Two levels of entries, each writable or not and for ring 3 or not, the last one executable or not; CR0.WP set or clear; and six accesses, a read, a
// write and a call from either ring. One word of the report holds the six outcomes of one combination, five bits each: 31 for an access that came
// through, else the error code. The rule that they all follow is short; a shadow page table has to follow it without having CR0.WP.

#include "tables.h"

static PAGE volatile u8 frame[4096];

static word five(word seen) {
  if (seen < 0x1000) return 31;
  return seen < 0x2000 ? seen & 31 : 30;
}

static word six(void) {
  word seen = 0;
  for (u32 kind = READ; kind <= EXECUTE; kind++) seen |= five(touch(kind, AT, 0xc3)) << 5 * kind;
  for (u32 kind = READ; kind <= EXECUTE; kind++) seen |= five(user_touch(kind, AT, 0xc3)) << (15 + 5 * kind);
  return seen;
}

_Noreturn void main(void) {
  frame[0] = 0xc3; // RET: what a call from either ring comes back by
  tables_on();
  for (u32 wp = 0; wp < 2; wp++) {
    write_cr0(wp ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
    stage(wp ? "wp1" : "wp0");
    for (u32 upper = 0; upper < 4; upper++) {
      for (u32 lower = 0; lower < (HAS_NX ? 8 : 4); lower++) {
        *directory(0) = address_of(tables_page) | PRESENT | (upper & 1 ? WRITABLE : 0) | (upper & 2 ? USER : 0);
        *leaf(0) = address_of(frame) | PRESENT | (lower & 1 ? WRITABLE : 0) | (lower & 2 ? USER : 0) | (lower & 4 ? (entry)NX : 0);
        flush();
        obs(compose(wp ? "wp1." : "wp0.", upper << 4 | lower), six());
      }
    }
  }
  done();
}
