// # A machine of one's own
//
// From a description and the files it names to a machine that runs, in whatever thread this is: the page's worker, or a test. Nothing of a host is used but its
// clock. The command line does the same with Node's means.

import type { Workshop } from '../../chapters/01-hardware-background/engine/translator/workshop.ts';
import { NS_PER_TICK } from '../../chapters/02-kvm-objects/soft/virtual-clock.ts';
import { StateError } from '../../chapters/03-vcpu-loop/devices/state.ts';
import { planBoot } from '../../chapters/03-vcpu-loop/doors.ts';
import type { RunnableKernel } from '../../chapters/03-vcpu-loop/kernel/index.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { CHARDEV_INPUT_BYTES } from '../../chapters/05-pio-mmio/machine/chardev.ts';
import { type CompleteConfig, completeConfig, type MachineConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import { ConfigError, type DeviceConfig, deviceTypes, type NetdevConfig } from '../../chapters/05-pio-mmio/machine/device-types.ts';
import { buildMachine } from '../../chapters/05-pio-mmio/machine/machine-types.ts';
import type { Mainboard } from '../../chapters/05-pio-mmio/machine/mainboard.ts';
import { machineKernel } from '../../chapters/05-pio-mmio/machine/soft-machine.ts';
import { lookupIn } from '../../chapters/05-pio-mmio/register-names.ts';
import '../../chapters/06-virtio-rings/machine/device-types.ts';
import '../../chapters/15-whole-machine/linux/doors.ts';
import { readLinux, versionName } from '../../chapters/15-whole-machine/linux/header.ts';
import '../../chapters/15-whole-machine/microvm/microvm.ts';
import { userNetdev } from '../../chapters/15-whole-machine/network/netdev.ts';
import { decodeFile } from '../../chapters/15-whole-machine/saved-state/file.ts';
import { restoreMachine, saveMachine } from '../../chapters/15-whole-machine/saved-state/machine-state.ts';
import { Counts } from './linux-counts.ts';
import { configOf, MACHINES, MEMORY, type Options, PAGINGS } from './linux-options.ts';
import type { Figures, Files } from './linux-protocol.ts';

// A page has no sockets. A network is there all the same, and gives addresses; behind it is nobody.

deviceTypes.netdevs.install(userNetdev(() => null));

const MIB = 2 ** 20;
const NS_PER_MS = 1e6;
/** The thread listens to others this often. */
const SLICE_MS = 20;
/** The loop looks at the real clock at least this often in virtual time, so a guest that sleeps is not far ahead when it does. */
const LOOK_NS = 10 * NS_PER_MS;
/** Behind by more than this, virtual time is not hurried to catch up. */
const FORGIVEN_MS = 200;
/** Console bytes that may be on their way to the terminal. A guest that prints faster than that waits. */
const CONSOLE_LIMIT_BYTES = 256 << 10;

interface SessionHooks {
  onConsole(bytes: Uint8Array): void;
  /** Called between two slices, at most every {@link SLICE_MS} of real time. */
  onBreath(): void;
}

interface SessionStart {
  readonly options: Options;
  readonly files: Files;
  /** The date when the machine is switched on, in seconds since 1970. */
  readonly startTime: number;
  readonly hooks: SessionHooks;
  /** Whether virtual time is held back to real time. */
  readonly paced?: boolean;
  /** Who translates hot code while the guest goes on. */
  readonly workshop?: Workshop | null;
}

/** How it ended. */
export interface Ended {
  readonly end: string;
  readonly detail: string;
}

// ## From a saved machine to its description
//
// The header of a saved machine says how it was put together. What is on its drives it does not hold, so a machine with drives cannot go on here. A machine with
// a network can, and finds nobody at the other end any more.

/** Of x86 processors with an APIC identifier of eight bits. */
const MOST_SAVED_CPUS = 255;

type Header = Readonly<Record<string, string>>;

function headerOf(file: Uint8Array): Header {
  const { header } = decodeFile(file);
  let value: unknown;
  try {
    value = JSON.parse(header);
  } catch {
    value = null;
  }
  if (typeof value !== 'object' || value === null) throw new StateError('the header is no description of a machine');
  return value as Header;
}

/** What stands as JSON in a header; null for what is none. */
function parsed(text: string | undefined): unknown {
  try {
    return text === undefined ? null : JSON.parse(text);
  } catch {
    return null;
  }
}
const listed = <T>(text: string | undefined): readonly T[] => {
  const value = parsed(text);
  return Array.isArray(value) ? value : [];
};

/** What the page can show of a saved machine. @throws StateError when it is none */
export function optionsOfState(file: Uint8Array): Partial<Options> {
  const header = headerOf(file);
  const type = (parsed(header.machine) as { readonly type?: string } | null)?.type;
  const machine = MACHINES.find((each) => each === type);
  const paging = PAGINGS.find((each) => each === header['memory by']);
  const [cpus, bytes] = [Number(header.cpus), Number(header['bytes of memory'])];
  return {
    ...(machine && { machine }),
    ...(paging && { paging }),
    network: listed(header.networks).length > 0,
    ...(Number.isSafeInteger(cpus) && cpus >= 1 && { cpus }),
    ...(bytes >= MIB && { memoryMiB: Math.floor(bytes / MIB) }),
  };
}

/** The description of the machine that a state was saved from. @throws ConfigError, StateError */
function configOfState(file: Uint8Array): MachineConfig {
  const header = headerOf(file);
  const { machine, memoryMiB = MEMORY.usual, cpus = 1, paging } = optionsOfState(file);
  if (machine === undefined) throw new ConfigError(`this page has no machine ${header.machine ?? 'without a name'}`);
  if (memoryMiB > MEMORY.most) throw new ConfigError(`the saved machine has ${memoryMiB} MiB of memory; this page gives ${MEMORY.most} at most`);
  if (cpus > MOST_SAVED_CPUS) throw new ConfigError(`the saved machine has ${cpus} processors; no machine has more than ${MOST_SAVED_CPUS}`);
  for (const [name, words] of [
    ['drives', 'a drive, and what is on it is not in the file'],
    ['character devices', 'a second console, and this page has one'],
  ] as const)
    if (listed(header[name]).length > 0) throw new ConfigError(`the saved machine has ${words}`);
  if (header.firmware === 'some') throw new ConfigError('the saved machine was started by firmware, and this page has none');
  const serials = Number(header['serial ports']);
  return {
    machine: { type: machine },
    memoryMiB,
    cpus,
    ...(paging && { memory: paging }),
    irqchip: (['on', 'split', 'off'] as const).find((each) => each === header.irqchip) ?? 'on',
    reboot: header.reboot === 'true',
    serial: Array.from({ length: Math.min(4, Math.max(1, serials)) }, (_, index) => (index === 0 ? 'stdio' : 'null')),
    netdevs: listed<NetdevConfig>(header.networks),
    devices: listed<DeviceConfig>(header.devices),
    kernel: 'the saved one',
  };
}

// ## Looking at a file

/** The widest machine there is: whether a kernel fits the one that is chosen shows when it starts. */
const WIDEST_BYTES = MEMORY.most * MIB;

/** What a kernel is, in words. @throws ImageError for a file that no door opens */
export function describeKernel(image: Uint8Array): string {
  const { door } = planBoot(image, { ramBytes: WIDEST_BYTES });
  const linux = readLinux(image);
  return linux ? `a Linux kernel, boot protocol ${versionName(linux.version)}, by its ${door} door` : `started by its ${door} door`;
}

// ## A turn for others
//
// Messages to a worker are taken between two tasks. A timer of zero would do, but browsers lengthen it after a few, until it is a part of
// a slice that one would notice. A message to oneself costs nothing. Node has a word for the same, and needs it: there, messages come before everything else.

class Turn {
  readonly #channel = typeof setImmediate === 'function' ? null : new MessageChannel();
  #then: () => void = () => {};

  constructor() {
    if (this.#channel) this.#channel.port1.onmessage = () => this.#then();
  }

  /** Calls `then` after whatever waits. */
  next(then: () => void): void {
    this.#then = then;
    if (this.#channel) this.#channel.port2.postMessage(null);
    else setImmediate(then);
  }
  close(): void {
    this.#channel?.port1.close();
  }
}

// ## The machine

export class LinuxSession {
  readonly config: CompleteConfig;
  readonly counts = new Counts();
  /** How the kernel is started; null for a machine that goes on. */
  readonly door: string | null;
  readonly #kernel: RunnableKernel;
  readonly #pc: Mainboard;
  readonly #machine: Machine<Mainboard>;
  readonly #hooks: SessionHooks;
  readonly #paced: boolean;
  readonly #reboot: boolean;
  readonly #turn = new Turn();
  #console: number[] = [];
  #unshown = 0;
  #paused = false;
  #wanted: ((file: Promise<Uint8Array>) => void) | null = null;
  #awake: () => void = () => {};
  /** Where virtual time and real time were last the same. */
  #anchor: { ms: number; ns: number } | null = null;
  #breath = 0;

  /** @throws ConfigError, ImageError, StateError, RangeError, all in one line */
  static async open(start: SessionStart): Promise<LinuxSession> {
    const session = new LinuxSession(start);
    try {
      if ('state' in start.files) await restoreMachine(session.#machine, start.files.state);
      await session.#pc.outsidesOpened();
      return session;
    } catch (error) {
      session.dispose();
      throw error;
    }
  }

  private constructor({ options, files, startTime, hooks, paced = true, workshop = null }: SessionStart) {
    const fresh = 'kernel' in files ? files : null;
    const described =
      'state' in files ? configOfState(files.state) : configOf(options, { kernel: 'kernel', ...(fresh?.initrd && { initrd: 'initramfs' }) });
    this.config = completeConfig(described);
    const { config } = this;
    this.#hooks = hooks;
    this.#paced = paced;
    this.#reboot = fresh !== null && config.reboot;
    this.#kernel = machineKernel(config, { trace: this.counts, traceProcessor: false, startTime, workshop });
    this.#pc = buildMachine({
      kernel: this.#kernel,
      config,
      trace: this.counts,
      onSerial: (port, byte) => {
        if (port === 0) this.#console.push(byte);
      },
    });
    this.#pc.inputOpen = true;
    this.#machine = new Machine(this.#pc.board);
    this.door = fresh ? this.#load(fresh, config.append ?? '') : null;
  }

  #load({ kernel, initrd }: { readonly kernel: Uint8Array; readonly initrd: Uint8Array | null }, commandLine: string): string {
    try {
      return this.#machine.load(kernel, { ...this.#pc.handover, ...(initrd && { initrd }), commandLine }).door;
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Runs the machine to its end. */
  async run(): Promise<Ended> {
    const { clock } = this.#kernel;
    const look = this.#pc.timers.timer(() => look.arm(clock.now() + LOOK_NS));
    look.arm(clock.now() + LOOK_NS);
    const interlude = (idle: boolean): Promise<void> | undefined => this.#pause(idle);
    try {
      for (;;) {
        const result = await this.#machine.runAsync(interlude, { reboot: this.#reboot, expired: () => this.#wanted !== null });
        const wanted = this.#wanted;
        this.#wanted = null;
        if (result.end !== 'timeout' || !wanted) return { end: result.end, detail: result.detail };
        const file = saveMachine(this.#machine);
        wanted(file);
        await file.catch(() => {}); // whoever asked is told
        this.#anchor = null;
      }
    } finally {
      look.cancel();
      this.#flush();
    }
  }

  // ## A second of the guest's, a second of ours
  //
  // While the guest computes, its time is what its instructions take, and the machine does what it can. While the guest sleeps there is nothing to compute, and
  // virtual time would fly. So it is held back whenever it is ahead of the real clock; the thread then sleeps as well. When it is behind, the difference
  // is forgotten, or else a guest that had computed for a minute would sleep too short for as long.

  #pause(idle: boolean): Promise<void> | undefined {
    const now = performance.now();
    if (this.#paused) {
      this.#anchor = null;
      return this.#sleep(null);
    }
    if (idle) return this.#sleep(null);
    const { clock } = this.#kernel;
    this.#anchor ??= { ms: now, ns: clock.now() };
    const aheadMs = (clock.now() - this.#anchor.ns) / NS_PER_MS - (now - this.#anchor.ms);
    if (aheadMs < -FORGIVEN_MS) this.#anchor = null;
    if (this.#unshown > CONSOLE_LIMIT_BYTES) return this.#sleep(null);
    if (this.#paced && aheadMs > LOOK_NS / NS_PER_MS) return this.#sleep(aheadMs);
    if (now < this.#breath) return undefined;
    return this.#sleep(0);
  }

  /** Resolves after so long, or when something has come; null: only then. */
  #sleep(ms: number | null): Promise<void> {
    this.#flush();
    this.#hooks.onBreath();
    return new Promise((resolve) => {
      let timer: ReturnType<typeof setTimeout> | null = null;
      this.#awake = () => {
        this.#awake = () => {};
        if (timer !== null) clearTimeout(timer);
        this.#breath = performance.now() + SLICE_MS;
        resolve();
      };
      if (ms === 0) this.#turn.next(() => this.#awake());
      else if (ms !== null) timer = setTimeout(() => this.#awake(), ms);
    });
  }

  #flush(): void {
    if (this.#console.length === 0) return;
    const bytes = Uint8Array.from(this.#console);
    this.#console = [];
    this.#unshown += bytes.length;
    this.#hooks.onConsole(bytes);
  }

  // ## What can be asked of it

  /** The terminal has shown so many bytes. */
  shown(bytes: number): void {
    this.#unshown -= bytes;
    if (this.#unshown <= CONSOLE_LIMIT_BYTES && !this.#paused) this.#awake();
  }

  /** Sends what was typed, as far as there is room. Returns how many bytes there was none for. */
  type(bytes: Uint8Array): number {
    const [serial] = this.#pc.serials;
    if (!serial) return bytes.length;
    const room = Math.max(0, CHARDEV_INPUT_BYTES - serial.waiting);
    serial.send(bytes.subarray(0, room));
    if (!this.#paused) this.#awake();
    return Math.max(0, bytes.length - room);
  }

  pause(paused: boolean): void {
    this.#paused = paused;
    this.#awake();
  }

  /** Writes the machine down, which then goes on. @throws StateError */
  async save(): Promise<Uint8Array> {
    const file = await new Promise<{ readonly file: Promise<Uint8Array> }>((resolve) => {
      this.#wanted = (promise) => resolve({ file: promise });
      this.#awake();
    });
    return await file.file;
  }

  /** Ends the run. */
  stop(): void {
    this.#machine.stop();
    this.#paused = false;
    this.#awake();
  }

  get figures(): Figures {
    const { counts } = this;
    const { hardware } = this.#kernel;
    return {
      instructions: hardware.ticks - hardware.idleTicks,
      ns: hardware.ticks * NS_PER_TICK,
      bytes: hardware.memory.buffer.byteLength,
      totals: counts.reasons.map((reason, index) => [reason, counts.totals[index] as number] as const),
      steps: counts.takeSteps(),
      traffic: counts.traffic(lookupIn(this.#pc)),
      events: counts.listening ? counts.latest : null,
      seen: counts.seen,
    };
  }

  dispose(): void {
    this.#turn.close();
    this.#machine.dispose();
  }
}
