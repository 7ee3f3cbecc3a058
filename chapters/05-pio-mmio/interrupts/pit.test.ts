import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KvmPitState2 } from '../../02-kvm-objects/abi/irqchip.ts';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { PIT_HZ, Pit } from './pit.ts';

/** The first nanosecond at which so many ticks have passed, in exact arithmetic. */
const nsOf = (ticks: number): number => Number((BigInt(ticks) * 1_000_000_000n + BigInt(PIT_HZ) - 1n) / BigInt(PIT_HZ));

const CONTROL = 3;
const LATCH = 0x00;
/** A control word that writes both bytes. */
const both = (counter: number, mode: number, bcd = 0): number => (counter << 6) | 0x30 | (mode << 1) | bcd;
const STATUS = 0xe0; // read back, status only
const COUNT = 0xd0; // read back, count only

function bench(options: Partial<ConstructorParameters<typeof Pit>[0]> = {}) {
  const origin = 5 * PIT_HZ + 77;
  let now = nsOf(origin);
  let pulses = 0;
  let level = false;
  const clock = new TimerQueue(() => now);
  const pit = new Pit({
    clock,
    onOutput: (up) => {
      if (up && !level) pulses++;
      level = up;
    },
    reinject: false,
    minPeriodNs: 0,
    ...options,
  });
  const out = (port: number, ...values: number[]): void => {
    for (const value of values) pit.registers.write(port, 1, BigInt(value));
  };
  const read = (port: number): number => Number(pit.registers.read(port, 1));
  const load = (counter: number, mode: number, count: number, bcd = 0): void => {
    out(CONTROL, both(counter, mode, bcd));
    out(counter, count & 0xff, count >> 8);
  };
  return {
    pit,
    clock,
    out,
    read,
    load,
    /** Moves to `ticks` after the beginning, looking at every timer on the way. How many pulses that gave. */
    to: (ticks: number): number => {
      const end = nsOf(origin + ticks);
      const before = pulses;
      while (clock.next !== null && clock.next <= end) {
        now = Math.max(now, clock.next);
        clock.runDue();
      }
      now = end;
      return pulses - before;
    },
    /** Moves without looking, and then looks once. */
    jump: (ticks: number): number => {
      now = nsOf(origin + ticks);
      const before = pulses;
      clock.runDue();
      return pulses - before;
    },
    value: (counter: number): number => {
      out(CONTROL, (counter << 6) | LATCH);
      return read(counter) | (read(counter) << 8);
    },
    status: (counter: number): number => {
      out(CONTROL, STATUS | (2 << counter));
      return read(counter);
    },
    out2: (): number => (Number(pit.speakerRegisters.read(0, 1)) >> 5) & 1,
    gate2: (on: number): void => pit.speakerRegisters.write(0, 1, BigInt(on)),
  };
}

describe('the clock of the 8254', () => {
  it('is exact, over any length of time', () => {
    expect(PIT_HZ).toBe(1_193_182);
    for (const ticks of [1, 2, 3, 1000, 65_535, 65_536, PIT_HZ + 1, 100 * PIT_HZ * 3600 + 17]) {
      let now = 0;
      const pit = new Pit({ clock: new TimerQueue(() => now), onOutput: () => {} });
      for (const [port, value] of [
        [CONTROL, both(1, 2)],
        [1, 0],
        [1, 0],
      ] as const)
        pit.registers.write(port, 1, BigInt(value));
      const count = (): number => {
        pit.registers.write(CONTROL, 1, 0x40n);
        return Number(pit.registers.read(1, 1) | (pit.registers.read(1, 1) << 8n));
      };
      for (const [at, passed] of [
        [nsOf(ticks), ticks],
        [nsOf(ticks) - 1, ticks - 1],
      ] as const) {
        now = at;
        expect([at, count()]).toEqual([at, -passed & 0xffff]);
      }
    }
  });
});

describe('counters of the 8254', () => {
  // mode, count, gate as it stands, then [ticks passed, value, output]: 8254 data sheet, "Mode Definitions"
  // biome-ignore format: table
  const MODES: [mode: number, count: number, states: [ticks: number, value: number, out: number][]][] = [
    [0, 4, [[0, 4, 0], [3, 1, 0], [4, 0, 1], [5, 0xffff, 1], [4 + 0x10000, 0, 1]]],
    [0, 0, [[0, 0, 0], [1, 0xffff, 0], [0xffff, 1, 0], [0x10000, 0, 1]]],
    [2, 4, [[0, 4, 1], [1, 3, 1], [3, 1, 0], [4, 4, 1], [7, 1, 0], [400_003, 1, 0]]],
    [3, 4, [[0, 4, 1], [1, 2, 1], [2, 4, 0], [3, 2, 0], [4, 4, 1]]],
    [3, 5, [[0, 4, 1], [1, 2, 1], [2, 0, 1], [3, 4, 0], [4, 2, 0], [5, 4, 1]]],
    [3, 0, [[0, 0, 1], [1, 0xfffe, 1], [0x7fff, 2, 1], [0x8000, 0, 0], [0xffff, 2, 0]]],
    [4, 4, [[0, 4, 1], [3, 1, 1], [4, 0, 0], [5, 0xffff, 1]]],
    [6, 4, [[3, 1, 0]]], // 2 by another name
    [7, 4, [[2, 4, 0]]], // and 3
  ];
  it.each(MODES)('mode %i, count %i', (mode, count, states) => {
    const { load, to, value, out2, gate2, status } = bench();
    gate2(1);
    load(2, mode, count);
    for (const [ticks, expected, out] of states) {
      to(ticks);
      expect([ticks, value(2), out2(), status(2) >> 7]).toEqual([ticks, expected, out, out]);
    }
  });

  it('wait for their gate in modes 1 and 5', () => {
    for (const [mode, states] of [
      [
        1,
        [
          [0, 4, 0],
          [3, 1, 0],
          [4, 0, 1],
          [5, 0xffff, 1],
        ],
      ],
      [
        5,
        [
          [0, 4, 1],
          [3, 1, 1],
          [4, 0, 0],
          [5, 0xffff, 1],
        ],
      ],
    ] as const) {
      const { load, to, value, out2, gate2 } = bench();
      gate2(1);
      load(2, mode, 4);
      to(10);
      expect(out2()).toBe(1);
      gate2(0);
      gate2(1);
      for (const [ticks, expected, out] of states) {
        to(10 + ticks);
        expect([mode, ticks, value(2), out2()]).toEqual([mode, ticks, expected, out]);
      }
      to(11);
    }
  });

  it('are triggered again in mode 1 while they count', () => {
    const { load, to, out2, gate2 } = bench();
    load(2, 1, 100);
    gate2(1);
    to(60);
    gate2(0);
    gate2(1);
    to(159);
    expect(out2()).toBe(0);
    to(160);
    expect(out2()).toBe(1);
  });

  it('stop while the gate is low in modes 0 and 4', () => {
    const { load, to, value, out2, gate2 } = bench();
    gate2(1);
    load(2, 0, 100);
    to(40);
    gate2(0);
    to(1000);
    expect([value(2), out2()]).toEqual([60, 0]);
    gate2(1);
    to(1059);
    expect([value(2), out2()]).toEqual([1, 0]);
    to(1060);
    expect([value(2), out2()]).toEqual([0, 1]);
  });

  it('loaded with the gate low, begin when it rises', () => {
    const { load, to, value, gate2 } = bench();
    load(2, 0, 100);
    to(50);
    expect(value(2)).toBe(100);
    gate2(1);
    to(70);
    expect(value(2)).toBe(80);
  });

  it('start a new round at a rising gate in modes 2 and 3, and are high while it is low', () => {
    for (const mode of [2, 3]) {
      const { load, to, value, out2, gate2 } = bench();
      gate2(1);
      load(2, mode, 100);
      to(99);
      expect(out2()).toBe(0);
      gate2(0);
      expect(out2()).toBe(1);
      to(150);
      gate2(1);
      expect(value(2)).toBe(100);
    }
  });

  it('count in decimal', () => {
    const { load, to, value, gate2, out2 } = bench();
    gate2(1);
    load(2, 0, 0x1000, 1);
    to(1);
    expect(value(2)).toBe(0x0999);
    to(999);
    expect([value(2), out2()]).toEqual([0x0001, 0]);
    to(1001);
    expect([value(2), out2()]).toEqual([0x9999, 1]);
    load(2, 2, 0, 1);
    to(1002);
    expect(value(2)).toBe(0x9999);
    expect(out2()).toBe(1);
  });

  it('are written and read by the bytes that the control word names', () => {
    const { out, read } = bench();
    out(CONTROL, 0x10 | (2 << 1)); // low byte only
    out(0, 0x34);
    expect([read(0), read(0)]).toEqual([0x34, 0x34]);
    out(CONTROL, 0x20 | (2 << 1)); // high byte only
    out(0, 0x12);
    expect([read(0), read(0)]).toEqual([0x12, 0x12]);
    out(CONTROL, both(0, 2));
    out(0, 0x34, 0x12);
    expect([read(0), read(0), read(0)]).toEqual([0x34, 0x12, 0x34]);
    out(CONTROL, both(0, 2)); // begins with the low byte again
    out(0, 0x78, 0x56);
    expect([read(0), read(0)]).toEqual([0x78, 0x56]);
  });

  it('keep a latched count until it is read, and latch once', () => {
    const { load, out, read, to } = bench();
    load(0, 2, 1000);
    to(10);
    out(CONTROL, LATCH);
    to(20);
    out(CONTROL, LATCH);
    expect(read(0) | (read(0) << 8)).toBe(990);
    expect(read(0) | (read(0) << 8)).toBe(980);
  });

  it('answer a read-back: status first, then the count', () => {
    const { load, out, read, to } = bench();
    load(0, 3, 1000);
    load(2, 0, 500);
    to(100);
    out(CONTROL, 0xc0 | 2 | 8);
    to(200);
    expect([read(0), read(0) | (read(0) << 8)]).toEqual([0xb6, 800]);
    expect([read(2), read(2) | (read(2) << 8)]).toEqual([0x30, 500]); // gate low
    out(CONTROL, COUNT | 2);
    expect(read(0) | (read(0) << 8)).toBe(600);
  });

  it('say that they have no count yet, and are then at rest', () => {
    const { out, status } = bench();
    for (const [mode, high] of [0x00, 0x80, 0x80, 0x80, 0x80, 0x80].entries()) {
      out(CONTROL, both(0, mode));
      expect(status(0)).toBe(high | 0x40 | 0x30 | (mode << 1));
      out(0, 1);
      expect(status(0) & 0x40).toBe(0x40); // half a count is none
      out(0, 1);
      expect(status(0) & 0x40).toBe(0);
    }
  });

  it('forget latches at a control word', () => {
    const { load, out, read } = bench();
    load(0, 2, 1000);
    out(CONTROL, 0xc0 | 2);
    load(0, 2, 0x2211);
    expect(read(0)).toBe(0x11);
  });

  it('cannot be read at the control port', () => {
    expect(bench().read(CONTROL)).toBe(0);
  });
});

describe('IRQ 0', () => {
  it('rises once at the end of mode 0', () => {
    const { load, to } = bench();
    load(0, 0, 1000);
    expect([to(999), to(1000), to(200_000)]).toEqual([0, 1, 0]);
  });

  it.each([2, 3])('rises once a round in mode %i, without drift', (mode) => {
    const { load, to } = bench();
    load(0, mode, 1193);
    expect(to(1192)).toBe(0);
    expect(to(1193)).toBe(1);
    expect(to(1193 * 1000 - 1)).toBe(998);
    expect(to(1193 * 1000)).toBe(1);
  });

  it('rises after the strobe of mode 4, and never in modes 1 and 5, whose gate is tied high', () => {
    for (const [mode, pulses] of [
      [4, 1],
      [1, 0],
      [5, 0],
    ] as const) {
      const { load, to } = bench();
      load(0, mode, 100);
      expect([mode, to(100), to(101) + to(200_000)]).toEqual([mode, 0, pulses]);
    }
  });

  it('stops at a control word, and when a count is written it begins anew', () => {
    const { load, to, out } = bench();
    load(0, 2, 1000);
    to(500);
    out(0, 0xe8, 0x03);
    expect([to(1499), to(1500)]).toEqual([0, 1]);
    out(CONTROL, both(0, 2));
    expect(to(10_000)).toBe(0);
  });

  it('does not come from counters 1 and 2', () => {
    const { load, to, gate2 } = bench();
    gate2(1);
    load(1, 2, 18);
    load(2, 2, 18);
    expect(to(10_000)).toBe(0);
  });

  it('has a shortest period, as in KVM', () => {
    const { load, to, value } = bench({ minPeriodNs: 200_000 });
    load(0, 2, 2);
    expect(to(PIT_HZ)).toBe(Math.floor(PIT_HZ / 238));
    expect(value(0)).toBeLessThanOrEqual(2);
  });

  it('is lost when nobody was there, without reinjection', () => {
    const { load, jump, to } = bench();
    load(0, 2, 1000);
    expect(jump(1_000_000_500)).toBe(1);
    expect([to(1_000_000_999), to(1_000_001_000)]).toEqual([0, 1]);
  });

  it('is made up for one by one with it, each after an acknowledgement', () => {
    const { pit, load, jump, to } = bench({ reinject: true });
    let all = 0;
    load(0, 2, 1000);
    all += jump(5500); // five are due
    expect(all).toBe(1);
    expect(to(5900)).toBe(0);
    for (let round = 0; round < 10; round++) pit.acknowledge();
    expect(to(5901)).toBe(0);
    expect(to(6000)).toBe(1);
  });

  it('pays exactly what it owes', () => {
    const paid = [1, 2, 5].map((rounds) => {
      let pulses = 0;
      const { pit, load, jump } = bench({ reinject: true, onOutput: (level) => (pulses += level ? 1 : 0) });
      load(0, 2, 1000);
      jump(rounds * 1000);
      for (let ack = 0; ack < 20; ack++) pit.acknowledge();
      return pulses;
    });
    expect(paid).toEqual([1, 2, 5]);
  });

  it('owes nothing after an unmasking or a new count', () => {
    for (const forget of ['unmask', 'count'] as const) {
      let pulses = 0;
      const { pit, load, jump } = bench({ reinject: true, onOutput: (level) => (pulses += level ? 1 : 0) });
      load(0, 2, 1000);
      jump(5000);
      if (forget === 'unmask') pit.unmasked();
      else load(0, 2, 1000);
      for (let ack = 0; ack < 5; ack++) pit.acknowledge();
      expect([forget, pulses]).toEqual([forget, 1]);
    }
  });
});

describe('port 0x61', () => {
  it('holds two bits and shows two', () => {
    const { pit, load, to, gate2 } = bench();
    const read = (): number => Number(pit.speakerRegisters.read(0, 1)) & ~0x10;
    gate2(0xff);
    expect(read()).toBe(0x03);
    load(2, 0, 100);
    expect(read()).toBe(0x03);
    to(100);
    expect(read()).toBe(0x23);
    gate2(0);
    expect(read()).toBe(0x20);
  });

  it('toggles bit 4 about every 15 microseconds', () => {
    const { pit, to } = bench();
    let changes = 0;
    let last = -1;
    for (let ticks = 0; ticks < PIT_HZ / 100; ticks += 5) {
      to(ticks);
      const bit = (Number(pit.speakerRegisters.read(0, 1)) >> 4) & 1;
      if (bit !== last) changes++;
      last = bit;
    }
    expect(Math.abs(changes - 10_000_000 / 16_384)).toBeLessThan(2);
  });
});

describe('the state of the 8254', () => {
  it('is struct kvm_pit_state2, and begins its rounds again when it is loaded', () => {
    const { pit, load, out, to, gate2 } = bench();
    gate2(3);
    load(0, 2, 0x1234);
    load(2, 0, 0);
    to(100);
    out(CONTROL, 0xc0 | 2);
    out(2, 0x55);
    const state = pit.save();
    const channel = (index: number): Record<string, unknown> =>
      KvmPitState2.fields.channels.of.load(new DataView(state.buffer), KvmPitState2.fields.channels.at(index));
    expect(KvmPitState2.decode(state).flags).toBe(2);
    expect(channel(0)).toMatchObject({
      count: 0x1234,
      mode: 2,
      rw_mode: 3,
      gate: 1,
      latched_count: 0x1234 - 100,
      count_latched: 3,
      status_latched: 1,
      status: 0xb4,
    });
    expect(channel(2)).toMatchObject({ count: 0x10000, mode: 0, gate: 1, write_state: 4, write_latch: 0x55 });
    const other = bench();
    other.pit.load(state);
    expect([other.read(0), other.read(0), other.read(0)]).toEqual([0xb4, (0x1234 - 100) & 0xff, (0x1234 - 100) >> 8]);
    expect([other.value(0), other.to(0x1234)]).toEqual([0x1234, 1]);
    other.pit.reset();
    expect([other.to(1_000_000), other.status(0) & 0x40]).toEqual([0, 0x40]);
  });

  it('may be foreign', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 112, maxLength: 112 }),
        fc.array(fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 255 })), { maxLength: 30 }),
        (state, ports) => {
          const { pit, out, read, jump } = bench({ minPeriodNs: 200_000 });
          pit.load(state);
          ports.forEach(([port, value], index) => {
            if (value & 1) out(port, value);
            else expect(read(port)).toBeLessThan(256);
            jump(index * 100_000);
          });
          expect(pit.save()).toHaveLength(112);
        },
      ),
      { numRuns: 200, seed: 8254 },
    );
    expect(() => bench().pit.load(new Uint8Array(72))).toThrow(RangeError);
  });
});
