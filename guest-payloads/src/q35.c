// # What the chipset lets software move
//
// The memory controller and the south bridge of a Q35 have windows of their own beside those of PCI: configuration space in memory, the ports of power management,
// the lines on which interrupts leave. Each is tried in a second place, with nobody left in the first.

#include "pc.h"

#define MCH 0u
#define LPC (31u << 11)
#define PCIEXBAR 0x60
#define SMRAM 0x9c // the register is its second byte
#define PMBASE 0x40
#define ACPI_CNTL 0x44
#define PM_TIMER 8
#define ICS 0x00c8
#define ICR 0x00c0
#define IMS 0x00d0
#define IMC 0x00d8
#define RXT0 0x80
#define IRQ 11

static u32 identity;
static u32 shows(u32 address) {
  return *(volatile u32 *)address == identity;
}
static u32 counts(u16 port) {
  u32 first = inl(port);
  for (u32 patience = 0; patience < 100000; patience++)
    if (inl(port) != first) return 1;
  return 0;
}
static u8 read8(u32 function, u32 offset) {
  return (u8)(pci_read(function, offset) >> 8 * (offset & 3));
}


// The card may hold an interrupt back that follows another too closely: half a millisecond is enough for the next.
static volatile u32 *registers;
static u16 timer;
static void ask_anew(void) {
  (void)registers[ICR / 4];
  u32 start = inl(timer);
  for (u32 patience = 0; patience < 1000000 && ((inl(timer) - start) & 0xffffff) < 1800; patience++) continue;
  registers[ICS / 4] = RXT0;
}

_Noreturn void main(void) {
  identity = pci_read(MCH, 0);
  if (identity != 0x29c08086u || (pci_read(LPC, 0) >> 16) != 0x2918) ABORT("no Q35 with an ICH9");

  stage("configuration");
  pci_write(MCH, PCIEXBAR + 4, 0);
  pci_write(MCH, PCIEXBAR, 0xb0000001u);
  obs("window.first", shows(0xb0000000u));
  obs("window.second.early", shows(0xc0000000u));
  pci_write(MCH, PCIEXBAR, 0xc0000001u);
  obs("window.second", shows(0xc0000000u));
  obs("window.left", shows(0xb0000000u));
  pci_write(MCH, PCIEXBAR, 0xc4000005u); // 64 MiB: a finer address
  obs("window.short", shows(0xc4000000u));
  obs("window.short.below", shows(0xc0000000u));
  pci_write(MCH, PCIEXBAR, 0xc0000001u);
  pci_write(MCH, PCIEXBAR, 0xc0000000u);
  obs("window.off", shows(0xc0000000u));
  pci_write(MCH, PCIEXBAR, 0xb0000001u);

  stage("power");
  u32 port = pci_read(LPC, PMBASE) & 0xff80;
  pci_write(LPC, PMBASE, 0x600);
  pci_write8(LPC, ACPI_CNTL, 0x80);
  obs("timer.first", counts(0x600 + PM_TIMER));
  pci_write(LPC, PMBASE, 0xb80);
  obs("timer.second", counts(0xb80 + PM_TIMER));
  obs("timer.left", inl(0x600 + PM_TIMER));
  pci_write8(LPC, ACPI_CNTL, 0);
  obs("timer.off", inl(0xb80 + PM_TIMER));
  port = port ? port : 0x600;
  pci_write(LPC, PMBASE, port);
  timer = (u16)(port + PM_TIMER);
  pci_write8(LPC, ACPI_CNTL, 0x80);

  // Of eight lines a function drives one. Bit 7 of that line's register keeps it from the 8259s.
  stage("lines");
  u32 card = pci_find(0, 0xffffffffu, 0x100e8086u);
  if (card == PCI_NONE) ABORT("no 82540EM");
  registers = (volatile u32 *)pci_place(card, 0, 0xd0000000u);
  pci_write(card, PCI_COMMAND, PCI_MEMORY);
  irq_start();
  irq_level(IRQ);
  irq_level(10);
  for (u32 line = 0; line < 8; line++) pci_write8(LPC, 0x60 + (line & 3) + (line >> 2) * 8, 0x80);
  registers[IMC / 4] = 0xffffffffu;
  (void)registers[ICR / 4];
  registers[IMS / 4] = RXT0;
  registers[ICS / 4] = RXT0;
  obs("lines.off", irq_asks(IRQ));
  u32 mine = 0, found = 0;
  for (u32 line = 0; line < 8; line++) {
    u32 at = 0x60 + (line & 3) + (line >> 2) * 8;
    pci_write8(LPC, at, IRQ);
    ask_anew(); // for a chipset that looks at the route only then
    if (irq_asks(IRQ)) {
      mine = at;
      found++;
    }
    (void)registers[ICR / 4];
    pci_write8(LPC, at, 0x80);
  }
  obs("lines.mine", found);
  pci_write8(LPC, mine, IRQ);
  ask_anew();
  obs("lines.on", irq_asks(IRQ));
  pci_write8(LPC, mine, 10);
  obs("lines.moved", irq_asks(10));
  obs("lines.left", irq_asks(IRQ));
  pci_write8(LPC, mine, 0x80 | 10);
  obs("lines.cut", irq_asks(10));
  registers[IMC / 4] = 0xffffffffu;

  stage("management");
  pci_write8(MCH, SMRAM + 1, 0x42);
  obs("smram.open", read8(MCH, SMRAM + 1) & 0x50);
  pci_write8(MCH, SMRAM + 1, 0x52); // open and locked: the lock closes
  obs("smram.locked", read8(MCH, SMRAM + 1) & 0x50);
  pci_write8(MCH, SMRAM + 1, 0x42);
  obs("smram.stays", read8(MCH, SMRAM + 1) & 0x50);
  done();
}

static void on_interrupt(u32 vector) {
  (void)vector;
}
