// # The keyboard controller
//
// A processor of its own behind two ports. What it has to say waits in one byte, whoever it comes from, and the status tells whether that was the mouse.

#include "irq.h"

#define FULL 1
#define BUSY 2
#define MOUSE 0x20

static void command(u8 value) {
  for (u32 patience = 0; patience < 100000 && inb(0x64) & BUSY; patience++) continue;
  outb(0x64, value);
}
static void data(u8 value) {
  for (u32 patience = 0; patience < 100000 && inb(0x64) & BUSY; patience++) continue;
  outb(0x60, value);
}
/** The byte that waits, with the status before it in the upper half; all ones when none comes. */
static u32 answer(void) {
  for (u32 patience = 0; patience < 1000000; patience++) {
    u32 status = inb(0x64);
    if (status & FULL) return (status & MOUSE) << 8 | inb(0x60);
  }
  return 0xffffffffu;
}

_Noreturn void main(void) {
  pic_init(1);
  command(0xad); // nobody speaks meanwhile
  command(0xa7);
  for (u32 i = 0; i < 32 && inb(0x64) & FULL; i++) inb(0x60);

  stage("test");
  command(0xaa);
  obs("self", answer());
  command(0xab);
  obs("port", answer());

  stage("command");
  command(0x60);
  data(0x30); // both clocks off, no interrupts
  command(0x20);
  obs("byte", answer() & 0x33);

  stage("buffer");
  obs("empty", inb(0x64) & FULL);
  command(0xd2);
  data(0x5a);
  obs("full", inb(0x64) & FULL);
  obs("keyboard", answer());
  obs("taken", inb(0x64) & FULL);
  command(0xd3);
  data(0xa5);
  obs("mouse", answer());

  stage("gate");
  command(0xd0);
  obs("gate.open", answer() & 3); // not in reset, address line 20 open
  done();
}

static void on_interrupt(u32 vector) {
  (void)vector;
}
