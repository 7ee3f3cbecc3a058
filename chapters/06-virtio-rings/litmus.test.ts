import { describe, expect, it } from 'vitest';
import {
  type Access,
  fallAsleep,
  handBack,
  handOver,
  load,
  type Machine,
  type Outcome,
  outcomes,
  type Program,
  possible,
  RING_QUESTIONS,
  store,
  type Weakening,
  weaken,
  witness,
} from './litmus.ts';

const MACHINES: readonly Machine[] = ['in order', 'x86', 'weak'];
const fence: Access = { do: 'fence' };

describe('a litmus test', () => {
  const sb = [
    [store('x', 1), load('y', 'a')],
    [store('y', 1), load('x', 'b')],
  ];
  const neither = ({ a, b }: Readonly<Record<string, number>>): boolean => a === 0 && b === 0;

  // Known results: Owens, Sarkar, Sewell, "A Better x86 Memory Model: x86-TSO"; Intel SDM vol. 3, "Examples Illustrating the Memory-Ordering Principles".
  it('lets loads pass older stores on x86 and weaker machines only', () => {
    expect(MACHINES.map((machine) => possible(sb, machine, neither))).toEqual([false, true, true]);
    const fenced = sb.map(([first, second]) => [first, fence, second]) as (typeof sb)[number][];
    expect(MACHINES.map((machine) => possible(fenced, machine, neither))).toEqual([false, false, false]);
  });

  it('keeps stores in order, and loads in order, on x86', () => {
    const mp = [
      [store('data', 1), store('flag', 1)],
      [load('flag', 'f'), load('data', 'd')],
    ];
    const stale = ({ f, d }: Readonly<Record<string, number>>): boolean => f === 1 && d === 0;
    expect(MACHINES.map((machine) => possible(mp, machine, stale))).toEqual([false, false, true]);
    const half = [[store('data', 1), { ...store('flag', 1), order: 'release' } as Access], mp[1] as (typeof mp)[number]];
    expect(possible(half, 'weak', stale)).toBe(true); // the reader may still look at the data first
    expect(possible([half[0] as (typeof mp)[number], [{ ...load('flag', 'f'), order: 'acquire' } as Access, load('data', 'd')]], 'weak', stale)).toBe(
      false,
    );
  });

  it('shows a processor its own stores before others see them', () => {
    const own = [
      [store('x', 1), load('x', 'a'), load('y', 'b')],
      [store('y', 1), load('y', 'c'), load('x', 'd')],
    ];
    const found = outcomes(own, 'x86');
    expect(found.every(({ a, c }) => a === 1 && c === 1)).toBe(true);
    expect(found.some(({ b, d }) => b === 0 && d === 0)).toBe(true);
  });

  it('never exchanges accesses to one place', () => {
    const same = [
      [store('x', 1), store('x', 2)],
      [load('x', 'a'), load('x', 'b')],
    ];
    expect(
      outcomes(same, 'weak')
        .map(({ a, b }) => `${a}${b}`)
        .sort(),
    ).toEqual(['00', '01', '02', '11', '12', '22']);
  });
});

describe('the ring', () => {
  it('is right as written, on every machine', () => {
    for (const question of RING_QUESTIONS)
      for (const machine of MACHINES) expect(possible(question.program, machine, question.bad), question.name).toBe(false);
  });

  it('breaks on every machine with its stores or its loads swapped', () => {
    for (const question of [handBack, handOver])
      for (const machine of MACHINES)
        for (const how of ['stores swapped', 'loads swapped'] as const)
          expect(possible(weaken(question, how), machine, question.bad), `${question.name}, ${how}`).toBe(true);
    for (const machine of MACHINES) expect(possible(weaken(fallAsleep, 'stores swapped'), machine, fallAsleep.bad)).toBe(true);
  });

  it('without any order: handing over still works on x86, falling asleep does not', () => {
    const results = RING_QUESTIONS.map((question) => MACHINES.map((machine) => possible(weaken(question, 'no order'), machine, question.bad)));
    expect(results).toEqual([
      [false, false, true],
      [false, false, true],
      [false, true, true],
    ]);
  });
});

describe('a witness', () => {
  const WAYS: readonly Weakening[] = ['as written', 'stores swapped', 'loads swapped', 'no order'];

  /** What the loads of an execution find, by doing it again on plain memory: a check that knows nothing of the search. */
  function replay(program: Program, deeds: NonNullable<ReturnType<typeof witness>>): Outcome {
    const memory = new Map<string, number>();
    const queued = program.map((): Extract<Access, { do: 'store' }>[] => []);
    const loaded: Record<string, number> = {};
    const done = program.map(() => new Set<number>());
    for (const { processor, access: index, does, value } of deeds) {
      const access = program[processor]?.[index];
      const queue = queued[processor];
      if (!access || !queue) throw new Error('no such access');
      if (does !== 'arrive') {
        expect(done[processor]?.has(index)).toBe(false);
        done[processor]?.add(index);
      }
      if (access.do === 'store') {
        expect(value).toBe(access.value);
        if (does === 'queue') queue.push(access);
        else if (does === 'arrive') expect(queue.shift()).toBe(access);
        if (does !== 'queue') memory.set(access.place, access.value);
      } else if (access.do === 'load') {
        const found = queue.findLast(({ place }) => place === access.place)?.value ?? memory.get(access.place) ?? 0;
        expect(value).toBe(found);
        loaded[access.into] = found;
      } else expect(queue).toEqual([]);
    }
    expect(done.map(({ size }) => size)).toEqual(program.map(({ length }) => length));
    expect(queued.flat()).toEqual([]);
    return loaded;
  }

  it('exists exactly where the bad result is possible, does everything once, and ends badly', () => {
    let found = 0;
    for (const question of RING_QUESTIONS)
      for (const how of WAYS)
        for (const machine of MACHINES) {
          const program = weaken(question, how);
          const deeds = witness(program, machine, question.bad);
          expect(deeds !== null, `${question.name}, ${how}, ${machine}`).toBe(possible(program, machine, question.bad));
          if (!deeds) continue;
          found++;
          expect(question.bad(replay(program, deeds))).toBe(true);
        }
    expect(found).toBeGreaterThan(10);
  });

  it('goes from one processor to the other no more often than it must', () => {
    const turns = (program: Program, machine: Machine, bad: (outcome: Outcome) => boolean): number =>
      (witness(program, machine, bad) ?? []).filter(({ processor }, at, all) => at > 0 && all[at - 1]?.processor !== processor).length;
    // Both loads before either store arrives: one turn. The new index between the driver's two loads: two.
    expect(turns(weaken(fallAsleep, 'no order'), 'x86', fallAsleep.bad)).toBeLessThanOrEqual(2);
    expect(turns(weaken(handBack, 'stores swapped'), 'in order', handBack.bad)).toBe(2);
    expect(turns(weaken(handBack, 'loads swapped'), 'in order', handBack.bad)).toBe(2);
  });
});
