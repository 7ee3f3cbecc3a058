// # What is not compared, and why
//
// A fuzzer is worth what it is *not* told to overlook, so all of that is on this page: instructions whose result is the kernel's or the machine's and not the
// instruction's, encodings that one of the two processors has and the other has not, and the flags that the manual leaves undefined. Nothing else is masked
// anywhere.

import { decode } from '../../../isa/decoder.ts';
import type { Definition } from '../../../isa/encoding.ts';
import { INSTRUCTION_SET } from '../../../isa/instruction-set.ts';
import type { SystemOp } from '../../../isa/system-ops.ts';
import { FLAG, SLOT } from '../../../state.ts';
import { FLAT_MODE } from '../../flat-machine.ts';
import type { Bits } from './world.ts';

// ## Instructions that a process cannot be asked about

const KERNEL = 'the kernel answers, not the processor';
const MACHINE = 'the answer is different on every machine';
const NOT_COMPARABLE: Partial<Readonly<Record<SystemOp | string, string>>> = {
  syscall: KERNEL,
  sysenter: KERNEL,
  // With UMIP these fault, and Linux emulates them.
  sgdt: KERNEL,
  sidt: KERNEL,
  smsw: KERNEL,
  sldt: KERNEL,
  str: KERNEL,
  cpuid: MACHINE,
  rdtsc: MACHINE,
  rdtscp: MACHINE,
  rdpmc: MACHINE,
  rdpid: MACHINE,
  rdrand: MACHINE,
  rdseed: MACHINE,
  // A guest's hypervisor is asked, if there is one, and this tool may run in a guest.
  vmcall: MACHINE,
  vmmcall: MACHINE,
  vmfunc: MACHINE,
  monitor: MACHINE,
  mwait: MACHINE,
  // XCR0 and the layout beyond the first 576 bytes are the machine's.
  xgetbv: MACHINE,
  xsave: MACHINE,
  xsaveopt: MACHINE,
  xsavec: MACHINE,
};

/** Instructions that the machine at hand must say it has; by the name of the flag in /proc/cpuinfo. */
const NEEDS: readonly (readonly [RegExp, string])[] = [
  [/^MOVBE$/, 'movbe'],
  [/^POPCNT$/, 'popcnt'],
  [/^LZCNT$/, 'abm'],
  [/^(TZCNT|ANDN|BEXTR|BLSI|BLSMSK|BLSR)$/, 'bmi1'],
  [/^(BZHI|MULX|PDEP|PEXT|RORX|SARX|SHLX|SHRX)$/, 'bmi2'],
  [/^(ADCX|ADOX)$/, 'adx'],
  [/^(RD|WR)[FG]SBASE$/, 'fsgsbase'],
  [/^PCLMULQDQ$/, 'pclmulqdq'],
  [/^AES/, 'aes'],
  [/^SHA(1|256)/, 'sha_ni'],
  [/^(PSIGN|PABS|PALIGNR|PSHUFB|PMULHRSW|PMADDUBSW|PH(ADD|SUB))/, 'ssse3'],
  [/^(PBLEND|BLEND|DPP|EXTRACTPS|INSERTPS|MPSADBW|PACKUSDW|PMOVSX|PMOVZX|PTEST|ROUND)/, 'sse4_1'],
  [/^(CRC32|PCMPGTQ|PCMP[EI]STR[IM])$/, 'sse4_2'],
  [/^CLFLUSHOPT$/, 'clflushopt'],
  [/^CLWB$/, 'clwb'],
];

const judged = new WeakMap<Definition, boolean>();
/** True when both processors can execute an instruction for a comparison. `features` are those of the machine at hand, always the same. */
export function comparable(definition: Definition, features: ReadonlySet<string>): boolean {
  const known = judged.get(definition);
  if (known !== undefined) return known;
  const answer = judge(definition, features);
  judged.set(definition, answer);
  return answer;
}

function judge({ name, system }: Definition, features: ReadonlySet<string>): boolean {
  if (system && NOT_COMPARABLE[system]) return false;
  if (NOT_COMPARABLE[name.toLowerCase()]) return false;
  const needed = NEEDS.find(([pattern]) => pattern.test(name));
  return !needed || features.has(needed[1]);
}

// ## Encodings of other processors
//
// Bytes that mean nothing to the modelled processor mean something to a newer one: AVX, or a prefix that has become part of an opcode. A table of these,
// by feature. The bytes come from the manual's opcode maps.

const NAMES = new Set(INSTRUCTION_SET.map(({ name }) => name));

interface Extra {
  readonly feature: string;
  /** Map and opcode as in the tables of the instruction set: 0x0fae. */
  readonly opcode: number;
  readonly last?: number;
  /** Condition on the ModRM byte. */
  readonly modrm?: (byte: number) => boolean;
  readonly prefix?: 0x66 | 0xf2 | 0xf3;
}
const digit =
  (...digits: number[]) =>
  (byte: number): boolean =>
    digits.includes((byte >> 3) & 7);
const memoryDigit =
  (...digits: number[]) =>
  (byte: number): boolean =>
    byte < 0xc0 && digits.includes((byte >> 3) & 7);
// biome-ignore format: table
const EXTRAS: readonly Extra[] = [
  { feature: 'system instructions of other processors', opcode: 0x0f01, modrm: (byte) => byte >= 0xc0 },
  { feature: 'UMIP', opcode: 0x0f01, modrm: memoryDigit(0, 1) },
  { feature: 'UMIP', opcode: 0x0f01, modrm: digit(4) },
  { feature: 'UMIP', opcode: 0x0f00, modrm: digit(0, 1) },
  { feature: 'XSAVE', opcode: 0x0fae, modrm: memoryDigit(4, 5, 6) },
  { feature: 'XSAVE', opcode: 0x0fc7, modrm: memoryDigit(3, 4, 5) },
  { feature: 'CLFLUSHOPT', opcode: 0x0fae, modrm: memoryDigit(7), prefix: 0x66 },
  { feature: 'CLWB, TPAUSE', opcode: 0x0fae, modrm: digit(6), prefix: 0x66 },
  { feature: 'UMWAIT', opcode: 0x0fae, modrm: digit(6), prefix: 0xf2 },
  { feature: 'UMONITOR, PTWRITE, INCSSP', opcode: 0x0fae, modrm: digit(4, 5, 6), prefix: 0xf3 },
  { feature: 'RDRAND, RDSEED, RDPID', opcode: 0x0fc7, modrm: (byte) => byte >= 0xf0 },
  { feature: 'hints', opcode: 0x0f18, last: 0x0f1f },
  { feature: 'PREFETCHW', opcode: 0x0f0d },
  { feature: 'RDTSC', opcode: 0x0f31 }, { feature: 'RDPMC', opcode: 0x0f33 }, { feature: 'CPUID', opcode: 0x0fa2 },
  { feature: 'SYSCALL', opcode: 0x0f05 }, { feature: 'SYSENTER', opcode: 0x0f34 }, { feature: 'SYSCALL', opcode: 0xcd, modrm: (byte) => byte === 0x80 },
  { feature: 'GETSEC', opcode: 0x0f37 },
  { feature: 'RTM', opcode: 0xc6, modrm: (byte) => byte === 0xf8 }, { feature: 'RTM', opcode: 0xc7, modrm: (byte) => byte === 0xf8 },
  { feature: 'ADX', opcode: 0x0f38f6 },
  { feature: 'SHA', opcode: 0x0f38c8, last: 0x0f38cd }, { feature: 'SHA', opcode: 0x0f3acc },
  { feature: 'GFNI', opcode: 0x0f38cf }, { feature: 'GFNI', opcode: 0x0f3ace, last: 0x0f3acf },
  { feature: 'MOVDIRI', opcode: 0x0f38f8, last: 0x0f38f9 },
];

/** Opcodes that belong to whole instruction sets which the modelled processor may lack: it has them when it has the instruction named. */
// biome-ignore format: table
const SETS: readonly { readonly name: string; readonly instruction: string; has(opcode: number): boolean }[] = [
  { name: 'x87', instruction: 'FADD', has: (opcode) => opcode >= 0xd8 && opcode <= 0xdf },
  { name: 'MMX and SSE', instruction: 'ADDPS', has: (opcode) => vectorOpcode(opcode) },
  { name: 'MMX and SSE', instruction: 'PADDB', has: (opcode) => vectorOpcode(opcode) },
];
const vectorOpcode = (opcode: number): boolean => {
  const low = opcode & 0xff;
  if (opcode > 0xffff) return opcode < 0x0f3880 || opcode >= 0x0f3a00;
  if (opcode >> 8 !== 0x0f) return false;
  return (low >= 0x10 && low <= 0x17) || (low >= 0x28 && low <= 0x2f) || (low >= 0x50 && low <= 0x7f) || (low >= 0xc2 && low <= 0xc6) || low >= 0xd0;
};

interface Parsed {
  readonly opcode: number;
  readonly modrm: number;
  readonly prefixes: ReadonlySet<number>;
  readonly wide: boolean;
}
const LEGACY = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]);

function parse(bytes: Uint8Array, bits: Bits): Parsed {
  let at = 0;
  const prefixes = new Set<number>();
  let wide = false;
  for (; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    if (LEGACY.has(byte)) prefixes.add(byte);
    else if (!(bits === 64 && (byte & 0xf0) === 0x40)) break;
    wide = !LEGACY.has(byte) && (byte & 8) !== 0; // REX.W, if nothing stands between it and the opcode
  }
  let opcode = bytes[at++] ?? 0;
  if (opcode === 0x0f) {
    opcode = 0x0f00 | (bytes[at++] ?? 0);
    if (opcode === 0x0f38 || opcode === 0x0f3a) opcode = (opcode << 8) | (bytes[at++] ?? 0);
  }
  return { opcode, modrm: bytes[at] ?? 0, prefixes, wide };
}

/** Why bytes that the modelled processor takes for `definition` may be something else to the one at hand; null: they are not. */
export function definedElsewhere(bytes: Uint8Array, bits: Bits, definition: Definition, features: ReadonlySet<string>): string | null {
  const { opcode, modrm, prefixes, wide } = parse(bytes, bits);
  // The processors seen so far make such an access in pieces: without a check of alignment, with #SS for a segment that 64-bit code does not have, and a store that
  // a page fault ends has left its first part in memory. No manual mentions it.
  if (definition.name === 'MOVBE' && wide && prefixes.has(0x66)) return 'MOVBE with both 66 and REX.W';
  // C4, C5 and 62 begin AVX instructions in 64-bit code, and elsewhere where LDS, LES and BOUND would name a register.
  const longForm = bits === 64 || modrm >= 0xc0;
  const undefinedHere = definition.name === 'UD';
  if (undefinedHere && longForm && (opcode === 0xc4 || opcode === 0xc5) && features.has('avx')) return 'AVX';
  if (undefinedHere && longForm && opcode === 0x62 && features.has('avx512f')) return 'AVX-512';
  if (undefinedHere && opcode === 0x8f && (modrm & 0x38) !== 0) return 'XOP';
  // To a processor without LZCNT and TZCNT they are BSR and BSF.
  const counts = opcode === 0x0fbd ? 'LZCNT' : opcode === 0x0fbc ? 'TZCNT' : null;
  if (counts && prefixes.has(0xf3) && !NAMES.has(counts)) return counts;
  const missing = undefinedHere && SETS.find(({ instruction, has }) => has(opcode) && !NAMES.has(instruction));
  if (missing) return missing.name;
  // A prefix that chooses among the instructions of an opcode may choose one of another extension, or be ignored: that is each processor's own affair.
  for (const extra of EXTRAS) {
    if (opcode < extra.opcode || opcode > (extra.last ?? extra.opcode)) continue;
    if (extra.modrm && !extra.modrm(modrm)) continue;
    if (extra.prefix && !prefixes.has(extra.prefix)) continue;
    if (undefinedHere || extra.prefix) return extra.feature;
  }
  return null;
}

// ## Undefined flags
//
// SDM vol. 2 calls many flags undefined: AF after AND, all six after DIV, four of them after BT. The processors that this book's machine has been compared with
// give each of them the same value every time, and so does it here; what is compared cannot go wrong unnoticed, so the table has only the rest.

const { OF, PF, SF, AF } = FLAG;
/** By mnemonic: flags that the instruction's page in SDM vol. 2, "Flags Affected", calls undefined and that are not compared. */
// biome-ignore format: table
const UNDEFINED_FLAGS: Readonly<Record<string, number>> = {
  // "The OF flag is affected only for 1-bit shifts. For multi-bit shifts, it is undefined"; for rotates likewise.
  SHL: OF, SHR: OF, SHLD: OF, SHRD: OF, ROL: OF, ROR: OF, RCL: OF, RCR: OF,
  // "OF, SF, PF, and AF flags are undefined."
  TZCNT: OF | SF | PF | AF, LZCNT: OF | SF | PF | AF,
  // "AF and PF flags are undefined"; BEXTR: "The AF, SF, and PF flags are undefined."
  ANDN: AF | PF, BLSI: AF | PF, BLSMSK: AF | PF, BLSR: AF | PF, BZHI: AF | PF, BEXTR: AF | SF | PF,
};

/** True when what follows in the same program could look at something undefined. */
export const leavesSomethingUndefined = (name: string): boolean => (UNDEFINED_FLAGS[name] ?? 0) !== 0 || isTranscendental(name);

/** Flags of one instruction that are not compared. Shifts and rotates by nothing or by one define them all. `rcx` is what it finds in the register; null: not known. */
export function undefinedFlags(code: Uint8Array, bits: Bits, rcx: number | null): number {
  const decoded = decode(code, 0, code.length, FLAT_MODE[bits]);
  if (typeof decoded === 'string') return 0;
  const { insn, encoding } = decoded;
  const mask = UNDEFINED_FLAGS[encoding.definition.name] ?? 0;
  if (mask !== OF) return mask;
  const source = encoding.operands.at(-1)?.kind;
  if (source === 'r' && rcx === null) return mask;
  const raw = source === 'k' ? 1 : source === 'r' ? (rcx as number) & 0xff : Number(insn.imm & 0xffn);
  const count = raw & (insn.bytes === 8 ? 63 : 31);
  return count < 2 ? 0 : mask;
}

// ## Transcendental functions
//
// SDM vol. 1, "Transcendental Instruction Accuracy", promises an error below one unit in the last place (of double-extended precision), and monotonic
// functions; not the last bit. So the results may be neighbours, and then the processors need not agree on which way the result was rounded (C1) or whether it is
// inexact (PE, and with it the summary bits) or tiny before rounding (UE). F2XM1's result "is undefined" for a source outside -1 to +1, and FYL2XP1's
// outside its range likewise.

const TRANSCENDENTAL = new Set(['FSIN', 'FCOS', 'FSINCOS', 'FPTAN', 'FPATAN', 'F2XM1', 'FYL2X', 'FYL2XP1']);
export const isTranscendental = (name: string): boolean => TRANSCENDENTAL.has(name);
const LEAST_EXPONENT = 1;
/** Bits of the status word that may differ after one with this result: B, C1, ES, PE; and UE next to the least normal number. */
export function uncertainStatus(result: Uint8Array): number {
  const view = new DataView(result.buffer, result.byteOffset, result.length);
  const distance = BigInt.asIntN(64, view.getBigUint64(0, true) - (1n << 63n));
  const least = (view.getUint16(8, true) & 0x7fff) === LEAST_EXPONENT && distance >= -1n && distance <= 1n;
  return 0x8000 | 0x0200 | 0x0080 | 0x0020 | (least ? 0x0010 : 0);
}

// ## Faults
//
// A masked store may or may not look at the bytes that it does not store: of a mask of zeros SDM vol. 2 says, at MASKMOVDQU, that page faults "may still be
// signaled (implementation dependent)". Processors seen so far look at all of them; this one at those that it stores. Where the real one faults there is nothing
// to compare.

export const faultsAsItLikes = (name: string): boolean => name === 'MASKMOVQ' || name === 'MASKMOVDQU';

/** The register that holds a shift count. */
export const COUNT = SLOT.RCX;
