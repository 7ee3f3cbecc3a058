import { describe, expect, it } from 'vitest';
import { Bus, PORT_COUNT, type Registers, type Width } from '../../03-vcpu-loop/devices/bus.ts';
import { BRIDGE_CLASS, PciBridge } from './bridge.ts';
import { PciFunction } from './function.ts';
import { SharedLines } from './lines.ts';
import { Q35 } from './q35.ts';

const OPERATIONS = 200_000;

/** A generator with a seed: the run is the same everywhere. */
function generator(seed: number) {
  let state = seed;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state;
  };
  const below = (limit: number): number => Math.floor((next() / 2 ** 32) * limit);
  const of = <T>(values: readonly T[]): T => values[below(values.length)] as T;
  return { next, below, of };
}

/** Registers that refuse to be asked for what is not theirs. */
function strict(name: string, bytes: number, touched: { outside: number; count: number }): Registers {
  const check = (offset: number, width: Width): void => {
    touched.count++;
    if (!(offset >= 0 && offset + width <= bytes)) touched.outside++;
  };
  return {
    name,
    read(offset, width) {
      check(offset, width);
      return 0xa5a5_a5a5_a5a5_a5a5n;
    },
    write(offset, width, value) {
      check(offset, width);
      if (value < 0n || value >= 1n << BigInt(8 * width)) touched.outside++;
    },
  };
}

describe('a guest that writes anything anywhere', () => {
  it.each([1, 2026])('gets an answer each time, and nothing grows (seed %i)', (seed) => {
    const { next, below, of } = generator(seed);
    const ports = new Bus('ports', PORT_COUNT);
    const memory = new Bus('memory');
    const touched = { outside: 0, count: 0 };
    const levels = new Map<number, boolean>();
    const wrong: string[] = [];
    let messages = 0;
    let writes = 0;
    ports.attach(0x40, 4, strict('timer', 4, touched));
    ports.attach(0x20, 2, strict('pic', 2, touched));
    memory.attach(0xfec0_0000, 0x100, strict('i/o apic', 0x100, touched));
    const q35 = new Q35({
      ports,
      memory,
      dma: { read: () => true, write: () => ++writes > 0 },
      msi: { send: () => void messages++ },
      lines: new SharedLines((gsi) => ({
        set(level) {
          if ((levels.get(gsi) ?? false) === level) wrong.push(`GSI ${gsi} set to ${level} twice`);
          levels.set(gsi, level);
        },
      })),
      onReset: () => q35.reset(),
    });
    q35.connectPm(strict('pm', 128, touched));
    const functions: PciFunction[] = [];
    const card = (name: string): PciFunction => {
      const fn = new PciFunction({
        name,
        identity: { vendorId: 0x1234, deviceId: functions.length, classCode: 0x020000, interruptPin: of([1, 2, 3, 4]) },
        bars: [
          { index: 0, kind: 'mem32', bytes: 0x2000, registers: strict(`${name}.0`, 0x2000, touched) },
          { index: 1, kind: 'io', bytes: 0x40, registers: { ...strict(`${name}.1`, 0x40, touched), impl: { min: 4, max: 4 } } },
          { index: 2, kind: 'mem64', bytes: 0x10_0000, prefetchable: true, registers: strict(`${name}.2`, 0x10_0000, touched) },
          { index: 5, kind: 'mem32', bytes: 0x8000_0000, registers: strict(`${name}.5`, 0x8000_0000, touched) },
        ],
        romBar: { bytes: 0x800, image: new Uint8Array(0x800) },
        extended: true,
      });
      fn.addMsi({ vectors: 8, wide: true, masking: true });
      fn.addMsix({ bar: 0, vectors: 16, tableOffset: 0x1000, pbaOffset: 0x1800 });
      functions.push(fn);
      return fn;
    };
    const bridgeIdentity = { vendorId: 0x1b36, deviceId: 1, classCode: BRIDGE_CLASS };
    const bridges = ['outer', 'inner', 'sibling'].map((name) => new PciBridge({ name, identity: bridgeIdentity }));
    const [outer, inner, sibling] = bridges as [PciBridge, PciBridge, PciBridge];
    q35.add(outer, 30);
    q35.add(sibling, 5);
    outer.secondary.add(inner, 0);
    for (const [bus, device, number] of [
      [q35.root, 2, 0],
      [q35.root, 2, 3],
      [outer.secondary, 7, 0],
      [inner.secondary, 31, 7],
      [sibling.secondary, 0, 0],
    ] as const) {
      bus.add(card(`card${functions.length}`), device, number);
    }
    const most = functions.length * 5 + bridges.length * 3 + 7; // regions that there are

    const devfns = [0, 0xf8, 0x10, 0x13, 0xf0, 0x28, 0x38, 0xff, 0x00];
    const tops = [0xffff_ffff, 0, 0xfec0_0000, 0xfee0_0000, 0xe000_0000, 0x10_0000, 0xc000, 0x40, 0xcf8, 0xfff0];
    const value = (): number => (below(3) ? (of(tops) + below(4) * 0x10) >>> 0 : next());
    const buses = [0, 0, 0, 1, 2, 3, 255];
    // Half of the offsets are where the interesting registers are.
    const offset = (): number =>
      below(2) ? of([4, 4, 4, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x3c, 0x40, 0x60, 0x68, 0x90, 0xf0]) : below(256);
    const address = (): number =>
      of([of(tops), below(0x1_0000), 0xd000_0000 + below(0x4_0000), next(), next() * 256, 0xb000_0000 + next() / 16]) + below(16);
    const width = (): Width => of([1, 2, 4, 8]);
    // Where a region is right now, and a few bytes before and behind it.
    const target = (): number => {
      const bar = of(of(functions).bars.filter((one) => one !== null));
      return Math.max((bar.placed ?? address()) + of([below(bar.spec.bytes), below(8) - 4, bar.spec.bytes + below(8) - 8]), 0);
    };

    for (let operation = 0; operation < OPERATIONS; operation++) {
      switch (below(9)) {
        case 0:
        case 1:
        case 2:
          ports.write(0xcf8, 4, BigInt((0x8000_0000 | (of(buses) << 16) | (of(devfns) << 8) | offset()) >>> 0));
          ports.write(0xcfc + below(4), of([1, 2, 4]), BigInt(value()));
          break;
        case 3: {
          const [bus, at, size] = [of([ports, memory]), of([address, target])(), width()];
          const read = bus.read(Math.floor(at), size);
          if (read < 0n || read >= 1n << BigInt(8 * size)) wrong.push(`read ${read}`);
          break;
        }
        case 4:
          of([ports, memory]).write(Math.floor(of([address, target])()), width(), BigInt(value()) << BigInt(below(33)));
          break;
        case 5:
          of(functions).intx.set(below(2) === 0);
          break;
        case 6:
          of(functions).signal(below(20));
          break;
        case 7:
          of(functions).dma.write(value(), new Uint8Array(4));
          break;
        default: {
          // A driver that means it, amid all that: otherwise little would be enabled for long.
          const { config, msi } = of(functions);
          config.write(4, 2, of([7, 7, 0x407, 2]));
          config.write(0x10, 4, 0xd000_0000 + below(64) * 0x1000);
          config.write(0x14, 4, below(64) * 0x20);
          config.write(0x44, 4, 0xfee0_0000);
          config.write(0x48, 4, 0);
          config.write(0x42, 2, of([0, 1, 0x31]));
          expect(msi?.enabled).toBe((config.read(0x42, 2) & 1) === 1);
        }
      }
      if (ports.placed + memory.placed > most) wrong.push(`${ports.placed} and ${memory.placed} regions`);
      if (wrong.length > 0) break;
    }
    expect(wrong).toEqual([]);
    expect(touched.outside).toBe(0);
    expect(Math.min(touched.count, messages, writes)).toBeGreaterThan(1000); // it was not all in vain

    // The board's devices are where they were, and a reset makes everything quiet.
    const count = touched.count;
    ports.read(0x40, 1);
    memory.read(0xfec0_0000, 4);
    expect(touched.count).toBe(count + 2);
    q35.reset();
    expect([...levels.values()]).not.toContain(true);
    for (const fn of functions) expect([fn.command, fn.bars.some((bar) => bar && bar.placed !== null)]).toEqual([0, false]);
    expect([ports.placed, memory.placed]).toEqual([3, 1]);
  });
});
