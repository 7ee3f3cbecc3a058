// # Our own monitor on a kernel
//
// The embedded machine and the host's /dev/kvm differ in one object: the kernel. Everything above it (chapter 3's monitor, the script player) is the
// same code, so a difference between the two columns of the results is a difference between two kernels and nothing else.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Recorder, type Trace, traceLine } from '../../chapters/01-hardware-background/trace.ts';
import type { Kernel } from '../../chapters/02-kvm-objects/kernel.ts';
import type { Board, BoardOptions, RunResult } from '../../chapters/03-vcpu-loop/board.ts';
import type { End as MachineEnd } from '../../chapters/03-vcpu-loop/chassis.ts';
import type { DoorName } from '../../chapters/03-vcpu-loop/doors.ts';
import { ImageError } from '../../chapters/03-vcpu-loop/elf.ts';
import type { Adapter, Door, End, RanGuest, RunGuest, RunReply, RunRequest, Started, Unavailable } from '../types.ts';
import { hex } from '../values.ts';
import { executeScript } from './kvm-execute.ts';

/** The suite's names for doors, in the monitor's words. A disk needs firmware, which this monitor has not got. */
const DOORS: Readonly<Record<Door, DoorName | null>> = { multiboot: 'multiboot', pvh: 'pvh', long: 'long', disk: null };

/** Ends that the protocol has no name for are an internal error with a detail: they can only come from a defect of ours. */
const ENDS: Readonly<Partial<Record<MachineEnd, End>>> = {
  'debug-exit': 'debug-exit',
  halt: 'halt',
  'triple-fault': 'triple-fault',
  timeout: 'timeout',
  reset: 'reset',
  'fail-entry': 'fail-entry',
  'internal-error': 'internal-error',
};

/**
 * How many guest instructions one KVM_RUN of the soft kernel executes at most. Processors take turns at these bounds, and one that waits for another uses
 * up its turn waiting, so with several the turns are short.
 */
const boundFor = (vcpus: number): number => (vcpus > 1 ? 10_000 : 1_000_000);

// ## What the monitor has, whatever kernel is below it

const NO_APIC = 'the monitor of chapter 3 has no interrupt controller';

/** What the kernel has no part in. */
export const MONITOR: Pick<Started, 'capabilities' | 'missing'> = {
  capabilities: [
    ...['door-multiboot', 'door-pvh', 'door-long', 'serial-input', 'debug-exit', 'notices-halt', 'reset'],
    ...['scratch-pio', 'scratch-mmio', 'inject', 'inject-nmi', 'smp2-shared', 'uart'],
  ],
  missing: { 'door-disk': 'the monitor of chapter 3 has no firmware to read a disk with', smp2: NO_APIC, lapic: NO_APIC, pic: NO_APIC },
};

/** What chapter 3's two machines have in common. Each knows the limits that it can measure. */
type Runner = Board & {
  run(limits: { bounds: number; timeoutMs: number; expired: () => boolean }): RunResult | Promise<RunResult>;
};

export interface MachineOptions {
  /** Everything that can only be known by looking: called once, at the start. */
  readonly probe: () => Unavailable | Omit<Started, 'type' | 'protocol'>;
  /** A fresh kernel for each case: no state survives. */
  readonly makeKernel: (trace: Trace | null, instructionBound: number) => Kernel;
  /** Who runs the processors: in turn in this thread, or each in a thread of its own. */
  readonly makeMachine: (options: BoardOptions) => Runner | Promise<Runner>;
  /** Whether runs are deterministic, so that the trace has a digest to promise. */
  readonly deterministic: boolean;
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
    if (request.surface === 'kvm') return executeScript(this.#options.makeKernel(null, boundFor(1)), request);
    return this.#boot(request);
  }

  async stop(): Promise<void> {}
  kill(): void {}

  async #boot({ id, guest, limits }: RunGuest): Promise<RunReply> {
    const door = DOORS[guest.door];
    if (door === null) return { type: 'error', id, reason: `no door '${guest.door}'` };
    const image = new Uint8Array(readFileSync(guest.image));
    const sha256 = createHash('sha256').update(image).digest('hex');
    if (sha256 !== guest.sha256)
      return { type: 'error', id, reason: `${guest.image} is not the image that the suite means: its digest is ${sha256}` };
    // A real kernel interrupts KVM_RUN for reasons of its own, so only where instructions are counted do interruptions measure them.
    const counted = this.#options.deterministic && limits.instructions !== undefined;
    const bounds = counted ? Math.ceil(Number(BigInt(limits.instructions as string)) / boundFor(guest.vcpus)) : Number.MAX_SAFE_INTEGER;
    const trace = this.#options.deterministic ? new Recorder() : null;
    const machine = await this.#options.makeMachine({
      kernel: this.#options.makeKernel(trace, boundFor(guest.vcpus)),
      ramBytes: guest.memoryMiB << 20,
      vcpus: guest.vcpus,
      trace,
      input: Buffer.from(guest.input, 'base64'),
    });
    try {
      machine.load(image, { door });
      const deadline = performance.now() + limits.timeoutMs;
      const result = await machine.run({ bounds, timeoutMs: limits.timeoutMs, expired: () => performance.now() > deadline });
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
        ...(trace && result.end !== 'timeout' && { traceHash: digest(trace), instructions: hex(trace.now) }),
      };
    } catch (error) {
      if (error instanceof ImageError) return { type: 'error', id, reason: `the image cannot be loaded: ${error.message}` };
      throw error;
    } finally {
      await machine.shutdown();
    }
  }
}

function digest(trace: Recorder): string {
  const hash = createHash('sha256');
  for (const event of trace.events) hash.update(`${traceLine(event)}\n`);
  return hash.update(String(trace.dropped)).digest('hex');
}
