// # Inventing programs
//
// Programs come from the decoder's own tables, so that no encoding can be forgotten: an encoding is picked, prefixes are put before it whether they make
// sense or not, and the operands filled in at random. One program in twenty is random bytes after a random opcode, so that the *undefined* encodings are
// asked for as well. Registers are invented afterwards, when it is known what the program reads: its memory operands are then led to the data pages.

import { decode } from '../../../isa/decoder.ts';
import type { Definition, Encoding } from '../../../isa/encoding.ts';
import { type Instruction, NONE } from '../../../isa/instruction.ts';
import { INSTRUCTION_SET } from '../../../isa/instruction-set.ts';
import { FLAG, SEG, SLOT } from '../../../state.ts';
import { FLAT_MODE } from '../../flat-machine.ts';
import { comparable, definedElsewhere, leavesSomethingUndefined } from './excluded.ts';
import { BATCH_CASES, Batch, CASE, type Program } from './records.ts';
import { IMAGES, inventData, inventFpu, Pools, pointer, type Random } from './values.ts';
import { type Bits, LEAVE, LOADABLE, LOCAL, PLACE, SELECTORS, STACKS_16, USUAL_SEGMENTS } from './world.ts';

const RESTORE = 'XRSTOR';
const LONGEST_PROGRAM = 44;
/** Batches that draw from the same pools. */
const POOLS_LAST = 8;
const CODE_MARGIN = 0x100;

/** One instruction of a program under construction. */
interface Piece {
  readonly bytes: number[];
  readonly insn: Instruction;
  readonly definition: Definition;
  readonly encoding: Encoding;
}

/** What to invent. */
interface Wishes {
  readonly bits: readonly Bits[];
  /** A mnemonic, or part of one: one instruction of each program is to be like it. */
  readonly only?: string;
  /** Cases of each program. */
  readonly inputs: number;
  /** CPUID says so of the machine at hand. */
  readonly features: ReadonlySet<string>;
}

export class Inventor {
  readonly #random: Random;
  readonly #wishes: Wishes;
  readonly #encodings: readonly Encoding[];
  #pools: Pools | null = null;
  #batches = 0;
  /** Encodings that have been tried, with the bits. */
  readonly covered = new Set<Encoding>();
  /** Cases that were not to be asked, by reason. */
  readonly skipped = new Map<string, number>();

  constructor(random: Random, wishes: Wishes) {
    this.#random = random;
    this.#wishes = wishes;
    const { only } = wishes;
    const wanted = (name: string): boolean =>
      !only || name === only || (name.split(' ')[0] as string) === only || new RegExp(`^(?:${only})$`).test(name);
    this.#encodings = INSTRUCTION_SET.filter((definition) => comparable(definition, wishes.features) && wanted(definition.name)).flatMap(
      ({ encodings }) => encodings,
    );
    if (this.#encodings.length === 0) throw new Error(`no instruction to compare is called ${only}`);
  }
  get total(): number {
    return this.#encodings.length;
  }

  /** A batch of cases in a world of its own. */
  batch(): Batch {
    const random = this.#random;
    const batch = new Batch(PLACE.DATA_BYTES);
    if (this.#batches++ % POOLS_LAST === 0) this.#pools = new Pools(random);
    const pools = this.#pools as Pools;
    inventData(random, pools, batch.data);
    const { inputs } = this.#wishes;
    while (batch.count + inputs <= BATCH_CASES) {
      const { program, pieces } = this.#program();
      batch.programs.push(program);
      for (let n = 0; n < inputs; n++) this.#case(batch, batch.count++, program, pieces, pools);
    }
    return batch;
  }

  // ## Programs

  #program(): { program: Program; pieces: Piece[] } {
    const random = this.#random;
    const bits = random.pick(this.#wishes.bits);
    for (;;) {
      const pieces: Piece[] = [];
      const length = random.chance(70) ? 1 : 2 + random.below(3);
      const at = this.#place();
      let size = 0;
      let attempts = 0;
      while (pieces.length < length && attempts++ < 100) {
        const piece = random.chance(5) && !this.#wishes.only ? this.#randomBytes(bits, at + size) : this.#instruction(bits, at + size);
        if (!piece || size + piece.bytes.length > LONGEST_PROGRAM) continue;
        if (piece.definition.name === RESTORE && pieces.length > 0) continue; // others would choose what it restores
        // What follows an instruction could look at what it leaves undefined.
        const last = leavesSomethingUndefined(piece.definition.name) || piece.definition.name === 'UD';
        pieces.push(piece);
        size += piece.bytes.length;
        if (last) break;
      }
      if (pieces.length === 0) continue;
      for (const { encoding } of pieces) this.covered.add(encoding);
      const starts: number[] = [];
      let start = 0;
      for (const { bytes } of pieces) {
        starts.push(start);
        start += bytes.length;
      }
      const names = pieces.map(({ definition }) => definition.name);
      return { program: { bits, names, starts, code: Uint8Array.from(pieces.flatMap(({ bytes }) => bytes)), offset: at }, pieces };
    }
  }

  /** Where code lies: anywhere in its pages, and often across from one to the next. */
  #place(): number {
    const random = this.#random;
    if (random.chance(5)) return 0x1000 - 1 - random.below(24);
    return CODE_MARGIN + random.below(PLACE.CODE_BYTES - 2 * CODE_MARGIN - CASE.CODE_BYTES);
  }

  #skip(why: string): null {
    this.skipped.set(why, (this.skipped.get(why) ?? 0) + 1);
    return null;
  }

  /** One instruction from the tables, at `offset` in the code pages. Null: what came out is not to be asked. */
  #instruction(bits: Bits, offset: number): Piece | null {
    const random = this.#random;
    const encoding = random.pick(this.#encodings);
    const { operands, opcode, remarks } = encoding;
    // 64-bit code has given these to REX and EVEX prefixes.
    if (bits === 64 && opcode < 0x100 && ((opcode & 0xf0) === 0x40 || opcode === 0x62)) return null;
    if (bits === 64 ? remarks.has('no64') : remarks.has('only64')) return null;
    const address16 = bits === 16 || bits === 32;
    const addressPrefix = random.chance(8);
    const bytes = encoding.vex ? this.#vex(encoding, bits, addressPrefix) : this.#prefixes(encoding, bits, addressPrefix);
    if (opcode > 0xffff && !encoding.vex) bytes.push(opcode >> 16);
    if (opcode > 0xff && !encoding.vex) bytes.push((opcode >> 8) & 0xff);
    bytes.push(opcode & 0xff);
    const shortAddresses = address16 && addressPrefix === (bits === 32);
    if (encoding.hasModrm) bytes.push(...this.#modrm(encoding, bits, shortAddresses));
    if (operands.some(({ kind }) => kind === 'O')) {
      const at = BigInt(pointer(random) - (bits === 16 ? PLACE.CODE : 0));
      for (let i = 0n; i < 8n; i++) bytes.push(Number((at >> (8n * i)) & 0xffn));
    } else for (let i = 0; i < 8; i++) bytes.push(random.chance(20) ? random.pick([0, 1, 0x7f, 0x80, 0xff]) : random.u32() & 0xff);
    return this.#decoded(bytes, bits, offset, encoding);
  }

  #prefixes(encoding: Encoding, bits: Bits, addressPrefix: boolean): number[] {
    const random = this.#random;
    const bytes: number[] = [];
    const isString = encoding.operands.some(({ kind }) => kind === 'X' || kind === 'Y');
    if (random.chance(encoding.prefix ? 5 : 15)) bytes.push(0x66);
    if (addressPrefix) bytes.push(0x67);
    if (random.chance(5)) bytes.push(0xf0);
    if (random.chance(8)) bytes.push(random.pick([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]));
    if (random.chance(isString ? 60 : encoding.prefix ? 2 : 5)) bytes.push(random.pick([0xf2, 0xf3]));
    if (random.chance(3)) bytes.sort(() => random.below(3) - 1);
    if (encoding.prefix) bytes.push(encoding.prefix);
    if (bits === 64 && random.chance(60)) bytes.push(0x40 | random.below(16));
    return bytes;
  }

  /** A VEX prefix of three bytes; now and then one that is not allowed. */
  #vex({ opcode, prefix, operands }: Encoding, bits: Bits, addressPrefix: boolean): number[] {
    const random = this.#random;
    const bytes: number[] = [];
    if (addressPrefix) bytes.push(0x67);
    if (random.chance(3)) bytes.push(random.pick([0x66, 0xf2, 0xf3, 0xf0, 0x2e, 0x64]));
    const map = opcode < 0x10000 ? 1 : opcode >> 8 === 0x0f38 ? 2 : 3;
    const extensions = bits === 64 ? random.below(8) : 7;
    const third = operands.some(({ kind }) => kind === 'B') || random.chance(3) ? random.below(16) : 15;
    bytes.push(0xc4, (extensions << 5) | map, (random.below(2) << 7) | (third << 3) | [0, 0x66, 0xf3, 0xf2].indexOf(prefix));
    return bytes;
  }

  /** A ModRM byte with what follows it. */
  #modrm(encoding: Encoding, bits: Bits, shortAddresses: boolean): number[] {
    const random = this.#random;
    if (encoding.modrm >= 0) return [encoding.modrm];
    const reg = encoding.digit >= 0 ? encoding.digit : random.below(8);
    const mustBeMemory = encoding.remarks.has('memory') || encoding.operands.some(({ kind }) => kind === 'M');
    const mustBeRegister = encoding.remarks.has('register') || encoding.operands.some(({ kind }) => 'RNU'.includes(kind));
    const mod = mustBeRegister || (!mustBeMemory && random.chance(50)) ? 3 : random.below(3);
    const rm = random.below(8);
    const bytes = [(mod << 6) | (reg << 3) | rm];
    const word = (value: number): number[] => [value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >> 24) & 0xff];
    const small = random.below(64) - 32;
    if (mod === 3) return bytes;
    if (shortAddresses) return [...bytes, ...word(mod === 0 && rm === 6 ? pointer(random) - PLACE.CODE : small)];
    let noBase = mod === 0 && rm === 5;
    if (rm === 4) {
      const sib = random.u32() & 0xff;
      bytes.push(sib);
      if (mod === 0 && (sib & 7) === 5) noBase = true;
    }
    const absolute = pointer(random) - (bits === 16 ? PLACE.CODE : 0);
    if (noBase) bytes.push(...word(absolute));
    else if (mod === 1) bytes.push(small & 0xff);
    else if (mod === 2) bytes.push(...word(random.chance(90) ? small : random.u32() | 0));
    return bytes;
  }

  #randomBytes(bits: Bits, offset: number): Piece | null {
    const random = this.#random;
    const bytes: number[] = [];
    for (const prefix of [0x66, 0xf2, 0xf3, 0x67, 0xf0]) if (random.chance(prefix === 0xf0 || prefix === 0x67 ? 5 : 20)) bytes.push(prefix);
    if (bits === 64 && random.chance(30)) bytes.push(0x40 | random.below(16));
    if (random.chance(70)) bytes.push(0x0f);
    if (bytes.at(-1) === 0x0f && random.chance(30)) bytes.push(random.pick([0x38, 0x3a]));
    for (let n = 0; n < 12; n++) bytes.push(random.u32() & 0xff);
    return this.#decoded(bytes, bits, offset, null);
  }

  #decoded(bytes: number[], bits: Bits, offset: number, meant: Encoding | null): Piece | null {
    const random = this.#random;
    const decoded = decode(Uint8Array.from(bytes), 0, bytes.length, FLAT_MODE[bits]);
    if (typeof decoded === 'string') return null;
    const { insn, encoding } = decoded;
    const { definition } = encoding;
    const code = bytes.slice(0, insn.length);
    // Other bytes than intended: a prefix became part of the opcode.
    if (!comparable(definition, this.#wishes.features)) return meant ? null : this.#skip(`${definition.name}: not comparable`);
    const elsewhere = definedElsewhere(Uint8Array.from(bytes), bits, definition, this.#wishes.features);
    if (elsewhere) return this.#skip(elsewhere);
    // Its mask is in RAX: an address there would ask for components that only one of the two processors has.
    if (definition.name === 'XRSTOR' && (insn.base === SLOT.RAX || insn.index === SLOT.RAX)) return this.#skip('XRSTOR by RAX');
    if (encoding === meant || definition.name !== 'UD') {
      const view = new DataView(Uint8Array.from(code).buffer);
      if (insn.base === SLOT.NEXT_RIP && insn.mod < 3) {
        // Relative to RIP: an immediate may follow the displacement.
        const at = this.#displacementAt(code, insn);
        if (at >= 0) view.setInt32(at, pointer(random) - (PLACE.CODE + offset + code.length), true);
      }
      // Jumps must not land in the program itself: that could be an endless loop.
      const target = encoding.operands[0];
      if (target?.kind === 'J') {
        const distance = random.chance(50) ? 60 + random.below(60) : -60 - random.below(60);
        const size = target.size === 'b' ? 1 : bits !== 64 && insn.operandSize === 2 ? 2 : 4;
        if (size === 1) view.setInt8(code.length - 1, distance);
        else if (size === 2) view.setInt16(code.length - 2, distance, true);
        else view.setInt32(code.length - 4, distance, true);
      }
      // Far pointers name selectors that exist.
      if (target?.kind === 'A') {
        view.setUint16(code.length - 2, random.pick(SELECTORS), true);
        if (random.chance(70)) {
          const to = offset + 80 + (random.chance(50) ? PLACE.CODE : 0);
          if (insn.operandSize === 2) view.setUint16(code.length - 4, to & 0xffff, true);
          else view.setUint32(code.length - 6, to, true);
        }
      }
      const patched = Array.from(new Uint8Array(view.buffer));
      return { bytes: patched, insn: this.#again(patched, bits, insn), definition, encoding };
    }
    return { bytes: code, insn, definition, encoding };
  }
  #again(bytes: number[], bits: Bits, insn: Instruction): Instruction {
    const decoded = decode(Uint8Array.from(bytes), 0, bytes.length, FLAT_MODE[bits]);
    return typeof decoded === 'string' ? insn : decoded.insn;
  }
  /** Where a 32-bit displacement lies in the code. */
  #displacementAt(code: readonly number[], insn: Instruction): number {
    const view = new DataView(Uint8Array.from(code).buffer);
    for (let at = code.length - 4; at > 0; at--) if (BigInt(view.getInt32(at, true)) === insn.disp) return at;
    return -1;
  }

  // ## Registers

  #case(batch: Batch, index: number, program: Program, pieces: readonly Piece[], pools: Pools): void {
    const random = this.#random;
    const { cases } = batch;
    const { bits, code, offset } = program;
    batch.program[index] = batch.programs.length - 1;
    cases.setU32(index, CASE.LENGTH, code.length + LEAVE[bits].length);
    cases.setU32(index, CASE.END, code.length);
    cases.setU32(index, CASE.OFFSET, offset);
    cases.slice(index, CASE.CODE, CASE.CODE_BYTES).set([...code, ...LEAVE[bits]]);
    const segments: number[] = [...USUAL_SEGMENTS[bits]];
    if (bits !== 64 && random.chance(15)) {
      const n = 2 + random.below(4);
      segments[n] = random.pick(LOADABLE);
    }
    if (bits === 16 && random.chance(10)) segments[1] = random.pick(STACKS_16);
    segments.forEach((selector, n) => void cases.setU16(index, CASE.CS + 2 * n, selector));
    const mask = bits === 64 ? 0xffffffffffffffffn : 0xffffffffn;
    for (let n = 0; n < 16; n++) cases.setU64(index, CASE.GPR + 8 * n, n < 8 || bits === 64 ? pools.integer() & mask : 0n);
    cases.setU64(index, CASE.FS_BASE, BigInt(random.chance(50) ? pointer(random) : 0));
    cases.setU64(index, CASE.GS_BASE, BigInt(random.chance(50) ? pointer(random) : 0));
    const base = (segment: number): number => this.#segmentBase(segments, segment, bits, batch, index);
    cases.setU64(index, CASE.GPR + 8 * SLOT.RSP, BigInt(this.#stack(bits) - base(SEG.SS)) & mask);
    if (random.chance(50)) cases.setU64(index, CASE.GPR + 8 * SLOT.RCX, BigInt(random.below(70)));
    for (const piece of [...pieces].reverse()) this.#aim(piece, base, cases, index, mask);
    // Of the components that the two processors may have, both have the first two.
    if (pieces[0]?.definition.name === RESTORE) {
      cases.setU64(index, CASE.GPR + 8 * SLOT.RAX, BigInt(random.below(4)));
      cases.setU64(index, CASE.GPR + 8 * SLOT.RDX, 0n);
    }
    cases.setU64(index, CASE.FLAGS, BigInt(this.#flags(bits, pieces)));
    inventFpu(random, pools, cases, index);
  }

  #stack(bits: Bits): number {
    const random = this.#random;
    return random.chance(80) ? PLACE.DATA + 0x100 + (bits === 64 ? 8 : 4) * random.below(0x380) : pointer(random);
  }

  #segmentBase(segments: readonly number[], segment: number, bits: Bits, batch: Batch, index: number): number {
    if (bits === 64) {
      if (segment === SEG.FS) return Number(batch.cases.u64(index, CASE.FS_BASE));
      return segment === SEG.GS ? Number(batch.cases.u64(index, CASE.GS_BASE)) : 0;
    }
    const selector = segments[SEGMENT_INDEX[segment] as number] as number;
    return selector & 4 ? (LOCAL[selector >> 3]?.base ?? 0) : 0;
  }

  /** Leads the memory operand of an instruction to the data pages, mostly. */
  #aim({ insn, definition, encoding }: Piece, base: (segment: number) => number, cases: Batch['cases'], index: number, mask: bigint): void {
    const random = this.#random;
    const register = (n: number): bigint => cases.u64(index, CASE.GPR + 8 * n);
    const setRegister = (n: number, value: bigint): void => cases.setU64(index, CASE.GPR + 8 * n, value & mask);
    const at = (segment: number): bigint => BigInt(pointer(random) - base(segment));
    for (const { kind } of encoding.operands) {
      if (kind === 'X') setRegister(SLOT.RSI, at(insn.segment));
      if (kind === 'Y') setRegister(SLOT.RDI, at(SEG.ES));
    }
    if (definition.name === 'XLAT') setRegister(SLOT.RBX, at(insn.segment));
    if (definition.name === 'MASKMOVQ' || definition.name === 'MASKMOVDQU') setRegister(SLOT.RDI, at(insn.segment));
    if (insn.mod === 3 || insn.base < 0 || insn.base >= 16 || random.chance(5)) return;
    const target = /RSTOR$/.test(definition.name) ? BigInt(PLACE.DATA + random.pick(IMAGES) - base(insn.segment)) : at(insn.segment);
    if (insn.base === SLOT.RSP) return;
    const index64 = insn.index === NONE || insn.index === insn.base ? 0n : register(insn.index) << BigInt(insn.scale);
    setRegister(insn.base, target - insn.disp - index64);
  }

  #flags(bits: Bits, pieces: readonly Piece[]): number {
    const random = this.#random;
    let flags = FLAG.FIXED | FLAG.IF | (random.u32() & (FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.OF));
    if (random.chance(30)) flags |= FLAG.DF;
    if (random.chance(6)) flags |= FLAG.AC;
    if (random.chance(5)) flags |= FLAG.ID;
    if (random.chance(2)) flags |= FLAG.NT;
    // MOV SS holds the trap off until after the next instruction, which may be the one that ends the case.
    const loadsStack = pieces.some(({ definition: { system } }) => system === 'movToSreg' || system === 'popSreg' || system === 'loadFarPointer');
    if (bits !== 16 && !loadsStack && random.chance(4)) flags |= FLAG.TF;
    return flags;
  }
}

/** Where in CASE's order (CS, SS, DS, ES, FS, GS) a segment register comes. */
const SEGMENT_INDEX: Readonly<Record<number, number>> = { [SEG.CS]: 0, [SEG.SS]: 1, [SEG.DS]: 2, [SEG.ES]: 3, [SEG.FS]: 4, [SEG.GS]: 5 };
