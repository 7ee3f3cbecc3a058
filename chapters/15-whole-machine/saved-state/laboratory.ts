// # Two futures of one machine
//
// The question for every state is the same: does the machine that was saved go on like the one that was restored? A laboratory answers it for any program and
// any description: it runs a machine for a while, saves it, makes a second machine of the state, and lets both run to their end with a recorder each.

import { Recorder, traceLine } from '../../01-hardware-background/trace.ts';
import type { RunResult } from '../../03-vcpu-loop/board.ts';
import type { DoorName } from '../../03-vcpu-loop/doors.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { MemoryBlock } from '../../05-pio-mmio/block/block.ts';
import { completeConfig, type MachineConfig } from '../../05-pio-mmio/machine/config.ts';
import '../../05-pio-mmio/machine/devices.ts';
import { machineTypes } from '../../05-pio-mmio/machine/machine-types.ts';
import type { Mainboard } from '../../05-pio-mmio/machine/mainboard.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import '../../06-virtio-rings/machine/device-types.ts';
import '../microvm/microvm.ts';
import { crc32 } from './checksum.ts';
import { restoreMachine, saveMachine } from './machine-state.ts';

/** What a machine is made of. */
export interface Specimen {
  readonly config: MachineConfig;
  readonly image: Uint8Array;
  readonly door?: DoorName;
  readonly input?: string;
  /** A program that has not ended after so many turns is left. */
  readonly turns?: number;
  /** How many instructions a turn has at most. */
  readonly bound?: number;
}

/** A machine with a recorder, and its trace from some moment on. */
export class Subject {
  readonly machine: Machine<Mainboard>;
  readonly recorder = new Recorder({ limit: 4_000_000 });
  #from = 0;

  constructor({ config, image, door, input = '', bound }: Specimen) {
    const complete = completeConfig({ kernel: 'given', memoryMiB: 16, serial: ['null'], reboot: false, ...config });
    const kernel = machineKernel(complete, { trace: this.recorder, ...(bound !== undefined && { instructionBound: bound }) });
    const blocks = new Map(complete.drives.map(({ id }) => [id, new MemoryBlock(new Uint8Array(1 << 20))]));
    const board = machineTypes.get(complete.machine.type).build({ kernel, config: complete, blocks, trace: this.recorder });
    this.machine = new Machine<Mainboard>(board.board);
    this.machine.load(image, { ...board.handover, ...(door !== undefined && { door }) });
    board.serials[0]?.send(new TextEncoder().encode(input));
  }

  /** Goes so many turns further. The end, when it comes before that. */
  run(turns: number): RunResult | null {
    const result = this.machine.run({ exits: turns, reboot: true });
    return result.end === 'timeout' ? null : result;
  }

  /** What is recorded from here on counts. */
  mark(): void {
    this.#from = this.recorder.events.length;
  }

  /** A line for each event since then. */
  get lines(): string[] {
    return this.recorder.events.slice(this.#from).map(traceLine);
  }

  get hash(): string {
    let crc = 0;
    const encoder = new TextEncoder();
    for (const line of this.lines) crc = crc32(encoder.encode(`${line}\n`), crc);
    return crc.toString(16);
  }

  async save(): Promise<Uint8Array> {
    const file = await saveMachine(this.machine, { compress: false });
    this.mark();
    return file;
  }

  async restore(file: Uint8Array): Promise<void> {
    await restoreMachine(this.machine, file);
    this.mark();
  }

  dispose(): void {
    this.machine.dispose();
  }
}

/** What became of the two. */
export interface Futures {
  /** The program ended before it could be saved. */
  readonly ended: boolean;
  readonly sameState: boolean;
  /** The first events that differ: of the machine that went on, and of the one that was restored. */
  readonly difference: { readonly at: number; readonly saved: string | undefined; readonly restored: string | undefined } | null;
  readonly events: number;
  readonly ends: readonly [string, string];
}

/** Saves after so many turns and compares what follows. */
export async function twoFutures(specimen: Specimen, after: number): Promise<Futures> {
  const { turns = 20_000 } = specimen;
  const saved = new Subject(specimen);
  const restored = new Subject({ ...specimen, input: '' });
  try {
    if (saved.run(after)) return { ended: true, sameState: true, difference: null, events: 0, ends: ['', ''] };
    const file = await saved.save();
    await restored.restore(file);
    const again = await restored.save();
    const sameState = file.length === again.length && file.every((byte, at) => byte === again[at]);
    const ends = [saved, restored].map((subject) => {
      const end = subject.run(turns);
      return end ? `${end.end} ${end.exitCode} ${end.detail}` : 'goes on';
    }) as [string, string];
    const [a, b] = [saved.lines, restored.lines];
    const at = a.findIndex((line, n) => line !== b[n]);
    const first = at >= 0 ? at : a.length === b.length ? -1 : Math.min(a.length, b.length);
    return { ended: false, sameState, difference: first < 0 ? null : { at: first, saved: a[first], restored: b[first] }, events: a.length, ends };
  } finally {
    saved.dispose();
    restored.dispose();
  }
}
