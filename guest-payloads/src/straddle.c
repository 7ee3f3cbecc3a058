// # Across the edge of a page
//
// An access of several bytes may begin on a page that is there and end on one that is not. Then nothing may have been written, and CR2 names the first
// byte that could not be reached, not the first byte of the access.

#include "tables.h"

static PAGE volatile u8 first[4096], after[4096];

#define EDGE (AT + 4096)

// A four-byte store that may fault, as a probe of code in memory: the code finds its operands in fixed places.
static volatile struct {
  word address;
  u32 value;
} operand;
extern u8 straddle_store[], straddle_load[];
asm(".section .text.straddle, \"ax\"\n"
#if MODE == 64
    "straddle_store: movq operand, %rdx\n movl operand+8, %eax\n movl %eax, (%rdx)\n ret\n"
    "straddle_load: movq operand, %rdx\n movl (%rdx), %eax\n movl %eax, operand+8\n ret\n"
#else
    "straddle_store: movl operand, %edx\n movl operand+4, %eax\n movl %eax, (%edx)\n ret\n"
    "straddle_load: movl operand, %edx\n movl (%edx), %eax\n movl %eax, operand+4\n ret\n"
#endif
    ".text\n");

static word store(word address, u32 value) {
  operand.address = address;
  operand.value = value;
  return outcome(EXECUTE, probe(EXECUTE, straddle_store, 0));
}
static word load(word address) {
  operand.address = address;
  operand.value = 0;
  return outcome(EXECUTE, probe(EXECUTE, straddle_load, 0));
}
static void reset(entry lower, entry upper) {
  for (u32 i = 0; i < 4; i++) {
    first[4092 + i] = (u8)(0x10 + i);
    after[i] = (u8)(0x20 + i);
  }
  *leaf(0) = lower ? address_of(first) | lower : 0;
  *leaf(1) = upper ? address_of(after) | upper : 0;
  flush();
}
static word bytes(void) {
  return (word)first[4094] << 24 | (word)first[4095] << 16 | (word)after[0] << 8 | after[1];
}

_Noreturn void main(void) {
  tables_on();
  write_cr0(read_cr0() | CR0_WP);

  stage("both");
  reset(PRESENT | WRITABLE, PRESENT | WRITABLE);
  obs("both.load", load(EDGE - 2));
  obs("both.value", operand.value);
  obs("both.store", store(EDGE - 2, 0xd4c3b2a1));
  obs("both.bytes", bytes());

  stage("second-absent");
  reset(PRESENT | WRITABLE, 0);
  obs("absent.load", load(EDGE - 2));
  obs("absent.load.cr2", trap_cr2 - AT);
  obs("absent.store", store(EDGE - 2, 0xd4c3b2a1));
  obs("absent.store.cr2", trap_cr2 - AT);
  obs("absent.bytes", bytes());

  stage("second-read-only");
  reset(PRESENT | WRITABLE, PRESENT);
  obs("readonly.store", store(EDGE - 3, 0xd4c3b2a1));
  obs("readonly.cr2", trap_cr2 - AT);
  obs("readonly.bytes", bytes());
  obs("readonly.dirty", (word)(*leaf(0) & DIRTY) << 8 | (word)(*leaf(1) & DIRTY));

  stage("first-absent");
  reset(0, PRESENT | WRITABLE);
  obs("first.store", store(EDGE - 1, 0xd4c3b2a1));
  obs("first.cr2", trap_cr2 - AT);
  obs("first.bytes", bytes());

  // The two frames need not be neighbours, nor different: here both pages are one frame.
  stage("one-frame");
  reset(PRESENT | WRITABLE, PRESENT | WRITABLE);
  *leaf(1) = address_of(first) | PRESENT | WRITABLE;
  flush();
  obs("same.store", store(EDGE - 2, 0xd4c3b2a1));
  obs("same.bytes", (word)first[4094] << 24 | (word)first[4095] << 16 | (word)first[0] << 8 | first[1]);
  done();
}
