import { describe, expect, it } from 'vitest';
import { HostileGuest } from './hostile.ts';

const OPERATIONS = 15_000;

/** A run of one seed. */
function hostileGuest({ operations, ...options }: ConstructorParameters<typeof HostileGuest>[0] & { readonly operations: number }) {
  const guest = new HostileGuest(options);
  guest.run(operations);
  const { report } = guest;
  guest.dispose();
  return report;
}

describe('a hostile guest at the buses of the whole machine', () => {
  it.each([
    [1, 'off'],
    [2, 'split'],
    [3, 'on'],
  ] as const)('reaches nothing, holds nothing up, makes nothing grow (seed %i, interrupt controllers in the kernel: %s)', (seed, irqchip) => {
    const report = hostileGuest({ seed, irqchip, operations: OPERATIONS });
    expect(report.complaints).toEqual([]);
    expect(report.operations).toBeGreaterThanOrEqual(OPERATIONS);
    // It was not all in vain.
    const { did } = report;
    expect(Math.min(did.transfers, did.exits, did.rounds, irqchip === 'on' ? 1 : did.interrupts)).toBeGreaterThan(0);
    expect(report.regions).toBeLessThanOrEqual(60);
    expect(report.timers).toBeLessThanOrEqual(40);
  });

  it('does the same again for the same seed', () => {
    const [first, second, other] = [7, 7, 8].map((seed) => hostileGuest({ seed, operations: 3000 }));
    expect(first).toEqual(second);
    expect(other?.digest).not.toBe(first?.digest);
  });

  it('notices a device that writes past the memory, a transfer without end, an exception', () => {
    const faults: [string, (guest: HostileGuest) => void][] = [
      ['memory outside', ({ machine }) => new Uint8Array(machine.ram.buffer, machine.ram.byteOffset + machine.ram.length, 1).fill(0)],
      ['the ROM', ({ machine }) => machine.ram.fill(0, machine.ram.length - 1)],
      ['transfers', ({ pc }) => breakPort(pc.fwCfg, () => Array.from({ length: 300_000 }, () => pc.memory.read(0, new Uint8Array(1))))],
      ['cost', ({ pc }) => breakPort(pc.fwCfg, () => pc.memory.read(0, new Uint8Array(1 << 27)))],
      ['no such thing', ({ pc }) => breakPort(pc.fwCfg, () => fail('no such thing'))],
    ];
    for (const [complaint, plant] of faults) {
      const guest = new HostileGuest({ seed: 1 });
      plant(guest);
      expect(guest.run(5000)).toBe(false);
      expect(guest.report.complaints[0]).toContain(complaint);
      guest.dispose();
    }
  });
});

function fail(text: string): never {
  throw new TypeError(text);
}

function breakPort(device: object, write: () => unknown): void {
  Object.assign(device, { write });
}
