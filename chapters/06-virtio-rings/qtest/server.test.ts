import { afterEach, describe, expect, it } from 'vitest';
import { completeConfig } from '../../05-pio-mmio/machine/config.ts';
import '../../05-pio-mmio/machine/devices.ts';
import { PausedPc } from './paused-pc.ts';
import { LINE_LIMIT, QtestServer } from './server.ts';

let paused: PausedPc | null = null;
afterEach(() => {
  paused?.dispose();
  paused = null;
});

/** A machine, and what it says to each line. */
function conversation(): (line: string) => readonly string[] {
  const machine = new PausedPc({
    config: completeConfig({ memoryMiB: 4, kernel: 'nothing', serial: ['null'], devices: [{ type: 'e1000', addr: '3' }] }),
  });
  paused = machine;
  let said: string[] = [];
  const server = new QtestServer(machine, (line) => said.push(line));
  return (line) => {
    said = [];
    server.line(line);
    return said;
  };
}

// What QEMU 7.2 answers to the same lines, `-machine q35 -m 4M`.
// biome-ignore format: table
const AS_QEMU: readonly (readonly [string, ...string[]])[] = [
  ['endianness', 'OK little'],
  ['outl 0xcf8 0x80000000', 'OK'],
  ['inl 0xcfc', 'OK 0x29c08086'],
  ['inw 0xcfc', 'OK 0x8086'],
  ['inb 0xcfc', 'OK 0x0086'],
  ['readq 0x100', 'OK 0x0000000000000000'],
  ['read 0x100 4', 'OK 0x00000000'],
  ['b64read 0x100 4', 'OK AAAAAA=='],
  ['b64read 0x100 0', 'OK '],
  ['write 0x100 4 0x1234', 'OK'],
  ['readl 0x100', 'OK 0x0000000000003412'],
  ['write 0x100 4 1', 'ERR invalid argument size'],
  ['memset 0x100 8 0xff', 'OK'],
  ['memset 0x100 0 1', 'OK'],
  ['readq 0x100', 'OK 0xffffffffffffffff'],
  ['b64write 0x100 3 AQID', 'OK'],
  ['b64write 0x100 3 AQ', 'ERR invalid argument size'],
  ['readl 0x100', 'OK 0x00000000ff030201'],
  ['writeb 0x100 0x1ff', 'OK'],
  ['writew 0x102 -1', 'OK'],
  ['readl 256', 'OK 0x00000000ffff02ff'],
  ['readb 0400', 'OK 0x00000000000000ff'],
  ['readb 0x101 6 7', 'OK 0x0000000000000002'],
  ['foo bar', "FAIL Unknown command 'foo'"],
  ['readb\t0x100', "FAIL Unknown command 'readb\t0x100'"],
  ['irq_intercept_in foo', 'FAIL Unknown device'],
  ['irq_intercept_in ioapic', 'OK'],
  ['irq_intercept_in ioapic', 'OK'],
  ['set_irq_in ioapic unnamed-gpio-in 16 1', 'IRQ raise 16', 'OK'],
  ['set_irq_in ioapic unnamed-gpio-in 16 1', 'OK'],
  ['set_irq_in ioapic unnamed-gpio-in 16 0', 'IRQ lower 16', 'OK'],
  ['set_irq_in foo unnamed-gpio-in 16 0', 'FAIL Unknown device'],
  ['module_load a b', 'FAIL'],
];

it('answers as QEMU does, to the letter', () => {
  const say = conversation();
  for (const [line, ...answers] of AS_QEMU) expect([line, ...say(line)]).toEqual([line, ...answers]);
});

// QEMU ends where an argument is missing or is no number; whoever is at the other end of this has only made a mistake.
it.each([
  ...['outb 1', 'readb', 'inb zz', 'inb 0x10000', 'outb 0x80 0x', 'outb 0x80 0xffffffffffffffffff', 'readb  0x100', 'readb 09', 'readb 1e3'],
  ...['read 0x100 0', 'read 0 0x100001', 'memset 0 0x10000000 0', 'write 0 4 1234', 'write 0 4 0xzz', 'b64write 0 4 AQ!D', 'b64write 0 4 AAAAA'],
  ...['irq_intercept_in', 'set_irq_in ioapic x 1 1', 'set_irq_in ioapic unnamed-gpio-in 24 1', 'clock_step x', 'clock_set', 'module_load a'],
])('refuses `%s`, and goes on', (line) => {
  const say = conversation();
  expect(say(line)).toEqual([expect.stringMatching(/^ERR /)]);
  expect(say('endianness')).toEqual(['OK little']);
});

it('is not moved by what is no command', () => {
  const say = conversation();
  for (const line of ['', ' ', '__proto__ 1', 'constructor', '\0', 'é', 'inx 0x60', 'outq 0x60 1', 'x'.repeat(200)]) {
    const [answer, ...more] = say(line);
    expect(answer).toMatch(/^FAIL Unknown command '/);
    expect((answer as string).length).toBeLessThan(120);
    expect(more).toEqual([]);
  }
  expect(say(`write 0 1 0x${'0'.repeat(LINE_LIMIT)}`)).toEqual(["FAIL Unknown command 'write'"]);
});

it('lets a block reach over what is no memory', () => {
  const say = conversation();
  expect(say('write 0x3ffffc 8 0x0102030405060708')).toEqual(['OK']);
  expect(say('read 0x3ffffc 8')).toEqual(['OK 0x01020304ffffffff']);
  expect(say('readq 0x3ffffc')).toEqual(['OK 0xffffffff04030201']);
  expect(say('readq 0xffffffffffffffff')).toEqual(['OK 0xffffffffffffffff']);
  expect(say('writeq 0xffffffffffffffff 1')).toEqual(['OK']);
});

describe('time', () => {
  it('moves when it is told to, and only forward', () => {
    const say = conversation();
    expect(say('clock_step 1001')).toEqual(['OK 1001']);
    expect(say('clock_step 1')).toEqual(['OK 1002']);
    expect(say('clock_step 0')).toEqual(['FAIL could not advance time']);
    expect(say('clock_step -5')).toEqual(['FAIL could not advance time']);
    expect(say('clock_set 5')).toEqual(['FAIL 1002']);
    expect(say('clock_set 2000')).toEqual(['OK 2000']);
    expect(say('clock_step 0x7fffffffffffffff')).toEqual(['FAIL could not advance time']);
    expect(say('clock_set 0x7fffffffffffffff')).toEqual(['FAIL 2000']);
  });

  it('goes to the next thing that happens', () => {
    const say = conversation();
    expect(say('clock_step')).toEqual([expect.stringMatching(/^FAIL cannot advance clock to the next deadline/)]);
    // The RTC's periodic interrupt, 1024 times a second.
    for (const line of ['outb 0x70 0x0a', 'outb 0x71 0x26', 'outb 0x70 0x0b', 'outb 0x71 0x42', 'irq_intercept_in ioapic'])
      expect(say(line)).toEqual(['OK']);
    for (let tick = 1; tick <= 2; tick++) {
      expect(say('clock_step').at(0)).toBe('IRQ raise 8');
      say('outb 0x70 0x0c');
      expect(say('inb 0x71')).toEqual(['IRQ lower 8', 'OK 0x00c0']);
    }
  });
});

it('resets the machine when its chipset is told to, and leaves memory alone', () => {
  const say = conversation();
  say('writel 0x1000 0x12345678');
  say('outl 0xcf8 0x8000183c');
  expect(say('outb 0xcfc 0x0b')).toEqual(['OK']);
  expect(say('inb 0xcfc')).toEqual(['OK 0x000b']);
  say('outb 0xcf9 6');
  expect(paused?.settle()).toBeNull();
  say('outl 0xcf8 0x8000183c');
  expect(say('inb 0xcfc')).toEqual(['OK 0x0000']);
  expect(say('readl 0x1000')).toEqual(['OK 0x0000000012345678']);
  say('outb 0xf4 3');
  expect(paused?.settle()).toBe('debug-exit');
});
