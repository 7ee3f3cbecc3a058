import { describe, expect, it } from 'vitest';
import { type Act, FORMATS, LAP_16, readActs, readSetup, SETUP, type Setup, SIZES, startsOf, writeActs, writeSetup } from './ring-acts.ts';
import { flagNames, isUsed, type Picture, RingBench, wishOf } from './ring-model.ts';

const bench = (setup: Partial<Setup>, acts = ''): RingBench => {
  const made = new RingBench({ ...SETUP, ...setup });
  for (const act of readActs(acts)) made.perform(act);
  return made;
};
const answers = ({ done }: RingBench): string[] => done.map(({ answer }) => answer);
const field = ({ fields }: Picture, name: string): number => fields.get(name) ?? Number.NaN;

const SETUPS: Setup[] = FORMATS.flatMap((format) =>
  SIZES.flatMap((size) =>
    [false, true].flatMap((eventIdx) =>
      [false, true].flatMap((indirect) => [false, true].map((inOrder): Setup => ({ format, size, eventIdx, indirect, inOrder, start: size - 1 }))),
    ),
  ),
);

describe('the address bar', () => {
  it('holds every act and every kind of ring', () => {
    const text = 'a1.a2.a3.q.b.k.t.d.e.l.p.u0-16.n.m.w.r65536';
    const acts = readActs(text);
    expect(acts).toHaveLength(16);
    expect(writeActs(acts)).toBe(text);
    for (const setup of SETUPS)
      for (const { trips: start } of startsOf(setup)) {
        const fields = new URLSearchParams();
        writeSetup({ ...setup, start }, fields);
        expect(readSetup(new URLSearchParams(String(fields)))).toEqual({ ...setup, start });
      }
    expect(readSetup(new URLSearchParams())).toEqual(SETUP);
  });

  it('cannot be given what does not exist, or what takes for ever', () => {
    for (const text of ['a4', 'a', 'u1', 'u', 'r0', 'r65537', 'r', 'z', 'q1', 'a1-2-3', '%'])
      expect(readActs(`p.${text}.k`), text).toEqual([{ do: 'pop' }]);
    expect(readActs(Array.from({ length: 1000 }, () => 'a1').join('.')).length).toBeLessThan(1000);
    const trips = readActs(Array.from({ length: 1000 }, () => 'r65536').join('.'));
    expect(trips.length * LAP_16).toBeLessThan(1_000_000);
    expect(readSetup(new URLSearchParams('ring=round&size=5&with=all&start=17'))).toEqual(SETUP);
  });
});

describe('a ring', () => {
  it('carries a buffer there and back, and says what changed', () => {
    const made = bench({}, 'a2.k.p.u0-9.n.t');
    expect(answers(made)).toEqual([
      'buffer A, 2 pieces',
      'asks, and rings',
      'buffer A: 8 bytes to read, room for 16',
      'gives A back',
      'the driver wants to hear of it: interrupts',
      'buffer A, 9 bytes written',
    ]);
    expect(made.done.map(({ told }) => told)).toEqual([null, 'device', null, null, 'driver', null]);
    expect(made.done[0]?.changes.map((change) => change.field)).toContain('avail.idx');
    expect(made.done[3]?.changes.map((change) => `${change.field} ${change.value}`)).toEqual(['used.idx 1', 'used.ring[0].len 9']);
    expect([made.now.kicks, made.now.interrupts]).toEqual([1, 1]);
  });

  it('says whose a row is, from the moment that it is to the moment that it is not', () => {
    const owned = (acts: string, format: Setup['format'] = 'split'): string[] =>
      [...bench({ format }, acts).now.owners].map(([row, name]) => `${row} ${name}`).sort();
    expect(owned('a2')).toEqual(['avail.ring[0] A', 'desc[0] A', 'desc[1] A']);
    expect(owned('a2.p')).toEqual(['desc[0] A', 'desc[1] A']);
    expect(owned('a2.p.u0-1')).toEqual(['desc[0] A', 'desc[1] A', 'used.ring[0] A']);
    expect(owned('a2.p.u0-1.t')).toEqual([]);
    expect(owned('a2.a1', 'packed')).toEqual(['desc[0] A', 'desc[1] A', 'desc[2] B']);
    // B is back first: what tells of it stands over A's first descriptor.
    expect(owned('a2.a1.p.p.u1-1', 'packed')).toEqual(['desc[0] B', 'desc[1] A', 'desc[2] B']);
    expect(owned('a2.a1.p.p.u1-1.t.u0-1.t', 'packed')).toEqual([]);
  });

  it('has room for so many buffers and no more', () => {
    expect(answers(bench({}, 'a3.a3')).at(-1)).toBe('no room: 1 descriptor free (ENOSPC)');
    expect(answers(bench({ indirect: true }, 'a3.a3')).at(-1)).toBe('buffer B, 3 pieces');
    const full = bench({}, 'a1.a1.a1.a1.r1');
    expect(answers(full).at(-1)).toBe('then it stops: no descriptor is free');
    expect(full.now.driver.inFlight).toEqual(['A', 'B', 'C', 'D']);
  });

  it('shows the tables that indirect descriptors lead to', () => {
    for (const format of FORMATS) {
      const { tables } = bench({ format, indirect: true }, 'a3.a1').now;
      expect(tables.map(({ name, entries }) => [name, entries.map(({ len }) => len)])).toEqual([['A', [8, 16, 1]]]);
      const flags = tables[0]?.entries.map((entry) => flagNames(entry.flags).join('|'));
      expect(flags).toEqual(
        format === 'split' ? ['NEXT', 'WRITE|NEXT', 'WRITE'].map((names) => names.split('|').sort().join('|')) : ['', 'WRITE', 'WRITE'],
      );
    }
  });

  it('lets nobody be told who does not want to be', () => {
    for (const format of FORMATS)
      for (const eventIdx of [false, true]) {
        const made = bench({ format, eventIdx }, 'm.d.a1.k.p.u0-1.n.t');
        // Under the split ring's event index a side cannot say "never": it leaves its mark where it is, and is told once, when the other passes.
        expect([made.now.kicks, made.now.interrupts], `${format} ${eventIdx}`).toEqual([format === 'split' && eventIdx ? 1 : 0, 0]);
        const before = made.now.kicks;
        for (const act of readActs('a1.k.p.u0-1.n.t.a1.k.p.u0-1.n.t')) made.perform(act);
        expect([made.now.kicks, made.now.interrupts]).toEqual([before, 0]);
        expect(answers(bench({ format, eventIdx }, 'm.a1.k.w')).at(-1)).toBe('something has come meanwhile: look first');
        expect(answers(bench({ format, eventIdx }, 'd.a1.p.u0-1.e')).at(-1)).toBe('something has come meanwhile: look first');
      }
    expect(wishOf(1, 'split')).toBe('do not tell me');
    expect(wishOf(3, 'packed')).toBe('reserved');
  });

  it('takes acts that make no sense without harm', () => {
    for (const setup of SETUPS) expect(answers(bench(setup, 'u0-1.t.p.n.u7-999999.q'))).toContain('the device holds no such buffer');
    expect(answers(bench({}, 'a1.p.u0-999999.t')).at(-1)).toBe('buffer A, 16 bytes written');
  });
});

describe('the wrap', () => {
  it('of the 16-bit indices is one trip like any other', () => {
    const made = bench({ start: LAP_16 - 2, eventIdx: true }, 'a1.k.p.u0-1.n.t.r3');
    expect(made.first.driver.adds.index).toBe(0xfffe);
    expect(field(made.first, 'avail.idx')).toBe(0xfffe);
    expect(made.now.driver).toMatchObject({ adds: { index: 2 }, looks: { index: 2 } });
    expect(made.now.device).toMatchObject({ takes: { index: 2 }, gives: { index: 2 } });
    expect([field(made.now, 'avail.idx'), field(made.now, 'used.idx')]).toEqual([2, 2]);
    expect([made.now.kicks, made.now.interrupts]).toEqual([4, 4]);
  });

  it('turns both counters of a packed ring, and the meaning of its bits', () => {
    const made = bench({ format: 'packed', start: 3 }, 'a2');
    expect(made.now.driver.adds).toEqual({ index: 1, wrap: false });
    expect(made.now.device.takes).toEqual({ index: 3, wrap: true });
    expect(flagNames(field(made.now, 'desc[3].flags'))).toContain('AVAIL');
    expect(flagNames(field(made.now, 'desc[0].flags'))).toEqual(['WRITE', 'USED']); // available, on the second lap
    expect([3, 0].map((row) => isUsed(field(made.now, `desc[${row}].flags`)))).toEqual([false, false]);
    for (const act of readActs('p.u0-1')) made.perform(act);
    expect(made.now.device).toMatchObject({ takes: { index: 1, wrap: false }, gives: { index: 1, wrap: false } });
  });
});

describe('everything that can be done', () => {
  /** The same numbers each time. */
  function* numbers(seed: number): Generator<number> {
    for (let state = seed; ; ) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      yield state >>> 16;
    }
  }
  const WORDS = ['a1', 'a2', 'a3', 'q', 'b', 'k', 't', 't', 'd', 'e', 'l', 'p', 'p', 'u0-16', 'u0-3', 'u1-1', 'n', 'm', 'w', 'r1', 'r5'];
  const randomActs = (seed: number, count: number): Act[] => {
    const source = numbers(seed);
    return Array.from({ length: count }, () => readActs(WORDS[(source.next().value as number) % WORDS.length] as string)[0] as Act);
  };

  it('breaks nothing, loses nothing, and is the same the second time', () => {
    for (const [seed, setup] of SETUPS.entries()) {
      const acts = randomActs(seed + 1, 250);
      const [made, again] = [new RingBench(setup), new RingBench(setup)];
      for (const act of acts) {
        const done = made.perform(act);
        expect(again.perform(act)).toEqual(done);
        expect(done.answer).not.toMatch(/\?|which is not|broken|available twice|says/);
        const { driver, device } = done.after;
        expect(driver.free).toBeLessThanOrEqual(setup.size);
        expect(driver.inFlight.length).toBeGreaterThanOrEqual(device.holds.length);
        expect(new Set(driver.inFlight).size).toBe(driver.inFlight.length);
        for (const { name } of device.holds) expect(driver.inFlight).toContain(name);
        for (const name of done.after.owners.values()) expect(driver.inFlight).toContain(name);
      }
      // All of it comes home.
      for (let round = 0; round < 2 * setup.size; round++) for (const act of readActs('p.u0-16.t')) made.perform(act);
      expect(made.now.driver).toMatchObject({ free: setup.size, inFlight: [] });
      expect(made.now.owners.size).toBe(0);
    }
  });

  it('leaves the driver where the driver itself says that it is', () => {
    for (const [seed, setup] of SETUPS.filter(({ eventIdx }) => eventIdx).entries()) {
      const made = new RingBench(setup);
      for (const act of randomActs(seed + 100, 150)) {
        made.perform(act);
        const { looks } = made.perform({ do: 'enable' }).after.driver; // writes its position where the device can see it
        const told = setup.format === 'split' ? field(made.now, 'used_event') : field(made.now, 'driver.off_wrap');
        expect(told).toBe(looks.index | (looks.wrap ? 0x8000 : 0));
      }
    }
  });
});
