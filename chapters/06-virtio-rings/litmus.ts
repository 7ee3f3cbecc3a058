// # Who sees what, and when
//
// Two processors, a few stores and loads each, and the question which results are possible. Such a program is called a *litmus test*. Running it a
// million times answers nothing, since the interesting case may be the one in a billion. But the programs are so small that every execution can be
// tried, and that is done here.
//
// Three kinds of machine differ in what they may exchange:
//
// - On the first everything happens in program order, one access at a time. No processor has been built like that for forty years, and most people
//   reason as if all were.
// - On *x86* a store goes into a queue of the processor's own and reaches memory some time later. Its own loads look into the queue; nobody else's
//   do. So a load may be done before a store that stands above it, and nothing else may be exchanged.
// - A *weak* machine (ARM, POWER, and a compiler anywhere) may exchange any two accesses to different places, unless one says that it must not.

export type Machine = 'in order' | 'x86' | 'weak';

/** One access. `order`: a `release` store comes after everything above it, an `acquire` load before everything below; a `fence` keeps all apart. */
export type Access =
  | { readonly do: 'store'; readonly place: string; readonly value: number; readonly order?: 'release' }
  | { readonly do: 'load'; readonly place: string; readonly into: string; readonly order?: 'acquire' }
  | { readonly do: 'fence' };

export const store = (place: string, value: number): Access => ({ do: 'store', place, value });
const release = (place: string, value: number): Access => ({ do: 'store', place, value, order: 'release' });
export const load = (place: string, into: string): Access => ({ do: 'load', place, into });
const acquire = (place: string, into: string): Access => ({ do: 'load', place, into, order: 'acquire' });
const fence: Access = { do: 'fence' };

/** What each processor does. Memory is zero at the start. */
export type Program = readonly (readonly Access[])[];
/** What the loads found, by name. */
export type Outcome = Readonly<Record<string, number>>;

// ## Trying everything
//
// A state is memory, what was loaded, which accesses of each processor are done, and what waits in the queues. From each state a few steps are
// possible; all are taken. States that were met before are not entered again, and that bounds the search: there are fewer states than subsets of the
// accesses, times what the places can hold. Handing a buffer back without any order can end in
// {{outcomes(weaken(handBack, 'no order'), 'in order').length}} ways where everything happens in order, and in
// {{outcomes(weaken(handBack, 'no order'), 'weak').length}} on a weak machine.

interface State {
  readonly memory: Readonly<Record<string, number>>;
  readonly loaded: Outcome;
  /** Per processor, a bit for each access that is done. */
  readonly done: readonly number[];
  /** Per processor, stores that have not reached memory, by their index in the program; on x86 only. */
  readonly queues: readonly (readonly { readonly access: number; readonly place: string; readonly value: number }[])[];
}

/** One thing that a processor does, or, when a store comes out of its queue, that happens to it. */
export interface Deed {
  readonly processor: number;
  /** Index of the access in the processor's program. */
  readonly access: number;
  readonly does: 'store' | 'queue' | 'arrive' | 'load' | 'fence';
  /** What was stored or found; 0 for a fence. */
  readonly value: number;
}

const changed = <T>(list: readonly T[], index: number, value: T): T[] => list.map((each, at) => (at === index ? value : each));

/** Whether `later` has to wait for `earlier`, which stands above it. */
function waits(earlier: Access, later: Access, machine: Machine): boolean {
  if (machine !== 'weak') return true; // the queue is what exchanges things on x86
  if (earlier.do === 'fence' || later.do === 'fence') return true;
  if (earlier.place === later.place) return true;
  return (earlier.do === 'load' && earlier.order === 'acquire') || (later.do === 'store' && later.order === 'release');
}

function* steps(program: Program, machine: Machine, state: State): Generator<readonly [Deed, State]> {
  for (const [processor, accesses] of program.entries()) {
    const done = state.done[processor] as number;
    const queue = state.queues[processor] as State['queues'][number];
    const [oldest, ...rest] = queue;
    if (oldest) {
      const { access, place, value } = oldest;
      yield [
        { processor, access, does: 'arrive', value },
        { ...state, memory: { ...state.memory, [place]: value }, queues: changed(state.queues, processor, rest) },
      ];
    }
    for (const [index, access] of accesses.entries()) {
      if (done & (1 << index)) continue;
      if (accesses.slice(0, index).some((earlier, at) => !(done & (1 << at)) && waits(earlier, access, machine))) continue;
      const after = { ...state, done: changed(state.done, processor, done | (1 << index)) };
      const deed = { processor, access: index };
      if (access.do === 'fence') {
        if (queue.length === 0) yield [{ ...deed, does: 'fence', value: 0 }, after];
      } else if (access.do === 'load') {
        const own = queue.findLast(({ place }) => place === access.place);
        const value = own ? own.value : (state.memory[access.place] ?? 0);
        yield [
          { ...deed, does: 'load', value },
          { ...after, loaded: { ...after.loaded, [access.into]: value } },
        ];
      } else {
        const { place, value } = access;
        if (machine === 'x86')
          yield [
            { ...deed, does: 'queue', value },
            { ...after, queues: changed(state.queues, processor, [...queue, { access: index, place, value }]) },
          ];
        else
          yield [
            { ...deed, does: 'store', value },
            { ...after, memory: { ...state.memory, [place]: value } },
          ];
      }
    }
  }
}

function firstOf(program: Program): State {
  if (program.some((accesses) => accesses.length > 16)) throw new RangeError('a litmus test has at most 16 accesses on a processor');
  return { memory: {}, loaded: {}, done: program.map(() => 0), queues: program.map(() => []) };
}

const keyOf = ({ memory, loaded, done, queues }: State): string =>
  JSON.stringify([Object.entries(memory).sort(), Object.entries(loaded).sort(), done, queues]);

/** Everything that the loads of a program can find on a machine. @throws RangeError for more than 16 accesses on a processor */
export function outcomes(program: Program, machine: Machine): Outcome[] {
  const seen = new Set<string>();
  const ends = new Map<string, Outcome>();
  const open = [firstOf(program)];
  for (let state = open.pop(); state; state = open.pop()) {
    const key = keyOf(state);
    if (seen.has(key)) continue;
    seen.add(key);
    let stuck = true;
    for (const [, next] of steps(program, machine, state)) {
      stuck = false;
      open.push(next);
    }
    if (stuck) ends.set(JSON.stringify(Object.entries(state.loaded).sort()), state.loaded);
  }
  return [...ends.values()];
}

/** Whether a result is possible. */
export const possible = (program: Program, machine: Machine, bad: (outcome: Outcome) => boolean): boolean => outcomes(program, machine).some(bad);

// ## One execution to look at
//
// *It is possible* convinces nobody who has looked at the program for an hour. One execution that ends badly does, and there are usually many, most
// of which jump back and forth between the processors. The one that is easiest to follow jumps least, so the search goes by the number of turns.

/** An execution that ends with the bad result, in as few turns between processors as there can be; null when there is none. */
export function witness(program: Program, machine: Machine, bad: (outcome: Outcome) => boolean): Deed[] | null {
  interface Path {
    readonly state: State;
    readonly deed: Deed | null;
    readonly before: Path | null;
  }
  const seen = new Set<string>();
  const byTurns: Path[][] = [[{ state: firstOf(program), deed: null, before: null }]];
  for (let turns = 0; turns < byTurns.length; turns++) {
    for (const at of byTurns[turns] ?? []) {
      const key = `${at.deed?.processor} ${keyOf(at.state)}`;
      if (seen.has(key)) continue;
      seen.add(key);
      let stuck = true;
      for (const [deed, state] of steps(program, machine, at.state)) {
        stuck = false;
        const turned = at.deed !== null && deed.processor !== at.deed.processor ? turns + 1 : turns;
        byTurns[turned] ??= [];
        byTurns[turned].push({ state, deed, before: at });
      }
      if (!stuck || !bad(at.state.loaded)) continue;
      const deeds: Deed[] = [];
      for (let each: Path | null = at; each?.deed; each = each.before) deeds.unshift(each.deed);
      return deeds;
    }
  }
  return null;
}

// ## Three questions that a ring asks

export interface RingQuestion {
  readonly name: string;
  /** The two sides, as they must be written. */
  readonly program: Program;
  /** The result that must not be. */
  readonly bad: (outcome: Outcome) => boolean;
  /** What that result means. */
  readonly means: string;
}

/** The device gives a chain back: element and data first, then the index; the driver looks at the index first. */
export const handBack: RingQuestion = {
  name: 'a used element',
  program: [
    [store('used.ring[0].len', 64), release('used.idx', 1)],
    [acquire('used.idx', 'idx'), load('used.ring[0].len', 'len')],
  ],
  bad: ({ idx, len }) => idx === 1 && len !== 64,
  means: 'the driver takes an element whose length is from the lap before',
};

/** The driver hands a chain over, likewise. */
export const handOver: RingQuestion = {
  name: 'an available chain',
  program: [
    [store('desc[0].addr', 0x1000), store('avail.ring[0]', 7), release('avail.idx', 1)],
    [acquire('avail.idx', 'idx'), load('avail.ring[0]', 'head'), load('desc[0].addr', 'addr')],
  ],
  bad: ({ idx, head, addr }) => idx === 1 && (head !== 7 || addr !== 0x1000),
  means: 'the device follows a descriptor that the driver has not written yet',
};

/** Going to sleep, while the other side hands something over: each says something and then looks. */
export const fallAsleep: RingQuestion = {
  name: 'going to sleep',
  program: [
    [release('avail.idx', 1), fence, load('avail_event', 'wanted')],
    [release('avail_event', 1), fence, acquire('avail.idx', 'seen')],
  ],
  bad: ({ wanted, seen }) => wanted === 0 && seen === 0,
  means: 'the driver believes that no kick is wanted, the device that nothing is there: both sleep for ever',
};

export const RING_QUESTIONS: readonly RingQuestion[] = [handBack, handOver, fallAsleep];

/** What can be taken away from a side: its order, its fence, or the place of two neighbouring accesses. */
export type Weakening = 'as written' | 'stores swapped' | 'loads swapped' | 'no order';

/** The same question with something taken away. */
export function weaken({ program }: RingQuestion, how: Weakening): Program {
  const [first, second] = program as [readonly Access[], readonly Access[]];
  const unordered = (side: readonly Access[]): Access[] =>
    side
      .filter((access) => access.do !== 'fence')
      .map((access) => (access.do === 'store' ? store(access.place, access.value) : access.do === 'load' ? load(access.place, access.into) : access));
  switch (how) {
    case 'as written':
      return program;
    case 'stores swapped':
      return [[...first].reverse(), second];
    case 'loads swapped':
      return [first, [...second].reverse()];
    case 'no order':
      return program.map(unordered);
  }
}
