// # Who answers at an address
//
// A function answers in a region only while its command register says so, and where its base register says. The network card serves as an example, because its
// registers are easy to tell from nothing. Its interrupt shows the other half of the command register: the pin can be disconnected, and the wish stays visible.

#include "pc.h"

#define TDBAL 0x3800
#define ICR 0x00c0
#define ICS 0x00c8
#define IMS 0x00d0
#define IMC 0x00d8
#define RXT0 0x80
#define NET_IRQ 11
#define PCI_STATUS_WORD(function) (pci_read(function, PCI_COMMAND) >> 16)
#define INTERRUPT_STATUS 8
#define INTERRUPT_DISABLE 0x400

// What an address gives where nobody answers differs between boards; what was written into a register of the card does not.
#define MARK 0x12345680u
static u32 answers(u32 address) {
  return *(volatile u32 *)(address + TDBAL) == MARK;
}

_Noreturn void main(void) {
  u32 function = pci_find(0, 0xffffffffu, 0x100e8086u);
  if (function == PCI_NONE) ABORT("no 82540EM");
  u32 before = pci_place(function, 0, 0xd0000000u);
  u16 ports = pci_place(function, 1, 0xc041);
  u32 elsewhere = before ^ 0x01000000u;

  pci_write(function, PCI_COMMAND, PCI_MEMORY);
  *(volatile u32 *)(before + TDBAL) = MARK;

  stage("memory");
  pci_write(function, PCI_COMMAND, 0);
  obs("memory.off", answers(before));
  pci_write(function, PCI_COMMAND, PCI_IO);
  obs("memory.ports.only", answers(before));
  pci_write(function, PCI_COMMAND, PCI_MEMORY);
  obs("memory.on", answers(before));

  stage("ports");
  obs("ports.off", inl(ports) == 0xffffffffu);
  pci_write(function, PCI_COMMAND, PCI_IO);
  obs("ports.on", inl(ports) == 0xffffffffu);

  stage("move");
  pci_write(function, PCI_COMMAND, 0);
  pci_write(function, PCI_BAR(0), elsewhere);
  pci_write(function, PCI_COMMAND, PCI_MEMORY);
  obs("move.there", answers(elsewhere));
  obs("move.left", answers(before));
  pci_write(function, PCI_COMMAND, 0);
  pci_write(function, PCI_BAR(0), before);
  pci_write(function, PCI_COMMAND, PCI_MEMORY | PCI_MASTER);
  obs("move.back", answers(before));

  stage("pin");
  irq_start();
  pci_route(NET_IRQ);
  volatile u32 *registers = (volatile u32 *)before;
  registers[IMC / 4] = 0xffffffffu;
  (void)registers[ICR / 4];
  obs("pin.quiet", irq_asks(NET_IRQ));
  obs("status.quiet", PCI_STATUS_WORD(function) & INTERRUPT_STATUS);
  registers[IMS / 4] = RXT0;
  registers[ICS / 4] = RXT0;
  obs("pin.asks", irq_asks(NET_IRQ));
  obs("status.asks", PCI_STATUS_WORD(function) & INTERRUPT_STATUS);
  pci_write(function, PCI_COMMAND, PCI_MEMORY | PCI_MASTER | INTERRUPT_DISABLE);
  obs("pin.disabled", irq_asks(NET_IRQ));
  obs("status.disabled", PCI_STATUS_WORD(function) & INTERRUPT_STATUS);
  pci_write(function, PCI_COMMAND, PCI_MEMORY | PCI_MASTER);
  obs("pin.again", irq_asks(NET_IRQ));
  (void)registers[ICR / 4];
  obs("pin.done", irq_asks(NET_IRQ));
  obs("status.done", PCI_STATUS_WORD(function) & INTERRUPT_STATUS);
  registers[IMC / 4] = 0xffffffffu;
  done();
}

static void on_interrupt(u32 vector) {
  (void)vector;
}
