// # ACPI tables
//
// The root is found by its signature on a 16-byte boundary, and lists the others.

#pragma once

#include "irq.h"

struct header {
  u32 signature, length;
  u8 revision, checksum, oem[6], oem_table[8];
  u32 oem_revision, creator, creator_revision;
} __attribute__((packed));
struct rsdp {
  u8 signature[8], checksum, oem[6], revision;
  u32 rsdt, length;
  u64 xsdt;
  u8 extended_checksum, reserved[3];
} __attribute__((packed));

#define NAME(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

static u8 sum(const volatile void *from, u32 bytes) {
  u8 total = 0;
  for (u32 i = 0; i < bytes; i++) total = (u8)(total + ((const volatile u8 *)from)[i]);
  return total;
}
static const volatile struct rsdp *find_between(word from, word to) {
  static const u8 wanted[8] = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '};
  for (word at = from; at < to; at += 16) {
    u32 same = 0;
    while (same < 8 && ((const volatile u8 *)at)[same] == wanted[same]) same++;
    if (same == 8 && sum((const volatile void *)at, 20) == 0) return (const volatile struct rsdp *)at;
  }
  return 0;
}

static inline const volatile struct rsdp *find_root(void) {
  word extended = (word) * (volatile u16 *)0x40e << 4;
  const volatile struct rsdp *root = find_between(extended, extended + 1024);
  return root ? root : find_between(0xe0000, 0x100000);
}

/** The table at that place in the root's list; null past its end. */
static inline const volatile struct header *table_at(const volatile struct rsdp *root, u32 n) {
  u32 wide = root->revision >= 2 && root->xsdt != 0;
  const volatile struct header *list = (const volatile struct header *)(word)(wide ? (u32)root->xsdt : root->rsdt);
  u32 count = (list->length - 36) / (wide ? 8 : 4);
  if (n >= count || n >= 64) return 0;
  return (const volatile struct header *)(word) * (const volatile u32 *)((word)list + 36 + n * (wide ? 8 : 4));
}
static inline const volatile struct header *find_table(u32 signature, const volatile struct rsdp *root) {
  const volatile struct header *table;
  for (u32 n = 0; (table = table_at(root, n)) != 0; n++)
    if (table->signature == signature) return table;
  return 0;
}
static inline u32 u32_at(const volatile struct header *table, u32 offset) {
  return *(const volatile u32 *)((word)table + offset);
}
