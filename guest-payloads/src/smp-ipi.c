// # Messages between processors
//
// One APIC's command register is another's interrupt. To whom a message goes can be said in five ways, and what it does when it arrives in five more. The second
// processor counts what reaches it, and does what it is asked to by a word in memory; so everything is decided, and reported, by the first.

#include "apic.h"
#include "paging.h"

enum { IDLE, CLOSE, OPEN, READ_PAGE, FORGET_PAGE, SET_LOGICAL, SET_PRIORITY };
static volatile u32 command, operand, answer, alive, second_id;
static volatile u32 second_count, second_last, second_nmi;

static void on_interrupt(u32 vector) {
  (void)vector;
  APIC(APIC_EOI) = 0;
}
HANDLER(0x31)

__attribute__((interrupt)) static void second_fixed(struct interrupt_frame *frame) {
  (void)frame;
  if (APIC(APIC_ID) >> 24 == second_id) {
    second_count++;
    second_last = 0x32;
  } else {
    came(0x32);
    return;
  }
  APIC(APIC_EOI) = 0;
}
__attribute__((interrupt)) static void second_nmi_handler(struct interrupt_frame *frame) {
  (void)frame;
  second_nmi++;
}

#if MODE == 64
extern u64 rb_pml4[512];
static PAGE u64 pdpt[512], pd[512], pt[512];
#define AT 0x8000000000ul
static PAGE volatile u8 one[4096], two[4096];
#endif

// The second processor: does what `command` says, clears it, and waits for the next.
void secondary_main(void);
void secondary_main(void) {
  APIC(APIC_SVR) = 0x100 | SPURIOUS;
  APIC(APIC_TPR) = 0;
  second_id = APIC(APIC_ID) >> 24;
  alive = 1;
  for (;;) {
    switch (command) {
    case CLOSE: interrupts_off(); break;
    case OPEN: interrupts_on(); break;
    case SET_LOGICAL:
      APIC(APIC_DFR) = operand >> 31 ? 0xffffffff : 0x0fffffff;
      APIC(APIC_LDR) = (operand & 0xff) << 24;
      break;
    case SET_PRIORITY: APIC(APIC_TPR) = operand; break;
#if MODE == 64
    case READ_PAGE: answer = *(volatile u8 *)AT; break;
    case FORGET_PAGE: invlpg((void *)AT); break;
#endif
    default: asm volatile("pause"); continue;
    }
    command = IDLE;
  }
}

static void ask(u32 what, u32 with) {
  operand = with;
  command = what;
  for (u32 patience = 0; patience < 20000000 && command != IDLE; patience++) asm volatile("pause");
}
static void send(u32 low, u32 high) {
  APIC(APIC_ICR2) = high;
  APIC(APIC_ICR) = low;
  for (u32 patience = 0; patience < 1000000 && APIC(APIC_ICR) & 0x1000; patience++) asm volatile("pause");
}
/** Sends, gives both time to take it, and says who did: 1 this one, 2 the other, 4 bits apart for how often. */
static word reached(u32 low, u32 high) {
  u32 before = second_count;
  forget();
  send(low, high);
  interrupts_on();
  ask(OPEN, 0);
  ask(CLOSE, 0);
  ask(OPEN, 0);
  interrupts_off();
  return (word)(second_count - before) << 4 | arrivals;
}

extern u8 trampoline[];
extern volatile u32 rb_release;

_Noreturn void main(void) {
  INSTALL(0x31);
  install(0x32, second_fixed);
  install(2, second_nmi_handler);
  apic_on();
  u32 me = APIC(APIC_ID) & 0xff000000;

  stage("wake");
  rb_release = 1;
  send(0xc4500, 0); // INIT to all but itself
  for (u32 i = 0; i < 100000; i++) asm volatile("pause");
  obs("init.sleeps", alive); // INIT alone starts nothing
  send(0xc4600 | (u32)(address_of(trampoline) >> 12), 0);
  for (u32 patience = 0; patience < 20000000 && !alive; patience++) asm volatile("pause");
  obs("sipi.runs", alive);
  if (!alive) ABORT("no second processor");
  // A start-up message to a processor that runs is ignored.
  send(0xc4600 | (u32)(address_of(trampoline) >> 12), 0);
  ask(OPEN, 0);
  obs("sipi.ignored", alive);
  u32 other = second_id << 24;

  stage("physical");
  obs("physical.other", reached(0x4032, other));
  obs("physical.self", reached(0x4032, me));
  obs("physical.nobody", reached(0x4032, 0x70000000));
  obs("physical.all", reached(0x4032, 0xff000000));

  stage("shorthand");
  obs("shorthand.self", reached(0x44032, 0));
  obs("shorthand.all", reached(0x84032, 0));
  obs("shorthand.others", reached(0xc4032, 0));

  stage("flat");
  APIC(APIC_DFR) = 0xffffffff;
  APIC(APIC_LDR) = 0x01000000;
  ask(SET_LOGICAL, 0x80000002);
  obs("flat.first", reached(0x4832, 0x01000000));
  obs("flat.second", reached(0x4832, 0x02000000));
  obs("flat.both", reached(0x4832, 0x03000000));
  obs("flat.neither", reached(0x4832, 0x04000000));
  obs("flat.all", reached(0x4832, 0xff000000));

  stage("cluster");
  APIC(APIC_DFR) = 0x0fffffff;
  APIC(APIC_LDR) = 0x11000000; // cluster 1, member 1
  ask(SET_LOGICAL, 0x12);      // cluster 1, member 2
  obs("cluster.first", reached(0x4832, 0x11000000));
  obs("cluster.second", reached(0x4832, 0x12000000));
  obs("cluster.both", reached(0x4832, 0x13000000));
  obs("cluster.elsewhere", reached(0x4832, 0x21000000));
  ask(SET_LOGICAL, 0x21); // cluster 2, member 1
  obs("cluster.apart", reached(0x4832, 0x21000000));
  APIC(APIC_DFR) = 0xffffffff;
  APIC(APIC_LDR) = 0x01000000;
  ask(SET_LOGICAL, 0x80000002);

  // Exactly one of those who could.
  stage("lowest");
  word who = reached(0x4932, 0x03000000);
  obs("lowest.one", (who & 15) + (who >> 4));

  // An NMI does not ask whether interrupts are on.
  stage("nmi");
  ask(CLOSE, 0);
  send(0x4400, other);
  for (u32 patience = 0; patience < 20000000 && !second_nmi; patience++) asm volatile("pause");
  obs("nmi.came", second_nmi);

  // What is held back by the other's task priority stays in its request register until the priority falls.
  stage("priority");
  ask(SET_PRIORITY, 0x40);
  obs("priority.held", reached(0x4032, other) >> 4);
  u32 before = second_count;
  ask(SET_PRIORITY, 0);
  ask(OPEN, 0);
  ask(OPEN, 0);
  obs("priority.came", second_count - before);

#if MODE == 64
  // Nobody tells a processor that another one has changed a page table. After it has been told to forget, it must see the new page.
  stage("shootdown");
  rb_pml4[1] = address_of(pdpt) | PRESENT | WRITABLE;
  pdpt[0] = address_of(pd) | PRESENT | WRITABLE;
  pd[0] = address_of(pt) | PRESENT | WRITABLE;
  one[0] = 0x11;
  two[0] = 0x22;
  pt[0] = address_of(one) | PRESENT | WRITABLE;
  ask(READ_PAGE, 0);
  obs("shootdown.before", answer);
  *(volatile u64 *)&pt[0] = address_of(two) | PRESENT | WRITABLE;
  ask(READ_PAGE, 0);
  obs("shootdown.either", answer);
  ask(FORGET_PAGE, 0);
  ask(READ_PAGE, 0);
  obs("shootdown.after", answer);
#endif
  done();
}
