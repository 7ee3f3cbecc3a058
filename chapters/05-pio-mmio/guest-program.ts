// # A guest made of accesses
//
// What this chapter measures is what devices cost, and for that a guest need not compute. It is a list of accesses: write this to that port, store
// that to this register, wait until an interrupt has come so many times. Each word below is the machine code of one of them, in 32-bit protected mode
// with flat segments, so that a program reads like the driver that it stands for and still runs on any kernel.

import { LAPIC, LAPIC_BASE } from './interrupts/lapic-registers.ts';

/** Machine code. */
export type Code = readonly number[];

const bytesOf = (value: number, bytes: number): number[] => Array.from({ length: bytes }, (_, n) => Math.floor(value / 256 ** n) & 0xff);
const word = (value: number): number[] => bytesOf(value, 2);
const dword = (value: number): number[] => bytesOf(value >>> 0, 4);
const port = (number: number): number[] => [0x66, 0xba, ...word(number)]; // mov dx, number

/** One OUT. */
export const out = (to: number, value: number, width: 1 | 2 | 4 = 1): Code =>
  width === 1
    ? [...port(to), 0xb0, value & 0xff, 0xee]
    : width === 2
      ? [...port(to), 0x66, 0xb8, ...word(value), 0x66, 0xef]
      : [...port(to), 0xb8, ...dword(value), 0xef];

/** One IN; the value stays in the accumulator. */
export const input = (from: number, width: 1 | 2 | 4 = 1): Code => [...port(from), ...(width === 1 ? [0xec] : width === 2 ? [0x66, 0xed] : [0xed])];

/** REP INSW: so many words from a port to memory, in one instruction. */
export const inputWords = (from: number, to: number, count: number): Code => [
  ...port(from),
  ...[0xbf, ...dword(to)], // mov edi, to
  ...[0xb9, ...dword(count)], // mov ecx, count
  ...[0xf3, 0x66, 0x6d],
];

/** A store of a dword: to memory, or to a register in it. */
export const store = (address: number, value: number): Code => [0xc7, 0x05, ...dword(address), ...dword(value)];
/** A load of a dword into EAX. */
export const load = (address: number): Code => [0xa1, ...dword(address)];
/** Adds to a dword in memory. */
export const add = (address: number, value: number): Code => [0x81, 0x05, ...dword(address), ...dword(value)];
export const cpuid = (leaf: number): Code => [0xb8, ...dword(leaf), 0x0f, 0xa2];

/** The same again and again. EBP counts, so one of these does not fit into another. */
export const times = (count: number, ...body: readonly Code[]): Code => {
  const code = body.flat();
  return [0xbd, ...dword(count), ...code, 0x4d, 0x0f, 0x85, ...dword(-(code.length + 7))]; // mov ebp; ...; dec ebp; jnz
};

/** Sleeps until a dword in memory, which an interrupt handler counts up, has reached `count`. Interrupts are on only while it sleeps. */
export const sleepUntil = (counter: number, count: number): Code => [
  ...[0x81, 0x3d, ...dword(counter), ...dword(count)], // cmp dword [counter], count
  ...[0x73, 5], // jae past the end
  ...[0xfb, 0xf4, 0xfa], // sti; hlt; cli
  ...[0xeb, 0xef], // jmp to the comparison
];

/** Lets an interrupt in that waits, without sleep. */
export const letIn: Code = [0xfb, 0x90, 0xfa]; // sti; nop; cli

/** Ends the run: there is nothing to wait for with interrupts off. */
const halt: Code = [0xfa, 0xf4];

/** An interrupt handler that keeps the registers. */
export const handler = (...body: readonly Code[]): Code => [0x60, ...body.flat(), 0x61, 0xcf]; // pusha; ...; popa; iret

// ## The first lines of any kernel
//
// An interrupt in protected mode goes through two tables, and both have to be there. They are data, so whoever loads the program writes them. The 8259s
// come up with their vectors where the exceptions are, and every operating system moves them away first.

const GDT = 0x800;
const IDT = 0x1000;
const STACK = 0x8000;
const CODE_GPA = 0x1_0000;
const HANDLERS_GPA = 0x2_0000;
const HANDLER_ROOM = 0x100;
const [CODE_SELECTOR, DATA_SELECTOR] = [8, 16];
const VECTORS = 256;

/** Where the 8259s' interrupts begin after {@link movePics}. */
const PIC_VECTOR = 0x20;
/** Initializes both 8259s, with vectors from {@link PIC_VECTOR} on; `open` are the lines that are not masked. */
export const movePics = (...open: readonly number[]): Code => {
  const mask = open.reduce((bits, line) => bits & ~(1 << line) & (line > 7 ? ~4 : -1), 0xffff);
  return [
    ...[out(0x20, 0x11), out(0x21, PIC_VECTOR), out(0x21, 4), out(0x21, 1), out(0x21, mask & 0xff)].flat(),
    ...[out(0xa0, 0x11), out(0xa1, PIC_VECTOR + 8), out(0xa1, 2), out(0xa1, 1), out(0xa1, mask >> 8)].flat(),
  ];
};
/** What a handler of an 8259's line ends with. */
export const endOfPic = (line: number): Code => (line > 7 ? [...out(0xa0, 0x20), ...out(0x20, 0x20)] : out(0x20, 0x20));

// The APICs are in memory. Of the I/O APIC's inputs each has a redirection entry of two halves, reached by an index register and a data register.

const IOAPIC = 0xfec0_0000;
/** Address of a register of the local APIC. */
export const apic = (register: keyof typeof LAPIC): number => LAPIC_BASE + LAPIC[register];
/** Switches the local APIC on. */
export const APIC_ON = store(apic('SVR'), 0x1ff);
export const END_OF_INTERRUPT = store(apic('EOI'), 0);
/** Ties an input of the I/O APIC to a vector, level-triggered. */
export const redirect = (pin: number, vector: number): Code =>
  [store(IOAPIC, 0x11 + 2 * pin), store(IOAPIC + 0x10, 0), store(IOAPIC, 0x10 + 2 * pin), store(IOAPIC + 0x10, 0x8000 | vector)].flat();

/** The dword that handlers count in. */
export const COUNTER = 0x7000;

/** A whole guest: its code, its handlers by vector, and what else is in memory. */
export interface GuestProgram {
  readonly code: readonly Code[];
  readonly handlers?: Readonly<Record<number, Code>>;
  readonly data?: Readonly<Record<number, Uint8Array>>;
}

/** Writes the program and its tables to memory. */
export function place(ram: Uint8Array, { code, handlers = {}, data = {} }: GuestProgram): void {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  view.setBigUint64(GDT + CODE_SELECTOR, 0x00cf_9b00_0000_ffffn, true);
  view.setBigUint64(GDT + DATA_SELECTOR, 0x00cf_9300_0000_ffffn, true);
  ram.set([...code.flat(), ...halt], CODE_GPA);
  for (const [index, [vector, body]] of Object.entries(handlers).entries()) {
    const at = HANDLERS_GPA + index * HANDLER_ROOM;
    ram.set(body, at);
    view.setUint16(IDT + 8 * Number(vector), at & 0xffff, true);
    view.setUint16(IDT + 8 * Number(vector) + 2, CODE_SELECTOR, true);
    view.setUint16(IDT + 8 * Number(vector) + 4, 0x8e00, true); // present, a 32-bit interrupt gate
    view.setUint16(IDT + 8 * Number(vector) + 6, at >>> 16, true);
  }
  for (const [at, bytes] of Object.entries(data)) ram.set(bytes, Number(at));
}

const FLAT = { base: 0n, limit: 0xffff_ffff, present: 1, dpl: 0, db: 1, s: 1, l: 0, g: 1, avl: 0, unusable: 0 } as const;

/** The processor as the program expects it. */
export const startState = {
  sregs: {
    cs: { ...FLAT, selector: CODE_SELECTOR, type: 11 },
    ...Object.fromEntries((['ss', 'ds', 'es', 'fs', 'gs'] as const).map((name) => [name, { ...FLAT, selector: DATA_SELECTOR, type: 3 }])),
    gdt: { base: BigInt(GDT), limit: 23 },
    idt: { base: BigInt(IDT), limit: 8 * VECTORS - 1 },
    cr0: 0x31n, // PE, ET, NE
  },
  regs: { rip: BigInt(CODE_GPA), rsp: BigInt(STACK), rflags: 2n },
};
