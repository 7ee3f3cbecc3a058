// # The 8254
//
// Three counters at 1.193182 MHz. The first is the machine's clock tick, the third can be asked through port 0x61. A driver reads a running counter by latching
// it, and finds out what a counter was told by reading it back.

#include "irq.h"

static void on_interrupt(u32 vector) {
  (void)vector;
  outb(PIC1, 0x20);
}
HANDLER(0x20)

static u32 latched(u32 channel) {
  outb(0x43, (u8)(channel << 6));
  u32 low = inb((u16)(0x40 + channel));
  return low | (u32)inb((u16)(0x40 + channel)) << 8;
}
static u8 status(u32 channel) {
  outb(0x43, (u8)(0xe0 | 2 << channel));
  return inb((u16)(0x40 + channel));
}
static void program(u32 channel, u8 mode, u32 count) {
  outb(0x43, (u8)(channel << 6 | 0x30 | mode));
  outb((u16)(0x40 + channel), (u8)count);
  outb((u16)(0x40 + channel), (u8)(count >> 8));
}
static void spend(u32 ticks) { // of the third counter, which nothing else uses here
  u32 start = latched(2);
  for (u32 patience = 0; patience < 1000000; patience++)
    if (((start - latched(2)) & 0xffff) >= ticks) return;
}

_Noreturn void main(void) {
  INSTALL(0x20);
  pic_init(1);
  outb(0x61, inb(0x61) | 1); // gate of the third counter open
  program(2, 4, 0); // rate generator over 65,536

  stage("status");
  program(0, 4, 0x1234);
  obs("status.mode", status(0) & 0x3f);
  program(0, 0, 0xffff);
  obs("status.mode0", status(0) & 0x3f);
  obs("status.out.low", status(0) >> 7);
  program(0, 0, 50);
  spend(300);
  obs("status.out.high", status(0) >> 7);
  outb(0x43, 0x30);
  obs("status.null", status(0) >> 6 & 1); // no count has been written yet
  outb(0x40, 0xff);
  outb(0x40, 0xff);

  stage("counting");
  program(0, 4, 0x8000);
  u32 first = latched(0);
  spend(200);
  u32 second = latched(0);
  obs("counts.down", second < first);
  obs("counts.in.range", first <= 0x8000 && second > 0);
  // A latched value stays until both bytes are read, whatever the counter does.
  outb(0x43, 0x00);
  u32 low = inb(0x40);
  spend(600);
  u32 high = inb(0x40);
  u32 after = latched(0);
  obs("latch.held", (low | high << 8) > after);
  // And a second command does not take another one in its place.
  u32 kept = 0;
  for (u32 attempt = 0; attempt < 5 && !kept; attempt++) {
    program(0, 4, 0);
    outb(0x43, 0x00);
    spend(600);
    u32 value = latched(0);
    kept = ((value - latched(0)) & 0xffff) >= 600;
  }
  obs("latch.first", kept);

  // One byte only: the high half is zero.
  stage("one-byte");
  outb(0x43, 0x14); // channel 0, low byte only, mode 2
  outb(0x40, 0x80);
  obs("one.byte.small", inb(0x40) <= 0x80);

  // Decimal: each nibble counts to nine.
  stage("decimal");
  outb(0x43, 0x35);
  outb(0x40, 0x00);
  outb(0x40, 0x10); // 1000
  u32 decimal = 1;
  for (u32 i = 0; i < 50; i++) {
    u32 value = latched(0);
    for (u32 nibble = 0; nibble < 16; nibble += 4)
      if ((value >> nibble & 15) > 9) decimal = 0;
    if (value > 0x1000) decimal = 0;
  }
  obs("decimal", decimal);

  // Mode 0 says "terminal count" once, mode 2 again and again.
  stage("interrupts");
  program(0, 0, 0);
  outb(PIC1 + 1, 0xfe);
  interrupts_on(); // what the counter asked for while it was masked, if anything
  spend(50);
  interrupts_off();
  forget();
  pit_once(100);
  wait_for(1);
  spend(2000);
  interrupts_on();
  spend(2000);
  interrupts_off();
  obs("once", arrivals);
  forget();
  program(0, 4, 1000);
  obs("rate", wait_for(5) >= 5);
  program(0, 0, 0);
  outb(PIC1 + 1, 0xff);

  // The third counter, as a stop-watch: its output is bit 5 of port 0x61, its gate bit 0.
  stage("speaker");
  outb(0x61, (u8)((inb(0x61) & ~2) | 1));
  program(2, 0, 2000);
  obs("watch.low", inb(0x61) >> 5 & 1);
  u32 up = 0;
  for (u32 patience = 0; patience < 1000000 && !up; patience++) up = inb(0x61) >> 5 & 1;
  obs("watch.high", up);
  outb(0x61, inb(0x61) & ~1);
  program(2, 0, 2000);
  u32 stopped = latched(2);
  for (u32 i = 0; i < 100; i++) inb(0x61);
  obs("gate.stops", latched(2) == stopped);
  // Bit 4 changes with each refresh of memory; delay loops of old counted it.
  u32 before = inb(0x61) & 0x10, toggled = 0;
  for (u32 patience = 0; patience < 1000000 && !toggled; patience++) toggled = (inb(0x61) & 0x10) != before;
  obs("refresh", toggled);
  done();
}
