// # Random bytes through a ring
//
// The simplest device that there is: give it memory, and it comes back with something in it. What the bytes are cannot be known; that they are within the buffer, that at
// least one came, and that two buffers are not alike, can.

#include "virtqueue.h"

#define CANARY 0xa5

static struct queue_memory memory;
static struct queue q;
static volatile u8 arena[512] __attribute__((aligned(64)));
static volatile struct split_descriptor table[8] __attribute__((aligned(16)));

/** Bytes outside the pieces that no longer hold the canary. */
static u32 spilled(const struct piece *pieces, u32 count) {
  u32 found = 0;
  for (u32 i = 0; i < sizeof arena; i++) {
    u32 inside = 0;
    for (u32 p = 0; p < count; p++) inside |= arena + i >= (volatile u8 *)pieces[p].at && arena + i < (volatile u8 *)pieces[p].at + pieces[p].bytes;
    found += !inside && arena[i] != CANARY;
  }
  return found;
}
static void wipe(void) {
  for (u32 i = 0; i < sizeof arena; i++) arena[i] = CANARY;
}
static u32 changed(u32 from, u32 bytes) {
  u32 found = 0;
  for (u32 i = 0; i < bytes; i++) found += arena[from + i] != CANARY;
  return found;
}

_Noreturn void main(void) {
  stage("find");
  if (!find_device(ID_ENTROPY)) ABORT("no entropy device");
  begin(F_PACKED | F_INDIRECT | F_EVENT_IDX);
  report_transport();
  queue_init(&q, &memory, 0, 8);
  ready();
  obs("status", status());

  stage("one");
  wipe();
  struct piece one[] = {{arena + 64, 64, 1}};
  u32 length = exchange(&q, one, 1);
  obs("one.length", length);
  obs("one.spilled", spilled(one, 1));
  obs("one.filled", changed(64, length) > 0);
  u32 first = checksum(arena + 64, length <= 64 ? length : 0);

  stage("pieces");
  wipe();
  struct piece three[] = {{arena + 1, 1, 1}, {arena + 100, 33, 1}, {arena + 300, 30, 1}};
  length = exchange(&q, three, 3);
  obs("pieces.length", length);
  obs("pieces.spilled", spilled(three, 3));
  obs("pieces.same", checksum(arena + 100, 30) == first);

  // Twenty times around a ring of eight; each chain takes three places, so that it lies across the end more than once.
  stage("around");
  u32 back = 0;
  for (u32 i = 0; i < 20; i++) back += exchange(&q, three, 3) - 1 < 64;
  obs("around", back);

  stage("flight");
  wipe();
  struct piece a = {arena, 16, 1}, b = {arena + 32, 16, 1};
  u16 from = q.next;
  u32 ids = give(&q, &a, 1, 0) + 1;
  ids ^= (give(&q, &b, 1, 0) + 1) << 16;
  kick_since(&q, from);
  u32 seen = 0, count = 0;
  for (; count < 2; count++) {
    u32 id = await(&q);
    if (id == NO_CHAIN) break;
    seen |= id + 1 == (ids & 0xffff) ? 1 : id + 1 == ids >> 16 ? 2 : 4;
  }
  obs("flight.count", count);
  obs("flight.ids", seen);
  obs("flight.more", has_used(&q));

  stage("indirect");
  if (vd.features & F_INDIRECT) {
    wipe();
    from = q.next;
    give(&q, three, 3, table);
    kick_since(&q, from);
    obs("indirect.back", await(&q) != NO_CHAIN);
    obs("indirect.length", q.taken);
    obs("indirect.spilled", spilled(three, 3));
  }

  stage("reset");
  set_status(0);
  for (u32 patience = 0; patience < 1000000 && status(); patience++) asm volatile("pause");
  obs("reset", status());
  done();
}
