import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import type { Width } from '../../03-vcpu-loop/devices/bus.ts';
import { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { COM_PORTS, SERIAL_PORTS, Serial } from '../../03-vcpu-loop/devices/serial.ts';
import { DMA_HIGH_PORT, DMA_HIGH_PORTS, DMA_LOW_PORT, DMA_LOW_PORTS, DMA_PAGE_PORT, Dma8237 } from './dma8237.ts';
import { FW_CFG_PORT, FW_CFG_PORTS, FwCfg } from './fw-cfg.ts';
import { I8042, I8042_COMMAND_PORT, I8042_DATA_PORT, PORT_92 } from './i8042.ts';
import { APM_PORT, PM_BASE, PowerManagement } from './pm.ts';
import { RTC_PORT, RTC_PORTS, Rtc } from './rtc.ts';

const OPERATIONS = 150_000;
const RAM_BYTES = 1 << 16;
const WIDTHS = [1, 2, 4, 8] as const;

/** Every device of this folder on one bus, its clock in the test's hands. */
function board() {
  let now = 0;
  let outside = 0;
  const clock = new TimerQueue(() => now);
  const ports = new Bus('ports');
  const wire = {
    set: (level: boolean) => {
      if (typeof level !== 'boolean') throw new TypeError('a line has a level');
    },
  };
  const ram = new Uint8Array(RAM_BYTES);
  const inside = (gpa: number, length: number) => Number.isSafeInteger(gpa) && gpa >= 0 && gpa + length <= RAM_BYTES;
  const memory = {
    read: (gpa: number, into: Uint8Array) => {
      if (!inside(gpa, into.length)) return ++outside < 0;
      into.set(ram.subarray(gpa, gpa + into.length));
      return true;
    },
    write: (gpa: number, from: Uint8Array) => {
      if (!inside(gpa, from.length)) return ++outside < 0;
      ram.set(from, gpa);
      return true;
    },
  };
  const i8042 = new I8042({ keyboardIrq: wire, mouseIrq: wire, onReset: () => {} });
  const pm = new PowerManagement({ clock, sci: wire, onPowerOff: () => {} });
  const dma = new Dma8237();
  const fwCfg = new FwCfg({ memory });
  const file = new Uint8Array(100);
  fwCfg.addFile('rw', file, { writable: true });
  const serials = COM_PORTS.map(() => new Serial({ clock, onInterrupt: (level) => wire.set(level) }));
  const windows: [number, number, Parameters<Bus['attach']>[2]][] = [
    [I8042_DATA_PORT, 1, i8042.data],
    [I8042_COMMAND_PORT, 1, i8042.command],
    [PORT_92, 1, i8042.port92],
    [RTC_PORT, RTC_PORTS, new Rtc({ clock, irq: wire })],
    [FW_CFG_PORT, FW_CFG_PORTS, fwCfg],
    [PM_BASE, 128, pm.registers],
    [APM_PORT, 2, pm.apm],
    [DMA_LOW_PORT, DMA_LOW_PORTS, dma.low],
    [DMA_HIGH_PORT, DMA_HIGH_PORTS, dma.high],
    [DMA_PAGE_PORT, 16, dma.pages],
    ...serials.map((serial, n): [number, number, Serial] => [COM_PORTS[n]?.port ?? 0, SERIAL_PORTS, serial]),
  ];
  for (const [start, bytes, device] of windows) ports.attach(start, bytes, device);
  return {
    ports,
    windows,
    i8042,
    serials,
    ram,
    file,
    get outside() {
      return outside;
    },
    pass(ns: number) {
      now += ns;
      // A timer that arms itself for the same moment again and again would hold a machine for ever.
      for (let guard = 0; clock.runDue() > 0; guard++) if (guard > 100) throw new Error('the timers never rest');
    },
  };
}

describe('a hostile guest', () => {
  it.each([1, 2, 3])('gets an answer to every access, in its width, and breaks nothing (seed %i)', (seed) => {
    let state = seed;
    const random = (below: number) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const machine = board();
    for (let n = 0; n < OPERATIONS; n++) {
      const [start, bytes, device] = machine.windows[random(machine.windows.length)] as (typeof machine.windows)[number];
      const offset = random(bytes);
      const width = WIDTHS[random(4)] as Width;
      if (random(2) === 0) {
        const value = machine.ports.read(start + offset, width);
        if (value < 0n || value >> BigInt(8 * width)) throw new Error(`${device.name}+${offset}: ${value} in ${width} bytes`);
      } else {
        // Small numbers and addresses of memory are what leads somewhere.
        const value = random(3) === 0 ? BigInt(random(256)) : (BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32));
        machine.ports.write(start + offset, width, value);
      }
      if (random(8) === 0) machine.pass(random(1e6));
      if (random(1000) === 0) machine.pass(random(1e11));
      if (random(50) === 0) machine.i8042.key([random(256)]);
      if (random(50) === 0) machine.serials[random(4)]?.send([random(256)]);
    }
    expect(machine.file.length).toBe(100);
  });

  it('does no harm by transfers, whatever they ask for', () => {
    const machine = board();
    let state = 7;
    const random = (below: number) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const view = new DataView(machine.ram.buffer);
    for (let n = 0; n < 5000; n++) {
      const at = random(RAM_BYTES);
      if (at + 16 <= RAM_BYTES) {
        view.setUint32(at, (random(64) << 16) | random(32));
        view.setUint32(at + 4, random(4) === 0 ? random(2 ** 32) : random(200));
        view.setUint32(at + 8, random(4) === 0 ? random(2 ** 32) : 0);
        view.setUint32(at + 12, random(RAM_BYTES + 100));
      }
      machine.ports.write(FW_CFG_PORT + 8, 4, BigInt(((at & 0xff) << 24) | ((at & 0xff00) << 8)) & 0xffff_ffffn);
    }
    expect(machine.outside).toBeGreaterThan(0); // it did try
    machine.ports.write(FW_CFG_PORT, 2, 0n);
    expect([0, 0, 0, 0].map(() => Number(machine.ports.read(FW_CFG_PORT + 1, 1)))).toEqual([0x51, 0x45, 0x4d, 0x55]);
  });
});
