// # The clock that keeps running
//
// One chip with a battery: the time of day, an alarm, a periodic interrupt, and the memory that was left over. Firmware put the machine's settings
// into that memory, which is why "CMOS" still means them; the size of memory and the order of boot devices are there to this day. All of it is
// reached through two ports: write a number to the first, then the second is that register.
//
// The date here follows from the machine's clock and a starting date, which is the same for every run unless somebody asks for another: a guest
// that prints the date prints the same one twice.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import type { Registers, Width } from '../../03-vcpu-loop/devices/bus.ts';
import { array, describe, field, kind, moment, timer } from '../../03-vcpu-loop/devices/state.ts';
import { RegisterFile, registerTable } from '../registers.ts';
import type { Wire } from '../wires.ts';
import { nsAtTick, ticksAt } from './ticks.ts';

export const RTC_PORT = 0x70;
export const RTC_PORTS = 2;
export const RTC_IRQ = 8;
const CMOS_BYTES = 128;
const A_RESET = 0x26; // the divider runs, 1024 periods a second

// The offset in this table is the number that goes into the index port.
//
// ::layout rtcTable -- Fourteen registers, and the memory behind them.

export const rtcTable = registerTable('rtc', 'Motorola MC146818A data sheet, Address Map', {
  SECONDS: { offset: 0x00, bytes: 1, access: 'rw', text: 'seconds' },
  SECONDS_ALARM: { offset: 0x01, bytes: 1, access: 'rw', text: 'alarm: seconds; C0 and above match any' },
  MINUTES: { offset: 0x02, bytes: 1, access: 'rw', text: 'minutes' },
  MINUTES_ALARM: { offset: 0x03, bytes: 1, access: 'rw', text: 'alarm: minutes' },
  HOURS: { offset: 0x04, bytes: 1, access: 'rw', text: 'hours; with a 12-hour clock bit 7 is PM' },
  HOURS_ALARM: { offset: 0x05, bytes: 1, access: 'rw', text: 'alarm: hours' },
  DAY_OF_WEEK: { offset: 0x06, bytes: 1, access: 'rw', text: 'day of the week, Sunday is 1' },
  DAY_OF_MONTH: { offset: 0x07, bytes: 1, access: 'rw', text: 'day of the month' },
  MONTH: { offset: 0x08, bytes: 1, access: 'rw', text: 'month' },
  YEAR: { offset: 0x09, bytes: 1, access: 'rw', text: 'year, two digits' },
  A: { offset: 0x0a, bytes: 1, access: 'rw', reset: A_RESET, text: 'update in progress; divider; rate of the periodic interrupt' },
  B: { offset: 0x0b, bytes: 1, access: 'rw', reset: 0x02, text: 'interrupt enables; SET, binary or BCD, 12 or 24 hours' },
  C: { offset: 0x0c, bytes: 1, access: 'rc', text: 'interrupt flags; reading clears them, and the line' },
  D: { offset: 0x0d, bytes: 1, access: 'ro', reset: 0x80, text: 'the battery is good' },
  CMOS: { offset: 0x0e, bytes: 1, access: 'rw', text: 'memory', count: CMOS_BYTES - 0x0e },
});

const A = { UIP: 0x80, DIVIDER: 0x70, DIVIDER_RUNS: 0x20, RATE: 0x0f } as const;
/** In the hours of a 12-hour clock. */
const PM = 0x80;
const B = { SET: 0x80, PIE: 0x40, AIE: 0x20, UIE: 0x10, SQWE: 0x08, BINARY: 0x04, HOURS_24: 0x02, DST: 0x01 } as const;
const C = { IRQF: 0x80, PF: 0x40, AF: 0x20, UF: 0x10 } as const;
const ANY = 0xc0; // an alarm byte that matches everything has both bits
const NMI_MASK = 0x80; // in the index port

/** Memory bytes that firmware looks for. */
export const CMOS = {
  RESET_CODE: 0x0f, // what the firmware does after a reset: resume at an address, or start
  EQUIPMENT: 0x14,
  BASE_MEMORY: 0x15,
  EXTENDED_MEMORY: 0x17,
  EXTENDED_MEMORY_COPY: 0x30,
  CENTURY: 0x32,
  ABOVE_16M: 0x34,
  BOOT_ORDER_THIRD: 0x38,
  DISK_TRANSLATION: 0x39,
  BOOT_ORDER: 0x3d,
  ABOVE_4G: 0x5b,
  PROCESSORS: 0x5f,
} as const;

/** Boot devices, as {@link Rtc.setBootOrder} takes them. */
export const BOOT_DEVICE = { FLOPPY: 1, DISK: 2, CDROM: 3, NETWORK: 4 } as const;

const NS_PER_SECOND = 1e9;
/** UIP is set this long before the time changes, so that whoever sees it clear has time to read everything. */
const UIP_NS = 244_140;
const CRYSTAL_HZ = 32_768;
const SECONDS_PER_DAY = 86_400;
/** 2000-01-01, in seconds since 1970. */
const DEFAULT_START = 946_684_800;

interface RtcOptions {
  readonly clock: Clock;
  readonly irq: Wire;
  /** The date when the machine is made, in seconds since 1970. */
  readonly start?: number;
}

// @clause rtc.registers
export class Rtc implements Registers {
  readonly name = 'rtc';
  readonly #clock: Clock;
  readonly #irq: Wire;
  readonly #file: RegisterFile<keyof typeof rtcTable.rows>;
  /** Every register as last written: memory, alarms, and the time while it is being set. */
  readonly #bytes = new Uint8Array(CMOS_BYTES);
  readonly #timer: Timer;
  #port = 0; // what was written to the index port
  #a: number = A_RESET;
  #b: number = B.HOURS_24;
  #c = 0;
  /** When the divider chain began: seconds, periods and UIP are counted from here. */
  #origin: number;
  /** The date at the origin. */
  #base: number;
  /** The chip takes the day of the week as it was told it, right or wrong. */
  #weekdayShift = 0;
  /** Seconds and periods since the origin that have left their mark in register C. */
  #seenSeconds = 0;
  #seenPeriods = 0;
  #level = false;

  constructor({ clock, irq, start = DEFAULT_START }: RtcOptions) {
    this.#clock = clock;
    this.#irq = irq;
    this.#origin = clock.now();
    this.#base = Math.floor(start);
    this.#timer = clock.timer(() => this.#update());
    const time = (offset: number) => ({ read: () => this.#readTime(offset), write: (value: number) => this.#writeTime(offset, value) });
    const byte = (offset: number) => ({
      read: () => this.#bytes[offset] as number,
      write: (value: number) => {
        this.#bytes[offset] = value;
        this.#update(); // an alarm may come sooner now
      },
    });
    this.#file = new RegisterFile(rtcTable, {
      SECONDS: time(0),
      SECONDS_ALARM: byte(1),
      MINUTES: time(2),
      MINUTES_ALARM: byte(3),
      HOURS: time(4),
      HOURS_ALARM: byte(5),
      DAY_OF_WEEK: time(6),
      DAY_OF_MONTH: time(7),
      MONTH: time(8),
      YEAR: time(9),
      A: { read: () => this.#a | (this.#updateSoon ? A.UIP : 0), write: (value) => this.#writeA(value) },
      B: { read: () => this.#b, write: (value) => this.#writeB(value) },
      C: { read: () => this.#takeFlags() },
      CMOS: {
        read: (index) => (index + 0x0e === CMOS.CENTURY ? this.#readTime(CMOS.CENTURY) : (this.#bytes[index + 0x0e] as number)),
        write: (value, index) => {
          if (index + 0x0e === CMOS.CENTURY) this.#writeTime(CMOS.CENTURY, value);
          else this.#bytes[index + 0x0e] = value;
        },
      },
    });
  }

  // ## The two ports

  /** The index port's upper bit masks the non-maskable interrupt: it was the bit that was free. */
  get nmiMasked(): boolean {
    return (this.#port & NMI_MASK) !== 0;
  }

  read(offset: number, width: Width): bigint {
    let value = 0n;
    for (let index = 0; index < width; index++) {
      const byte = offset + index === 1 ? this.#file.read(this.#port & 0x7f, 1) : 0xffn; // the index port cannot be read
      value |= byte << BigInt(8 * index);
    }
    return value;
  }

  write(offset: number, width: Width, value: bigint): void {
    for (let index = 0; index < width; index++) {
      const byte = (value >> BigInt(8 * index)) & 0xffn;
      if (offset + index === 0) this.#port = Number(byte);
      if (offset + index === 1) this.#file.write(this.#port & 0x7f, 1, byte);
    }
  }

  // ## Date and time
  //
  // While the clock runs, its registers are computed from the date. While software holds it (SET, or a divider that is stopped), they are bytes like
  // any other, with no sense required until it lets go: the day may be the 31st of a month that is written next.

  // @clause rtc.set
  get #runs(): boolean {
    return (this.#a & A.DIVIDER) === A.DIVIDER_RUNS;
  }

  get #ticks(): boolean {
    return this.#runs && (this.#b & B.SET) === 0;
  }

  get #elapsed(): number {
    return this.#clock.now() - this.#origin;
  }

  /** Seconds since 1970 that the registers show. */
  get date(): number {
    return this.#ticks ? this.#base + Math.floor(this.#elapsed / NS_PER_SECOND) : this.#decode();
  }

  // @clause rtc.update-in-progress
  get #updateSoon(): boolean {
    return this.#ticks && this.#elapsed % NS_PER_SECOND >= NS_PER_SECOND - UIP_NS;
  }

  #readTime(offset: number): number {
    if (this.#ticks) this.#encode(this.date);
    return this.#bytes[offset] as number;
  }

  #writeTime(offset: number, value: number): void {
    if (!this.#ticks) {
      this.#bytes[offset] = value;
      return;
    }
    this.#encode(this.date);
    this.#bytes[offset] = value;
    this.#setDate(this.#decode());
    this.#update();
  }

  #setDate(date: number): void {
    const weekday = this.#fromByte(this.#bytes[rtcTable.rows.DAY_OF_WEEK.offset] as number) - 1;
    this.#weekdayShift = (((weekday - new Date(date * 1000).getUTCDay()) % 7) + 7) % 7;
    this.#seenSeconds = Math.floor(this.#elapsed / NS_PER_SECOND);
    this.#base = date - this.#seenSeconds;
  }

  // @clause rtc.format
  #encode(date: number): void {
    const at = new Date(date * 1000);
    const hours = at.getUTCHours();
    const bytes = this.#bytes;
    bytes[0] = this.#toByte(at.getUTCSeconds());
    bytes[2] = this.#toByte(at.getUTCMinutes());
    bytes[4] = this.#b & B.HOURS_24 ? this.#toByte(hours) : this.#toByte(hours % 12 || 12) | (hours >= 12 ? PM : 0);
    bytes[6] = this.#toByte(((at.getUTCDay() + this.#weekdayShift) % 7) + 1);
    bytes[7] = this.#toByte(at.getUTCDate());
    bytes[8] = this.#toByte(at.getUTCMonth() + 1);
    bytes[9] = this.#toByte(at.getUTCFullYear() % 100);
    bytes[CMOS.CENTURY] = this.#toByte(Math.floor(at.getUTCFullYear() / 100));
  }

  #decode(): number {
    const field = (offset: number) => this.#fromByte(this.#bytes[offset] as number);
    const at = new Date(0);
    at.setUTCFullYear(field(CMOS.CENTURY) * 100 + field(9), field(8) - 1, field(7));
    at.setUTCHours(this.#decodeHours(this.#bytes[4] as number), field(2), field(0));
    return at.getTime() / 1000;
  }

  #decodeHours(byte: number): number {
    if (this.#b & B.HOURS_24) return this.#fromByte(byte);
    return (this.#fromByte(byte & ~PM) % 12) + (byte & PM ? 12 : 0);
  }

  #toByte(value: number): number {
    return this.#b & B.BINARY ? value : ((value / 10) << 4) | (value % 10);
  }

  #fromByte(byte: number): number {
    return this.#b & B.BINARY ? byte : (byte >> 4) * 10 + (byte & 15);
  }

  #writeA(value: number): void {
    const ran = this.#ticks;
    const started = !this.#runs;
    this.#mark();
    if (ran) this.#encode(this.date);
    this.#a = value & ~A.UIP;
    if (started && this.#runs) this.#origin = this.#clock.now() - NS_PER_SECOND / 2; // the first update comes half a second after the chain is let go
    this.#seenPeriods = this.#periodsNow;
    if (!ran && this.#ticks) this.#setDate(this.#decode());
    this.#update();
  }

  #writeB(value: number): void {
    const ran = this.#ticks;
    this.#mark();
    if (ran) this.#encode(this.date);
    const date = ran ? this.date : null;
    this.#b = value & B.SET ? value & ~B.UIE : value;
    // A change of format does not change the time; the registers of a held clock are not converted.
    if (this.#ticks) {
      if (date === null) this.#setDate(this.#decode());
      else this.#encode(date);
    }
    this.#update();
  }

  // ## Three interrupts
  //
  // An update once a second, an alarm, and a period. Each sets its flag whether or not it is enabled; the line is their sum under the enables, and stays
  // up until register C has been read. A driver that forgets to read it gets one interrupt and never another.

  get #periodTicks(): number {
    const rate = this.#a & A.RATE;
    if (rate === 0 || !this.#runs) return 0;
    return 2 ** ((rate <= 2 ? rate + 7 : rate) - 1); // the two fastest settings are not to be had from this crystal, and repeat two slower ones
  }

  get #periodsNow(): number {
    const ticks = this.#periodTicks;
    return ticks === 0 ? 0 : Math.floor(ticksAt(this.#elapsed, CRYSTAL_HZ) / ticks);
  }

  /** Sets the flags of what has happened since the last time. */
  #mark(): void {
    const periods = this.#periodsNow;
    if (periods > this.#seenPeriods) this.#c |= C.PF;
    this.#seenPeriods = periods;
    if (!this.#ticks) return;
    const seconds = Math.floor(this.#elapsed / NS_PER_SECOND);
    if (seconds <= this.#seenSeconds) return;
    this.#c |= C.UF;
    const alarm = this.#nextAlarm(this.#base + this.#seenSeconds + 1);
    if (alarm !== null && alarm <= this.#base + seconds) this.#c |= C.AF;
    this.#seenSeconds = seconds;
  }

  /** The first second from `date` on that the alarm matches; null when it names no time of day. */
  #nextAlarm(date: number): number | null {
    const [second, minute, hour] = [1, 3, 5].map((offset) => this.#bytes[offset] as number) as [number, number, number];
    const matches = (byte: number, value: number, decoded: number) => (byte & ANY) === ANY || decoded === value;
    // The guest may have written a second that no minute has; looking for it through a whole day would take long, at each access.
    const exists = (byte: number, decoded: number, limit: number) => (byte & ANY) === ANY || (decoded >= 0 && decoded < limit);
    if (!exists(second, this.#fromByte(second), 60) || !exists(minute, this.#fromByte(minute), 60) || !exists(hour, this.#decodeHours(hour), 24))
      return null;
    let at = date;
    while (at <= date + SECONDS_PER_DAY) {
      const within = ((at % SECONDS_PER_DAY) + SECONDS_PER_DAY) % SECONDS_PER_DAY;
      const [h, m, s] = [Math.floor(within / 3600), Math.floor(within / 60) % 60, within % 60];
      if (!matches(hour, h, this.#decodeHours(hour))) at += 3600 - (within % 3600);
      else if (!matches(minute, m, this.#fromByte(minute))) at += 60 - s;
      else if (!matches(second, s, this.#fromByte(second))) at += 1;
      else return at;
    }
    return null;
  }

  // @clause rtc.flags
  #takeFlags(): number {
    this.#mark();
    const enabled = this.#c & this.#b & (C.PF | C.AF | C.UF);
    const flags = this.#c | (enabled ? C.IRQF : 0);
    this.#c = 0;
    this.#update();
    return flags;
  }

  // @clause rtc.periodic
  #update(): void {
    this.#mark();
    const level = (this.#c & this.#b & (C.PF | C.AF | C.UF)) !== 0;
    if (level !== this.#level) {
      this.#level = level;
      this.#irq.set(level);
    }
    // Only what could raise the line needs waking for; everything else is found out when somebody looks.
    const wanted = this.#b & ~this.#c;
    let next = Number.POSITIVE_INFINITY;
    if (wanted & B.PIE && this.#periodTicks > 0) next = nsAtTick((this.#seenPeriods + 1) * this.#periodTicks, CRYSTAL_HZ);
    if (this.#ticks) {
      if (wanted & B.UIE) next = Math.min(next, (this.#seenSeconds + 1) * NS_PER_SECOND);
      const alarm = wanted & B.AIE ? this.#nextAlarm(this.#base + this.#seenSeconds + 1) : null;
      if (alarm !== null) next = Math.min(next, (alarm - this.#base) * NS_PER_SECOND);
    }
    if (next < Number.POSITIVE_INFINITY) this.#timer.arm(this.#origin + next);
    else this.#timer.cancel();
  }

  // ## What the host leaves in the memory

  /** One byte of the memory, from outside. */
  peek(index: number): number {
    return this.#bytes[index & 0x7f] as number;
  }

  poke(index: number, value: number): void {
    this.#bytes[index & 0x7f] = value;
  }

  /** Sizes of memory below and above 4 GiB, in bytes, where firmware looks for them. */
  setMemory(below4G: number, above4G: number): void {
    const store = (index: number, value: number, bytes: number) => {
      const held = Math.min(Math.max(0, Math.floor(value)), 2 ** (8 * bytes) - 1);
      for (let n = 0; n < bytes; n++) this.poke(index + n, Math.floor(held / 2 ** (8 * n)) & 0xff);
    };
    store(CMOS.BASE_MEMORY, Math.min(below4G / 1024, 640), 2);
    store(CMOS.EXTENDED_MEMORY, (below4G - (1 << 20)) / 1024, 2);
    store(CMOS.EXTENDED_MEMORY_COPY, (below4G - (1 << 20)) / 1024, 2);
    store(CMOS.ABOVE_16M, (below4G - (16 << 20)) / 65_536, 2);
    store(CMOS.ABOVE_4G, above4G / 65_536, 3);
  }

  /** Up to three of {@link BOOT_DEVICE}, the first to be tried first. */
  setBootOrder(order: readonly number[]): void {
    const [first = 0, second = 0, third = 0] = order;
    this.poke(CMOS.BOOT_ORDER, (first & 15) | ((second & 15) << 4));
    this.poke(CMOS.BOOT_ORDER_THIRD, ((third & 15) << 4) | 1); // and no floppy disk needs a signature
  }

  /** How many processors the firmware shall wait for. */
  setProcessors(count: number): void {
    this.poke(CMOS.PROCESSORS, count - 1);
  }

  /** The reset line: interrupts are off, memory and time go on. */
  reset(): void {
    this.#mark();
    this.#b &= ~(B.PIE | B.AIE | B.UIE | B.SQWE);
    this.#c = 0;
    this.#port = 0;
    this.#update();
  }

  // ## State

  static readonly STATE = describe<Rtc>('rtc', 1, {
    bytes: array((rtc) => rtc.#bytes),
    registers: field(
      kind.record({ port: kind.u8, a: kind.u8, b: kind.u8, c: kind.u8, level: kind.flag }),
      (r) => ({ port: r.#port, a: r.#a, b: r.#b, c: r.#c, level: r.#level }),
      (r, v) => {
        ({ port: r.#port, a: r.#a, b: r.#b, c: r.#c, level: r.#level } = v);
      },
    ),
    origin: moment(
      (rtc) => rtc.#origin,
      (rtc, at) => {
        rtc.#origin = at;
      },
    ),
    time: field(
      kind.record({ base: kind.safe, weekdayShift: kind.upTo(6), seenSeconds: kind.safe, seenPeriods: kind.safe }),
      (r) => ({ base: r.#base, weekdayShift: r.#weekdayShift, seenSeconds: r.#seenSeconds, seenPeriods: r.#seenPeriods }),
      (r, v) => {
        ({ base: r.#base, weekdayShift: r.#weekdayShift, seenSeconds: r.#seenSeconds, seenPeriods: r.#seenPeriods } = v);
      },
    ),
    next: timer((rtc) => rtc.#timer),
  });
}
