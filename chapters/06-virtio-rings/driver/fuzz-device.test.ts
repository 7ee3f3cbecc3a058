import { describe, expect, it } from 'vitest';
import { HostileQueue } from './fuzz-device.ts';
import { HostileMachine } from './fuzz-machine.ts';

describe('a good driver and a hostile device', () => {
  it.each([1, 2, 3, 4])('stay whole on a queue, seed %i', (seed) => {
    const hostile = new HostileQueue(seed);
    hostile.run(30_000);
    const { complaints, did } = hostile.report;
    expect(complaints).toEqual([]);
    // A run in which nothing ever worked, or nothing was ever broken, would prove little.
    for (const what of ['added', 'returned', 'broken', 'served', 'mischief', 'resized', 'full']) expect(did[what], what).toBeGreaterThan(20);
  });

  it.each([1, 2])('stay whole with registers and drivers, seed %i', (seed) => {
    const hostile = new HostileMachine(seed);
    hostile.run(150);
    const { complaints, did } = hostile.report;
    expect(complaints).toEqual([]);
    for (const what of ['probed', 'failed', 'running', 'pci', 'mmio']) expect(did[what] ?? 0, what).toBeGreaterThan(5);
  });
});
