// # The local APIC's register page
//
// Registers are 32 bits wide and 16 bytes apart, because the first ones sat on a bus whose lines were easiest to decode that way. In x2APIC mode each
// becomes an MSR, numbered by its place: 0x800 plus the offset divided by 16. Two registers that the MSRs do not have are those that their 64 bits
// make unnecessary.

import { registerTable } from '../registers.ts';

export const LAPIC_BASE = 0xfee0_0000;
export const LAPIC_BYTES = 0x1000;
export const X2APIC_MSR = 0x800;
export const X2APIC_MSRS = 0x40;
export const IA32_TSC_DEADLINE = 0x6e0;

/** Version 0x14, six LVT entries: no corrected machine checks. */
export const LAPIC_VERSION = 0x50014;

const SDM = 'Intel SDM vol. 3, "Advanced Programmable Interrupt Controller", local APIC register address map';

// biome-ignore format: table
export const LAPIC_REGISTERS = registerTable('local APIC', SDM, {
  ID:       { offset: 0x020, bytes: 4, access: 'rw', text: 'APIC ID, bits 31–24; in x2APIC mode all 32 bits, read-only' },
  VERSION:  { offset: 0x030, bytes: 4, access: 'ro', reset: LAPIC_VERSION, text: 'version, number of LVT entries less one, EOI-broadcast suppression' },
  TPR:      { offset: 0x080, bytes: 4, access: 'rw', text: 'task priority; its high half is CR8' },
  APR:      { offset: 0x090, bytes: 4, access: 'ro', text: 'arbitration priority; not in x2APIC mode' },
  PPR:      { offset: 0x0a0, bytes: 4, access: 'ro', text: 'processor priority: the higher of TPR and the vector in service' },
  EOI:      { offset: 0x0b0, bytes: 4, access: 'wo', text: 'ends the highest vector in service' },
  LDR:      { offset: 0x0d0, bytes: 4, access: 'rw', text: 'logical ID, bits 31–24; in x2APIC mode cluster and bit, read-only' },
  DFR:      { offset: 0x0e0, bytes: 4, access: 'rw', reset: 0xffff_ffff, text: 'model of logical IDs: flat or cluster; not in x2APIC mode' },
  SVR:      { offset: 0x0f0, bytes: 4, access: 'rw', reset: 0xff, text: 'spurious vector, software enable, EOI-broadcast suppression' },
  ISR:      { offset: 0x100, bytes: 4, access: 'ro', count: 8, stride: 16, text: 'vectors in service' },
  TMR:      { offset: 0x180, bytes: 4, access: 'ro', count: 8, stride: 16, text: 'vectors that were level-triggered' },
  IRR:      { offset: 0x200, bytes: 4, access: 'ro', count: 8, stride: 16, text: 'vectors requested' },
  ESR:      { offset: 0x280, bytes: 4, access: 'rw', text: 'errors, as of the last write to it' },
  ICR:      { offset: 0x300, bytes: 4, access: 'rw', text: 'interrupt command: a write sends' },
  ICR2:     { offset: 0x310, bytes: 4, access: 'rw', text: 'its destination, bits 31–24; in x2APIC mode the high half of ICR' },
  TIMER:    { offset: 0x320, bytes: 4, access: 'rw', reset: 0x10000, text: 'LVT: timer' },
  THERMAL:  { offset: 0x330, bytes: 4, access: 'rw', reset: 0x10000, text: 'LVT: thermal sensor' },
  COUNTER:  { offset: 0x340, bytes: 4, access: 'rw', reset: 0x10000, text: 'LVT: performance counters' },
  LINT0:    { offset: 0x350, bytes: 4, access: 'rw', reset: 0x10000, text: 'LVT: the pin on which a PC has its 8259s' },
  LINT1:    { offset: 0x360, bytes: 4, access: 'rw', reset: 0x10000, text: 'LVT: the pin on which a PC has NMI' },
  ERROR:    { offset: 0x370, bytes: 4, access: 'rw', reset: 0x10000, text: 'LVT: errors' },
  INITIAL:  { offset: 0x380, bytes: 4, access: 'rw', text: 'timer initial count: a write starts it' },
  CURRENT:  { offset: 0x390, bytes: 4, access: 'ro', text: 'timer current count' },
  DIVIDE:   { offset: 0x3e0, bytes: 4, access: 'rw', text: 'timer divider, bits 3, 1 and 0' },
  SELF_IPI: { offset: 0x3f0, bytes: 4, access: 'wo', text: 'x2APIC mode only: a vector for this processor' },
});

export type LapicRegister = keyof typeof LAPIC_REGISTERS.rows;

/** Offsets by name. */
export const LAPIC = Object.fromEntries(Object.entries(LAPIC_REGISTERS.rows).map(([name, { offset }]) => [name, offset])) as Readonly<
  Record<LapicRegister, number>
>;

/** Bits of the local vector table entries. */
export const LVT = {
  VECTOR: 0xff,
  MODE: 0x700,
  STATUS: 1 << 12,
  POLARITY: 1 << 13,
  REMOTE_IRR: 1 << 14,
  LEVEL: 1 << 15,
  MASK: 1 << 16,
  TIMER_MODE: 3 << 17,
};

/** What software may write of each entry. */
export const LVT_WRITABLE: Readonly<Partial<Record<LapicRegister, number>>> = {
  TIMER: LVT.VECTOR | LVT.MASK | LVT.TIMER_MODE,
  THERMAL: LVT.VECTOR | LVT.MODE | LVT.MASK,
  COUNTER: LVT.VECTOR | LVT.MODE | LVT.MASK,
  LINT0: LVT.VECTOR | LVT.MODE | LVT.POLARITY | LVT.LEVEL | LVT.MASK,
  LINT1: LVT.VECTOR | LVT.MODE | LVT.POLARITY | LVT.LEVEL | LVT.MASK,
  ERROR: LVT.VECTOR | LVT.MASK,
};

export const SVR = { VECTOR: 0xff, ENABLE: 1 << 8, FOCUS: 1 << 9, SUPPRESS_EOI: 1 << 12 } as const;
/** VERSION: software may suppress the broadcast of EOIs. */
export const VERSION_SUPPRESS_EOI = 1 << 24;
export const ICR = { BUSY: 1 << 12, X2APIC_RESERVED: 0xfff3_2000n } as const;
export const DFR = { FLAT: 0xf, CLUSTER: 0 } as const;
export const ESR = { SEND_ILLEGAL: 0x20, RECEIVE_ILLEGAL: 0x40, ILLEGAL_REGISTER: 0x80 } as const;
export const APIC_BASE = { BSP: 1n << 8n, X2APIC: 1n << 10n, ENABLE: 1n << 11n, ADDRESS: 0xf_ffff_ffff_f000n } as const;
