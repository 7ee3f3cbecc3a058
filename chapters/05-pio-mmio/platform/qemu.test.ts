// # The same bytes as another machine's
//
// QEMU's models of these chips are what most guests have met. With `-qtest` its machine stands still and takes single port accesses, so the two can be
// asked the same questions. Where they may differ (a clock that runs, what is not specified) nothing is asked.

import { spawn, spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import type { Width } from '../../03-vcpu-loop/devices/bus.ts';
import { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { COM1_PORT, SERIAL_PORTS, Serial } from '../../03-vcpu-loop/devices/serial.ts';
import { FW_CFG_PORT, FW_CFG_PORTS, FwCfg } from './fw-cfg.ts';
import { I8042, I8042_COMMAND_PORT, I8042_DATA_PORT, PORT_92 } from './i8042.ts';
import { RTC_PORT, RTC_PORTS, Rtc } from './rtc.ts';

/** One access: a write where there is a value. */
interface Access {
  readonly port: number;
  readonly width?: Width;
  readonly value?: number;
  /** Which bits of what is read are compared. */
  readonly mask?: number;
}
const out = (port: number, value: number, width: Width = 1): Access => ({ port, value, width });
const look = (port: number, mask = 0xff): Access => ({ port, mask });

/** The same ports of our own machine, its clock standing. */
function ours(): (accesses: readonly Access[]) => number[] {
  const ports = new Bus('ports');
  const clock = new TimerQueue(() => 0);
  const wire = { set: () => {} };
  const i8042 = new I8042({ keyboardIrq: wire, mouseIrq: wire, onReset: () => {} });
  ports.attach(I8042_DATA_PORT, 1, i8042.data);
  ports.attach(I8042_COMMAND_PORT, 1, i8042.command);
  ports.attach(PORT_92, 1, i8042.port92);
  ports.attach(RTC_PORT, RTC_PORTS, new Rtc({ clock, irq: wire }));
  ports.attach(COM1_PORT, SERIAL_PORTS, new Serial({ clock }));
  ports.attach(FW_CFG_PORT, FW_CFG_PORTS, new FwCfg({ memory: { read: () => false, write: () => false } }));
  return (accesses) =>
    accesses.flatMap(({ port, width = 1, value, mask = 0xff }) => {
      if (value === undefined) return [Number(ports.read(port, width)) & mask];
      ports.write(port, width, BigInt(value));
      return [];
    });
}

const ABSENT = spawnSync('qemu-system-x86_64', ['--version']).error !== undefined;

describe.skipIf(ABSENT)(`against QEMU${ABSENT ? ' (skipped: qemu-system-x86_64 is not installed)' : ''}`, () => {
  const qemu: { process?: ReturnType<typeof spawn>; lines?: AsyncIterator<string> } = {};
  beforeAll(() => {
    const options = '-M q35 -S -qtest stdio -qtest-log /dev/null -display none -serial null -rtc base=2000-01-01T00:00:00,clock=vm'.split(' ');
    const child = spawn('qemu-system-x86_64', options, { stdio: ['pipe', 'pipe', 'ignore'] });
    qemu.process = child;
    qemu.lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  });
  afterAll(() => void qemu.process?.kill('SIGKILL'));

  async function theirs(accesses: readonly Access[]): Promise<number[]> {
    const values: number[] = [];
    for (const { port, width = 1, value, mask = 0xff } of accesses) {
      const letter = { 1: 'b', 2: 'w', 4: 'l', 8: 'q' }[width];
      qemu.process?.stdin?.write(value === undefined ? `in${letter} ${port}\n` : `out${letter} ${port} ${value}\n`);
      let line: string;
      do {
        const next = await qemu.lines?.next();
        if (!next || next.done) throw new Error('QEMU has gone');
        line = next.value;
      } while (!/^(OK|FAIL|ERR)/.test(line));
      expect(line).toMatch(/^OK/);
      if (value === undefined) values.push(Number(line.slice(3)) & mask);
    }
    return values;
  }
  const same = async (accesses: readonly Access[]) => expect(ours()(accesses)).toEqual(await theirs(accesses));

  const cmos = (index: number, value?: number, mask = 0xff) => [out(0x70, index), value === undefined ? look(0x71, mask) : out(0x71, value)];

  it('the clock: which bits of a register can be written', async () => {
    const probe: Access[] = [look(0x70)];
    for (const index of [0x01, 0x03, 0x05, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x40, 0x7f])
      for (const value of [0xff, 0x00, 0x55, 0xaa]) {
        if (index === 0x0b && value === 0xaa) continue; // both hold the time, which is another matter
        // Whether the time is held changes what the flags of C will be; let both start afresh.
        probe.push(...cmos(index, value), ...cmos(index, undefined, index === 0x0c ? 0 : 0xff));
      }
    probe.push(...cmos(0x0a, 0x26), ...cmos(0x0b, 0x02), ...cmos(0x80 | 0x0d));
    await same(probe);
  });

  it('the clock: dates, held and let go, in each format', async () => {
    const probe: Access[] = [];
    const date = [0x58, 0x59, 0x23, 0x07, 0x28, 0x02, 0x04];
    for (const format of [0x02, 0x06, 0x00, 0x04]) {
      probe.push(...cmos(0x0b, 0x82));
      [0, 2, 4, 6, 7, 8, 9].forEach((index, n) => void probe.push(...cmos(index, date[n])));
      probe.push(...cmos(0x32, 0x20));
      for (const index of [0, 2, 4, 7, 8, 9, 0x32]) probe.push(...cmos(index));
      probe.push(...cmos(0x0b, 0x02), ...cmos(0x0b, format));
      for (const index of [2, 4, 7, 8, 9]) probe.push(...cmos(index));
      probe.push(...cmos(0x0b));
    }
    probe.push(...cmos(0x0b, 0x02));
    await same(probe);
  });

  it('the serial port: registers, loop-back, identification', async () => {
    const [data, ier, iir, lcr, mcr, lsr, msr] = [0, 1, 2, 3, 4, 5, 6].map((offset) => COM1_PORT + offset) as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    // Not MCR: after a reset QEMU has OUT2 on, the data sheet has nothing on.
    const probe: Access[] = [lcr, lsr, msr, iir, ier].map((port) => look(port));
    for (const value of [0xff, 0x00, 0x55]) probe.push(out(COM1_PORT + 7, value), look(COM1_PORT + 7), out(ier, value), look(ier));
    probe.push(out(ier, 0), out(lcr, 0x83), out(data, 0x34), out(ier, 0x12), look(data), look(ier), look(lcr), out(lcr, 0x03));
    for (let lines = 0; lines < 16; lines++) probe.push(out(mcr, 0x10 | lines), look(mcr), look(msr, 0xf0));
    // In loop-back: a byte, an overrun, and what is the most urgent.
    probe.push(out(mcr, 0x18), look(msr, 0), out(ier, 0x07), look(iir), look(iir), out(data, 1), look(lsr), out(data, 2));
    probe.push(
      look(iir),
      look(lsr),
      look(lsr),
      look(iir),
      look(data),
      look(iir),
      look(iir),
      out(ier, 0),
      out(ier, 2),
      look(iir),
      look(iir),
      out(ier, 0),
    );
    // FIFOs: on, at a level, emptied.
    probe.push(out(iir, 0x87), look(iir), out(ier, 0x01));
    for (let n = 0; n < 8; n++) probe.push(out(data, n));
    probe.push(look(iir), look(lsr), look(data), out(iir, 0x83), look(iir), look(lsr));
    for (let n = 0; n < 17; n++) probe.push(out(data, n));
    probe.push(look(lsr), look(lsr));
    for (let n = 0; n < 16; n++) probe.push(look(data), look(lsr));
    probe.push(out(ier, 0), out(iir, 0), out(mcr, 0), look(msr, 0), look(lsr));
    await same(probe);
  });

  it('the keyboard controller: what a probe asks', async () => {
    const [data, command] = [I8042_DATA_PORT, I8042_COMMAND_PORT];
    const take = [look(command, 0x25), look(data)];
    const done = look(command, 0x21);
    const ask = (byte: number, answers: number) => [out(command, byte), ...Array.from({ length: answers }, () => take).flat(), done];
    const probe: Access[] = [look(command), ...ask(0xaa, 1), ...ask(0xab, 1), ...ask(0xa9, 1)];
    probe.push(out(command, 0x60), out(data, 0x30), ...ask(0x20, 1), out(command, 0x60), out(data, 0x00));
    for (const byte of [0xd2, 0xd3]) probe.push(out(command, byte), out(data, 0x5a), ...take, done);
    for (const [bytes, answers] of [
      [[0xff], 2],
      [[0xf2], 3],
      [[0xed], 1],
      [[0x07], 1],
      [[0xf3], 1],
      [[0x20], 1],
      [[0xf0], 1],
      [[0x00], 2],
      [[0xee], 1],
      [[0xf5], 1],
      [[0xf4], 1],
    ] as const)
      for (const byte of bytes) probe.push(out(data, byte), ...Array.from({ length: answers }, () => take).flat(), done);
    const toMouse = (byte: number, answers: number) => [
      out(command, 0xd4),
      out(data, byte),
      ...Array.from({ length: answers }, () => take).flat(),
      done,
    ];
    probe.push(...toMouse(0xff, 3), ...toMouse(0xf2, 2), ...toMouse(0xe9, 4));
    for (const rate of [200, 100, 80]) probe.push(...toMouse(0xf3, 1), ...toMouse(rate, 1));
    probe.push(
      ...toMouse(0xf2, 2),
      ...toMouse(0xe8, 1),
      ...toMouse(3, 1),
      ...toMouse(0xe7, 1),
      ...toMouse(0xf4, 1),
      ...toMouse(0xe9, 4),
      ...toMouse(0xf5, 1),
    );
    // The gate, by its three doors.
    probe.push(...ask(0xd0, 1), out(PORT_92, 0), look(PORT_92), out(PORT_92, 2), look(PORT_92), ...ask(0xd0, 1), out(command, 0xdd), ...ask(0xd0, 1));
    probe.push(out(command, 0xdf), ...ask(0xd0, 1));
    await same(probe);
  });

  it('fw_cfg: signature, features, unknown items, DMA signature', async () => {
    const [selector, data] = [FW_CFG_PORT, FW_CFG_PORT + 1];
    const probe: Access[] = [look(data), look(selector)];
    for (const item of [0, 1, 0x3ffe, 0x4000, 0x7ffe]) probe.push(out(selector, item, 2), ...Array.from({ length: 6 }, () => look(data)));
    probe.push({ port: FW_CFG_PORT + 4, width: 4, mask: 0xffff_ff }, { port: FW_CFG_PORT + 8, width: 4, mask: 0xffff_ff });
    probe.push(out(selector, 0, 2), look(data), out(data, 0), { port: selector, width: 2, mask: 0xffff }, look(data));
    await same(probe);
  });
});
