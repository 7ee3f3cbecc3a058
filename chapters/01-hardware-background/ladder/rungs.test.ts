import { describe, expect, it } from 'vitest';
import { FLAT_MODE } from '../engine/flat-machine.ts';
import { decodeAt, INNER, instructionsFor, programFor } from './program.ts';
import { RUNGS } from './rungs.ts';

describe('the ladder', () => {
  it('has rungs that agree', () => {
    const results = RUNGS.map((rung) => rung.run(3));
    expect(new Set(results).size).toBe(1);
    expect(results[0]).not.toBe(0);
  });

  it('does something with each round', () => {
    for (const rung of RUNGS) expect(rung.run(1), rung.name).not.toBe(rung.run(2));
  });

  it('runs as many instructions as it says', () => {
    const names: string[] = [];
    const code = programFor(1);
    for (let at = 0; at < code.length; at += decodeAt(code, at, FLAT_MODE[32]).length) names.push(decodeAt(code, at, FLAT_MODE[32]).name);
    expect(names.filter((name) => name === 'JNZ')).toHaveLength(2);
    expect(names).toHaveLength(1 + 2 + INNER + 2 + 1);
    expect(instructionsFor(2) - instructionsFor(1)).toBe(2 + 256 * INNER + 2);
  });
});
