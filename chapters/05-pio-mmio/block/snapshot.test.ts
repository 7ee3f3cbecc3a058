import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MemoryBlock } from './block.ts';
import { SnapshotBlock } from './snapshot.ts';

const disk = (sectors: number): MemoryBlock => new MemoryBlock(Uint8Array.from({ length: sectors * 512 }, (_, at) => (at >> 9) + 1));

describe('a disk that forgets', () => {
  it('answers as a disk that remembers, whatever is written where, and leaves what is under it alone', () => {
    const step = fc.record({ write: fc.boolean(), sector: fc.nat(29), count: fc.integer({ min: 1, max: 20 }), byte: fc.nat(255) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const [under, model] = [disk(27), disk(27)]; // not a whole number of pieces
        const before = under.bytes.slice();
        const snapshot = new SnapshotBlock(under);
        for (const { write, sector, count, byte } of steps) {
          const [ours, theirs] = [new Uint8Array(count * 512).fill(byte), new Uint8Array(count * 512).fill(byte)];
          if (write) expect(snapshot.write(sector, ours)).toBe(model.write(sector, theirs));
          else expect(snapshot.read(sector, ours)).toBe(model.read(sector, theirs));
          expect(Buffer.compare(ours, theirs)).toBe(0);
        }
        const [ours, theirs] = [new Uint8Array(27 * 512), new Uint8Array(27 * 512)];
        expect([snapshot.read(0, ours), model.read(0, theirs)]).toEqual([true, true]);
        expect(Buffer.compare(ours, theirs)).toBe(0);
        expect(Buffer.compare(under.bytes, before)).toBe(0);
      }),
      { numRuns: 60, seed: 15 },
    );
  });
  it('takes no more than its limit, and says so as a medium does', () => {
    const snapshot = new SnapshotBlock(disk(64), { limitBytes: 8192 });
    expect(snapshot.write(0, new Uint8Array(8192))).toBe(true);
    expect(snapshot.keptBytes).toBe(8192);
    expect(snapshot.write(16, new Uint8Array(512))).toBe(false);
    expect(snapshot.write(3, new Uint8Array(512).fill(9))).toBe(true); // what is there can be written again
    const into = new Uint8Array(512);
    expect([snapshot.read(16, into), into[0]]).toEqual([true, 17]);
  });
  it('is no disk that reads wrong when the one under it fails', () => {
    const under = disk(16);
    under.read = () => false;
    const snapshot = new SnapshotBlock(under);
    expect([snapshot.read(0, new Uint8Array(512)), snapshot.write(0, new Uint8Array(512)), snapshot.write(0, new Uint8Array(4096))]).toEqual([
      false,
      false,
      true,
    ]);
  });
});
