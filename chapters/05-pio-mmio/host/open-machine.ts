// # From a description to a machine that runs
//
// The description names files, a kernel, terminals. Here they are opened; whatever was opened is closed again, in every case.

import { writeFileSync } from 'node:fs';
import { threadWorkshop } from '../../01-hardware-background/engine/host/workshop-thread.ts';
import { type Timed, type Trace, type TraceEvent, traceLine } from '../../01-hardware-background/trace.ts';
import { Errno } from '../../02-kvm-objects/errno.ts';
import { HostKernel, hostKernelAvailable } from '../../02-kvm-objects/host/host-kernel.ts';
import type { Kernel } from '../../02-kvm-objects/kernel.ts';
import type { RunResult } from '../../03-vcpu-loop/board.ts';
import { HostMachine, LONGEST_TIMEOUT_MS } from '../../03-vcpu-loop/host/host-machine.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import type { BlockBackend } from '../block/block.ts';
import { SnapshotBlock } from '../block/snapshot.ts';
import { CHARDEV_INPUT_BYTES, Chardev } from '../machine/chardev.ts';
import { type CompleteConfig, startOf } from '../machine/config.ts';
import '../machine/devices.ts';
import { ConfigError } from '../machine/device-types.ts';
import { buildMachine } from '../machine/machine-types.ts';
import type { Mainboard } from '../machine/mainboard.ts';
import { machineKernel } from '../machine/soft-machine.ts';
import { FileBlock } from './file-block.ts';
import { readRegularFile } from './read-file.ts';
import { stateKeeper } from './state-keeper.ts';
import { LineDigest, LineFile, openSink, type Sink } from './streams.ts';
import { takeTerminal, tellTerminal } from './terminal.ts';

/** How long the machine runs before the event loop has a turn. */
const SLICE_MS = 10;
/** A machine in virtual time that is ahead of a person's waits so long at most before it looks again. */
const WAIT_MS = 50;
/** While something outside is expected, a guest that sleeps is looked at so often. */
const LOOK_NS = 5e6;
/** Behind by more than this, virtual time is not hurried to catch up. */
const FORGIVEN_MS = 200;
const NS_PER_MS = 1e6;
/** More than any firmware that a PC can hold; an image of a kernel has to fit the machine's memory. */
const FIRMWARE_LIMIT_BYTES = 64 << 20;
/** More than a state of the largest machine can have. */
const STATE_LIMIT_BYTES = 2 ** 32;

/** Opens a file that the description names. @throws ConfigError in one line */
function opened<T>(open: () => T): T {
  try {
    return open();
  } catch (error) {
    throw error instanceof ConfigError || error instanceof Errno ? error : new ConfigError((error as Error).message.split('\n')[0] as string);
  }
}

function lineTrace(lines: LineFile | LineDigest): Trace {
  return {
    now: 0,
    emit(event: TraceEvent) {
      lines.line(traceLine({ t: this.now, ...event } as Timed));
    },
  };
}

/** Something that takes bytes for the guest, and how many it has not passed on. */
interface Input {
  readonly waiting: number;
  send(bytes: Uint8Array): void;
}

/** Who has standard input. */
function inputOf({ serial, chardevs: described }: CompleteConfig, pc: Mainboard, chardevs: ReadonlyMap<string, Chardev>): Input | null {
  const chardev = described.find(({ stream }) => stream === 'stdio');
  return (chardev ? chardevs.get(chardev.id) : pc.serials[serial.indexOf('stdio')]) ?? null;
}

export class OpenMachine {
  readonly pc: Mainboard;
  readonly #config: CompleteConfig;
  readonly #machine: Machine<Mainboard> | HostMachine<Mainboard>;
  /** What standard input leads to. */
  readonly #input: Input | null;
  readonly #sinks: readonly Sink[];
  readonly #closing: (() => void)[];
  /** Ends the present wait for input. */
  #arrived: () => void = () => {};
  #giveBack: () => void = () => {};
  /** Standard input waits for the guest. */
  #held = false;

  /** @throws ConfigError for what cannot be opened, in one line */
  static async open(config: CompleteConfig): Promise<OpenMachine> {
    const closing: (() => void)[] = [];
    try {
      return await OpenMachine.#open(config, closing);
    } catch (error) {
      for (const close of closing.reverse()) close();
      throw error;
    }
  }

  static async #open(config: CompleteConfig, closing: (() => void)[]): Promise<OpenMachine> {
    const read = (path: string | undefined, limitBytes: number): Uint8Array | null =>
      path === undefined ? null : opened(() => readRegularFile(path, limitBytes));
    const ramBytes = config.memoryMiB * 2 ** 20;
    const [firmware, image, initrd] = [read(config.firmware, FIRMWARE_LIMIT_BYTES), read(config.kernel, ramBytes), read(config.initrd, ramBytes)];
    const blocks = new Map<string, BlockBackend>();
    for (const { id, file, readonly = false, snapshot = false } of config.drives) {
      const block = opened(() => new FileBlock(file, { readOnly: readonly || snapshot }));
      closing.push(() => {
        block.flush();
        block.close();
      });
      blocks.set(id, snapshot && !readonly ? new SnapshotBlock(block) : block);
    }
    const sink = (stream: CompleteConfig['debugcon']): Sink => {
      const made = opened(() => openSink(stream));
      closing.push(() => made.close());
      return made;
    };
    const serials = config.serial.map(sink);
    const debug = sink(config.debugcon);
    const chardevs = new Map<string, Chardev>();
    const outputs = config.chardevs.map(({ id, stream }) => {
      const output = sink(stream);
      const chardev = new Chardev({ hasInput: stream === 'stdio' });
      chardev.onOutput = (bytes) => {
        for (const byte of bytes) output.byte(byte);
      };
      chardevs.set(id, chardev);
      return output;
    });
    let trace: Trace | null = null;
    if (config.trace !== undefined) {
      const file = opened(() => new LineFile(config.trace as string));
      closing.push(() => {
        file.close();
        if (file.dropped > 0) process.stderr.write(`ringbook run: the trace is full; ${file.dropped} events are missing\n`);
      });
      trace = lineTrace(file);
    } else if (config.traceHash !== undefined) {
      const digest = new LineDigest();
      closing.push(() => void process.stderr.write(`ringbook run: the trace's sha256 is ${digest.finish()} (${digest.lines} events)\n`));
      trace = lineTrace(digest);
    }
    const startTime = startTimeOf(config);
    const kernel = openKernel(config, trace, startTime, closing);
    const pc = opened(() =>
      buildMachine({
        kernel,
        config,
        firmware,
        blocks,
        chardevs,
        trace,
        ioThread: config.accel === 'soft' || config.cpus > 1,
        onSerial: (port, byte) => serials[port]?.byte(byte),
        onDebug: (byte) => debug.byte(byte),
      }),
    );
    // A thread for each processor means that every exit is handed to another thread and back. One processor does without.
    const machine = kernel instanceof HostKernel && config.cpus > 1 ? await HostMachine.create({ ...pc.board, kernel }) : new Machine(pc.board);
    closing.push(() => void machine.shutdown());
    if (image) {
      const { door, append: commandLine = '' } = config;
      opened(() => machine.load(image, { ...pc.handover, ...(door !== undefined && { door }), ...(initrd && { initrd }), commandLine }));
    }
    if (config.restore !== undefined) {
      if (machine instanceof HostMachine) throw new ConfigError('-restore needs processors that take turns: -accel soft, or one of them');
      const file = read(config.restore, STATE_LIMIT_BYTES);
      if (file) await stateKeeper().restore(machine, file);
    }
    await pc.outsidesOpened().catch((error: Error) => {
      throw new ConfigError(error.message);
    });
    return new OpenMachine(config, pc, machine, inputOf(config, pc, chardevs), [...serials, debug, ...outputs], closing);
  }

  private constructor(
    config: CompleteConfig,
    pc: Mainboard,
    machine: Machine<Mainboard> | HostMachine<Mainboard>,
    input: Input | null,
    sinks: readonly Sink[],
    closing: (() => void)[],
  ) {
    this.#input = input;
    this.#config = config;
    this.pc = pc;
    this.#machine = machine;
    this.#sinks = sinks;
    this.#closing = closing;
  }

  /** Runs the machine to its end. */
  async run(): Promise<RunResult> {
    const { pc } = this;
    const input = this.#input;
    if (input) {
      pc.inputOpen = true;
      this.#giveBack = takeTerminal({
        onBytes: (bytes) => {
          input.send(bytes);
          this.#regulate();
          this.#arrived();
        },
        onEnd: () => {
          pc.inputOpen = false;
          this.#arrived();
        },
        onQuit: () => this.stop(),
        onSave: () => {
          this.#saveWanted = this.#config.save !== undefined;
          if (!this.#saveWanted) tellTerminal('not saved: -save FILE would say where');
          this.#arrived();
        },
      });
    }
    const reboot = this.#config.reboot;
    const timeoutMs = this.#config.timeoutS === undefined ? Number.POSITIVE_INFINITY : this.#config.timeoutS * 1000;
    try {
      if (this.#machine instanceof HostMachine) return await this.#runThreads(this.#machine, timeoutMs, reboot);
      const deadline = performance.now() + timeoutMs;
      return await this.#runAndSave(this.#machine, deadline, reboot);
    } finally {
      this.#flush();
      this.#giveBack();
    }
  }

  async #runThreads(machine: HostMachine<Mainboard>, timeoutMs: number, reboot: boolean): Promise<RunResult> {
    let failed: unknown = null;
    const flushing = setInterval(() => {
      try {
        this.#flush();
      } catch (error) {
        failed ??= error;
        machine.stop();
      }
    }, WAIT_MS);
    try {
      const result = await machine.run({ timeoutMs, reboot });
      if (failed) throw failed;
      return result;
    } finally {
      clearInterval(flushing);
    }
  }

  // A machine is saved between two turns of its loop, and goes on.

  #saveWanted = false;

  async #runAndSave(machine: Machine<Mainboard>, deadline: number, reboot: boolean): Promise<RunResult> {
    const { save, saveAfterS } = this.#config;
    const { clock } = this.pc.kernel;
    let saveAt = save !== undefined && saveAfterS !== undefined ? saveAfterS * 1e9 : Number.POSITIVE_INFINITY;
    const due = (): boolean => this.#saveWanted || clock.now() >= saveAt;
    const interlude = this.#interlude(deadline);
    for (;;) {
      const result = await machine.runAsync(interlude, { reboot, expired: () => due() || performance.now() > deadline });
      if (result.end !== 'timeout' || save === undefined || !due()) return result;
      const file = await stateKeeper().save(machine);
      opened(() => writeFileSync(save, file));
      if (this.#saveWanted) tellTerminal(`saved in ${save}, and goes on`);
      this.#saveWanted = false;
      saveAt = Number.POSITIVE_INFINITY;
    }
  }

  // The soft machine's time is virtual, and a guest that only waits makes it fly. A person at a terminal wants a second to last a second, so there the machine
  // is held back when it is ahead. Where nobody watches it is not, and a run ends as soon as it can.

  // Nor may a guest be allowed to fly that waits for somebody outside: it would have given up before the answer was under way. What it has slept
  // through is then waited for, until something comes; what it computes is not.

  #interlude(deadline: number): (idle: boolean) => Promise<void> | undefined {
    const { clock } = this.pc.kernel;
    const paced = this.#config.accel === 'soft' && this.pc.inputOpen && process.stdin.isTTY === true;
    let [startMs, startNs] = [performance.now(), clock.now()];
    let next = 0;
    const { pc } = this;
    // It arms itself again before the guest goes on, so that there is no sleep that it does not cut.
    const attended = (): boolean => paced || pc.expectsOutside;
    const look = pc.timers.timer(() => {
      if (attended()) look.arm(clock.now() + LOOK_NS);
    });
    let slept = clock.skippedNs ?? 0;
    pc.onArrival = () => this.#arrived();
    return (idle) => {
      const now = performance.now();
      // A guest that sleeps although so much waits for it already is not woken by more.
      if (idle) return (pc.inputOpen && !this.#held) || pc.expectsOutside ? this.#wait(deadline - now) : undefined;
      const skipped = clock.skippedNs ?? 0;
      if (!pc.expectsOutside) slept = skipped;
      if (attended() && look.at === null) look.arm(clock.now() + LOOK_NS);
      const sleptMs = (skipped - slept) / NS_PER_MS;
      if (sleptMs >= 1) {
        slept = skipped;
        next = now + SLICE_MS;
        return this.#wait(Math.min(sleptMs, WAIT_MS));
      }
      if (now < next) return undefined;
      next = now + SLICE_MS;
      this.#flush();
      const aheadMs = paced ? (clock.now() - startNs) / NS_PER_MS - (now - startMs) : 0;
      // What a guest that computed is behind is forgotten: it would sleep too short for as long.
      if (aheadMs < -FORGIVEN_MS) [startMs, startNs] = [now, clock.now()];
      return this.#wait(aheadMs > SLICE_MS ? Math.min(aheadMs, WAIT_MS) : 0);
    };
  }

  // A guest need not read what is typed, and whoever types may be a file without end. Then standard input has to wait, and its writer with it.

  #regulate(): void {
    const waiting = this.#input?.waiting ?? 0;
    if (waiting > CHARDEV_INPUT_BYTES === this.#held || !this.pc.inputOpen) return;
    this.#held = !this.#held;
    if (this.#held) process.stdin.pause();
    else process.stdin.resume();
  }

  /** Resolves at the next input, or after so long. */
  #wait(ms: number): Promise<void> {
    this.#flush();
    return new Promise((resolve) => {
      if (ms <= 0) {
        setImmediate(resolve);
        return;
      }
      // An event loop with nothing but standard input in it stays alive by that alone.
      const timer = ms > LONGEST_TIMEOUT_MS ? null : setTimeout(resolve, Math.ceil(ms));
      this.#arrived = () => {
        if (timer) clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Ends the run; its result says `stopped`. */
  stop(): void {
    this.#machine.stop();
    this.#arrived();
  }

  #flush(): void {
    for (const sink of this.#sinks) sink.flush();
    this.#regulate();
  }

  /** Gives everything back. @throws what the first thing that could not be closed well threw; the others are closed even so */
  async close(): Promise<void> {
    await this.#machine.shutdown();
    let failed: unknown = null;
    for (const close of this.#closing.splice(0).reverse()) {
      try {
        close();
      } catch (error) {
        failed ??= error;
      }
    }
    if (failed) throw failed;
  }
}

// A run that nobody watches is to be the same each time, date and all. A person at a terminal expects today's.

/** The date when the machine is switched on; undefined is every machine's own. */
function startTimeOf({ rtc, accel }: CompleteConfig): number | undefined {
  const asked = rtc === undefined ? undefined : startOf(rtc);
  const isToday = asked === null || (asked === undefined && (accel === 'kvm' || process.stdin.isTTY === true));
  return isToday ? Math.floor(Date.now() / 1000) : (asked ?? undefined);
}

/** @throws ConfigError when the host has no KVM to give */
function openKernel(config: CompleteConfig, trace: Trace | null, startTime: number | undefined, closing: (() => void)[]): Kernel {
  if (config.accel === 'soft')
    return machineKernel(config, { trace, startTime, workshop: threadWorkshop(), traceProcessor: config.traceHash !== 'kernel' });
  const here = hostKernelAvailable();
  if (!here.available) throw new ConfigError(here.reason);
  const kernel = new HostKernel();
  closing.push(() => kernel.dispose());
  return kernel;
}
