// # RAM beneath the ROM
//
// Below one megabyte the memory controller chooses for each piece, and for reads and writes apart, between RAM and what lies in its place. Firmware
// copies itself that way: read from the ROM, write to the RAM below, and then switch the reads over.

#include "pc.h"

#define PAM3 0x93 // 16 KiB from 0xd0000 in the low half, from 0xd4000 in the high half
#define FIRST (*(volatile u32 *)0xd0000)
#define SECOND (*(volatile u32 *)0xd4000)

static void choose(u32 low, u32 high) {
  pci_write8(0, PAM3, (u8)(high << 4 | low));
}

_Noreturn void main(void) {
  if (pci_read(0, 0) != 0x29c08086u) ABORT("no Q35");
  stage("ram");
  choose(3, 3);
  FIRST = 0x12345678;
  SECOND = 0x9abcdef0;
  obs("ram.keeps", FIRST);
  obs("ram.second", SECOND);

  stage("read");
  choose(1, 3);
  FIRST = 0x11111111;
  obs("read.keeps", FIRST);
  SECOND = 0x22222222; // the other half goes its own way
  obs("read.second", SECOND);

  stage("away");
  choose(0, 3);
  obs("away.shows", FIRST == 0x12345678);
  FIRST = 0x33333333;
  choose(3, 3);
  obs("away.kept", FIRST);

  stage("write");
  choose(2, 3);
  FIRST = 0x44444444;
  obs("write.shows", FIRST == 0x44444444);
  choose(3, 3);
  obs("write.kept", FIRST);

  stage("second");
  choose(3, 0);
  obs("second.shows", SECOND == 0x22222222);
  obs("second.other", FIRST);
  choose(3, 3);
  obs("second.kept", SECOND);
  done();
}

static void on_interrupt(u32 vector) {
  (void)vector;
}
