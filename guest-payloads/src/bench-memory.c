// # Workloads: memory
//
// Moving it, filling it, and looking for something in more of it than any cache or TLB holds.

#include "bench.h"

#define BYTES 32768
static __attribute__((aligned(4096))) u8 from[BYTES], to[BYTES];

static void prepare(void) {
  fill(from, BYTES);
}

// What was copied is looked at in a few places, which are wiped first: else every round but the first would find what it wants without doing anything.

#define SAMPLES 16
static void wipe(void) {
  for (u32 i = 0; i < SAMPLES; i++) to[i * (BYTES / SAMPLES) + i * 97] = 0;
}
static u32 sample(void) {
  u32 sum = 0;
  for (u32 i = 0; i < SAMPLES; i++) sum = sum * 31 + to[i * (BYTES / SAMPLES) + i * 97];
  return sum;
}

static u32 copy(void) {
  wipe();
  for (u32 n = 0; n < 8; n++)
    for (u32 i = 0; i < BYTES / sizeof(word); i++) ((volatile word *)to)[i] = ((volatile word *)from)[i];
  return sample();
}

// ## String instructions
//
// Bytes, and units of four. The bytes once more to an address that is not aligned.

static u32 rep_movs(void) {
  wipe();
  void *source = from, *target = to;
  word count = BYTES;
  asm volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
  source = from + 5, target = to + 3, count = BYTES / 2;
  asm volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
  source = from, target = to, count = BYTES / 4;
  asm volatile("rep movsl" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
  return sample();
}
static u32 rep_stos(void) {
  wipe();
  void *target = to;
  word count = BYTES;
  asm volatile("rep stosb" : "+D"(target), "+c"(count) : "a"(0x5a) : "memory");
  target = to + 4, count = BYTES / 4 - 2;
  asm volatile("rep stosl" : "+D"(target), "+c"(count) : "a"(0x12345678) : "memory");
  return sample();
}

// ## A hash table of 32 MiB
//
// A million nodes of 32 bytes, which are buckets at the same time. It lies beyond the image, and nobody has cleared it. The keys that are looked for go on from
// round to round, so that all of the table is walked.

struct node {
  u32 key, value, next, head; // indices plus one
  u32 unused[4];
};
#define NODES (1u << 20)
static struct node *const nodes = (struct node *)0x1000000;
static u32 wanted;

static inline u32 key_of(u32 i) {
  return i * 2654435761u + 17;
}
static inline u32 bucket_of(u32 key) {
  key ^= key >> 15;
  return key * 0x85ebca6bu >> 12;
}
static void prepare_chains(void) {
  for (u32 i = 0; i < NODES; i++) nodes[i].head = 0;
  for (u32 i = 0; i < NODES; i++) {
    u32 key = key_of(i);
    struct node *bucket = &nodes[bucket_of(key)];
    nodes[i].key = key;
    nodes[i].value = ~i;
    nodes[i].next = bucket->head;
    bucket->head = i + 1;
  }
}
static u32 chains(void) {
  u32 found = 0;
  for (u32 n = 0; n < 8192; n++) {
    wanted = wanted * 1664525u + 1013904223u;
    u32 i = wanted >> 12, key = key_of(i);
    u32 at = nodes[bucket_of(key)].head;
    while (at && nodes[at - 1].key != key) at = nodes[at - 1].next;
    if (at) found += nodes[at - 1].value + i == ~0u;
  }
  return found;
}

static const struct workload workloads[] = {
  {"copy", copy, prepare, 0},
  {"rep-movs", rep_movs, prepare, 0},
  {"rep-stos", rep_stos, prepare, 0},
  {"chains", chains, prepare_chains, 1},
};
_Noreturn void main(void) {
  MEASURE(workloads);
}
