// # The disk, by its ports
//
// How a disk was read for its first fifteen years, and how firmware reads it still: write the form, wait, and fetch every word through one port. The
// disk holds whatever the host put there; sectors 1 to 9 are read and reported as checksums, 40 to 43 are written and read back.

#include "ata.h"

static u8 sector[8 * SECTOR_BYTES] __attribute__((aligned(16)));
static u16 identity[256];

static u32 fetch(u32 sectors) {
  u32 blocks = 0;
  for (u32 i = 0; i < sectors; i++) {
    if (!(ata_data() & DRQ)) break;
    in_words(ATA, sector + i * SECTOR_BYTES, SECTOR_BYTES / 2);
    blocks++;
  }
  return blocks;
}

static void compare(const char *key, u32 expected) {
  obs(key, checksum(sector, SECTOR_BYTES) == expected);
}

_Noreturn void main(void) {
  // A reset selects device 0, and leaves a signature in its task file: 1, 1, 0, 0 is a disk.
  stage("reset");
  ata_reset();
  obs("selected", ata_in(DEVICE) >> 4 & 1);
  ata_out(DEVICE, 0xa0);
  obs("count", ata_in(COUNT));
  obs("low", ata_in(LOW));
  obs("mid", ata_in(MID));
  obs("high", ata_in(HIGH));
  obs("error", ata_in(ERROR));
  obs("status", ata_in(STATUS));
  obs("alternate", inb(ATA_CONTROL));

  stage("absent");
  ata_out(DEVICE, 0xb0);
  obs("slave.status", ata_in(STATUS));
  ata_out(DEVICE, 0xa0);

  stage("identify");
  ata_out(COMMAND, 0xec);
  obs("identify.status", ata_data());
  in_words(ATA, identity, 256);
  obs("identify.after", ata_ready());
  obs("identify.fixed", identity[0] & 0x8040);
  obs("identify.lba-dma", identity[49] & 0x0300);
  obs("identify.sectors", identity[60] | (u32)identity[61] << 16);
  obs("identify.sectors48", identity[100] | (u32)identity[101] << 16);
  obs("identify.flush-lba48", identity[83] & 0xf400);
  obs("identify.multiple", identity[47] & 0xff);
  obs("identify.valid", identity[53]);
  u8 sum = 0; // a disk that has a checksum says so with A5
  for (u32 i = 0; i < 512; i++) sum += ((u8 *)identity)[i];
  obs("identify.sum", (identity[255] & 0xff) == 0xa5 ? sum : 0);

  stage("read");
  ata_28(1, 4, 0x20);
  obs("read.blocks", fetch(4));
  obs("read.status", ata_ready());
  obs("read.sector1", checksum(sector, SECTOR_BYTES));
  obs("read.sector2", checksum(sector + SECTOR_BYTES, SECTOR_BYTES));
  obs("read.all", checksum(sector, 4 * SECTOR_BYTES));
  u32 known = checksum(sector + 3 * SECTOR_BYTES, SECTOR_BYTES); // sector 4

  // The same sector by other addresses and other widths.
  stage("ways");
  ata_28(4, 1, 0x20);
  ata_data();
  in_dwords(ATA, sector, SECTOR_BYTES / 4);
  compare("ways.dwords", known);
  ata_48(4, 1, 0x24);
  fetch(1);
  compare("ways.lba48", known);
  ata_ready();
  ata_out(COUNT, 1);
  ata_out(LOW, 5); // cylinder 0, head 0; sectors count from 1
  ata_out(MID, 0);
  ata_out(HIGH, 0);
  ata_out(DEVICE, 0xa0);
  ata_out(COMMAND, 0x20);
  fetch(1);
  compare("ways.chs", known);
  ata_ready();
  ata_out(COUNT, 4);
  ata_out(COMMAND, 0xc6);
  obs("ways.set-multiple", ata_ready());
  ata_28(1, 4, 0xc4);
  ata_data();
  in_words(ATA, sector, 4 * SECTOR_BYTES / 2); // one block of four
  obs("ways.multiple", checksum(sector + 3 * SECTOR_BYTES, SECTOR_BYTES) == known);
  obs("ways.multiple.status", ata_ready());

  stage("write");
  for (u32 i = 0; i < 2; i++) fill(sector + i * SECTOR_BYTES, 40 + i);
  u32 written = checksum(sector, 2 * SECTOR_BYTES);
  ata_28(40, 2, 0x30);
  ata_data();
  out_words(ATA, sector, SECTOR_BYTES / 2);
  ata_data();
  out_dwords(ATA, sector + SECTOR_BYTES, SECTOR_BYTES / 4);
  obs("write.status", ata_ready());
  ata_48(42, 1, 0x34);
  ata_data();
  fill(sector, 42);
  out_words(ATA, sector, SECTOR_BYTES / 2);
  obs("write.ext.status", ata_ready());
  ata_out(COMMAND, 0xe7);
  obs("write.flush", ata_ready());
  for (u32 i = 0; i < sizeof sector; i++) sector[i] = 0;
  ata_28(40, 3, 0x20);
  fetch(3);
  obs("write.back", checksum(sector, 2 * SECTOR_BYTES) == written);
  obs("write.checksum", checksum(sector, 3 * SECTOR_BYTES));

  // Beyond the end, and a command that does not exist.
  stage("errors");
  ata_28(identity[60] | (u32)identity[61] << 16, 1, 0x20);
  obs("beyond.status", ata_ready() & 0x89); // bit 4 means nothing after an error
  obs("beyond.error", ata_in(ERROR));
  ata_in(STATUS);
  ata_out(COMMAND, 0xa1);
  obs("packet.status", ata_ready() & 0x89);
  obs("packet.error", ata_in(ERROR));
  ata_in(STATUS);

  // By interrupt: one for each sector. nIEN keeps the line down, and reading the status takes the request back.
  stage("interrupt");
  irq_start();
  ata_28(5, 1, 0x20);
  ata_ready();
  obs("nien", irq_asks(ATA_IRQ));
  fetch(1);
  outb(ATA_CONTROL, 0);
  irq_open(ATA_IRQ);
  INSTALL(0x2e);
  ata_28(6, 2, 0x20);
  u32 interrupts = 0, statuses = 0;
  for (u32 i = 0; i < 2; i++) {
    forget();
    interrupts += wait_for(1);
    statuses = statuses << 8 | status_at_interrupt;
    in_words(ATA, sector + i * SECTOR_BYTES, SECTOR_BYTES / 2);
  }
  obs("irq.count", interrupts);
  obs("irq.statuses", statuses);
  obs("irq.checksum", checksum(sector, 2 * SECTOR_BYTES));
  // A write interrupts after the block, not before it.
  fill(sector, 43);
  ata_28(43, 1, 0x30);
  ata_ready();
  obs("irq.write.before", irq_asks(ATA_IRQ));
  out_words(ATA, sector, SECTOR_BYTES / 2);
  forget();
  obs("irq.write.count", wait_for(1));
  obs("irq.write.status", status_at_interrupt);

  // The same as a driver does it, with nothing in between.
  stage("driver");
  u32 complete = 0;
  ata_28(1, 4, 0x20);
  for (u32 i = 0; i < 4; i++) {
    forget();
    complete += wait_for(1);
    in_words(ATA, sector + i * SECTOR_BYTES, SECTOR_BYTES / 2);
  }
  ata_28(1, 4, 0x30);
  ata_data();
  for (u32 i = 0; i < 4; i++) {
    forget();
    out_words(ATA, sector + i * SECTOR_BYTES, SECTOR_BYTES / 2);
    complete += wait_for(1);
  }
  obs("driver.complete", complete);
  done();
}
