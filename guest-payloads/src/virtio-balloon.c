// # Giving memory away
//
// Takes some of its own pages, gives their numbers to the balloon, asks for them back, and looks whether they are memory again. What is in a page that was given away
// is nobody's promise; that it holds what is stored afterwards is.

#include "virtqueue.h"

#define INFLATE 0
#define DEFLATE 1
#define PAGES 16
#define CONFIG_ACTUAL 4

static struct queue_memory inflate_memory, deflate_memory;
static struct queue inflate, deflate;
static volatile u8 pages[PAGES][4096] __attribute__((aligned(4096)));
static volatile u8 neighbours[2][4096] __attribute__((aligned(4096)));
static u32 numbers[PAGES];

static u32 all_hold(u32 seed) {
  u32 wrong = 0;
  for (u32 p = 0; p < PAGES; p++)
    for (u32 i = 0; i < 4096; i += 64) wrong += *(volatile u32 *)&pages[p][i] != (seed ^ p << 16 ^ i);
  return wrong;
}
static void fill_all(u32 seed) {
  for (u32 p = 0; p < PAGES; p++)
    for (u32 i = 0; i < 4096; i += 64) *(volatile u32 *)&pages[p][i] = seed ^ p << 16 ^ i;
}

_Noreturn void main(void) {
  stage("find");
  if (!find_device(ID_BALLOON)) ABORT("no balloon");
  begin(F_PACKED | F_INDIRECT | F_EVENT_IDX);
  report_transport();
  queue_init(&inflate, &inflate_memory, INFLATE, 16);
  queue_init(&deflate, &deflate_memory, DEFLATE, 16);
  ready();
  obs("status", status());
  obs("target", config32(0));
  obs("actual", config32(CONFIG_ACTUAL));

  stage("inflate");
  fill_all(0x1234);
  for (u32 i = 0; i < 4096; i += 64) neighbours[0][i] = neighbours[1][i] = 0x77;
  for (u32 p = 0; p < PAGES; p++) numbers[p] = (u32)pages[p] >> 12;
  struct piece half[] = {{numbers, PAGES * 2, 0}};
  obs("inflate.length", exchange(&inflate, half, 1));
  // The other half in two pieces, cut inside a number.
  struct piece rest[] = {{(u8 *)numbers + PAGES * 2, 6, 0}, {(u8 *)numbers + PAGES * 2 + 6, PAGES * 2 - 6, 0}};
  obs("inflate.pieces", exchange(&inflate, rest, 2));
  set_config32(CONFIG_ACTUAL, PAGES);
  obs("inflate.actual", config32(CONFIG_ACTUAL));

  stage("deflate");
  struct piece all[] = {{numbers, sizeof numbers, 0}};
  obs("deflate.length", exchange(&deflate, all, 1));
  set_config32(CONFIG_ACTUAL, 0);
  obs("deflate.actual", config32(CONFIG_ACTUAL));
  fill_all(0x4321);
  obs("deflate.wrong", all_hold(0x4321));
  u32 touched = 0;
  for (u32 i = 0; i < 4096; i += 64) touched += neighbours[0][i] != 0x77 || neighbours[1][i] != 0x77;
  obs("neighbours", touched);
  done();
}
