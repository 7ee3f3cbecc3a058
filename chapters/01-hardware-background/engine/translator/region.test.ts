import { describe, expect, it } from 'vitest';
import { MODE } from '../../state.ts';
import { MICRO_OPS } from '../micro-ops.ts';
import { ANYWAY, type Decoded, formRegion } from './region.ts';

// Pages of made-up code: NOPs of one byte, and two-byte jumps at some places. What is followed depends on how much there is already, and on where anybody has been.

const JUMP = 2;
const opOf = (name: string): number => {
  const op = [...MICRO_OPS.keys()].indexOf(name);
  if (op < 0) throw new RangeError(`no micro-operation ${name}`);
  return op;
};
/** Jumps by their places: to where, and whether always. */
type Jumps = Readonly<Record<number, { to: number; always?: boolean }>>;

function regionOf(jumps: Jumps, known: readonly number[]): { offsets: readonly number[]; instructions: number } {
  const asked = new Set<number>();
  const decode = (place: number): Decoded => {
    asked.add(place);
    const jump = jumps[place];
    if (!jump) return { length: 1, fixed: 1, micros: [], ended: false };
    const op = opOf(jump.always ? 'jump.8' : 'jz.8');
    const imm = BigInt(jump.to - place - JUMP);
    return { length: JUMP, fixed: JUMP, micros: [{ op, d: 0, a: 0, b: 0, imm }], ended: true };
  };
  const region = formRegion({ place: 0, rip: 0x40_0000n, mode: MODE.CODE64, decode, translatable: () => true, known });
  if (!region) throw new Error('nothing to translate');
  const steps = region.blocks.flatMap((block) => block.steps.map(({ offset }) => offset));
  expect(steps.length).toBe(region.instructions);
  expect(new Set(steps)).toEqual(asked); // what is decoded is translated: nothing else is looked at
  return { offsets: region.blocks.map(({ offset }) => offset), instructions: region.instructions };
}

/** A branch after so many instructions; both arms end in loops of their own. */
const FAR = 0x800;
const fork = (before: number): Jumps => ({
  [before]: { to: FAR },
  [before + JUMP + 3]: { to: before + JUMP, always: true },
  [FAR + 5]: { to: FAR, always: true },
});

describe('a region', () => {
  it.each([0, 1, ANYWAY - 2])('follows both arms of a branch after %i instructions, wherever anybody has been', (before) => {
    expect(regionOf(fork(before), [])).toEqual({ offsets: [0, before + JUMP, FAR], instructions: before + 1 + 4 + 6 });
  });

  it.each([ANYWAY - 1, ANYWAY, 100])('follows after %i instructions only what has been jumped to', (before) => {
    const next = before + JUMP;
    expect(regionOf(fork(before), [])).toEqual({ offsets: [0], instructions: before + 1 });
    expect(regionOf(fork(before), [FAR])).toEqual({ offsets: [0, FAR], instructions: before + 1 + 6 });
    expect(regionOf(fork(before), [next])).toEqual({ offsets: [0, next], instructions: before + 1 + 4 });
    expect(regionOf(fork(before), [next, FAR])).toEqual({ offsets: [0, next, FAR], instructions: before + 1 + 4 + 6 });
    // Being known is no reason by itself: nothing leads there.
    expect(regionOf(fork(before), [0x400])).toEqual({ offsets: [0], instructions: before + 1 });
  });

  it('counts what is translated, not how far away a place is', () => {
    // Two hops across the page, and a branch at the end of the second: 3 instructions.
    const loops: Jumps = { 2309: { to: 0x902, always: true }, 3845: { to: 0xf00, always: true } };
    const jumps: Jumps = { 0: { to: 0x500, always: true }, 1280: { to: 0x900, always: true }, 2304: { to: 0xf00 }, ...loops };
    expect(regionOf(jumps, []).offsets).toEqual([0, 0x500, 0x900, 0x902, 0xf00]);
  });
});
