// # Cases for a kernel
//
// Programs of system instructions, with the machine that they find: its tables, and data that are likely to be selectors, flags or addresses.

import { decode } from '../../../isa/decoder.ts';
import type { Encoding } from '../../../isa/encoding.ts';
import { NONE } from '../../../isa/instruction.ts';
import { INSTRUCTION_SET } from '../../../isa/instruction-set.ts';
import type { SystemOp } from '../../../isa/system-ops.ts';
import { FLAG, SLOT } from '../../../state.ts';
import { descriptor, gate } from '../../../system/laboratory.ts';
import { FLAT_MODE } from '../../flat-machine.ts';
import type { Random } from './values.ts';

// ## The machine

// biome-ignore format: table
export const AT = {
  RESULT: 0x600, CASE: 0x700, DATA: 0x1000, GDT: 0x1400, CODE: 0x2000, STACK: 0x4000, BASE: 0x4000, STUBS16: 0x4800, TEMPLATES: 0x100000, CASES: 0x200000,
  HIGH: 0x300000, STUBS32: 0x301000, DIRECTORY: 0x303000, IDT: 0x304000, OWN_GDT: 0x305000, CONTROL: 0x306000, LOW_COPY: 0x308000, OUTCOMES: 0x400000,
  TASK: 0x70, LOCAL_TABLE: 0x68,
} as const;
export const LOW_BYTES = 0x1000;
export const IVT_BYTES = 0x400;
export const CODE_PAGE = 0x1000;
export const DATA_BYTES = 0x800;
export const TEMPLATES = 64;
export const RAM_BYTES = 16 << 20;
export const CASE = { MODE: 0, FLAGS: 4, GPR: 8, SEGMENTS: 40, EIP: 52, CR0: 56, CR4: 60, DATA: 64, CODE_AT: 68, CODE: 72, BYTES: 128 } as const;
export const OUTCOME = { KIND: 0, FRAME: 8, SS: 96, SYSTEM: 104, TABLES: 128, BREAKPOINTS: 152, DATA: 192, BYTES: 192 + 0x800 } as const;
export const BATCH = 4096;
export const SHUT_DOWN = 3;
export const ENDLESS = 4;
export const CODE_BYTES = 48;

// Within the data: numbers, pseudo-descriptors and far pointers, the stack; tables from GDT on. Selectors by what they are good for:
export const SEL = { CODE: 0x08, DATA: 0x10, CODE16: 0x18, DATA16: 0x20, USER_CODE: 0x2b, USER_DATA: 0x33, USER_CODE16: 0x3b } as const;
const [LDT, TSS, OTHER_TSS, TSS16] = [AT.DATA + 0x500, AT.DATA + 0x600, AT.DATA + 0x700, AT.DATA + 0x780];
const TARGET = 0xa0; // in the code page: breakpoints
// biome-ignore format: table
export const DESCRIPTORS: readonly (readonly [number, number])[] = [
  [0, 0], descriptor(0, 0xfffff, 0x9b, 0xc), descriptor(0, 0xfffff, 0x92, 0xc), descriptor(0, 0xffff, 0x9b, 0), descriptor(0, 0xffff, 0x92, 0),
  descriptor(0, 0xfffff, 0xfb, 0xc), descriptor(0, 0xfffff, 0xf2, 0xc), descriptor(0, 0xffff, 0xfb, 0),
  descriptor(0, 0xfffff, 0x9f, 0xc), descriptor(AT.DATA, 0, 0x96, 0xc), descriptor(0, 0xfffff, 0xf0, 0xc), descriptor(0, 0xfffff, 0x99, 0xc), // 40-58
  descriptor(0, 0xfffff, 0x12, 0xc), descriptor(LDT, 0x3f, 0x82, 0), descriptor(TSS, 0x8f, 0x89, 0), descriptor(OTHER_TSS, 0x67, 0x89, 0), // 60-78
  gate(SEL.CODE, AT.CODE + TARGET, 0xec), gate(SEL.CODE16, AT.CODE + TARGET, 0xe4), gate(0x78, 0, 0xe5), descriptor(0, 0xfffff, 0xb2, 0xc), // 80-98
  descriptor(0, 0xffff, 0xff, 0), descriptor(TSS16, 0x2b, 0xe1, 0), descriptor(AT.DATA, 0, 0x96, 0), descriptor(0, 0xfffff, 0xf2, 0xc), // a0-b8
  descriptor(0, 0xfffff, 0x80, 0), gate(SEL.CODE, AT.CODE + TARGET, 0xee), descriptor(0, 0xfffff, 0xbb, 0xc), descriptor(0, 0xffff, 0xb2, 0), // c0-d8
  gate(0xd0, AT.CODE + TARGET, 0xec), gate(SEL.USER_CODE, AT.CODE + TARGET, 0x8c), descriptor(0, 0xfffff, 0x1b, 0xc), descriptor(0, 0xfffff, 0x9d, 0xc), // e0-f8
];
const LOCAL: readonly (readonly [number, number])[] = [
  descriptor(AT.DATA, 0xfffff, 0xf2, 0xc),
  descriptor(0, 0xfffff, 0x9b, 0xc),
  descriptor(AT.DATA, 0xffff, 0x92, 0),
  descriptor(0, 0xffff, 0xfb, 4),
];
const PROTECTED_SELECTORS = [...DESCRIPTORS.map((_, n) => 8 * n), 0x100, ...LOCAL.map((_, n) => 8 * n + 4)];
const REAL_SELECTORS = [0x100, 0x100, 0x110, 0x200, 0x180];

type Mode = 'real' | 'ring 0' | 'ring 0, 16-bit' | 'ring 3' | 'ring 3, 16-bit' | 'V86';
const MODES: readonly Mode[] = ['real', 'real', 'real', 'ring 0', 'ring 0', 'ring 0, 16-bit', 'ring 3', 'ring 3, 16-bit', 'V86', 'V86'];
const bitsOf = (mode: Mode): 16 | 32 => (mode === 'ring 0' || mode === 'ring 3' ? 32 : 16);
/** Selectors are paragraph numbers. */
export const hasParagraphs = (mode: Mode): boolean => mode === 'real' || mode === 'V86';

// ## Programs

// What may be asked anywhere, and what only those who are not allowed to. Ports, model-specific registers and HLT are the machine's.
// biome-ignore format: table
const ASKED = new Set<SystemOp>([
  'int3', 'intN', 'into', 'iret', 'farJmp', 'farCall', 'farRet', 'movToSreg', 'movFromSreg', 'popSreg', 'loadFarPointer', 'movToCr', 'movFromCr', 'movToDr',
  'movFromDr', 'clts', 'lmsw', 'smsw', 'lgdt', 'lidt', 'sgdt', 'sidt', 'lldt', 'ltr', 'sldt', 'str', 'lar', 'lsl', 'verr', 'verw', 'arpl', 'invlpg', 'wbinvd', 'cli',
  'sti', 'pushf', 'popf', 'ud',
]);
const REFUSED = new Set<SystemOp>(['in', 'out', 'ins', 'outs', 'hlt', 'rdmsr', 'wrmsr', 'invd']);
const FAR = new Set<SystemOp>(['iret', 'farJmp', 'farCall', 'farRet', 'loadFarPointer']);
const ORDINARY = /^(PUSH|POP|PUSHA|POPA|ENTER|LEAVE|MOV|XCHG|LAHF|SAHF|ADD|LEA|CLD|STD)$/;
const ENCODINGS = INSTRUCTION_SET.flatMap(({ name, system, encodings }) =>
  (system ? ASKED.has(system) || REFUSED.has(system) : ORDINARY.test(name))
    ? encodings.filter(({ vex, remarks, opcode }) => !vex && !remarks.has('only64') && opcode < 0x10000 && !(opcode >= 0x0f18 && opcode < 0x0f20))
    : [],
);

interface Piece {
  readonly name: string;
  readonly bytes: readonly number[];
}
/** A case before it is written down. */
export interface SystemCase {
  readonly mode: Mode;
  readonly pieces: readonly Piece[];
  readonly flags: number;
  readonly gpr: readonly number[];
  /** ES, CS, SS, DS, FS, GS. */
  readonly segments: readonly number[];
  readonly codeAt: number;
  readonly cr0: number;
  readonly cr4: number;
  readonly data: number;
}

const CR0_VALUES = [0x11, 0x13, 0x19, 0x1b, 0x31, 0x10011, 0x11, 0x80000011 | 0, 0x80010011 | 0];
const CR4_VALUES = [0, 0, 0, 4, 8, 0x10, 0x90, 0x18]; // without VME and PVI, of which TCG has little or nothing
const FLAG_VALUES = [2, 0x202, 0x3202, 0x3002, 0x1202, 0x7202, 0x4002, 0x8d7, 0x200ed7, 0x40202, 0x23202, 0x102, 0x10302, 0x180202];

export class SystemInventor {
  readonly #random: Random;
  readonly #wanted: RegExp | null;
  constructor(random: Random, only?: string) {
    this.#random = random;
    this.#wanted = only ? new RegExp(`^(?:${only})$`) : null;
  }

  #word(paragraphs: boolean): number {
    const random = this.#random;
    const kind = random.below(12);
    if (kind < 3) return random.pick(paragraphs ? REAL_SELECTORS : PROTECTED_SELECTORS) | (paragraphs ? 0 : random.pick([0, 0, 3, 1]));
    if (kind < 5) return TARGET + random.below(8) + (paragraphs ? 0 : AT.CODE);
    if (kind < 7) return random.pick(FLAG_VALUES);
    if (kind < 9) return (paragraphs ? 0 : AT.DATA) + 4 * random.below(0x100);
    if (kind < 10) return random.pick(paragraphs ? [0, 1, 0x7fff, 0x8000] : [0, 1, 0xffff, 0xfffe, 0x10000, -1, 0x7fff, 0x8000, 0x100ff]);
    if (kind < 11) return random.pick([...CR0_VALUES, ...CR4_VALUES, 0x400, 0x401, 0x10d0402, 0x2400, AT.DIRECTORY, AT.DIRECTORY]);
    return paragraphs ? random.below(0x8000) : random.u32() | 0; // a paragraph of RAM
  }

  /** The data of a template: numbers, and the tables of a protected machine. */
  template(view: DataView, at: number): void {
    const random = this.#random;
    const paragraphs = random.chance(50);
    for (let n = 0; n < DATA_BYTES; n += 4) view.setUint32(at + n, this.#word(paragraphs) >>> 0, true);
    // Where numbers are words, selectors and flags have to come at every place.
    if (paragraphs) for (let n = 0x80; n < 0x400; n += 2) view.setUint16(at + n, this.#word(true) & 0xffff, true);
    const pseudo = [
      [0xff, AT.GDT],
      [0x7ff, AT.IDT],
      [0x3ff, 0],
      [0x7f, AT.GDT],
      [0xffff, AT.GDT],
      [0x3ff, AT.IDT],
    ] as const;
    for (let n = 0; n < 8; n++) {
      const [limit, base] = random.pick(pseudo);
      view.setUint16(at + 0x200 + 8 * n, limit, true);
      view.setUint32(at + 0x202 + 8 * n, base, true);
    }
    for (let n = 0; n < 8; n++) {
      view.setUint32(at + 0x240 + 8 * n, AT.CODE + TARGET, true);
      view.setUint32(at + 0x244 + 8 * n, random.pick(PROTECTED_SELECTORS), true);
      view.setUint16(at + 0x280 + 4 * n, TARGET + (paragraphs ? 0 : AT.CODE), true);
      view.setUint16(at + 0x282 + 4 * n, random.pick(paragraphs ? REAL_SELECTORS : PROTECTED_SELECTORS), true);
    }
    const table = (to: number, entries: readonly (readonly [number, number])[]): void => {
      for (const [n, [lo, hi]] of entries.entries()) {
        view.setUint32(at + to - AT.DATA + 8 * n, lo, true);
        view.setUint32(at + to - AT.DATA + 8 * n + 4, hi, true);
      }
    };
    table(AT.GDT, DESCRIPTORS);
    table(LDT, LOCAL);
    const bytes = new Uint8Array(view.buffer, view.byteOffset);
    bytes.fill(0, at + TSS - AT.DATA, at + DATA_BYTES);
    const word = (task: number, offset: number, value: number): void => view.setUint32(at + task - AT.DATA + offset, value, true);
    for (const task of [TSS, OTHER_TSS]) {
      for (const [n, sp] of [0x3c00, 0x3a00].entries()) {
        word(task, 4 + 8 * n, sp);
        word(task, 8 + 8 * n, n === 0 ? SEL.DATA : 0x99);
      }
      word(task, 28, AT.DIRECTORY);
      word(task, 32, AT.CODE + TARGET);
      word(task, 36, 2);
      for (const [n, value] of [0, 1, 2, 3, 0x3b00, 5, 6, 7].entries()) word(task, 40 + 4 * n, value);
      for (const [n, value] of [SEL.DATA, SEL.CODE, SEL.DATA, SEL.DATA, 0, 0].entries()) word(task, 72 + 4 * n, value);
    }
    word(TSS, 100, 0x88 << 16); // the map of ports is two bytes long, that of interrupts 32
    for (let n = 0; n < 32; n += 4) word(TSS, 0x68 + n, random.u32());
    word(TSS, 0x88, 0xffffffff);
    for (const [n, value] of [
      0,
      0x3b00,
      SEL.DATA16,
      0,
      0,
      0,
      0,
      AT.CODE + TARGET,
      2,
      1,
      2,
      3,
      4,
      0x3b00,
      5,
      6,
      7,
      SEL.DATA16,
      SEL.CODE16,
      SEL.DATA16,
      SEL.DATA16,
      0,
    ].entries())
      view.setUint16(at + TSS16 - AT.DATA + 2 * n, value, true);
  }

  case(): SystemCase {
    const random = this.#random;
    const mode = random.pick(MODES);
    const paragraphs = hasParagraphs(mode);
    const gpr = Array.from({ length: 8 }, () => this.#word(paragraphs));
    // An address or an index that one instruction needs must not be changed for another.
    const taken = new Set<number>([SLOT.RSP]);
    gpr[SLOT.RBP] = (paragraphs ? 0 : AT.DATA) + 4 * random.below(0x80);
    gpr[SLOT.RSP] = (paragraphs ? 0 : AT.DATA) + 0x300 + 2 * random.below(64);
    const pieces: Piece[] = [];
    const length = 1 + random.below(4);
    while (pieces.length < length) {
      const piece = this.#instruction(mode, gpr, taken);
      if (piece) pieces.push(piece);
    }
    const outer = mode.startsWith('ring 3');
    const usual = paragraphs ? 0x100 : outer ? SEL.USER_DATA : SEL.DATA;
    const code = {
      real: 0x200,
      V86: 0x200,
      'ring 0': SEL.CODE,
      'ring 0, 16-bit': SEL.CODE16,
      'ring 3': SEL.USER_CODE,
      'ring 3, 16-bit': SEL.USER_CODE16,
    }[mode];
    const data = (): number =>
      random.chance(80) ? usual : random.pick(paragraphs ? REAL_SELECTORS : outer ? [0xbb, 0x33] : [0x20, 0xbb, 0x10, 0x04]);
    let flags = (random.pick(FLAG_VALUES) & ~(FLAG.TF | FLAG.VM | FLAG.RF | FLAG.VIF | FLAG.VIP)) | 2;
    if (mode === 'V86') flags |= FLAG.VM;
    if (outer && random.chance(10)) flags |= FLAG.TF;
    // Ports answer those who may ask: here nobody may.
    if (outer) flags &= ~FLAG.IOPL;
    const cr0 = mode === 'real' ? random.pick([0x10, 0x10, 0x12, 0x18]) : random.pick([0x11, 0x11, 0x19, 0x80000011 | 0, 0x10011]);
    const stack = mode === 'ring 0, 16-bit' ? SEL.DATA16 : usual;
    return {
      mode,
      pieces,
      flags,
      gpr,
      segments: [data(), code, stack, data(), data(), data()],
      codeAt: random.below(0x40),
      cr0,
      cr4: random.pick(CR4_VALUES),
      data: random.below(TEMPLATES),
    };
  }

  #instruction(mode: Mode, gpr: number[], taken: Set<number>): Piece | null {
    const random = this.#random;
    const encoding = random.pick(ENCODINGS);
    const { definition, operands } = encoding;
    if (this.#wanted && random.chance(60) && !this.#wanted.test(definition.name)) return null;
    const inner = mode === 'real' || mode.startsWith('ring 0');
    if (definition.system && REFUSED.has(definition.system) && inner) return null;
    if (!definition.system && random.chance(60)) return null;
    const bits = bitsOf(mode);
    const paragraphs = hasParagraphs(mode);
    const bytes: number[] = [];
    // TCG has no limit at 64 KiB, not even for the instruction pointer.
    if (random.chance(15) && !(paragraphs && FAR.has(definition.system as SystemOp))) bytes.push(0x66);
    const address = !paragraphs && random.chance(10);
    if (address) bytes.push(0x67);
    if (random.chance(4)) bytes.push(0xf0);
    if (random.chance(8)) bytes.push(random.pick([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]));
    if (random.chance(4)) bytes.push(random.pick([0xf2, 0xf3]));
    if (encoding.prefix) bytes.push(encoding.prefix);
    if (encoding.opcode > 0xff) bytes.push(encoding.opcode >> 8);
    bytes.push(encoding.opcode & 0xff);
    const place = (paragraphs ? 0 : AT.DATA) + this.#placeFor(encoding);
    if (encoding.hasModrm) bytes.push(...this.#modrm(encoding, (bits === 32) !== address, place));
    const immediate = operands.some(({ kind }) => kind === 'A' || kind === 'O') ? place : this.#word(paragraphs);
    for (let n = 0; n < 4; n++) bytes.push((immediate >> (8 * n)) & 0xff);
    const selector = random.pick(paragraphs ? REAL_SELECTORS : PROTECTED_SELECTORS);
    bytes.push(selector & 0xff, selector >> 8, 0, 0);
    const decoded = decode(Uint8Array.from(bytes), 0, bytes.length, FLAT_MODE[bits]);
    if (typeof decoded === 'string' || decoded.encoding.definition !== definition) return null;
    const { insn } = decoded;
    const code = bytes.slice(0, insn.length);
    const [target] = operands;
    if (target?.kind === 'J') return null; // into the unknown
    if (target?.kind === 'A') {
      const to = TARGET + (paragraphs ? 0 : AT.CODE);
      const at = code.length - 2 - insn.operandSize;
      for (let n = 0; n < insn.operandSize; n++) code[at + n] = (to >> (8 * n)) & 0xff;
      code.splice(-2, 2, selector & 0xff, selector >> 8);
    }
    if (encoding.hasModrm && insn.mod < 3 && insn.base !== NONE && insn.base < 8) {
      const { base, index, scale, disp, addressSize } = insn;
      if (index === base || taken.has(base)) return null;
      const scaled = index === NONE ? 0 : (gpr[index] as number) << scale;
      gpr[base] = (place - Number(disp) - scaled) & (addressSize === 2 ? 0xffff : -1);
      taken.add(base);
      if (index !== NONE) taken.add(index);
    } else if (encoding.hasModrm && insn.mod < 3 && insn.index !== NONE) return null;
    return { name: definition.name, bytes: code };
  }

  /** Where the operand is likely to be of use. */
  #placeFor({ definition, opcode }: Encoding): number {
    const random = this.#random;
    const { system } = definition;
    if (system === 'lgdt' || system === 'lidt') return 0x200 + 8 * random.below(8);
    if (system === 'farJmp' || system === 'farCall' || system === 'loadFarPointer')
      return opcode > 0 && random.chance(50) ? 0x240 + 8 * random.below(8) : 0x280 + 4 * random.below(8);
    return random.chance(80) ? 4 * random.below(0x80) : random.below(0x200);
  }

  #modrm(encoding: Encoding, wide: boolean, place: number): number[] {
    const random = this.#random;
    if (encoding.modrm >= 0) return [encoding.modrm];
    const { operands, remarks } = encoding;
    const reg = encoding.digit >= 0 ? encoding.digit : random.below(8);
    const memory = remarks.has('memory') || operands.some(({ kind }) => kind === 'M');
    const mod = operands.some(({ kind }) => kind === 'R' || kind === 'C' || kind === 'D') || (!memory && random.chance(50)) ? 3 : random.below(3);
    const rm = random.below(8);
    const bytes = [(mod << 6) | (reg << 3) | rm];
    if (mod === 3) return bytes;
    const word = (value: number, count: number): number[] => Array.from({ length: count }, (_, n) => (value >> (8 * n)) & 0xff);
    let direct = mod === 0 && rm === (wide ? 5 : 6);
    if (wide && rm === 4) {
      const sib = random.below(256);
      bytes.push(sib);
      direct = mod === 0 && (sib & 7) === 5;
    }
    if (direct) bytes.push(...word(place, wide ? 4 : 2));
    else if (mod > 0) bytes.push(...word(random.below(64) - 32, mod === 1 ? 1 : wide ? 4 : 2));
    return bytes;
  }
}
