// # A translation to order
//
// What is to be translated, and what comes of it, in bytes and numbers. Whoever fills an order need know nothing of the processor that will run the result, so it may be
// somebody else (see `workshop.ts`).

import { Builder } from '../../isa/builder.ts';
import { decode } from '../../isa/decoder.ts';
import { PAGE_BYTES } from '../../physical-memory.ts';
import { looseIn, type Patches } from '../loose-numbers.ts';
import { compileRegion, isTranslatable, type Machine, Refusal } from './compile.ts';
import { ANYWAY, type Decoded, formRegion, REGION_INSTRUCTIONS, type Region } from './region.ts';

/** What makes a difference to a translation, besides the bytes. */
export interface Circumstances {
  readonly mode: number;
  /** Buffer offset of the TLB bank in use. */
  readonly bank: number;
}

/** What is known of the page besides. */
export interface Around extends Circumstances {
  /** Offsets that have been jumped to. */
  readonly known: readonly number[];
  readonly patches: Patches | null;
}

export interface Order extends Around {
  /** Buffer offset of what has become hot; its RIP; and the bytes of its page. */
  readonly place: number;
  readonly rip: bigint;
  readonly code: Uint8Array;
  readonly machine: Machine;
}

/** A module with one export, `region`, and what one has to know to use it. Offsets are in the page. */
export interface Made {
  readonly module: WebAssembly.Module;
  readonly bytes: number;
  readonly ranges: readonly (readonly [number, number])[];
  /** Numbers of entries by offset. */
  readonly entries: ReadonlyMap<number, number>;
}

/** What a compiler needs to optimize a function grows faster than the function. Of a region that would be longer than this, half is made. */
const MOST_BYTES = 80_000;

/** One instruction. Null: there is none in these bytes, or TypeScript executes it. */
function instruction({ place: hot, code, mode, patches }: Order, place: number, end: number): Decoded | null {
  const page = hot - (hot % PAGE_BYTES);
  const decoded = decode(code, place - page, end - page, mode);
  if (typeof decoded === 'string' || decoded.encoding.definition.system) return null;
  const { insn, encoding } = decoded;
  const immediate = looseIn(decoded, place, patches);
  const builder = new Builder(insn, encoding, mode, immediate);
  encoding.definition.build?.(builder);
  return { length: insn.length, fixed: immediate < 0 ? insn.length : immediate - place, micros: builder.micros, ended: builder.ended };
}

/**
 * Fills an order. Null when nothing can be translated there. `denied` collects micro-operations that turned out to be none for a region; `onCompiled` is shown what was
 * made.
 */
export function fillOrder(order: Order, denied: Set<number>, onCompiled: ((region: Region, module: Uint8Array) => void) | null = null): Made | null {
  const { place, rip, mode, bank, known, machine } = order;
  let most = REGION_INSTRUCTIONS;
  for (;;) {
    const region = formRegion({
      place,
      rip,
      mode,
      known,
      most,
      decode: (at, end) => instruction(order, at, end),
      translatable: (op) => isTranslatable(op) && !denied.has(op),
    });
    if (!region) return null;
    try {
      const { bytes, entries } = compileRegion(region, bank, machine);
      if (bytes.length > MOST_BYTES && region.instructions > ANYWAY) {
        most = Math.floor(region.instructions / 2);
        continue;
      }
      const module = new WebAssembly.Module(bytes);
      onCompiled?.(region, bytes);
      const byOffset = new Map(entries.map((block, number) => [region.blocks[block]?.offset as number, number]));
      return { module, bytes: bytes.length, ranges: region.ranges, entries: byOffset };
    } catch (thrown) {
      if (!(thrown instanceof Refusal) || denied.has(thrown.op)) throw thrown;
      denied.add(thrown.op);
    }
  }
}
