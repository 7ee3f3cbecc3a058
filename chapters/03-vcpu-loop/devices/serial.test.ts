import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { COM_PORTS, Serial } from './serial.ts';

const [DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR] = [0, 1, 2, 2, 3, 4, 5, 6];

function port({ timed = false } = {}) {
  let now = 0;
  const clock = new TimerQueue(() => now);
  const levels: boolean[] = [];
  const serial = new Serial({ onInterrupt: (level) => levels.push(level), clock: timed ? clock : null });
  return {
    serial,
    levels,
    in: (offset: number) => Number(serial.read(offset, 1)),
    out: (offset: number, value: number) => serial.write(offset, 1, BigInt(value)),
    /** Lets time pass, as whoever owns the clock does. */
    pass(ns: number) {
      now += ns;
      clock.runDue();
    },
    clock,
  };
}

describe("the serial port's interrupt", () => {
  it('goes through the gate OUT2, and is told only when it changes', () => {
    const com = port();
    com.out(IER, 0x02);
    expect(com.levels).toEqual([]);
    com.out(MCR, 0x08);
    com.out(MCR, 0x0b);
    com.out(MCR, 0x00);
    com.out(MCR, 0x08);
    expect(com.in(IIR)).toBe(0x02);
    expect(com.levels).toEqual([true, false, true, false]);
  });
  it('comes again when a cause is switched on while it holds (vm-superio 135)', () => {
    const com = port();
    com.out(MCR, 0x08);
    com.serial.send([0x41]);
    expect(com.levels).toEqual([]);
    com.out(IER, 0x01);
    expect([[...com.levels], com.in(IIR)]).toEqual([[true], 0x04]);
    com.out(IER, 0);
    com.out(IER, 0x01);
    expect(com.levels).toEqual([true, false, true]);
    expect(com.in(DATA)).toBe(0x41);
    expect(com.levels).toEqual([true, false, true, false]);
  });
  it('shows an edge for each byte sent, to a controller that wants edges', () => {
    const com = port();
    com.out(MCR, 0x08);
    com.out(IER, 0x02);
    for (let n = 0; n < 3; n++) com.out(DATA, n);
    expect(com.levels).toEqual([true, false, true, false, true, false, true]);
  });
  it('names its five causes in order, each with its own acknowledgement', () => {
    const com = port();
    com.out(MCR, 0x18); // looped back
    com.out(IER, 0x0f);
    com.out(DATA, 1);
    com.out(DATA, 2); // overrun
    com.out(MCR, 0x19); // DTR -> DSR
    expect(com.in(IIR)).toBe(0x06);
    expect(com.in(LSR)).toBe(0x63);
    expect(com.in(IIR)).toBe(0x04);
    expect(com.in(DATA)).toBe(2);
    expect(com.in(IIR)).toBe(0x02);
    expect(com.in(IIR)).toBe(0x00);
    expect(com.in(MSR)).toBe(0xa2);
    expect(com.in(IIR)).toBe(0x01);
    expect(com.in(MSR)).toBe(0xa0);
  });
  it('is not acknowledged by identifying another cause', () => {
    const com = port();
    com.serial.send([1]);
    com.out(IER, 0x03);
    expect([com.in(IIR), com.in(IIR)]).toEqual([0x04, 0x04]);
    com.in(DATA);
    expect([com.in(IIR), com.in(IIR)]).toEqual([0x02, 0x01]);
  });
});

describe("the serial port's FIFO", () => {
  it.each([
    [0x01, 1],
    [0x41, 4],
    [0x81, 8],
    [0xc1, 14],
  ])('with FCR = %i asks at %i bytes', (fcr, trigger) => {
    const com = port({ timed: true });
    com.out(FCR, fcr);
    com.out(IER, 0x01);
    for (let n = 1; n < trigger; n++) com.serial.send([n]);
    expect(com.in(IIR)).toBe(0xc1);
    com.serial.send([trigger]);
    expect(com.in(IIR)).toBe(0xc4);
    com.in(DATA);
    expect(com.in(IIR)).toBe(0xc1);
  });
  it('asks for a remainder after the time of four characters without traffic', () => {
    const com = port({ timed: true });
    com.out(MCR, 0x08);
    com.out(LCR, 0x83);
    com.out(DATA, 1); // 115,200 baud: ten bits last 86,806 ns
    com.out(LCR, 0x03);
    com.out(FCR, 0xc1);
    com.out(IER, 0x01);
    const time = 4 * 86_806;
    com.serial.send([1, 2, 3]);
    com.pass(time - 1);
    expect(com.in(IIR)).toBe(0xc1);
    com.serial.send([4]); // starts the wait anew
    com.pass(time - 1);
    expect(com.levels).toEqual([]);
    com.pass(1);
    expect([[...com.levels], com.in(IIR)]).toEqual([[true], 0xcc]);
    expect(com.in(DATA)).toBe(1); // which acknowledges
    expect([[...com.levels], com.in(IIR)]).toEqual([[true, false], 0xc1]);
    com.pass(time);
    expect(com.levels).toEqual([true, false, true]);
    for (let n = 0; n < 3; n++) com.in(DATA);
    expect(com.clock.next).toBe(null); // and an empty receiver waits for nothing
  });
  it('asks for a remainder at once when there is no clock', () => {
    const com = port();
    com.out(FCR, 0xc1);
    com.out(IER, 0x01);
    com.serial.send([1]);
    expect(com.in(IIR)).toBe(0xcc);
  });
  it('holds sixteen, and loses what comes then', () => {
    const com = port();
    com.out(FCR, 0x01);
    com.out(MCR, 0x10);
    for (let n = 0; n < 16; n++) com.out(DATA, n);
    expect(com.in(LSR) & 0x03).toBe(0x01);
    com.out(DATA, 99);
    expect(com.in(LSR) & 0x03).toBe(0x03);
    const got: number[] = [];
    while (com.in(LSR) & 1) got.push(com.in(DATA));
    expect(got).toEqual(Array.from({ length: 16 }, (_, n) => n));
  });
  it('is emptied by its bit, and by being switched (vm-superio 83)', () => {
    for (const fcr of [0x03, 0x00]) {
      const com = port();
      com.out(FCR, 0x01);
      com.out(MCR, 0x10);
      com.out(DATA, 1);
      com.out(FCR, fcr);
      expect(com.in(LSR) & 1).toBe(0);
    }
    const com = port();
    com.out(FCR, 0x01);
    com.out(MCR, 0x10);
    com.out(DATA, 1);
    com.out(FCR, 0x05); // the transmitter's bit
    expect(com.in(LSR) & 1).toBe(1);
    com.out(FCR, 0x02); // switched off; the other bits do not count, but the switching does
    expect(com.in(LSR) & 1).toBe(0);
  });
  it('keeps a break with its byte', () => {
    const com = port();
    com.out(FCR, 0x01);
    com.out(IER, 0x04);
    com.serial.send([1]);
    com.serial.sendBreak();
    com.serial.send([2]);
    expect([com.in(IIR), com.in(LSR)]).toEqual([0xc1, 0xe1]); // somewhere in the queue
    expect(com.in(DATA)).toBe(1);
    expect([com.in(IIR), com.in(LSR), com.in(LSR)]).toEqual([0xc6, 0xf1, 0xe1]); // now it is next
    expect([com.in(DATA), com.in(LSR), com.in(DATA), com.in(LSR)]).toEqual([0, 0x61, 2, 0x60]);
  });
});

describe("the serial port's modem lines", () => {
  it('mark what has changed; of the ring only the end', () => {
    const com = port();
    com.out(MCR, 0x08);
    com.out(IER, 0x08);
    expect(com.in(MSR)).toBe(0xb0);
    com.serial.setModemLines(0xf0);
    expect([[...com.levels], com.in(MSR)]).toEqual([[], 0xf0]); // it rings
    com.serial.setModemLines(0x00);
    expect([[...com.levels], com.in(IIR), com.in(MSR), com.in(MSR)]).toEqual([[true], 0x00, 0x0f, 0x00]);
    expect(com.levels).toEqual([true, false]);
  });
  it('are the outputs in loop-back, and what is outside does not matter then', () => {
    const com = port();
    com.out(MCR, 0x10);
    com.serial.setModemLines(0x40);
    com.serial.send([1]);
    expect([com.in(MSR), com.in(LSR)]).toEqual([0, 0x60]);
    for (const [mcr, msr] of [
      [0x11, 0x22],
      [0x12, 0x13],
      [0x14, 0x41],
      [0x18, 0x8c],
    ] as const) {
      com.out(MCR, mcr);
      expect(com.in(MSR)).toBe(msr);
    }
    com.out(MCR, 0x00);
    expect([com.in(MSR), com.in(LSR), com.in(DATA)]).toEqual([0x40, 0x61, 1]);
  });
});

describe('the serial ports of a PC', () => {
  it('are at four places and share two lines', () => {
    expect(COM_PORTS.map(({ port, irq }) => `${port.toString(16)}/${irq}`)).toEqual(['3f8/4', '2f8/3', '3e8/4', '2e8/3']);
  });
  it('forget everything at a reset but what the host has to say', () => {
    const com = port();
    com.out(FCR, 0xc1);
    com.out(MCR, 0x08);
    com.out(IER, 0x0f);
    com.serial.reset();
    expect([IER, IIR, LCR, MCR, LSR, MSR].map(com.in)).toEqual([0, 1, 0, 0, 0x60, 0xb0]);
    expect(com.levels).toEqual([true, false]);
  });
});
