// # Interrupts and ports, in C
//
// Handlers are written by the compiler (`interrupt` functions), one for each vector, and all do the same: note the order in which they came, look at what the
// payload wants looked at, and say "end of interrupt" if it wants that said. A payload waits with a bound: an interrupt that does not come is an
// observation, not a hang.

#pragma once

#include "rb.h"

static inline void outb(u16 port, u8 value) {
  asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}
static inline void outw(u16 port, u16 value) {
  asm volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}
static inline void outl(u16 port, u32 value) {
  asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}
static inline u8 inb(u16 port) {
  u8 value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline u16 inw(u16 port) {
  u16 value;
  asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline u32 inl(u16 port) {
  u32 value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static inline void interrupts_on(void) {
  asm volatile("sti\n\tnop" : : : "memory");
}
static inline void interrupts_off(void) {
  asm volatile("cli" : : : "memory");
}
static inline u64 tsc(void) {
  u32 low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return (u64)high << 32 | low;
}

// ## What came

/** Vectors in the order of their arrival, the oldest first; and how many in all. */
static volatile u8 arrived[16];
static volatile u32 arrivals;
/** Called with each vector, interrupts off. Each payload has one. */
static void on_interrupt(u32 vector);

static inline void forget(void) {
  arrivals = 0;
  for (u32 i = 0; i < 16; i++) arrived[i] = 0;
}
/** The first four arrivals in one word, the oldest in the highest byte. */
static inline word order(void) {
  return (word)arrived[0] << 24 | (word)arrived[1] << 16 | (word)arrived[2] << 8 | arrived[3];
}

struct interrupt_frame;
static inline void came(u32 vector) {
  if (arrivals < 16) arrived[arrivals] = (u8)vector;
  arrivals++;
  on_interrupt(vector);
}
#define HANDLER(vector) \
  __attribute__((interrupt)) static void handle_##vector(struct interrupt_frame *frame) { \
    (void)frame; \
    came(vector); \
  }

#if MODE == 64
#define GATE_BYTES 16
#else
#define GATE_BYTES 8
#endif
extern u8 rb_idt[];

/** Vectors 0x20 to 0x3f are in the runtime's table, but for 0x30, which is its own. The handler keeps the gate's selector and type. */
#define INSTALL(vector) install(vector, handle_##vector)
static inline void install(u32 vector, void (*handler)(struct interrupt_frame *)) {
  volatile u16 *gate = (volatile u16 *)(rb_idt + vector * GATE_BYTES);
  gate[0] = (u16)(word)handler;
  gate[3] = (u16)((word)handler >> 16);
}

/** Lets interrupts in until `count` have come or patience ends. How many came. */
static inline u32 wait_for(u32 count) {
  interrupts_on();
  for (u32 patience = 0; patience < 2000000 && arrivals < count; patience++) asm volatile("pause");
  interrupts_off();
  return arrivals;
}

// ## The two 8259s

#define PIC1 0x20
#define PIC2 0xa0
#define PIC_BASE 0x20 // vectors 0x20 to 0x2f

static inline void pic_init(u8 icw4) {
  outb(PIC1, 0x11);
  outb(PIC2, 0x11);
  outb(PIC1 + 1, PIC_BASE);
  outb(PIC2 + 1, PIC_BASE + 8);
  outb(PIC1 + 1, 4);
  outb(PIC2 + 1, 2);
  outb(PIC1 + 1, icw4);
  outb(PIC2 + 1, icw4);
  outb(PIC1 + 1, 0xff);
  outb(PIC2 + 1, 0xff);
}
static inline u8 pic_irr(u16 chip) {
  outb(chip, 0x0a);
  return inb(chip);
}
static inline u8 pic_isr(u16 chip) {
  outb(chip, 0x0b);
  return inb(chip);
}

// ## The 8254's channel 0, which is IRQ 0

/** One pulse after `ticks` of 1.19 MHz: mode 0. */
static inline void pit_once(u16 ticks) {
  outb(0x43, 0x30);
  outb(0x40, (u8)ticks);
  outb(0x40, (u8)(ticks >> 8));
}
