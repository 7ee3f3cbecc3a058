// The recorded boots against the code that they speak of. Nothing is booted here.

import { describe, expect, it } from 'vitest';
import { completeConfig } from '../../05-pio-mmio/machine/config.ts';
import '../../05-pio-mmio/machine/devices.ts';
import { NS_PER_TICK } from '../../02-kvm-objects/soft/virtual-clock.ts';
import { buildMachine, machineTypes } from '../../05-pio-mmio/machine/machine-types.ts';
import { ACCESS_TICKS, machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import { render as devices } from '../figures/boot-devices.ts';
import { render as phases } from '../figures/boot-phases.ts';
import { render as boardProcessors } from '../figures/boot-processors.ts';
import { BOARDS, emptyBuses, exitsOf, families, processors, several } from '../figures/index.ts';
import { render as savedParts } from '../figures/saved-parts.ts';
import type { LinuxImage } from '../linux/header.ts';
import { placeLinux } from '../linux/placement.ts';
import '../microvm/microvm.ts';
import { ATTENTION_NS, boots, PHASES } from './record.ts';

const machines = Object.entries(boots.machines);
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

describe('the record', () => {
  it('has a boot of every machine type', () => expect(machines.map(([type]) => type).sort()).toEqual(['microvm', 'pc', 'q35']));
  it('is of the version that is read', () => expect([boots.format, boots.kernel]).toEqual([2, expect.stringMatching(/^[0-9]+\.[0-9]+\./)]));

  it.each(machines)('%s: parts that add up', (type, { phases: parts, exits, devices: asked, nanosecondsPerTrip }) => {
    expect(machineTypes.get(type).name).toBe(type);
    expect(Object.keys(parts)).toEqual([...PHASES]);
    for (const part of Object.values(parts)) {
      expect(part.instructions).toBeGreaterThan(0);
      // An instruction is a tick; what is above that is sleep, and trips.
      expect(part.nanoseconds).toBeGreaterThanOrEqual(part.instructions * NS_PER_TICK);
    }
    const counted = sum(Object.values(exits));
    expect(counted).toBeGreaterThanOrEqual(sum(Object.values(parts).map((part) => part.exits)));
    const ports = sum(Object.values(asked).map(({ kernel, user }) => kernel + user));
    expect(ports).toBeLessThanOrEqual(counted);
    expect(nanosecondsPerTrip).toBe(ACCESS_TICKS * NS_PER_TICK);
    // A device's time is at least the trips to it, but for one that is under way, and at most what the rule allows.
    for (const { kernel, user, nanoseconds } of Object.values(asked)) {
      expect(nanoseconds).toBeGreaterThanOrEqual((user - 1) * nanosecondsPerTrip);
      expect(nanoseconds).toBeLessThanOrEqual((kernel + user) * ATTENTION_NS);
    }
    const whole = sum(Object.values(parts).map((part) => part.nanoseconds));
    expect(sum(Object.values(asked).map(({ nanoseconds }) => nanoseconds))).toBeLessThan(whole);
  });

  it.each(machines)('%s: a kernel where the loader puts it', (type, { loader }) => {
    const config = completeConfig({ machine: { type }, memoryMiB: boots.memoryMiB, kernel: 'as recorded', serial: ['null'] });
    const board = buildMachine({ kernel: machineKernel({ memoryMiB: boots.memoryMiB, cpus: 1, memory: 'ept' }), config });
    const { kernelBytes, initrdBytes } = loader;
    const image = { ...boots.header, kernel: new Uint8Array(kernelBytes) } as LinuxImage;
    const { kernel, initrd } = placeLinux(image, board.handover.memoryMap ?? [], new Uint8Array(initrdBytes));
    expect([kernel.gpa, initrd?.gpa]).toEqual([loader.kernelGpa, loader.initrdGpa]);
  });
});

describe('what the text says of it', () => {
  it('counts every access once', () => {
    BOARDS.forEach((board, column) => {
      const asked = Object.values(boots.machines[board]?.devices ?? {});
      expect(sum(families.map(({ counts }) => counts[column] as number))).toBe(sum(asked.map(({ kernel, user }) => kernel + user)));
    });
  });
  it('finds the empty buses in the difference of two boards', () => {
    const config = families.find(({ name }) => name === 'PCI configuration')?.counts ?? [];
    const [pc, q35, microvm] = config as [number, number, number];
    expect(Math.abs(q35 - pc - emptyBuses.accesses) / emptyBuses.accesses).toBeLessThan(0.02);
    expect(microvm).toBe(0);
  });
  it('starts every processor but the first by INIT and a start-up message', () => {
    const [first, ...others] = processors.map(({ starts }) => starts);
    expect(first).toEqual([0, 0]);
    expect(others.length).toBe(several.cpus - 1);
    for (const [init, startup] of others) expect([init, startup >= 1]).toEqual([1, true]);
  });
  it('finds every processor at work, with a timer of its own', () => {
    for (const { turns, instructions, timer } of processors) {
      expect(Math.min(turns, instructions, timer)).toBeGreaterThan(0);
      expect(instructions).toBeLessThanOrEqual(turns * (several.bound + 1));
    }
  });
  it('draws', () => {
    for (const render of [devices, phases, boardProcessors, savedParts]) expect(render()).toMatch(/^<svg class="figure"/);
    expect(devices()).toContain(exitsOf('q35').toLocaleString('en'));
  });
});
