// # The clock chip
//
// An MC146818: time of day in a few bytes of memory that keeps itself, and three interrupts on IRQ 8, named in register C, which forgets when it is read.

#include "irq.h"

static u8 cmos(u8 index) {
  outb(0x70, index);
  return inb(0x71);
}
static void set_cmos(u8 index, u8 value) {
  outb(0x70, index);
  outb(0x71, value);
}
static volatile u8 flags;
static void on_interrupt(u32 vector) {
  (void)vector;
  flags = cmos(0x0c);
  outb(PIC2, 0x20);
  outb(PIC1, 0x20);
}
HANDLER(0x28)

static u32 is_decimal(u8 value, u8 low, u8 high) {
  return (value & 15) <= 9 && value >= low && value <= high;
}
static u32 wait_flag(u8 mask) { // polls register C
  for (u32 patience = 0; patience < 3000000; patience++)
    if (cmos(0x0c) & mask) return 1;
  return 0;
}

_Noreturn void main(void) {
  INSTALL(0x28);
  pic_init(1);

  stage("registers");
  obs("valid", cmos(0x0d));
  set_cmos(0x0b, 0x02); // 24 hours, BCD, no interrupts
  obs("b", cmos(0x0b) & 0x7f);
  obs("a.divider", cmos(0x0a) & 0x70);
  set_cmos(0x50, 0xa5);
  obs("memory", cmos(0x50));
  set_cmos(0x50, 0);

  stage("time");
  for (u32 patience = 0; patience < 100000 && cmos(0x0a) & 0x80; patience++) asm volatile("pause");
  obs("seconds", is_decimal(cmos(0), 0, 0x59));
  obs("minutes", is_decimal(cmos(2), 0, 0x59));
  obs("hours", is_decimal(cmos(4), 0, 0x23));
  obs("day", is_decimal(cmos(7), 1, 0x31));
  obs("month", is_decimal(cmos(8), 1, 0x12));
  set_cmos(0x0b, 0x82);
  set_cmos(9, 0x26); // a year of two digits, so that the two formats differ
  set_cmos(0x0b, 0x02);
  u8 bcd = cmos(8), year = cmos(9);
  set_cmos(0x0b, 0x06); // the same in binary
  obs("binary", cmos(8) == (bcd >> 4) * 10 + (bcd & 15));
  obs("binary.year", cmos(9) == (year >> 4) * 10 + (year & 15));
  set_cmos(0x0b, 0x02);

  // Setting the time stops it first.
  set_cmos(0x0b, 0x82);
  set_cmos(4, 0x13);
  set_cmos(2, 0x37);
  set_cmos(0, 0x21);
  obs("set.hours", cmos(4));
  obs("set.minutes", cmos(2));
  obs("set.seconds", cmos(0));
  set_cmos(0x0b, 0x00); // twelve hours
  set_cmos(0x0b, 0x02);

  stage("periodic");
  cmos(0x0c);
  set_cmos(0x0a, 0x26); // 1024 a second
  set_cmos(0x0b, 0x42);
  outb(PIC1 + 1, 0xfb);
  outb(PIC2 + 1, 0xfe);
  forget();
  obs("periodic.came", wait_for(2) >= 2);
  obs("periodic.flags", flags & 0xc0);
  outb(PIC2 + 1, 0xff);
  // Unread, the flag holds the line, and there are no more interrupts.
  set_cmos(0x0b, 0x02);
  cmos(0x0c);
  obs("read.clears", cmos(0x0c) & 0xf0);

  // Flags come without interrupts as well, for those who ask.
  set_cmos(0x0a, 0x26);
  obs("polled", wait_flag(0x40));
  done();
}
