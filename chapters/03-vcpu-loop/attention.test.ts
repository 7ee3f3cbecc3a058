import { describe, expect, it } from 'vitest';
import { Attention } from './attention.ts';

class Open extends Attention {
  take(): number | null {
    return this.requested ? this.acknowledge() : null;
  }
}

describe('what waits for a processor', () => {
  it('comes in order, and no more of it than an interrupt controller could hold', () => {
    const attention = new Open();
    for (let n = 0; n < 100_000; n++) attention.add(n & 0xff);
    const taken: number[] = [];
    for (let vector = attention.take(); vector !== null; vector = attention.take()) taken.push(vector);
    expect(taken).toEqual(Array.from({ length: 256 }, (_, n) => n));
    attention.add(7);
    attention.clear();
    expect(attention.take()).toBeNull();
  });
});
