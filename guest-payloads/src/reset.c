// # Three more ways to start again
//
// Beside the triple fault a PC has a reset register in the chipset, a wire from the keyboard controller, which was there first, and a shortcut to that wire at port
// 0x92. Nothing can be reported afterwards, so `done` comes first.

#include "irq.h"
#include "last.h"

static void pull(void) {
#if WAY == 1
  outb(0xcf9, 0x02);
  outb(0xcf9, 0x06); // the rising bit counts
#elif WAY == 2
  for (u32 patience = 0; patience < 100000 && inb(0x64) & 2; patience++) continue;
  outb(0x64, 0xfe);
#else
  u8 value = inb(0x92) & ~1;
  outb(0x92, value);
  outb(0x92, value | 1);
#endif
}

_Noreturn void main(void) {
  stage("before");
#if WAY == 1
  outb(0xcf9, 0x02); // how, but not now
  obs("kind", inb(0xcf9) & 6);
#elif WAY == 2
  outb(0x64, 0xff); // a pulse on no line
  obs("pulse.none", 1);
#else
  obs("fast", inb(0x92) & 1);
#endif
  say_done();
  pull();
  for (u32 patience = 0; patience < 1000000; patience++) asm volatile("pause");
  ABORT("the processor went on after a reset");
}

static void on_interrupt(u32 vector) {
  (void)vector;
}
