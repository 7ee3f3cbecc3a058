// # One table for each device
//
// A device *is* its registers: to a driver there is nothing else. A data sheet lists them in a table of offset, width, name, access; the model
// has a switch over offsets; the book wants a figure. Those are one table here. The model adds, by name, what happens on a read or a write; an
// offset that no row names reads as the bus would read it.

import type { Registers, Width } from '../03-vcpu-loop/devices/bus.ts';

/** What software may do with a register. `rw1c`: writing ones clears. `rc`: reading clears. */
type Access = 'ro' | 'wo' | 'rw' | 'rw1c' | 'rc';

export interface RegisterRow {
  readonly offset: number;
  readonly bytes: 1 | 2 | 4 | 8;
  readonly access: Access;
  /** Value after reset; 0 when absent. */
  readonly reset?: number;
  /** Bits that software can change (of `rw1c`: can clear), where that is not all of them. The others keep their value. */
  readonly writable?: number;
  /** A phrase for the documentation. */
  readonly text: string;
  /** For registers that are one of an array: how many, and how far apart. */
  readonly count?: number;
  readonly stride?: number;
}

/** A device's register table, as the data sheet has it. */
export interface RegisterTable<Name extends string = string> {
  readonly device: string;
  /** The data sheet, by name and section. */
  readonly source: string;
  readonly rows: Readonly<Record<Name, RegisterRow>>;
  /** The register that holds the byte at `offset`, with the index within an array; null where there is none. */
  at(offset: number): { readonly name: Name; readonly row: RegisterRow; readonly index: number; readonly byte: number } | null;
}

export function registerTable<const Rows extends Readonly<Record<string, RegisterRow>>>(
  device: string,
  source: string,
  rows: Rows,
): RegisterTable<keyof Rows & string> {
  type Name = keyof Rows & string;
  const byByte = new Map<number, { name: Name; row: RegisterRow; index: number; byte: number }>();
  for (const [name, row] of Object.entries(rows) as [Name, RegisterRow][]) {
    for (let index = 0; index < (row.count ?? 1); index++) {
      const start = row.offset + index * (row.stride ?? row.bytes);
      for (let byte = 0; byte < row.bytes; byte++) {
        // Two rows on one offset: the first is what a plain access reaches (a data sheet then says which bit selects the other).
        if (!byByte.has(start + byte)) byByte.set(start + byte, { name, row, index, byte });
      }
    }
  }
  return { device, source, rows, at: (offset) => byByte.get(offset) ?? null };
}

/** What a model does at one register. Values are unsigned 32-bit numbers; `index` is the element of an array. */
export interface RegisterActions {
  readonly read?: (index: number) => number;
  readonly write?: (value: number, index: number) => void;
}

// Drivers do not always use the width that the table has. A narrower read takes its bytes out of the register; a narrower write keeps the others, as
// far as they can be read; a wider access touches each register in turn, in address order. Devices for which that is wrong say so in their own code.

/** Dispatches bus accesses to a model by its table. */
export class RegisterFile<Name extends string> implements Registers {
  readonly name: string;
  readonly table: RegisterTable<Name>;
  readonly #actions: Readonly<Partial<Record<Name, RegisterActions>>>;

  constructor(table: RegisterTable<Name>, actions: Readonly<Partial<Record<Name, RegisterActions>>>) {
    this.name = table.device;
    this.table = table;
    this.#actions = actions;
  }

  read(offset: number, width: Width): bigint {
    let value = 0n;
    for (let done = 0; done < width; ) {
      const found = this.table.at(offset + done);
      const bytes = found ? Math.min(found.row.bytes - found.byte, width - done) : 1;
      const part = found ? this.#readRegister(found.name, found.row, found.index) >>> (8 * found.byte) : 0xff;
      value |= BigInt(bytes === 4 ? part >>> 0 : part & (2 ** (8 * bytes) - 1)) << BigInt(8 * done);
      done += bytes;
    }
    return value;
  }

  write(offset: number, width: Width, value: bigint): void {
    for (let done = 0; done < width; ) {
      const found = this.table.at(offset + done);
      const bytes = found ? Math.min(found.row.bytes - found.byte, width - done) : 1;
      if (found && found.row.access !== 'ro' && found.row.access !== 'rc') {
        const part = Number((value >> BigInt(8 * done)) & ((1n << BigInt(8 * bytes)) - 1n));
        const whole = bytes === found.row.bytes;
        // Bytes that were not written keep their value; of a write-one-to-clear register they must not clear anything.
        const kept = whole || found.row.access !== 'rw' ? 0 : this.#readRegister(found.name, found.row, found.index);
        const mask = whole ? 0xffff_ffff : ((2 ** (8 * bytes) - 1) << (8 * found.byte)) >>> 0;
        this.#actions[found.name]?.write?.((((kept & ~mask) | ((part << (8 * found.byte)) & mask)) >>> 0) as number, found.index);
      }
      done += bytes;
    }
  }

  #readRegister(name: Name, row: RegisterRow, index: number): number {
    if (row.access === 'wo') return 0;
    return this.#actions[name]?.read?.(index) ?? row.reset ?? 0;
  }
}
