// # A driver that nobody here wrote
//
// SeaBIOS has drivers of its own for virtio disks, for each interface, in a few hundred lines that poll. It finds the disk on the bus, or in the ACPI tables, sets
// up a ring in the memory below one megabyte, and reads the first sector through it from 16-bit code. What it says about the way is in its log.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { RunResult } from '../../03-vcpu-loop/board.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { MemoryBlock, SECTOR_BYTES } from '../../05-pio-mmio/block/block.ts';
import { completeConfig, type MachineConfig } from '../../05-pio-mmio/machine/config.ts';
import '../../05-pio-mmio/machine/devices.ts';
import { Pc } from '../../05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import '../machine/device-types.ts';

const FIRMWARE = '/usr/share/seabios/bios-256k.bin';
const absent = existsSync(FIRMWARE) ? '' : ` (skipped: there is no ${FIRMWARE}; it is in Debian's package seabios)`;

const QEMU = 'qemu-system-x86_64';
const noQemu = spawnSync(QEMU, ['--version']).status === 0 ? '' : ` (skipped: there is no ${QEMU})`;
const QEMU_LIMIT_MS = 60_000;

/** The quick tests take a sample; `npm run test:all` takes all. */
const ALL = process.env.RINGBOOK_TESTS === 'all';

const INSTRUCTION_LIMIT = 60_000_000;
/** One cylinder is 1008 sectors; a disk that is smaller has none, and SeaBIOS reads nothing from it. */
const SECTORS = 2016;
const EXIT_VALUE = 21;

/** What SeaBIOS says when something is wrong, and what it says although nothing is. */
const COMPLAINTS = /warning|fail|error|unable|timeout|invalid|not found|no space|bad|unknown|can't|could not|out of/i;
// The last one is an empty window.
const HARMLESS = [/^No Xen hypervisor found/, /^No VGA found, scan for other display/, /^virtio-mmio: \w+: device id 0 \(unknown\)/];

/** A first sector that prints `text` on the serial port and leaves. */
function bootDisk(text: string): Uint8Array {
  // biome-ignore format: table
  const code = [
    0x31, 0xc0,             // xor ax, ax
    0x8e, 0xd8,             // mov ds, ax
    0xfc,                   // cld
    0xba, 0xf8, 0x03,       // mov dx, 0x3f8
    0xbe, 0x20, 0x7c,       // mov si, 0x7c20
    0xac,                   // lodsb
    0x84, 0xc0,             // test al, al
    0x74, 0x03,             // jz +3
    0xee,                   // out dx, al
    0xeb, 0xf8,             // jmp -8
    0xb0, EXIT_VALUE,       // mov al, EXIT_VALUE
    0xe6, 0xf4,             // out 0xf4, al
    0xf4,                   // hlt
  ];
  const disk = new Uint8Array(SECTORS * SECTOR_BYTES);
  disk.set(code);
  disk.set(new TextEncoder().encode(`${text}\0`), 0x20);
  disk.set([0x55, 0xaa], 510);
  return disk;
}

// Reads the last sector of the disk, turns every byte over, writes it back and reads it again, all by INT 13h with a packet; leaves with its first byte.
/** A first sector that works on the disk it came from. */
function workingDisk(): { readonly disk: Uint8Array; readonly last: Uint8Array } {
  const packet = 0x7c80;
  // biome-ignore format: table
  const code = [
    0x31, 0xc0,                         // xor ax, ax
    0x8e, 0xd8,                         // mov ds, ax
    0x8e, 0xc0,                         // mov es, ax
    0xfc,                               // cld
    0x88, 0x16, 0x00, 0x7d,             // mov [0x7d00], dl
    0xb4, 0x42,                         // mov ah, 0x42         read
    0xbe, packet & 0xff, packet >> 8,   // mov si, packet
    0xcd, 0x13,                         // int 0x13
    0x72, 0x24,                         // jc bad
    0xb9, 0x00, 0x02,                   // mov cx, 512
    0xbf, 0x00, 0x80,                   // mov di, 0x8000
    0xf6, 0x15,                         // flip: not byte [di]
    0x47,                               // inc di
    0xe2, 0xfb,                         // loop flip
    0xb8, 0x00, 0x43,                   // mov ax, 0x4300       write
    0x8a, 0x16, 0x00, 0x7d,             // mov dl, [0x7d00]
    0xcd, 0x13,                         // int 0x13
    0x72, 0x0f,                         // jc bad
    0xb4, 0x42,                         // mov ah, 0x42
    0x8a, 0x16, 0x00, 0x7d,             // mov dl, [0x7d00]
    0xcd, 0x13,                         // int 0x13
    0x72, 0x05,                         // jc bad
    0xa0, 0x00, 0x80,                   // mov al, [0x8000]
    0xe6, 0xf4,                         // out 0xf4, al
    0xb0, 0xff,                         // bad: mov al, 0xff
    0xe6, 0xf4,                         // out 0xf4, al
    0xf4,                               // hlt
  ];
  const disk = new Uint8Array(SECTORS * SECTOR_BYTES);
  disk.set(code);
  disk.set([16, 0, 1, 0, 0x00, 0x80, 0, 0, (SECTORS - 1) & 0xff, (SECTORS - 1) >> 8, 0, 0, 0, 0, 0, 0], packet - 0x7c00);
  disk.set([0x55, 0xaa], 510);
  const last = Uint8Array.from({ length: SECTOR_BYTES }, (_, at) => (at * 5 + 0xe0) & 0xff);
  disk.set(last, (SECTORS - 1) * SECTOR_BYTES);
  return { disk, last };
}

interface Booted {
  readonly result: RunResult;
  readonly log: readonly string[];
  readonly console: string;
  readonly instructions: number;
}

describe.skipIf(absent !== '')(`SeaBIOS and a virtio disk${absent}`, () => {
  let undo: (() => void)[] = [];
  afterEach(() => {
    for (const step of undo.reverse()) step();
    undo = [];
  });

  const boot = (
    bytes: Uint8Array,
    device: { readonly type: string; readonly [property: string]: string | number | boolean },
    more: MachineConfig = {},
  ): Booted => {
    const kernel = machineKernel({ memoryMiB: 64, cpus: 1, memory: more.memory ?? 'ept' });
    const log: number[] = [];
    const config = completeConfig({
      firmware: FIRMWARE,
      memoryMiB: 64,
      serial: ['null'],
      reboot: false,
      irqchip: 'off',
      drives: [{ id: 'disk', file: 'in memory' }],
      devices: [{ drive: 'disk', ...device }],
      ...more,
    });
    const pc = new Pc({
      kernel,
      config,
      firmware: new Uint8Array(readFileSync(FIRMWARE)),
      blocks: new Map([['disk', new MemoryBlock(bytes)]]),
      onDebug: (byte) => log.push(byte),
    });
    const machine = new Machine(pc.board);
    undo.push(() => machine.dispose());
    const { cpu } = kernel.hardware;
    const used = (): number => cpu.instructions - kernel.hardware.idleTicks;
    const result = machine.run({ exits: Number.POSITIVE_INFINITY, bounds: Number.POSITIVE_INFINITY, expired: () => used() > INSTRUCTION_LIMIT });
    const text = (all: ArrayLike<number>): string => new TextDecoder().decode(Uint8Array.from(all));
    return { result, log: text(log).split('\n'), console: text(pc.console), instructions: used() };
  };

  const MODERN = 'using modern (1.0) virtio mode';
  const LEGACY = 'using legacy (0.9.5) virtio mode';
  const WINDOW = 'found virtio-blk-mmio at 0xfeb03000';
  const judge = ({ result, log, console }: Booted, mode: string): void => {
    expect(result, log.slice(-10).join('\n')).toMatchObject({ end: 'debug-exit', exitCode: (EXIT_VALUE << 1) | 1 });
    expect(console).toBe('started');
    expect(log).toContain('Booting from 0000:7c00');
    expect(log.filter((line) => /virtio mode|found virtio-blk-mmio/.test(line)).map((line) => line.replace(/^pci dev \S+ /, ''))).toEqual([mode]);
    expect(log.filter((line) => COMPLAINTS.test(line) && !HARMLESS.some((harmless) => harmless.test(line)))).toEqual([]);
  };

  const types: readonly (readonly [string, Parameters<typeof boot>[1], string])[] = [
    ['transitional', { type: 'virtio-blk-pci-transitional' }, MODERN],
    ['non-transitional', { type: 'virtio-blk-pci-non-transitional' }, MODERN],
    ['from before the standard', { type: 'virtio-blk-pci', 'disable-modern': true }, LEGACY],
    [
      'with everything that can be offered',
      { type: 'virtio-blk-pci', packed: true, in_order: true, notification_data: true, suspend: true, 'num-queues': 4 },
      MODERN,
    ],
    ['in a window of memory', { type: 'virtio-blk-device' }, WINDOW],
    ['in a window from before the standard', { type: 'virtio-blk-device', 'force-legacy': true }, WINDOW],
  ];
  for (const [name, device, mode] of types) it(`boots from a disk ${name}`, () => judge(boot(bootDisk('started'), device), mode), 120_000);

  // A device does not see how the guest's memory is virtualized. What could differ is how its registers are reached: one of each kind.
  const shadowed = ALL ? /^(transitional|from before|in a window of)/ : /^in a window of/;
  for (const [name, device, mode] of types.filter(([name]) => shadowed.test(name)))
    it(`boots from a disk ${name}, memory by shadow`, () => judge(boot(bootDisk('started'), device, { memory: 'shadow' }), mode), 120_000);

  it('reads and writes by INT 13h, by either interface', () => {
    const ways: readonly Record<string, string | boolean>[] = [{ 'disable-modern': true }, { 'disable-legacy': 'on' }];
    for (const properties of ways) {
      const { disk, last } = workingDisk();
      const { result, log } = boot(disk, { type: 'virtio-blk-pci', ...properties });
      expect(result, log.slice(-10).join('\n')).toMatchObject({ end: 'debug-exit', exitCode: ((((last[0] as number) ^ 0xff) << 1) | 1) & 0x1ff });
      expect(disk.slice(-SECTOR_BYTES)).toEqual(last.map((byte) => byte ^ 0xff));
    }
  }, 120_000);

  it.skipIf(noQemu !== '')(
    `leaves the disk as QEMU's device leaves it${noQemu}`,
    () => {
      const { disk } = workingDisk();
      const folder = mkdtempSync(join(tmpdir(), 'ringbook-'));
      undo.push(() => rmSync(folder, { recursive: true }));
      const file = join(folder, 'disk.img');
      writeFileSync(file, disk);
      const options = ['-M', 'q35', '-accel', 'tcg', '-m', '64', '-display', 'none', '-nodefaults', '-bios', FIRMWARE];
      const drive = ['-drive', `id=d,file=${file},format=raw,if=none`, '-device', 'virtio-blk-pci,drive=d', '-device', 'isa-debug-exit,iobase=0xf4'];
      const { status } = spawnSync(QEMU, [...options, ...drive], { timeout: QEMU_LIMIT_MS });
      const { result } = boot(disk, { type: 'virtio-blk-pci' });
      expect(result.exitCode).toBe(status);
      expect(Buffer.compare(readFileSync(file), disk)).toBe(0);
    },
    2 * QEMU_LIMIT_MS,
  );

  it.skipIf(!ALL)(
    `does the same twice${ALL ? '' : ' (skipped: left to npm run test:all)'}`,
    () => {
      const once = boot(bootDisk('started'), { type: 'virtio-blk-pci' });
      const again = boot(bootDisk('started'), { type: 'virtio-blk-pci' });
      expect([again.instructions, again.log]).toEqual([once.instructions, once.log]);
    },
    120_000,
  );
});
