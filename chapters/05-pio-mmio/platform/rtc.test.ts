import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { BOOT_DEVICE, Rtc } from './rtc.ts';

const SECOND = 1e9;
const DEFAULT_START = Date.UTC(2000, 0, 1) / 1000;

function chip(start = DEFAULT_START, begin = 0) {
  let now = begin;
  const clock = new TimerQueue(() => now);
  const levels: boolean[] = [];
  const rtc = new Rtc({ clock, irq: { set: (level) => levels.push(level) }, start });
  const get = (index: number) => {
    rtc.write(0, 1, BigInt(index));
    return Number(rtc.read(1, 1));
  };
  const set = (index: number, value: number) => {
    rtc.write(0, 1, BigInt(index));
    rtc.write(1, 1, BigInt(value));
  };
  return {
    rtc,
    clock,
    levels,
    get,
    set,
    /** Seconds to century, as they stand. */
    time: () => [4, 2, 0, 7, 8, 9, 0x32].map((index) => get(index).toString(16).padStart(2, '0')).join(' '),
    /** Moves time on, stopping wherever a timer is due. */
    pass(ns: number) {
      const end = now + ns;
      for (let guard = 0; clock.next !== null && clock.next <= end; guard++) {
        if (guard > 100_000) throw new Error('a timer that never rests');
        now = Math.max(now, clock.next);
        clock.runDue();
      }
      now = end;
    },
  };
}

describe('the date', () => {
  it('starts where it is told and runs with the clock', () => {
    const { time, pass } = chip(Date.UTC(2024, 1, 28, 23, 59, 58) / 1000);
    expect(time()).toBe('23 59 58 28 02 24 20');
    pass(1.999 * SECOND);
    expect(time()).toBe('23 59 59 28 02 24 20');
    pass(0.002 * SECOND);
    expect(time()).toBe('00 00 00 29 02 24 20');
  });
  it('does not depend on when the clock began', () => {
    const { time, pass } = chip(DEFAULT_START, 123_456_789_012);
    expect(time()).toBe('00 00 00 01 01 00 20');
    pass(SECOND);
    expect(time()).toBe('00 00 01 01 01 00 20');
  });
  it('has a weekday, and keeps one that it was told', () => {
    const { get, set, pass } = chip(Date.UTC(2000, 0, 1) / 1000);
    expect(get(6)).toBe(7); // a Saturday
    set(6, 2);
    expect(get(6)).toBe(2);
    pass(86_400 * SECOND);
    expect(get(6)).toBe(3);
  });
  it('is shown in BCD or binary, with 24 hours or 12', () => {
    const { get, set } = chip(Date.UTC(2031, 10, 29, 23, 45, 6) / 1000);
    const shown = (b: number) => {
      set(0x0b, b);
      return [4, 2, 7, 9, 0x32].map(get);
    };
    expect(shown(0x02)).toEqual([0x23, 0x45, 0x29, 0x31, 0x20]);
    expect(shown(0x06)).toEqual([23, 45, 29, 31, 20]);
    expect(shown(0x00)).toEqual([0x91, 0x45, 0x29, 0x31, 0x20]);
    expect(shown(0x04)).toEqual([0x8b, 45, 29, 31, 20]);
  });
  it('knows midnight and noon of a 12-hour clock', () => {
    for (const [hour, byte] of [
      [0, 0x12],
      [1, 0x01],
      [11, 0x11],
      [12, 0x92],
      [13, 0x81],
      [23, 0x91],
    ] as const) {
      const { rtc, get, set } = chip(DEFAULT_START + hour * 3600);
      set(0x0b, 0x00);
      expect(get(4)).toBe(byte);
      set(4, byte); // and back
      expect(rtc.date).toBe(DEFAULT_START + hour * 3600);
    }
  });
  it('stands while it is set, and makes sense of the whole afterwards', () => {
    const { set, time, pass } = chip(Date.UTC(2001, 1, 3) / 1000);
    set(0x0b, 0x82);
    set(7, 0x31);
    pass(10 * SECOND);
    expect(time()).toBe('00 00 00 31 02 01 20');
    set(8, 0x10);
    set(9, 0x99);
    set(0x32, 0x19);
    set(4, 0x12);
    set(0x0b, 0x02);
    expect(time()).toBe('12 00 00 31 10 99 19');
    pass(SECOND);
    expect(time()).toBe('12 00 01 31 10 99 19');
  });
  it('begins half a second after the divider is let go', () => {
    const { set, time, pass } = chip();
    pass(0.9 * SECOND);
    set(0x0a, 0x70);
    pass(5 * SECOND);
    expect(time()).toBe('00 00 00 01 01 00 20');
    set(0x0a, 0x26);
    pass(0.499 * SECOND);
    expect(time()).toBe('00 00 00 01 01 00 20');
    pass(0.002 * SECOND);
    expect(time()).toBe('00 00 01 01 01 00 20');
  });
  it('announces a change 244 microseconds before', () => {
    const { get, set, pass } = chip();
    expect(get(0x0a)).toBe(0x26);
    pass(SECOND - 244_140);
    expect(get(0x0a)).toBe(0xa6);
    set(0x0b, 0x82);
    expect(get(0x0a)).toBe(0x26); // a clock that is held will not change
    set(0x0b, 0x02);
    pass(244_140);
    expect(get(0x0a)).toBe(0x26);
  });
  it('takes any byte without harm', () => {
    for (const b of [0x00, 0x02, 0x04, 0x06]) {
      const { rtc, set, get } = chip();
      for (const hold of [0x80, 0])
        for (const value of [0xff, 0x00, 0x9f, 0x7e]) {
          set(0x0b, b | hold);
          for (const index of [0, 2, 4, 6, 7, 8, 9, 0x32]) set(index, value);
          set(0x0b, b);
          expect(Number.isSafeInteger(rtc.date)).toBe(true);
          for (let index = 0; index < 128; index++) expect(get(index)).toBeGreaterThanOrEqual(0);
        }
    }
  });
});

describe("the clock's interrupts", () => {
  it('come once a second, and once only until C is read', () => {
    const { set, get, levels, pass } = chip();
    set(0x0b, 0x12);
    pass(0.999 * SECOND);
    expect(levels).toEqual([]);
    pass(3 * SECOND);
    expect(levels).toEqual([true]);
    expect([get(0x0c), get(0x0c)]).toEqual([0xf0 & ~0x20, 0x00]); // the period has passed as well, without being asked for
    expect(levels).toEqual([true, false]);
    pass(1.5 * SECOND);
    expect(levels).toEqual([true, false, true]);
  });
  it('come at the chosen period', () => {
    for (const [rate, hertz] of [
      [3, 8192],
      [6, 1024],
      [15, 2],
      [1, 256],
      [2, 128],
    ] as const) {
      const { set, get, levels, pass } = chip();
      set(0x0a, 0x20 | rate);
      set(0x0b, 0x42);
      let count = 0;
      for (let n = 0; n < 2 * hertz; n++) {
        pass(SECOND / hertz / 2);
        if (levels.at(-1)) {
          count++;
          expect(get(0x0c) & 0xc0).toBe(0xc0);
        }
      }
      expect([rate, Math.abs(count - hertz) <= 1]).toEqual([rate, true]);
    }
  });
  it('come at the alarm, whose bytes may say "any"', () => {
    const { set, get, levels, pass, rtc } = chip(Date.UTC(2010, 4, 5, 6, 7, 8) / 1000);
    set(5, 0xff);
    set(3, 0x30);
    set(1, 0x10);
    set(0x0b, 0x22);
    pass((23 * 60 + 2) * SECOND - 1);
    expect(levels).toEqual([]);
    pass(SECOND);
    expect([[...levels], new Date(rtc.date * 1000).toISOString(), get(0x0c) & 0xa0]).toEqual([[true], '2010-05-05T06:30:10.000Z', 0xa0]);
    pass(3600 * SECOND);
    expect(levels).toEqual([true, false, true]); // every hour
  });
  it('never come for a time of day that does not exist', () => {
    const { set, levels, pass, clock } = chip();
    set(5, 0x25);
    set(0x0b, 0x22);
    expect(clock.next).toBe(null);
    pass(200_000 * SECOND);
    expect(levels).toEqual([]);
  });
  it('are lowered when they are switched off, and by a reset', () => {
    const { set, get, levels, pass, rtc } = chip();
    set(0x0b, 0x12);
    pass(SECOND);
    set(0x0b, 0x02);
    expect(levels).toEqual([true, false]);
    set(0x0b, 0x12);
    expect(levels).toEqual([true, false, true]); // the flag is still there
    rtc.reset();
    expect([levels.at(-1), get(0x0b), get(0x0c)]).toEqual([false, 0x02, 0]);
  });
  it('wake nobody who has not asked', () => {
    const { clock } = chip();
    expect(clock.next).toBe(null);
  });
  it('leave SET without update interrupts', () => {
    const { set, get } = chip();
    set(0x0b, 0xff);
    expect(get(0x0b)).toBe(0xef);
  });
});

describe("the clock's memory", () => {
  it('tells the sizes of memory as firmware reads them', () => {
    const { rtc, get } = chip();
    rtc.setMemory(0xb000_0000, 0x1_4000_0000);
    const pair = (index: number) => get(index) + get(index + 1) * 256;
    expect([pair(0x15), pair(0x17), pair(0x30)]).toEqual([640, 0xffff, 0xffff]);
    expect(pair(0x34) * 65_536 + (16 << 20)).toBe(0xb000_0000);
    expect((pair(0x5b) + get(0x5d) * 65_536) * 65_536).toBe(0x1_4000_0000);
    rtc.setMemory(8 << 20, 0);
    expect([pair(0x17), pair(0x34), pair(0x5b)]).toEqual([7168, 0, 0]);
  });
  it('tells the order of boot devices and the number of processors', () => {
    const { rtc, get } = chip();
    rtc.setBootOrder([BOOT_DEVICE.DISK, BOOT_DEVICE.CDROM]);
    rtc.setProcessors(4);
    expect([get(0x3d), get(0x38), get(0x5f)]).toEqual([0x32, 0x01, 3]);
  });
  it('shares its index port with the mask of NMI, and takes both ports in one access', () => {
    const { rtc, get } = chip();
    rtc.write(0, 2, 0x5a8fn);
    expect([rtc.nmiMasked, get(0x0f), rtc.nmiMasked]).toEqual([true, 0x5a, false]);
    expect(rtc.read(0, 2)).toBe(0x5affn);
  });
});
