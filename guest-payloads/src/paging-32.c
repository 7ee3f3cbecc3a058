// # 32-bit paging
//
// Two levels of 1,024 entries of four bytes: ten bits of the address choose the table, ten the page, twelve the byte. With CR4.PSE a directory entry
// can map 4 MiB by itself.

#include "paging.h"

static PAGE u32 directory[1024], identity[1024], table[1024];
static PAGE volatile u8 one[4096], two[4096];

#define AT 0x40000000ul // directory entry 256

_Noreturn void main(void) {
  one[0] = 0x11;
  two[0] = 0x22;
  one[4095] = 0x1f;

  // The first 4 MiB as they are, so that this code goes on running when paging comes on.
  for (u32 i = 0; i < 1024; i++) identity[i] = i << 12 | PRESENT | WRITABLE | USER;
  directory[0] = address_of(identity) | PRESENT | WRITABLE | USER;
  directory[AT >> 22] = address_of(table) | PRESENT | WRITABLE | USER;

  stage("four-kib");
  table[0] = address_of(one) | PRESENT | WRITABLE;
  table[1] = address_of(two) | PRESENT | WRITABLE;
  table[2] = address_of(one) | PRESENT | WRITABLE;
  write_cr3(address_of(directory));
  write_cr0(read_cr0() | CR0_PG);
  obs("first", touch(READ, AT, 0));
  obs("second", touch(READ, AT + 0x1000, 0));
  touch(WRITE, AT + 0x2000, 0x33); // the first page by another name
  obs("alias", touch(READ, AT, 0));
  obs("physical", one[0]);
  obs("last", touch(READ, AT + 0xfff, 0));
  obs("absent", touch(READ, AT + 0x3000, 0));
  obs("absent.cr2", trap_cr2);
  obs("absent.table", touch(WRITE, AT + 0x400000 + 5, 0));
  obs("absent.table.cr2", trap_cr2);

  // An access over a page boundary uses two translations. The bytes come from two frames that need not be neighbours.
  stage("straddle");
  two[0] = 0x44;
  obs("straddle", *(volatile u16 *)(AT + 0xfff));
  table[1] = 0;
  invlpg((void *)(AT + 0x1000));
  asm volatile("" : : : "memory");
  obs("straddle.fault", touch(READ, AT + 0x1000, 0));
  obs("straddle.cr2", trap_cr2);

  // Without CR4.PSE bit 7 of a directory entry is ignored: the entry points to a table all the same.
  stage("large");
  directory[(AT >> 22) + 1] = address_of(table) | PRESENT | WRITABLE | LARGE;
  obs("pse.off", touch(READ, AT + 0x400000, 0));

  // With it the entry maps 4 MiB. These are the first: our own ELF header lies at 1 MiB, and starts with 7F.
  write_cr4(read_cr4() | CR4_PSE);
  directory[(AT >> 22) + 2] = 0 | PRESENT | WRITABLE | LARGE;
  obs("pse.on", touch(READ, AT + 0x800000 + 0x100000, 0));
  obs("pse.data", touch(READ, AT + 0x800000 + address_of(one), 0));
  // Bits 21 to 13 of a 4 MiB entry hold high address bits, or must be zero. Bit 21 always must.
  directory[(AT >> 22) + 3] = 1u << 21 | PRESENT | WRITABLE | LARGE;
  obs("pse.reserved", touch(READ, AT + 0xc00000, 0));

  // The recursive trick: a directory entry that points to the directory shows all tables as memory.
  stage("recursive");
  directory[1023] = address_of(directory) | PRESENT | WRITABLE;
  obs("recursive.directory", (*(volatile u32 *)(0xfffff000ul + 4 * 1023) & ~0xfffu) == address_of(directory));
  obs("recursive.table", (*(volatile u32 *)(0xffc00000ul + (AT >> 12) * 4) & ~0xfffu) == address_of(one));

  // And off again.
  stage("off");
  write_cr0(read_cr0() & ~CR0_PG);
  obs("off", read_cr0() >> 31);
  obs("off.physical", *(volatile u8 *)one);
  done();
}
