// # A paused machine behind the qtest protocol
//
// The `device` surface on QEMU, and on any other program that takes the same options: it is started with the devices of the case, and then each
// operation of the runner's is one command. Two things need more than qtest. What somebody outside does (resize a disk, move a balloon's target,
// speak on a console) goes by QMP and by the sockets of the ports. And time: QEMU's own qtest accelerator has a clock that stands still until it is
// told to move, but distributions leave it out. Then the machine runs under the translator, on a processor that has halted for good, and its clock
// is the host's.

import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex, Readable, Writable } from 'node:stream';
import type { DeviceOp, DeviceSession, HostOp, OpResult, WireDevice } from '../device-script/wire.ts';
import { hex } from '../values.ts';
import { howItEnded, killGroup, spawnGroup } from './children.ts';
import { AdapterDied } from './exec.ts';
import { type HostEnds, machineFor, type QemuMachine, qemuDevices } from './qemu-devices.ts';
import { Qmp } from './qmp.ts';
import { Qtest, QtestRefusal } from './qtest.ts';

const STDERR_KEPT = 8000;
/** What QEMU says before it takes the second choice. */
const NO_QTEST = /^.*invalid accelerator qtest\n/m;
/** What a port has said and nobody has asked for yet. */
const OUTPUT_LIMIT_BYTES = 1 << 20;
/** Under the host's clock nobody waits longer than this, whatever a script says. */
const LONGEST_SLEEP_MS = 2000;
/** A request of a disk is done by a thread; so long it may take before the machine counts as stuck. */
const SOCKET_MS = 50;

/** The timer of a PC ticks from power-on. It is no part of any case, and its line would never be still. */
const TIMER_LINE = 0;

/** A program that is started like QEMU. */
export interface QtestProgram {
  readonly command: readonly [string, ...string[]];
  /** It has QMP, an accelerator besides qtest, and wants firmware. */
  readonly isQemu: boolean;
  /** The properties that its devices have; null: all that a case asks for. */
  readonly properties: ((type: string) => ReadonlySet<string>) | null;
}

export interface QtestRequest {
  readonly memoryMiB: number;
  readonly devices: readonly WireDevice[];
  /** Instead of the machine that fits the devices. */
  readonly machine?: QemuMachine;
}

/** `cli; hlt; jmp` at the reset vector of a ROM of 64 KiB: a processor that does nothing. */
const ROM_BYTES = 64 << 10;
const RESET_VECTOR = ROM_BYTES - 16;
function haltedRom(): Uint8Array {
  const rom = new Uint8Array(ROM_BYTES);
  rom.set([0xfa, 0xf4, 0xeb, 0xfc], RESET_VECTOR);
  return rom;
}

/** What each machine is called, with all that it can have fixed. Its second I/O APIC would take the virtio lines of microvm. */
export const MACHINE_OPTIONS: Readonly<Record<QemuMachine, string>> = {
  pc: 'pc',
  q35: 'q35',
  microvm: 'microvm,acpi=on,ioapic2=off,pit=on,pic=on,rtc=on,isa-serial=on',
};

/** A port of a console, as the one at its other end has it. */
class PortEnd {
  readonly #path: string;
  #socket: Socket | null = null;
  #heard: Buffer[] = [];
  #heardBytes = 0;
  /** It heard more than it can keep. */
  overflown = false;

  constructor(path: string) {
    this.#path = path;
  }

  async connect(): Promise<void> {
    if (this.#socket) return;
    const socket = connect(this.#path);
    await once(socket, 'connect');
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      this.#heardBytes += chunk.length;
      if (this.#heardBytes > OUTPUT_LIMIT_BYTES) this.overflown = true;
      else this.#heard.push(chunk);
    });
    this.#socket = socket;
  }

  disconnect(): void {
    this.#socket?.destroy();
    this.#socket = null;
  }

  send(bytes: Uint8Array): void {
    this.#socket?.write(bytes);
  }

  /** Everything since this was last asked. */
  take(): Uint8Array {
    const heard = Buffer.concat(this.#heard);
    this.#heard = [];
    this.#heardBytes = 0;
    return heard;
  }
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export class QtestMachine implements DeviceSession {
  readonly #child: ChildProcess;
  readonly #folder: string;
  readonly #qtest: Qtest;
  readonly #qmp: Qmp | null;
  readonly #ends: readonly HostEnds[];
  readonly #ports: readonly (readonly PortEnd[])[];
  readonly #ended: Promise<string>;
  /** The clock moves when it is told to. */
  #stepped = false;
  #over = false;

  private constructor(child: ChildProcess, folder: string, ends: readonly HostEnds[], isQemu: boolean) {
    this.#child = child;
    this.#folder = folder;
    this.#ends = ends;
    this.#ports = ends.map(({ ports = [] }) => ports.map(({ socket }) => new PortEnd(socket)));
    let stderr = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      stderr = (stderr + chunk.toString('latin1')).slice(-STDERR_KEPT);
    });
    this.#ended = new Promise((resolve) => {
      const said = (): string => stderr.replace(NO_QTEST, '').trim().slice(-600) || '(it said nothing)';
      child.on('error', (error) => resolve(`could not be started: ${error.message}`));
      child.on('close', (code, signal) => resolve(`${howItEnded(code, signal)}: ${said()}`));
    });
    (child.stdin as Writable).on('error', () => {}); // a closed pipe shows itself as the child's end
    this.#qtest = new Qtest(child.stdout as Readable, child.stdin as Writable);
    this.#qmp = isQemu ? new Qmp(child.stdio[3] as Duplex) : null;
  }

  /** Starts the machine. @throws AdapterDied when the program ends instead; Error when there is no such machine */
  static async start({ command, isQemu, properties }: QtestProgram, request: QtestRequest): Promise<QtestMachine> {
    const machine = request.machine ?? machineFor(request.devices);
    if (typeof machine === 'object') throw new Error(machine.none);
    const folder = mkdtempSync(join(tmpdir(), 'ringbook-qtest-'));
    let session: QtestMachine | null = null;
    try {
      const { options, ends } = qemuDevices(request.devices, { folder, properties });
      const common = ['-nodefaults', '-display', 'none', '-m', `${request.memoryMiB}M`, '-qtest', 'stdio', '-qtest-log', 'none'];
      const qemu = isQemu
        ? ['-accel', 'tcg', '-bios', join(folder, 'rom'), '-chardev', 'socket,id=monitor,fd=3', '-mon', 'chardev=monitor,mode=control']
        : [];
      if (isQemu) writeFileSync(join(folder, 'rom'), haltedRom());
      const args = [...command.slice(1), '-machine', MACHINE_OPTIONS[machine], '-accel', 'qtest', ...qemu, ...common, ...options];
      const child = spawnGroup(command[0], args, { stdio: ['pipe', 'pipe', 'pipe', ...(isQemu ? (['pipe'] as const) : [])] });
      session = new QtestMachine(child, folder, ends, isQemu);
      await session.#prepare();
      return session;
    } catch (error) {
      if (session) await session.end();
      else rmSync(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** Whatever fails because the program has ended is told with how it ended. */
  async #alive<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      if (error instanceof QtestRefusal || this.#over) throw error;
      const ended = await Promise.race([this.#ended, sleep(1000).then(() => null)]);
      throw ended === null ? error : new AdapterDied(`the machine ${ended}`);
    }
  }

  async #prepare(): Promise<void> {
    await this.#alive(this.#start());
  }

  async #start(): Promise<void> {
    await this.#qmp?.greeting();
    await this.#qmp?.command('qmp_capabilities');
    await this.#qtest.interceptIn('ioapic');
    this.#stepped = (await this.#qtest.clockStep(1000n)) !== null;
    if (this.#qmp) for (const port of this.#ports.flat()) await port.connect();
    await this.#settle();
    this.#qtest.takeChanges();
  }

  kill(): void {
    this.#over = true;
    killGroup(this.#child);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async end(): Promise<{ readonly detail?: string }> {
    this.#over = true;
    for (const port of this.#ports.flat()) port.disconnect();
    killGroup(this.#child);
    await this.#ended;
    rmSync(this.#folder, { recursive: true, force: true });
    return {};
  }

  // ## Waiting until nothing is under way
  //
  // A device's answer to a kick need not be there when the store that made it is. QEMU's main loop does what was put off in its next round, and
  // each answer to a command is from another round. A disk's requests are with threads; draining the disk waits for them.

  async #settle(): Promise<void> {
    for (let round = 0; round < 2; round++) {
      for (const { disk } of this.#ends) if (disk && this.#qmp) await this.#human(`qemu-io ${disk.drive} aio_flush`);
      await this.#qtest.command('endianness');
      await this.#qmp?.command('query-status');
    }
  }

  #human(line: string): Promise<unknown> {
    return (this.#qmp as Qmp).command('human-monitor-command', { 'command-line': line });
  }

  async #advance(ns: bigint): Promise<void> {
    if (this.#stepped) await this.#qtest.clockStep(ns);
    else await sleep(Math.min(Number(ns) / 1e6, LONGEST_SLEEP_MS));
    await this.#settle();
  }

  // ## Operations

  async access(ops: readonly DeviceOp[]): Promise<readonly OpResult[]> {
    const results: OpResult[] = [];
    for (const op of ops) results.push(await this.#alive(this.#do(op)));
    return results;
  }

  async #do(op: DeviceOp): Promise<OpResult> {
    const qtest = this.#qtest;
    switch (op.do) {
      case 'in':
        return { value: hex((await qtest.in(Number(op.port), op.bytes)) & ((1n << BigInt(8 * op.bytes)) - 1n)) };
      case 'out':
        await qtest.out(Number(op.port), op.bytes, BigInt(op.value));
        return {};
      case 'load':
        return { value: hex(await qtest.load(BigInt(op.gpa), op.bytes)) };
      case 'store':
        await qtest.store(BigInt(op.gpa), op.bytes, BigInt(op.value));
        return {};
      case 'read':
        return { data: Buffer.from(await qtest.read(BigInt(op.gpa), op.count)).toString('base64') };
      case 'write':
        await qtest.write(BigInt(op.gpa), Buffer.from(op.data, 'base64'));
        return {};
      case 'fill':
        await qtest.fill(BigInt(op.gpa), op.count, op.byte);
        return {};
      case 'lines':
        await qtest.command('endianness'); // what is under way has then arrived
        return { lines: qtest.takeChanges().filter(({ gsi }) => gsi !== TIMER_LINE) };
      case 'advance':
        await this.#advance(BigInt(op.ns));
        return {};
      default:
        return this.#host(op);
    }
  }

  // ## What somebody outside does

  async #host(op: HostOp): Promise<OpResult> {
    const qmp = this.#qmp;
    if (!qmp) return { unsupported: 'the machine has no monitor' };
    const { disk } = this.#ends[op.device] ?? {};
    const device = `/machine/peripheral/dev${op.device}`;
    switch (op.action) {
      case 'input':
      case 'output':
      case 'connect':
      case 'disconnect':
        return this.#port(op);
      case 'unplug': {
        const port = this.#ends[op.device]?.ports?.[op.port];
        if (!port) return { unsupported: `device ${op.device} has no port ${op.port}` };
        await qmp.command('device_del', { id: `${port.chardev}port` });
        break;
      }
      case 'resize-console':
        return { unsupported: 'QEMU has no way to tell a console its size' };
      case 'target':
        await qmp.command('balloon', { value: Number(BigInt(op.bytes)) });
        break;
      case 'actual': {
        const { actual } = (await qmp.command('query-balloon')) as { actual: number };
        return { value: hex(BigInt(actual)) };
      }
      case 'stats':
        return this.#stats(device);
      case 'resize':
        if (!disk) return { unsupported: `device ${op.device} is no disk` };
        await qmp.command('block_resize', { device: disk.drive, size: Number(BigInt(op.sectors)) * 512 });
        break;
      case 'fail-zone':
      case 'hint':
      case 'hinted':
        return { unsupported: `QEMU's monitor has no word for '${op.action}'` };
      case 'watch':
      case 'watched':
        return { unsupported: 'QEMU does not tell in which order its devices store' };
      case 'content':
        if (!disk) return { unsupported: `device ${op.device} is no disk` };
        await this.#settle();
        return { data: Buffer.from(readSectors(disk.file, Number(BigInt(op.sector)), op.count)).toString('base64') };
    }
    await this.#settle();
    return {};
  }

  async #port(op: Extract<HostOp, { port: number }>): Promise<OpResult> {
    const port = this.#ports[op.device]?.[op.port];
    if (!port) return { unsupported: `device ${op.device} has no port ${op.port}` };
    if (op.action === 'connect') await port.connect();
    else if (op.action === 'disconnect') port.disconnect();
    else if (op.action === 'input') port.send(Buffer.from(op.data, 'base64'));
    await this.#settle();
    if (op.action !== 'output') {
      await this.#settle();
      return {};
    }
    // What QEMU has written to the socket is in it; this program's own event loop may not have come to it.
    let heard = port.take();
    for (const until = performance.now() + SOCKET_MS; heard.length === 0 && performance.now() < until; heard = port.take()) await sleep(1);
    if (port.overflown) throw new Error(`port ${op.port} said more than ${OUTPUT_LIMIT_BYTES} bytes at once`);
    return { data: Buffer.from(heard).toString('base64') };
  }

  // QEMU asks the driver for statistics when its interval is set, and then at each interval; what the driver answers is kept by names of QEMU's own.

  async #stats(path: string): Promise<OpResult> {
    const qmp = this.#qmp as Qmp;
    const { stats } = (await qmp.command('qom-get', { path, property: 'guest-stats' })) as { stats: Record<string, number> };
    const known: Record<string, string> = {};
    for (const [name, tag] of Object.entries(STATS)) {
      const value = stats[name];
      // A value that was never given is all ones. JSON.parse has made doubles of both, and this one is not exact.
      if (typeof value === 'number' && value >= 0 && value < 2 ** 63) known[tag] = String(value);
    }
    return { stats: known };
  }
}

/** QEMU's names of the balloon's statistics, and their tags. */
const STATS: Readonly<Record<string, string>> = {
  'stat-swap-in': '0',
  'stat-swap-out': '1',
  'stat-major-faults': '2',
  'stat-minor-faults': '3',
  'stat-free-memory': '4',
  'stat-total-memory': '5',
  'stat-available-memory': '6',
  'stat-disk-caches': '7',
  'stat-htlb-pgalloc': '8',
  'stat-htlb-pgfail': '9',
};

function readSectors(file: string, sector: number, count: number): Uint8Array {
  const bytes = new Uint8Array(count * 512);
  const fd = openSync(file, 'r');
  try {
    const read = readSync(fd, bytes, 0, bytes.length, sector * 512);
    return bytes.subarray(0, read);
  } finally {
    closeSync(fd);
  }
}
