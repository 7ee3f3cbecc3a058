// # The I/O APIC
//
// Where the 8259s gave a processor one wire and a vector on demand, the I/O APIC sends messages: for each of its pins a 64-bit entry says to whom, with which
// vector, and whether the line is an edge or a level. For a level it remembers that it has sent until the processor says "end of interrupt".

#include "apic.h"

#define COM1 0x3f8
static u32 io_read(u32 index) {
  *(volatile u32 *)0xfec00000ul = index;
  return *(volatile u32 *)0xfec00010ul;
}
static void io_write(u32 index, u32 value) {
  *(volatile u32 *)0xfec00000ul = index;
  *(volatile u32 *)0xfec00010ul = value;
}
static void redirect(u32 pin, u32 low, u32 high) {
  io_write(0x10 + 2 * pin, MASKED);
  io_write(0x11 + 2 * pin, high);
  io_write(0x10 + 2 * pin, low);
}

#define LEVEL 0x8000u
#define REMOTE_IRR 0x4000u
#define TIMER_PIN 2 // the 8254's output: on a PC pin 2, because pin 0 is the 8259s' own wire
#define SERIAL_PIN 4

static volatile u32 serve = 1, acknowledge = 1, remote_inside, tmr_inside;

static void on_interrupt(u32 vector) {
  if (vector == 0x35) {
    remote_inside = io_read(0x10 + 2 * SERIAL_PIN) & REMOTE_IRR;
    tmr_inside = (u32)apic_bit(APIC_TMR, 0x35);
    if (serve || arrivals >= 3) outb(COM1 + 1, 0);
  }
  if (acknowledge) APIC(APIC_EOI) = 0;
}
HANDLER(0x31)
HANDLER(0x35)

static void settle(void) {
  interrupts_on();
  for (u32 i = 0; i < 200; i++) asm volatile("nop");
  interrupts_off();
}

_Noreturn void main(void) {
  INSTALL(0x31);
  INSTALL(0x35);
  apic_on();
  u32 me = APIC(APIC_ID) & 0xff000000;
  outb(COM1 + 4, inb(COM1 + 4) | 0x08);
  outb(COM1 + 1, 0);

  stage("registers");
  obs("pins", io_read(1) >> 16 & 0xff);
  obs("version", (io_read(1) & 0xff) >= 0x11);
  io_write(0, 0x0f000000);
  obs("id", io_read(0) & 0x0f000000);
  io_write(0, 0);
  io_write(0x10 + 2 * 20, 0xffffffff); // delivery status and remote IRR are not software's to set
  obs("entry.mask", io_read(0x10 + 2 * 20) & 0xffff5000);
  io_write(0x10 + 2 * 20, MASKED);
  *(volatile u32 *)0xfec00000ul = 0x10;
  obs("select", *(volatile u32 *)0xfec00000ul & 0xff);

  stage("edge");
  redirect(TIMER_PIN, 0x31, me);
  forget();
  pit_once(100);
  obs("edge.count", wait_for(1));
  obs("edge.vector", arrived[0]);
  obs("edge.remote", io_read(0x10 + 2 * TIMER_PIN) & REMOTE_IRR);

  // Masked, an edge is lost or kept, as the chip has it; it must not come while masked.
  io_write(0x10 + 2 * TIMER_PIN, 0x31 | MASKED);
  forget();
  pit_once(100);
  settle();
  settle();
  obs("edge.masked", arrivals);
  redirect(TIMER_PIN, MASKED, 0);

  stage("level");
  redirect(SERIAL_PIN, 0x35 | LEVEL, me);
  forget();
  outb(COM1 + 1, 2); // the transmitter is empty: the line goes up and stays
  obs("level.count", wait_for(1));
  obs("level.remote", remote_inside);
  obs("level.tmr", tmr_inside);
  obs("level.cleared", io_read(0x10 + 2 * SERIAL_PIN) & REMOTE_IRR);
  settle();
  obs("level.once", arrivals);

  // A handler that acknowledges without serving is called again.
  serve = 0;
  forget();
  outb(COM1 + 1, 2);
  obs("level.again", wait_for(3));
  settle();
  obs("level.over", arrivals);
  serve = 1;

  // Without EOI, once and no more, whatever the line does.
  acknowledge = 0;
  forget();
  outb(COM1 + 1, 2);
  wait_for(1);
  outb(COM1 + 1, 2);
  settle();
  obs("level.waits", arrivals);
  obs("level.waiting", io_read(0x10 + 2 * SERIAL_PIN) & REMOTE_IRR);
  acknowledge = 1;
  APIC(APIC_EOI) = 0;
  settle();
  obs("level.after.eoi", arrivals);

  // Unmasking a level that is up sends.
  redirect(SERIAL_PIN, 0x35 | LEVEL | MASKED, me);
  forget();
  outb(COM1 + 1, 2);
  settle();
  obs("unmask.before", arrivals);
  io_write(0x10 + 2 * SERIAL_PIN, 0x35 | LEVEL);
  obs("unmask.after", wait_for(1));
  redirect(SERIAL_PIN, MASKED, 0);
  outb(COM1 + 1, 0);

  // To all, by the logical name.
  stage("logical");
  APIC(APIC_DFR) = 0xffffffff;
  APIC(APIC_LDR) = 0x04000000;
  redirect(TIMER_PIN, 0x31 | 0x800, 0x04000000);
  forget();
  pit_once(100);
  obs("logical.mine", wait_for(1));
  redirect(TIMER_PIN, 0x31 | 0x800, 0x08000000);
  forget();
  pit_once(100);
  settle();
  settle();
  obs("logical.other", arrivals);
  redirect(TIMER_PIN, 0x31 | 0x800, 0xff000000);
  forget();
  pit_once(100);
  obs("logical.all", wait_for(1));
  redirect(TIMER_PIN, 0x31 | 0x900, 0x04000000); // lowest priority, of one
  forget();
  pit_once(100);
  obs("lowest", wait_for(1));
  done();
}
