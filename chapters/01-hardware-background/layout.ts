// # Layouts
//
// Almost everything that crosses a boundary in this stack is a record at fixed offsets: a page-table entry, a VMCS field, `struct kvm_run`,
// a descriptor in a ring. Written as code, such a record appears three times (reader, writer, comment), and the three drift. Here it is
// written once, as a table. The table gives the accessors; the site draws the figure from the same table.

/** How one scalar field is read from and written to a DataView. `bits` is its width; values over 32 bits are bigint. */
interface Scalar<T extends number | bigint> {
  readonly kind: 'scalar';
  readonly offset: number;
  readonly bytes: number;
  get(view: DataView, base: number): T;
  set(view: DataView, base: number, value: T): void;
}

/** A run of raw bytes inside a record. */
interface Bytes {
  readonly kind: 'bytes';
  readonly offset: number;
  readonly bytes: number;
  get(view: DataView, base: number): Uint8Array;
  set(view: DataView, base: number, value: Uint8Array): void;
}

/** A record inside a record, `count` times. */
export interface Nested<F extends Fields> {
  readonly kind: 'nested';
  readonly offset: number;
  readonly bytes: number;
  readonly count: number;
  readonly of: Layout<F>;
  /** Byte offset of element `index` from the start of the outer record. */
  at(index: number): number;
}

// biome-ignore lint/suspicious/noExplicitAny: the element type of a nested layout is open by design
export type Field = Scalar<number> | Scalar<bigint> | Bytes | Nested<any>;
export type Fields = Readonly<Record<string, Field>>;

/** The values of a record's scalar and byte fields, by name. */
export type Values<F extends Fields> = {
  [K in keyof F as F[K] extends { get(...args: never[]): unknown } ? K : never]: F[K] extends { get(...args: never[]): infer T } ? T : never;
};

/** A named record: its fields, its size in bytes, and whole-record load and store. */
export interface Layout<F extends Fields> {
  readonly name: string;
  readonly bytes: number;
  readonly fields: F;
  /** Reads every scalar and byte field at `base`. */
  load(view: DataView, base?: number): Values<F>;
  /** Writes the given fields at `base` and leaves the others alone. */
  store(view: DataView, base: number, values: Partial<Values<F>>): void;
  /** A fresh zeroed buffer holding the given fields. */
  encode(values?: Partial<Values<F>>): Uint8Array;
  /** Reads a record from a byte array. */
  decode(bytes: Uint8Array): Values<F>;
}

const scalar = <T extends number | bigint>(
  offset: number,
  bytes: number,
  get: (view: DataView, at: number) => T,
  set: (view: DataView, at: number, value: T) => void,
): Scalar<T> => ({
  kind: 'scalar',
  offset,
  bytes,
  get: (view, base) => get(view, base + offset),
  set: (view, base, value) => set(view, base + offset, value),
});

export const u8 = (offset: number): Scalar<number> =>
  scalar(
    offset,
    1,
    (v, at) => v.getUint8(at),
    (v, at, x) => v.setUint8(at, x),
  );
export const u16le = (offset: number): Scalar<number> =>
  scalar(
    offset,
    2,
    (v, at) => v.getUint16(at, true),
    (v, at, x) => v.setUint16(at, x, true),
  );
/** Most significant byte first, as networks have it. */
export const u16be = (offset: number): Scalar<number> =>
  scalar(
    offset,
    2,
    (v, at) => v.getUint16(at),
    (v, at, x) => v.setUint16(at, x),
  );
export const u32be = (offset: number): Scalar<number> =>
  scalar(
    offset,
    4,
    (v, at) => v.getUint32(at),
    (v, at, x) => v.setUint32(at, x),
  );
export const u32le = (offset: number): Scalar<number> =>
  scalar(
    offset,
    4,
    (v, at) => v.getUint32(at, true),
    (v, at, x) => v.setUint32(at, x, true),
  );
export const u64le = (offset: number): Scalar<bigint> =>
  scalar(
    offset,
    8,
    (v, at) => v.getBigUint64(at, true),
    (v, at, x) => v.setBigUint64(at, x, true),
  );

export const bytes = (offset: number, count: number): Bytes => ({
  kind: 'bytes',
  offset,
  bytes: count,
  get: (view, base) => new Uint8Array(view.buffer, view.byteOffset + base + offset, count).slice(),
  set(view, base, value) {
    if (value.length !== count) throw new RangeError(`a field of ${count} bytes was given ${value.length}`);
    new Uint8Array(view.buffer, view.byteOffset + base + offset, count).set(value);
  },
});

export const nested = <F extends Fields>(offset: number, of: Layout<F>, count = 1): Nested<F> => ({
  kind: 'nested',
  offset,
  bytes: of.bytes * count,
  count,
  of,
  at(index) {
    if (!(index >= 0 && index < count)) throw new RangeError(`element ${index} of ${count} in ${of.name}`);
    return offset + index * of.bytes;
  },
});

/**
 * Declares a record. `size` is needed only where the record ends in padding that no field covers.
 * @throws RangeError when a field reaches past `size`.
 */
export function layout<F extends Fields>(name: string, fields: F, size?: number): Layout<F> {
  const end = Math.max(0, ...Object.values(fields).map((field) => field.offset + field.bytes));
  const total = size ?? end;
  if (end > total) throw new RangeError(`${name}: fields end at ${end}, past its size ${total}`);
  const readable = Object.entries(fields).filter(([, field]) => field.kind !== 'nested') as [string, Exclude<Field, Nested<Fields>>][];
  const self: Layout<F> = {
    name,
    bytes: total,
    fields,
    load(view, base = 0) {
      const out: Record<string, unknown> = {};
      for (const [key, field] of readable) out[key] = field.get(view, base);
      return out as Values<F>;
    },
    store(view, base, values) {
      for (const [key, field] of readable) {
        const value = (values as Record<string, unknown>)[key];
        if (value !== undefined) (field.set as (v: DataView, b: number, x: unknown) => void)(view, base, value);
      }
    },
    encode(values = {}) {
      const buffer = new Uint8Array(total);
      self.store(new DataView(buffer.buffer), 0, values);
      return buffer;
    },
    decode(buffer) {
      if (buffer.length < total) throw new RangeError(`${name} is ${total} bytes; given ${buffer.length}`);
      return self.load(new DataView(buffer.buffer, buffer.byteOffset, buffer.length), 0);
    },
  };
  return self;
}

// ## Bits inside a word
//
// Control registers, page-table entries and access rights are words whose bits have names. A `bitfield` table names them once; masks and
// shifts are derived, never typed.

/** One named bit range of a word of up to 32 bits: `lo` is the lowest bit, `width` its size in bits. */
interface BitRange {
  readonly lo: number;
  readonly width: number;
  readonly meaning?: string;
}

export const bit = (lo: number, meaning?: string): BitRange => ({ lo, width: 1, ...(meaning && { meaning }) });
export const bits = (lo: number, hi: number, meaning?: string): BitRange => ({ lo, width: hi - lo + 1, ...(meaning && { meaning }) });

/** A word of named bits. `mask.X` covers the range in place; `get`/`set` move its value down and up. */
interface Bitfield<R extends Readonly<Record<string, BitRange>>> {
  readonly name: string;
  readonly ranges: R;
  readonly mask: { readonly [K in keyof R]: number };
  get(word: number, range: keyof R): number;
  set(word: number, range: keyof R, value: number): number;
  /** The names of the single-bit ranges that are set, and `NAME=value` for wider non-zero ones: for messages and traces. */
  describe(word: number): string;
}

export function bitfield<R extends Readonly<Record<string, BitRange>>>(name: string, ranges: R): Bitfield<R> {
  const maskOf = ({ lo, width }: BitRange): number => ((width === 32 ? 0xffffffff : 2 ** width - 1) << lo) >>> 0;
  const mask = Object.fromEntries(Object.entries(ranges).map(([key, range]) => [key, maskOf(range)])) as { [K in keyof R]: number };
  const self: Bitfield<R> = {
    name,
    ranges,
    mask,
    get: (word, key) => (word & mask[key]) >>> (ranges[key] as BitRange).lo,
    set: (word, key, value) => ((word & ~mask[key]) | ((value << (ranges[key] as BitRange).lo) & mask[key])) >>> 0,
    describe: (word) =>
      Object.entries(ranges)
        .map(([key, { width }]) => [key, width, self.get(word, key)] as const)
        .filter(([, , value]) => value !== 0)
        .map(([key, width, value]) => (width === 1 ? key : `${key}=${value}`))
        .join(' '),
  };
  return self;
}
