// # How a ring calls back
//
// A device tells its driver in one of two ways. The old one is a line, shared, with a register that says why; reading the register lets go of the line. The new one is a
// message, a store of a value to an address, one for each queue if the driver likes, and nothing to read. Both can be silenced: by the ring, which asks not to be told,
// and by leaving a queue without a vector.

#define INTERRUPTS
#include "virtqueue.h"
#include "apic.h"

#define IRQ 11
#define LINE_VECTOR 0x2b
#define QUEUE_VECTOR 0x31
#define CONFIG_VECTOR 0x32
#define CAP_MSIX 0x11
#define NO_VECTOR 0xffff
#define NO_INTERRUPT 1 // flags of the available ring
#define EVENT_DISABLE 1

static struct queue_memory memory;
static struct queue q;
static volatile u8 buffer[64];
static volatile u32 causes, by_message;

static void on_interrupt(u32 vector) {
  if (vector == LINE_VECTOR) {
    causes |= isr();
    irq_end();
  } else {
    by_message++;
    APIC(APIC_EOI) = 0;
  }
}
HANDLER(0x2b)
HANDLER(0x31)
HANDLER(0x32)

static void ask(void) {
  struct piece piece = {buffer, sizeof buffer, 1};
  u16 from = q.next;
  give(&q, &piece, 1, 0);
  kick_since(&q, from);
}
/** One chain there and back, by interrupt; how many came. */
static u32 round_trip(void) {
  forget();
  ask();
  u32 count = wait_for(1);
  await(&q);
  return count;
}
/** The same, with nobody to be called: waits for the chain and then a while for what must not come. */
static u32 silent_trip(void) {
  forget();
  ask();
  interrupts_on();
  u32 id = await(&q);
  for (u32 patience = 0; patience < 20000; patience++) asm volatile("pause");
  interrupts_off();
  return id == NO_CHAIN ? NO_CHAIN : arrivals;
}
static void hush(u32 quiet) {
  if (q.packed) q.driver_event[1] = quiet ? EVENT_DISABLE : 0;
  else q.avail[0] = quiet ? NO_INTERRUPT : 0;
  fence();
}

static void start(u64 wanted) {
  begin(wanted);
  queue_init(&q, &memory, 0, 8);
}

static u32 capability(u32 id) {
  u32 at = pci_read(vd.function, 0x34) & 0xfc;
  for (u32 patience = 0; at && patience < 48; patience++) {
    u32 head = pci_read(vd.function, at);
    if ((head & 0xff) == id) return at;
    at = head >> 8 & 0xfc;
  }
  return 0;
}

static void messages(u32 at) {
  u32 control = pci_read(vd.function, at), where = pci_read(vd.function, at + 4);
  volatile u32 *table = (volatile u32 *)(region(where & 7) + (where & ~7u));
  obs("msix.vectors", (control >> 16 & 0x7ff) + 1 >= 2);
  start(F_PACKED);
  pci_write(vd.function, at, control | 0x80000000u);
  apic_on();
  for (u32 i = 0; i < 2; i++) {
    table[4 * i] = 0xfee00000u | APIC(APIC_ID) >> 24 << 12;
    table[4 * i + 1] = 0;
    table[4 * i + 2] = i ? CONFIG_VECTOR : QUEUE_VECTOR;
    table[4 * i + 3] = 0;
  }
  obs("msix.unmapped", read16(vd.common + V_QUEUE_MSIX_VECTOR));
  write16(vd.common + V_CONFIG_MSIX_VECTOR, 1);
  write16(vd.common + V_QUEUE_MSIX_VECTOR, 0);
  obs("msix.config", read16(vd.common + V_CONFIG_MSIX_VECTOR));
  obs("msix.queue", read16(vd.common + V_QUEUE_MSIX_VECTOR));
  ready();
  hush(0);
  obs("msix.count", round_trip());
  obs("msix.vector", arrived[0]);
  table[3] = 1; // masked: remembered, and sent when it may be
  obs("msix.masked", silent_trip());
  forget();
  table[3] = 0;
  obs("msix.unmasked", wait_for(1));
  hush(1);
  obs("msix.hushed", silent_trip());
  hush(0);
  write16(vd.common + V_QUEUE_MSIX_VECTOR, NO_VECTOR);
  obs("msix.no-vector", silent_trip());
  write16(vd.common + V_QUEUE_MSIX_VECTOR, 1);
  obs("msix.shared", round_trip());
  obs("msix.shared-vector", arrived[0]);
  pci_write(vd.function, at, control);
}

_Noreturn void main(void) {
  stage("find");
  if (!find_device(ID_ENTROPY)) ABORT("no entropy device");
  INSTALL(0x2b);
  INSTALL(0x31);
  INSTALL(0x32);

  stage("line");
  start(F_PACKED);
  report_transport();
  obs("pin", pci_read(vd.function, 0x3c) >> 8 & 0xff);
  irq_start();
  pci_route(IRQ);
  irq_open(IRQ);
  ready();
  hush(0);
  obs("line.count", round_trip());
  obs("line.causes", causes);
  obs("line.let-go", irq_asks(IRQ));
  obs("line.isr", isr());
  hush(1);
  obs("line.hushed", silent_trip());
  obs("line.quiet", isr());
  hush(0);
  obs("line.again", round_trip());

  stage("message");
  u32 at = capability(CAP_MSIX);
  obs("msix", at != 0);
  if (at && vd.transport == T_PCI) messages(at);
  done();
}
