// # PCI, by its configuration space
//
// Sixty-four bytes that every function has, behind two ports. A driver learns from them what is there, how much room it needs, and where its messages may be
// set up. This payload knows none of the machine's functions; it asks each on bus 0 whether it keeps the rules that hold for all.

#include "irq.h"

#define CONFIG(device, function, offset) (0x80000000u | (device) << 11 | (function) << 8 | (offset))

static u32 at;
static u32 read32(u32 offset) {
  outl(0xcf8, at | (offset & 0xfc));
  return inl(0xcfc);
}
static void write32(u32 offset, u32 value) {
  outl(0xcf8, at | (offset & 0xfc));
  outl(0xcfc, value);
}
static u8 read8(u32 offset) {
  outl(0xcf8, at | (offset & 0xfc));
  return inb((u16)(0xcfc + (offset & 3)));
}
static u16 read16(u32 offset) {
  outl(0xcf8, at | (offset & 0xfc));
  return inw((u16)(0xcfc + (offset & 2)));
}

static u32 functions, parts_differ, identity_changed, command_reserved, status_set, bar_fixed, bar_power, bar_restored, bars;
static u32 capability_unaligned, capability_endless, capability_lists, multifunction_wrong, line_forgets;

static void check_bars(u32 count) {
  for (u32 n = 0; n < count; n++) {
    u32 offset = 0x10 + 4 * n;
    u32 before = read32(offset);
    u32 command = read32(4);
    write32(4, command & 0xffff & ~3u); // nothing decodes while it is being asked
    write32(offset, 0xffffffff);
    u32 ones = read32(offset);
    write32(offset, before);
    u32 after = read32(offset);
    write32(4, command & 0xffff);
    if (after != before) bar_restored++;
    if (ones == 0) continue;
    bars++;
    u32 fixed = before & 1 ? 3 : 15;
    if ((ones & fixed) != (before & fixed)) bar_fixed++;
    // A port window may have sixteen address bits or thirty-two; above its size it must be all ones.
    u32 mask = ones & ~fixed;
    if (before & 1 && !(mask >> 16)) mask |= 0xffff0000;
    u32 size = ~mask + 1;
    if (size & (size - 1)) bar_power++;
    if (!(before & 1) && (before & 6) == 4) n++; // 64 bits: the next one is its upper half
  }
}

static void check_capabilities(void) {
  if (!(read16(6) & 0x10)) return;
  capability_lists++;
  u32 next = read8(0x34);
  u32 steps = 0;
  while (next != 0 && steps < 64) {
    if (next & 3 || next < 0x40) {
      capability_unaligned++;
      return;
    }
    next = read8(next + 1);
    steps++;
  }
  if (steps == 64) capability_endless++;
}

_Noreturn void main(void) {
  stage("address");
  outl(0xcf8, 0x80000004);
  obs("address.reads", inl(0xcf8));
  outb(0xcf8, 0x55);
  outw(0xcfa, 0x5555);
  obs("address.whole", inl(0xcf8)); // only 32-bit writes reach the register
  at = CONFIG(0, 0, 0);
  obs("present", (read32(0) & 0xffff) != 0xffff);
  outl(0xcf8, 0); // not enabled
  obs("disabled", inl(0xcfc));

  // Where nothing is, everything reads as ones, and writes are lost.
  stage("absent");
  u32 absent = 0;
  for (u32 device = 0; device < 32 && !absent; device++) {
    at = CONFIG(device, 0, 0);
    if ((read32(0) & 0xffff) == 0xffff) absent = at;
  }
  at = absent;
  obs("absent.word", read32(0));
  obs("absent.elsewhere", read32(0x3c));
  write32(4, 7);
  obs("absent.written", read32(4));

  stage("functions");
  for (u32 device = 0; device < 32; device++) {
    u32 multi = 0;
    for (u32 function = 0; function < 8; function++) {
      at = CONFIG(device, function, 0);
      u32 identity = read32(0);
      if ((identity & 0xffff) == 0xffff) {
        if (function == 0) break;
        continue;
      }
      if (function == 0) multi = read8(0x0e) >> 7;
      else if (!multi) multifunction_wrong++;
      if (function != 0 && !multi) continue;
      functions++;
      u32 header = read8(0x0e) & 0x7f;
      for (u32 offset = 0; offset < 0x40; offset += 4) {
        u32 whole = read32(offset);
        if (read16(offset) != (whole & 0xffff) || read16(offset + 2) != whole >> 16) parts_differ++;
        for (u32 byte = 0; byte < 4; byte++)
          if (read8(offset + byte) != (whole >> 8 * byte & 0xff)) parts_differ++;
      }
      u32 class = read32(8);
      write32(0, ~identity);
      write32(8, ~class);
      if (read32(0) != identity || read32(8) != class) identity_changed++;
      u32 command = read32(4);
      write32(4, (command & 0xffff) | 0xf800); // reserved bits of the command; the status is written with zeros
      if (read32(4) & 0xf800) command_reserved++;
      write32(4, (command & 0xffff) | 0x06000000); // read-only bits of the status
      if ((read32(4) ^ command) & 0x06ff0000) status_set++;
      write32(4, command & 0xffff);
      // The interrupt line is the firmware's note to the system: the hardware keeps it and does not look.
      if (header == 0 && read8(0x3d) != 0) {
        u32 line = read32(0x3c);
        write32(0x3c, (line & ~0xffu) | 0xa5);
        if (read8(0x3c) != 0xa5) line_forgets++;
        write32(0x3c, line);
      }
      if (header < 2) check_bars(header == 0 ? 6 : 2);
      check_capabilities();
      if (function == 0 && !multi) break;
    }
  }
  obs("functions", functions > 0);
  obs("parts.differ", parts_differ);
  obs("identity.changed", identity_changed);
  obs("command.reserved", command_reserved);
  obs("status.set", status_set);
  obs("bars", bars > 0);
  obs("bar.fixed.bits", bar_fixed);
  obs("bar.no.power", bar_power);
  obs("bar.not.restored", bar_restored);
  obs("capability.unaligned", capability_unaligned);
  obs("capability.endless", capability_endless);
  obs("multifunction.wrong", multifunction_wrong);
  obs("line.forgets", line_forgets);
  done();
}

static void on_interrupt(u32 vector) {
  (void)vector;
}
