import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import {
  APIC_ON,
  add,
  COUNTER,
  type Code,
  END_OF_INTERRUPT,
  handler,
  input,
  load,
  out,
  place,
  redirect,
  sleepUntil,
  startState,
  store,
} from '../../05-pio-mmio/guest-program.ts';
import { completeConfig, type MachineConfig } from '../../05-pio-mmio/machine/config.ts';
import '../../05-pio-mmio/machine/devices.ts';
import { buildMachine } from '../../05-pio-mmio/machine/machine-types.ts';
import type { Mainboard } from '../../05-pio-mmio/machine/mainboard.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import '../../06-virtio-rings/machine/device-types.ts';
import { EVENT_GPA } from './event-device.ts';
import './microvm.ts';

const VECTOR = 0x41;
const KEPT = 0x7100;
/** mov [at], eax */
const keep = (at: number): Code => [0xa3, ...[0, 8, 16, 24].map((shift) => (at >>> shift) & 0xff)];
const SLEEP = EVENT_GPA + 0x200;
const RSDP = 0xe_0000;
const WINDOW = 0xfeb0_3000;

let running: Machine<Mainboard> | null = null;
afterEach(() => {
  running?.dispose();
  running = null;
});

function machine(config: MachineConfig = {}) {
  const complete = completeConfig({ machine: { type: 'microvm' }, kernel: 'test', memoryMiB: 4, serial: ['null'], reboot: false, ...config });
  const pc = buildMachine({ kernel: machineKernel(complete), config: complete });
  const board = new Machine<Mainboard>(pc.board);
  running = board;
  const view = new DataView(board.ram.buffer, board.ram.byteOffset, board.ram.length);
  return {
    pc,
    board,
    ram: board.ram,
    at: (gpa: number) => view.getUint32(gpa, true),
    run(code: readonly Code[], handlers: Readonly<Record<number, Code>> = {}) {
      place(board.ram, { code, handlers });
      const [vcpu] = board.vcpus;
      vcpu?.setSregs({ ...vcpu.getSregs(), ...startState.sregs });
      vcpu?.setRegs({ ...vcpu.getRegs(), ...startState.regs });
      return board.run({ exits: 2000 });
    },
  };
}

describe('power', () => {
  it('goes off by the sleep type that the tables tell, and by no other', () => {
    expect(machine().run([store(SLEEP, 0x20 | (5 << 2))])).toMatchObject({ end: 'shutdown' });
    running?.dispose();
    const { run, at } = machine();
    expect(run([store(SLEEP, 0x20 | (3 << 2)), store(SLEEP, 5 << 2), load(SLEEP), keep(KEPT)])).toMatchObject({ end: 'halt' });
    expect(at(KEPT) & 0xff).toBe(5 << 2);
  });
  it('comes back by the reset register', () => {
    expect(machine().run([store(SLEEP, 0x42_0000)])).toMatchObject({ end: 'reset' });
    running?.dispose();
    expect(machine().run([store(SLEEP, 0x41_0000)])).toMatchObject({ end: 'halt' });
  });
  it.each(['on', 'split', 'off'] as const)('has a button that interrupts until somebody looks, irqchip=%s', (irqchip) => {
    const { pc, run, at } = machine({ irqchip });
    pc.pressPowerButton();
    const pressed = handler(load(EVENT_GPA), keep(KEPT), load(EVENT_GPA), keep(KEPT + 4), add(COUNTER, 1), END_OF_INTERRUPT);
    expect(run([APIC_ON, redirect(9, VECTOR), sleepUntil(COUNTER, 1), [0xfb, 0x90, 0x90, 0xfa]], { [VECTOR]: pressed })).toMatchObject({
      end: 'halt',
    });
    expect([at(KEPT), at(KEPT + 4), at(COUNTER)]).toEqual([2, 0, 1]);
  });
});

describe.each(['on', 'split', 'off'] as const)('lines, irqchip=%s', (irqchip) => {
  it('are inputs of the I/O APIC: the serial port is line 4', () => {
    const { run, at } = machine({ irqchip });
    const sent = handler(input(0x3fa), keep(KEPT), out(0x3f9, 0), add(COUNTER, 1), END_OF_INTERRUPT);
    const end = run([APIC_ON, redirect(4, VECTOR), out(0x3fc, 8), out(0x3f9, 2), sleepUntil(COUNTER, 1)], { [VECTOR]: sent });
    expect(end).toMatchObject({ end: 'halt' });
    expect([at(COUNTER), at(KEPT) & 0xf]).toEqual([1, 2]);
  });
  it('have nobody on line 0, unless there is a timer', () => {
    const ticks = (pit: boolean): number => {
      const { run, at } = machine({ irqchip, machine: { type: 'microvm', pit } });
      const masked = [...out(0x21, 0xff), ...out(0xa1, 0xff)]; // the 8259s
      const program = [APIC_ON, masked, redirect(pit ? 2 : 0, VECTOR), out(0x43, 0x34), out(0x40, 0), out(0x40, 0x10), sleepUntil(COUNTER, 1)];
      run(program, { [VECTOR]: handler(add(COUNTER, 1), END_OF_INTERRUPT) });
      const count = at(COUNTER);
      running?.dispose();
      running = null;
      return count;
    };
    expect([ticks(true), ticks(false)]).toEqual([1, 0]);
  });
});

describe('the past', () => {
  const PORTS = [0x21, 0x40, 0x61, 0x64, 0x71, 0x1f7, 0x3f8, 0x511, 0xcf8] as const;
  const answering = (config: MachineConfig): number[] => {
    const { pc } = machine({ irqchip: 'off', ...config });
    const found = PORTS.filter((port) => pc.ports.read(port, 1) !== 0xffn);
    running?.dispose();
    running = null;
    return found;
  };
  it('is not there, but for the serial port and what was asked for', () => {
    expect(answering({})).toEqual([0x3f8]);
    expect(answering({ machine: { type: 'microvm', 'isa-serial': false } })).toEqual([]);
    expect(answering({ machine: { type: 'microvm', rtc: true } })).toEqual([0x71, 0x3f8]);
    expect(answering({ machine: { type: 'microvm', pit: true } })).toContain(0x21);
  });
  it.each([
    [{ devices: [{ type: 'e1000' }] }, 'it has no PCI'],
    [{ drives: [{ id: 'd', file: 'f' }], devices: [{ type: 'ide-hd', drive: 'd' }] }, 'drive d is not open'],
    [{ firmware: 'bios', kernel: undefined as never, memoryMiB: 16 }, 'microvm has no firmware'],
    [{ machine: { type: 'microvm', usb: true } }, 'microvm has no property usb; there are isa-serial, pit, rtc'],
  ])('%j is refused', (config, message) => expect(() => machine(config)).toThrow(message));
});

// ## The tables, as an operating system reads them

function tables(config: MachineConfig = {}): Map<string, Uint8Array> {
  const { ram, at } = machine(config);
  const whole = (gpa: number): Uint8Array => ram.slice(gpa, gpa + at(gpa + 4));
  const xsdt = at(RSDP + 24);
  const found = new Map<string, Uint8Array>();
  const addresses = Array.from({ length: (at(xsdt + 4) - 36) / 8 }, (_, n) => at(xsdt + 36 + 8 * n));
  for (const gpa of [...addresses, at((addresses[0] as number) + 140)]) {
    const bytes = whole(gpa);
    expect(bytes.reduce((sum, byte) => (sum + byte) & 0xff, 0)).toBe(0);
    found.set(String.fromCharCode(...bytes.subarray(0, 4)), bytes);
  }
  return found;
}
const text = (bytes: Uint8Array | undefined): string => String.fromCharCode(...(bytes ?? []));

describe('the tables', () => {
  it('say that the hardware is reduced, and where sleep and reset are', () => {
    const fadt = tables().get('FACP') as Uint8Array;
    const view = new DataView(fadt.buffer);
    expect([view.getUint32(112, true) & 0x10_0430, view.getUint16(109, true), fadt[128]]).toEqual([0x10_0430, 0x24, 0x42]);
    expect([116, 244, 256].map((at) => [fadt[at], view.getUint32(at + 4, true)])).toEqual([
      [0, 0xfea0_0202],
      [0, 0xfea0_0200],
      [0, 0xfea0_0201],
    ]);
    expect([56, 64, 76, 80, 46].map((at) => view.getUint16(at, true))).toEqual([0, 0, 0, 0, 0]);
  });
  it('know APICs alone: no 8259s, no line that is not what it is called', () => {
    const madt = tables({ cpus: 2 }).get('APIC') as Uint8Array;
    const kinds: number[] = [];
    for (let at = 44; at < madt.length; at += madt[at + 1] as number) kinds.push(madt[at] as number);
    expect([kinds, madt[40]]).toEqual([[0, 0, 1, 4], 0]);
    running?.dispose();
    const old = tables({ machine: { type: 'microvm', pit: true } }).get('APIC') as Uint8Array;
    expect(old[40]).toBe(1);
  });
  it('name every device', () => {
    const dsdt = text(tables({ devices: [{ type: 'virtio-rng-device' }] }).get('DSDT'));
    for (const name of ['ACPI0013', 'ACPI0007', 'LNRO0005', 'PWRB', 'COM1', '_S5_']) expect(dsdt).toContain(name);
    for (const name of ['PCI0', 'RTC_', 'KBD_', 'COM2']) expect(dsdt).not.toContain(name);
    running?.dispose();
    expect(text(tables({ machine: { type: 'microvm', rtc: true, 'isa-serial': false } }).get('DSDT'))).toMatch(/RTC_(?!.*COM1)/s);
  });
  it('leave a device in a window of memory', () => {
    const { pc } = machine({ devices: [{ type: 'virtio-rng-device' }] });
    expect([pc.mmio.read(WINDOW, 4), pc.mmio.read(WINDOW + 8, 4)]).toEqual([0x7472_6976n, 4n]);
  });
});

const IASL = spawnSync('iasl', ['-v']);

it.skipIf(IASL.error !== undefined)(
  `Intel's own compiler takes the tables apart and together again${IASL.error ? ' (skipped: iasl is not installed)' : ''}`,
  () => {
    const directory = mkdtempSync(join(tmpdir(), 'ringbook-acpi-'));
    try {
      const all = tables({ devices: [{ type: 'virtio-rng-device' }] });
      for (const [signature, bytes] of all) {
        writeFileSync(join(directory, `${signature}.aml`), bytes);
        const told = execFileSync('iasl', ['-d', `${signature}.aml`], { cwd: directory, encoding: 'utf8', stdio: 'pipe' });
        expect(told).not.toMatch(/error|warning|invalid/i);
      }
      const told = execFileSync('iasl', ['-we', '-p', 'again', 'DSDT.dsl'], { cwd: directory, encoding: 'utf8', stdio: 'pipe' });
      expect(told).toMatch(/ 0 Errors/);
      expect(readFileSync(join(directory, 'again.aml')).subarray(36)).toEqual(Buffer.from((all.get('DSDT') as Uint8Array).subarray(36)));
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
);
