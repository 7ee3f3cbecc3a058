// # Bochs
//
// An interpreter of x86 older than any of the others, with a chipset of its own around it, and no way to load an image but firmware and a disk: every case comes in
// through the disk door. One process for each case.
//
// Bochs has no debug-exit device. It does say in its log what becomes of an access that nobody answers, and how its processor comes to a stop, so the log is where this
// adapter looks:
//
// | what happened | what the log says |
// |---|---|
// | a write to port 0xf4 | `UNMAP … 8-bit write to 00f4 = …` |
// | triple fault | `3rd (…) exception with no resolution`, by the processor |
// | another reset | `Reset(…) called` after the machine has begun |
// | soft off | a panic of the ACPI device, in these words |
// | halt for good | `HLT instruction with IF=0!`, by every processor, and nothing after that |
// | Bochs gave up | any other panic |
//
// A character is on its way for as long as its bits take, as on a real line. So after an end the adapter waits until the last record is whole.

import type { ChildProcess } from 'node:child_process';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CONSOLE_LIMIT_BYTES } from '../console.ts';
import type { Adapter, End, RanGuest, RunGuest, RunReply, RunRequest, Started, Unavailable } from '../types.ts';
import { howItEnded, killGroup, spawnGroup } from './children.ts';
import { lineSplitter } from './lines.ts';

const PROGRAM = 'bochs';
export const BIOS = '/usr/share/bochs/BIOS-bochs-latest';
export const VGA_BIOS = ['/usr/share/bochs/VGABIOS-lgpl-latest', '/usr/share/vgabios/vgabios.bin'];
/** The processor to be. One that has all the suite asks for; the list of a Bochs may be without it. */
export const MODEL = 'broadwell_ult';
/** Sixteen heads of 63 sectors, twice: Bochs wants whole cylinders. */
export const CYLINDER_BYTES = 16 * 63 * 512;
const POLL_MS = 20;
/** How long a halted machine is watched before it counts as halted for good, and how long the last character may take. */
const SETTLE_MS = 250;
const LAST_CHARACTER_MS = 2000;
const LINE_BYTES = 4096;

const CAPABILITIES = [
  ...['door-disk', 'serial-input', 'debug-exit', 'notices-halt', 'reset', 'soft-off', 'uart'],
  ...['lapic', 'ioapic', 'x2apic', 'tsc-deadline', 'pic', 'pit', 'rtc', 'pci', 'acpi', 'ide', 'ide-dma', 'i8042'],
  ...[
    'protected-mode',
    'protected-paging',
    'protected-interrupts',
    'protected-v86',
    'protected-tasks',
    'long-mode',
    'long-interrupts',
    'user-mode',
    'single-step',
  ],
  ...['pae', 'nx', 'huge-pages', 'syscall', 'sysenter', 'x87', 'mmx', 'sse', 'sse4', 'bmi', 'cx16', 'xsave', 'vme', 'pcid', 'mtrr'], // of this model
];

const OURS = "the device is this suite's own, to observe accesses with; Bochs has none there";
const FIRMWARE_ONLY = 'Bochs starts firmware and nothing else, and firmware reads a disk';
const NO_VIRTIO = 'Bochs has no virtio device';
const MISSING: Readonly<Record<string, string>> = {
  'door-multiboot': FIRMWARE_ONLY,
  'door-pvh': FIRMWARE_ONLY,
  'door-long': FIRMWARE_ONLY,
  'smp2-shared': 'the second processor waits for INIT and SIPI, as a PC’s does',
  'scratch-pio': OURS,
  'scratch-mmio': OURS,
  inject: OURS,
  'inject-nmi': OURS,
  q35: 'its chipset is the i440FX with a PIIX3',
  'fw-cfg': 'the device is QEMU’s',
  ...Object.fromEntries(
    ['entropy', 'console', 'balloon', 'block', 'pci', 'transitional', 'mmio', 'mmio-legacy'].map((name) => [`virtio-${name}`, NO_VIRTIO]),
  ),
};

/** What this Bochs was built with. */
interface Build {
  readonly version: string;
  readonly model: string | null;
  readonly display: string;
  readonly e1000: boolean;
  /** It asks a debugger's questions before it starts. */
  readonly debugger: boolean;
}

interface Shape {
  readonly vcpus: number;
  readonly memoryMiB: number;
  /** What the serial port is connected to, in Bochs' words. */
  readonly serial: string;
  readonly display?: string;
}

const helpOf = async (program: string, ...topic: string[]): Promise<string> => {
  const { stdout, stderr } = await promisify(execFile)(program, ['--help', ...topic], { timeout: 20_000, maxBuffer: 1 << 20 });
  return stdout + stderr;
};

async function inspect(program: string): Promise<Build> {
  const usage = await helpOf(program);
  const features = await helpOf(program, 'features');
  const models = await helpOf(program, 'cpu');
  return {
    version: /Bochs x86 Emulator ([0-9.]+)/.exec(usage)?.[1] ?? 'unknown',
    model: new RegExp(`^${MODEL}$`, 'm').test(models) ? MODEL : null,
    display: 'nogui',
    e1000: /^e1000$/m.test(features),
    debugger: usage.includes('-rc filename'),
  };
}

/** Bochs, as the host has it. */
export class BochsAdapter implements Adapter {
  readonly #program: string;
  readonly #children = new Set<ChildProcess>();
  #build: Build | null = null;

  constructor(program: string = PROGRAM) {
    this.#program = program;
  }

  async start(): Promise<Started | Unavailable> {
    const no = (reason: string): Unavailable => ({ type: 'unavailable', reason });
    try {
      this.#build = await inspect(this.#program);
    } catch (error) {
      if ((error as { code?: unknown }).code === 'ENOENT') return no(`no ${this.#program} on PATH (Debian: apt install bochs bochsbios vgabios)`);
      return no(`${this.#program} --help failed: ${String(error).slice(0, 500)}`);
    }
    if (!existsSync(BIOS)) return no(`there is no firmware at ${BIOS} (Debian: apt install bochsbios)`);
    if (!VGA_BIOS.some((path) => existsSync(path))) return no(`there is no video firmware at ${VGA_BIOS.join(' or ')} (Debian: apt install vgabios)`);
    const { version, model, e1000 } = this.#build;
    if (model === null) return no(`this Bochs has no processor model ${MODEL}`);
    // A display is a must, and most of them want a screen. One that shows nothing is seldom built in; the one for VNC shows nothing while nobody calls.
    const shown = await this.#trial(1, /using log file|Reset\(/, 'nogui');
    if (shown !== null) this.#build = { ...this.#build, display: 'rfb' };
    const more = (await this.#trial(2, /CPU1.*reset/)) === null ? null : 'this Bochs was built for one processor';
    return {
      type: 'started',
      protocol: 1,
      name: 'bochs',
      version,
      surfaces: ['guest'],
      capabilities: [...CAPABILITIES, ...(e1000 ? ['e1000'] : []), ...(more === null ? ['smp2'] : [])],
      missing: { ...MISSING, ...(!e1000 && { e1000: 'this Bochs was built without it' }), ...(more !== null && { smp2: more }) },
    };
  }

  async run(request: RunRequest): Promise<RunReply> {
    if (request.surface !== 'guest') return { type: 'error', id: request.id, reason: `no surface '${request.surface}'` };
    const { image, sha256, door } = request.guest;
    const found = createHash('sha256').update(readFileSync(image)).digest('hex');
    if (found !== sha256) return { type: 'error', id: request.id, reason: `${image} is not the image that the suite means: its digest is ${found}` };
    if (door !== 'disk') return { type: 'error', id: request.id, reason: MISSING[`door-${door}`] ?? FIRMWARE_ONLY };
    return inFolder((folder) => this.#boot(folder, request));
  }

  async stop(): Promise<void> {
    this.kill();
  }

  kill(): void {
    for (const child of this.#children) killGroup(child);
    this.#children.clear();
  }

  /** Starts a machine and looks for a line in its log. Null when it is there, or what became of it instead. */
  async #trial(vcpus: number, awaited: RegExp, display?: string): Promise<string | null> {
    return inFolder(async (folder) => {
      writeFileSync(join(folder, 'disk'), new Uint8Array(2 * CYLINDER_BYTES));
      const child = this.#spawn(folder, { vcpus, memoryMiB: 16, serial: 'null', ...(display !== undefined && { display }) });
      const outcome = await new Promise<string | null>((resolve) => {
        let last = '';
        const feed = lineSplitter(
          LINE_BYTES,
          (line) => {
            last = line;
            if (line.includes('PANIC')) resolve(line);
            else if (awaited.test(line)) resolve(null);
          },
          () => resolve('a line without an end'),
        );
        child.stderr?.on('data', feed);
        child.once('close', () => resolve(last));
        setTimeout(() => resolve('nothing within ten seconds'), 10_000).unref();
      });
      killGroup(child);
      this.#children.delete(child);
      return outcome;
    });
  }

  #spawn(folder: string, machine: Shape): ChildProcess {
    const { e1000, model, debugger: asks } = this.#build as Build;
    const { display = (this.#build as Build).display } = machine;
    const disk = join(folder, 'disk');
    const lines = [
      `memory: guest=${machine.memoryMiB}, host=${machine.memoryMiB}`,
      `cpu: count=${machine.vcpus}, ips=50000000, model=${model}, reset_on_triple_fault=1, ignore_bad_msrs=0`,
      `romimage: file=${BIOS}, options=fastboot`,
      `vgaromimage: file=${VGA_BIOS.find((path) => existsSync(path))}`,
      `pci: enabled=1, chipset=i440fx${e1000 ? ', slot1=e1000' : ''}`,
      // The station on its wire is Bochs' own, and nothing gets further than that.
      ...(e1000 ? ['e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=slirp'] : []),
      'boot: disk',
      `ata0-master: type=disk, path="${disk}", mode=flat, cylinders=${statSync(disk).size / CYLINDER_BYTES}, heads=16, spt=63`,
      machine.serial === 'null' ? 'com1: enabled=1, mode=null' : `com1: enabled=1, ${machine.serial}`,
      'clock: sync=none, time0=local',
      `display_library: ${display}${display === 'rfb' ? ', options="timeout=0"' : ''}`,
      'log: /dev/stderr',
      'panic: action=fatal', // whatever one asks for, a panic is the end of Bochs
      'error: action=report',
      'info: action=report',
      'debug: action=ignore, unmapped=report',
      'sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy',
      'plugin_ctrl: speaker=0, gameport=0, unmapped=1',
    ];
    writeFileSync(join(folder, 'bochsrc'), `${lines.join('\n')}\n`);
    writeFileSync(join(folder, 'go'), 'continue\n');
    const args = ['-q', '-f', join(folder, 'bochsrc'), ...(asks ? ['-rc', join(folder, 'go')] : [])];
    const child = spawnGroup(this.#program, args, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
    this.#children.add(child);
    return child;
  }

  async #boot(folder: string, request: RunGuest): Promise<RunReply> {
    const { guest, limits, id } = request;
    const disk = join(folder, 'disk');
    writeFileSync(disk, readFileSync(guest.image));
    truncateSync(disk, Math.max(2, Math.ceil(statSync(disk).size / CYLINDER_BYTES)) * CYLINDER_BYTES);
    const output = join(folder, 'output');
    writeFileSync(output, '');
    const input = Buffer.from(guest.input, 'base64');
    const wire = input.length > 0 ? await SerialWire.listen(input) : null;
    const serial = wire ? `mode=socket-client, dev=127.0.0.1:${wire.port}` : `mode=file, dev="${output}"`;
    const child = this.#spawn(folder, { vcpus: guest.vcpus, memoryMiB: Math.max(guest.memoryMiB, 8), serial });
    const log = new Log(guest.vcpus);
    const closed = new Promise<string>((resolve) => {
      child.on('close', (code, signal) => resolve(howItEnded(code, signal)));
      child.on('error', (error) => resolve(`could not be started: ${error.message}`));
    });
    let how: string | null = null;
    void closed.then((words) => {
      how = words;
    });
    child.stderr?.on('data', log.feed);

    const console = (): Buffer => (wire ? Buffer.concat(wire.received) : readFileSync(output));
    const deadline = performance.now() + limits.timeoutMs;
    const pause = (): Promise<unknown> => Promise.race([closed, new Promise((resolve) => setTimeout(resolve, POLL_MS))]);
    let end: End | null = null;
    while (end === null && how === null) {
      await pause();
      const size = wire ? wire.bytes : statSync(output).size;
      if (performance.now() > deadline || size > CONSOLE_LIMIT_BYTES) end = 'timeout';
      else if (log.end !== null) end = log.end;
      else if (log.haltedForMs() > SETTLE_MS) end = 'halt';
    }
    end ??= log.end;
    for (let waited = 0; end !== 'timeout' && how === null && waited < LAST_CHARACTER_MS; waited += POLL_MS) {
      const said = console();
      if (said.length === 0 || said.at(-1) === 0x0a) break;
      await pause();
    }
    killGroup(child);
    const words = how ?? (await closed);
    this.#children.delete(child);
    wire?.close();
    if (end === null) return { type: 'error', id, reason: `Bochs ${words}: ${log.tail.join('; ') || '(it said nothing)'}`.slice(0, 2000) };
    // A Bochs that is no more does not finish the line that it was sending; what nobody could have received is no corruption.
    const all = console();
    const said = end === 'internal-error' ? all.subarray(0, all.lastIndexOf(0x0a) + 1) : all;
    const ran: RanGuest = { type: 'ran', id, surface: 'guest', end, console: said.subarray(0, CONSOLE_LIMIT_BYTES + 1).toString('base64') };
    return { ...ran, ...(end === 'debug-exit' && { exitValue: `0x${log.exitValue}` }), ...(log.detail && { detail: `Bochs: ${log.detail}` }) };
  }
}

/** Reads the log as it comes. Nothing of it is kept but the last few lines and what they mean. */
class Log {
  end: End | null = null;
  exitValue = '0';
  detail = '';
  readonly tail: string[] = [];
  readonly feed: (chunk: Uint8Array) => void;
  readonly #halted = new Set<string>();
  readonly #vcpus: number;
  #haltedAt = 0;
  #begun = false;

  constructor(vcpus: number) {
    this.#vcpus = vcpus;
    this.feed = lineSplitter(
      LINE_BYTES,
      (line) => this.#line(line),
      () => {},
    );
  }

  /** How long every processor has been halted with interrupts off, as far as anybody has said. */
  haltedForMs(): number {
    return this.#halted.size < this.#vcpus ? 0 : performance.now() - this.#haltedAt;
  }

  #line(line: string): void {
    const [, level, device = '', text = ''] = /^[0-9]+([a-z])\[(\w*) *\] (.*)$/.exec(line) ?? [];
    if (level === 'p' || level === 'e') {
      this.tail.push(line.slice(0, 300));
      if (this.tail.length > 4) this.tail.shift();
    }
    if (this.end !== null) return;
    const finish = (end: End, detail = ''): void => {
      this.end = end;
      this.detail = detail.slice(0, 300);
    };
    const exit = /write to 00f4 = ([0-9a-f]+)/.exec(text);
    if (device === 'UNMAP' && exit) {
      this.exitValue = (exit[1] as string).replace(/^0+(?=.)/, '');
      finish('debug-exit');
    } else if (device.startsWith('CPU') && text.includes('3rd (') && text.includes('no resolution')) finish('triple-fault', text);
    else if (device.startsWith('CPU') && text.includes('HLT instruction with IF=0')) {
      this.#halted.add(device);
      this.#haltedAt = performance.now();
    } else if (device === 'SYS' && text.includes('Reset(') && text.includes('called')) {
      if (this.#begun) finish('reset', text);
      this.#begun = true;
    } else if (level === 'p') finish(text.includes('soft power off') ? 'soft-off' : 'internal-error', text.replace('>>PANIC<< ', ''));
  }
}

/** The far end of the serial line, for a guest that is sent something: Bochs reads a file never, and a socket always. */
class SerialWire {
  readonly received: Buffer[] = [];
  bytes = 0;
  readonly port: number;
  readonly #server: Server;
  readonly #sockets: Socket[] = [];

  private constructor(server: Server, input: Buffer) {
    this.#server = server;
    this.port = (server.address() as { port: number }).port;
    server.on('connection', (socket) => {
      this.#sockets.push(socket);
      socket.on('error', () => {});
      socket.on('data', (chunk: Buffer) => {
        this.bytes += chunk.length;
        if (this.bytes <= CONSOLE_LIMIT_BYTES + 65536) this.received.push(chunk);
      });
      socket.write(input);
    });
  }

  static listen(input: Buffer): Promise<SerialWire> {
    const server = createServer();
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(0, '127.0.0.1', () => resolve(new SerialWire(server, input)));
    });
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}

/** Does something in a folder of its own, which is gone afterwards. */
async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-bochs-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  process.on('exit', remove); // Ctrl-C comes by here only
  try {
    return await work(folder);
  } finally {
    process.off('exit', remove);
    remove();
  }
}
