// # The serial port, by interrupt
//
// Five causes share one line, and the identification register names the most urgent. Each is acknowledged in its own way; a cause that is switched on while its
// condition holds asks at once, or drivers that sleep would sleep for ever. All through the chip's loop-back, so that nothing has to be at the other end.

#include "irq.h"

#define COM1 0x3f8
#define DATA COM1
#define IER (COM1 + 1)
#define IIR (COM1 + 2)
#define FCR (COM1 + 2)
#define LCR (COM1 + 3)
#define MCR (COM1 + 4)
#define LSR (COM1 + 5)
#define MSR (COM1 + 6)

static volatile u8 identified;
static void on_interrupt(u32 vector) {
  (void)vector;
  identified = inb(IIR);
  outb(IER, 0);
  outb(PIC1, 0x20);
}
HANDLER(0x24)

// Everything is written down here and reported at the end: while the port is looped back it cannot report.
#define MOST 64
static const char *names[MOST];
static word values[MOST];
static u32 kept;
static void keep(const char *name, word value) {
  names[kept] = name;
  values[kept++] = value;
}
static u32 line_is_up(void) {
  return pic_irr(PIC1) >> 4 & 1;
}
static void flush(void) {
  for (u32 i = 0; i < 100000 && !(inb(LSR) & 0x40); i++) asm volatile("pause");
  while (inb(LSR) & 1) inb(DATA);
  inb(IIR);
  inb(MSR);
}
static void arrive(u8 byte) {
  outb(DATA, byte);
  for (u32 i = 0; i < 100000 && !(inb(LSR) & 0x40); i++) asm volatile("pause");
}

static void arrive_unseen(u8 byte) { // reading the line status would clear the error that is to be seen
  outb(DATA, byte);
  for (u32 i = 0; i < 2000; i++) inb(COM1 + 7);
}

_Noreturn void main(void) {
  INSTALL(0x24);
  pic_init(1);
  outb(0x4d0, 0x10); // level-triggered, so that the request register shows the line itself
  stage("looped");
  flush();
  outb(LCR, 0x03);
  outb(FCR, 0x00);
  outb(MCR, 0x18); // loop-back, OUT2
  outb(IER, 0);
  flush();

  // Receiver
  keep("idle.iir", inb(IIR) & 0x0f);
  arrive(0x41);
  keep("data.line.off", line_is_up());
  outb(IER, 0x01);
  keep("data.iir", inb(IIR) & 0x0f);
  keep("data.read", inb(DATA));
  keep("data.after", inb(IIR) & 0x0f);
  // Off and on again with a byte waiting: the request must come back.
  arrive(0x42);
  outb(IER, 0);
  keep("reenable.off", inb(IIR) & 0x0f);
  outb(IER, 0x01);
  keep("reenable.on", inb(IIR) & 0x0f);
  inb(DATA);

  // Transmitter: enabling asks at once; reading the identification is the acknowledgement; enabling anew asks anew.
  outb(IER, 0x02);
  keep("empty.iir", inb(IIR) & 0x0f);
  keep("empty.told", inb(IIR) & 0x0f);
  outb(IER, 0);
  outb(IER, 0x02);
  keep("empty.again", inb(IIR) & 0x0f);
  outb(IER, 0);

  // Overrun, more urgent than data, and data more urgent than an empty transmitter
  arrive(0x43);
  arrive_unseen(0x44);
  outb(IER, 0x07);
  keep("overrun.iir", inb(IIR) & 0x0f);
  keep("overrun.lsr", inb(LSR) & 0x03);
  keep("overrun.next", inb(IIR) & 0x0f);
  keep("overrun.cleared", inb(LSR) & 0x02);
  flush();

  // Modem lines: RTS is seen as CTS, DTR as DSR, and a change is an interrupt.
  outb(IER, 0x08);
  outb(MCR, 0x1a); // RTS
  keep("modem.iir", inb(IIR) & 0x0f);
  keep("modem.status", inb(MSR));
  keep("modem.after", inb(IIR) & 0x0f);
  keep("modem.cleared", inb(MSR) & 0x0f);
  outb(MCR, 0x1b); // DTR as well
  keep("modem.dsr", inb(MSR));
  outb(IER, 0);
  outb(MCR, 0x18);
  inb(MSR);

  // FIFO: interrupts at a level, flushed by a bit, sixteen deep
  outb(FCR, 0x87); // enabled, both flushed, trigger at 8
  outb(IER, 0x01);
  keep("fifo.iir", inb(IIR) & 0xcf);
  for (u8 i = 0; i < 8; i++) arrive((u8)(0x60 + i));
  keep("fifo.trigger", inb(IIR) & 0x0f);
  keep("fifo.first", inb(DATA));
  outb(FCR, 0x83); // flush the receiver
  keep("fifo.flushed", inb(LSR) & 1);
  keep("fifo.quiet", inb(IIR) & 0x0f);
  for (u8 i = 0; i < 16; i++) arrive((u8)(0x70 + i));
  keep("fifo.full", inb(LSR) & 0x03);
  arrive_unseen(0x55);
  keep("fifo.overrun", inb(LSR) & 0x03);
  u32 count = 0;
  word last = 0;
  while (inb(LSR) & 1 && count < 40) {
    last = inb(DATA);
    count++;
  }
  keep("fifo.count", count);
  keep("fifo.last", last);
  outb(FCR, 0);
  outb(IER, 0);
  flush();

  // The line itself, through the 8259, with and without OUT2.
  outb(PIC1 + 1, 0xff);
  outb(MCR, 0x08); // out of loop-back, OUT2
  outb(IER, 0x02);
  keep("line.out2", line_is_up());
  outb(IER, 0);
  keep("line.down", line_is_up());
  outb(MCR, 0x00); // the line goes through OUT2
  outb(IER, 0x02);
  keep("line.gated", line_is_up());
  outb(IER, 0);
  outb(MCR, 0x08);
  forget();
  outb(PIC1 + 1, 0xef);
  outb(IER, 0x02);
  keep("interrupt.count", wait_for(1));
  keep("interrupt.iir", identified & 0x0f);
  outb(PIC1 + 1, 0xff);
  outb(IER, 0);
  outb(0x4d0, 0);

  // Configuration that must read back
  outb(LCR, 0x83);
  outb(DATA, 0x34);
  outb(IER, 0x12);
  keep("divisor", (word)inb(IER) << 8 | inb(DATA));
  outb(DATA, 1);
  outb(IER, 0);
  outb(LCR, 0x03);
  keep("ier.mask", (outb(IER, 0xff), inb(IER)));
  outb(IER, 0);
  outb(COM1 + 7, 0x5a);
  keep("scratch", inb(COM1 + 7));

  for (u32 i = 0; i < kept; i++) obs(names[i], values[i]);
  done();
}
