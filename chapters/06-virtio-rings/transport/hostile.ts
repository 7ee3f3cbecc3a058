// Test equipment: not a part of the book. A driver without sense or shame at the registers of one device, on any transport: any access, at any offset
// and width, with values that are now and then plausible; memory in which everything is random; time that passes. Whatever it does, the device must
// stay inside its memory, throw nothing, come to an end, and keep no more than it began with.

import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import type { Bus, Width } from '../../03-vcpu-loop/devices/bus.ts';
import { MemoryBlock } from '../../05-pio-mmio/block/block.ts';
import type { DeviceModel, VirtioDevice } from '../device.ts';
import { BalloonModel } from '../devices/balloon.ts';
import { BlockModel } from '../devices/block.ts';
import { ConsoleModel } from '../devices/console.ts';
import { EntropyModel } from '../devices/entropy.ts';
import { COMMON_CONFIG } from './common-config.ts';
import { mmioRig, pciRig, Recorder } from './laboratory.ts';
import { VIRTIO_MMIO } from './mmio.ts';
import { PLACE } from './pci.ts';
import { LEGACY_PCI } from './pci-legacy.ts';

/** How the device is reached. */
export const HOSTILE_TRANSPORTS = ['modern', 'transitional', 'legacy', 'mmio', 'mmio-legacy'] as const;
type HostileTransport = (typeof HOSTILE_TRANSPORTS)[number];
export const HOSTILE_MODELS = ['recorder', 'entropy', 'console', 'balloon', 'block'] as const;
type HostileModel = (typeof HOSTILE_MODELS)[number];

/** A small generator: the same seed, the same attack. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % below;
  };
}

/** Where accesses go. */
interface Target {
  readonly bus: Bus;
  readonly from: number;
  readonly bytes: number;
  /** Offsets of registers that matter, hit more often. */
  readonly registers: readonly { readonly offset: number; readonly bytes: number }[];
}

interface Victim {
  readonly device: VirtioDevice;
  readonly ram: Uint8Array;
  readonly targets: readonly Target[];
  readonly config: { read(offset: number, width: 1 | 2 | 4): number; write(offset: number, width: 1 | 2 | 4, value: number): void } | null;
  /** The regions' addresses are put right again. */
  readonly place: () => void;
}

function modelOf(kind: HostileModel, clock: TimerQueue): DeviceModel {
  if (kind === 'entropy') return new EntropyModel({ clock, maxBytes: 4096, periodMs: 1 });
  if (kind === 'console') return new ConsoleModel({ clock, maxPorts: 4, ports: [{ console: true }, { id: 2 }] });
  if (kind === 'balloon') return new BalloonModel({ clock, ramBytes: 1 << 20, hinting: true, reporting: true, deflateOnOom: true });
  if (kind === 'block')
    return new BlockModel({ clock, drive: new MemoryBlock(new Uint8Array(512 * 64)), secureErase: true, latency: (_type, bytes) => bytes });
  return new Recorder();
}

function victim(transport: HostileTransport, kind: HostileModel, clock: TimerQueue): Victim {
  const model = modelOf(kind, clock) as Recorder;
  const rows = (table: { readonly rows: Readonly<Record<string, { readonly offset: number; readonly bytes: number }>> }) => Object.values(table.rows);
  if (transport === 'mmio' || transport === 'mmio-legacy') {
    const rig = mmioRig({ model, legacy: transport === 'mmio-legacy' });
    const target: Target = { bus: rig.mmio, from: rig.WINDOW, bytes: 0x200, registers: rows(VIRTIO_MMIO) };
    return { device: rig.device, ram: rig.ram, targets: [target], config: null, place() {} };
  }
  const rig = pciRig({ model, modern: transport !== 'legacy', legacy: transport !== 'modern', vectors: 3 });
  const common: Target = { bus: rig.mmio, from: rig.BASE, bytes: 64, registers: rows(COMMON_CONFIG) };
  const notify: Target = {
    bus: rig.mmio,
    from: rig.BASE + PLACE.NOTIFY,
    bytes: 32,
    registers: [
      { offset: 0, bytes: 2 },
      { offset: 4, bytes: 2 },
    ],
  };
  const others: Target[] = [
    { bus: rig.mmio, from: rig.BASE, bytes: 0x4000, registers: [{ offset: PLACE.ISR, bytes: 1 }] },
    { bus: rig.mmio, from: rig.BASE + 0x100_0000, bytes: 0x1000, registers: [{ offset: 0xc, bytes: 4 }] },
  ];
  const ports: Target = { bus: rig.io, from: rig.PORTS, bytes: 64, registers: rows(LEGACY_PCI) };
  const memory = transport === 'legacy' ? [others[1] as Target] : [common, common, notify, ...others];
  return {
    device: rig.device,
    ram: rig.ram,
    targets: transport === 'modern' ? memory : [...memory, ports, ports],
    config: rig.config,
    place: rig.place,
  };
}

const WIDTHS = [1, 2, 4, 8] as const;

/** What an attack has come to. */
interface Damage {
  readonly operations: number;
  /** Kicks that reached the device, and how often it gave up. */
  readonly kicks: number;
  readonly failures: number;
  /** Timers that are armed at the end. */
  readonly timers: number;
}

/** Does `operations` things to one device. What the device throws is thrown. */
export function attack(transport: HostileTransport, kind: HostileModel, seed: number, operations: number): Damage {
  const next = random(seed * 2654435761 + HOSTILE_TRANSPORTS.indexOf(transport) * 97 + HOSTILE_MODELS.indexOf(kind) + 1);
  let now = 0;
  const clock = new TimerQueue(() => now);
  const { device, ram, targets, config, place } = victim(transport, kind, clock);
  const pick = <T>(items: readonly T[]): T => items[next(items.length)] as T;
  // Now and then a value that makes sense: a status, a page, a queue, an address inside memory.
  const sensible: (() => number)[] = [
    () => next(16),
    () => pick([0, 1, 3, 7, 11, 15, 31, 0x1b, 0x80]),
    () => next(256),
    () => 16 * next(ram.length / 16),
    () => 4096 * next(ram.length / 4096),
    () => pick([0, 1, 1 << 28, 1 << 29, (1 << 28) | (1 << 29), 5, 9, 13, 0x45, 0x805, 0x85d]),
    () => next(0xffff_ffff),
  ];
  const value = (): bigint => BigInt(pick(sensible)() >>> 0) | (next(8) === 0 ? BigInt(next(0xffff_ffff)) << 32n : 0n);
  for (let page = 0; page < ram.length; page += 4096) for (let byte = 0; byte < 64; byte++) ram[page + byte] = next(3) === 0 ? next(8) : 0;
  let failures = 0;
  let wasWell = true;
  for (let done = 0; done < operations; done++) {
    const what = next(16);
    if (what < 11) {
      const { bus, from, bytes, registers } = pick(targets);
      const register = next(4) > 0 ? pick(registers) : null;
      const offset = register ? register.offset : next(bytes);
      const width = (register && next(4) > 0 ? register.bytes : pick(WIDTHS)) as Width;
      const aligned = Math.min(offset, bytes - width);
      if (next(3) === 0) bus.read(from + aligned, width);
      else bus.write(from + aligned, width, value() & ((1n << BigInt(8 * width)) - 1n));
    } else if (what < 14) {
      const at = next(ram.length - 8);
      const many = next(16) === 0 ? 256 : 8;
      for (let byte = 0; byte < many && at + byte < ram.length; byte++) ram[at + byte] = next(4) === 0 ? next(256) : next(4);
    } else if (what === 14) {
      now += next(2_000_000);
      clock.runDue();
    } else if (config) {
      if (next(4) === 0) place();
      else if (next(2) === 0) config.write(next(256), pick([1, 2, 4]), Number(value() & 0xffff_ffffn));
      else config.read(next(256), pick([1, 2, 4]));
    } else orderly(device, next);
    if (next(200) === 0) orderly(device, next);
    const well = device.failure === null;
    if (wasWell && !well) failures++;
    wasWell = well;
    if (!well && next(50) === 0) device.reset();
  }
  return { operations, kicks: device.counts.kicks, failures, timers: clock.armed };
}

/** Brings the device up as a driver would, with its rings in random memory, so that what lies behind the registers is reached too. */
function orderly(device: VirtioDevice, next: (below: number) => number): void {
  device.setStatus(0);
  device.setStatus(3);
  device.setDriverFeatures(0, Number(device.offerTo(device.legacy) & 0xffff_ffffn) & (next(2) === 0 ? -1 : 0xffff));
  device.setDriverFeatures(1, 1 | (next(2) === 0 ? 4 : 0));
  device.setStatus(11);
  for (const queue of device.queues) {
    for (let half = 0; half < 6; half += 2) queue.setArea(half, 4096 * next(250));
    queue.enable();
  }
  device.setStatus(15);
  for (const { index } of device.queues) device.kick(index);
}
