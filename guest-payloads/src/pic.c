// # Two 8259s
//
// Fifteen lines, one wire to the processor. The chips choose who is next, tell the vector when asked, and remember who is being served until they are told
// that it is over. Sources here: IRQ 0 is the timer, IRQ 4 the serial port, whose "transmitter empty" interrupt can be switched on and off at
// will, and IRQ 8 the clock chip, behind the second chip.

#include "irq.h"

#define COM1 0x3f8

static volatile enum { LEAVE, ACKNOWLEDGE, LOOK } wanted;
static volatile u8 isr_inside, irr_inside, isr2_inside;

static void on_interrupt(u32 vector) {
  isr_inside = pic_isr(PIC1);
  irr_inside = pic_irr(PIC1);
  isr2_inside = pic_isr(PIC2);
  if (vector == 0x24) outb(COM1 + 1, 0); // the serial port holds its line until it is served
  if (vector == 0x28) {
    outb(0x70, 0x0c);
    inb(0x71);
  }
  if (wanted != ACKNOWLEDGE) return;
  if (vector >= 0x28) outb(PIC2, 0x20);
  outb(PIC1, 0x20);
}
HANDLER(0x20)
HANDLER(0x24)
HANDLER(0x27)
HANDLER(0x28)
HANDLER(0x2f)

static void raise_serial(void) {
  outb(COM1 + 1, 2);
}
/** Raises IRQ 0 and waits until the chip has seen it. */
static u32 raise_timer(void) {
  pit_once(20);
  for (u32 patience = 0; patience < 100000; patience++)
    if (pic_irr(PIC1) & 1) return 1;
  return 0;
}

_Noreturn void main(void) {
  INSTALL(0x20);
  INSTALL(0x24);
  INSTALL(0x27);
  INSTALL(0x28);
  INSTALL(0x2f);
  outb(COM1 + 4, inb(COM1 + 4) | 0x08); // OUT2 connects the serial port's interrupt to the bus
  outb(COM1 + 1, 0);
  outb(0x4d0, 0);
  outb(0x4d1, 0);

  stage("mask");
  pic_init(1);
  obs("mask.after.init", (word)inb(PIC1 + 1) << 8 | inb(PIC2 + 1));
  outb(PIC1 + 1, 0xa5);
  outb(PIC2 + 1, 0x5a);
  obs("mask.readback", (word)inb(PIC1 + 1) << 8 | inb(PIC2 + 1));
  outb(PIC1 + 1, 0xff);
  outb(PIC2 + 1, 0xff);

  // A masked line is remembered in the request register all the same.
  stage("request");
  obs("request.seen", raise_timer());
  obs("request.isr", pic_isr(PIC1));
  forget();
  obs("request.masked", wait_for(0));

  stage("service");
  wanted = LOOK;
  outb(PIC1 + 1, 0xfe);
  obs("service.count", wait_for(1));
  obs("service.vector", arrived[0]);
  obs("service.isr", isr_inside);
  obs("service.irr", irr_inside & 1);
  // Not over yet: the next one of the same priority waits.
  forget();
  obs("blocked.raised", raise_timer());
  interrupts_on();
  for (u32 i = 0; i < 100; i++) asm volatile("nop");
  interrupts_off();
  obs("blocked.count", arrivals);
  outb(PIC1, 0x20); // end of interrupt
  obs("blocked.isr", pic_isr(PIC1));
  wanted = ACKNOWLEDGE;
  obs("released.count", wait_for(1));
  obs("released.isr", pic_isr(PIC1));

  // Two at once: the lower line first. Unless the priorities have been turned, so that line 0 is the last.
  stage("priority");
  outb(PIC1 + 1, 0xee);
  forget();
  raise_timer();
  raise_serial();
  obs("priority.count", wait_for(2));
  obs("priority.order", order());
  outb(PIC1, 0xc0); // set priority: line 0 is the lowest
  forget();
  raise_timer();
  raise_serial();
  obs("rotated.count", wait_for(2));
  obs("rotated.order", order());
  outb(PIC1, 0xc7); // and back

  // While a high one is served, a low one waits. In special mask mode, what is masked no longer holds others up.
  stage("special-mask");
  wanted = LEAVE;
  forget();
  raise_timer();
  wait_for(1);
  raise_serial();
  forget();
  interrupts_on();
  for (u32 i = 0; i < 100; i++) asm volatile("nop");
  interrupts_off();
  obs("held.count", arrivals);
  outb(PIC1, 0x68);     // special mask mode
  outb(PIC1 + 1, 0xef); // and line 0, which is in service, masked
  obs("special.count", wait_for(1));
  obs("special.vector", arrived[0]);
  outb(PIC1, 0x48);
  outb(PIC1, 0x64); // specific end of interrupt: line 4
  outb(PIC1, 0x60); // and line 0
  obs("special.isr", pic_isr(PIC1));

  // Polled: the processor asks instead of being told. The answer also is the acknowledgement.
  stage("poll");
  outb(PIC1 + 1, 0xef);
  raise_serial();
  outb(PIC1, 0x0c);
  u8 answer = inb(PIC1);
  outb(COM1 + 1, 0); // before the report, whose bytes would raise it again
  obs("poll.answer", answer);
  obs("poll.isr", pic_isr(PIC1));
  outb(PIC1, 0x20);
  outb(PIC1, 0x0c);
  obs("poll.nothing", inb(PIC1) & 0x80);

  // Automatic end of interrupt: nothing is ever in service.
  stage("automatic");
  pic_init(3);
  outb(PIC1 + 1, 0xfe);
  wanted = LOOK;
  forget();
  raise_timer();
  obs("automatic.count", wait_for(1));
  obs("automatic.isr", isr_inside);
  pic_init(1);

  // The second chip asks through line 2 of the first.
  stage("cascade");
  outb(PIC1 + 1, 0xfb);
  outb(PIC2 + 1, 0xfe);
  wanted = ACKNOWLEDGE;
  forget();
  outb(0x70, 0x0a);
  outb(0x71, 0x26); // about a thousand a second
  outb(0x70, 0x0b);
  outb(0x71, inb(0x71) | 0x40);
  obs("cascade.came", wait_for(1) > 0);
  outb(0x70, 0x0b);
  outb(0x71, inb(0x71) & ~0x40);
  obs("cascade.vector", arrived[0]);
  obs("cascade.isr", (word)isr_inside << 8 | isr2_inside);

  // A level-triggered line asks again for as long as it is up. The handler above serves the serial port, so here it must not.
  stage("level");
  pic_init(1);
  outb(0x4d0, 0x10);
  obs("level.control", inb(0x4d0));
  outb(PIC1 + 1, 0xef);
  raise_serial();
  obs("level.up", pic_irr(PIC1) & 0x10);
  outb(COM1 + 1, 0);
  obs("level.down", pic_irr(PIC1) & 0x10);
  outb(0x4d0, 0);
  done();
}
