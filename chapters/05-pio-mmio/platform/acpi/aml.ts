// # A language for tables
//
// What devices there are, and which wires join them, ACPI does not put in a table but in a *program*, in a byte code that the operating system
// interprets. Most of it declares: this device has that number, these ports, that interrupt. The code is a prefix notation; whatever encloses something
// says first how many bytes it is, so the encoder works from the inside out, and every function here returns the bytes of one finished term.

/** Bytes of one term. */
export type Aml = readonly number[];

// ## Names
//
// A name is four characters, padded with underscores. A path may start at the root or climb; two names in a row need a prefix, more need a count.

const DUAL_NAME = 0x2e;
const MULTI_NAME = 0x2f;
const ROOT = 0x5c; // backslash
const PARENT = 0x5e; // caret

/** @throws RangeError for what is not a path */
export function path(text: string): Aml {
  const [, start = '', rest = ''] = /^(\\|\^*)(.*)$/.exec(text) ?? [];
  const prefix = [...start].map((char) => (char === '^' ? PARENT : ROOT));
  const segments = rest === '' ? [] : rest.split('.');
  if (!segments.every((segment) => /^[A-Z_][A-Z_0-9]{0,3}$/.test(segment))) throw new RangeError(`not a name in AML: ${text}`);
  const bytes = segments.flatMap((segment) => ascii(segment.padEnd(4, '_')));
  if (segments.length === 0) return [...prefix, 0];
  if (segments.length === 1) return [...prefix, ...bytes];
  return segments.length === 2 ? [...prefix, DUAL_NAME, ...bytes] : [...prefix, MULTI_NAME, segments.length, ...bytes];
}

// ## Lengths
//
// A length counts itself. Up to {{PKG_LENGTH_ONE_BYTE}} it is one byte; beyond, that byte holds how many more follow and the lowest four bits.

/** The longest package whose length is one byte. */
export const PKG_LENGTH_ONE_BYTE = 63;

/** `body` with its length before it. */
export function withLength(body: Aml): Aml {
  if (body.length + 1 <= PKG_LENGTH_ONE_BYTE) return [body.length + 1, ...body];
  for (let more = 1; more <= 3; more++) {
    const total = body.length + 1 + more;
    if (total >= 2 ** (4 + 8 * more)) continue;
    const length = [(more << 6) | (total & 15)];
    for (let index = 0; index < more; index++) length.push((total >> (4 + 8 * index)) & 0xff);
    return [...length, ...body];
  }
  throw new RangeError('a package of AML is at most 256 MiB');
}

// ## Data

/** An unsigned integer in its shortest form. */
export function integer(value: number | bigint): Aml {
  const n = BigInt(value);
  if (n < 0n) throw new RangeError(`no integer of AML: ${value}`);
  if (n === 0n || n === 1n) return [Number(n)]; // ZeroOp, OneOp
  for (const [prefix, bytes] of [
    [0x0a, 1],
    [0x0b, 2],
    [0x0c, 4],
    [0x0e, 8],
  ] as const)
    if (n < 1n << BigInt(8 * bytes)) return [prefix, ...littleEndian(n, bytes)];
  throw new RangeError(`no integer of AML: ${value}`);
}

export const text = (value: string): Aml => [0x0d, ...ascii(value), 0];
export const buffer = (bytes: Aml): Aml => [0x11, ...withLength([...integer(bytes.length), ...bytes])];
export const pack = (...elements: Aml[]): Aml => [0x12, ...withLength([elements.length, ...elements.flat()])];

/** A Plug and Play identifier as a number: three letters of five bits, four digits, and the bytes in the other order. */
export function eisaId(id: string): Aml {
  const letters = [...id.slice(0, 3)].reduce((bits, char) => (bits << 5) | (char.charCodeAt(0) - 0x40), 0);
  const value = letters * 0x10000 + Number.parseInt(id.slice(3), 16);
  return [0x0c, (value >>> 24) & 0xff, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
}

// ## What encloses

export const name = (at: string, value: Aml): Aml => [0x08, ...path(at), ...value];
export const scope = (at: string, ...terms: Aml[]): Aml => [0x10, ...withLength([...path(at), ...terms.flat()])];
export const device = (at: string, ...terms: Aml[]): Aml => [0x5b, 0x82, ...withLength([...path(at), ...terms.flat()])];

/** A method of `args` arguments; only one thread at a time runs it if it makes names. */
export const method = (at: string, args: number, serialized: boolean, ...terms: Aml[]): Aml => [
  0x14,
  ...withLength([...path(at), args | (serialized ? 8 : 0), ...terms.flat()]),
];

// ## Registers
//
// A program in byte code can touch the hardware: a stretch of memory or of ports gets a name, and then each register in it.

const MEMORY_SPACE = 0;
/** How a field is accessed: dwords, the rest of the dword kept. */
const DWORD_ACCESS = 3;

/** Names a stretch of memory, and each of its dwords. */
export const dwordRegisters = (at: string, gpa: number, names: readonly string[]): Aml => [
  ...[0x5b, 0x80, ...path(at), MEMORY_SPACE, ...integer(gpa), ...integer(4 * names.length)],
  ...[0x5b, 0x81, ...withLength([...path(at), DWORD_ACCESS, ...names.flatMap((each) => [...path(each), 32])])],
];

// ## What computes
//
// Little is needed: few methods have anything to decide.

export const arg = (index: number): Aml => [0x68 + index];
export const local = (index: number): Aml => [0x60 + index];
export const ref = (at: string): Aml => path(at);
export const result = (value: Aml): Aml => [0xa4, ...value];
export const store = (value: Aml, target: Aml): Aml => [0x70, ...value, ...target];
export const and = (a: Aml, b: Aml, target: Aml): Aml => [0x7b, ...a, ...b, ...target];
export const or = (a: Aml, b: Aml, target: Aml): Aml => [0x7d, ...a, ...b, ...target];
export const equal = (a: Aml, b: Aml): Aml => [0x93, ...a, ...b];
export const not = (a: Aml): Aml => [0x92, ...a];
export const when = (condition: Aml, ...terms: Aml[]): Aml => [0xa0, ...withLength([...condition, ...terms.flat()])];
export const otherwise = (...terms: Aml[]): Aml => [0xa1, ...withLength(terms.flat())];
/** No place for a result: only its value counts. */
export const nowhere: Aml = [0];
/** Tells the driver of a device that something happened to it. */
export const notify = (at: string, what: number): Aml => [0x86, ...path(at), ...integer(what)];
/** Names four bytes of a buffer. */
export const dwordField = (source: Aml, byte: number, at: string): Aml => [0x8a, ...source, ...integer(byte), ...path(at)];

/** A UUID as a buffer holds it: the first three groups little-endian. */
export function uuid(value: string): Aml {
  const hex = value.replaceAll('-', '');
  if (!/^[0-9a-f]{32}$/i.test(hex)) throw new RangeError(`not a UUID: ${value}`);
  const bytes = Array.from({ length: 16 }, (_, index) => Number.parseInt(hex.slice(2 * index, 2 * index + 2), 16));
  return buffer([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map((index) => bytes[index] as number));
}

// ## Resources
//
// What a device occupies is a buffer in a format older than ACPI: Plug and Play for ISA cards had one byte for kind and length where it could, three where
// it must.

/** Ports. */
export const io = (port: number, ports: number): Aml => [0x47, 1, ...littleEndian(port, 2), ...littleEndian(port, 2), 1, ports];
/** An ISA interrupt: an edge, high. */
export const irq = (line: number): Aml => [0x22, ...littleEndian(1 << line, 2)];
/** An input of the I/O APIC that PCI's pins may have too: a level, low, shared. */
export const interrupt = (gsi: number): Aml => [0x89, 6, 0, 0x0d, 1, ...littleEndian(gsi, 4)];
/** Memory at a fixed place. */
export const memory32 = (gpa: number, bytes: number): Aml => [0x86, 9, 0, 1, ...littleEndian(gpa, 4), ...littleEndian(bytes, 4)];

const RESOURCE = { MEMORY: 0, IO: 1, BUS: 2 } as const;
const PRODUCER_FIXED = 0x0c; // minimum and maximum are both fixed; what is in it is handed down

/** What a bridge passes on to its bus: `first` to `last`. The address field decides the width of the descriptor. */
function window(kind: number, flags: number, first: number, last: number, bytes: 2 | 4 | 8): Aml {
  const field = (value: number | bigint) => littleEndian(value, bytes);
  const body = [kind, PRODUCER_FIXED, flags, ...field(0), ...field(first), ...field(last), ...field(0), ...field(BigInt(last) - BigInt(first) + 1n)];
  return [{ 2: 0x88, 4: 0x87, 8: 0x8a }[bytes], ...littleEndian(body.length, 2), ...body];
}

export const busWindow = (first: number, last: number): Aml => window(RESOURCE.BUS, 0, first, last, 2);
export const ioWindow = (first: number, last: number): Aml => window(RESOURCE.IO, 3, first, last, 2);
/** Memory that may be written, cached or not as the driver likes. */
export const memoryWindow = (first: number, last: number, cached = false): Aml =>
  window(RESOURCE.MEMORY, cached ? 3 : 1, first, last, last < 2 ** 32 ? 4 : 8);

/** A list of resources, ended. */
export const resources = (...items: Aml[]): Aml => buffer([...items.flat(), 0x79, 0]);

function ascii(value: string): number[] {
  return [...value].map((char) => char.charCodeAt(0) & 0x7f);
}

export function littleEndian(value: number | bigint, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, index) => Number((BigInt(value) >> BigInt(8 * index)) & 0xffn));
}
