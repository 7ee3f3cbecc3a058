// # A table of messages
//
// MSI gives a function one address and a block of consecutive vectors: every queue of a network card then interrupts the same processor. MSI-X moves
// the address and value of each vector into a table in the device's own memory, as many as {{MAX_MSIX_VECTORS}}, each with a mask. Masking one is
// a store to that table; a vector that fires meanwhile is remembered in a second table of bits, and sent when the mask goes away.
//
// ::layout MSIX_CAPABILITY -- The capability, after the two bytes that every capability begins with.
//
// ::layout MSIX_ENTRY -- One entry of the table.

import type { Registers, Width } from '../../03-vcpu-loop/devices/bus.ts';
import { array, describe } from '../../03-vcpu-loop/devices/state.ts';
import { registerTable } from '../registers.ts';
import type { ConfigSpace } from './config-space.ts';
import type { SendMessage } from './msi.ts';

/** Capability id of MSI-X. */
export const CAP_MSIX = 0x11;
/** Entries that a table can have. */
export const MAX_MSIX_VECTORS = 2048;
/** Size of a table entry. */
const MSIX_ENTRY_BYTES = 16;

/** Bits of the message control register. */
const MSIX_CONTROL = { FUNCTION_MASK: 1 << 14, ENABLE: 1 << 15 } as const;

const SOURCE = 'PCI Local Bus Specification 3.0, MSI-X Capability and Table Structures';

/** The capability in configuration space. */
// biome-ignore format: table
export const MSIX_CAPABILITY = registerTable('msi-x', SOURCE, {
  CONTROL: { offset: 2, bytes: 2, access: 'rw', writable: MSIX_CONTROL.FUNCTION_MASK | MSIX_CONTROL.ENABLE, text: 'enable, mask of all, entries less one' },
  TABLE:   { offset: 4, bytes: 4, access: 'ro', text: 'offset of the table; bits 2:0 say in which BAR' },
  PBA:     { offset: 8, bytes: 4, access: 'ro', text: 'offset of the pending bits, likewise' },
});

/** Length of the capability. */
export const MSIX_BYTES = 12;

const ADDRESS_BITS = 0xffff_fffc; // messages are dwords
const MASKED = 1; // in an entry's control

/** One entry of the table. */
// biome-ignore format: table
export const MSIX_ENTRY = registerTable('msi-x-entry', SOURCE, {
  ADDRESS:       { offset: 0, bytes: 4, access: 'rw', writable: ADDRESS_BITS, text: 'where to write' },
  ADDRESS_UPPER: { offset: 4, bytes: 4, access: 'rw', text: 'its upper half' },
  DATA:          { offset: 8, bytes: 4, access: 'rw', text: 'what to write' },
  CONTROL:       { offset: 12, bytes: 4, access: 'rw', reset: MASKED, writable: MASKED, text: 'bit 0: masked' },
});

const ENTRY_WORDS = MSIX_ENTRY_BYTES / 4;
const [ADDRESS, UPPER, DATA, CONTROL] = [0, 1, 2, 3];

export interface MsixSpec {
  readonly bar: number;
  readonly vectors: number;
  readonly tableOffset: number;
  readonly pbaOffset: number;
  /** Offset of the capability; wherever there is room when absent. */
  readonly at?: number;
}

/** The MSI-X capability of one function, with its two tables. */
export class MsiX {
  readonly vectors: number;
  /** The table as registers, to be found in the BAR. */
  readonly table: Registers;
  /** The pending bits as registers. */
  readonly pba: Registers;
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #send: SendMessage;
  readonly #entries: Uint32Array;
  readonly #pending: Uint32Array;
  /** Told when what a vector says, or whether it may be sent, may have changed; before anything that waited is sent. */
  onChange: () => void = () => {};

  constructor(name: string, config: ConfigSpace, at: number, spec: MsixSpec, send: SendMessage) {
    this.vectors = spec.vectors;
    this.#config = config;
    this.#at = at;
    this.#send = send;
    this.#entries = new Uint32Array(spec.vectors * ENTRY_WORDS);
    this.#pending = new Uint32Array(Math.ceil(spec.vectors / 64) * 2);
    config.preset(at + 2, 2, spec.vectors - 1);
    config.allow(at + 2, 2, MSIX_CONTROL.FUNCTION_MASK | MSIX_CONTROL.ENABLE);
    config.preset(at + 4, 4, spec.tableOffset | spec.bar);
    config.preset(at + 8, 4, spec.pbaOffset | spec.bar);
    config.on(at + 2, 2, () => {
      this.onChange();
      this.#unmasked(0, this.vectors);
    });
    // Software must use aligned dwords or qwords; a narrower access is undefined, and here it is nobody's.
    // @clause pci.msix.table-access-width
    const widths = { valid: { min: 4, max: 8 }, impl: { min: 4, max: 4 } } as const;
    this.table = {
      name: `${name} msi-x table`,
      ...widths,
      read: (offset) => BigInt(this.#entries[offset / 4] ?? 0),
      write: (offset, _width: Width, value) => this.#writeEntry(offset / 4, Number(value)),
    };
    this.pba = {
      name: `${name} msi-x pending`,
      ...widths,
      read: (offset) => BigInt(this.#pending[offset / 4] ?? 0),
      write: () => {},
    };
    this.reset();
  }

  /** Size of the table in its BAR. */
  get tableBytes(): number {
    return this.vectors * MSIX_ENTRY_BYTES;
  }
  /** Size of the pending bits in their BAR: whole qwords. */
  get pbaBytes(): number {
    return this.#pending.length * 4;
  }

  get enabled(): boolean {
    return (this.#control & MSIX_CONTROL.ENABLE) !== 0;
  }

  /** What the driver wrote for a vector. */
  entry(vector: number): { readonly address: number; readonly data: number; readonly masked: boolean } {
    const at = vector * ENTRY_WORDS;
    const word = (index: number): number => this.#entries[at + index] as number;
    return { address: word(UPPER) * 2 ** 32 + word(ADDRESS), data: word(DATA), masked: this.#isMasked(vector) };
  }

  isPending(vector: number): boolean {
    return (((this.#pending[vector >>> 5] as number) >>> (vector & 31)) & 1) !== 0;
  }

  signal(vector: number): void {
    if (vector >= this.vectors) return;
    // @clause pci.msix.masked-pends
    if (this.#isMasked(vector)) {
      this.#pending[vector >>> 5] = (this.#pending[vector >>> 5] as number) | (1 << (vector & 31));
      return;
    }
    const { address, data } = this.entry(vector);
    this.#send(address, data);
  }

  /** The device has been reset: what waited for a mask to go away is no longer to be sent. */
  forget(): void {
    this.#pending.fill(0);
  }

  reset(): void {
    this.#entries.fill(0);
    this.forget();
    for (let vector = 0; vector < this.vectors; vector++) this.#entries[vector * ENTRY_WORDS + CONTROL] = MASKED;
    this.onChange();
  }

  get #control(): number {
    return this.#config.load(this.#at + 2, 2);
  }

  #isMasked(vector: number): boolean {
    return (this.#control & MSIX_CONTROL.FUNCTION_MASK) !== 0 || ((this.#entries[vector * ENTRY_WORDS + CONTROL] as number) & 1) !== 0;
  }

  #writeEntry(word: number, value: number): void {
    const index = word % ENTRY_WORDS;
    const mask = index === ADDRESS ? ADDRESS_BITS : index === CONTROL ? MASKED : 0xffff_ffff;
    this.#entries[word] = value & mask;
    const vector = Math.floor(word / ENTRY_WORDS);
    this.onChange();
    if (index === CONTROL) this.#unmasked(vector, vector + 1);
  }

  /** Sends what waited for a mask that is gone. */
  #unmasked(from: number, to: number): void {
    if (!this.enabled) return;
    for (let vector = from; vector < to; vector++) {
      if (!this.isPending(vector) || this.#isMasked(vector)) continue;
      this.#pending[vector >>> 5] = (this.#pending[vector >>> 5] as number) & ~(1 << (vector & 31));
      this.signal(vector);
    }
  }

  static readonly STATE = describe<MsiX>(
    'MSI-X',
    1,
    {
      entries: array((msix) => msix.#entries),
      pending: array((msix) => msix.#pending),
    },
    (msix) => msix.onChange(),
  );
}
