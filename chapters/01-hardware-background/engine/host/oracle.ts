// # Asking a real processor
//
// The best description of an x86 processor is an x86 processor, and there may be one under this very program. `oracle.c` runs single instructions on
// it: registers, flags and memory in; registers, flags, memory and the signal out. This module invents the instructions, has them run there and
// here, and compares. Inventing them from the decoder's own tables means that no encoding can be forgotten.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Fault, VECTOR } from '../../faults.ts';
import { decode } from '../../isa/decoder.ts';
import type { Encoding } from '../../isa/encoding.ts';
import { INSTRUCTION_SET } from '../../isa/instruction-set.ts';
import { ARITHMETIC_FLAGS, FLAG, SEG, SLOT } from '../../state.ts';
import { readFlags, writeFlags } from '../flags.ts';
import { FLAT_MODE, FlatMachine } from '../flat-machine.ts';

type Bits = 32 | 64;
const CODE = 0x100000;
const DATA = 0x101000;
const DATA_BYTES = 0x2000;
const CASE_BYTES = 16 + 16 + 17 * 8;
const OUTCOME_BYTES = 20 * 8;

/** One instruction to try. */
interface Case {
  readonly bits: Bits;
  readonly name: string;
  readonly code: Uint8Array;
  /** Where in the code page it lies. */
  readonly offset: number;
  readonly gpr: readonly bigint[];
  readonly flags: number;
}

/** What came of it. `signal` is Linux's number. */
interface Outcome {
  readonly gpr: readonly bigint[];
  readonly rip: bigint;
  readonly flags: number;
  readonly signal: number;
  readonly hash: number;
}

// ## Inventing instructions

/** Marsaglia's xorshift: small, and the same everywhere. */
class Random {
  #x: number;
  constructor(seed: number) {
    this.#x = Math.imul(seed + 1, 0x9e3779b1) | 1;
  }
  u32(): number {
    this.#x ^= this.#x << 13;
    this.#x ^= this.#x >>> 17;
    this.#x ^= this.#x << 5;
    return this.#x >>> 0;
  }
  below(n: number): number {
    return this.u32() % n;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }
}

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
const EDGES = [
  0n,
  1n,
  2n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  1n << 63n,
  (1n << 63n) - 1n,
  u64(-1n),
];

/** An address in the data window, often close to a page boundary or to one of its ends. */
function pointer(random: Random): number {
  const anchor = random.pick([DATA, DATA + 0x1000, DATA + 0x1000, DATA + DATA_BYTES]);
  if (random.chance(50)) return DATA + random.below(DATA_BYTES);
  return anchor + random.below(64) - 32;
}
function registerValue(random: Random): bigint {
  const kind = random.below(10);
  if (kind < 4) return BigInt(pointer(random));
  if (kind < 6) return BigInt(random.below(64));
  if (kind < 7) return random.pick(EDGES);
  if (kind < 8) return u64(BigInt(-random.below(64)));
  return (BigInt(random.u32()) << 32n) | BigInt(random.u32());
}

/** A small number most of the time, so that memory operands stay in the window. */
const smallDisplacement = (random: Random): number => (random.chance(90) ? random.below(64) - 32 : random.u32() | 0);

/** A ModRM byte with what follows it. `patch`: where a displacement relative to RIP has to be filled in. */
function modrm(random: Random, encoding: Encoding, bits: Bits, address16: boolean): { bytes: number[]; ripAt: number } {
  if (encoding.modrm >= 0) return { bytes: [encoding.modrm], ripAt: -1 };
  const reg = encoding.digit >= 0 ? encoding.digit : random.below(8);
  const mustBeMemory = encoding.remarks.has('memory') || encoding.operands.some(({ kind }) => kind === 'M');
  const mod = encoding.remarks.has('register') || (!mustBeMemory && random.chance(50)) ? 3 : random.below(3);
  const rm = random.below(8);
  const bytes = [(mod << 6) | (reg << 3) | rm];
  const word = (value: number): number[] => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >> 24) & 0xff];
  if (mod === 3) return { bytes, ripAt: -1 };
  if (address16) return { bytes: [...bytes, ...word(random.u32())], ripAt: -1 };
  let noBase = mod === 0 && rm === 5;
  if (rm === 4) {
    const sib = random.u32() & 0xff;
    bytes.push(sib);
    if (mod === 0 && (sib & 7) === 5) noBase = true;
  }
  if (noBase && rm === 5 && bits === 64) return { bytes: [...bytes, 0, 0, 0, 0], ripAt: bytes.length };
  if (noBase) bytes.push(...word(pointer(random)));
  else if (mod === 1) bytes.push((random.below(64) - 32) & 0xff);
  else if (mod === 2) bytes.push(...word(smallDisplacement(random)));
  return { bytes, ripAt: -1 };
}

// Two things are left out. An indirect call to a non-canonical address has pushed the return address when it faults, on the processors seen so far,
// although the stack pointer has not moved; this engine has not. And POPA that faults half-way has loaded some registers, with the stack pointer unmoved;
// here it has not. A program can restart both.

const CANDIDATES = INSTRUCTION_SET.filter(({ system }) => system === null);

/** Invents one case. */
function invent(random: Random, bits: Bits, only?: string): Case {
  for (;;) {
    const definition = random.pick(only ? CANDIDATES.filter(({ name }) => name === only) : CANDIDATES);
    const encoding = random.pick(definition.encodings);
    const code = encode(random, encoding, bits);
    if (!code) continue;
    const gpr = Array.from({ length: 16 }, () => registerValue(random));
    if (random.chance(80)) gpr[SLOT.RSP] = BigInt(pointer(random));
    if (random.chance(50)) gpr[SLOT.RCX] = BigInt(random.below(70));
    if (definition.name === 'CALL' && encoding.digit === 2 && bits === 64) continue; // see below
    if (bits === 32) for (let n = 0; n < 16; n++) gpr[n] = n < 8 ? BigInt.asUintN(32, gpr[n] as bigint) : 0n;
    const flags = (random.u32() & (ARITHMETIC_FLAGS | FLAG.DF)) | FLAG.FIXED | FLAG.IF;
    return { bits, name: definition.name, code, offset: 0x400 + random.below(0x400), gpr, flags };
  }
}

function encode(random: Random, encoding: Encoding, bits: Bits): Uint8Array | null {
  const { operands, opcode, definition } = encoding;
  // 64-bit code has given these to REX and EVEX prefixes.
  if (bits === 64 && ((opcode & 0xf0) === 0x40 || opcode === 0x62) && opcode < 0x100) return null;
  const bytes: number[] = [];
  const isString = operands.some(({ kind }) => kind === 'X' || kind === 'Y');
  const addressPrefix = random.chance(8);
  // Prefixes that newer processors have given a meaning with these opcodes stay away from them.
  const plainOnly = definition.name === 'NOP' || definition.name.endsWith('FENCE') || definition.name === 'CLFLUSH';
  if (random.chance(20) && !plainOnly) bytes.push(0x66);
  if (addressPrefix) bytes.push(0x67);
  if (random.chance(6) && !plainOnly) bytes.push(0xf0);
  if (random.chance(6)) bytes.push(random.pick([0x26, 0x2e, 0x36, 0x3e]));
  if (isString && random.chance(60)) bytes.push(random.pick([0xf2, 0xf3]));
  if (encoding.prefix) bytes.push(encoding.prefix);
  if (bits === 64 && random.chance(60)) bytes.push(0x40 | random.below(16));
  if (opcode > 0xffff) bytes.push(opcode >> 16);
  if (opcode > 0xff) bytes.push((opcode >> 8) & 0xff);
  bytes.push(opcode & 0xff);
  let ripAt = -1;
  if (encoding.hasModrm) {
    const { bytes: tail, ripAt: at } = modrm(random, encoding, bits, bits === 32 && addressPrefix);
    if (at >= 0) ripAt = bytes.length + at;
    bytes.push(...tail);
  }
  if (operands.some(({ kind }) => kind === 'O')) {
    const at = BigInt(pointer(random));
    for (let i = 0n; i < 8n; i++) bytes.push(Number((at >> (8n * i)) & 0xffn));
  } else for (let i = 0; i < 8; i++) bytes.push(random.chance(20) ? random.pick([0, 1, 0x7f, 0x80, 0xff]) : random.u32() & 0xff);
  const decoded = decode(Uint8Array.from(bytes), 0, bytes.length, FLAT_MODE[bits]);
  if (typeof decoded === 'string') return null;
  const code = Uint8Array.from(bytes.slice(0, decoded.insn.length));
  const { system } = decoded.encoding.definition;
  if (system && system !== 'ud') return null; // other bytes than intended: a prefix became an opcode
  const view = new DataView(code.buffer);
  if (decoded.encoding === encoding) {
    if (ripAt >= 0) view.setInt32(ripAt, pointer(random) - (CODE + 0x600 + code.length), true);
    // Jumps must not land in the instruction itself: that could be an endless loop.
    if (operands[0]?.kind === 'J') {
      const distance = random.chance(50) ? random.below(100) : -30 - random.below(90);
      if (operands[0].size === 'b') view.setInt8(code.length - 1, distance);
      else if (bits === 32 && decoded.insn.operandSize === 2) view.setInt16(code.length - 2, distance, true);
      else view.setInt32(code.length - 4, distance, true);
    }
  }
  return code;
}

// ## Running them there

/** True when the tools are here; otherwise why not. */
export function oracleMissing(): string | null {
  if (process.platform !== 'linux' || process.arch !== 'x64') return `needs x86-64 Linux, this is ${process.platform} ${process.arch}`;
  return spawnSync('gcc', ['--version']).status === 0 ? null : 'needs gcc to build the native runner';
}

/** Builds the native runner in a temporary directory and calls `use` with a function that runs cases on it. */
function withOracle<T>(use: (run: (cases: readonly Case[]) => Outcome[]) => T): T {
  const directory = mkdtempSync(join(tmpdir(), 'ringbook-oracle-'));
  try {
    const [program, input, output] = ['oracle', 'cases', 'results'].map((name) => join(directory, name)) as [string, string, string];
    // Position-independent, so that it lies far above any address that a case is likely to reach.
    const built = spawnSync('gcc', ['-O1', '-pie', '-fPIE', '-o', program, new URL('oracle.c', import.meta.url).pathname], { encoding: 'utf8' });
    if (built.status !== 0) throw new Error(`the native runner does not build: ${built.stderr}`);
    return use((cases) => {
      writeFileSync(input, encodeCases(cases));
      const done = spawnSync(program, [input, output], { timeout: 120_000 });
      if (done.status !== 0) throw new Error(`the native runner ended with ${done.status ?? done.signal}`);
      return decodeOutcomes(readFileSync(output));
    });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function encodeCases(cases: readonly Case[]): Uint8Array {
  const bytes = new Uint8Array(cases.length * CASE_BYTES);
  const view = new DataView(bytes.buffer);
  cases.forEach(({ bits, code, offset, gpr, flags }, index) => {
    const at = index * CASE_BYTES;
    for (const [i, value] of [bits, code.length, offset].entries()) view.setUint32(at + 4 * i, value, true);
    bytes.set(code, at + 16);
    for (const [i, value] of gpr.entries()) view.setBigUint64(at + 32 + 8 * i, value, true);
    view.setBigUint64(at + 32 + 128, BigInt(flags), true);
  });
  return bytes;
}
function decodeOutcomes(bytes: Uint8Array): Outcome[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: bytes.length / OUTCOME_BYTES }, (_, index) => {
    const word = (i: number): bigint => view.getBigUint64(index * OUTCOME_BYTES + 8 * i, true);
    const gpr = Array.from({ length: 16 }, (_, i) => word(i));
    return { gpr, rip: word(16), flags: Number(word(17) & 0xffffffffn), signal: Number(word(18)), hash: Number(word(19)) };
  });
}

// ## Running them here

const SIGNAL = { ILL: 4, TRAP: 5, BUS: 7, FPE: 8, SEGV: 11 } as const;
/** The signal that Linux makes of a processor exception. */
function signalOf({ vector }: Fault): number {
  if (vector === VECTOR.DE) return SIGNAL.FPE;
  if (vector === VECTOR.UD) return SIGNAL.ILL;
  return vector === VECTOR.SS ? SIGNAL.BUS : SIGNAL.SEGV;
}

/** The same small world as the native runner's, on the engine. */
class Subject extends FlatMachine {
  readonly bits: Bits;
  constructor(bits: Bits) {
    super(bits, 0x110000);
    this.bits = bits;
    this.start = CODE;
    this.readOnlyBelow = DATA;
    this.limit = DATA + DATA_BYTES;
    this.memory.slice(CODE, DATA - CODE).fill(0xcc);
    let seed = 1;
    const data = this.memory.slice(DATA, DATA_BYTES);
    for (let i = 0; i < DATA_BYTES; i++) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      data[i] = seed >>> 24;
    }
    const selectors = bits === 64 ? [0, 0x33, 0x2b, 0, 0, 0] : [0x2b, 0x23, 0x2b, 0x2b, 0, 0];
    selectors.forEach((selector, segment) => void this.state.setSegSelector(segment, selector));
    this.state.setSegRights(SEG.CS, this.state.segRights(SEG.CS) | 2);
  }
  /** Data is not executable. */
  override fetch(linear: bigint): number {
    if (linear >= BigInt(DATA)) throw new Fault(VECTOR.PF, 0x15, linear);
    return super.fetch(linear);
  }

  try(test: Case): Outcome {
    const { state } = this;
    test.gpr.forEach((value, n) => void state.setSlot(n, value));
    writeFlags(state, test.flags);
    const stop = this.run(test.code, { at: CODE + test.offset, instructions: 100 });
    this.memory.slice(CODE + test.offset, test.code.length).fill(0xcc);
    const signal = stop.kind === 'fault' ? signalOf(stop.fault) : stop.kind === 'stop' ? SIGNAL.TRAP : 0;
    const gpr = Array.from({ length: 16 }, (_, n) => state.slot(n));
    return { gpr, rip: state.slot(SLOT.RIP), flags: readFlags(state), signal, hash: this.#hash() };
  }
  #hash(): number {
    const words = new Uint32Array(this.memory.buffer, this.memory.offset(DATA), DATA_BYTES / 4);
    let hash = 0x811c9dc5;
    for (const word of words) hash = Math.imul(hash ^ word, 0x01000193);
    return hash >>> 0;
  }
}

// ## Comparing
//
// After many instructions some flags are undefined. These are not compared; that this engine's choice for them is mostly what processors do is
// nothing that a program may rely on.

const { CF, PF, AF, ZF, SF, OF } = FLAG;
/** Flags that the manual leaves undefined, by mnemonic. */
// biome-ignore format: table
const UNDEFINED_FLAGS: Readonly<Record<string, number>> = {
  AND: AF, OR: AF, XOR: AF, TEST: AF,
  MUL: SF | ZF | AF | PF, IMUL: SF | ZF | AF | PF, DIV: ARITHMETIC_FLAGS, IDIV: ARITHMETIC_FLAGS,
  SHL: AF | OF | CF, SHR: AF | OF | CF, SAR: AF | OF, SHLD: AF | OF | CF, SHRD: AF | OF | CF, ROL: OF, ROR: OF, RCL: OF, RCR: OF,
  BT: OF | SF | AF | PF, BTS: OF | SF | AF | PF, BTR: OF | SF | AF | PF, BTC: OF | SF | AF | PF,
  BSF: ARITHMETIC_FLAGS & ~ZF, BSR: ARITHMETIC_FLAGS & ~ZF,
  DAA: OF, DAS: OF, AAA: OF | SF | ZF | PF, AAS: OF | SF | ZF | PF, AAM: OF | AF | CF, AAD: OF | AF | CF,
};

/** Flags of this case that are not compared: shifts and rotates define more of them when the count is small. */
function undefinedFlags(test: Case): number {
  const mask = UNDEFINED_FLAGS[test.name] ?? 0;
  if (!/^(SH|SA|RO|RC)/.test(test.name)) return mask;
  const decoded = decode(test.code, 0, test.code.length, FLAT_MODE[test.bits]);
  if (typeof decoded === 'string') return mask;
  const { insn, encoding } = decoded;
  const source = encoding.operands.at(-1)?.kind;
  const raw = source === 'k' ? 1 : source === 'r' ? Number((test.gpr[SLOT.RCX] as bigint) & 0xffn) : Number(insn.imm & 0xffn);
  const count = raw & (insn.bytes === 8 ? 63 : 31);
  if (count === 0) return 0;
  return mask & ~(count === 1 ? OF : 0) & ~(count < 8 * insn.bytes ? CF : 0);
}

/** What differs, in words; empty when nothing does. */
function differences(test: Case, real: Outcome, ours: Outcome, ignoreFlags = undefinedFlags(test)): string[] {
  const out: string[] = [];
  const hex = (value: bigint | number): string => value.toString(16);
  if (real.signal !== ours.signal) out.push(`signal ${real.signal}, ours ${ours.signal}`);
  if (real.rip !== ours.rip) out.push(`rip ${hex(real.rip)}, ours ${hex(ours.rip)}`);
  const registers = test.bits === 64 ? 16 : 8;
  const partial = test.name === 'POPA' && real.signal === SIGNAL.SEGV;
  // REP with 32-bit addresses may clear the upper half of its registers even when it has done nothing.
  const mask = test.bits === 64 && /^(MOV|STO|LOD|SCA|CMP)S/.test(test.name) && test.code.includes(0x67) ? 32 : 64;
  for (let n = 0; n < registers; n++) {
    if (partial && n !== SLOT.RSP) continue;
    const [theirs, mine] = [BigInt.asUintN(mask, real.gpr[n] as bigint), BigInt.asUintN(mask, ours.gpr[n] as bigint)];
    if (theirs !== mine) out.push(`r${n} ${hex(theirs)}, ours ${hex(mine)} (was ${hex(test.gpr[n] as bigint)})`);
  }
  const compared = (ARITHMETIC_FLAGS | FLAG.DF) & ~ignoreFlags;
  if ((real.flags ^ ours.flags) & compared)
    out.push(`flags ${hex(real.flags & compared)}, ours ${hex(ours.flags & compared)} (were ${hex(test.flags)})`);
  if (real.hash !== ours.hash) out.push('memory');
  return out;
}

/** A case as one line. */
const describeCase = ({ bits, name, code }: Case): string =>
  `${bits}-bit ${name} [${[...code].map((byte) => byte.toString(16).padStart(2, '0')).join(' ')}]`;

/** What to try: how many instructions of which kind, from which seed. */
interface Trial {
  readonly bits: Bits;
  readonly count: number;
  readonly seed: number;
  /** A mnemonic, to try one instruction alone. */
  readonly only?: string;
  /** Compares undefined flags as well. */
  readonly strict?: boolean;
}

/** Runs a trial there and here. Returns the differences, at most ten, in words. */
export function compareWithProcessor({ bits, count, seed, only, strict = false }: Trial): string[] {
  return withOracle((run) => {
    const random = new Random(seed);
    const cases = Array.from({ length: count }, () => invent(random, bits, only));
    const real = run(cases);
    const subject = new Subject(bits);
    const found: string[] = [];
    for (const [index, test] of cases.entries()) {
      const difference = differences(test, real[index] as Outcome, subject.try(test), strict ? 0 : undefinedFlags(test));
      if (difference.length > 0) found.push(`${describeCase(test)}: ${difference.join('; ')}`);
      if (found.length === 10 || difference.includes('memory')) break; // once memory differs, everything after it does
    }
    return found;
  });
}
