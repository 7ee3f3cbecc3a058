import { describe, expect, it } from 'vitest';
import { FlatMemory } from '../memory.ts';
import { Areas } from './area.ts';
import { CutMemory, DriverView, PAGE } from './laboratory.ts';

describe('words of an area', () => {
  const memories = {
    flat: new FlatMemory(new Uint8Array(4 * PAGE)),
    'flat, at an odd place': new FlatMemory(new Uint8Array(4 * PAGE + 3).subarray(3)),
    'in pages that lie apart': new CutMemory([2, 0, 3, 1]),
  };

  it.each(Object.entries(memories))('%s: are what they are, wherever the area begins', (_, memory) => {
    const view = new DriverView(memory);
    view.write(
      0,
      Array.from({ length: 4 * PAGE }, (_, at) => (at * 7 + (at >> 8)) & 0xff),
    );
    for (const address of [0, 2, 1, 3, PAGE - 8, PAGE - 7, PAGE - 6, PAGE - 5, 1000]) {
      const bytes = 2 * PAGE + 16;
      const area = new Areas(memory).open(address, bytes, 'read');
      expect(area).not.toBeNull();
      const all = new DataView(view.read(address, bytes).buffer);
      let wrong = 0;
      for (let at = 0; at < bytes; at += 4) {
        if (area?.load32(at) !== all.getUint32(at, true)) wrong++;
        if (area?.load16(at + 2) !== all.getUint16(at + 2, true)) wrong++;
        if (area?.acquire16(at) !== all.getUint16(at, true)) wrong++;
      }
      expect(wrong).toBe(0);
    }
  });

  it.each(Object.entries(memories))('%s: are stored where they belong', (_, memory) => {
    const view = new DriverView(memory);
    view.write(0, new Uint8Array(4 * PAGE));
    const area = new Areas(memory).open(PAGE - 8, 24, 'write');
    area?.store32(4, 0xfedc_ba98);
    area?.store16(8, 0x1234);
    area?.publish16(10, 0x5678);
    expect([...view.read(PAGE - 8, 16)]).toEqual([0, 0, 0, 0, 0x98, 0xba, 0xdc, 0xfe, 0x34, 0x12, 0x78, 0x56, 0, 0, 0, 0]);
  });

  it('there is none where there is no RAM, and none of nothing', () => {
    for (const memory of Object.values(memories)) {
      expect(new Areas(memory).open(4 * PAGE - 4, 8, 'read')).toBeNull();
      expect(new Areas(memory).open(0, 0, 'read')).toBeNull();
    }
    expect(new Areas(new CutMemory([1, 0])).open(PAGE - 6, 16, 'write')).toBeNull(); // a word would be in two places
  });
});
