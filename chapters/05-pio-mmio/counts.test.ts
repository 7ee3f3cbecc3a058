import { describe, expect, it } from 'vitest';
import { readImage } from '../../guest-payloads/host/images.ts';
import { findPayload } from '../../guest-payloads/index.ts';
import { Recorder, type Timed } from '../01-hardware-background/trace.ts';
import { Machine } from '../03-vcpu-loop/vmm.ts';
import { MemoryBlock, SECTOR_BYTES } from './block/block.ts';
import { cardTraffic, diskRequests } from './counts.ts';
import { completeConfig } from './machine/config.ts';
import './machine/devices.ts';
import { Pc } from './machine/pc.ts';
import { machineKernel } from './machine/soft-machine.ts';

/** Where in the trace the payload said that a stage begins; the end of the trace if it never did. */
function stageStart(events: readonly Timed[], stage: string): number {
  const wanted = `RB1 stage ${stage}\n`;
  let line = '';
  for (let at = 0; at < events.length; at++) {
    const event = events[at] as Timed;
    if (event.kind !== 'console') continue;
    line += String.fromCharCode(event.byte);
    if (line === wanted) return at;
    if (event.byte === 0x0a) line = '';
  }
  return events.length;
}

function run(name: string) {
  expect(findPayload(name)).toBeDefined();
  const trace = new Recorder();
  const disk = new MemoryBlock(Uint8Array.from({ length: 128 * SECTOR_BYTES }, (_, i) => (i * 7 + (i >> 9) * 31) & 0xff));
  const config = completeConfig({
    memoryMiB: 16,
    kernel: name,
    irqchip: 'off',
    reboot: false,
    serial: ['null'],
    drives: [{ id: 'disk', file: 'in memory' }],
    netdevs: [{ id: 'wire', type: 'echo' }],
    devices: [
      { type: 'ide-hd', drive: 'disk' },
      { type: 'e1000', netdev: 'wire' },
    ],
  });
  const before = disk.bytes.slice();
  const pc = new Pc({ kernel: machineKernel(config, { trace }), config, blocks: new Map([['disk', disk]]), trace });
  const machine = new Machine(pc.board);
  machine.load(readImage(name), pc.handover);
  const result = machine.run({ exits: 2_000_000, bounds: 100_000 });
  const console = new TextDecoder().decode(result.console);
  machine.shutdown();
  return { result, console, events: trace.events, dropped: trace.dropped, disk, before };
}

const filled = (seed: number): Uint8Array => Uint8Array.from({ length: SECTOR_BYTES }, (_, i) => (seed * 37 + i * 11 + (i >> 8) * 3) & 0xff);
const sectors = (bytes: Uint8Array, first: number, count: number): Uint8Array => bytes.slice(first * SECTOR_BYTES, (first + count) * SECTOR_BYTES);
/** FNV-1a, as the payload computes it. */
const checksum = (bytes: Uint8Array): string => bytes.reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193) >>> 0, 0x811c9dc5).toString(16);

describe('the disk, by its ports', () => {
  const { console, events, dropped, disk, before } = run('ide-pio');

  it('the guest and the host agree on what is on the disk', () => {
    expect(console).toMatch(/RB1 done\n$/);
    expect(console).toContain(`RB1 obs read.sector1 ${checksum(sectors(before, 1, 1))}\n`);
    expect(console).toContain(`RB1 obs read.all ${checksum(sectors(before, 1, 4))}\n`);
    for (const sector of [40, 41, 42, 43]) expect(sectors(disk.bytes, sector, 1)).toEqual(filled(sector));
    expect(sectors(disk.bytes, 0, 40)).toEqual(sectors(before, 0, 40));
    expect(sectors(disk.bytes, 44, 84)).toEqual(sectors(before, 44, 84));
  });

  it('a sector read is one exit by a string instruction, a sector written one for each word', () => {
    expect(dropped).toBe(0);
    const requests = diskRequests(events, 'disk');
    const reads = requests.filter(({ command }) => command === 'READ SECTORS');
    expect(reads[0]?.sectors).toBe(4);
    expect(reads[0]?.exits.data).toBe(4);
    const writes = requests.filter(({ command }) => command === 'WRITE SECTORS');
    expect(writes[0]?.sectors).toBe(2);
    expect(writes[0]?.exits.data).toBe(SECTOR_BYTES / 2 + SECTOR_BYTES / 4);
    for (const { exits } of requests) expect(exits.task).toBeGreaterThanOrEqual(5);
  });

  it('as a driver does it: six registers, and for each sector data, acknowledgement and two ends of interrupt', () => {
    const [read, write] = diskRequests(events.slice(stageStart(events, 'driver')), 'disk');
    expect(read).toMatchObject({ command: 'READ SECTORS', sectors: 4, exits: { task: 6, data: 4, master: 0, interrupt: 8 } });
    expect(write).toMatchObject({ command: 'WRITE SECTORS', sectors: 4, exits: { task: 6, data: 4 * 256, master: 0, interrupt: 8 } });
    expect(read?.exits.status).toBe(4 + 1); // the last one looks whether the disk is ready for the next request
    expect(read?.handled.kernel).toBe(0); // the controllers are in user space here
  });
});

describe('the disk, by its bus master', () => {
  const { console, events, disk, before } = run('ide-dma');

  it('the guest and the host agree on what is on the disk', () => {
    expect(console).toMatch(/RB1 done\n$/);
    expect(console).toContain(`RB1 obs read.all ${checksum(sectors(before, 1, 4))}\n`);
    for (const sector of [50, 51, 52]) expect(sectors(disk.bytes, sector, 1)).toEqual(filled(sector));
    expect(sectors(disk.bytes, 53, 75)).toEqual(sectors(before, 53, 75));
  });

  it('sixteen sectors cost no exit for data, and one interrupt', () => {
    const all = diskRequests(events, 'disk', 0xc000);
    expect(all.filter(({ command }) => command === 'READ DMA').map(({ sectors }) => sectors)).toEqual([4, 2, 16, 16, 16, 16, 16]);
    const requests = diskRequests(events.slice(stageStart(events, 'driver')), 'disk', 0xc000);
    expect(requests.length).toBe(4);
    for (const { exits } of requests) expect(exits).toEqual({ task: 6, status: 2, data: 0, master: 6, interrupt: 2 });
  });
});

describe('the network card', () => {
  const { console, events } = run('e1000');

  it('says all that it has to say', () => {
    expect(console).toMatch(/RB1 obs burst.complete 10\nRB1 done\n$/);
  });

  it('a frame there and back is one doorbell, one buffer returned, one interrupt with its cause read', () => {
    const { sent, received, interrupts, exits } = cardTraffic(events, 0xd000_0000, { from: stageStart(events, 'burst') });
    expect([sent, received, interrupts]).toEqual([16, 16, 16]);
    expect(exits).toEqual({ doorbell: 16, buffers: 16, causes: 16, other: 2, interrupt: 32 });
  });
});
