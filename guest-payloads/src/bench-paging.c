// # Workloads: page tables
//
// What an operating system does to translations: changes one and says so, changes some and starts over, and lets the processor find out that there is none.

#include "bench.h"
#include "tables.h"

#define FRAMES 16
#define PAGES 64
static PAGE volatile u8 frames[FRAMES][4096];

static inline volatile u32 *page(u32 n) {
  return (volatile u32 *)(AT + n * 4096ul);
}
static inline void map(u32 n, u32 frame) {
  *leaf(n) = address_of(frames[frame]) | PRESENT | WRITABLE | USER;
}

static u32 on;
static void prepare(void) {
  if (!on) tables_on();
  on = 1;
  for (u32 i = 0; i < FRAMES; i++) *(volatile u32 *)frames[i] = i * 0x01010101u + 7;
  for (u32 i = 0; i < PAGES; i++) map(i, i % FRAMES);
}

// A page shows another frame, INVLPG, a read, a write.
static u32 one_by_one(void) {
  u32 sum = 0;
  for (u32 i = 0; i < 2048; i++) {
    u32 n = i % PAGES;
    map(n, (i + (i >> 6)) % FRAMES);
    invlpg(page(n));
    sum += *page(n);
    page(n)[1] = i;
  }
  return sum;
}

// Eight pages change, CR3 is loaded, and these and eight others are read.
static u32 all_at_once(void) {
  u32 sum = 0;
  for (u32 i = 0; i < 256; i++) {
    for (u32 n = 0; n < 8; n++) map(n, (i + n) % FRAMES);
    flush();
    for (u32 n = 0; n < 16; n++) sum = sum * 3 + *page(n);
  }
  return sum;
}

// ## Faults
//
// The handler gives the page a frame, as the handler of a system that hands out memory when it is used does.

struct interrupt_frame;
static volatile u32 faults;
static __attribute__((interrupt)) void on_fault(struct interrupt_frame *frame, word error) {
  (void)frame;
  (void)error;
  word address;
  asm volatile("mov %%cr2, %0" : "=r"(address));
  u32 n = (u32)((address - AT) >> 12) % PAGES;
  map(n, (n + faults) % FRAMES);
  faults++;
}

extern u8 rb_idt[];
static void prepare_faults(void) {
  prepare();
  volatile u16 *gate = (volatile u16 *)(rb_idt + 14 * (MODE == 64 ? 16 : 8));
  gate[0] = (u16)(word)on_fault;
  gate[3] = (u16)((word)on_fault >> 16);
}
static u32 on_demand(void) {
  u32 sum = 0;
  faults = 0;
  for (u32 i = 0; i < 16; i++) {
    for (u32 n = 0; n < PAGES; n++) {
      *leaf(n) = 0;
      invlpg(page(n));
    }
    for (u32 n = 0; n < PAGES; n++) sum = sum * 3 + *page(n);
  }
  return sum + faults;
}

static const struct workload workloads[] = {
  {"invlpg", one_by_one, prepare, 0},
  {"cr3", all_at_once, prepare, 0},
  {"page-faults", on_demand, prepare_faults, 0},
};
_Noreturn void main(void) {
  MEASURE(workloads);
}
