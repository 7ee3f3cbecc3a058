// # What a device is, between two accesses
//
// A machine that is to be stopped here and continued there has to be written down. Most of a device's state is small: registers, a queue, a moment at
// which something is due. What is hard is not to forget any of it, ever, in a program that grows. So a device does not *write* its state; it *declares* it,
// once, as a table of fields beside the class. Saving, restoring, checking what comes from a file, and the documentation are made from the table, and
// a test finds the field of a class that its table does not name. QEMU's `VMStateDescription` is the same idea.
//
// A table says of each field what values it can have. What is restored comes from outside, and a device that is told that its queue of sixteen bytes holds
// seventeen must not believe it.

import { assert } from '../../01-hardware-background/physical-memory.ts';
import type { Timer } from '../../02-kvm-objects/clock.ts';

/** What is to be restored is no state of this device. The message says where it is wrong. */
export class StateError extends Error {
  override name = 'StateError';
}

// ## Bytes
//
// Values follow each other in the order of the table, without names and without padding; the table is what tells them apart.

/** Collects what a state is written to. */
export class StateWriter {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  #grow(bytes: number): number {
    const at = this.#length;
    this.#length += bytes;
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(2 * this.#bytes.length, this.#length));
      larger.set(this.#bytes);
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }

  u8(value: number): void {
    const at = this.#grow(1); // may have moved everything
    this.#view.setUint8(at, value);
  }
  u32(value: number): void {
    const at = this.#grow(4);
    this.#view.setUint32(at, value, true);
  }
  f64(value: number): void {
    const at = this.#grow(8);
    this.#view.setFloat64(at, value, true);
  }
  u64(value: bigint): void {
    const at = this.#grow(8);
    this.#view.setBigUint64(at, value, true);
  }
  bytes(value: Uint8Array): void {
    const at = this.#grow(value.length);
    this.#bytes.set(value, at);
  }
  /** The length, and the bytes. */
  blob(value: Uint8Array): void {
    this.u32(value.length);
    this.bytes(value);
  }
  text(value: string): void {
    this.blob(new TextEncoder().encode(value));
  }
  /** Everything so far. */
  get written(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }
}

/** Reads it back, and never beyond its end. */
export class StateReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  #take(bytes: number): number {
    if (bytes > this.left) throw new StateError(`${bytes} bytes are wanted at ${this.#at}, and ${this.left} are left`);
    const at = this.#at;
    this.#at += bytes;
    return at;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }
  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }
  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }
  f64(): number {
    return this.#view.getFloat64(this.#take(8), true);
  }
  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }
  bytes(length: number): Uint8Array {
    return this.view(length).slice();
  }
  /** The bytes where they are. */
  view(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }
  blob(most: number): Uint8Array {
    const length = this.u32();
    if (length > most) throw new StateError(`${length} bytes where ${most} are the most`);
    return this.bytes(length);
  }
  text(most: number): string {
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(this.blob(most));
    } catch (error) {
      if (error instanceof StateError) throw error;
      throw new StateError('a text that is none');
    }
  }
  /** Nothing may be left. */
  end(): void {
    if (this.left > 0) throw new StateError(`${this.left} bytes too many`);
  }
}

// ## Kinds of value

/** How a value is written, and what it may be. */
export interface Kind<T> {
  /** For people. */
  readonly text: string;
  write(out: StateWriter, value: T): void;
  /** @throws StateError for what is no such value */
  read(from: StateReader): T;
}

function whole(text: string, least: number, most: number): Kind<number> {
  const check = (value: number): number => {
    if (!(Number.isInteger(value) && value >= least && value <= most)) throw new StateError(`${value} is not ${text}`);
    return value;
  };
  const short = least >= 0 && most <= 0xffff_ffff;
  return {
    text,
    write(out, value) {
      check(value);
      if (short) out.u32(value);
      else out.f64(value);
    },
    read: (from) => check(short ? from.u32() : from.f64()),
  };
}

const numbered = (bits: number): Kind<number> => whole(`${bits} bits`, 0, 2 ** bits - 1);

export const kind = {
  u8: numbered(8),
  u16: numbered(16),
  u32: numbered(32),
  i32: whole('32 bits with a sign', -(2 ** 31), 2 ** 31 - 1),
  /** A number that arithmetic on bits has left either way. */
  word: whole('32 bits, with a sign or without', -(2 ** 31), 2 ** 32 - 1),
  /** Anything exact: an address, a count, a duration. */
  safe: whole('a whole number', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  /** From 0 to `most`. */
  upTo: (most: number): Kind<number> => whole(`0 to ${most}`, 0, most),
  between: (least: number, most: number): Kind<number> => whole(`${least} to ${most}`, least, most),
  u64: {
    text: '64 bits',
    write: (out, value) => out.u64(BigInt.asUintN(64, value)),
    read: (from) => from.u64(),
  } as Kind<bigint>,
  flag: {
    text: 'yes or no',
    write: (out, value) => out.u8(value ? 1 : 0),
    read(from) {
      const value = from.u8();
      if (value > 1) throw new StateError(`${value} is neither yes nor no`);
      return value === 1;
    },
  } as Kind<boolean>,
  /** A string of at most so many bytes. */
  bytes: (most: number): Kind<Uint8Array> => ({
    text: `at most ${most} bytes`,
    write(out, value) {
      assert(value.length <= most, `at most ${most} bytes, not ${value.length}`);
      out.blob(value);
    },
    read: (from) => from.blob(most),
  }),
  text: (most: number): Kind<string> => ({
    text: `text of at most ${most} bytes`,
    write: (out, value) => out.text(value),
    read: (from) => from.text(most),
  }),
  oneOf: <T extends string>(words: readonly T[]): Kind<T> => ({
    text: words.join(', '),
    write(out, value) {
      const index = words.indexOf(value);
      assert(index >= 0, `${value} is one of ${words.join(', ')}`);
      out.u8(index);
    },
    read(from) {
      const word = words[from.u8()];
      if (word === undefined) throw new StateError(`none of ${words.join(', ')}`);
      return word;
    },
  }),
  maybe: <T>(of: Kind<T>): Kind<T | null> => ({
    text: `${of.text}, or nothing`,
    write(out, value) {
      kind.flag.write(out, value !== null);
      if (value !== null) of.write(out, value);
    },
    read: (from) => (kind.flag.read(from) ? of.read(from) : null),
  }),
  list: <T>(of: Kind<T>, most: number): Kind<T[]> => ({
    text: `at most ${most} of: ${of.text}`,
    write(out, values) {
      assert(values.length <= most, `a list of at most ${most}, not ${values.length}`);
      out.u32(values.length);
      for (const value of values) of.write(out, value);
    },
    read(from) {
      const length = from.u32();
      if (length > most) throw new StateError(`${length} where ${most} are the most`);
      return Array.from({ length }, () => of.read(from));
    },
  }),
  record: <R extends object>(of: { readonly [K in keyof R]: Kind<R[K]> }): Kind<R> => {
    const entries = Object.entries(of) as [keyof R & string, Kind<R[keyof R]>][];
    return {
      text: entries.map(([name, { text }]) => `${name} (${text})`).join(', '),
      write(out, value) {
        for (const [name, each] of entries) each.write(out, value[name]);
      },
      read: (from) => Object.fromEntries(entries.map(([name, each]) => [name, each.read(from)])) as R,
    };
  },
};

// ## Fields
//
// Restoring is done in two steps. First everything is read and checked; only when all of it is good is anything put in place. A field's reader
// therefore returns what *will* be done.

/** What a state is restored into: for the fields that do not stand for themselves. */
export interface Restoring {
  /** Added to every moment: how much later it is by this machine's clock than it was by the other's. */
  readonly shift: number;
  /** Arms a timer, when all of the machine is in place. `rank`: timers of one moment fire in this order. */
  arm(timer: Timer, at: number, rank: number): void;
}

/** A promise to put what was read in place. */
export type Placing = (restoring: Restoring) => void;

/** One row of the table, for objects of class `O`. */
interface Field<O> {
  readonly text: string;
  save(object: O, out: StateWriter): void;
  /** @throws StateError */
  load(object: O, from: StateReader): Placing;
}

/** A value that `get` finds and `set` puts back. */
export function field<O, T>(of: Kind<T>, get: (object: O) => T, set: (object: O, value: T) => void): Field<O> {
  return {
    text: of.text,
    save: (object, out) => of.write(out, get(object)),
    load(object, from) {
      const value = of.read(from);
      return () => set(object, value);
    },
  };
}

/** A property that everybody can see. */
export function own<O, K extends keyof O>(of: Kind<O[K]>, name: K): Field<O> {
  return field<O, O[K]>(
    of,
    (object) => object[name],
    (object, value) => {
      object[name] = value;
    },
  );
}

/** A number that says which of several: how many there are, the object knows. */
export function index<O>(count: (object: O) => number, get: (object: O) => number, set: (object: O, value: number) => void): Field<O> {
  return {
    text: 'which of them',
    save: (object, out) => out.u32(get(object)),
    load(object, from) {
      const value = from.u32();
      if (value >= count(object)) throw new StateError(`number ${value} of ${count(object)}`);
      return () => set(object, value);
    },
  };
}

/** An array of fixed length, restored in place. */
export function array<O>(get: (object: O) => Uint8Array | Uint16Array | Uint32Array | number[], of: Kind<number> = kind.word): Field<O> {
  return {
    text: `as many as there are: ${of.text}`,
    save(object, out) {
      const values = get(object);
      if (values instanceof Uint8Array) out.bytes(values);
      else for (const value of values) of.write(out, value);
    },
    load(object, from) {
      const { length } = get(object);
      const values = get(object) instanceof Uint8Array ? from.bytes(length) : Array.from({ length }, () => of.read(from));
      return () => {
        const target = get(object);
        for (let n = 0; n < length; n++) target[n] = values[n] as number;
      };
    },
  };
}

/** A moment by the machine's clock, in nanoseconds. */
export function moment<O>(get: (object: O) => number, set: (object: O, at: number) => void): Field<O> {
  return {
    text: 'a moment',
    save: (object, out) => kind.safe.write(out, get(object)),
    load(object, from) {
      const at = kind.safe.read(from);
      return ({ shift }) => set(object, at + shift);
    },
  };
}

/** A timer that may be absent, armed or not. */
export function timer<O>(get: (object: O) => Timer | null): Field<O> {
  return {
    text: 'a timer',
    save(object, out) {
      const { at, rank } = get(object) ?? { at: null, rank: 0 };
      kind.maybe(kind.safe).write(out, at);
      if (at !== null) out.u32(rank);
    },
    load(object, from) {
      const at = kind.maybe(kind.safe).read(from);
      const rank = at === null ? 0 : from.u32();
      const found = get(object);
      if (at !== null && !found) throw new StateError('a timer is armed that this machine does not have');
      return (restoring) => {
        found?.cancel();
        if (found && at !== null) restoring.arm(found, at + restoring.shift, rank);
      };
    },
  };
}

/** Another object, that this one is made of. */
export function part<O, P>(get: (object: O) => P | null, of: StateDescription<P>): Field<O> {
  return {
    text: of.text,
    save(object, out) {
      const found = get(object);
      kind.flag.write(out, found !== null);
      if (found !== null) of.save(found, out);
    },
    load(object, from) {
      const found = get(object);
      if (kind.flag.read(from) !== (found !== null)) throw new StateError(`${of.name} is in only one of the two machines`);
      return found === null ? () => {} : of.load(found, from);
    },
  };
}

/** Several of them: as many as there are. */
export function parts<O, P>(get: (object: O) => readonly P[], of: StateDescription<P>): Field<O> {
  return {
    text: `for each: ${of.text}`,
    save(object, out) {
      out.u32(get(object).length);
      for (const each of get(object)) of.save(each, out);
    },
    load(object, from) {
      const found = get(object);
      const count = from.u32();
      if (count !== found.length) throw new StateError(`${count} of ${of.name}, and this machine has ${found.length}`);
      const placings = found.map((each) => of.load(each, from));
      return (restoring) => {
        for (const place of placings) place(restoring);
      };
    },
  };
}

// ## Tables

/** A class's table. */
export interface StateDescription<O> {
  readonly name: string;
  /** One more whenever the table changes. There are no conversions: another version is refused. */
  readonly version: number;
  readonly fields: Readonly<Record<string, Field<O>>>;
  readonly text: string;
  save(object: O, out: StateWriter): void;
  /** @throws StateError naming the field */
  load(object: O, from: StateReader): Placing;
}

/** Makes a table. `placed` is called when all fields are in place, for what follows from them. */
export function describe<O>(
  name: string,
  version: number,
  fields: Readonly<Record<string, Field<O>>>,
  placed: (object: O) => void = () => {},
): StateDescription<O> {
  const rows = Object.entries(fields);
  return {
    name,
    version,
    fields,
    text: rows.map(([row, { text }]) => `${row}: ${text}`).join('; '),
    save(object, out) {
      for (const [, each] of rows) each.save(object, out);
    },
    load(object, from) {
      const placings = rows.map(([row, each]) => {
        try {
          return each.load(object, from);
        } catch (error) {
          if (error instanceof StateError) throw new StateError(`${row}: ${error.message}`);
          throw error;
        }
      });
      return (restoring) => {
        for (const place of placings) place(restoring);
        placed(object);
      };
    },
  };
}

/** One device of one machine, with its table: what a machine keeps a list of. */
export interface SavedPart {
  /** No two parts of a machine have the same. */
  readonly name: string;
  readonly version: number;
  readonly text: string;
  save(out: StateWriter): void;
  load(from: StateReader): Placing;
}

/** Puts an object and its table together. */
export function savedPart<O>(name: string, object: O, of: StateDescription<O>): SavedPart {
  return { name, version: of.version, text: of.text, save: (out) => of.save(object, out), load: (from) => of.load(object, from) };
}

/** A device that has no table yet: a machine with it is neither saved nor restored, and says why. */
export function unsavedPart(name: string): SavedPart {
  const refuse = (): never => {
    throw new StateError(`the state of ${name} cannot be saved`);
  };
  return { name, version: 0, text: 'nothing', save: refuse, load: refuse };
}
