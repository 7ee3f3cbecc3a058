// # Interrupts as writes
//
// A pin is shared, has four names for thirty-two devices, and says nothing but "somebody". A *message-signalled* interrupt is a memory write that
// the device performs: the driver puts an address and a value into a capability, and the chipset turns writes to that address into interrupts. The
// address says which processor, the value says which vector, and because it is a write it cannot overtake the data that the device wrote before it.
//
// ::layout MSI_NARROW -- The capability, after the two bytes that every capability begins with.
//
// ::layout MSI_WIDE -- The same with an address of 64 bits, which moves the rest.

import { type RegisterRow, registerTable } from '../registers.ts';
import type { ConfigSpace, ConfigWidth } from './config-space.ts';

/** Capability id of MSI. */
export const CAP_MSI = 0x05;

/** Bits of the message control register. */
const MSI_CONTROL = { ENABLE: 1 << 0, CAPABLE_SHIFT: 1, ENABLED_SHIFT: 4, COUNT_MASK: 7, WIDE: 1 << 7, MASKING: 1 << 8 } as const;

const SOURCE = 'PCI Local Bus Specification 3.0, MSI Capability Structure';

/** The capability with an address of 32 bits. The last two registers are there only with masking. */
// biome-ignore format: table
export const MSI_NARROW = registerTable('msi-32', SOURCE, {
  CONTROL: { offset: 2, bytes: 2, access: 'rw', writable: 0x71, text: 'enable, vectors asked for and given, shape' },
  ADDRESS: { offset: 4, bytes: 4, access: 'rw', writable: 0xffff_fffc, text: 'where to write' },
  DATA:    { offset: 8, bytes: 2, access: 'rw', text: 'what to write' },
  MASK:    { offset: 12, bytes: 4, access: 'rw', text: 'vectors that wait' },
  PENDING: { offset: 16, bytes: 4, access: 'ro', text: 'vectors that would have been sent' },
});

/** The same with an address of 64 bits. */
// biome-ignore format: table
export const MSI_WIDE = registerTable('msi-64', SOURCE, {
  CONTROL:       { offset: 2, bytes: 2, access: 'rw', writable: 0x71, text: 'enable, vectors asked for and given, shape' },
  ADDRESS:       { offset: 4, bytes: 4, access: 'rw', writable: 0xffff_fffc, text: 'where to write' },
  ADDRESS_UPPER: { offset: 8, bytes: 4, access: 'rw', text: 'its upper half' },
  DATA:          { offset: 12, bytes: 2, access: 'rw', text: 'what to write' },
  MASK:          { offset: 16, bytes: 4, access: 'rw', text: 'vectors that wait' },
  PENDING:       { offset: 20, bytes: 4, access: 'ro', text: 'vectors that would have been sent' },
});

/** Where a message goes; the value that the function sends there. */
export type SendMessage = (address: number, data: number) => void;

export interface MsiSpec {
  /** 1, 2, 4, 8, 16 or 32. */
  readonly vectors: number;
  /** With a 64-bit address. */
  readonly wide?: boolean;
  /** With a mask and a pending bit for each vector. */
  readonly masking?: boolean;
  /** Offset of the capability; wherever there is room when absent. */
  readonly at?: number;
}

/** The MSI capability of one function. */
export class Msi {
  readonly bytes: number;
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #wide: boolean;
  readonly #masking: boolean;
  readonly #vectors: number;
  readonly #send: SendMessage;

  /** Length of the capability. */
  static length({ wide = false, masking = false }: MsiSpec): number {
    return masking ? (wide ? 24 : 20) : wide ? 14 : 10;
  }

  constructor(config: ConfigSpace, at: number, spec: MsiSpec, send: SendMessage) {
    this.#config = config;
    this.#at = at;
    this.#wide = spec.wide ?? false;
    this.#masking = spec.masking ?? false;
    this.#vectors = spec.vectors;
    this.#send = send;
    this.bytes = Msi.length(spec);
    const table = this.#wide ? MSI_WIDE : MSI_NARROW;
    const vectorBits = spec.vectors === 32 ? 0xffff_ffff : 2 ** spec.vectors - 1;
    for (const [name, row] of Object.entries<RegisterRow>(table.rows)) {
      if (row.offset >= this.bytes || row.access !== 'rw') continue;
      config.allow(at + row.offset, row.bytes as ConfigWidth, name === 'MASK' ? vectorBits : (row.writable ?? 0xffff_ffff));
    }
    const shape = (this.#wide ? MSI_CONTROL.WIDE : 0) | (this.#masking ? MSI_CONTROL.MASKING : 0);
    config.preset(at + 2, 2, shape | (Math.log2(spec.vectors) << MSI_CONTROL.CAPABLE_SHIFT));
    config.on(at, this.bytes, () => this.#unmasked());
  }

  get enabled(): boolean {
    return (this.#config.load(this.#at + 2, 2) & MSI_CONTROL.ENABLE) !== 0;
  }

  /** Vectors that the driver allows: at most those that the function asked for. */
  get vectors(): number {
    const given = (this.#config.load(this.#at + 2, 2) >> MSI_CONTROL.ENABLED_SHIFT) & MSI_CONTROL.COUNT_MASK;
    return Math.min(2 ** given, this.#vectors);
  }

  // A driver may give fewer vectors than were asked for. The function then folds its causes onto those that it has: the low bits of the value, which
  // number the vector, are the only ones that it may change.
  // @clause pci.msi.data-low-bits

  signal(vector: number): void {
    const { vectors } = this;
    const folded = vector % vectors;
    if (this.#masking && (this.#mask >>> folded) & 1) {
      // @clause pci.msi.masked-pends
      this.#config.flag(this.#pendingAt, 4, 1 << folded, true);
      return;
    }
    const low = this.#config.load(this.#at + 4, 4);
    const high = this.#wide ? this.#config.load(this.#at + 8, 4) : 0;
    const data = this.#config.load(this.#at + (this.#wide ? 12 : 8), 2);
    this.#send(high * 2 ** 32 + low, (data & ~(vectors - 1)) | folded);
  }

  get #pendingAt(): number {
    return this.#at + (this.#wide ? 20 : 16);
  }
  get #mask(): number {
    return this.#config.load(this.#pendingAt - 4, 4);
  }

  #unmasked(): void {
    if (!this.#masking || !this.enabled) return;
    const due = this.#config.load(this.#pendingAt, 4) & ~this.#mask;
    for (let vector = 0; vector < this.#vectors; vector++) {
      if (!((due >>> vector) & 1)) continue;
      this.#config.flag(this.#pendingAt, 4, 1 << vector, false);
      this.signal(vector);
    }
  }
}
