// # Registers that remember
//
// To test how an access travels, one wants a device with no behaviour: it gives back what was written, and keeps a list of what was done to it
// and in which width. The list is the point. A VMM that splits a four-byte access into bytes, or merges two, still reads back the right value;
// only the record shows the difference.

import type { Trace } from '../../01-hardware-background/trace.ts';
import { loadValue, type Registers, storeValue, type Width } from './bus.ts';
import { array, describe } from './state.ts';

export const SCRATCH_PORT = 0x5e0;
export const SCRATCH_PORTS = 16;
export const SCRATCH_GPA = 0xfeb00000;
export const SCRATCH_BYTES = 4096;

/** One access, as it arrived. */
interface Access {
  readonly rw: 'read' | 'write';
  readonly offset: number;
  readonly width: Width;
  readonly value: bigint;
}

/** A guest can make accesses for ever; the record stops here. */
const RECORD_LIMIT = 65536;

export class Scratch implements Registers {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly accesses: Access[] = [];
  readonly #trace: Trace | null;

  constructor(name: string, bytes: number, { trace = null }: { trace?: Trace | null } = {}) {
    this.name = name;
    this.bytes = new Uint8Array(bytes);
    this.#trace = trace;
  }

  read(offset: number, width: Width): bigint {
    const value = loadValue(this.bytes, offset, width);
    this.#record({ rw: 'read', offset, width, value });
    return value;
  }

  write(offset: number, width: Width, value: bigint): void {
    storeValue(this.bytes, offset, width, value);
    this.#record({ rw: 'write', offset, width, value });
  }

  #record(access: Access): void {
    if (this.accesses.length < RECORD_LIMIT) this.accesses.push(access);
    this.#trace?.emit({ kind: 'device', device: this.name, what: `${access.rw}${8 * access.width} +${access.offset}`, value: Number(access.value) });
  }

  static readonly STATE = describe<Scratch>('scratch', 1, { bytes: array((scratch) => scratch.bytes) });
}
