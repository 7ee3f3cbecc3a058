// # The figures say what the text says
//
// Each figure is made by a run. What the surrounding sentences rely on is checked here.

import { describe, expect, it } from 'vitest';
import { render as boundary } from './boundary.ts';
import { render as fourWays } from './four-ways.ts';
import { microOpsPerInstruction, nestedWalk, walkCost } from './index.ts';
import { render as interruptFrame } from './interrupt-frame.ts';
import { render as modeLadder } from './mode-ladder.ts';
import { render as stackSwitch } from './stack-switch.ts';

const words = (svg: string): string[] => [...svg.matchAll(/<text[^>]*>([^<]*)</g)].map((match) => match[1] as string);
const inOrder = (all: readonly string[], wanted: readonly string[]): boolean => {
  let at = -1;
  return wanted.every((word) => {
    at = all.indexOf(word, at + 1);
    return at >= 0;
  });
};

describe('recorded runs', () => {
  it('walk two stages: five rows of the second, four entries of the first', () => {
    expect(walkCost()).toEqual({ levels: 4, nested: 24, native: 4 });
    expect(nestedWalk().map(({ stage, level }) => `${stage}.${level}`)).toEqual(
      [4, 3, 2, 1, 0].flatMap((guest) => ['2.4', '2.3', '2.2', '2.1', ...(guest > 0 ? [`1.${guest}`] : [])]),
    );
  });

  it('count micro-operations: more than the one that begins each instruction', () => {
    expect(microOpsPerInstruction()).toBeGreaterThan(1);
  });

  it('take a trap, an NMI, an interrupt and a breakpoint in that order', () => {
    expect(inOrder(words(boundary()), ['single-step trap', 'NMI', 'external interrupt', 'breakpoint'])).toBe(true);
  });

  it('climb to long mode without a step that does nothing', () => {
    expect(
      inOrder(words(modeLadder()), ['CR0.PE', 'protected16', 'protected32', 'CR4.PAE', 'CR3', 'EFER.LME', 'CR0.PG, EFER.LMA', 'compat', 'long']),
    ).toBe(true);
  });

  it('name every word of every frame', () => {
    const all = words(interruptFrame());
    expect(all.filter((word) => /^0x/.test(word))).toEqual([]);
    expect(all.filter((word) => word === 'error code')).toHaveLength(2);
    expect(inOrder(all, ['GS', 'FS', 'DS', 'ES', 'SS', 'ESP', 'EFLAGS', 'CS', 'EIP'])).toBe(true);
  });

  it('read the gate, the code segment, the stack and its segment before they push', () => {
    expect(inOrder(words(stackSwitch()), ['gate 0x20', 'descriptor 0x8', 'esp0', 'descriptor 0x10', 'SS = 0x23', 'EIP = 0x1002'])).toBe(true);
  });

  it('break the promise under one monitor only', () => {
    expect(words(fourWays()).filter((word) => word === 'broken')).toHaveLength(1);
  });
});
