// # v86
//
// The x86 emulator that runs in web pages, from the npm package of that name. It has one 32-bit processor and a PC of its own; images come in through
// its own multiboot loader, or by firmware from a disk. A hook on port 0xf4 is the debug-exit port: v86 has none, and lets anybody attach a device to
// its ports.
//
// It runs in the adapter's process, and the adapter in one of its own (`serve.ts`): an emulator that loops, or dies, takes nothing with it.

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { CONSOLE_LIMIT_BYTES } from '../console.ts';
import type { DeviceSession } from '../device-script/wire.ts';
import type { Adapter, End, RanGuest, RunDevice, RunGuest, RunReply, RunRequest, Started, Unavailable } from '../types.ts';
import { hex } from '../values.ts';
import { type CpuidLookup, cpuFeatures } from './cpu-features.ts';
import { discard, imageOf, loadV86, makeEmulator, runRom, whenBroken } from './v86-machine.ts';
import { V86Session, virtioOptions } from './v86-session.ts';

/** Firmware of 128 KiB: v86 has no room for more. */
const BIOS = ['/usr/share/seabios/bios.bin', '/usr/share/qemu/bios.bin'];
const VGA_BIOS = ['/usr/share/seabios/vgabios-stdvga.bin', '/usr/share/seabios/vgabios.bin', '/usr/share/qemu/vgabios-stdvga.bin'];
const DISK_BYTES = 1 << 20;
const EXIT_PORT = 0xf4;
/** A halted machine is looked at again after this long, before it counts as halted for good. */
const SETTLE_MS = 150;
const PROBE_MS = 3000;

const first = (paths: readonly string[]): string | null => paths.find((path) => existsSync(path)) ?? null;

/** Cases with these needs want what firmware leaves behind: addresses assigned, interrupts routed, tables written. */
const WANT_FIRMWARE = ['acpi', 'pci', 'ide-dma'];

// ## What it has
//
// Every case starts from the same hardware, so the devices are a list. Whether the processor has a feature is asked of its CPUID, and whether a
// triple fault ends anything is tried.

const DEVICES: readonly (readonly [capability: string, device: string])[] = [
  ['uart', 'uart0'],
  ['pit', 'pit'],
  ['rtc', 'rtc'],
  ['pci', 'pci'],
  ['ide', 'ide'],
  ['ide-dma', 'ide'],
  ['i8042', 'ps2'],
  ['virtio-console', 'virtio_console'],
  ['virtio-balloon', 'virtio_balloon'],
  ['virtio-pci', 'virtio_console'],
];

const ALWAYS = [
  'door-multiboot',
  'serial-input',
  'debug-exit',
  'notices-halt',
  'pic',
  'protected-mode',
  'protected-paging',
  'protected-interrupts',
  'protected-v86',
  'protected-tasks',
  'user-mode',
  'single-step',
];

/** CPUID leaf, register (EAX, EBX, ECX, EDX) and bit. */
const FEATURES: readonly (readonly [capability: string, leaf: number, register: number, bit: number])[] = [
  ['pae', 1, 3, 6],
  ['lapic', 1, 3, 9],
  ['ioapic', 1, 3, 9],
  ['sysenter', 1, 3, 11],
  ['x2apic', 1, 2, 21],
  ['tsc-deadline', 1, 2, 24],
  ['syscall', 0x80000001, 3, 11],
  ['nx', 0x80000001, 3, 20],
  ['huge-pages', 0x80000001, 3, 26],
  ['long-mode', 0x80000001, 3, 29],
];

const OURS = "the device is this suite's own, to observe accesses with; v86 has none there";
const NO_MMIO = 'v86 has its virtio devices on PCI';
const LOADER = 'v86 enters an ELF image through its multiboot header';
const MISSING: Readonly<Record<string, string>> = {
  'door-pvh': LOADER,
  'door-long': LOADER,
  smp2: 'v86 has one processor',
  'smp2-shared': 'v86 has one processor',
  'scratch-pio': OURS,
  'scratch-mmio': OURS,
  inject: OURS,
  'inject-nmi': OURS,
  e1000: 'v86 has other network cards',
  'virtio-entropy': 'v86 has no entropy device',
  'virtio-block': 'v86 has no virtio block device',
  'virtio-transitional': 'v86’s virtio devices have no legacy interface',
  'virtio-mmio': NO_MMIO,
  'virtio-mmio-legacy': NO_MMIO,
  'ring-packed': 'v86’s virtio devices have split rings',
  q35: 'its chipset is the i440FX with a PIIX3',
  'fw-cfg': 'v86 answers a few of its selectors, for firmware, and has no DMA at port 0x514',
  'soft-off': 'v86 has no power button and nothing that a guest could switch off',
};

const AX = [0x66, 0xe7, EXIT_PORT]; // out 0xf4, eax
const MOVES = [[], [0x66, 0x89, 0xd8], [0x66, 0x89, 0xc8], [0x66, 0x89, 0xd0]]; // mov eax, ebx; ecx; edx

const LEAVES = [0x00000001, 0x80000001, 0x00000007];
/** Asks for these leaves, and gives four registers of each. */
const ASK_CPUID = Uint8Array.from([
  ...LEAVES.flatMap((leaf) => {
    const load = [0x66, 0x31, 0xc9, 0x66, 0xb8, leaf & 0xff, (leaf >> 8) & 0xff, (leaf >> 16) & 0xff, leaf >>> 24]; // xor ecx, ecx; mov eax, leaf
    // The answers of one call do not survive being moved to EAX, so it is called for each.
    return MOVES.flatMap((move) => [...load, 0x0f, 0xa2, ...move, ...AX]);
  }),
  0xf4,
]);
/**
 * Says that it has begun, enters protected mode with an IDT in which nothing fits, and breaks. Its data are far enough behind the code to be found by
 * their offsets.
 */
const TRIPLE_FAULT = ((): Uint8Array => {
  const rom = new Uint8Array(0x100);
  rom.set([0xb0, 0x01, 0xe6, EXIT_PORT, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x80, 0x01, 0x2e, 0x66, 0x0f, 0x01, 0x1e, 0x86, 0x01]); // out; lgdt cs:[180h]; lidt cs:[186h]
  rom.set([0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x66, 0xea, 0x40, 0x01, 0x0f, 0x00, 0x08, 0x00], 0x12); // cr0 |= 1; jmp 8:f0140h
  rom.set([0xcc, 0xf4], 0x40); // int3; hlt
  rom.set([0x0f, 0x00, 0x90, 0x01, 0x0f, 0x00], 0x80); // the GDT, at f0190h
  rom.set([0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00], 0x98);
  return rom;
})();

async function probe(): Promise<{ capabilities: string[]; missing: Record<string, string> }> {
  const capabilities = [...ALWAYS];
  const missing: Record<string, string> = { ...MISSING };
  const note = (name: string, problem: string | null): void => {
    if (problem === null) capabilities.push(name);
    else missing[name] = problem;
  };
  const { emulator, cpu } = await makeEmulator({ memory_size: 1 << 22, virtio_console: true, virtio_balloon: true });
  for (const [capability, device] of DEVICES) note(capability, cpu.devices[device] ? null : `this v86 has no device '${device}'`);
  await discard(emulator);
  const { values, said } = await runRom(ASK_CPUID, 4 * LEAVES.length, PROBE_MS);
  const cpuid: CpuidLookup = (leaf, register) => values[4 * LEAVES.indexOf(leaf) + ['eax', 'ebx', 'ecx', 'edx'].indexOf(register)];
  for (const [capability, leaf, register, bit] of FEATURES) {
    const value = values[(leaf === 1 ? 0 : 4) + register];
    const absent =
      value === undefined
        ? `a probe of CPUID gave no answer: ${said}`
        : `its CPUID ${hex(leaf)} has bit ${bit} of ${['EAX', 'EBX', 'ECX', 'EDX'][register]} clear`;
    note(capability, value !== undefined && ((value >>> bit) & 1) === 1 ? null : absent);
  }
  const instructions = cpuFeatures(cpuid);
  capabilities.push(...instructions.capabilities);
  Object.assign(missing, instructions.missing);
  note('long-interrupts', missing['long-mode'] ?? null);
  const fault = await runRom(TRIPLE_FAULT, 2, PROBE_MS);
  note('reset', fault.resets > 0 || fault.values.length > 1 ? null : `a triple fault ends in: ${fault.said || 'nothing'}`);
  const firmware = first(BIOS) && first(VGA_BIOS) ? null : `there is no firmware at ${BIOS.join(' or ')}`;
  for (const name of ['door-disk', 'acpi']) note(name, firmware);
  return { capabilities, missing };
}

export class V86Adapter implements Adapter {
  async start(): Promise<Started | Unavailable> {
    let version: string;
    try {
      version = (await loadV86()).version.replace(/\+.*/, '');
    } catch (error) {
      const absent = (error as { code?: unknown }).code === 'MODULE_NOT_FOUND';
      return {
        type: 'unavailable',
        reason: absent ? 'the npm package v86 is not installed (npm install v86)' : `v86 cannot be loaded: ${String(error)}`,
      };
    }
    return { type: 'started', protocol: 1, name: 'v86', version, surfaces: ['guest', 'device'], ...(await probe()) };
  }

  async run(request: RunRequest): Promise<RunReply> {
    if (request.surface !== 'guest') return { type: 'error', id: request.id, reason: `no surface '${request.surface}'` };
    const { image, sha256, door } = request.guest;
    const bytes = readFileSync(image);
    const found = createHash('sha256').update(bytes).digest('hex');
    if (found !== sha256) return { type: 'error', id: request.id, reason: `${image} is not the image that the suite means: its digest is ${found}` };
    if (door !== 'multiboot' && door !== 'disk') return { type: 'error', id: request.id, reason: LOADER };
    return boot(request, bytes);
  }

  async open(request: RunDevice): Promise<DeviceSession> {
    return V86Session.open(request);
  }

  async stop(): Promise<void> {}
  kill(): void {}
}

async function boot({ id, guest, limits }: RunGuest, image: Uint8Array): Promise<RunReply> {
  const bios = first(BIOS);
  const vga = first(VGA_BIOS);
  const onDisk = guest.door === 'disk';
  const firmware =
    bios !== null && vga !== null && (onDisk || (guest.needs ?? []).some((need) => WANT_FIRMWARE.includes(need) || need.startsWith('virtio-')));
  const disk = new Uint8Array(DISK_BYTES);
  if (onDisk) disk.set(image);
  const { emulator, cpu } = await makeEmulator({
    memory_size: Math.max(guest.memoryMiB, 4) << 20,
    hda: imageOf(disk),
    ...virtioOptions(guest.devices),
    ...(!onDisk && { multiboot: imageOf(image) }),
    ...(firmware && { bios: imageOf(readFileSync(bios)), vga_bios: imageOf(readFileSync(vga)) }),
  });
  const output: number[] = [];
  let exitValue = 0;
  let running = true;
  const ended = new Promise<readonly [End, string]>((resolve) => {
    const end = (how: End, detail = ''): void => {
      running = false;
      resolve([how, detail]);
    };
    const timer = setTimeout(() => end('timeout'), limits.timeoutMs);
    timer.unref();
    const exit = (value: number): void => {
      if (!running) return;
      exitValue = value >>> 0;
      end('debug-exit');
    };
    cpu.io.register_write(EXIT_PORT, {}, exit, exit, exit);
    emulator.add_listener('serial0-output-byte', ((byte: number) => {
      if (!running) return;
      output.push(byte & 0xff);
      if (output.length > CONSOLE_LIMIT_BYTES) end('timeout'); // a guest that only talks
    }) as never);
    // Halted with interrupts off. What could still wake it is looked for once more.
    emulator.add_listener('cpu-event-halt', () => {
      setTimeout(() => cpu.in_hlt[0] && end('halt'), SETTLE_MS).unref();
    });
    cpu.reboot_internal = () => end('reset', 'v86: reboot_internal');
    // Whoever is at the other end of a guest's console repeats what it hears.
    emulator.add_listener('virtio-console0-output-bytes', ((bytes: Uint8Array) => {
      emulator.bus.send('virtio-console0-input-bytes', Uint8Array.from(bytes));
    }) as never);
    const input = Buffer.from(guest.input, 'base64');
    for (const byte of input) emulator.bus.send('serial0-input', byte);
    void whenBroken(() => emulator.run()).then((why) => end('internal-error', `v86: ${why}`));
  });
  const [end, detail] = await ended;
  await discard(emulator);
  const ran: RanGuest = { type: 'ran', id, surface: 'guest', end, console: Buffer.from(output).toString('base64') };
  return { ...ran, ...(end === 'debug-exit' && { exitValue: hex(exitValue) }), ...(detail !== '' && { detail: detail.slice(0, 4000) }) };
}
