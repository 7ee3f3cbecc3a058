// # What the firmware says the machine is
//
// An operating system finds processors, interrupt controllers and timers in tables that begin with a signature on a 16-byte boundary somewhere below one megabyte.
// Each table sums to zero. What they claim is tried here as well: the timer counts, and configuration space is where they say.

#include "acpi.h"

static u32 bad_sums, bad_lengths, tables;
static void check_all(const volatile struct rsdp *root) {
  const volatile struct header *table;
  for (u32 n = 0; (table = table_at(root, n)) != 0; n++) {
    tables++;
    if (table->length < 36 || table->length > 0x100000) bad_lengths++;
    else if (sum(table, table->length)) bad_sums++;
  }
}

_Noreturn void main(void) {
  stage("root");
  const volatile struct rsdp *root = find_root();
  obs("root.found", root != 0);
  if (!root) done();
  obs("root.extended", root->revision < 2 ? 0 : sum(root, root->length));
  check_all(root);
  obs("tables", tables > 0);
  obs("tables.sums", bad_sums);
  obs("tables.lengths", bad_lengths);

  stage("fixed");
  const volatile struct header *fadt = find_table(NAME('F', 'A', 'C', 'P'), root);
  obs("fixed.found", fadt != 0);
  if (fadt) {
    const volatile struct header *dsdt = (const volatile struct header *)(word)u32_at(fadt, 40);
    obs("dsdt.signature", dsdt->signature == NAME('D', 'S', 'D', 'T'));
    obs("dsdt.sum", sum(dsdt, dsdt->length));
    u16 timer = (u16)u32_at(fadt, 76);
    u32 first = inl(timer), moved = 0;
    for (u32 patience = 0; patience < 1000000 && !moved; patience++) moved = inl(timer) != first;
    obs("timer.counts", moved);
    obs("timer.bits", u32_at(fadt, 112) >> 8 & 1 ? 0 : inl(timer) >> 24); // 24 bits unless the tables say 32
    u16 control = (u16)u32_at(fadt, 64);
    obs("enabled", inw(control) & 1 || u32_at(fadt, 48) != 0); // in ACPI mode, or a port that brings it there
  }

  stage("interrupts");
  const volatile struct header *madt = find_table(NAME('A', 'P', 'I', 'C'), root);
  obs("interrupts.found", madt != 0);
  if (madt) {
    u32 processors = 0, controllers = 0, malformed = 0, timer_pin = 0;
    for (u32 at = 44; at + 2 <= madt->length;) {
      const volatile u8 *entry = (const volatile u8 *)madt + at;
      if (entry[1] < 2) {
        malformed++;
        break;
      }
      if ((entry[0] == 0 && entry[4] & 1) || (entry[0] == 9 && entry[8] & 1)) processors++;
      if (entry[0] == 1) controllers++;
      if (entry[0] == 2 && entry[3] == 0) timer_pin = entry[4];
      at += entry[1];
    }
    obs("processors", processors);
    obs("controllers", controllers);
    obs("malformed", malformed);
    obs("timer.pin", timer_pin);
    obs("apic.address", u32_at(madt, 36));
  }

  // Where there is memory-mapped configuration space it shows what the two ports show.
  stage("configuration");
  const volatile struct header *mcfg = find_table(NAME('M', 'C', 'F', 'G'), root);
  if (mcfg) {
    u32 base = u32_at(mcfg, 44), differ = 0, seen = 0;
    for (u32 device = 0; device < 32; device++) {
      for (u32 offset = 0; offset < 64; offset += 4) {
        outl(0xcf8, 0x80000000u | device << 11 | offset);
        u32 port = inl(0xcfc);
        if (offset == 0 && (port & 0xffff) != 0xffff) seen++;
        if (*(volatile u32 *)(word)(base + (device << 15) + offset) != port) differ++;
      }
    }
    obs("mapped.seen", seen > 0);
    obs("mapped.differ", differ);
    obs("mapped.absent", *(volatile u32 *)(word)(base + (31u << 15 | 7u << 12))); // function 31.7
  }
  done();
}

static void on_interrupt(u32 vector) {
  (void)vector;
}
