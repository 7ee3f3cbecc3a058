// # Rings, from the driver's side
//
// Two formats behind one set of words: `give` puts a chain of buffers in, `kick` tells the device, `take` gets back what the device has used. No buffer is ever
// reused while the device may have it, indices run free and wrap where the format says.

#pragma once

#include "virtio.h"

#define QUEUE_LIMIT 256
#define D_NEXT 1
#define D_WRITE 2
#define D_INDIRECT 4
#define D_AVAIL 0x80
#define D_USED 0x8000
#define NO_CHAIN 0xffffffffu

/** One piece of a chain: readable pieces first. */
struct piece {
  volatile void *at;
  u32 bytes;
  u32 writable;
};

struct split_descriptor {
  u64 addr;
  u32 len;
  u16 flags, next;
};
struct packed_descriptor {
  u64 addr;
  u32 len;
  u16 id, flags;
};
struct used_element {
  u32 id, len;
};

/** What any queue needs at most: a table, the available ring, and on the next page the used ring. */
struct queue_memory {
  u8 bytes[4096 * 3];
} __attribute__((aligned(4096)));

struct queue {
  u32 index, size, packed, event_idx;
  volatile u8 *notify;
  volatile struct split_descriptor *table;
  volatile u16 *avail; // flags, idx, ring, used_event
  volatile u16 *used;  // flags, idx, elements, avail_event
  volatile struct packed_descriptor *ring;
  volatile u16 *driver_event, *device_event; // off_wrap, flags
  u16 next, seen;                            // split: free-running; packed: places
  u32 avail_wrap, used_wrap;
  u32 kicks;
  u32 taken; // length that the device reported last
  u16 in_chain[QUEUE_LIMIT]; // descriptors of each outstanding chain, by id
  u16 free_head, free_count; // split: a list through the table; packed: places
  u16 free_ids[QUEUE_LIMIT], ids_left;
};

static inline void fence(void) {
  asm volatile("lock; orl $0, (%%esp)" : : : "memory");
}

static inline void zero(volatile u8 *at, u32 bytes) {
  while (bytes--) *at++ = 0;
}

static inline void queue_address(u32 pci, u32 mmio, volatile void *at) {
  volatile u8 *low = vd.common + (vd.transport == T_PCI ? pci : mmio);
  write32(low, (u32)at);
  write32(low + 4, 0);
}

/** Lays a queue out in its memory, and tells the device where. */
static void queue_place(struct queue *q, volatile u8 *area) {
  u32 ring = (16 * q->size + 6 + 2 * q->size + 4095) & ~4095u;
  q->table = (volatile struct split_descriptor *)area;
  q->avail = (volatile u16 *)(area + 16 * q->size);
  q->used = (volatile u16 *)(area + ring);
  q->ring = (volatile struct packed_descriptor *)area;
  q->driver_event = (volatile u16 *)(area + 16 * q->size);
  q->device_event = q->driver_event + 2;
  q->avail_wrap = q->used_wrap = 1;
  q->free_count = q->size;
  for (u32 i = 0; i < q->size; i++) q->free_ids[i] = i;
  q->ids_left = q->size;
  if (!q->packed)
    for (u32 i = 0; i < q->size; i++) q->table[i].next = i + 1;
  switch (vd.transport) {
    case T_PCI:
      write16(vd.common + V_QUEUE_SELECT, q->index);
      write16(vd.common + V_QUEUE_SIZE, q->size);
      queue_address(V_QUEUE_DESC, 0, area);
      queue_address(V_QUEUE_DRIVER, 0, q->avail);
      queue_address(V_QUEUE_DEVICE, 0, q->packed ? (volatile void *)q->device_event : q->used);
      q->notify = vd.notify + read16(vd.common + V_QUEUE_NOTIFY_OFF) * vd.multiplier;
      write16(vd.common + V_QUEUE_ENABLE, 1);
      break;
    case T_LEGACY:
      outw(vd.io + L_QUEUE_SELECT, q->index);
      outl(vd.io + L_QUEUE_PFN, (u32)area >> 12);
      break;
    case T_MMIO_LEGACY:
      write32(vd.common + MM_QUEUE_SEL, q->index);
      write32(vd.common + MM_QUEUE_NUM, q->size);
      write32(vd.common + MM_QUEUE_ALIGN, 4096);
      write32(vd.common + MM_QUEUE_PFN, (u32)area >> 12);
      break;
    default:
      write32(vd.common + MM_QUEUE_SEL, q->index);
      write32(vd.common + MM_QUEUE_NUM, q->size);
      queue_address(0, MM_QUEUE_DESC, area);
      queue_address(0, MM_QUEUE_DRIVER, q->avail);
      queue_address(0, MM_QUEUE_DEVICE, q->packed ? (volatile void *)q->device_event : q->used);
      write32(vd.common + MM_QUEUE_READY, 1);
      break;
  }
}

/** Makes a queue of at most `wanted` entries. An old device has the last word on the size. */
static void queue_init(struct queue *q, struct queue_memory *memory, u32 index, u32 wanted) {
  zero((volatile u8 *)q, sizeof *q);
  zero(memory->bytes, sizeof *memory);
  q->index = index;
  q->packed = (vd.features & F_PACKED) != 0;
  q->event_idx = (vd.features & F_EVENT_IDX) != 0;
  u32 most = 0;
  switch (vd.transport) {
    case T_PCI:
      write16(vd.common + V_QUEUE_SELECT, index);
      most = read16(vd.common + V_QUEUE_SIZE);
      break;
    case T_LEGACY:
      outw(vd.io + L_QUEUE_SELECT, index);
      wanted = most = inw(vd.io + L_QUEUE_SIZE);
      break;
    default:
      write32(vd.common + MM_QUEUE_SEL, index);
      most = read32(vd.common + MM_QUEUE_NUM_MAX);
      break;
  }
  q->size = wanted < most ? wanted : most;
  if (!q->size) ABORT("there is no such queue");
  if (q->size > QUEUE_LIMIT) ABORT("the queue is longer than there is memory for");
  queue_place(q, memory->bytes);
}

// ## Giving
//
// The order of the stores is the whole protocol. A chain is complete in memory before the one store that makes it visible: the index in a split ring, the first
// descriptor's flags in a packed one. On x86 stores are seen in program order, so keeping the compiler in order is enough.

static inline void barrier(void) {
  asm volatile("" : : : "memory");
}

static u32 give_split(struct queue *q, const struct piece *pieces, u32 count, volatile struct split_descriptor *indirect) {
  u32 head = q->free_head;
  if (indirect) {
    for (u32 i = 0; i < count; i++) {
      indirect[i].addr = (u32)pieces[i].at;
      indirect[i].len = pieces[i].bytes;
      indirect[i].flags = (pieces[i].writable ? D_WRITE : 0) | (i + 1 < count ? D_NEXT : 0);
      indirect[i].next = i + 1;
    }
    q->free_head = q->table[head].next;
    q->table[head].addr = (u32)indirect;
    q->table[head].len = count * 16;
    q->table[head].flags = D_INDIRECT;
  } else {
    u32 at = head;
    for (u32 i = 0; i < count; i++) {
      q->table[at].addr = (u32)pieces[i].at;
      q->table[at].len = pieces[i].bytes;
      q->table[at].flags = (pieces[i].writable ? D_WRITE : 0) | (i + 1 < count ? D_NEXT : 0);
      at = q->table[at].next;
    }
    q->free_head = at;
  }
  q->avail[2 + q->next % q->size] = head;
  barrier();
  q->next++;
  q->avail[1] = q->next;
  return head;
}

static u32 give_packed(struct queue *q, const struct piece *pieces, u32 count, volatile struct split_descriptor *indirect) {
  u32 id = q->free_ids[--q->ids_left];
  u32 head = q->next, head_flags = 0, used = indirect ? 1 : count;
  if (indirect)
    for (u32 i = 0; i < count; i++) {
      indirect[i].addr = (u32)pieces[i].at;
      indirect[i].len = pieces[i].bytes;
      indirect[i].flags = 0;
      indirect[i].next = 0;
      if (pieces[i].writable) ((volatile struct packed_descriptor *)indirect)[i].flags = D_WRITE;
    }
  for (u32 i = 0; i < used; i++) {
    volatile struct packed_descriptor *d = &q->ring[q->next];
    u32 flags = q->avail_wrap ? D_AVAIL : D_USED;
    if (indirect) flags |= D_INDIRECT;
    else flags |= (pieces[i].writable ? D_WRITE : 0) | (i + 1 < count ? D_NEXT : 0);
    d->addr = indirect ? (u32)indirect : (u32)pieces[i].at;
    d->len = indirect ? count * 16 : pieces[i].bytes;
    d->id = id;
    if (i) d->flags = flags;
    else head_flags = flags;
    if (++q->next == q->size) {
      q->next = 0;
      q->avail_wrap ^= 1;
    }
  }
  barrier();
  q->ring[head].flags = head_flags;
  return id;
}

/** Puts a chain in; its id. With a table for indirect descriptors it takes one place. */
static inline u32 give(struct queue *q, const struct piece *pieces, u32 count, volatile struct split_descriptor *indirect) {
  u32 places = indirect ? 1 : count;
  if (places > q->free_count) ABORT("the queue is full");
  q->free_count -= places;
  u32 id = q->packed ? give_packed(q, pieces, count, indirect) : give_split(q, pieces, count, indirect);
  q->in_chain[id % QUEUE_LIMIT] = places;
  return id;
}

static inline void notify_device(struct queue *q) {
  q->kicks++;
  switch (vd.transport) {
    case T_PCI: write16(q->notify, q->index); break;
    case T_LEGACY: outw(vd.io + L_QUEUE_NOTIFY, q->index); break;
    default: write32(vd.common + MM_QUEUE_NOTIFY, q->index); break;
  }
}

/** Tells the device, unless it has asked not to be told of what was given since `from`. The load must not pass the store before it: hence a real fence. */
static inline void kick_since(struct queue *q, u16 from) {
  fence();
  if (q->packed) {
    u16 flags = q->device_event[1] & 3;
    if (flags == 1) return;
    if (flags == 2) {
      u16 off_wrap = q->device_event[0];
      u16 event = off_wrap & 0x7fff, next = q->next;
      if ((off_wrap >> 15) != q->avail_wrap) event -= q->size;
      u16 before = from;
      if (from > next) before -= q->size;
      if ((u16)(next - event - 1) >= (u16)(next - before)) return;
    }
  } else if (q->event_idx) {
    u16 event = *(volatile u16 *)((volatile u8 *)q->used + 4 + 8 * q->size);
    if ((u16)(q->next - event - 1) >= (u16)(q->next - from)) return;
  } else if (q->used[0] & 1) {
    return;
  }
  notify_device(q);
}

// ## Taking

static inline u32 has_used(struct queue *q) {
  if (!q->packed) return q->used[1] != q->seen;
  u16 flags = q->ring[q->seen].flags;
  u32 avail = (flags & D_AVAIL) != 0, used = (flags & D_USED) != 0;
  return avail == used && used == q->used_wrap;
}

/** The id of a chain that came back, with its length in `taken`; NO_CHAIN when there is none. */
static inline u32 take(struct queue *q) {
  if (!has_used(q)) return NO_CHAIN;
  barrier();
  u32 id, places;
  if (q->packed) {
    id = q->ring[q->seen].id;
    q->taken = q->ring[q->seen].len;
    places = q->in_chain[id % QUEUE_LIMIT];
    q->free_ids[q->ids_left++] = id;
    q->seen += places;
    if (q->seen >= q->size) {
      q->seen -= q->size;
      q->used_wrap ^= 1;
    }
  } else {
    volatile struct used_element *element = (volatile struct used_element *)(q->used + 2) + q->seen % q->size;
    id = element->id;
    q->taken = element->len;
    places = q->in_chain[id % QUEUE_LIMIT];
    u32 last = id;
    for (u32 i = 1; i < places; i++) last = q->table[last].next;
    q->table[last].next = q->free_head;
    q->free_head = id;
    q->seen++;
    if (q->event_idx) q->avail[2 + q->size] = q->seen; // tell me of the next one
  }
  q->free_count += places;
  return id;
}

/** Waits for the next chain to come back, not for ever. */
static inline u32 await(struct queue *q) {
  for (u32 patience = 0; patience < 4000000; patience++) {
    u32 id = take(q);
    if (id != NO_CHAIN) return id;
    asm volatile("pause");
  }
  return NO_CHAIN;
}

/** One chain there and back; the length that the device reported, or NO_CHAIN. */
static inline u32 exchange(struct queue *q, const struct piece *pieces, u32 count) {
  u16 from = q->next;
  give(q, pieces, count, 0);
  kick_since(q, from);
  return await(q) == NO_CHAIN ? NO_CHAIN : q->taken;
}
