// # Tables that nobody would write
//
// A page table is memory, and a guest may put anything there: entries that lead back to the table they are in, to a device, beyond the end of memory,
// with reserved bits set. The processor walks it all the same, and the walk has to end in a page or in a page fault. Whoever builds shadow tables
// from such tables, or walks them in order to emulate an instruction, is led along the same paths.
//
// The payload itself lives in the lower half of the address space, under an entry that nobody touches, and tries random addresses in the upper half. For each it
// does the walk by itself first. Where it knows what must come, it compares; where a device or nothing at all would have to serve as a table, it
// only wants to come back.

#include "paging.h"
#define SEED 0x9d2c5681
#include "random.h"

#define ROUNDS 500
#define TABLES 12
#define ENTRIES 512

extern u64 rb_pml4[512];
static PAGE u64 top[ENTRIES];
static PAGE u64 tables[TABLES][ENTRIES];
static PAGE volatile u8 arena[2][4096]; // full of RET
static PAGE volatile u8 canary[4096];

static u32 address_bits;

// ## An entry

static const u64 nowhere[] = {0xfee00000, 0xfec00000, 0xa0000, 0xfed1c000, 0xb0000000, 0xfffff000, 0x100000000000 - 4096, 0x4000000000, 0xe0000000};

static u64 some_address(u32 level) {
  switch (below(8)) {
    case 0: return nowhere[below(sizeof(nowhere) / 8)];
    case 1: return address_of(top);
    case 2: return address_of(arena[below(2)]);
    case 3: return level > 1 ? 0 : address_of(arena[0]); // an address that a large page may have
    default: return level > 1 ? address_of(tables[below(TABLES)]) : address_of(arena[below(2)]);
  }
}
static u64 some_entry(u32 level) {
  u64 entry = some_address(level) | PRESENT;
  u32 bits = next();
  if (bits & 7) entry |= WRITABLE;
  if (bits & 0x38) entry |= USER;
  if (!(bits & 0x1c0)) entry |= NX;
  if (bits & 0x200) entry |= ACCESSED;
  if (bits & 0x400) entry |= DIRTY;
  if (!(bits & 0xf000)) entry |= LARGE;
  if (!(bits & 0xf0000)) entry |= 0x18; // caching: no cache, write through
  if (!(bits & 0x700000)) entry |= 1ull << (12 + below(40)); // a reserved bit, or another address
  if (!(bits & 0x7000000)) entry &= ~PRESENT;
  return entry;
}

// ## The walk, by hand

enum { FAULT, MAPPED, UNKNOWN };
static u64 walked; // the physical address
static u32 writable, user, executable;

static u32 is_table(u64 at) {
  return at == address_of(top) || (at >= address_of(tables) && at < address_of(tables + TABLES));
}
static u32 is_arena(u64 at) {
  return at >= address_of(arena) && at < address_of(arena + 2);
}
static u32 walk(u64 address) {
  u64 table = address_of(top);
  writable = user = executable = 1;
  for (u32 level = 4; level > 0; level--) {
    u32 shift = 12 + 9 * (level - 1);
    u32 index = (u32)(address >> shift) & 511;
    // Tables are only read where they are known to be memory that keeps still. Of the arena every entry is 0xc3c3c3c3c3c3c3c3.
    u64 entry;
    if (is_table(table) || is_arena(table)) entry = ((volatile u64 *)table)[index];
    else return UNKNOWN;
    if (!(entry & PRESENT)) return FAULT;
    u64 reserved = 0x000ffffffffff000ull & ~((1ull << address_bits) - 1);
    if (level == 4) reserved |= LARGE;
    u32 large = level > 1 && level < 4 && entry & LARGE;
    if (large && level == 2) reserved |= 0x1fe000;
    if (large && level == 3) reserved |= 0x3fffe000;
    if (entry & reserved) return FAULT;
    if (!(entry & WRITABLE)) writable = 0;
    if (!(entry & USER)) user = 0;
    if (entry & NX) executable = 0;
    u64 frame = entry & 0x000ffffffffff000ull & ((1ull << address_bits) - 1);
    if (level == 1 || large) {
      u64 within = (1ull << shift) - 1;
      walked = (frame & ~within) | (address & within);
      return MAPPED;
    }
    table = frame;
  }
  return UNKNOWN;
}

// ## One attempt

static u32 disagreed, faults, passed, strange;

static void attempt(void) {
  u64 address = 0xffff800000000000ull | (u64)next() << 15 | (next() & 0x7ff8);
  if (below(32) == 0) address ^= 1ull << (48 + below(15)); // not canonical
  u32 canonical = address >> 47 == 0x1ffff;
  write_cr3(address_of(top));
  u32 known = canonical ? walk(address) : FAULT;
  enum access kind = below(3) == 0 ? WRITE : below(4) == 0 ? EXECUTE : READ;
  u32 ring3 = below(4) == 0;
  // Only what is known to do no harm is written or executed; devices are not even read, and a large page may show the payload to itself.
  if (known == UNKNOWN) kind = READ;
  if (known == MAPPED && kind != READ && !is_arena(walked)) kind = READ;
  u32 allowed = known == MAPPED && (kind != WRITE || writable) && (kind != EXECUTE || executable) && (!ring3 || user);
  if (kind == EXECUTE && !ring3 && known == MAPPED && user && below(2)) kind = READ, allowed = 1;
  volatile void *place = (volatile void *)address;
  u64 outcome = ring3 ? user_probe(kind, place, 0xc3c3c3c3) : probe(kind, place, 0xc3c3c3c3);
  write_cr3(address_of(rb_pml4));
  u32 fault = outcome != NO_TRAP;
  if (fault) faults++;
  else passed++;
  if (fault && outcome != 14 && !(outcome == 13 && !canonical)) strange++;
  if (known != UNKNOWN && fault == allowed) disagreed++;
}

_Noreturn void main(void) {
  u32 id[4];
  cpuid(0x80000008, 0, id);
  address_bits = id[0] & 0xff;
  write_msr(EFER, read_msr(EFER) | EFER_NXE);
  write_cr0(read_cr0() | CR0_WP);
  for (u32 n = 0; n < 4096; n++) {
    arena[0][n] = arena[1][n] = 0xc3;
    canary[n] = (u8)(n * 37);
  }
  // Nearly every walk should get past the first level.
  top[0] = rb_pml4[0];
  for (u32 n = 256; n < ENTRIES; n++) top[n] = below(8) ? address_of(tables[below(TABLES)]) | PRESENT | WRITABLE | USER : some_entry(4);
  for (u32 table = 0; table < TABLES; table++)
    for (u32 n = 0; n < ENTRIES; n++) tables[table][n] = some_entry(1 + below(3));
  stage("harm");
  u32 survived = 0;
  for (; survived < ROUNDS; survived++) {
    for (u32 n = 0; n < 4; n++) attempt();
    for (u32 n = 0; n < 32; n++) tables[below(TABLES)][below(ENTRIES)] = some_entry(1 + below(3));
    top[256 + below(256)] = some_entry(4);
    top[256 + below(256)] = address_of(tables[below(TABLES)]) | PRESENT | WRITABLE | USER;
  }
  stage("after");
  obs("survived", survived);
  obs("both", faults > ROUNDS / 4 && passed > ROUNDS / 4);
  obs("strange", strange);
  obs("disagreed", disagreed);
  u32 wrong = 0;
  for (u32 n = 0; n < 4096; n++) wrong += canary[n] != (u8)(n * 37);
  obs("canary", wrong);
  done();
}
