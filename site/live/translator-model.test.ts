import { describe, expect, it } from 'vitest';
import { bytesFrom, SPECIMENS, translated } from './translator-model.ts';

describe('the model of the translator’s page', () => {
  it.each(SPECIMENS)('shows $name', (specimen) => {
    const region = translated(specimen);
    expect(region).not.toBeNull();
    const shown = region?.blocks.flatMap(({ instructions }) => instructions) ?? [];
    expect(shown).toHaveLength(region?.instructions ?? -1);
    expect(shown.map(({ text }) => text)).not.toContain('UD');
    expect(region?.wasm.length).toBeGreaterThan(50);
  });

  it('shows nothing where nothing is hot', () => {
    expect(translated({ name: 'halt', bits: 64, code: [0xf4] })).toBeNull();
    expect(translated({ name: 'undefined', bits: 64, code: [0x0f, 0x0b] })).toBeNull();
  });

  it('reads bytes, and says what is none', () => {
    expect(bytesFrom(' 0x90, f4\n0 ')).toEqual([0x90, 0xf4, 0]);
    expect(() => bytesFrom('90 xyz')).toThrow("'xyz' is no byte");
    expect(() => bytesFrom('')).toThrow('not 0');
    expect(() => bytesFrom('90 '.repeat(513))).toThrow('not 513');
  });
});
