// # What to translate together
//
// A block is too small a unit. A loop of three blocks, translated block by block, would store all registers at the end of each and load them again at the
// beginning of the next. So the translator starts at a block that has become hot and follows the code from there: both arms of a conditional jump, the target of a
// call and the place where it returns to, all that lies on the same page, up to {{REGION_INSTRUCTIONS}} instructions. That is a *region*; it becomes
// one WebAssembly function.
//
// Much code is never executed: error paths, assertions. A place that nobody has been to by the time when its neighbour is hot is not likely to be hot itself, and
// translating it would cost as much. So beyond the first {{ANYWAY}} instructions only places are followed that have been jumped to before.
//
// The page is a natural border. Within it, instructions need not be fetched through the TLB again, whether code has been overwritten is a question that is
// answered page by page, and what is beyond it is anybody's guess: it may be mapped elsewhere the next time.

import type { Micro } from '../../isa/builder.ts';
import { PAGE_BYTES } from '../../physical-memory.ts';
import { MODE } from '../../state.ts';
import { CONDITIONS, MICRO_OPS } from '../micro-ops.ts';

/** The most instructions in a region. */
export const REGION_INSTRUCTIONS = 600;
/** What lies so near to the beginning is translated whether or not it has been executed. */
export const ANYWAY = 24;
/** The most micro-operations of an instruction that is worth translating. */
const LONG = 48;
/** Entries of a region have numbers of one byte. */
const MOST_ENTRIES = 250;

/** An instruction as the engine decodes it. Null: there is none here that could be translated. */
export interface Decoded {
  readonly length: number;
  /** Bytes that must stay what they are: all, or all but an immediate that is loaded each time. */
  readonly fixed: number;
  readonly micros: readonly Micro[];
  /** It ends in a micro-operation after which the next record is not reached. */
  readonly ended: boolean;
}

/** How an instruction goes on. Targets are offsets in the page, or RIPs where they are outside. */
export type Transfer =
  | { readonly kind: 'next' }
  | { readonly kind: 'jump'; readonly target: bigint }
  | { readonly kind: 'branch'; readonly condition: string | null; readonly target: bigint }
  | { readonly kind: 'call'; readonly target: bigint }
  | { readonly kind: 'indirect'; readonly form: 'jump' | 'call' | 'return' };

/** One instruction of a region. */
export interface Step {
  readonly offset: number;
  readonly rip: bigint;
  readonly next: bigint;
  readonly length: number;
  readonly fixed: number;
  readonly micros: readonly Micro[];
  readonly transfer: Transfer;
}

/** A straight run of instructions: control enters at its beginning and leaves at its end. */
export interface RegionBlock {
  readonly offset: number;
  readonly steps: readonly Step[];
  /** Blocks to which control may pass directly. */
  readonly successors: readonly number[];
}

export interface Region {
  /** Buffer offset of the page, and RIP of its first byte. */
  readonly page: number;
  readonly rip: bigint;
  readonly mode: number;
  readonly blocks: readonly RegionBlock[];
  /** Blocks at which the region may be entered, the hot one first. */
  readonly entries: readonly number[];
  /** Blocks by offset in the page. */
  readonly blockAt: ReadonlyMap<number, number>;
  /** Blocks that a return or an indirect jump may go to. */
  readonly returns: readonly number[];
  readonly targets: readonly number[];
  readonly instructions: number;
  /** Stretches of the page that were translated: first byte, and the one after the last. */
  readonly ranges: readonly (readonly [number, number])[];
}

const NAMES: readonly string[] = [];
/** The name of a micro-operation, from its number. */
export function nameOf(op: number): string {
  const names = NAMES as string[];
  if (names.length < MICRO_OPS.size) names.push(...[...MICRO_OPS.keys()].slice(names.length));
  return names[op] as string;
}

const isJump = /^jump\.(\d)$/;
const isJumpTo = /^jumpTo\.\d$/;
const isConditional = new RegExp(`^j(${CONDITIONS.join('|')})\\.(\\d)$`);
const isTakeIf = /^takeIf\.(\d)$/;
const isAim = /^aim\.(\d)$/;

/** How an instruction transfers control, by its micro-operations; null when that is beyond the translator. */
function transferOf({ micros, ended }: Decoded, next: bigint): Transfer | null {
  if (micros.length > LONG) return null;
  const relative = (micro: Micro, bytes: string): bigint => BigInt.asUintN(8 * Number(bytes), next + micro.imm);
  if (!ended) return { kind: 'next' };
  const last = micros[micros.length - 1] as Micro;
  const name = nameOf(last.op);
  let match = isJump.exec(name);
  if (match) return { kind: 'jump', target: relative(last, match[1] as string) };
  match = isConditional.exec(name);
  if (match) return { kind: 'branch', condition: match[1] as string, target: relative(last, match[2] as string) };
  if (isJumpTo.test(name)) return { kind: 'indirect', form: 'jump' };
  if (name === 'goTo') {
    for (const micro of micros) {
      match = isAim.exec(nameOf(micro.op));
      if (match) return { kind: 'call', target: relative(micro, match[1] as string) };
    }
    const calls = micros.some((micro) => /^(push|store)\./.test(nameOf(micro.op)));
    return { kind: 'indirect', form: calls ? 'call' : 'return' };
  }
  if (name === 'dispatch') {
    for (const micro of micros) {
      match = isTakeIf.exec(nameOf(micro.op));
      if (match) return { kind: 'branch', condition: null, target: relative(micro, match[1] as string) };
    }
  }
  return null;
}

/** What {@link formRegion} is told about the place. */
interface Surroundings {
  readonly place: number;
  readonly rip: bigint;
  readonly mode: number;
  /** Decodes the instruction at a buffer offset, of which no byte lies at or beyond `end`. */
  decode(place: number, end: number): Decoded | null;
  /** May this micro-operation be translated? */
  translatable(op: number): boolean;
  /** Offsets in the page that have been jumped to. */
  readonly known: readonly number[];
  /** The most instructions, if that is to be less than {@link REGION_INSTRUCTIONS}. */
  readonly most?: number;
}

/** Forms a region around a hot place. Null when nothing can be translated there. */
export function formRegion({ place, rip, mode, decode, translatable, known, most = REGION_INSTRUCTIONS }: Surroundings): Region | null {
  const start = place % PAGE_BYTES;
  const page = place - start;
  const code64 = (mode & MODE.CODE) === MODE.CODE64;
  const wrap = (x: bigint): bigint => BigInt.asUintN(code64 ? 64 : 32, x);
  const base = wrap(rip - BigInt(start));
  /** Offset in the page, or -1. */
  const within = (target: bigint): number => {
    const distance = wrap(target - base);
    return distance < PAGE_BYTES ? Number(distance) : -1;
  };
  const steps = new Map<number, Step>();
  const refused = new Set<number>();
  const leaders = new Set<number>([start]);
  const entries = [start];
  const returns: number[] = [];
  const targets: number[] = [];
  const work = [start];
  const add = (offset: number, list?: number[]): void => {
    if (offset < 0) return;
    leaders.add(offset);
    work.push(offset);
    if (list && !list.includes(offset)) list.push(offset);
  };
  const been = new Set(known);
  const follow = (offset: number): void => {
    if (been.has(offset) || steps.size < ANYWAY) add(offset);
  };
  const enter = (offset: number): void => {
    if (offset >= 0 && !entries.includes(offset) && entries.length < MOST_ENTRIES) entries.push(offset);
  };
  let indirect = false;
  let more = true;
  while (more) {
    for (let at = work.shift(); at !== undefined; at = work.shift()) {
      let offset = at;
      while (!steps.has(offset) && !refused.has(offset) && steps.size < most) {
        const decoded = offset < PAGE_BYTES ? decode(page + offset, page + PAGE_BYTES) : null;
        if (!decoded) {
          refused.add(offset);
          break;
        }
        const { length, fixed, micros } = decoded;
        const here = wrap(base + BigInt(offset));
        const next = wrap(here + BigInt(length));
        const transfer = micros.every(({ op }) => translatable(op)) ? transferOf(decoded, next) : null;
        const after = offset + length < PAGE_BYTES ? offset + length : -1;
        if (!transfer) {
          // The interpreter will execute it, and then look for the code after it.
          refused.add(offset);
          add(after);
          enter(after);
          break;
        }
        steps.set(offset, { offset, rip: here, next, length, fixed, micros, transfer });
        if (transfer.kind === 'next') {
          if (after < 0) break;
          offset = after;
          continue;
        }
        if (transfer.kind !== 'indirect') follow(within(transfer.target));
        if (transfer.kind === 'branch') follow(after);
        if (transfer.kind === 'call' || (transfer.kind === 'indirect' && transfer.form === 'call')) {
          add(after, returns);
          enter(after);
        }
        if (transfer.kind === 'indirect' && transfer.form !== 'return') indirect = true;
        break;
      }
    }
    more = false;
    // Where indirect jumps may go is known only from where they went.
    if (indirect) {
      indirect = false;
      for (const offset of known) {
        if (steps.size >= most) break;
        if (!targets.includes(offset)) {
          add(offset, targets);
          enter(offset);
          more = true;
        }
      }
    }
  }
  if (!steps.has(start)) return null;

  const blockAt = new Map<number, number>();
  const starts = [...leaders].filter((offset) => steps.has(offset)).sort((a, b) => a - b);
  for (const offset of starts) blockAt.set(offset, blockAt.size);
  const blocks = starts.map((offset): RegionBlock => {
    const own: Step[] = [];
    let at = offset;
    for (;;) {
      const step = steps.get(at);
      if (!step || (own.length > 0 && leaders.has(at))) break;
      own.push(step);
      at += step.length;
      if (step.transfer.kind !== 'next') break;
    }
    const last = own[own.length - 1] as Step;
    const { transfer } = last;
    const to: number[] = [];
    const reach = (target: bigint): void => {
      const block = blockAt.get(within(target));
      if (block !== undefined && !to.includes(block)) to.push(block);
    };
    if (transfer.kind === 'next' || transfer.kind === 'branch') reach(last.next);
    if (transfer.kind !== 'next' && transfer.kind !== 'indirect') reach(transfer.target);
    return { offset, steps: own, successors: to };
  });
  const numbers = (offsets: readonly number[]): number[] => offsets.flatMap((offset) => blockAt.get(offset) ?? []);
  return {
    page,
    rip: base,
    mode,
    blocks,
    entries: numbers(entries),
    blockAt,
    returns: numbers(returns),
    targets: numbers(targets),
    instructions: blocks.reduce((sum, { steps: own }) => sum + own.length, 0),
    ranges: rangesOf(steps),
  };
}

function rangesOf(steps: ReadonlyMap<number, Step>): [number, number][] {
  const out: [number, number][] = [];
  for (const { offset, fixed } of [...steps.values()].sort((a, b) => a.offset - b.offset)) {
    const last = out[out.length - 1];
    if (last && offset <= last[1]) last[1] = Math.max(last[1], offset + fixed);
    else out.push([offset, offset + fixed]);
  }
  return out;
}
