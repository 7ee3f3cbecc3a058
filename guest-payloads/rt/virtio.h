// # Reaching a virtio device
//
// The same device may sit behind four kinds of registers: PCI with capabilities, the I/O ports from before the standard, and two versions of a page of memory. A payload
// takes what it finds, says which it was, and from then on reads and writes fields by their names. The rings are in `virtqueue.h`.

#pragma once

#include "pc.h"

// Most of these payloads look instead of being told; the one that is told says so first.
#ifndef INTERRUPTS
static void on_interrupt(u32 vector) {
  (void)vector;
}
#endif

enum transport { T_NONE, T_PCI, T_LEGACY, T_MMIO, T_MMIO_LEGACY };

// ## Fields of the common configuration, by their offsets on PCI

#define V_DEVICE_FEATURE_SELECT 0x00
#define V_DEVICE_FEATURE 0x04
#define V_DRIVER_FEATURE_SELECT 0x08
#define V_DRIVER_FEATURE 0x0c
#define V_CONFIG_MSIX_VECTOR 0x10
#define V_NUM_QUEUES 0x12
#define V_DEVICE_STATUS 0x14
#define V_CONFIG_GENERATION 0x15
#define V_QUEUE_SELECT 0x16
#define V_QUEUE_SIZE 0x18
#define V_QUEUE_MSIX_VECTOR 0x1a
#define V_QUEUE_ENABLE 0x1c
#define V_QUEUE_NOTIFY_OFF 0x1e
#define V_QUEUE_DESC 0x20
#define V_QUEUE_DRIVER 0x28
#define V_QUEUE_DEVICE 0x30

// ## The registers from before the standard

#define L_DEVICE_FEATURES 0
#define L_DRIVER_FEATURES 4
#define L_QUEUE_PFN 8
#define L_QUEUE_SIZE 12
#define L_QUEUE_SELECT 14
#define L_QUEUE_NOTIFY 16
#define L_STATUS 18
#define L_ISR 19
#define L_CONFIG 20

// ## Those of MMIO

#define MM_MAGIC 0x000
#define MM_VERSION 0x004
#define MM_DEVICE_ID 0x008
#define MM_DEVICE_FEATURES 0x010
#define MM_DEVICE_FEATURES_SEL 0x014
#define MM_DRIVER_FEATURES 0x020
#define MM_DRIVER_FEATURES_SEL 0x024
#define MM_GUEST_PAGE_SIZE 0x028
#define MM_QUEUE_SEL 0x030
#define MM_QUEUE_NUM_MAX 0x034
#define MM_QUEUE_NUM 0x038
#define MM_QUEUE_ALIGN 0x03c
#define MM_QUEUE_PFN 0x040
#define MM_QUEUE_READY 0x044
#define MM_QUEUE_NOTIFY 0x050
#define MM_INTERRUPT_STATUS 0x060
#define MM_INTERRUPT_ACK 0x064
#define MM_STATUS 0x070
#define MM_QUEUE_DESC 0x080
#define MM_QUEUE_DRIVER 0x090
#define MM_QUEUE_DEVICE 0x0a0
#define MM_CONFIG 0x100

#define S_ACKNOWLEDGE 1
#define S_DRIVER 2
#define S_DRIVER_OK 4
#define S_FEATURES_OK 8
#define S_NEEDS_RESET 64

#define F_INDIRECT (1ull << 28)
#define F_EVENT_IDX (1ull << 29)
#define F_VERSION_1 (1ull << 32)
#define F_PACKED (1ull << 34)

#define ID_BLOCK 2
#define ID_CONSOLE 3
#define ID_ENTROPY 4
#define ID_BALLOON 5

static struct virtio {
  enum transport transport;
  u32 function;
  volatile u8 *common, *notify, *isr, *config;
  u32 multiplier;
  u16 io;
  u64 offered, features;
} vd;

// A structure may be in memory or behind ports. Nothing that is memory to a driver lies below 64 KiB, so one kind of address does for both.

#define IS_PORT(at) ((u32)(at) < 0x10000)

static inline u8 read8(volatile u8 *at) {
  return IS_PORT(at) ? inb((u32)at) : *at;
}
static inline u16 read16(volatile u8 *at) {
  return IS_PORT(at) ? inw((u32)at) : *(volatile u16 *)at;
}
static inline u32 read32(volatile u8 *at) {
  return IS_PORT(at) ? inl((u32)at) : *(volatile u32 *)at;
}
static inline void write8(volatile u8 *at, u8 value) {
  if (IS_PORT(at)) outb((u32)at, value);
  else *at = value;
}
static inline void write16(volatile u8 *at, u16 value) {
  if (IS_PORT(at)) outw((u32)at, value);
  else *(volatile u16 *)at = value;
}
static inline void write32(volatile u8 *at, u32 value) {
  if (IS_PORT(at)) outl((u32)at, value);
  else *(volatile u32 *)at = value;
}

// ## Finding it
//
// On PCI a device of the standard has 0x1040 plus its number; the older numbers are those of devices that also understand older drivers. A payload drives
// those as an old driver would, because that is what they are there for.

static const u8 OLD_IDS[][2] = {{0x01, ID_BLOCK}, {0x02, ID_BALLOON}, {0x03, ID_CONSOLE}, {0x05, ID_ENTROPY}};

/** Bases for regions that firmware has not placed: one megabyte each is plenty. */
static u32 free_memory = 0xe0000000u, free_ports = 0xc100;

/** Where a region of the function begins, in memory or among the ports. */
static u32 region(u32 bar) {
  u32 value = pci_read(vd.function, PCI_BAR(bar));
  if (value & 1) {
    u32 address = pci_place(vd.function, bar, free_ports);
    if (address == free_ports) free_ports += 0x100;
    return address;
  }
  if ((value & 6) == 4 && (value & ~15u) == 0) pci_write(vd.function, PCI_BAR(bar + 1), 0);
  u32 address = pci_place(vd.function, bar, free_memory);
  if (address == free_memory) free_memory += 0x100000;
  return address;
}

#define CAP_VENDOR 9
enum { CFG_COMMON = 1, CFG_NOTIFY, CFG_ISR, CFG_DEVICE, CFG_PCI };

static void walk_capabilities(void) {
  u32 at = pci_read(vd.function, 0x34) & 0xfc;
  for (u32 patience = 0; at && patience < 48; patience++) {
    u32 head = pci_read(vd.function, at);
    u32 type = head >> 24, bar = pci_read(vd.function, at + 4) & 0xff;
    if ((head & 0xff) == CAP_VENDOR && type >= CFG_COMMON && type <= CFG_DEVICE && bar < 6) {
      volatile u8 *structure = (volatile u8 *)(region(bar) + pci_read(vd.function, at + 8));
      if (type == CFG_COMMON && !vd.common) vd.common = structure;
      if (type == CFG_ISR && !vd.isr) vd.isr = structure;
      if (type == CFG_DEVICE && !vd.config) vd.config = structure;
      if (type == CFG_NOTIFY && !vd.notify) {
        vd.notify = structure;
        vd.multiplier = pci_read(vd.function, at + 16);
      }
    }
    at = head >> 8 & 0xfc;
  }
}

static u32 find_on_pci(u32 id) {
  for (u32 function = 0; function < 1 << 16; function += 1 << 8) {
    u32 ids = pci_read(function, 0);
    if ((ids & 0xffff) != 0x1af4) continue;
    u32 device = ids >> 16;
    vd.function = function;
    if (device == 0x1040 + id) {
      vd.transport = T_PCI;
      walk_capabilities();
    } else {
      u32 old = 0;
      for (u32 i = 0; i < sizeof OLD_IDS / 2; i++) old |= device == 0x1000u + OLD_IDS[i][0] && OLD_IDS[i][1] == id;
      if (!old) continue;
      vd.transport = T_LEGACY;
      vd.io = region(0);
    }
    pci_write(function, PCI_COMMAND, (pci_read(function, PCI_COMMAND) & 0xffff) | PCI_IO | PCI_MEMORY | PCI_MASTER);
    return 1;
  }
  return 0;
}

static u32 find_in_windows(u32 base, u32 windows, u32 id) {
  for (u32 i = 0; i < windows; i++) {
    volatile u8 *at = (volatile u8 *)(base + i * 0x200);
    if (read32(at + MM_MAGIC) != 0x74726976 || read32(at + MM_DEVICE_ID) != id) continue;
    vd.transport = read32(at + MM_VERSION) == 1 ? T_MMIO_LEGACY : T_MMIO;
    vd.common = at;
    vd.config = at + MM_CONFIG;
    return 1;
  }
  return 0;
}

/** Machines with virtio over MMIO and without PCI tell where it is by tables; the two places that are known are looked at instead. */
static inline u32 find_device(u32 id) {
  return find_on_pci(id) || find_in_windows(0xfeb03000u, 8, id) || find_in_windows(0xfeb00000u, 24, id);
}

// ## Registers by meaning

static inline u32 status(void) {
  switch (vd.transport) {
    case T_PCI: return read8(vd.common + V_DEVICE_STATUS);
    case T_LEGACY: return inb(vd.io + L_STATUS);
    default: return read32(vd.common + MM_STATUS);
  }
}
static inline void set_status(u32 value) {
  switch (vd.transport) {
    case T_PCI: write8(vd.common + V_DEVICE_STATUS, value); break;
    case T_LEGACY: outb(vd.io + L_STATUS, value); break;
    default: write32(vd.common + MM_STATUS, value); break;
  }
}
static inline u32 device_features(u32 window) {
  switch (vd.transport) {
    case T_PCI: write32(vd.common + V_DEVICE_FEATURE_SELECT, window); return read32(vd.common + V_DEVICE_FEATURE);
    case T_LEGACY: return window ? 0 : inl(vd.io + L_DEVICE_FEATURES);
    default: write32(vd.common + MM_DEVICE_FEATURES_SEL, window); return read32(vd.common + MM_DEVICE_FEATURES);
  }
}
static inline void driver_features(u32 window, u32 value) {
  switch (vd.transport) {
    case T_PCI: write32(vd.common + V_DRIVER_FEATURE_SELECT, window); write32(vd.common + V_DRIVER_FEATURE, value); break;
    case T_LEGACY:
      if (!window) outl(vd.io + L_DRIVER_FEATURES, value);
      break;
    default: write32(vd.common + MM_DRIVER_FEATURES_SEL, window); write32(vd.common + MM_DRIVER_FEATURES, value); break;
  }
}
static inline u32 isr(void) {
  switch (vd.transport) {
    case T_PCI: return read8(vd.isr);
    case T_LEGACY: return inb(vd.io + L_ISR);
    default: {
      u32 value = read32(vd.common + MM_INTERRUPT_STATUS);
      if (value) write32(vd.common + MM_INTERRUPT_ACK, value);
      return value;
    }
  }
}
static inline u32 config8(u32 offset) {
  return vd.transport == T_LEGACY ? inb(vd.io + L_CONFIG + offset) : read8(vd.config + offset);
}
static inline u32 config32(u32 offset) {
  return vd.transport == T_LEGACY ? inl(vd.io + L_CONFIG + offset) : read32(vd.config + offset);
}
static inline void set_config32(u32 offset, u32 value) {
  if (vd.transport == T_LEGACY) outl(vd.io + L_CONFIG + offset, value);
  else write32(vd.config + offset, value);
}

static inline u32 is_legacy(void) {
  return vd.transport == T_LEGACY || vd.transport == T_MMIO_LEGACY;
}

/** Says hello, takes those of `wanted` that are offered, and leaves the device before DRIVER_OK. */
static inline void begin(u64 wanted) {
  set_status(0);
  for (u32 patience = 0; patience < 1000000 && status(); patience++) asm volatile("pause");
  if (status()) ABORT("the device does not end its reset");
  set_status(S_ACKNOWLEDGE);
  set_status(S_ACKNOWLEDGE | S_DRIVER);
  vd.offered = (u64)device_features(1) << 32 | device_features(0);
  if (is_legacy()) vd.offered &= 0xffffffffu;
  vd.features = vd.offered & (wanted | F_VERSION_1);
  driver_features(0, (u32)vd.features);
  driver_features(1, (u32)(vd.features >> 32));
  if (vd.transport == T_MMIO_LEGACY) write32(vd.common + MM_GUEST_PAGE_SIZE, 4096);
  if (is_legacy()) return;
  set_status(S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK);
  if (!(status() & S_FEATURES_OK)) ABORT("the device refuses the features");
}
static inline void ready(void) {
  set_status(status() | S_DRIVER_OK);
}

/** Tells which way the device was reached, and which format the ring has: what a case chose. */
static inline void report_transport(void) {
  static const char *const NAMES[] = {"transport.none", "transport.pci", "transport.transitional", "transport.mmio", "transport.mmio-legacy"};
  obs(NAMES[vd.transport], 1);
  obs(vd.features & F_PACKED ? "ring.packed" : "ring.split", 1);
}
