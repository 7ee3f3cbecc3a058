// # Words for the devices of a PC
//
// String transfers, PCI configuration by the old mechanism, and the way of an interrupt from a PCI device to the processor. Firmware may have run
// before us or not; so whatever it would have set up is set up here when it is missing.

#pragma once

#include "irq.h"

static inline void in_words(u16 port, void *into, word count) {
  asm volatile("rep insw" : "+D"(into), "+c"(count) : "d"(port) : "memory");
}
static inline void in_dwords(u16 port, void *into, word count) {
  asm volatile("rep insl" : "+D"(into), "+c"(count) : "d"(port) : "memory");
}
static inline void out_words(u16 port, const void *from, word count) {
  asm volatile("rep outsw" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}
static inline void out_dwords(u16 port, const void *from, word count) {
  asm volatile("rep outsl" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

// FNV-1a: short, and a byte anywhere changes it.
static inline u32 checksum(const volatile u8 *bytes, u32 count) {
  u32 hash = 0x811c9dc5u;
  for (u32 i = 0; i < count; i++) hash = (hash ^ bytes[i]) * 0x01000193u;
  return hash;
}

// ## PCI
//
// A function is named by its address in configuration space: bus, device and function in bits 23:8.

#define PCI_NONE 0xffffffffu
#define PCI_COMMAND 0x04
#define PCI_CLASS 0x08
#define PCI_BAR(n) (0x10 + 4 * (n))
#define PCI_IO 1
#define PCI_MEMORY 2
#define PCI_MASTER 4

static inline u32 pci_read(u32 function, u32 offset) {
  outl(0xcf8, 0x80000000u | function | (offset & 0xfc));
  return inl(0xcfc);
}
static inline void pci_write(u32 function, u32 offset, u32 value) {
  outl(0xcf8, 0x80000000u | function | (offset & 0xfc));
  outl(0xcfc, value);
}
static inline void pci_write8(u32 function, u32 offset, u8 value) {
  outl(0xcf8, 0x80000000u | function | (offset & 0xfc));
  outb(0xcfc + (offset & 3), value);
}

/** The first function of bus 0 whose register at `offset`, under `mask`, has the value. */
static inline u32 pci_find(u32 offset, u32 mask, u32 value) {
  for (u32 device = 0; device < 32; device++) {
    for (u32 number = 0; number < 8; number++) {
      u32 function = device << 11 | number << 8;
      u32 id = pci_read(function, 0);
      if ((u16)id == 0xffff) continue;
      if ((pci_read(function, offset) & mask) == value) return function;
    }
  }
  return PCI_NONE;
}

/** Gives a region an address if it has none, and returns its address. */
static inline u32 pci_place(u32 function, u32 bar, u32 address) {
  u32 value = pci_read(function, PCI_BAR(bar));
  u32 flags = value & 1 ? 3 : 15;
  if ((value & ~flags) == 0) pci_write(function, PCI_BAR(bar), address);
  return pci_read(function, PCI_BAR(bar)) & ~flags;
}

/** The size of a region; the address is put back. */
static inline u32 pci_size(u32 function, u32 bar) {
  u32 before = pci_read(function, PCI_BAR(bar));
  u32 command = pci_read(function, PCI_COMMAND) & 0xffff;
  pci_write(function, PCI_COMMAND, command & ~3u);
  pci_write(function, PCI_BAR(bar), 0xffffffffu);
  u32 value = pci_read(function, PCI_BAR(bar));
  pci_write(function, PCI_BAR(bar), before);
  pci_write(function, PCI_COMMAND, command);
  value &= before & 1 ? ~3u : ~15u;
  return value & 0x10000 || !(before & 1) ? -value : -value & 0xffff;
}

// ## Interrupts
//
// The 8259s are the one interrupt controller that every PC has. Their vectors are 0x20 to 0x2f, and all lines are masked but those that the payload
// opens. On a machine with a local APIC its LINT0 has to let them through.

static inline void irq_start(void) {
  u32 id[4];
  cpuid(1, 0, id);
  if (id[3] & 1 << 9) {
    *(volatile u32 *)0xfee000f0 = 0x1ff; // software enable; spurious vector
    *(volatile u32 *)0xfee00350 = 0x700; // LINT0: what the 8259 says
  }
  pic_init(1);
}
static inline void irq_open(u32 irq) {
  if (irq >= 8) outb(PIC2 + 1, inb(PIC2 + 1) & ~(1u << (irq - 8)));
  outb(PIC1 + 1, inb(PIC1 + 1) & ~(1u << (irq < 8 ? irq : 2)));
}
static inline void irq_level(u32 irq) {
  u16 port = irq < 8 ? 0x4d0 : 0x4d1;
  outb(port, inb(port) | 1u << (irq & 7));
}
/** Says "end of interrupt" to both chips; the lines here are the second's. */
static inline void irq_end(void) {
  outb(PIC2, 0x20);
  outb(PIC1, 0x20);
}
/** Is the line asking, masked or not? */
static inline u32 irq_asks(u32 irq) {
  return (irq < 8 ? pic_irr(PIC1) >> irq : pic_irr(PIC2) >> (irq - 8)) & 1;
}

/** Routes the pins of all PCI devices to one line of the 8259: the chipset's ISA bridge has a register for each of PIRQA to PIRQD, ICH9 four more. */
static inline void pci_route(u32 irq) {
  u32 bridge = pci_find(PCI_CLASS, 0xffff0000u, 0x06010000u);
  if (bridge == PCI_NONE) return;
  for (u32 pin = 0; pin < 4; pin++) pci_write8(bridge, 0x60 + pin, irq);
  if ((pci_read(bridge, 0) >> 16) == 0x2918)
    for (u32 pin = 0; pin < 4; pin++) pci_write8(bridge, 0x68 + pin, irq);
  irq_level(irq);
}
