// # The 8254 timer
//
// Three counters on one clock of {{PIT_HZ}} Hz, a third of the colour subcarrier of American television, because that crystal was cheap. Counter 0 is the
// PC's timer interrupt, counter 1 once refreshed the memory, counter 2 makes the sound of the speaker and, because its gate and its output can be
// reached through port 0x61, is what kernels measure other clocks against.
//
// Nothing counts. A counter is the tick at which it was loaded, and everything that a guest can see of it (the count, the output) is computed from
// the time that has passed.

import { KvmPitChannelState, KvmPitState2, PIT_FLAGS } from '../../02-kvm-objects/abi/irqchip.ts';
import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind, parts, timer } from '../../03-vcpu-loop/devices/state.ts';
import { RegisterFile, registerTable } from '../registers.ts';
import { MIN_PERIOD_NS } from './apic-timer.ts';

export const PIT_REGISTERS = registerTable('8254', 'Intel 8254 data sheet, "Programming the 8254"', {
  COUNTER: { offset: 0, bytes: 1, access: 'rw', count: 3, text: 'a count, one byte at a time; or what was latched' },
  CONTROL: { offset: 3, bytes: 1, access: 'wo', text: 'control word, counter latch or read-back command' },
});

export const SPEAKER_REGISTERS = registerTable('speaker', 'Intel 82801 (ICH9) data sheet, "NMI Status and Control Register"', {
  NMI_SC: { offset: 0, bytes: 1, access: 'rw', text: 'gate of counter 2, speaker, refresh toggle, output of counter 2' },
});

export const PIT_PORT = 0x40;
export const SPEAKER_PORT = 0x61;
export const PIT_HZ = 1_193_182;

const NS = 1_000_000_000;
const NMI_SC = { GATE2: 0x01, SPEAKER: 0x02, REFRESH: 0x10, OUT2: 0x20 } as const;
/** The refresh request toggled about every 15 µs; KVM takes a bit of the nanoseconds. */
const REFRESH_SHIFT_NS = 2 ** 14;
/** How software reads and writes a counter. */
const RW = { LATCH: 0, LOW: 1, HIGH: 2, BOTH: 3, BOTH_SECOND: 4 } as const;
const READ_BACK = { NO_COUNT: 0x20, NO_STATUS: 0x10 } as const;
const STATUS = { OUT: 0x80, NULL_COUNT: 0x40 } as const;

// Whole seconds apart, so that the product stays exact.
/** Ticks in so many nanoseconds, rounded down. */
const ticksIn = (ns: number): number => Math.floor(ns / NS) * PIT_HZ + Math.floor(((ns % NS) * PIT_HZ) / NS);
/** The first nanosecond at which so many ticks have passed. */
const nsOf = (ticks: number): number => Math.floor(ticks / PIT_HZ) * NS + Math.ceil(((ticks % PIT_HZ) * NS) / PIT_HZ);

const fromBcd = (raw: number): number => [0, 4, 8, 12].reduce((sum, shift, digit) => sum + ((raw >> shift) & 15) * 10 ** digit, 0);
const toBcd = (value: number): number => [0, 1, 2, 3].reduce((raw, digit) => raw | ((Math.floor(value / 10 ** digit) % 10) << (4 * digit)), 0);

class Counter {
  mode = 0;
  bcd = 0;
  rwMode: number = RW.BOTH;
  /** As written; 0 as 65536. 0: a control word was written and no count since. */
  count = 0;
  gate: boolean;
  /** The tick at which it was loaded, or last triggered; null while modes 1 and 5 wait for a trigger. */
  loadedAt: number | null = null;
  #heldTicks: number | null = null; // what had passed when the gate stopped it
  #latched = 0;
  #countLatched: number = RW.LATCH;
  #status: number | null = null;
  #readState: number = RW.BOTH;
  #writeState: number = RW.BOTH;
  #writeLatch = 0;
  readonly #now: () => number;

  constructor(now: () => number, gate: boolean) {
    this.#now = now;
    this.gate = gate;
  }

  // @clause pit.decimal
  /** The count as a number of ticks. */
  get ticks(): number {
    const full = this.bcd ? 10_000 : 0x1_0000;
    return this.count === 0x1_0000 ? full : this.bcd ? fromBcd(this.count) : this.count;
  }

  get elapsed(): number {
    if (this.#heldTicks !== null) return this.#heldTicks;
    return this.loadedAt === null ? 0 : Math.max(0, this.#now() - this.loadedAt);
  }

  // ## Modes
  //
  // | mode | counting begins | the output |
  // | --- | --- | --- |
  // | 0 | when a count is written | low until the count has passed, then high |
  // | 1 | at a rising gate | low for the count |
  // | 2 | when a count is written | low for the last tick of each round |
  // | 3 | when a count is written | high for the first half of each round |
  // | 4 | when a count is written | low for the one tick after the count |
  // | 5 | at a rising gate | low for the one tick after the count |

  // @clause pit.mode2
  get out(): boolean {
    const { elapsed, mode } = this;
    const n = this.ticks;
    const running = this.count !== 0 && this.loadedAt !== null;
    switch (mode) {
      case 0:
        return running && elapsed >= n;
      case 1:
        return !running || elapsed >= n;
      case 2:
        return !running || !this.gate || elapsed % n !== n - 1;
      case 3:
        return !running || !this.gate || elapsed % n < (n + 1) >> 1;
      default:
        return !running || elapsed !== n;
    }
  }

  // The one-shot modes do not stop at zero: they wrap and go on. Mode 3 counts by twos, twice a round, so a single look at its count does not tell
  // which half it is in; that is what the status byte is for.

  // @clause pit.count
  get value(): number {
    const { elapsed, mode } = this;
    const n = this.ticks;
    const modulus = this.bcd ? 10_000 : 0x1_0000;
    if (this.count === 0) return 0;
    let left: number;
    if (mode === 2) {
      left = n - (elapsed % n);
    } else if (mode === 3) {
      const high = (n + 1) >> 1;
      const into = elapsed % n;
      left = (n & ~1) - 2 * (into < high ? into : into - high);
    } else {
      left = (((n - elapsed) % modulus) + modulus) % modulus;
    }
    left %= modulus;
    return this.bcd ? toBcd(left) : left;
  }

  // ## The gate

  // @clause pit.channel2
  setGate(gate: boolean): void {
    if (gate === this.gate) return;
    const { mode } = this;
    if (mode === 0 || mode === 4) {
      // Only stops the counting, and lets it go on.
      if (!gate) this.#heldTicks = this.elapsed;
      else if (this.#heldTicks !== null) {
        this.loadedAt = this.#now() - this.#heldTicks;
        this.#heldTicks = null;
      }
    } else if (gate) {
      this.loadedAt = this.#now(); // a rising gate begins a round
    }
    this.gate = gate;
  }

  // ## Programming

  control(word: number): void {
    this.rwMode = this.#readState = this.#writeState = (word >> 4) & 3;
    const mode = (word >> 1) & 7;
    this.mode = mode > 5 ? mode - 4 : mode; // the top bit of modes 2 and 3 is not looked at
    this.bcd = word & 1;
    this.count = 0;
    this.loadedAt = null;
    this.#heldTicks = null;
    this.#countLatched = RW.LATCH;
    this.#status = null;
  }

  // @clause pit.access
  /** A byte of a count. Whether the count is complete. */
  write(byte: number): boolean {
    switch (this.#writeState) {
      case RW.HIGH:
        this.load(byte << 8);
        return true;
      case RW.BOTH:
        this.#writeLatch = byte;
        this.#writeState = RW.BOTH_SECOND;
        return false;
      case RW.BOTH_SECOND:
        this.#writeState = RW.BOTH;
        this.load(this.#writeLatch | (byte << 8));
        return true;
      default:
        this.load(byte);
        return true;
    }
  }

  /** The chip finishes the round that it is in before it takes a new count; KVM and QEMU begin anew at once, and so does this. */
  load(raw: number): void {
    this.count = raw === 0 ? 0x1_0000 : raw;
    const triggered = this.mode === 1 || this.mode === 5;
    if (triggered) return; // waits for its gate; a round that is going on is not disturbed
    this.loadedAt = this.#now();
    this.#heldTicks = this.gate || this.mode === 2 || this.mode === 3 ? null : 0;
  }

  // ## Reading
  //
  // Two reads of a running counter would give halves of two different counts. A latched count is kept until it has been read, and a second latch in
  // between is ignored.

  // @clause pit.latch
  latchCount(): void {
    if (this.#countLatched !== RW.LATCH) return;
    this.#latched = this.value;
    this.#countLatched = this.rwMode;
  }

  // @clause pit.read-back
  latchStatus(): void {
    this.#status ??= (this.out ? STATUS.OUT : 0) | (this.count === 0 ? STATUS.NULL_COUNT : 0) | (this.rwMode << 4) | (this.mode << 1) | this.bcd;
  }

  read(): number {
    if (this.#status !== null) {
      const status = this.#status;
      this.#status = null;
      return status;
    }
    if (this.#countLatched !== RW.LATCH) {
      const high = this.#countLatched === RW.HIGH;
      this.#countLatched = this.#countLatched === RW.BOTH ? RW.HIGH : RW.LATCH;
      return high ? this.#latched >> 8 : this.#latched & 0xff;
    }
    const high = this.#readState === RW.HIGH || this.#readState === RW.BOTH_SECOND;
    if (this.#readState === RW.BOTH) this.#readState = RW.BOTH_SECOND;
    else if (this.#readState === RW.BOTH_SECOND) this.#readState = RW.BOTH;
    return high ? this.value >> 8 : this.value & 0xff;
  }

  // ## State

  save(): Uint8Array {
    return KvmPitChannelState.encode({
      count: this.count,
      latched_count: this.#latched,
      count_latched: this.#countLatched,
      status_latched: this.#status === null ? 0 : 1,
      status: this.#status ?? 0,
      read_state: this.#readState,
      write_state: this.#writeState,
      write_latch: this.#writeLatch,
      rw_mode: this.rwMode,
      mode: this.mode,
      bcd: this.bcd,
      gate: this.gate ? 1 : 0,
      count_load_time: BigInt(nsOf(Math.max(0, this.loadedAt ?? 0))),
    });
  }

  // KVM does not continue a count that it is given: it begins it again.
  restore(bytes: Uint8Array): void {
    const given = KvmPitChannelState.decode(bytes);
    const running = given.mode <= 5; // KVM's own reset state has mode 255
    this.mode = running ? given.mode : 0;
    this.bcd = given.bcd & 1;
    this.rwMode = given.rw_mode & 3 || RW.BOTH;
    this.gate = given.gate !== 0;
    this.#latched = given.latched_count;
    this.#countLatched = given.count_latched & 3;
    this.#status = given.status_latched ? given.status : null;
    this.#readState = given.read_state <= RW.BOTH_SECOND ? given.read_state : RW.BOTH;
    this.#writeState = given.write_state <= RW.BOTH_SECOND ? given.write_state : RW.BOTH;
    this.#writeLatch = given.write_latch;
    this.loadedAt = null;
    this.#heldTicks = null;
    this.count = 0;
    if (running && given.count > 0) this.load(given.count & 0xffff);
    if (running && given.count > 0) this.loadedAt ??= this.#now();
  }

  static readonly STATE = describe<Counter>('8254 counter', 1, {
    setting: field(
      kind.record({ mode: kind.upTo(5), bcd: kind.upTo(1), rwMode: kind.upTo(3), count: kind.upTo(0x1_0000), gate: kind.flag }),
      ({ mode, bcd, rwMode, count, gate }) => ({ mode, bcd, rwMode, count, gate }),
      (counter, setting) => void Object.assign(counter, setting),
    ),
    progress: field(
      kind.record({ loadedAt: kind.maybe(kind.safe), heldTicks: kind.maybe(kind.safe) }),
      (c) => ({ loadedAt: c.loadedAt, heldTicks: c.#heldTicks }),
      (c, v) => {
        ({ loadedAt: c.loadedAt, heldTicks: c.#heldTicks } = v);
      },
    ),
    access: field(
      kind.record({
        latched: kind.u32,
        countLatched: kind.upTo(RW.BOTH_SECOND),
        status: kind.maybe(kind.u8),
        readState: kind.upTo(RW.BOTH_SECOND),
        writeState: kind.upTo(RW.BOTH_SECOND),
        writeLatch: kind.u8,
      }),
      (c) => ({
        latched: c.#latched,
        countLatched: c.#countLatched,
        status: c.#status,
        readState: c.#readState,
        writeState: c.#writeState,
        writeLatch: c.#writeLatch,
      }),
      (c, v) => {
        ({ latched: c.#latched, countLatched: c.#countLatched, status: c.#status } = v);
        ({ readState: c.#readState, writeState: c.#writeState, writeLatch: c.#writeLatch } = v);
      },
    ),
  });
}

interface PitOptions {
  readonly clock: Clock;
  /** Counter 0's output as IRQ 0 sees it: a pulse (true, then false) for each rising edge. */
  readonly onOutput: (level: boolean) => void;
  /** Missed ticks are made up for, one for each acknowledgement, as KVM does by default; otherwise they are gone. */
  readonly reinject?: boolean;
  readonly minPeriodNs?: number;
}

export class Pit {
  readonly #clock: Clock;
  readonly #onOutput: (level: boolean) => void;
  readonly #minTicks: number;
  readonly #counters: readonly [Counter, Counter, Counter];
  readonly #timer: Timer;
  #ticked = 0; // rounds of counter 0 that have been told
  #speaker = false;
  #hpetLegacy = false;
  #reinject: boolean;
  #owed = 0;
  #acknowledged = true;

  /** Ports 0x40–0x43. */
  readonly registers: Registers;
  /** Port 0x61. */
  readonly speakerRegisters: Registers;

  constructor({ clock, onOutput, reinject = true, minPeriodNs = MIN_PERIOD_NS }: PitOptions) {
    this.#clock = clock;
    this.#onOutput = onOutput;
    this.#reinject = reinject;
    this.#minTicks = ticksIn(minPeriodNs);
    const now = (): number => ticksIn(clock.now());
    this.#counters = [new Counter(now, true), new Counter(now, true), new Counter(now, false)];
    this.#timer = clock.timer(() => this.#fire());
    this.registers = new RegisterFile(PIT_REGISTERS, {
      COUNTER: {
        read: (index) => (this.#counters[index] as Counter).read(),
        write: (value, index) => {
          if ((this.#counters[index] as Counter).write(value) && index === 0) this.#arm();
        },
      },
      CONTROL: { write: (value) => this.#control(value) },
    });
    this.speakerRegisters = new RegisterFile(SPEAKER_REGISTERS, {
      NMI_SC: { read: () => this.#readSpeaker(), write: (value) => this.#writeSpeaker(value) },
    });
  }

  #control(value: number): void {
    const select = value >> 6;
    if (select === 3) {
      for (const [index, counter] of this.#counters.entries()) {
        if ((value & (2 << index)) === 0) continue;
        if ((value & READ_BACK.NO_COUNT) === 0) counter.latchCount();
        if ((value & READ_BACK.NO_STATUS) === 0) counter.latchStatus();
      }
      return;
    }
    const counter = this.#counters[select] as Counter;
    if (((value >> 4) & 3) === RW.LATCH) counter.latchCount();
    else {
      counter.control(value);
      if (select === 0) this.#timer.cancel();
    }
  }

  // ## Counter 0 and IRQ 0
  //
  // Of its output only the rising edges matter. They are computed from the moment of loading, not from one another, so that rounding does not add up.

  // @clause kvm.pit.interrupt
  #arm(): void {
    this.#timer.cancel();
    this.#ticked = 0;
    this.#resetReinjection();
    const [counter] = this.#counters;
    if (this.#hpetLegacy || counter.loadedAt === null || counter.mode === 1 || counter.mode === 5) return; // its gate never rises
    this.#timer.arm(nsOf(counter.loadedAt + this.#firstEdge));
  }

  get #periodic(): boolean {
    const { mode } = this.#counters[0];
    return mode === 2 || mode === 3;
  }

  /** KVM's limit of a period applies here as to the local APIC's timer. */
  get #period(): number {
    return Math.max(this.#counters[0].ticks, this.#minTicks);
  }

  get #firstEdge(): number {
    const [counter] = this.#counters;
    if (this.#periodic) return this.#period;
    return counter.mode === 4 ? counter.ticks + 1 : counter.ticks;
  }

  // @clause pit.mode0
  #fire(): void {
    let rounds = 1;
    if (this.#periodic) {
      const passed = Math.max(this.#ticked + 1, Math.floor(this.#counters[0].elapsed / this.#period));
      rounds = passed - this.#ticked;
      this.#ticked = passed;
      this.#timer.arm(nsOf((this.#counters[0].loadedAt as number) + (passed + 1) * this.#period));
    }
    if (this.#reinject) this.#owed += rounds;
    this.#pulse();
  }

  #pulse(): void {
    if (this.#reinject && !this.#acknowledged) return;
    this.#acknowledged = false;
    this.#onOutput(true);
    this.#onOutput(false);
  }

  // A guest that counts ticks to know the time must get every one of them, even those for which it was too late. KVM keeps the number that it owes, and
  // pays one whenever the guest has acknowledged the one before. Unmasking IRQ 0, or a new count, cancels the debt.

  // @clause pit.reinject
  /** IRQ 0 has been ended in a controller. */
  acknowledge(): void {
    this.#acknowledged = true;
    if (this.#owed > 0 && --this.#owed > 0) this.#pulse();
  }

  /** IRQ 0 has been unmasked. */
  unmasked(): void {
    this.#resetReinjection();
  }

  #resetReinjection(): void {
    this.#owed = 0;
    this.#acknowledged = true;
  }

  /** KVM_REINJECT_CONTROL. */
  set reinject(on: boolean) {
    if (on === this.#reinject) return;
    this.#reinject = on;
    this.#resetReinjection();
  }
  get reinject(): boolean {
    return this.#reinject;
  }

  // ## Port 0x61

  // @clause pit.channel2
  #readSpeaker(): number {
    const counter = this.#counters[2];
    const refresh = Math.floor(this.#clock.now() / REFRESH_SHIFT_NS) & 1;
    return (
      (counter.gate ? NMI_SC.GATE2 : 0) | (this.#speaker ? NMI_SC.SPEAKER : 0) | (refresh ? NMI_SC.REFRESH : 0) | (counter.out ? NMI_SC.OUT2 : 0)
    );
  }

  #writeSpeaker(value: number): void {
    this.#speaker = (value & NMI_SC.SPEAKER) !== 0;
    this.#counters[2].setGate((value & NMI_SC.GATE2) !== 0);
  }

  // ## State

  /** `struct kvm_pit_state2`. */
  save(): Uint8Array {
    const flags = (this.#speaker ? PIT_FLAGS.KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0) | (this.#hpetLegacy ? PIT_FLAGS.KVM_PIT_FLAGS_HPET_LEGACY : 0);
    const state = KvmPitState2.encode({ flags });
    for (const [index, counter] of this.#counters.entries()) state.set(counter.save(), KvmPitState2.fields.channels.at(index));
    return state;
  }

  load(bytes: Uint8Array): void {
    const { flags } = KvmPitState2.decode(bytes);
    this.#speaker = (flags & PIT_FLAGS.KVM_PIT_FLAGS_SPEAKER_DATA_ON) !== 0;
    this.#hpetLegacy = (flags & PIT_FLAGS.KVM_PIT_FLAGS_HPET_LEGACY) !== 0;
    for (const [index, counter] of this.#counters.entries()) {
      const at = KvmPitState2.fields.channels.at(index);
      counter.restore(bytes.subarray(at, at + KvmPitChannelState.bytes));
    }
    this.#arm();
  }

  /** Power-up: no counter has a count. */
  reset(): void {
    this.load(KvmPitState2.encode());
    this.#counters[0].gate = true;
    this.#counters[1].gate = true;
  }

  // In user space it is saved whole, and goes on in the middle of a round. (Its counters count from the beginning of the machine's clock, and a machine is
  // restored with the clock that it was saved with.)

  static readonly STATE = describe<Pit>('8254', 1, {
    counters: parts((pit) => pit.#counters, Counter.STATE),
    output: field(
      kind.record({
        ticked: kind.safe,
        owed: kind.safe,
        acknowledged: kind.flag,
        reinject: kind.flag,
        speaker: kind.flag,
        hpetLegacy: kind.flag,
      }),
      (p) => ({
        ticked: p.#ticked,
        owed: p.#owed,
        acknowledged: p.#acknowledged,
        reinject: p.#reinject,
        speaker: p.#speaker,
        hpetLegacy: p.#hpetLegacy,
      }),
      (p, v) => {
        ({ ticked: p.#ticked, owed: p.#owed, acknowledged: p.#acknowledged } = v);
        ({ reinject: p.#reinject, speaker: p.#speaker, hpetLegacy: p.#hpetLegacy } = v);
      },
    ),
    tick: timer((pit) => pit.#timer),
  });
}
