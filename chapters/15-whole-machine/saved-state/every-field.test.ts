// # A field that no table names
//
// It is what one forgets. So machines are built with whatever there is, everything in them is visited, and each class that turns up is looked for in the source:
// a field that is not `readonly`, or that holds a collection, is named in the class's table, or here, with the reason why it need not be.

import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { MachineConfig } from '../../05-pio-mmio/machine/config.ts';
import { census } from './host/laboratory.ts';
import { Subject } from './laboratory.ts';

const CHAPTERS = new URL('../../', import.meta.url);
/** Where a machine's parts come from: not the kernel, whose state KVM's requests give, and not the processor. */
const PLACES = ['03-vcpu-loop', '05-pio-mmio', '06-virtio-rings', '15-whole-machine'];
/** Not entered: the kernel and the processor below the machine, clocks, and who listens. */
const BELOW = new Set([
  ...['Recorder', 'SoftVm', 'SoftVcpu', 'Hardware', 'Cpu', 'SoftKernel', 'VcpuLoop', 'Engine', 'Kvm', 'Vm', 'Vcpu', 'VirtualClock', 'PhysicalMemory'],
  ...['FileTable', 'IoctlTable', 'RunnableKernel', 'TypeRegistry'],
]);

const everything: MachineConfig = {
  memoryMiB: 16,
  drives: [
    { id: 'd', file: 'given', snapshot: true },
    { id: 'c', file: 'given', readonly: true },
    { id: 'v', file: 'given' },
  ],
  netdevs: [{ id: 'n', type: 'echo' }],
  devices: [
    { type: 'ide-hd', drive: 'd' },
    { type: 'ide-cd', drive: 'c' },
    { type: 'e1000', netdev: 'n' },
    { type: 'virtio-blk-pci', drive: 'v' },
    { type: 'virtio-rng-pci' },
    { type: 'virtio-balloon-pci' },
    { type: 'virtio-serial-pci' },
    { type: 'virtconsole' },
  ],
};
const MACHINES: readonly (readonly [config: MachineConfig, payload: string, turns: number])[] = [
  [{ ...everything, irqchip: 'off', cpus: 2 }, 'hello', 3],
  [{ ...everything, irqchip: 'split', machine: { type: 'pc' } }, 'hello', 3],
  [{ memoryMiB: 16, devices: [{ type: 'virtio-rng-pci' }] }, 'virtio-entropy', 200],
  [
    { memoryMiB: 16, drives: [{ id: 'd', file: 'given' }], devices: [{ type: 'virtio-blk-pci-non-transitional', drive: 'd', packed: true }] },
    'virtio-block',
    400,
  ],
  [{ memoryMiB: 16, machine: { type: 'microvm', pit: true, rtc: true }, devices: [{ type: 'virtio-rng-device' }] }, 'hello', 3],
];

const MADE = 'made with the machine, and never changed';
const FOLLOWS = 'follows from the configuration space, whose restoration tells it';
const OUTPUT = 'what has been said, for whoever looks';
const CACHE = 'only says where to look first';
const QUIET = 'empty whenever a machine can be saved';
const TOLD = 'what the kernel was told, and is told again by those that are restored';
const RETAKEN = 'taken again with the chains that are held';
const SCRATCH = 'filled and read within one call';

const BESIDES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  ApicBus: { '#receivers': MADE, '#listeners': MADE },
  Areas: { '#words': MADE },
  AtaChannel: { '#listener': MADE },
  BalloonModel: { '#discard': MADE, '#device': MADE, queueSizes: MADE },
  Bar: { '#region': FOLLOWS },
  BlockModel: { queueSizes: MADE },
  Bus: { '#order': MADE, '#map': CACHE, '#last': CACHE, '#placed': FOLLOWS },
  BusMasterMemory: { '#fn': MADE },
  ConfigSpace: { '#writable': MADE, '#initial': MADE, '#clearing': MADE, '#readHooks': MADE },
  ConsoleModel: { queueSizes: MADE },
  DebugConsole: { '#output': OUTPUT },
  Dma8237: { postCodes: OUTPUT },
  EntropyModel: { '#waiting': QUIET, queueSizes: MADE },
  GsiTable: { '#vm': MADE, '#lines': TOLD, '#messages': TOLD },
  KernelController: { '#powerOn': MADE, '#vm': MADE },
  KernelMsi: { '#vm': MADE },
  Lines: { '#wires': MADE },
  LocalApic: { x2apicAllowed: 'follows from CPUID' },
  LpcBridge: { '#pm': MADE },
  Machine: { '#stopped': 'its caller’s wish' },
  MemoryBlock: { flushes: OUTPUT },
  Pc: { '#ideDrives': MADE },
  PcMemory: {
    '#board': MADE,
    '#last': CACHE,
    '#addedBytes': 'goes with what was added, which is refused',
    '#mapped': 'what the kernel was told: follows from the areas',
    '#modes': FOLLOWS,
  },
  PciBus: { '#functions': MADE },
  Pic: { ports: MADE },
  Piix4Pm: { '#pm': MADE },
  PiixIde: { channels: MADE },
  PirqRouter: { '#apic': MADE, '#isa': MADE },
  QueuedTimer: { at: 'saved by whoever has the timer', order: 'saved by whoever has the timer, as its rank' },
  Region: { '#start': FOLLOWS, '#bytes': FOLLOWS },
  Scratch: { accesses: OUTPUT },
  Serial: { lost: OUTPUT, '#output': OUTPUT },
  SplitController: { '#powerOn': MADE, '#vm': MADE, '#routed': TOLD },
  SplitRing: { '#held': RETAKEN, '#holding': RETAKEN },
  PackedRing: { '#held': RETAKEN },
  WordArea: { '#u16': MADE, '#u32': MADE },
  Transmitter: { '#bytes': SCRATCH },
  UserController: { '#current': 'told before each entry', '#processors': MADE },
  VirtioDevice: {
    '#mayReach': FOLLOWS,
    '#deferred': QUIET,
    '#suspending': QUIET,
    '#suspensions': 'tells a late answer from a present one',
    '#rebuilding': 'during a restoration',
  },
  WireEnd: { dropped: OUTPUT },
};

interface Source {
  readonly file: string;
  readonly body: string;
}

/** The classes of those chapters, by name; a name may have several. */
const sources = new Map<string, Source[]>();
for (const place of PLACES)
  for (const entry of readdirSync(new URL(`${place}/`, CHAPTERS), { recursive: true, encoding: 'utf8' })) {
    if (!entry.endsWith('.ts') || /\.test\.ts$|laboratory|(^|\/)(host|figures|driver)\//.test(entry)) continue;
    const text = readFileSync(new URL(`${place}/${entry}`, CHAPTERS), 'utf8');
    for (const { 1: name, index } of text.matchAll(/^(?:export )?(?:abstract )?class (\w+)/gm))
      sources.set(name as string, [
        ...(sources.get(name as string) ?? []),
        { file: `${place}/${entry}`, body: text.slice(index, text.indexOf('\n}', index)) },
      ]);
  }

const declares = (body: string, field: string, as = ''): boolean => new RegExp(`^ {2}(?:protected |private )?${as}${field}\\b`, 'm').test(body);

/** The class among several of a name that has these private fields. */
function sourceOf(name: string, fields: readonly string[]): Source | undefined {
  const found = sources.get(name) ?? [];
  const own = fields.filter((field) => field.startsWith('#'));
  return found.find(({ body }) => own.every((field) => declares(body, field, '(?:readonly )?'))) ?? found[0];
}

const visited = (() => {
  const all = new Map<string, Map<string, Set<string>>>();
  for (const [config, payload, turns] of MACHINES) {
    const image = readFileSync(new URL(`../guest-payloads/images/${payload}.elf`, CHAPTERS));
    const subject = new Subject({ config, image });
    try {
      subject.run(turns);
      for (const [name, fields] of census([subject.machine], BELOW).fields) {
        const known = all.get(name) ?? new Map<string, Set<string>>();
        for (const [field, held] of fields) known.set(field, new Set([...(known.get(field) ?? []), ...held]));
        all.set(name, known);
      }
    } finally {
      subject.dispose();
    }
  }
  return all;
})();

const forgotten = (name: string): string[] => {
  const fields = visited.get(name) ?? new Map<string, Set<string>>();
  const source = sourceOf(name, [...fields.keys()]);
  if (!source) return [];
  const { body } = source;
  // A ring is made again by its queue, which asks for what is in a `RingState`.
  const ring = /^ {2}get state\(\): RingState[\s\S]*?^ {2}goOn\([\s\S]*?^ {2}\}/m.exec(body)?.[0] ?? '';
  const from = body.search(/^ {2}static readonly STATE/m);
  const table = ring + (from < 0 ? '' : body.slice(from));
  const changing = [...fields].filter(([field, held]) => {
    if (!declares(body, field, '(?:readonly )?')) return false; // an ancestor's, which is visited there
    return held.has('collection') || !declares(body, field, 'readonly ');
  });
  const named = (field: string): boolean => new RegExp(`(?<![\\w#])${field}\\b`).test(table) || BESIDES[name]?.[field] !== undefined;
  return changing.map(([field]) => field).filter((field) => !named(field));
};

describe('every field that changes', () => {
  it('is visited', () => {
    // Some that are deep inside, and that nobody exports.
    for (const name of ['Rtc', 'Outbox', 'Counter', 'DelayedCause', 'WireEnd', 'SplitRing', 'PackedRing', 'EventDevice', 'MovableWire'])
      expect([...visited.keys()]).toContain(name);
  });
  it.each([...visited.keys()].filter((name) => sources.has(name)).toSorted())('of %s is named', (name) => expect(forgotten(name)).toEqual([]));
  it('that is excused is there', () => {
    const excused = Object.entries(BESIDES).flatMap(([name, fields]) => Object.keys(fields).map((field) => [name, field] as const));
    const gone = excused.filter(([name, field]) => !visited.get(name)?.has(field)).map((pair) => pair.join('.'));
    expect(gone).toEqual([]);
  });
});
