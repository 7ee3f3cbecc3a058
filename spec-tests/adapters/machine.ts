// # Our own monitor on a kernel
//
// The embedded machine and the host's /dev/kvm differ in one object: the kernel. Everything above it (chapter 5's PC, the script player) is the same
// code, so a difference between the two columns of the results is a difference between two kernels and nothing else.

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import type { Trace } from '../../chapters/01-hardware-background/trace.ts';
import type { Kernel } from '../../chapters/02-kvm-objects/kernel.ts';
import type { Board, BoardOptions, RunResult } from '../../chapters/03-vcpu-loop/board.ts';
import type { Chassis, End as MachineEnd } from '../../chapters/03-vcpu-loop/chassis.ts';
import type { DoorName } from '../../chapters/03-vcpu-loop/doors.ts';
import { ImageError } from '../../chapters/03-vcpu-loop/elf.ts';
import { Mainboard } from '../../chapters/05-pio-mmio/machine/mainboard.ts';
import type { DeviceSession } from '../device-script/wire.ts';
import type { Adapter, Door, End, RanGuest, RunDevice, RunGuest, RunReply, RunRequest, Started, Unavailable } from '../types.ts';
import { hex } from '../values.ts';
import { type BoardName, caseBoard } from './case-machine.ts';
import { PausedMachine } from './device-machine.ts';
import { executeScript } from './kvm-execute.ts';
import { TraceDigest } from './trace-digest.ts';

/** The suite's names for doors, in the monitor's words. A disk is firmware's to read. */
const DOORS: Readonly<Record<Door, DoorName | null>> = { multiboot: 'multiboot', pvh: 'pvh', long: 'long', disk: null };

// The firmware is SeaBIOS, from wherever the host's distribution puts it.

const FIRMWARE_PLACES = ['/usr/share/seabios/bios-256k.bin', '/usr/share/qemu/bios-256k.bin'];
/** The firmware for the disk door; null when the host has none. */
const findFirmware = (): string | null => FIRMWARE_PLACES.find((path) => existsSync(path)) ?? null;
/** Less is not enough for firmware. */
const FIRMWARE_MIB = 16;

/** Ends that the protocol has no name for are an internal error with a detail: they can only come from a defect of ours. */
const ENDS: Readonly<Partial<Record<MachineEnd, End>>> = {
  'debug-exit': 'debug-exit',
  halt: 'halt',
  'triple-fault': 'triple-fault',
  timeout: 'timeout',
  reset: 'reset',
  shutdown: 'soft-off',
  'fail-entry': 'fail-entry',
  'internal-error': 'internal-error',
};

// ## What the monitor has, whatever kernel is below it

const FIRMWARE = findFirmware();

/** What the kernel has no part in. */
export const MONITOR: Pick<Started, 'capabilities' | 'missing'> = {
  capabilities: [
    ...['door-multiboot', 'door-pvh', 'door-long', 'serial-input', 'debug-exit', 'notices-halt', 'reset'],
    ...['scratch-pio', 'scratch-mmio', 'inject', 'inject-nmi', 'uart', 'smp2', 'smp2-shared'],
    ...['lapic', 'pic', 'pit', 'ioapic', 'rtc', 'pci', 'acpi', 'ide', 'ide-dma', 'e1000', 'q35', 'i8042', 'soft-off', 'fw-cfg'],
    ...['virtio-entropy', 'virtio-console', 'virtio-balloon', 'virtio-block'],
    ...['virtio-pci', 'virtio-transitional', 'virtio-mmio', 'virtio-mmio-legacy', 'ring-packed'],
    ...(FIRMWARE ? ['door-disk'] : []),
  ],
  missing: FIRMWARE ? {} : { 'door-disk': `there is no firmware at ${FIRMWARE_PLACES.join(' or ')}` },
};

/** What chapter 3's two machines have in common. Each knows the limits that it can measure. */
type Runner = Board<Chassis> & {
  run(limits: { exits: number; bounds: number; timeoutMs: number; expired: () => boolean }): RunResult | Promise<RunResult>;
};

/** How big a kernel a case needs. */
export interface KernelSize {
  readonly memoryMiB: number;
  readonly cpus: number;
  /** What the guest needs of its processor. */
  readonly needs?: readonly string[];
}

const SCRIPT_SIZE: KernelSize = { memoryMiB: 16, cpus: 1 };

export interface MachineOptions {
  /** The board of the guests; the usual one when absent. */
  readonly boardName?: BoardName;
  /** Everything that can only be known by looking: called once, at the start. */
  readonly probe: () => Unavailable | Omit<Started, 'type' | 'protocol'>;
  /** A fresh kernel for each case: no state survives. */
  readonly makeKernel: (trace: Trace | null, size: KernelSize) => Kernel;
  /** Who runs the processors: in turn in this thread, or each in a thread of its own. */
  readonly makeMachine: <C extends Chassis>(options: BoardOptions<C>) => Runner | Promise<Runner>;
  /** Guest instructions that a kernel has executed, where they are counted: then runs are deterministic, and the trace has a digest to promise. */
  readonly executed: ((kernel: Kernel) => number) | null;
  /** Guests are traced, where instructions are counted. A processor that nobody watches may take shorter ways, so this decides what is judged. */
  readonly traced?: boolean;
}

export class MachineAdapter implements Adapter {
  readonly #options: MachineOptions;

  constructor(options: MachineOptions) {
    this.#options = options;
  }

  async start(): Promise<Started | Unavailable> {
    const found = this.#options.probe();
    return 'type' in found ? found : { type: 'started', protocol: 1, ...found };
  }

  async run(request: RunRequest): Promise<RunReply> {
    if (request.surface === 'kvm') return executeScript(this.#options.makeKernel(null, SCRIPT_SIZE), request);
    return this.#boot(request);
  }

  async open(request: RunDevice): Promise<DeviceSession> {
    const { makeKernel, executed } = this.#options;
    const { memoryMiB } = request.machine;
    return new PausedMachine(request, (trace) => makeKernel(trace, { memoryMiB, cpus: 1 }), executed !== null);
  }

  async stop(): Promise<void> {}
  kill(): void {}

  /** The machine for a case: a PC, with the image on its disk or not. */
  async #build(guest: RunGuest['guest'], kernel: Kernel, disk: Uint8Array | null, trace: Trace | null): Promise<Runner> {
    const { makeMachine, boardName } = this.#options;
    const { vcpus, memoryMiB, needs = [], devices = [] } = guest;
    const input = Buffer.from(guest.input, 'base64');
    const start = disk ? { image: disk, firmware: new Uint8Array(readFileSync(FIRMWARE as string)) } : null;
    return makeMachine(caseBoard(kernel, { vcpus, memoryMiB, needs, input, devices, disk: start, ...(boardName && { boardName }) }, trace).board);
  }

  async #boot({ id, guest, limits }: RunGuest): Promise<RunReply> {
    const image = new Uint8Array(readFileSync(guest.image));
    const sha256 = createHash('sha256').update(image).digest('hex');
    if (sha256 !== guest.sha256)
      return { type: 'error', id, reason: `${guest.image} is not the image that the suite means: its digest is ${sha256}` };
    const door = DOORS[guest.door];
    if (door === null && !FIRMWARE) return { type: 'error', id, reason: MONITOR.missing['door-disk'] as string };
    const { executed, makeKernel, traced = true } = this.#options;
    const trace = executed && traced ? new TraceDigest() : null;
    const memoryMiB = door === null ? Math.max(guest.memoryMiB, FIRMWARE_MIB) : guest.memoryMiB;
    const kernel = makeKernel(trace, { memoryMiB, cpus: guest.vcpus, ...(guest.needs && { needs: guest.needs }) });
    const machine = await this.#build({ ...guest, memoryMiB }, kernel, door === null ? image : null, trace);
    try {
      if (door) machine.load(image, { door, ...(machine.platform instanceof Mainboard && machine.platform.handover) });
      const deadline = performance.now() + limits.timeoutMs;
      // A real kernel counts no instructions, so there only the time is a limit.
      const most = executed && limits.instructions !== undefined ? Number(BigInt(limits.instructions)) : Number.POSITIVE_INFINITY;
      const result = await machine.run({
        exits: Number.POSITIVE_INFINITY,
        bounds: Number.POSITIVE_INFINITY,
        timeoutMs: limits.timeoutMs,
        expired: () => performance.now() > deadline || (executed !== null && executed(kernel) > most),
      });
      const end = ENDS[result.end];
      const total = Object.values(result.exits).reduce((sum, count) => sum + count, 0);
      const ran: RanGuest = {
        type: 'ran',
        id,
        surface: 'guest',
        end: end ?? 'internal-error',
        console: Buffer.from(result.console).toString('base64'),
        exits: hex(total),
        detail: (end === undefined ? `${result.end}: ${result.detail}` : result.detail).slice(0, 4000),
      };
      return {
        ...ran,
        ...(result.exitCode !== null && { exitValue: hex(result.exitCode >> 1) }),
        ...(executed && result.end !== 'timeout' && { instructions: hex(executed(kernel)) }),
        ...(trace && result.end !== 'timeout' && { traceHash: trace.finish(), trace: trace.end }),
      };
    } catch (error) {
      if (error instanceof ImageError) return { type: 'error', id, reason: `the image cannot be loaded: ${error.message}` };
      throw error;
    } finally {
      await machine.shutdown();
    }
  }
}
