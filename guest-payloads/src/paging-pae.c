// # Paging with physical address extension
//
// Entries of eight bytes, so that they can hold more than 32 bits of address. Tables then have 512 entries, and a third level of four entries is
// needed on top. Those four are peculiar: the processor *loads them into registers* when CR3 is written, and looks at them in memory no more.

#include "paging.h"

static __attribute__((aligned(32))) u64 pointers[4];
static PAGE u64 directory[512], identity[512], table[512], other_directory[512];
static PAGE volatile u8 one[4096], two[4096];

#define AT 0x40200000ul // pointer 1, directory entry 1

static word load_cr3(word value) {
  // WRCR3 through a probe of its own: a code snippet in memory, for only memory accesses can be probed.
  static u8 code[] = {0x0f, 0x22, 0xd8, 0xc3}; // MOV CR3, EAX; RET
  return outcome(EXECUTE, probe(EXECUTE, code, value));
}

_Noreturn void main(void) {
  one[0] = 0x11;
  two[0] = 0x22;
  for (u32 i = 0; i < 512; i++) identity[i] = (u64)i << 12 | PRESENT | WRITABLE | USER;
  directory[0] = address_of(identity) | PRESENT | WRITABLE | USER;
  for (u32 i = 1; i < 8; i++) directory[i] = (u64)i << 21 | PRESENT | WRITABLE | USER | LARGE; // 2 MiB pages
  other_directory[1] = address_of(table) | PRESENT | WRITABLE | USER;
  pointers[0] = address_of(directory) | PRESENT;
  pointers[1] = address_of(other_directory) | PRESENT;
  table[0] = address_of(one) | PRESENT | WRITABLE;
  table[1] = address_of(two) | PRESENT | WRITABLE;

  stage("pae");
  write_cr4(read_cr4() | CR4_PAE);
  write_cr3(address_of(pointers));
  write_cr0(read_cr0() | CR0_PG);
  obs("first", touch(READ, AT, 0));
  obs("second", touch(READ, AT + 0x1000, 0));
  obs("absent", touch(WRITE, AT + 0x2000, 0));
  obs("absent.cr2", trap_cr2);
  obs("absent.directory", touch(READ, AT + 0x200000, 0));
  obs("absent.pointer", touch(READ, 0x80000000ul, 0));
  obs("large", touch(READ, 0x200000, 0) < 0x100);

  // CR3 need only be aligned to 32 bytes here; its low five bits are not address.
  stage("registers");
  pointers[2] = address_of(directory) | PRESENT; // in memory, not yet in the register
  obs("pointer.before", touch(READ, 0x80000000ul + 0x100000, 0));
  obs("reload", load_cr3(address_of(pointers)));
  obs("pointer.after", touch(READ, 0x80000000ul + 0x100000, 0));

  // Reserved bits in a pointer are noticed when it is loaded: a general-protection fault in MOV to CR3.
  pointers[3] = address_of(directory) | PRESENT | WRITABLE;
  obs("pointer.reserved", load_cr3(address_of(pointers)));
  obs("pointer.kept", touch(READ, 0x80000000ul + 0x100000, 0));
  pointers[3] = address_of(directory) | WRITABLE; // not present: then nothing else is looked at
  obs("pointer.ignored", load_cr3(address_of(pointers)));

  // No-execute came with these entries: bit 63, if EFER.NXE allows it. Otherwise the bit is reserved.
  stage("no-execute");
  one[0] = 0xc3; // RET
  table[0] |= NX;
  invlpg((void *)AT);
  obs("nx.reserved", touch(READ, AT, 0));
  write_msr(EFER, read_msr(EFER) | EFER_NXE);
  obs("nx.read", touch(READ, AT, 0));
  obs("nx.execute", touch(EXECUTE, AT, 0));
  table[0] &= ~NX;
  invlpg((void *)AT);
  obs("nx.off", touch(EXECUTE, AT, 0));
  done();
}
