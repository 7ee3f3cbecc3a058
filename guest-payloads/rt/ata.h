// # Words for an ATA disk
//
// The first channel's task file, and the few waits that a driver is made of. Every wait is bounded: a disk that never answers is an abort, not a
// silence.

#pragma once

#include "pc.h"

#define ATA 0x1f0
#define ATA_CONTROL 0x3f6
#define ATA_IRQ 14
#define SECTOR_BYTES 512

enum task { DATA, ERROR, COUNT, LOW, MID, HIGH, DEVICE, STATUS };
#define FEATURES ERROR
#define COMMAND STATUS

#define BSY 0x80
#define DRQ 0x08
#define ERR 0x01
#define SRST 0x04
#define NIEN 0x02

static inline u8 ata_in(enum task port) {
  return inb(ATA + port);
}
static inline void ata_out(enum task port, u8 value) {
  outb(ATA + port, value);
}

/** Waits until the device is not busy; the status. Looks at the alternate one, which acknowledges nothing. */
static u8 ata_ready(void) {
  for (u32 i = 0; i < 10000000; i++) {
    u8 status = inb(ATA_CONTROL);
    if (!(status & BSY)) return status;
  }
  ABORT("the disk stays busy");
}

/** The same, and the data to move. */
static u8 ata_data(void) {
  u8 status = ata_ready();
  if (status & ERR || !(status & DRQ)) return status;
  return ata_in(STATUS);
}

// Device 0 is selected first: of a device that is not there nobody would see that it is busy.
static void ata_reset(void) {
  ata_out(DEVICE, 0xa0);
  outb(ATA_CONTROL, SRST | NIEN);
  for (u32 i = 0; i < 20; i++) inb(ATA_CONTROL);
  outb(ATA_CONTROL, NIEN);
  for (u32 i = 0; i < 20; i++) inb(ATA_CONTROL);
  ata_ready();
}

static void ata_28(u32 lba, u8 count, u8 command) {
  ata_ready();
  ata_out(COUNT, count);
  ata_out(LOW, lba);
  ata_out(MID, lba >> 8);
  ata_out(HIGH, lba >> 16);
  ata_out(DEVICE, 0xe0 | (lba >> 24 & 15));
  ata_out(COMMAND, command);
}

static inline void ata_48(u32 lba, u16 count, u8 command) {
  ata_ready();
  ata_out(DEVICE, 0xe0);
  ata_out(COUNT, count >> 8);
  ata_out(LOW, lba >> 24);
  ata_out(MID, 0);
  ata_out(HIGH, 0);
  ata_out(COUNT, count);
  ata_out(LOW, lba);
  ata_out(MID, lba >> 8);
  ata_out(HIGH, lba >> 16);
  ata_out(COMMAND, command);
}

/** What the payloads write: every sector is different, and every byte in it. */
static inline void fill(volatile u8 *sector, u32 seed) {
  for (u32 i = 0; i < SECTOR_BYTES; i++) sector[i] = seed * 37 + i * 11 + (i >> 8) * 3;
}

// Each interrupt is answered at once with a read of the status, which is the acknowledgement.
static volatile u32 status_at_interrupt;
static void on_interrupt(u32 vector) {
  (void)vector;
  status_at_interrupt = ata_in(STATUS);
  irq_end();
}
HANDLER(0x2e)
