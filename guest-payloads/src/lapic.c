// # The local APIC
//
// Each processor's own interrupt controller. It holds what has been asked for (IRR) and what is being served (ISR), a bit for every vector; the vector's upper
// half is its priority. An interrupt goes in when its class is above what is being served and above the task priority.

#include "apic.h"

static volatile u32 isr_inside, ppr_inside, nested_at;
static volatile u32 acknowledge = 1, nest;

static void send_self(u32 vector) {
  APIC(APIC_ICR) = 0x40000 | vector; // shorthand: self
}
static void on_interrupt(u32 vector) {
  if (vector == SPURIOUS) return;
  isr_inside = (u32)apic_bit(APIC_ISR, vector);
  ppr_inside = APIC(APIC_PPR);
  if (nest) {
    u32 next = nest;
    nest = 0;
    send_self(next);
    interrupts_on();
    for (u32 i = 0; i < 10; i++) asm volatile("nop");
    interrupts_off();
    nested_at = arrivals;
  }
  if (acknowledge) APIC(APIC_EOI) = 0;
}
HANDLER(0x21)
HANDLER(0x25)
HANDLER(0x31)
HANDLER(0x35)
HANDLER(0x3f)

static void settle(void) {
  interrupts_on();
  for (u32 i = 0; i < 50; i++) asm volatile("nop");
  interrupts_off();
}

_Noreturn void main(void) {
  INSTALL(0x21);
  INSTALL(0x25);
  INSTALL(0x31);
  INSTALL(0x35);
  INSTALL(0x3f);
  apic_on();

  stage("registers");
  obs("version.integrated", (APIC(APIC_VERSION) & 0xf0) == 0x10);
  obs("version.entries", (APIC(APIC_VERSION) >> 16 & 0xff) >= 3);
  u32 leaf[4];
  cpuid(1, 0, leaf);
  obs("id", APIC(APIC_ID) >> 24 == leaf[1] >> 24);
  obs("cpuid.apic", leaf[3] >> 9 & 1);
  obs("base", (read_msr(APIC_BASE) & 0xfffff000) == 0xfee00000);
  obs("bootstrap", read_msr(APIC_BASE) >> 8 & 1);
  APIC(APIC_LDR) = 0xffffffff;
  obs("ldr.mask", APIC(APIC_LDR));
  APIC(APIC_DFR) = 0x0fffffff;
  obs("dfr.ones", APIC(APIC_DFR));
  APIC(APIC_DFR) = 0xffffffff;
  APIC(APIC_TPR) = 0x1ff;
  obs("tpr.mask", APIC(APIC_TPR));
  APIC(APIC_TPR) = 0;

  stage("self");
  forget();
  send_self(0x31);
  obs("self.irr", apic_bit(APIC_IRR, 0x31));
  settle();
  obs("self.count", arrivals);
  obs("self.isr", isr_inside);
  obs("self.ppr", ppr_inside);
  obs("self.after", apic_bit(APIC_IRR, 0x31) | apic_bit(APIC_ISR, 0x31) << 1);
  obs("self.tmr", apic_bit(APIC_TMR, 0x31));

  // Two requests for one vector before it is served are one.
  stage("merged");
  forget();
  send_self(0x31);
  send_self(0x31);
  settle();
  obs("merged", arrivals);

  stage("priority");
  forget();
  send_self(0x21);
  send_self(0x35);
  send_self(0x25);
  send_self(0x31);
  settle();
  obs("priority.order", order());

  // A higher class interrupts a handler, the same class does not.
  stage("nesting");
  forget();
  nest = 0x31;
  send_self(0x21);
  settle();
  obs("nested.higher", nested_at);
  forget();
  nest = 0x35;
  send_self(0x31);
  settle();
  obs("nested.same", nested_at);
  obs("nested.both", arrivals);

  stage("task-priority");
  forget();
  APIC(APIC_TPR) = 0x20;
  send_self(0x25);
  send_self(0x31);
  settle();
  obs("tpr.order", order());
  obs("tpr.ppr", APIC(APIC_PPR));
  obs("tpr.waits", apic_bit(APIC_IRR, 0x25));
#if MODE == 64
  // CR8 is the same register's upper half.
  word cr8;
  asm volatile("mov %%cr8, %0" : "=r"(cr8));
  obs("cr8.reads", cr8);
  asm volatile("mov %0, %%cr8" : : "r"(3ul));
  obs("cr8.writes", APIC(APIC_TPR));
  asm volatile("mov %0, %%cr8" : : "r"(0ul));
#else
  APIC(APIC_TPR) = 0;
#endif
  settle();
  obs("tpr.lowered", order());

  // Without EOI nothing of its class or below comes.
  stage("end");
  acknowledge = 0;
  forget();
  send_self(0x31);
  settle();
  send_self(0x25);
  settle();
  obs("end.held", arrivals);
  acknowledge = 1;
  APIC(APIC_EOI) = 0;
  settle();
  obs("end.came", arrivals);
  APIC(APIC_EOI) = 0; // with nothing in service: nothing

  // Switched off by software: what was asked for stays, the local sources mask themselves.
  stage("software");
  APIC(APIC_LVT_TIMER) = 0x31;
  APIC(APIC_SVR) = SPURIOUS;
  obs("software.masks", APIC(APIC_LVT_TIMER) >> 16 & 1);
  APIC(APIC_LVT_TIMER) = 0x31;
  obs("software.stays", APIC(APIC_LVT_TIMER) >> 16 & 1);
  APIC(APIC_SVR) = 0x100 | SPURIOUS;
  APIC(APIC_LVT_TIMER) = MASKED;

  stage("timer");
  APIC(APIC_TIMER_DIVIDE) = 0xb; // by one
  APIC(APIC_LVT_TIMER) = 0x35;
  forget();
  APIC(APIC_TIMER_INITIAL) = 0xf0000000; // long enough for any machine
  u32 first = APIC(APIC_TIMER_CURRENT);
  obs("timer.starts", first <= 0xf0000000 && first > 0);
  APIC(APIC_TIMER_INITIAL) = 20000; // writing starts anew
  obs("timer.once", wait_for(1));
  obs("timer.vector", arrived[0]);
  obs("timer.stopped", APIC(APIC_TIMER_CURRENT));
  forget();
  APIC(APIC_LVT_TIMER) = 0x20000 | 0x35; // periodic
  APIC(APIC_TIMER_INITIAL) = 300000;
  obs("timer.periodic", wait_for(3) >= 3);
  APIC(APIC_TIMER_INITIAL) = 0;
  settle();
  obs("timer.zero", APIC(APIC_TIMER_CURRENT));
  APIC(APIC_LVT_TIMER) = MASKED | 0x35;
  settle();
  forget();
  APIC(APIC_TIMER_INITIAL) = 1000;
  for (u32 patience = 0; patience < 1000000 && APIC(APIC_TIMER_CURRENT); patience++) asm volatile("pause");
  settle();
  obs("timer.masked", arrivals);

  // By the time-stamp counter, where there is that mode: the moment itself is written.
  stage("deadline");
  cpuid(1, 0, leaf);
  if (leaf[2] >> 24 & 1) {
    forget();
    APIC(APIC_LVT_TIMER) = 0x40000 | 0x35;
    asm volatile("mfence" : : : "memory");
    write_msr(0x6e0, tsc() + 100000);
    obs("deadline.count", wait_for(1));
    obs("deadline.zero", (word)read_msr(0x6e0));
    write_msr(0x6e0, tsc() - 1); // in the past: at once
    settle();
    obs("deadline.past", arrivals);
    APIC(APIC_LVT_TIMER) = MASKED;
  }

  stage("illegal");
  APIC(APIC_ESR) = 0;
  APIC(APIC_ESR) = 0;
  send_self(0x05);
  APIC(APIC_ESR) = 0;
  obs("illegal.esr", APIC(APIC_ESR) & 0x20);
  APIC(APIC_ESR) = 0;
  APIC(APIC_ESR) = 0;
  obs("illegal.cleared", APIC(APIC_ESR));
  done();
}
