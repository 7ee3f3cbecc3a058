import { describe, expect, it } from 'vitest';
import {
  about,
  bitsOf,
  editable,
  ending,
  GUEST_FORMATS,
  NESTED_SIZES,
  perform,
  readShown,
  type Shown,
  START,
  settled,
  toggled,
  writeShown,
} from './walk-model.ts';

const bit = (shown: Shown, reference: number, name: string): Shown => {
  const walks = perform(shown);
  const entry = walks.nested.references[reference - 1];
  if (!entry) throw new Error(`the walk has no reference ${reference}`);
  const mask = bitsOf(entry, shown).find((one) => one.name === name)?.mask ?? 0n;
  const number = editable(walks, entry) ?? 0;
  return { ...shown, edits: toggled(shown.edits, number, walks.unedited.references[number - 1]?.value ?? 0n, mask) };
};

describe('the address bar', () => {
  it('holds everything that is shown', () => {
    const shown: Shown = {
      guest: 'PAE',
      page: '2M',
      nested: '1G',
      access: 'write',
      privilege: 'user',
      at: 5,
      edits: [{ reference: 3, set: 1n << 63n, clear: 7n }],
    };
    expect(readShown(writeShown(shown))).toEqual(shown);
    expect(readShown(writeShown(START))).toEqual(START);
    expect(readShown('')).toEqual(START);
  });
  it('cannot be given what does not exist', () => {
    expect(readShown('#guest=32-bit&page=1G&nested=7&at=-4&edits=1-zz-0,%00,9999-1-1')).toEqual({ ...START, guest: '32-bit' });
    expect(perform(settled(readShown('#edits=200-1-1'))).nested.result.kind).toBe('translated');
  });
});

describe('the three walks', () => {
  it('exist for every guest and every second stage, and agree that there is a byte', () => {
    for (const guest of GUEST_FORMATS)
      for (const nested of NESTED_SIZES) {
        const { nested: two, native, shadow } = perform({ ...START, guest, nested });
        for (const { result } of [two, native, shadow]) expect(result.kind).toBe('translated');
        expect(native.references.length).toBeLessThan(two.references.length);
        expect(shadow.attempts.filter(({ answer }) => answer === 'mapped')).toHaveLength(1);
      }
  });
  it('end in the same page fault when an entry of the guest is changed', () => {
    for (const guest of GUEST_FORMATS) {
      const shown: Shown = { ...START, guest, access: 'write', privilege: 'user' };
      const own = perform(shown).nested.references.findLast(({ stage }) => stage === 1)?.n ?? 0;
      for (const name of ['P', 'RW', 'US']) {
        const { nested, native, shadow } = perform(bit(shown, own, name));
        expect(nested.result).toEqual({ kind: 'fault', errorCode: name === 'P' ? 6 : 7 });
        for (const { result } of [native, shadow]) expect(result).toEqual(nested.result);
      }
    }
  });
  it('differ when an entry of the second stage is: only there is one', () => {
    const { nested, native, shadow } = perform(bit(bit(bit(START, 24, 'R'), 24, 'W'), 24, 'X'));
    expect(ending(nested.result).word).toBe('EPT violation');
    for (const { result } of [native, shadow]) expect(result.kind).toBe('translated');
    expect(ending(perform(bit(START, 24, 'R')).nested.result).word).toBe('EPT misconfiguration');
    expect(ending(perform(bit(START, 1, '51')).nested.result).word).toBe('EPT misconfiguration');
  });
});

describe('a bit', () => {
  it('of an entry that is read twice has one name', () => {
    const { edits } = settled(readShown('#edits=6-0-1'));
    expect(edits).toEqual([{ reference: 1, set: 0n, clear: 1n }]);
    expect(about(perform({ ...START, edits }).nested.references[0] ?? never(), perform(START))).toContain('the guest’s PML4 entry');
  });
  it('pressed twice is as it was', () => {
    for (const name of ['R', 'A', '51']) expect(bit(bit(START, 24, name), 24, name)).toEqual(START);
  });
  it('of an entry that only a change has led to is left alone', () => {
    const large: Shown = { ...START, page: '2M' };
    const directory = perform(large).nested.references.findLast(({ stage }) => stage === 1);
    const walks = perform(bit(large, directory?.n ?? 0, 'PS'));
    expect(walks.nested.references.map((reference) => editable(walks, reference))).toContain(null);
  });
});

it('has a sentence for every reference', () => {
  for (const guest of GUEST_FORMATS) {
    const walks = perform({ ...START, guest });
    for (const reference of walks.nested.references) expect(about(reference, walks)).toMatch(/holds 0x[0-9a-f]+ and (maps|leads)/);
  }
});

function never(): never {
  throw new Error('the walk has no reference');
}
