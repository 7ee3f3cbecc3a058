// # Reading WebAssembly
//
// What the assembler has written, somebody will want to read. Instructions are printed one to a line, indented by the blocks around them. Their names come from
// the assembler's own tables, so that what it can write can be read.

import { assert } from '../physical-memory.ts';
import { type Code, i32, i64 } from './wasm-assembler.ts';
import { convert, f32, f32x4, f64, f64x2, i8x16, i16x8, i32x4, i64x2, v128 } from './wasm-vectors.ts';

/** What follows an opcode. */
type Immediate = 'none' | 'memory' | 'lane' | 'lanes';

interface Known {
  readonly name: string;
  readonly immediate: Immediate;
}

const LANES = 16;
const VECTOR = 0xfd;
const BULK = 0xfc;

/** The bytes of an instruction whose operands are empty, as far as they are numbers. */
const bytesOf = (code: Code): number[] => code.flatMap((part) => (typeof part === 'number' ? [part] : Array.isArray(part) ? bytesOf(part) : []));

/** Opcodes by their bytes, joined. */
const KNOWN = new Map<string, Known>();
const tables = { i32, i64, f32, f64, v128, i8x16, i16x8, i32x4, i64x2, f32x4, f64x2 };
for (const [type, table] of Object.entries(tables)) {
  for (const [member, make] of Object.entries(table) as [string, (...args: never[]) => Code][]) {
    if (member === 'const') continue;
    const memory = /^(load|store)/.test(member);
    const lane = /^(extract|replace)/.test(member);
    const args: unknown[] = lane ? (member.startsWith('extract') ? [[], 0] : [[], 0, []]) : member === 'shuffle' ? [[], [], []] : [[], [], []];
    const bytes = bytesOf((memory ? (make as unknown as (x: Code) => Code)([]) : make(...(args as never[]))) as Code);
    const opcode = memory ? bytes.slice(0, bytes.length - 2) : lane ? bytes.slice(0, bytes.length - 1) : bytes;
    KNOWN.set(opcode.join(), { name: `${type}.${member}`, immediate: memory ? 'memory' : lane ? 'lane' : member === 'shuffle' ? 'lanes' : 'none' });
  }
}
for (const [name, make] of Object.entries(convert)) KNOWN.set(bytesOf(make([])).join(), { name: name.replace('_', '.'), immediate: 'none' });

const TYPES: Readonly<Record<number, string>> = { 127: 'i32', 126: 'i64', 125: 'f32', 124: 'f64', 123: 'v128', 64: '' };
/** Instructions that the tables do not have: control, locals, calls. */
const PLAIN: Readonly<Record<number, string>> = { 0: 'unreachable', 1: 'nop', 15: 'return', 26: 'drop', 27: 'select' };
const INDEXED: Readonly<Record<number, string>> = {
  12: 'br',
  13: 'br_if',
  16: 'call',
  18: 'return_call',
  32: 'local.get',
  33: 'local.set',
  34: 'local.tee',
  35: 'global.get',
  36: 'global.set',
};
const INDIRECT: Readonly<Record<number, string>> = { 17: 'call_indirect', 19: 'return_call_indirect' };
const OPENS: Readonly<Record<number, string>> = { 2: 'block', 3: 'loop', 4: 'if' };

class Reader {
  readonly #bytes: Uint8Array;
  at: number;
  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }
  u8(): number {
    const byte = this.#bytes[this.at++];
    assert(byte !== undefined, 'the module ends in the middle');
    return byte;
  }
  unsigned(): number {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = this.u8();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  }
  signed(): bigint {
    let value = 0n;
    for (let shift = 0n; ; ) {
      const byte = this.u8();
      value |= BigInt(byte & 0x7f) << shift;
      shift += 7n;
      if (byte < 0x80) return BigInt.asIntN(Number(shift), value);
    }
  }
  take(bytes: number): Uint8Array {
    this.at += bytes;
    return this.#bytes.subarray(this.at - bytes, this.at);
  }
}

const hex = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const short = (value: bigint): string => (value > -1000n && value < 1000n ? String(value) : `0x${BigInt.asUintN(64, value).toString(16)}`);

function constant(opcode: number, reader: Reader): string | null {
  if (opcode === 0x41) return `i32.const ${short(reader.signed())}`;
  if (opcode === 0x42) return `i64.const ${short(reader.signed())}`;
  if (opcode === 0x43) return `f32.const ${new DataView(reader.take(4).slice().buffer).getFloat32(0, true)}`;
  if (opcode === 0x44) return `f64.const ${new DataView(reader.take(8).slice().buffer).getFloat64(0, true)}`;
  return null;
}

function prefixed(opcode: number, reader: Reader): string {
  const start = reader.at - 1;
  const number = reader.unsigned();
  if (opcode === VECTOR && number === 12) return `v128.const 0x${hex(reader.take(LANES).slice().reverse())}`;
  if (opcode === BULK && number === 10) return ['memory.copy', reader.u8(), reader.u8()].slice(0, 1).join();
  if (opcode === BULK && number === 11) return ['memory.fill', reader.u8()].slice(0, 1).join();
  const end = reader.at;
  reader.at = start;
  return known(reader.take(end - start), reader);
}
function known(opcode: Uint8Array, reader: Reader): string {
  const entry = KNOWN.get([...opcode].join());
  assert(entry, `opcode ${hex(opcode)} is unknown`);
  if (entry.immediate === 'lane') return `${entry.name} ${reader.u8()}`;
  if (entry.immediate === 'lanes') return `${entry.name} ${[...reader.take(LANES)].join(' ')}`;
  if (entry.immediate === 'none') return entry.name;
  reader.unsigned(); // the alignment hint
  const offset = reader.unsigned();
  return offset === 0 ? entry.name : `${entry.name} offset=${offset}`;
}

/** One instruction as text, without indentation. */
function instruction(opcode: number, reader: Reader): string {
  const opens = OPENS[opcode];
  if (opens) return `${opens} ${TYPES[reader.u8()] ?? '?'}`.trim();
  if (opcode === 0x05) return 'else';
  if (opcode === 0x0b) return 'end';
  const plain = PLAIN[opcode];
  if (plain) return plain;
  const indexed = INDEXED[opcode];
  if (indexed) return `${indexed} ${reader.unsigned()}`;
  const indirect = INDIRECT[opcode];
  if (indirect) return `${indirect} ${[reader.unsigned(), reader.unsigned()].join(' ')}`;
  if (opcode === 0x0e) return `br_table ${Array.from({ length: reader.unsigned() + 1 }, () => reader.unsigned()).join(' ')}`;
  const number = constant(opcode, reader);
  if (number) return number;
  if (opcode === VECTOR || opcode === BULK) return prefixed(opcode, reader);
  return known(Uint8Array.of(opcode), reader);
}

function body(reader: Reader, end: number): string[] {
  const lines: string[] = [];
  for (let n = reader.unsigned(); n > 0; n--) {
    reader.unsigned();
    reader.u8();
  }
  for (let depth = 0; reader.at < end; ) {
    const text = instruction(reader.u8(), reader);
    if (text === 'end' || text === 'else') depth--;
    if (depth >= 0) lines.push('  '.repeat(depth) + text);
    if (/^(block|loop|if|else)/.test(text)) depth++;
  }
  return lines;
}

const CODE_SECTION = 10;
const HEADER_BYTES = 8;

/** The functions of a module, each a list of lines. @throws Broken for a module that holds something which the assembler cannot write. */
export function disassemble(module: Uint8Array): string[][] {
  const reader = new Reader(module, HEADER_BYTES);
  while (reader.at < module.length) {
    const section = reader.u8();
    const end = reader.unsigned() + reader.at;
    if (section !== CODE_SECTION) {
      reader.at = end;
      continue;
    }
    return Array.from({ length: reader.unsigned() }, () => {
      const bytes = reader.unsigned();
      return body(reader, reader.at + bytes);
    });
  }
  return [];
}
