// # Software that nobody here wrote
//
// SeaBIOS, as Debian ships it, from the reset vector to the first sector of a disk. It probes everything that this chapter has: the chipset's windows, the
// shadow RAM, every PCI function, the clock chip, the keyboard controller, both timers, the other processors, the disk through its own driver. Its log
// says what it found, and it complains where it found something wrong.

import { existsSync, readFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { HostKernel, hostKernelAvailable } from '../../02-kvm-objects/host/host-kernel.ts';
import type { Kernel } from '../../02-kvm-objects/kernel.ts';
import { Kvm } from '../../02-kvm-objects/kvm.ts';
import type { RunResult } from '../../03-vcpu-loop/board.ts';
import { HostMachine } from '../../03-vcpu-loop/host/host-machine.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { MemoryBlock } from '../block/block.ts';
import { completeConfig, type MachineConfig } from '../machine/config.ts';
import '../machine/devices.ts';
import { buildMachine } from '../machine/machine-types.ts';
import type { Mainboard } from '../machine/mainboard.ts';
import { machineKernel } from '../machine/soft-machine.ts';

const FIRMWARE = '/usr/share/seabios/bios-256k.bin';
const absent = existsSync(FIRMWARE) ? '' : ` (skipped: there is no ${FIRMWARE}; it is in Debian's package seabios)`;
const host = hostKernelAvailable();

/** The quick tests take a sample; `npm run test:all` takes all. */
const ALL = process.env.RINGBOOK_TESTS === 'all';

const INSTRUCTION_LIMIT = 60_000_000;
const HOST_LIMIT_MS = 120_000;

/** What SeaBIOS says when something is wrong. */
const COMPLAINTS = /warning|fail|error|unable|timeout|invalid|not found|no space|bad|unknown|can't|could not|out of/i;
/** What it says although nothing is: it looks for Xen, and for devices that a machine need not have. */
const HARMLESS = [/^No Xen hypervisor found/, /^No VGA found, scan for other display/];

/** A sector that says who it is and leaves: `mov dx,0x3f8; mov si,msg; loop: lodsb; test al,al; jz out; out dx,al; jmp loop; out: mov al,21; out 0xf4,al`. */
function bootSector(text: string): Uint8Array {
  const code = [
    0x31, 0xc0, 0x8e, 0xd8, 0xfc, 0xba, 0xf8, 0x03, 0xbe, 0x20, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xb0, 21, 0xe6, 0xf4, 0xf4,
  ];
  const disk = new Uint8Array(64 * 512);
  disk.set(code);
  disk.set(new TextEncoder().encode(`${text}\0`), 0x20);
  disk.set([0x55, 0xaa], 510);
  return disk;
}

interface Booted {
  readonly result: RunResult;
  readonly log: readonly string[];
  readonly console: string;
  readonly instructions: number;
}

describe.skipIf(absent !== '')(`SeaBIOS${absent}`, () => {
  let undo: (() => void | Promise<void>)[] = [];
  afterEach(async () => {
    for (const step of undo.reverse()) await step();
    undo = [];
  });

  const machineOf = (kernel: Kernel, config: MachineConfig): { pc: Mainboard; log: number[] } => {
    const log: number[] = [];
    const complete = completeConfig({
      firmware: FIRMWARE,
      memoryMiB: 64,
      serial: ['null'],
      reboot: false,
      drives: [{ id: 'disk', file: 'in memory' }],
      devices: [{ type: 'ide-hd', drive: 'disk', bus: 'ide.0', unit: 0 }, { type: 'e1000' }],
      ...config,
    });
    const pc = buildMachine({
      kernel,
      config: complete,
      firmware: new Uint8Array(readFileSync(FIRMWARE)),
      blocks: new Map([['disk', new MemoryBlock(bootSector('started'))]]),
      onDebug: (byte) => log.push(byte),
    });
    return { pc, log };
  };
  const linesOf = (log: readonly number[]): string[] => new TextDecoder().decode(Uint8Array.from(log)).split('\n');

  const boot = (config: MachineConfig): Booted => {
    const kernel = machineKernel({ memoryMiB: 64, cpus: config.cpus ?? 1, memory: config.memory ?? 'ept' });
    const { pc, log } = machineOf(kernel, config);
    const machine = new Machine(pc.board);
    undo.push(() => machine.dispose());
    const result = machine.run({
      exits: Number.POSITIVE_INFINITY,
      bounds: Number.POSITIVE_INFINITY,
      expired: () => kernel.hardware.cpu.instructions - kernel.hardware.idleTicks > INSTRUCTION_LIMIT,
    });
    const { cpu, idleTicks } = kernel.hardware;
    return { result, log: linesOf(log), console: new TextDecoder().decode(pc.console), instructions: cpu.instructions - idleTicks };
  };
  const judge = ({ result, log, console }: Omit<Booted, 'instructions'>, cpus: number): void => {
    expect(result, log.slice(-10).join('\n')).toMatchObject({ end: 'debug-exit', exitCode: (21 << 1) | 1 });
    expect(console).toBe('started');
    expect(log).toContain(`Found ${cpus} cpu(s) max supported ${cpus} cpu(s)`);
    expect(log).toContain('Booting from 0000:7c00');
    expect(log.filter((line) => COMPLAINTS.test(line) && !HARMLESS.some((harmless) => harmless.test(line)))).toEqual([]);
  };

  const inKernel = ((): boolean => {
    const kvm = Kvm.open(machineKernel({ memoryMiB: 2, cpus: 1, memory: 'ept' }));
    return kvm.checkExtension(CAP.KVM_CAP_IRQCHIP) > 0;
  })();
  const irqchips = (['on', 'split', 'off'] as const).filter((irqchip) => irqchip === 'off' || inKernel);

  // The quick tests boot two processors with the controllers in the kernel, and below one with them in user space.
  for (const irqchip of irqchips.filter((where) => ALL || where === irqchips[0])) {
    for (const cpus of ALL ? [1, 2] : [2]) {
      it(`boots a disk on ${cpus} processor(s), interrupt controllers in the kernel: ${irqchip}`, () => judge(boot({ irqchip, cpus }), cpus), 60_000);
    }
  }
  for (const cpus of ALL ? [1, 2] : [1])
    it(`boots a disk on the older board, ${cpus} processor(s)`, () => judge(boot({ machine: { type: 'pc' }, cpus }), cpus), 60_000);
  it('boots a disk under shadow paging', () => judge(boot({ memory: 'shadow', irqchip: irqchips[0] as 'on' | 'off' }), 1), 120_000);
  it.skipIf(!ALL)(
    `does the same twice${ALL ? '' : ' (skipped: left to npm run test:all)'}`,
    () => {
      const [once, again] = [boot({ cpus: 2, irqchip: 'off' }), boot({ cpus: 2, irqchip: 'off' })];
      expect(again.instructions).toBe(once.instructions);
      expect(again.log).toEqual(once.log);
    },
    60_000,
  );

  it('finds what there is, and hands the ACPI tables on', () => {
    const booted = boot({ irqchip: 'off' });
    judge(booted, 1);
    const { log } = booted;
    const text = log.join('\n');
    expect(text).toContain('Running on QEMU (q35)');
    expect(text).toContain('PCIe: using q35 mmconfig at 0xb0000000');
    expect(text).toMatch(/PCI: init bdf=00:01\.0 id=8086:100e/);
    expect(text).toMatch(/ata0-0: RINGBOOK DISK ATA-6 Hard-Disk/);
    expect(text).toMatch(/table\(50434146\)=0x[0-9a-f]+ \(via xsdt\)/);
    expect(text).toContain('PS2 keyboard initialized');
  }, 60_000);

  // The reset control register, as the guest's own "reboot" would use it: mov dx,0xcf9; mov al,6; out dx,al.
  it('starts again after a reset, with memory as it was', () => {
    const kernel = machineKernel({ memoryMiB: 64, cpus: 1, memory: 'ept' });
    const { pc, log } = machineOf(kernel, { irqchip: 'off', reboot: true });
    const machine = new Machine(pc.board);
    undo.push(() => machine.dispose());
    // inc byte [0x600]; cmp byte [0x600],3; jae leave; mov dx,0xcf9; mov al,6; out dx,al; hlt; leave: mov al,[0x600]; out 0xf4,al
    const sector = [
      0x31, 0xc0, 0x8e, 0xd8, 0xfe, 0x06, 0x00, 0x06, 0x80, 0x3e, 0x00, 0x06, 0x03, 0x73, 0x07, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xa0, 0x00,
      0x06, 0xe6, 0xf4,
    ];
    const disk = bootSector('');
    disk.set(sector);
    pc.block('disk').write(0, disk.subarray(0, 512));
    const result = machine.run({ exits: 1e6, bounds: 1000, reboot: true });
    expect(result).toMatchObject({ end: 'debug-exit', exitCode: (3 << 1) | 1 });
    expect(linesOf(log).filter((line) => line === 'Booting from 0000:7c00').length).toBe(3);
  }, 120_000);

  // On a host whose KVM emulates the guest's kernel code this takes half a minute, so it is done once.
  const hostReason = !ALL ? ' (skipped: left to npm run test:all)' : host.available ? '' : ` (skipped: ${host.reason})`;
  it.skipIf(hostReason !== '')(
    `boots a disk on the host's KVM, on 2 processors${hostReason}`,
    async () => {
      const kernel = new HostKernel();
      undo.push(() => kernel.dispose());
      const { pc, log } = machineOf(kernel, { accel: 'kvm', cpus: 2 });
      const machine = await HostMachine.create({ ...pc.board, kernel });
      undo.push(() => machine.shutdown());
      const result = await machine.run({ timeoutMs: HOST_LIMIT_MS });
      judge({ result, log: linesOf(log), console: new TextDecoder().decode(pc.console) }, 2);
    },
    2 * HOST_LIMIT_MS,
  );
});
