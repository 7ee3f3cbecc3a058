// # A guest that means harm
//
// Ports and device memory, read and written at random, in every width that the code has, with the places that mean something preferred: the
// configuration of PCI and the regions that it moves, the interrupt controllers, the timers, the disk. A machine answers each access somehow and goes
// on. The payload looks at two things in the end: that it came here at all, and that its own memory is as it was, since no device was ever
// allowed to write there.
//
// A few things it leaves alone, because they would end or silence it in all honesty: resets, power-off, the port by which it leaves, its serial port,
// what firmware keeps for itself, and the two old ways to reach memory without being a PCI bus master.

#include "pc.h"
#define SEED 0x2545f491
#include "random.h"

#define OPERATIONS 6000
#define CANARY_BYTES 0x10000

static __attribute__((aligned(4096))) volatile u32 canaries[CANARY_BYTES / 4];

struct range {
  u32 start, bytes;
};
#define COUNT(list) (sizeof(list) / sizeof(list[0]))

static const struct range ports[] = {
  {0x00, 16}, {0x20, 2}, {0x40, 4}, {0x60, 1}, {0x61, 1}, {0x70, 4}, {0x80, 16}, {0xa0, 2}, {0xc0, 32}, {0x170, 8}, {0x1ce, 3}, {0x1f0, 8}, {0x1f0, 8},
  {0x2f8, 8}, {0x376, 1}, {0x3b0, 48}, {0x3f6, 1}, {0x402, 1}, {0x4d0, 2}, {0x510, 4}, {0x5e0, 16}, {0xcf8, 8}, {0, 0x10000},
};
static const struct range untouched[] = {
  {0x64, 1}, {0x92, 1}, {0xb2, 2}, {0xe9, 1}, {0xf4, 4}, {0x3f0, 6}, {0x3f7, 9}, {0x514, 8}, {0x5f0, 2}, {0x600, 128}, {0xcd8, 12}, {0xcf9, 1},
  {0xa00, 24}, {0x5658, 4}, {0xae00, 32}, {0xaf00, 32}, {0xb000, 0x140}, {0xcf8, 8},
};
static const struct range memory[] = {
  {0xa0000, 0x20000}, {0xfec00000, 0x100}, {0xfee00000, 0x400}, {0xfee00000, 0x400}, {0xfed00000, 0x400}, {0xfed1c000, 0x4000}, {0xfeb00000, 0x1000},
  {0xd0000000, 0x10000000}, {0xe0000000, 0x10000000}, {0xfffc0000, 0x40000},
};
static const u32 places[] = {
  0, 1, 0x1000, 0x100000, 0x200000, 0xa0000, 0xc0000, 0xf0000, 0xb0000000, 0xc0000000, 0xe0000000, 0xfebf0000, 0xfec00000, 0xfed1c000, 0xfee00000,
  0xfff00000, 0xfffffff0, 0xffffffff, 0x80000000, 0xc001, 0xffe1,
};

static u32 value(void) {
  switch (below(5)) {
    case 0: return places[below(COUNT(places))] + below(4) * 16;
    case 1: return below(256);
    case 2: return 1u << below(32);
    default: return next();
  }
}

static u32 overlaps(u32 at, u32 width, const struct range *range) {
  return at < range->start + range->bytes && at + width > range->start;
}

static void port(u32 at, u32 width, u32 write, u32 with) {
  if (at + width > 0x10000) return;
  for (u32 n = 0; n < COUNT(untouched); n++)
    if (overlaps(at, width, &untouched[n])) return;
  if (write) {
    if (width == 1) outb(at, with);
    else if (width == 2) outw(at, with);
    else outl(at, with);
  } else {
    if (width == 1) inb(at);
    else if (width == 2) inw(at);
    else inl(at);
  }
}

// An interrupt controller can be told to send more than interrupts: INIT stops the processor, SMI hands it to the firmware, and an NMI cannot be kept out.
static u32 peaceful(u32 at, u32 with) {
  u32 entry = at >= 0xfec00000 && at < 0xfec00100;
  u32 local = at >= 0xfedffff0 && at < 0xfee01000;
  if (!entry && !local) return with;
  return (with & ~0x700u) | (below(4) ? 0 : 0x100);
}

static void touch(u32 at, u32 width, u32 write, u32 with) {
  volatile void *place = (volatile void *)at;
  with = peaceful(at, with);
  if (write) {
    if (width == 1) *(volatile u8 *)place = (u8)with;
    else if (width == 2) *(volatile u16 *)place = (u16)with;
    else *(volatile u32 *)place = with;
  } else {
    if (width == 1) *(volatile u8 *)place;
    else if (width == 2) *(volatile u16 *)place;
    else *(volatile u32 *)place;
  }
}

// ## Configuration space
//
// Regions go anywhere, also over memory and over each other, but port regions not over the ports below 0x1000, where the board's own devices are
// that the payload needs. Nobody becomes a bus master. Of the chipset's own registers only those are written that route interrupts or switch what is
// below 1 MiB: the others move memory itself, and end the machine.

static void configure(void) {
  u32 function = below(4) ? below(32) << 11 | below(2) << 8 : next() & 0xffff00;
  u32 id = pci_read(function, 0);
  u32 offset = below(2) ? 0x10 + 4 * below(6) : below(3) ? 4 : next() & 0xfc;
  if (id == 0xffffffff || below(4) == 0) {
    pci_read(function, offset);
    return;
  }
  u32 class = pci_read(function, PCI_CLASS) >> 16;
  if (class >> 8 == 6 && offset >= 0x40 && !(class == 0x601 && (offset & 0xf8) == 0x60) && !(class == 0x600 && (offset & 0xf8) == 0x90)) return;
  if (class == 0x680 && offset >= 0x40) return; // power management of the PIIX4 calls itself so
  u32 with = value();
  if (offset == PCI_COMMAND) with &= ~(u32)PCI_MASTER;
  if (offset >= 0x10 && offset < 0x28 && pci_read(function, offset) & 1) with |= 0x1000;
  pci_write(function, offset, with);
}

/** An access to where some region is now. */
static void region(void) {
  u32 function = below(32) << 11 | below(2) << 8;
  if (pci_read(function, 0) == 0xffffffff) return;
  u32 bar = pci_read(function, PCI_BAR(below(6)));
  u32 offset = below(4) ? below(0x4000) & ~3u : below(64);
  u32 width = 1u << below(3);
  if (bar & 1) port((bar & 0xfffc) + (offset & 63), width, below(2), value());
  else if (bar >= 0x80000000 && bar < 0xfec00000) touch((bar & ~15u) + offset, width, below(2), value());
}

// ## The run
//
// Interrupts are off, and stay off.

static void on_interrupt(u32 vector) {
  (void)vector;
}

_Noreturn void main(void) {
  for (u32 n = 0; n < CANARY_BYTES / 4; n++) canaries[n] = n * 0x9e3779b1u;
  stage("harm");
  u32 survived = 0;
  for (; survived < OPERATIONS; survived++) {
    u32 width = 1u << below(3);
    switch (below(8)) {
      case 0:
      case 1:
      case 2: {
        const struct range *range = &ports[below(COUNT(ports))];
        port(range->start + below(range->bytes), width, below(2), value());
        break;
      }
      case 3:
      case 4: {
        const struct range *range = &memory[below(COUNT(memory))];
        u32 at = range->start + below(range->bytes - 4);
        touch(below(2) ? at & ~3u : at, width, below(2), value());
        break;
      }
      case 5: region(); break;
      default: configure();
    }
  }
  stage("after");
  obs("survived", survived);
  obs("canaries", checksum((const volatile u8 *)canaries, CANARY_BYTES));
  done();
}
