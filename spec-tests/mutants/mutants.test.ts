import { describe, expect, it } from 'vitest';
import { mutants, stale } from '../mutants.ts';

describe('mutants', () => {
  const all = mutants();

  it('has unique ids', () => {
    expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
  });

  it.each(all)('$id still applies', (mutant) => {
    expect(stale(mutant)).toBeNull();
  });
});
