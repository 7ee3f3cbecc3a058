// # QEMU
//
// One process for each case, with QEMU's own translator (TCG) for a processor, so it runs wherever QEMU does. QMP, the machine protocol, starts and
// watches the run. The serial port goes to a file, not to a pipe: a reader that is slow makes QEMU's write to a pipe fail, and after a few attempts
// QEMU drops the byte.
//
// What needs care is telling the *ends* apart, because QEMU expresses three of them by exiting:
//
// | what happened | how it shows |
// |---|---|
// | debug-exit port written | exit status, always odd: twice the value plus one |
// | triple fault | with `-no-reboot` a reset request ends the process; the reset log on standard error says "Triple fault" |
// | another reset | the same, without those words |
// | halt for good | nothing at all: the registers say HLT=1 with interrupts off, on every processor, twice in a row |
// | QEMU refused to start | status 1, like a debug exit with value 0; but then the monitor never answered |
//
// QEMU has several machines, and each case is given the one that it needs: a PC with the old chipset, a Q35, or `microvm`, which has no PCI and its
// virtio devices in windows of memory. `qemu:pc`, `qemu:q35` and `qemu:microvm` are the same with the choice already made.

import type { ChildProcess } from 'node:child_process';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { promisify } from 'node:util';
import { CONSOLE_LIMIT_BYTES } from '../console.ts';
import type { DeviceSession, WireDevice } from '../device-script/wire.ts';
import type { Adapter, End, RanGuest, RunDevice, RunError, RunGuest, RunReply, RunRequest, Started, Unavailable } from '../types.ts';
import { hex } from '../values.ts';
import { howItEnded, killGroup, spawnGroup } from './children.ts';
import { isMmio, machineFor, type QemuDevices, type QemuMachine, qemuDevices, quote } from './qemu-devices.ts';
import { probeQemu, type QemuFound } from './qemu-probe.ts';
import { Qmp } from './qmp.ts';
import { MACHINE_OPTIONS, QtestMachine } from './qtest-machine.ts';

const PROGRAM = 'qemu-system-x86_64';
const POLL_MS = 40;
const STDERR_KEPT = 8000;
/** Every machine has a disk of its own, which it may write. On one with less than a cylinder the firmware's geometry has none. */
const DISK_BYTES = 1 << 20;

/** RFLAGS.IF, as `info registers` prints the flags. */
const IF = 0x200;

const CAPABILITIES = [
  ...['door-multiboot', 'door-pvh', 'door-disk', 'serial-input', 'debug-exit', 'notices-halt', 'reset', 'smp2', 'uart'],
  ...['lapic', 'ioapic', 'pic', 'pit', 'rtc', 'pci', 'acpi', 'ide', 'ide-dma', 'e1000', 'q35', 'i8042', 'soft-off', 'fw-cfg'],
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
  ...['pae', 'nx', 'huge-pages', 'syscall', 'sysenter', 'x87', 'mmx', 'sse', 'sse4', 'bmi', 'cx16', 'xsave', 'la57', 'mtrr', 'rdrand'],
];

const OURS = "the device is this suite's own, to observe accesses with; QEMU has none there";
const MISSING: Readonly<Record<string, string>> = {
  'door-long': 'QEMU enters an ELF image through its multiboot header or PVH note, in 32-bit protected mode',
  'smp2-shared': "QEMU's second processor waits for INIT and SIPI, as a PC's does",
  'scratch-pio': OURS,
  'scratch-mmio': OURS,
  inject: OURS,
  'inject-nmi': OURS,
  x2apic: 'the translator of this version has no x2APIC mode',
  'tsc-deadline': 'the translator has no TSC-deadline timer',
};

// ## What each machine lacks

const NO_PCI = 'microvm has no PCI';
const LACKS: Readonly<Record<QemuMachine, Readonly<Record<string, string>>>> = {
  pc: { q35: 'the PC of the old chipset', 'virtio-mmio': 'a PC has no virtio windows', 'virtio-mmio-legacy': 'a PC has no virtio windows' },
  q35: {
    ide: 'the disks of the Q35 are at an AHCI controller',
    'ide-dma': 'the disks of the Q35 are at an AHCI controller',
    'virtio-mmio': 'a PC has no virtio windows',
    'virtio-mmio-legacy': 'a PC has no virtio windows',
  },
  microvm: {
    ...{ q35: NO_PCI, pci: NO_PCI, ide: NO_PCI, 'ide-dma': NO_PCI, e1000: NO_PCI, 'virtio-pci': NO_PCI, 'virtio-transitional': NO_PCI },
    'door-disk': 'microvm has no disk controller that its firmware boots from',
    i8042: 'microvm has no keyboard controller',
    'soft-off': 'microvm switches off by another register than a PC',
  },
};

/** The machines by the capability that is only theirs. */
const TRANSPORTS: Readonly<Record<string, readonly QemuMachine[]>> = {
  'virtio-pci': ['pc', 'q35'],
  'virtio-transitional': ['pc', 'q35'],
  'virtio-mmio': ['microvm'],
  'virtio-mmio-legacy': ['microvm'],
};
const TYPES = { 'virtio-entropy': 'virtio-rng', 'virtio-console': 'virtio-serial', 'virtio-balloon': 'virtio-balloon', 'virtio-block': 'virtio-blk' };

/** What this QEMU can be asked for, and why not for the rest. */
function virtioCapabilities({ machines, properties }: QemuFound): Pick<Started, 'capabilities' | 'missing'> {
  const missing: Record<string, string> = {};
  for (const [name, of] of Object.entries(TRANSPORTS))
    if (!of.some((machine) => machines.has(machine))) missing[name] = `this QEMU has no machine ${of[0]}`;
  for (const [name, type] of Object.entries(TYPES))
    if (properties(`${type}-pci`).size + properties(`${type}-device`).size === 0) missing[name] = `this QEMU has no ${type}`;
  if (!properties('virtio-rng-pci').has('packed')) missing['ring-packed'] = 'the devices of this version of QEMU have no property `packed`';
  const all = [...Object.keys(TRANSPORTS), ...Object.keys(TYPES), 'ring-packed'];
  return { capabilities: all.filter((name) => !(name in missing)), missing };
}

/** What is at the other end of a guest's console: somebody who repeats what it hears. */
function echo(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => resolve(socket));
    socket.on('error', reject); // once connected it means that QEMU has ended
    socket.pipe(socket);
  });
}

/** QEMU under its own translator. */
export class QemuAdapter implements Adapter {
  readonly #program: string;
  readonly #machine: QemuMachine | null;
  readonly #children = new Set<ChildProcess>();
  readonly #sessions = new Set<QtestMachine>();
  #found: QemuFound | null = null;

  /** @param machine  instead of the one that fits the case */
  constructor(program: string = PROGRAM, machine: QemuMachine | null = null) {
    this.#program = program;
    this.#machine = machine;
  }

  async start(): Promise<Started | Unavailable> {
    if (process.platform === 'win32') return { type: 'unavailable', reason: 'the QEMU adapter needs inherited sockets, which Windows lacks' };
    let text: string;
    try {
      text = (await promisify(execFile)(this.#program, ['--version'], { timeout: 20_000 })).stdout;
    } catch (error) {
      const { code } = error as { code?: unknown };
      const reason =
        code === 'ENOENT'
          ? `no ${this.#program} on PATH (Debian: apt install qemu-system-x86)`
          : `${this.#program} --version failed: ${String(error)}`;
      return { type: 'unavailable', reason };
    }
    const version = /version ([0-9.]+)/.exec(text)?.[1] ?? 'unknown';
    let found: QemuFound;
    try {
      found = await probeQemu(this.#program);
    } catch (error) {
      return { type: 'unavailable', reason: `${this.#program} does not say what it has: ${(error as Error).message}` };
    }
    this.#found = found;
    if (this.#machine && !found.machines.has(this.#machine)) return { type: 'unavailable', reason: `this QEMU has no machine ${this.#machine}` };
    const virtio = virtioCapabilities(found);
    const missing = { ...MISSING, ...virtio.missing, ...(this.#machine && LACKS[this.#machine]) };
    const capabilities = [...CAPABILITIES, ...virtio.capabilities].filter((name) => !(name in missing));
    const name = this.#machine ? `qemu-${this.#machine}` : 'qemu';
    return { type: 'started', protocol: 1, name, version, surfaces: ['guest', 'device'], capabilities, missing };
  }

  /** A machine for devices: the one that was chosen, or the one that they need. */
  #machineFor(devices: readonly WireDevice[]): QemuMachine | { readonly none: string } {
    const machine = machineFor(devices);
    if (typeof machine === 'object' || !this.#machine || devices.length === 0)
      return typeof machine === 'object' ? machine : (this.#machine ?? machine);
    const fits = devices.some(isMmio) === (this.#machine === 'microvm');
    return fits ? this.#machine : { none: `QEMU's ${this.#machine} has no place for these devices` };
  }

  async open({ id, machine: { memoryMiB, devices } }: RunDevice): Promise<DeviceSession | RunError> {
    const machine = this.#machineFor(devices);
    if (typeof machine === 'object') return { type: 'error', id, reason: machine.none };
    const program = { command: [this.#program] as [string], isQemu: true, properties: (type: string) => this.#properties(type) };
    const session = await QtestMachine.start(program, { memoryMiB, devices, machine });
    this.#sessions.add(session);
    return {
      access: (ops) => session.access(ops),
      end: () => {
        this.#sessions.delete(session);
        return session.end();
      },
    };
  }

  #properties(type: string): ReadonlySet<string> {
    return this.#found?.properties(type) ?? new Set();
  }

  async run(request: RunRequest): Promise<RunReply> {
    if (request.surface !== 'guest') return { type: 'error', id: request.id, reason: `no surface '${request.surface}'` };
    return this.#boot(request);
  }

  async stop(): Promise<void> {
    this.kill();
  }

  kill(): void {
    for (const child of this.#children) killGroup(child);
    this.#children.clear();
    for (const session of this.#sessions) session.kill();
    this.#sessions.clear();
  }

  /** The machine of a guest. The Q35 has no IDE channels at the old ports, so it is for those that ask for it, and for devices. */
  #guestMachine({ devices = [], needs = [] }: RunGuest['guest']): QemuMachine | { readonly none: string } {
    if (devices.length > 0) return this.#machineFor(devices);
    return this.#machine ?? (needs.includes('q35') ? 'q35' : 'pc');
  }

  #commandLine({ guest }: RunGuest, machine: QemuMachine, serial: string, disk: string, devices: QemuDevices): string[] {
    const { door, image, vcpus, memoryMiB } = guest;
    const boot = door === 'disk' ? ['-boot', 'c'] : ['-kernel', image];
    // No boot ROM on the card. The station on its wire is QEMU's own, and nothing gets further than that.
    const card = ['-netdev', 'user,id=wire,restrict=on', '-device', 'e1000,netdev=wire,romfile='];
    return [
      ...['-M', MACHINE_OPTIONS[machine], '-accel', 'tcg', '-cpu', 'max,vendor=GenuineIntel'],
      ...['-m', `${Math.max(memoryMiB, 2)}M`, '-smp', String(vcpus)],
      ...['-nodefaults', '-display', 'none', '-chardev', serial, '-serial', 'chardev:com1', '-no-reboot', '-d', 'cpu_reset'],
      ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'],
      ...devices.options,
      ...(machine === 'microvm' ? [] : ['-drive', `file=${quote(disk)},format=raw,if=ide,index=0`, ...card]),
      ...['-S', '-chardev', 'socket,id=monitor,fd=3', '-mon', 'chardev=monitor,mode=control'],
      ...boot,
    ];
  }

  async #boot(request: RunGuest): Promise<RunReply> {
    const folder = mkdtempSync(join(tmpdir(), 'ringbook-qemu-'));
    const remove = (): void => rmSync(folder, { recursive: true, force: true });
    process.on('exit', remove); // Ctrl-C comes by here only
    try {
      return await this.#bootIn(folder, request);
    } finally {
      process.off('exit', remove);
      remove();
    }
  }

  async #bootIn(folder: string, request: RunGuest): Promise<RunReply> {
    const { image, sha256, devices: wanted = [] } = request.guest;
    const machine = this.#guestMachine(request.guest);
    if (typeof machine === 'object') return { type: 'error', id: request.id, reason: machine.none };
    const found = createHash('sha256').update(readFileSync(image)).digest('hex');
    if (found !== sha256) return { type: 'error', id: request.id, reason: `${image} is not the image that the suite means: its digest is ${found}` };
    const output = join(folder, 'output');
    writeFileSync(output, '');
    const disk = join(folder, 'disk');
    writeFileSync(disk, request.guest.door === 'disk' ? readFileSync(image) : '');
    truncateSync(disk, Math.max(DISK_BYTES, Math.ceil(statSync(disk).size / 512) * 512));
    let serial = `file,id=com1,path=${quote(output)}`;
    const input = Buffer.from(request.guest.input, 'base64');
    if (input.length > 0) {
      writeFileSync(join(folder, 'input'), input);
      serial += `,input-path=${quote(join(folder, 'input'))}`;
    }
    const devices = qemuDevices(wanted, { folder, properties: (type) => this.#properties(type) });
    const child = spawnGroup(this.#program, this.#commandLine(request, machine, serial, disk, devices), {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    });
    this.#children.add(child);
    let stderr = '';
    let tripleFault = false;
    child.stderr?.on('data', (chunk: Buffer) => {
      stderr = (stderr + chunk.toString('latin1')).slice(-STDERR_KEPT);
      tripleFault ||= stderr.includes('Triple fault');
    });
    const qmp = new Qmp(child.stdio[3] as Duplex);
    const closed = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
      child.on('close', (code, signal) => resolve({ code, signal }));
      child.on('error', () => resolve({ code: null, signal: null }));
    });

    let decided: End | null = null;
    const decide = (end: End): void => {
      decided ??= end;
      killGroup(child);
    };
    // The clock starts before QEMU does: a QEMU that never greets is a time-out like any other.
    const timer = setTimeout(() => decide('timeout'), request.limits.timeoutMs);
    let ready = false;
    const echoes: Socket[] = [];
    try {
      await qmp.greeting();
      await qmp.command('qmp_capabilities'); // the greeting comes before the image is read, the first answer after it
      ready = true;
      for (const { ports = [] } of devices.ends) echoes.push(...(await Promise.all(ports.map(({ socket }) => echo(socket)))));
      await qmp.command('cont');
      await this.#watch(qmp, decide, () => decided !== null, output);
    } catch {
      // The monitor closed: QEMU has ended, and how it ended decides below.
    }
    const { code, signal } = await closed;
    for (const socket of echoes) socket.destroy();
    clearTimeout(timer);
    this.#children.delete(child);

    const console = readFileSync(output);
    const reply = (end: End, more: Partial<RanGuest> = {}): RanGuest => ({
      type: 'ran',
      id: request.id,
      surface: 'guest',
      end,
      console: console.subarray(0, CONSOLE_LIMIT_BYTES + 1).toString('base64'),
      ...more,
    });
    if (decided !== null) return reply(decided);
    if (ready && code !== null && code % 2 === 1) return reply('debug-exit', { exitValue: hex(code >> 1) });
    if (ready && tripleFault) return reply('triple-fault');
    const shutdown = qmp.events.find(({ event }) => event === 'SHUTDOWN');
    if (ready && code === 0 && shutdown?.data?.guest === true) {
      const { reason } = shutdown.data;
      return reply(reason === 'guest-shutdown' ? 'soft-off' : 'reset', { detail: `QEMU: ${String(reason)}` });
    }
    // Among the registers that the reset log prints, what QEMU itself has to say begins with its name.
    const own = stderr.split('\n').filter((line) => line.startsWith('qemu'));
    const words = (own.length > 0 ? own.join('\n') : stderr).trim().slice(-600);
    return { type: 'error', id: request.id, reason: `QEMU ${howItEnded(code, signal)}: ${words || '(it said nothing)'}` };
  }

  /** Looks at the registers now and then, until the machine has halted for good or the monitor closes (which throws). */
  async #watch(qmp: Qmp, decide: (end: End) => void, over: () => boolean, output: string): Promise<void> {
    let halted = 0;
    while (!over()) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      const text = String(await qmp.command('human-monitor-command', { 'command-line': 'info registers -a' }));
      const cpus = [...text.matchAll(/(?:EFL|RFL)=([0-9a-f]+) .*?HLT=([01])/g)];
      const stuck = cpus.length > 0 && cpus.every(([, flags, hlt]) => hlt === '1' && (Number.parseInt(flags as string, 16) & IF) === 0);
      halted = stuck ? halted + 1 : 0;
      if (halted >= 2) decide('halt');
      if (statSync(output).size > CONSOLE_LIMIT_BYTES) decide('timeout'); // a guest that only talks
    }
  }
}
