import { afterEach, describe, expect, it } from 'vitest';
import { Machine } from '../../../03-vcpu-loop/vmm.ts';
import { MemoryBlock } from '../../../05-pio-mmio/block/block.ts';
import { completeConfig } from '../../../05-pio-mmio/machine/config.ts';
import { Pc } from '../../../05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../../05-pio-mmio/machine/soft-machine.ts';
import '../../machine/device-types.ts';
import { BLK_S } from '../../devices/block-layout.ts';
import { F, features } from '../../features.ts';
import { MMIO_GPA } from '../../machine/mmio-windows.ts';
import { MMIO_BYTES } from '../../transport/mmio.ts';
import { type DriverBus, MemoryArena } from '../bus.ts';
import { type Balloon, balloonDriver } from '../drivers/balloon.ts';
import { type BlockDisk, blockDriver } from '../drivers/block.ts';
import { type Console, consoleDriver } from '../drivers/console.ts';
import { type EntropySource, entropyDriver } from '../drivers/entropy.ts';
import { machineBus } from '../machine-bus.ts';
import type { VirtioTransport } from '../transport.ts';
import { VirtioBus } from '../virtio-driver.ts';
import { probeMmio } from './mmio.ts';
import { findPciDevices } from './pci.ts';
import { configWindow } from './pci-config-window.ts';
import { pciFunctions } from './pci-function.ts';
import { virtioType } from './pci-modern.ts';

const KINDS = ['pci', 'transitional', 'legacy', 'mmio', 'mmio-legacy'] as const;
type Kind = (typeof KINDS)[number];
const SUFFIX: Readonly<Record<Kind, string>> = {
  pci: '-pci-non-transitional',
  transitional: '-pci-transitional',
  legacy: '-pci-transitional',
  mmio: '-device',
  'mmio-legacy': '-device',
};

const machines: Machine<Pc>[] = [];
afterEach(() => {
  for (const machine of machines.splice(0)) machine.dispose();
});

interface Setup {
  readonly bus: DriverBus;
  readonly transports: readonly VirtioTransport[];
  readonly drive: MemoryBlock;
  readonly arena: MemoryArena;
}

function setup(kind: Kind, options: Record<string, string | number | boolean> = {}): Setup {
  const drive = new MemoryBlock(new Uint8Array(256 * 512));
  const mmio = kind.startsWith('mmio');
  const own = mmio ? { 'force-legacy': kind === 'mmio-legacy', ...options } : options;
  const devices = [
    { type: `virtio-rng${SUFFIX[kind]}`, ...own },
    { type: `virtio-blk${SUFFIX[kind]}`, drive: 'd0', serial: 'e2e', ...own },
    { type: `virtio-serial${SUFFIX[kind]}`, max_ports: 3, ...own },
    { type: 'virtconsole' },
    { type: 'virtserialport', name: 'org.example.0' },
    { type: `virtio-balloon${SUFFIX[kind]}`, 'free-page-reporting': true, ...own },
  ];
  const config = completeConfig({ kernel: 'x', memoryMiB: 16, drives: [{ id: 'd0', file: 'd0', interface: 'none' }], devices } as never);
  const pc = new Pc({ kernel: machineKernel(config), config, blocks: new Map([['d0', drive]]) });
  const machine = new Machine(pc.board);
  machines.push(machine as Machine<Pc>);
  const arena = new MemoryArena(machine.ram.subarray(4 << 20, 12 << 20), 4 << 20);
  const bus = machineBus({ ports: pc.ports, mmio: pc.mmio, dma: arena });
  const found = mmio
    ? Array.from({ length: 8 }, (_, index) => probeMmio(bus, MMIO_GPA + index * MMIO_BYTES)).filter((each) => each !== null)
    : findPciDevices(bus, { legacy: kind === 'legacy', space: { port: 0xc000, memory: 0xe000_0000 } }).map(({ transport }) => transport);
  const transports = found.filter((each) => typeof each !== 'string');
  expect(found.filter((each) => typeof each === 'string')).toEqual([]);
  return { bus, transports, drive, arena };
}

const rings = ['split', 'packed'] as const;
const cases = KINDS.flatMap((kind) =>
  rings.filter((ring) => ring === 'split' || kind === 'pci' || kind === 'mmio').map((ring) => [kind, ring] as const),
);

describe.each(cases)('all devices by %s, %s', (kind, ring) => {
  const legacy = kind === 'legacy' || kind === 'mmio-legacy';
  const all = { packed: ring === 'packed' };

  it('work', () => {
    const { transports, bus, drive, arena } = setup(kind, all);
    expect(transports.map(({ deviceId }) => deviceId)).toEqual([4, 2, 3, 5]);
    expect(transports.every((each) => each.legacy === legacy)).toBe(true);
    const virtio = new VirtioBus();
    let source = null as EntropySource | null;
    let disk = null as BlockDisk | null;
    let console = null as Console | null;
    let balloon = null as Balloon | null;
    virtio.registerVirtioDriver(
      entropyDriver((each) => {
        source = each;
      }),
    );
    virtio.registerVirtioDriver(
      blockDriver((each) => {
        disk = each;
      }),
    );
    virtio.registerVirtioDriver(
      consoleDriver((each) => {
        console = each;
      }),
    );
    virtio.registerVirtioDriver(
      balloonDriver(
        (each) => {
          balloon = each;
        },
        { numbering: 'dense', statistics: () => ({ MEMTOT: 1 }) },
      ),
    );
    const handles = transports.map((each) => virtio.registerVirtioDevice(each));
    expect(handles.map(({ failure }) => failure)).toEqual([null, null, null, null]);
    for (const handle of handles) {
      expect(handle.has(F.VERSION_1)).toBe(!legacy);
      expect(handle.has(F.RING_PACKED)).toBe(all.packed);
      expect(handle.has(F.EVENT_IDX)).toBe(true);
      expect(handle.transport.getStatus()).toBe(legacy ? 7 : 15);
    }
    const random = new Uint8Array(300);
    expect(source?.read(random)).toBe(300);
    expect(new Set(random).size).toBeGreaterThan(50);
    const data = Uint8Array.from({ length: 8 * 512 }, (_, at) => (at * 7) & 0xff);
    expect(disk?.capacity).toBe(256);
    expect(disk?.write(9, data)).toBe(BLK_S.OK);
    expect(drive.bytes.subarray(9 * 512, 17 * 512)).toEqual(data);
    const back = new Uint8Array(data.length);
    expect(disk?.read(9, back)).toBe(BLK_S.OK);
    expect(back).toEqual(data);
    expect(disk?.id).toBe('e2e');
    for (let n = 0; n < 20; n++) {
      bus.relax();
      for (const handle of handles) handle.interrupt();
      console?.poll();
    }
    expect([...(console?.ports.values() ?? [])].map(({ id, isConsole, name }) => ({ id, isConsole, name }))).toEqual([
      { id: 0, isConsole: true, name: '' },
      { id: 1, isConsole: false, name: 'org.example.0' },
    ]);
    expect(console?.ports.get(0)?.write(Uint8Array.of(65, 66))).toBe(2);
    expect([balloon?.actual, balloon?.target]).toEqual([0, 0]);
    if (!legacy) expect(balloon?.report(8192)).toBe(8192);
    for (const handle of handles) virtio.unregisterVirtioDevice(handle);
    expect(arena.freeBytes).toBe(8 << 20);
    expect(transports.map((each) => each.getStatus())).toEqual([0, 0, 0, 0]);
  });

  if (!legacy)
    it('work with everything that can be negotiated, and through a ring reset', () => {
      const { transports } = setup(kind, {
        ...all,
        in_order: true,
        queue_reset: true,
        suspend: true,
        ...(kind === 'mmio' ? {} : { notification_data: true }),
      });
      const virtio = new VirtioBus();
      let disk = null as BlockDisk | null;
      virtio.registerVirtioDriver(
        blockDriver((each) => {
          disk = each;
        }),
      );
      const [, handle] = transports.map((each) => virtio.registerVirtioDevice(each));
      expect(handle?.failure).toBeNull();
      expect(handle?.has(F.IN_ORDER)).toBe(true);
      expect(handle?.has(F.RING_RESET)).toBe(true);
      const sector = new Uint8Array(512).fill(7);
      expect(disk?.write(0, sector)).toBe(BLK_S.OK);
      const [queue] = handle?.queues ?? [];
      queue?.resize(ring === 'packed' ? 13 : 16, () => expect.fail('nothing was in flight'));
      expect(queue?.size).toBe(ring === 'packed' ? 13 : 16);
      for (let n = 0; n < 50; n++) expect(disk?.read(0, sector)).toBe(BLK_S.OK);
      expect(handle?.suspend()).toBe(true);
      expect(disk?.read(0, sector)).toBe('busy');
      expect(handle?.resume()).toBe(true);
      expect(disk?.read(0, sector)).toBe(BLK_S.OK);
    });

  it('work with nothing that need not be negotiated', () => {
    const { transports } = setup(kind, all);
    const virtio = new VirtioBus({ want: ring === 'packed' ? features(F.RING_PACKED) : 0n });
    let disk = null as BlockDisk | null;
    virtio.registerVirtioDriver(
      blockDriver((each) => {
        disk = each;
      }),
    );
    const [, handle] = transports.map((each) => virtio.registerVirtioDevice(each));
    expect(handle?.failure).toBeNull();
    expect(handle?.has(F.EVENT_IDX)).toBe(false);
    const sector = new Uint8Array(512);
    for (let n = 0; n < 50; n++) expect(disk?.read(n, sector)).toBe(BLK_S.OK);
  });
});

it('the window in configuration space leads to the same registers', () => {
  const { bus, transports } = setup('pci');
  transports[0]?.setStatus(1);
  const [access] = pciFunctions(bus).filter((each) => virtioType(each) !== null);
  const window = access ? configWindow(access, 4) : null;
  if (!window) expect.fail('there is no window');
  expect(window.read(20, 1)).toBe(1);
  window.write(20, 1, 3);
  expect(transports[0]?.getStatus()).toBe(3);
  expect(window.read(18, 2)).toBe(1);
  expect(() => window.read(2, 4)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  expect(() => window.read(0x800, 4)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
});
