import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ImageError } from '../../03-vcpu-loop/elf.ts';
import { isLz4, unpackLz4 } from './lz4.ts';

const block = (...bytes: readonly number[]): number[] => [bytes.length, 0, 0, 0, ...bytes];
const stream = (...blocks: readonly number[][]): Uint8Array => Uint8Array.from([0x02, 0x21, 0x4c, 0x18, ...blocks.flat()]);
const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const [a, b, c] = [0x61, 0x62, 0x63];

describe('LZ4 as the kernel uses it', () => {
  it('copies what is there and what was there', () => {
    expect(text(unpackLz4(stream(block(0x30, a, b, c))))).toBe('abc');
    expect(text(unpackLz4(stream(block(0x32, a, b, c, 3, 0, 0x10, a))))).toBe('abcabcabca');
    expect(text(unpackLz4(stream(block(0x1f, a, 1, 0, 5, 0x10, b))))).toBe(`${'a'.repeat(25)}b`);
    expect(text(unpackLz4(stream(block(0x10, a), block(0x10, b), [9, 0, 0, 0])))).toBe('ab'); // then the size, which is no block
    expect(isLz4(stream())).toBe(true);
  });
  it.each([
    ['a distance of 0', block(0x10, a, 0, 0)],
    ['a distance before the start', block(0x10, a, 2, 0)],
    ['literals past the end', block(0x50, a)],
    ['a length without an end', block(0xf0, 255, 255)],
    ['half a distance', block(0x10, a, 1)],
  ])('refuses %s', (_, bytes) => expect(() => unpackLz4(stream(bytes))).toThrow(ImageError));
  it('unpacks to no more than it may', () => {
    expect(() => unpackLz4(stream(block(0x1f, a, 1, 0, 255, 255, 0, 0x10, b)), 100)).toThrow(/more than 100 bytes/);
  });
  it('takes any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
        try {
          unpackLz4(stream(block(...bytes)));
        } catch (error) {
          expect(error).toBeInstanceOf(ImageError);
        }
      }),
      { numRuns: 200, seed: 15 },
    );
  });
  it('reads what the lz4 program writes', (context) => {
    const plain = Uint8Array.from({ length: 100_000 }, (_, n) => (n * n) >> (n % 11));
    const packed = spawnSync('lz4', ['-l', '-c'], { input: plain });
    if (packed.error) context.skip('there is no lz4 program here');
    expect(Buffer.compare(unpackLz4(packed.stdout), plain)).toBe(0);
  });
});
