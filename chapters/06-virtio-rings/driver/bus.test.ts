import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type DmaBuffer, MemoryArena, MessageCells, waitUntil } from './bus.ts';

describe('an arena', () => {
  it('never gives a byte twice, and is whole when all has come back', () => {
    const operation = fc.record({
      bytes: fc.integer({ min: 0, max: 600 }),
      align: fc.constantFrom(1, 8, 16, 64, 4096),
      free: fc.boolean(),
      which: fc.nat(20),
    });
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (operations) => {
        const memory = new Uint8Array(1 << 14);
        const arena = new MemoryArena(memory, 0x1000);
        const held: DmaBuffer[] = [];
        for (const { bytes, align, free, which } of operations) {
          if (free && held.length > 0) {
            const [buffer] = held.splice(which % held.length, 1);
            if (buffer) arena.free(buffer);
            continue;
          }
          let buffer: DmaBuffer;
          try {
            buffer = arena.allocate(bytes, align);
          } catch {
            continue;
          }
          expect(buffer.address % align).toBe(0);
          expect(buffer.bytes.length).toBe(bytes);
          expect(buffer.bytes.every((byte) => byte === 0)).toBe(true);
          for (const other of held)
            expect(buffer.address + bytes <= other.address || other.address + other.bytes.length <= buffer.address).toBe(true);
          buffer.bytes.fill(0xee);
          held.push(buffer);
        }
        for (const buffer of held) arena.free(buffer);
        expect(arena.freeBytes).toBe(1 << 14);
        expect(arena.allocate(1 << 14, 4096).address).toBe(0x1000);
      }),
    );
  });

  it('refuses what it did not give', () => {
    const arena = new MemoryArena(new Uint8Array(64), 0);
    const buffer = arena.allocate(8);
    arena.free(buffer);
    expect(() => arena.free(buffer)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(() => arena.allocate(65)).toThrow(expect.objectContaining({ code: 'ENOMEM' }));
    expect(() => new MemoryArena(new Uint8Array(64).subarray(1), 0)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});

it('message cells call whoever was written to, once', () => {
  const memory = new Uint8Array(256);
  const arena = new MemoryArena(memory, 0);
  const cells = new MessageCells(arena);
  const calls: string[] = [];
  const first = cells.connect(() => calls.push('first'));
  cells.connect(() => calls.push('second'));
  cells.poll();
  memory[first.address] = first.data;
  cells.poll();
  cells.poll();
  expect(calls).toEqual(['first']);
  cells.disconnect(first);
  memory[first.address] = 1;
  cells.poll();
  expect(calls).toEqual(['first']);
});

it('waiting is bounded', () => {
  let relaxed = 0;
  expect(waitUntil({ relax: () => void relaxed++, patience: 7 }, () => false)).toBe(false);
  expect(relaxed).toBe(7);
  expect(waitUntil({ relax: () => void relaxed++ }, () => relaxed > 20)).toBe(true);
});
