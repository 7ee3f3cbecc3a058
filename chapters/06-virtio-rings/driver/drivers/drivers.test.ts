import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../../02-kvm-objects/clock.ts';
import { MemoryBlock } from '../../../05-pio-mmio/block/block.ts';
import { BalloonModel } from '../../devices/balloon.ts';
import { BlockModel } from '../../devices/block.ts';
import { BLK_S } from '../../devices/block-layout.ts';
import { ConsoleModel } from '../../devices/console.ts';
import { EntropyModel } from '../../devices/entropy.ts';
import { bench } from '../laboratory.ts';
import { type Balloon, balloonDriver } from './balloon.ts';
import { type BlockDisk, blockDriver } from './block.ts';
import { type Console, consoleDriver } from './console.ts';
import { type EntropySource, entropyDriver } from './entropy.ts';
import { ZonedDisk } from './zoned-disk.ts';

const bytes = (count: number, seed = 1): Uint8Array => Uint8Array.from({ length: count }, (_, at) => (at * 31 + seed * 7 + (at >> 8)) & 0xff);

describe.each([{ packed: false }, { packed: true }])('drivers, packed: $packed', (format) => {
  it('entropy: reads what the device gives', () => {
    let source: EntropySource | null = null;
    const { handle, device } = bench(
      new EntropyModel({ seed: 5 }),
      entropyDriver((each) => {
        source = each;
      }),
      format,
    );
    expect(handle.failure).toBeNull();
    expect(device.status).toBe(15);
    const got = new Uint8Array(1000);
    expect((source as EntropySource | null)?.read(got)).toBe(1000);
    expect(new Set(got).size).toBeGreaterThan(100);
  });

  it('block: reads, writes, flushes, discards, says who it is', () => {
    let disk: BlockDisk | null = null;
    const drive = new MemoryBlock(new Uint8Array(512 * 1024));
    const { handle } = bench(
      new BlockModel({ drive, serial: 'ring', discard: true, writeZeroes: true, configWce: true }),
      blockDriver((each) => {
        disk = each;
      }),
      format,
    );
    expect(handle.failure).toBeNull();
    const found = disk as unknown as BlockDisk;
    expect(found.capacity).toBe(1024);
    const data = bytes(200 * 512);
    expect(found.write(3, data)).toBe(BLK_S.OK);
    const back = new Uint8Array(data.length);
    expect(found.read(3, back)).toBe(BLK_S.OK);
    expect(back).toEqual(data);
    expect(drive.bytes.subarray(3 * 512, 203 * 512)).toEqual(data);
    expect(found.flush()).toBe(BLK_S.OK);
    expect(drive.flushes).toBeGreaterThan(0);
    expect(found.id).toBe('ring');
    expect(
      found.writeZeroes([
        { sector: 3, sectors: 1 },
        { sector: 5, sectors: 2 },
      ]),
    ).toBe(BLK_S.OK);
    expect(drive.bytes.subarray(3 * 512, 4 * 512).every((byte) => byte === 0)).toBe(true);
    expect(drive.bytes.subarray(4 * 512, 5 * 512).every((byte) => byte === 0)).toBe(false);
    expect(found.discard([{ sector: 10, sectors: 2 }])).toBe(BLK_S.OK);
    found.writeback = false;
    expect(found.writeback).toBe(false);
    expect(() => found.read(1024, new Uint8Array(512))).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('block: waits for a disk that takes its time, and is interrupted while it waits', () => {
    let now = 0;
    const clock = new TimerQueue(() => now);
    let disk = null as BlockDisk | null;
    const { handle } = bench(
      new BlockModel({ drive: new MemoryBlock(bytes(4096)), clock, latency: () => 100 }),
      blockDriver((each) => {
        disk = each;
      }),
      {
        ...format,
        relax: () => {
          now++;
          clock.runDue();
        },
      },
    );
    const into = new Uint8Array(1024);
    for (let round = 1; round <= 3; round++) {
      expect(disk?.read(1, into)).toBe(BLK_S.OK);
      expect(now).toBe(100 * round);
    }
    expect(into).toEqual(bytes(4096).subarray(512, 1536));
    expect(handle.failure).toBeNull();
  });

  it('block: writes a zoned disk in order, and leaves it alone when nobody can', () => {
    const drive = new MemoryBlock(new Uint8Array(512 * 1024));
    const model = (kind: 'host-managed' | 'host-aware'): BlockModel => new BlockModel({ drive, zoned: { model: kind, zoneSectors: 128 } });
    expect(
      bench(
        model('host-managed'),
        blockDriver(() => {}),
        format,
      ).handle.failure,
    ).toContain('zones');
    expect(
      bench(
        model('host-aware'),
        blockDriver(() => {}),
        format,
      ).handle.failure,
    ).toBeNull();
    let disk = null as BlockDisk | null;
    const { handle } = bench(
      model('host-managed'),
      blockDriver(
        (each) => {
          disk = each;
        },
        { zones: true },
      ),
      format,
    );
    expect(handle.failure).toBeNull();
    const zoned = new ZonedDisk(handle, disk as unknown as BlockDisk);
    const zones = zoned.report(0);
    if (typeof zones !== 'object') expect.fail(`report: ${zones}`);
    expect(zones.length).toBe(8);
    expect(zoned.append(256, bytes(1024))).toEqual({ sector: 256 });
    expect(zoned.append(256, bytes(512, 9))).toEqual({ sector: 258 });
    const [zone] = zoned.report(300) as readonly { start: number; writePointer: number; capacity: number; type: number; state: number }[];
    expect(zone).toMatchObject({ start: 256, writePointer: 259 });
    if (zone) expect(zoned.write(zone, bytes(512, 4))).toBe(BLK_S.OK);
    if (zone) expect(zoned.write(zone, bytes(512, 4))).not.toBe(BLK_S.OK);
    expect(drive.bytes.subarray(258 * 512, 259 * 512)).toEqual(bytes(512, 9));
    for (const action of ['open', 'close', 'finish', 'reset'] as const) expect(zoned.zone(action, 256), action).toBe(BLK_S.OK);
    expect(zoned.resetAll()).toBe(BLK_S.OK);
    expect(() => zoned.append(1, bytes(512))).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    zoned.free();
  });

  it('console: one port, both ways, more than its buffers hold', () => {
    let found: Console | null = null;
    const model = new ConsoleModel({ maxPorts: 1, size: { cols: 80, rows: 25 } });
    const heard: number[] = [];
    const near = model.port(0);
    if (near) near.onOutput = (bytes) => void heard.push(...bytes);
    const { handle } = bench(
      model,
      consoleDriver((each) => {
        found = each;
      }),
      format,
    );
    expect(handle.failure).toBeNull();
    const port = (found as unknown as Console).ports.get(0);
    if (!port) expect.fail('there is no port');
    expect(port.size).toEqual({ cols: 80, rows: 25 });
    const sent = bytes(5000);
    expect(port.write(sent)).toBe(5000);
    expect(Uint8Array.from(heard)).toEqual(sent);
    const input = bytes(4000, 3);
    let given = near?.send(input) ?? 0;
    const got: number[] = [];
    for (let round = 0; round < 50 && got.length < input.length; round++) {
      got.push(...port.read(700));
      given += near?.send(input.subarray(given)) ?? 0;
    }
    expect(Uint8Array.from(got)).toEqual(input);
  });

  it('console: ports that come, say what they are, and go', () => {
    let found: Console | null = null;
    const model = new ConsoleModel({ maxPorts: 4, ports: [{ console: true }, { name: 'org.example.0' }] });
    const { handle, transport } = bench(
      model,
      consoleDriver((each) => {
        found = each;
      }),
      format,
    );
    expect(handle.failure).toBeNull();
    const console = found as unknown as Console;
    expect([...console.ports.keys()]).toEqual([0, 1]);
    expect(console.ports.get(0)?.isConsole).toBe(true);
    expect(console.ports.get(1)).toMatchObject({ isConsole: false, name: 'org.example.0', hostConnected: false });
    model.port(1)?.open();
    transport.settle();
    expect(console.ports.get(1)?.hostConnected).toBe(true);
    const added = model.plug({ name: 'late' });
    transport.settle();
    expect(console.ports.get(added.id)?.name).toBe('late');
    let open = false;
    added.onGuestOpen = (is) => {
      open = is;
    };
    const port = console.ports.get(added.id);
    if (!port) expect.fail('the port is not there');
    console.open(port, true);
    expect(open).toBe(true);
    added.open();
    transport.settle();
    const heard: number[] = [];
    added.onOutput = (bytes) => void heard.push(...bytes);
    expect(port.write(Uint8Array.of(1, 2, 3))).toBe(3);
    expect(heard).toEqual([1, 2, 3]);
    expect(added.send(Uint8Array.of(4, 5))).toBe(2);
    expect([...port.read()]).toEqual([4, 5]);
    model.unplug(added.id);
    transport.settle();
    expect(console.ports.has(added.id)).toBe(false);
    expect(model.plug({ name: 'again' }).id).toBe(added.id);
    transport.settle();
    expect(console.ports.get(added.id)?.name).toBe('again');
  });

  it.each(['specification', 'dense'] as const)('balloon: size, figures, hints and reports; queues by %s', (numbering) => {
    let found: Balloon | null = null;
    const PAGE = 4096;
    const ram = 1 << 23;
    const model = new BalloonModel({ ramBytes: ram, reporting: true, hinting: true, deflateOnOom: true, numbering: 'either' });
    const events = { inflate: 0, deflate: 0, report: 0, hint: 0 };
    model.onInflate = (_, bytes) => {
      events.inflate += bytes;
    };
    model.onDeflate = (_, bytes) => {
      events.deflate += bytes;
    };
    model.onReport = (_, bytes) => {
      events.report += bytes;
    };
    model.hints.onHint = (_, bytes) => {
      events.hint += bytes;
    };
    const driver = balloonDriver(
      (each) => {
        found = each;
      },
      { statistics: () => ({ MEMFREE: 12345, MEMTOT: 1 << 20 }), poison: 0xaa, numbering },
    );
    const { handle, arena, transport } = bench(model, driver, format);
    expect(handle.failure).toBeNull();
    const balloon = found as unknown as Balloon;
    model.target(ram - 600 * PAGE);
    transport.settle();
    expect([balloon.actual, events.inflate, model.balloonBytes]).toEqual([600, 600 * PAGE, 600 * PAGE]);
    model.target(ram - 100 * PAGE);
    transport.settle();
    expect([balloon.actual, events.deflate, model.balloonBytes]).toEqual([100, 500 * PAGE, 100 * PAGE]);
    expect(balloon.deflateForMemory(10)).toBe(true);
    expect(model.balloonBytes).toBe(90 * PAGE);
    model.target(ram - 90 * PAGE);
    transport.settle();
    expect(model.requestStats()).toBe(true);
    transport.settle();
    expect(model.stats()).toMatchObject({ MEMFREE: 12345n, MEMTOT: 1n << 20n });
    expect(model.requestStats()).toBe(true);
    transport.settle();
    expect(balloon.report(10 * PAGE)).toBe(10 * PAGE);
    expect(events.report).toBe(10 * PAGE);
    const before = arena.freeBytes;
    expect(model.startHinting()).toBe(true);
    transport.settle();
    expect(events.hint).toBeGreaterThan(0);
    expect(balloon.hinted).toBeGreaterThan(0);
    model.hints.finish();
    transport.settle();
    expect(balloon.hinted).toBe(0);
    expect(arena.freeBytes).toBe(before);
  });

  it('all: give everything back that they took', () => {
    for (const [model, driver] of [
      [new EntropyModel(), entropyDriver(() => {})],
      [new BlockModel({ drive: new MemoryBlock(new Uint8Array(4096)) }), blockDriver((disk) => void disk.read(0, new Uint8Array(512)))],
      [new ConsoleModel({ maxPorts: 3, ports: [{ console: true }, {}] }), consoleDriver(() => {})],
      [new BalloonModel({ ramBytes: 1 << 22, hinting: true, reporting: true }), balloonDriver((balloon) => void balloon.report(1 << 16))],
    ] as const) {
      const { handle, virtio, arena, device } = bench(model, driver, format);
      const before = arena.base;
      expect(handle.failure).toBeNull();
      virtio.unregisterVirtioDevice(handle);
      expect([arena.freeBytes, before], model.name).toEqual([1 << 23, before]);
      expect(device.status).toBe(0);
    }
  });
});
