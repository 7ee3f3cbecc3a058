// # The disk, by its bus master
//
// The same sectors without touching the data port: a table of regions, a DMA command, start, and one interrupt when everything is in memory.

#include "ata.h"

#define REGION_END 0x80000000u
static struct region {
  u32 address, count;
} table[4] __attribute__((aligned(64)));
static u8 buffer[16 * SECTOR_BYTES] __attribute__((aligned(8192))); // in one 64 KiB block
static u16 master;

#define BM_COMMAND 0
#define BM_STATUS 2
#define BM_TABLE 4
#define START 1
#define TO_MEMORY 8

static void regions(u32 at, u32 first, u32 second) {
  table[0].address = (u32)buffer + at;
  table[0].count = first | (second ? 0 : REGION_END);
  table[1].address = (u32)buffer + at + first;
  table[1].count = second | REGION_END;
}

static void set_up(u8 direction) {
  outl(master + BM_TABLE, (u32)table);
  outb(master + BM_COMMAND, direction);
  outb(master + BM_STATUS, (inb(master + BM_STATUS) & 0x60) | 6);
}

/** Polls for the end; the three bits that tell how it went. */
static u8 finish(void) {
  for (u32 i = 0; i < 10000000; i++) {
    if ((inb(master + BM_STATUS) & 7) != 1) break;
  }
  u8 status = inb(master + BM_STATUS) & 7;
  outb(master + BM_COMMAND, 0);
  return status;
}

_Noreturn void main(void) {
  stage("find");
  u32 function = pci_find(PCI_CLASS, 0xffff0000u, 0x01010000u);
  if (function == PCI_NONE) ABORT("no IDE function");
  obs("id", pci_read(function, 0));
  obs("interface", pci_read(function, PCI_CLASS) >> 8 & 0xff);
  obs("size", pci_size(function, 4));
  master = pci_place(function, 4, 0xc001);
  pci_write(function, PCI_COMMAND, (pci_read(function, PCI_COMMAND) & 0xffff) | PCI_IO | PCI_MASTER);
  ata_reset();
  outb(ATA_CONTROL, 0); // the bus master's interrupt bit follows the line
  irq_start();

  // Two regions, the second starting in the middle of a sector.
  stage("read");
  regions(0, 700, 4 * SECTOR_BYTES - 700);
  set_up(TO_MEMORY);
  ata_28(1, 4, 0xc8);
  outb(master + BM_COMMAND, TO_MEMORY | START);
  obs("read.master", finish());
  obs("read.status", ata_in(STATUS));
  obs("read.sector1", checksum(buffer, SECTOR_BYTES));
  obs("read.all", checksum(buffer, 4 * SECTOR_BYTES));
  obs("read.beyond", checksum(buffer + 4 * SECTOR_BYTES, SECTOR_BYTES));

  stage("lba48");
  regions(4 * SECTOR_BYTES, SECTOR_BYTES, 0);
  set_up(TO_MEMORY);
  ata_48(2, 1, 0x25);
  outb(master + BM_COMMAND, TO_MEMORY | START);
  obs("lba48.master", finish());
  obs("lba48.same", checksum(buffer + 4 * SECTOR_BYTES, SECTOR_BYTES) == checksum(buffer + SECTOR_BYTES, SECTOR_BYTES));
  ata_in(STATUS);

  // More room in the table than data: it is all there, and the engine says that it could have gone on.
  stage("room");
  regions(0, 2 * SECTOR_BYTES, 2 * SECTOR_BYTES);
  set_up(TO_MEMORY);
  ata_28(5, 2, 0xc8);
  outb(master + BM_COMMAND, TO_MEMORY | START);
  for (u32 i = 0; i < 10000000 && !(inb(master + BM_STATUS) & 4); i++) continue;
  obs("room.master", inb(master + BM_STATUS) & 7);
  outb(master + BM_COMMAND, 0);
  obs("room.stopped", inb(master + BM_STATUS) & 1);
  obs("room.checksum", checksum(buffer, 2 * SECTOR_BYTES));
  ata_in(STATUS);

  stage("write");
  for (u32 i = 0; i < 3; i++) fill(buffer + i * SECTOR_BYTES, 50 + i);
  u32 written = checksum(buffer, 3 * SECTOR_BYTES);
  regions(0, 3 * SECTOR_BYTES, 0);
  set_up(0);
  ata_28(50, 3, 0xca);
  outb(master + BM_COMMAND, START);
  obs("write.master", finish());
  obs("write.status", ata_in(STATUS));
  for (u32 i = 0; i < sizeof buffer; i++) buffer[i] = 0;
  outb(ATA_CONTROL, NIEN);
  ata_28(50, 3, 0x20); // looked at by the other way
  for (u32 i = 0; i < 3; i++) {
    ata_data();
    in_words(ATA, buffer + i * SECTOR_BYTES, SECTOR_BYTES / 2);
  }
  obs("write.back", checksum(buffer, 3 * SECTOR_BYTES) == written);
  obs("write.checksum", checksum(buffer, 3 * SECTOR_BYTES));

  // One interrupt for sixteen sectors, not one for each.
  stage("interrupt");
  ata_ready();
  ata_in(STATUS);
  outb(ATA_CONTROL, 0);
  irq_start(); // forgets the requests of before
  irq_open(ATA_IRQ);
  INSTALL(0x2e);
  regions(0, 16 * SECTOR_BYTES, 0);
  set_up(TO_MEMORY);
  ata_28(1, 16, 0xc8);
  outb(master + BM_COMMAND, TO_MEMORY | START);
  obs("irq.count", wait_for(1));
  obs("irq.master", inb(master + BM_STATUS) & 7);
  outb(master + BM_COMMAND, 0);
  obs("irq.status", status_at_interrupt);
  obs("irq.again", irq_asks(ATA_IRQ));
  obs("irq.checksum", checksum(buffer, 16 * SECTOR_BYTES));
  outb(master + BM_STATUS, (inb(master + BM_STATUS) & 0x60) | 4);
  obs("irq.cleared", inb(master + BM_STATUS) & 7);

  // The same as a driver does it, with nothing in between.
  stage("driver");
  u32 complete = 0;
  for (u32 i = 0; i < 4; i++) {
    set_up(TO_MEMORY);
    ata_28(1, 16, 0xc8);
    forget();
    outb(master + BM_COMMAND, TO_MEMORY | START);
    complete += wait_for(1);
    outb(master + BM_COMMAND, 0);
  }
  obs("driver.complete", complete);
  done();
}
