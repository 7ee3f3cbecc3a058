// # v86, from outside
//
// v86 is a PC in JavaScript and WebAssembly that is made for web pages: an emulator is an object, and all that happens in it happens in this process.
// What its declared interface leaves out (the ports, the processor's accesses to memory, the interrupt lines) is reached through the object's own
// fields, whose shape is written down here and nowhere else. A v86 in which one of them has another name is refused with a reason.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

/** The part of v86's processor object that is used here. */
export interface V86Cpu {
  readonly io: {
    register_write(
      port: number,
      device: object,
      write8: (value: number) => void,
      write16: (value: number) => void,
      write32: (value: number) => void,
    ): void;
    register_read(port: number, device: object, read8: () => number, read16?: () => number, read32?: () => number): void;
    port_read8(port: number): number;
    port_read16(port: number): number;
    port_read32(port: number): number;
    port_write8(port: number, value: number): void;
    port_write16(port: number, value: number): void;
    port_write32(port: number, value: number): void;
  };
  readonly devices: Readonly<Record<string, object | undefined>>;
  readonly mem8: Uint8Array;
  /** One while it waits in HLT. */
  readonly in_hlt: Uint8Array;
  read8(address: number): number;
  read16(address: number): number;
  read32s(address: number): number;
  write8(address: number, value: number): void;
  write16(address: number, value: number): void;
  write32(address: number, value: number): void;
  device_raise_irq(line: number): void;
  device_lower_irq(line: number): void;
  run_hardware_timers(acpi: boolean, nowMs: number): number;
  reboot_internal(): void;
}

/** The part of v86's bus, on which devices and their users exchange named messages. */
export interface V86Bus {
  send(name: string, value?: unknown): void;
  register(name: string, fn: (value: never) => void, self?: object): void;
}

export interface Emulator {
  readonly v86: { readonly cpu: V86Cpu };
  readonly bus: V86Bus;
  add_listener(event: string, listener: (value: never) => void): void;
  run(): Promise<void>;
  stop(): Promise<void>;
  destroy(): Promise<void>;
}

interface Package {
  readonly version: string;
  readonly V86: new (options: Readonly<Record<string, unknown>>) => Emulator;
  readonly wasm: WebAssembly.Module;
}

let loaded: Promise<Package> | null = null;

async function loadOnce(): Promise<Package> {
  const require = createRequire(import.meta.url);
  const main = require.resolve('v86');
  const described = JSON.parse(readFileSync(require.resolve('v86/package.json'), 'utf8')) as { version: string };
  const { V86 } = (await import(pathToFileURL(main).href)) as Pick<Package, 'V86'>;
  const wasm = await WebAssembly.compile(readFileSync(require.resolve('v86/build/v86.wasm')));
  return { version: described.version, V86, wasm };
}

/** The npm package, compiled once. @throws when it is not installed, or is another thing than is known here. */
export function loadV86(): Promise<Package> {
  loaded ??= loadOnce();
  return loaded;
}

/** An emulator that is complete and has not executed anything. */
export interface Paused {
  readonly emulator: Emulator;
  readonly cpu: V86Cpu;
}

/** Makes an emulator. @throws Error when its object has not the shape that is known here. */
export async function makeEmulator(options: Readonly<Record<string, unknown>>): Promise<Paused> {
  const { V86, wasm } = await loadV86();
  const emulator = new V86({
    wasm_fn: async (imports: WebAssembly.Imports) => (await WebAssembly.instantiate(wasm, imports)).exports,
    vga_memory_size: 1 << 20,
    autostart: false,
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
    acpi: true,
    ...options,
  });
  await new Promise<void>((resolve) => emulator.add_listener('emulator-ready', () => resolve()));
  const cpu = emulator.v86?.cpu as V86Cpu | undefined;
  const wanted = ['read8', 'read16', 'read32s', 'write8', 'write16', 'write32', 'device_raise_irq', 'device_lower_irq', 'reboot_internal'] as const;
  const lacking = wanted.filter((name) => typeof cpu?.[name] !== 'function');
  if (!cpu?.io || !cpu.devices || lacking.length > 0)
    throw new Error(`this v86 is built otherwise than is known here: its processor has no ${lacking.join(', ')}`);
  return { emulator, cpu };
}

/** Ends an emulator. One that has died never says that it has stopped, so it is not waited for. */
export async function discard(emulator: Emulator): Promise<void> {
  await Promise.race([emulator.destroy().catch(() => {}), new Promise((resolve) => setTimeout(resolve, 300))]);
}

/** A buffer of its own, as v86 takes images. */
export const imageOf = (bytes: Uint8Array): { buffer: ArrayBuffer } => ({ buffer: new Uint8Array(bytes).buffer });

// ## A program in the ROM
//
// What the processor has is asked of the processor. The program is the firmware: 64 KiB of ROM whose last bytes jump to its first ones. It gives its
// answers to the port that ends a case.

const ROM_BYTES = 0x10000;
const ENTRY = 0x100;
const EXIT_PORT = 0xf4;

/** Runs machine code as firmware until it has written `answers` values to the debug-exit port, or a time has passed. */
export async function runRom(code: Uint8Array, answers: number, timeoutMs: number): Promise<{ values: number[]; resets: number; said: string }> {
  const rom = new Uint8Array(ROM_BYTES).fill(0xf4); // HLT, wherever one strays
  rom.set(code, ENTRY);
  rom.set([0xea, ENTRY & 0xff, ENTRY >> 8, 0x00, 0xf0], ROM_BYTES - 16); // jmp f000:0100
  const { emulator, cpu } = await makeEmulator({ memory_size: 1 << 22, bios: imageOf(rom) });
  const values: number[] = [];
  let resets = 0;
  const reboot = cpu.reboot_internal;
  cpu.reboot_internal = function (this: V86Cpu) {
    resets++;
    reboot.call(this);
  };
  const said = await new Promise<string>((resolve) => {
    const timer = setTimeout(() => resolve(''), timeoutMs);
    const done = (why: string): void => {
      clearTimeout(timer);
      resolve(why);
    };
    const note = (value: number): void => {
      values.push(value >>> 0);
      if (values.length === answers) done('');
    };
    cpu.io.register_write(EXIT_PORT, {}, note, note, note);
    void whenBroken(() => emulator.run()).then(done);
  });
  await discard(emulator);
  return { values, resets, said };
}

// ## When it breaks
//
// What v86 has not got ends in a panic inside its WebAssembly: words on the console, and then an exception out of a callback that nobody called. So
// whoever runs an emulator listens to both, one at a time.

const WORDS_KEPT = 600;

/** Does `start`, and resolves, if ever, with why the emulator died. Only the last emulator so watched is believed. */
export function whenBroken(start: () => unknown): Promise<string> {
  let words = '';
  const keep = (...parts: unknown[]): void => {
    words = `${words}${parts.map(String).join(' ')}\n`.slice(-WORDS_KEPT);
  };
  console.log = console.error = console.warn = keep;
  return new Promise((resolve) => {
    const broken = (error: unknown): void => {
      const reason = /panicked at (.*)\n(.*)/.exec(words);
      resolve(reason ? `panicked at ${reason[1]} ${reason[2]}`.trim() : String((error as Error)?.message ?? error));
    };
    for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
      process.removeAllListeners(event);
      process.on(event, broken);
    }
    try {
      Promise.resolve(start()).catch(broken);
    } catch (error) {
      broken(error);
    }
  });
}
