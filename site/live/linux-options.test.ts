import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import '../../chapters/15-whole-machine/microvm/microvm.ts';
import { APPEND_LIMIT, asciiOf, configOf, MACHINES, MEMORY, MOST_CPUS, PAGINGS, readOptions, slotOf, USUAL, writeOptions } from './linux-options.ts';

const anyOptions = fc.record({
  machine: fc.constantFrom(...MACHINES),
  memoryMiB: fc.integer({ min: MEMORY.least, max: MEMORY.most }),
  cpus: fc.integer({ min: 1, max: MOST_CPUS }),
  paging: fc.constantFrom(...PAGINGS),
  network: fc.boolean(),
  append: fc.string({ unit: 'grapheme-ascii', maxLength: 200 }).map(asciiOf),
});

describe('a link', () => {
  it('holds the options, whatever they are', () => {
    fc.assert(
      fc.property(anyOptions, (options) => {
        expect(readOptions(writeOptions(options))).toEqual(options);
      }),
    );
  });

  it('is empty for what is usual', () => {
    expect(writeOptions(USUAL)).toBe('');
    expect(readOptions('')).toEqual(USUAL);
  });

  it('describes a machine that can be, whatever somebody wrote into it', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.string(), (memory, cpus, append) => {
        const options = readOptions(`#${new URLSearchParams({ machine: memory, memory, cpus, paging: cpus, append })}`);
        expect(options.append.length).toBeLessThanOrEqual(APPEND_LIMIT);
        const config = completeConfig(configOf(options, { kernel: 'kernel' }));
        expect(config.memoryMiB).toBeGreaterThanOrEqual(MEMORY.least);
        expect(config.memoryMiB).toBeLessThanOrEqual(MEMORY.most);
        expect(config.cpus).toBeLessThanOrEqual(MOST_CPUS);
      }),
    );
    expect(readOptions('#memory=99999999&cpus=0')).toMatchObject({ memoryMiB: MEMORY.most, cpus: 1 });
  });
});

describe('which file is which', () => {
  const head = (...bytes: number[]): Uint8Array => Uint8Array.from({ length: 16 }, (_, at) => bytes[at] ?? 0);
  it('is seen in its first bytes; what says nothing is the kernel', () => {
    expect(slotOf(head(0x1f, 0x8b, 8))).toBe('initrd');
    expect(slotOf(new TextEncoder().encode('070701000000'))).toBe('initrd');
    expect(slotOf(new TextEncoder().encode('RINGBOOK-STATE\r\n'))).toBe('state');
    expect(slotOf(head(0x7f, 0x45, 0x4c, 0x46))).toBe('kernel');
    expect(slotOf(new Uint8Array(0))).toBe('kernel');
    expect(slotOf(new TextEncoder().encode('RINGBOOK'))).toBe('kernel');
  });
});
