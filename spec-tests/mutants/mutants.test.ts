import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { casesOf, fateOf, type Mutant, mutants, stale } from '../mutants.ts';
import { loadSuite } from '../suite.ts';

describe('mutants', () => {
  const all = mutants();
  const suite = loadSuite();

  it('has unique ids', () => {
    expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
  });

  it.each(all)('$id still applies, and a case shows its clause', (mutant) => {
    expect(stale(mutant)).toBeNull();
    expect(casesOf(mutant, suite)).not.toEqual([]);
  });

  it('reaches the machine that is judged', { timeout: 300_000 }, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'ringbook-mutant-'));
    try {
      const mutant = all.find(({ id }) => id === 'any-vcpu-id') as Mutant;
      expect(await fateOf(mutant, suite, folder)).toMatchObject({ verdict: 'killed', by: { id: '02-kvm-objects/vcpu-id', verdict: 'fail' } });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
