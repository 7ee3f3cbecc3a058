// # Chance that repeats
//
// Numbers for payloads that try things at random: the same on every run, from the `SEED` that the payload defines before it includes this.

#pragma once

#include "rb.h"

static u32 seed = SEED;
static u32 next(void) {
  seed ^= seed << 13;
  seed ^= seed >> 17;
  seed ^= seed << 5;
  return seed;
}
static u32 below(u32 limit) {
  return (u32)((u64)next() * limit >> 32);
}
