// # Words for a workload
//
// A workload is one kind of loop, done so many times that it can be timed from outside. How often, and which of those in an image, is written into the image by
// whoever wants to time it: sixteen bytes say where. An image that nobody has written to runs each of its workloads twice, which is enough to
// know that they work.
//
// Two bytes at the debug console's port enclose what is measured. They cost one instruction each, and whoever listens at that port takes the time.
//
// Every round of a workload gives the same number, whatever the machine. So a measurement is worth nothing unless the number is the right one.

#pragma once

#include "rb.h"

#define MARK_PORT 0xe9
#define ALL ~0u

static volatile struct {
  char magic[16];
  u32 workload, rounds;
} parameters = {"RB1 parameters:", ALL, 2};

struct workload {
  const char *name;
  u32 (*round)(void);
  void (*prepare)(void); // not measured
  u32 only_alone; // wants more memory than a machine for tests has
};

static inline void mark(u8 letter) {
  asm volatile("outb %0, %1" : : "a"(letter), "N"(MARK_PORT) : "memory");
}

/** A number of 32 bits that depends on every bit of a register. */
static inline u32 fold(word value) {
#if MODE == 64
  value ^= value >> 32;
#endif
  return (u32)value;
}

/** What buffers are filled with: the high halves of a linear congruence. */
static inline void fill(volatile u8 *bytes, u32 count) {
  u32 seed = 12345;
  for (u32 i = 0; i < count; i++) {
    seed = seed * 1664525u + 1013904223u;
    bytes[i] = (u8)(seed >> 24);
  }
}

static void measure(const struct workload *w, u32 rounds) {
  u32 first = 0, same = 0;
  if (w->prepare) w->prepare();
  mark('B');
  for (u32 i = 0; i < rounds; i++) {
    u32 sum = w->round();
    if (i == 0) first = sum;
    same += sum == first;
  }
  mark('E');
  obs(w->name, first);
  if (same != rounds) ABORT("a round came to another result");
}

_Noreturn static inline void measure_chosen(const struct workload *list, u32 count) {
  stage("workloads");
  for (u32 i = 0; i < count; i++)
    if (parameters.workload == i || (parameters.workload == ALL && !list[i].only_alone)) measure(&list[i], parameters.rounds);
  done();
}
#define MEASURE(list) measure_chosen(list, sizeof list / sizeof *list)
