// # The local APIC, as registers
//
// A page of registers at 0xfee00000, sixteen bytes apart, each read and written as 32 bits.

#pragma once

#include "irq.h"

#define APIC(offset) (*(volatile u32 *)(0xfee00000ul + (offset)))
#define APIC_ID 0x020
#define APIC_VERSION 0x030
#define APIC_TPR 0x080
#define APIC_PPR 0x0a0
#define APIC_EOI 0x0b0
#define APIC_LDR 0x0d0
#define APIC_DFR 0x0e0
#define APIC_SVR 0x0f0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_LVT_ERROR 0x370
#define APIC_TIMER_INITIAL 0x380
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE 0x3e0

#define APIC_BASE 0x1b
#define APIC_ENABLE (1u << 11)
#define APIC_X2 (1u << 10)
#define MASKED 0x10000u
#define SPURIOUS 0x3f

/** On, everything masked, nothing held back. The 8259s are silenced: on a PC they share the processor with it. */
static inline void apic_on(void) {
  pic_init(1);
  write_msr(APIC_BASE, read_msr(APIC_BASE) | APIC_ENABLE);
  APIC(APIC_SVR) = 0x100 | SPURIOUS;
  APIC(APIC_LVT_TIMER) = MASKED;
  APIC(APIC_LVT_LINT0) = MASKED;
  APIC(APIC_LVT_LINT1) = MASKED;
  APIC(APIC_LVT_ERROR) = MASKED;
  APIC(APIC_TPR) = 0;
}

/** Whether a vector's bit is set in one of the three 256-bit registers. */
static inline word apic_bit(u32 bank, u32 vector) {
  return APIC(bank + (vector >> 5) * 16) >> (vector & 31) & 1;
}
