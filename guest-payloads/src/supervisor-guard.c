// # Guarding ring 0 from ring 3's pages
//
// SMEP refuses ring 0 to execute what ring 3 could have written, SMAP to touch it at all unless RFLAGS.AC says that it means to. A hypervisor with shadow
// tables meets a trap here: to emulate CR0.WP = 0 it may turn a user page into a supervisor page, and then SMEP would no longer see it.

#include "tables.h"

#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)

static PAGE volatile u8 frame[4096];

static void set_ac(u32 on) {
  asm volatile("pushf\n\tpop %%rax\n\tand $~0x40000, %%eax\n\tor %0, %%eax\n\tpush %%rax\n\tpopf" : : "r"(on ? 0x40000 : 0) : "rax", "memory", "cc");
}

// The probe loads its own flags only when it traps, so AC set before it is in force during the access.
static word guarded(enum access kind, u32 ac) {
  set_ac(ac);
  word seen = touch(kind, AT, 0xc3);
  set_ac(0);
  return seen;
}

_Noreturn void main(void) {
  u32 leaf7[4];
  cpuid(7, 0, leaf7);
  word both = (leaf7[1] >> 7 & 1) | (leaf7[1] >> 20 & 1) << 1;
  stage("features");
  obs("features", both);
  if (both != 3) done();

  frame[0] = 0xc3;
  tables_on();
  rb_pml4[0] &= ~USER; // ring 0's own code and stack are its own now
  flush();
  *leaf(0) = address_of(frame) | PRESENT | WRITABLE | USER;
  *leaf(1) = address_of(frame) | PRESENT | WRITABLE;
  for (u32 control = 0; control < 4; control++) {
    write_cr4((read_cr4() & ~(CR4_SMEP | CR4_SMAP)) | (control & 1 ? CR4_SMEP : 0) | (control & 2 ? CR4_SMAP : 0));
    stage(control == 0 ? "neither" : control == 1 ? "smep" : control == 2 ? "smap" : "both");
    obs(compose("read.", control), guarded(READ, 0));
    obs(compose("read.ac.", control), guarded(READ, 1));
    obs(compose("write.", control), guarded(WRITE, 0));
    obs(compose("write.ac.", control), guarded(WRITE, 1));
    obs(compose("execute.", control), guarded(EXECUTE, 0));
    obs(compose("execute.ac.", control), guarded(EXECUTE, 1));
    obs(compose("own.execute.", control), touch(EXECUTE, AT + 0x1000, 0));
    // The same with CR0.WP clear and the page read-only: the write is allowed, and must not make the page ring 0's own.
    *leaf(0) &= ~WRITABLE;
    write_cr0(read_cr0() & ~CR0_WP);
    flush();
    obs(compose("wp0.write.", control), guarded(WRITE, 0));
    obs(compose("wp0.write.ac.", control), guarded(WRITE, 1));
    obs(compose("wp0.execute.", control), guarded(EXECUTE, 0));
    *leaf(0) |= WRITABLE;
    write_cr0(read_cr0() | CR0_WP);
    flush();
  }
  done();
}
