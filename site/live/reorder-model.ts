// # Stores to put in another order
//
// The second half of the explorable of chapter 6, without its drawing. The chapter asks three questions of a ring; here the reader may exchange the
// accesses of either side, take their order away, choose a machine, and look at an execution that fails. What the failure *means* is then done to a real
// ring: the chapter's own driver and device run on memory in which those stores have not arrived that the execution has arrive too late.

import { MemoryArena } from '../../chapters/06-virtio-rings/driver/bus.ts';
import { makeVirtqueue } from '../../chapters/06-virtio-rings/driver/make-virtqueue.ts';
import type { Virtqueue } from '../../chapters/06-virtio-rings/driver/virtqueue.ts';
import {
  type Access,
  type Deed,
  fallAsleep,
  handBack,
  handOver,
  load,
  type Machine,
  type Outcome,
  type Program,
  type RingQuestion,
  store,
  witness,
} from '../../chapters/06-virtio-rings/litmus.ts';
import { FlatMemory } from '../../chapters/06-virtio-rings/memory.ts';
import type { Chain, DeviceRing } from '../../chapters/06-virtio-rings/queue.ts';
import { makeRing } from '../../chapters/06-virtio-rings/rings/make-ring.ts';
import { ringFields } from '../../chapters/06-virtio-rings/round-trip.ts';

export const MACHINES: readonly Machine[] = ['in order', 'x86', 'weak'];

/** A question, with the names of its two sides. */
export const QUESTIONS = {
  used: { question: handBack, sides: ['device', 'driver'], asks: 'Is a used element complete when the driver sees the index?' },
  available: { question: handOver, sides: ['driver', 'device'], asks: 'Is an available chain complete when the device sees the index?' },
  sleep: { question: fallAsleep, sides: ['driver', 'device'], asks: 'Does one of the two see the other, before both go to sleep?' },
} as const satisfies Record<string, { question: RingQuestion; sides: readonly [string, string]; asks: string }>;
export type QuestionName = keyof typeof QUESTIONS;
export const QUESTION_NAMES = Object.keys(QUESTIONS) as QuestionName[];

// ## An arrangement
//
// One side is the accesses as they are written, in some order, each with its `release`, its `acquire` or its being there (a fence) taken away or not. In
// the address bar it is a word: a letter for each access, a capital where something was taken away.

/** One access of a side: which it was as written, and whether it has lost its order. */
export interface Placed {
  readonly access: number;
  readonly bare: boolean;
}
export type Side = readonly Placed[];
export interface Asked {
  readonly name: QuestionName;
  readonly sides: readonly [Side, Side];
  readonly machine: Machine;
  /** How many deeds of the failing execution are shown. */
  readonly step: number;
}

const asWritten = (accesses: readonly Access[]): Side => accesses.map((_, access) => ({ access, bare: false }));
const programOf = (name: QuestionName): readonly [readonly Access[], readonly Access[]] =>
  QUESTIONS[name].question.program as [readonly Access[], readonly Access[]];
/** The question as the ring asks it, nothing changed. */
export const askedAsWritten = (name: QuestionName, machine: Machine = 'weak'): Asked => {
  const [first, second] = programOf(name);
  return { name, sides: [asWritten(first), asWritten(second)], machine, step: 0 };
};

/** Whether there is something to take away from an access. */
export const hasOrder = (access: Access): boolean => access.do === 'fence' || access.order !== undefined;

const A = 'a'.charCodeAt(0);
export const writeSide = (side: Side): string =>
  side
    .map(({ access, bare }) => {
      const letter = String.fromCharCode(A + access);
      return bare ? letter.toUpperCase() : letter;
    })
    .join('');

/** A side as {@link writeSide} wrote it; as written by the chapter when that makes no sense. */
export function readSide(text: string | null, accesses: readonly Access[]): Side {
  const side = [...(text ?? '')].map((letter) => ({ access: letter.toLowerCase().charCodeAt(0) - A, bare: letter !== letter.toLowerCase() }));
  const all = side.length === accesses.length && accesses.every((_, index) => side.some(({ access }) => access === index));
  const possible = all && side.every(({ access, bare }) => !bare || hasOrder(accesses[access] as Access));
  return possible ? side : asWritten(accesses);
}

export function readAsked(fields: URLSearchParams): Asked {
  const name = QUESTION_NAMES.find((each) => each === fields.get('ask')) ?? 'used';
  const [first, second] = programOf(name);
  const step = Number(fields.get('step') ?? 0);
  return {
    name,
    sides: [readSide(fields.get('left'), first), readSide(fields.get('right'), second)],
    machine: MACHINES.find((machine) => machine === (fields.get('machine') ?? '').replace('-', ' ')) ?? 'weak',
    step: Number.isSafeInteger(step) && step >= 0 ? step : 0,
  };
}

export function writeAsked({ name, sides, machine, step }: Asked, fields: URLSearchParams): void {
  const plain = askedAsWritten(name);
  if (name !== 'used') fields.set('ask', name);
  for (const [index, word] of (['left', 'right'] as const).entries()) {
    const side = writeSide(sides[index] as Side);
    if (side !== writeSide(plain.sides[index] as Side)) fields.set(word, side);
  }
  if (machine !== plain.machine) fields.set('machine', machine.replace(' ', '-'));
  if (step !== 0) fields.set('step', String(step));
}

const changedSide = (asked: Asked, index: 0 | 1, side: Side): Asked => ({
  ...asked,
  step: 0,
  sides: index === 0 ? [side, asked.sides[1]] : [asked.sides[0], side],
});

/** The same with the access at `at` and the one below it exchanged. */
export function exchanged(asked: Asked, index: 0 | 1, at: number): Asked {
  const side = [...asked.sides[index]];
  const [upper, lower] = [side[at], side[at + 1]];
  if (!upper || !lower) return asked;
  [side[at], side[at + 1]] = [lower, upper];
  return changedSide(asked, index, side);
}

/** The same with the order of the access at `at` taken away, or given back. */
export const stripped = (asked: Asked, index: 0 | 1, at: number): Asked =>
  changedSide(
    asked,
    index,
    asked.sides[index].map((each, place) => (place === at ? { ...each, bare: !each.bare } : each)),
  );

const bareOf = (access: Access): Access =>
  access.do === 'store' ? store(access.place, access.value) : access.do === 'load' ? load(access.place, access.into) : access;

/** The access at a place of an arrangement; null for a fence that was taken away. */
export function accessOf({ name }: Pick<Asked, 'name'>, index: 0 | 1, { access, bare }: Placed): Access | null {
  const written = programOf(name)[index][access] as Access;
  if (!bare) return written;
  return written.do === 'fence' ? null : bareOf(written);
}

// ## The answer

/** A deed of an execution, and everything after it. */
export interface Moment {
  readonly processor: 0 | 1;
  /** Row of the side's arrangement. */
  readonly row: number;
  readonly does: Deed['does'];
  readonly place: string;
  readonly value: number;
  readonly memory: Readonly<Record<string, number>>;
  readonly loaded: Outcome;
  /** What waits in the queues of both; on x86 only. */
  readonly queues: readonly (readonly { readonly place: string; readonly value: number }[])[];
}

export interface Answer {
  readonly places: readonly string[];
  /** For each machine, whether the bad result is possible. */
  readonly breaks: Readonly<Record<Machine, boolean>>;
  /** An execution on the chosen machine that ends badly; empty when there is none. */
  readonly moments: readonly Moment[];
}

export function answer(asked: Asked): Answer {
  const { question } = QUESTIONS[asked.name];
  const kept = asked.sides.map((side, index) =>
    side.flatMap((placed, row) => {
      const access = accessOf(asked, index as 0 | 1, placed);
      return access ? [{ row, access }] : [];
    }),
  );
  const program: Program = kept.map((side) => side.map(({ access }) => access));
  const places = [...new Set(programOf(asked.name).flatMap((side) => side.flatMap((access) => (access.do === 'fence' ? [] : [access.place]))))];
  const found = new Map(MACHINES.map((machine) => [machine, witness(program, machine, question.bad)]));
  const breaks = Object.fromEntries(MACHINES.map((machine) => [machine, found.get(machine) !== null])) as Record<Machine, boolean>;
  const moments: Moment[] = [];
  let memory: Record<string, number> = Object.fromEntries(places.map((place) => [place, 0]));
  let loaded: Record<string, number> = {};
  const queues: { place: string; value: number }[][] = program.map(() => []);
  for (const { processor, access: index, does, value } of found.get(asked.machine) ?? []) {
    const { row, access } = (kept[processor] as (typeof kept)[number])[index] as { row: number; access: Access };
    const place = access.do === 'fence' ? '' : access.place;
    if (does === 'queue') queues[processor]?.push({ place, value });
    if (does === 'arrive') queues[processor]?.shift();
    if (does === 'store' || does === 'arrive') memory = { ...memory, [place]: value };
    if (access.do === 'load') loaded = { ...loaded, [access.into]: value };
    moments.push({ processor: processor as 0 | 1, row, does, place, value, memory, loaded, queues: queues.map((queue) => [...queue]) });
  }
  return { places, breaks, moments };
}

// ## What it means
//
// A ring of four, with a few trips behind it, so that every place holds something old. One side does what the question is about. Then the stores that
// the execution has arrive too late are taken back, and the other side looks.

/** A split ring in which something has gone wrong. */
export interface Consequence {
  readonly size: number;
  readonly fields: ReadonlyMap<string, number>;
  /** What the side that looked saw, where that is not what was written. */
  readonly late: ReadonlyMap<string, { readonly seen: number; readonly written: number }>;
  /** What the side that looked was led to. */
  readonly followed: readonly string[];
  readonly happened: string;
}

const BASE = 0x1000;
const SIZE = 4;
const [SHORT, LONG] = [16, 64];
/** In flight at once, so that chains come back in another order than they went and the ring's elements differ. */
const BUFFERS = 3;

class SmallRing {
  readonly queue: Virtqueue<number>;
  readonly ring: DeviceRing;
  readonly arena: MemoryArena;
  readonly #view: DataView;
  readonly #places: ReturnType<typeof ringFields>;

  constructor() {
    const bytes = new Uint8Array(1 << 13);
    this.#view = new DataView(bytes.buffer);
    this.arena = new MemoryArena(bytes, BASE);
    const features = { packed: false, indirect: false, eventIdx: true, inOrder: false };
    this.queue = makeVirtqueue<number>({ index: 0, size: SIZE, memory: this.arena, features, hooks: { notify: () => true } });
    const ring = makeRing(new FlatMemory(bytes, BASE), this.queue.areas, features);
    if (typeof ring === 'string') throw new Error(ring);
    this.ring = ring;
    this.#places = ringFields(this.queue.areas, 'split');
  }

  /** Adds buffers of the same length, one for each; the device takes all of them, and gives back with `written` bytes. */
  round(buffers: number, written: number): void {
    const chains: Chain[] = [];
    const made = Array.from({ length: buffers }, () => this.arena.allocate(LONG));
    for (const buffer of made) this.queue.addInbuf([buffer], buffer.address);
    for (let chain = this.ring.pop(); chain; chain = this.ring.pop()) chains.push(chain);
    for (const chain of chains) this.ring.push(chain, written);
    while (this.queue.getBuf());
    for (const buffer of made) this.arena.free(buffer);
  }

  read(): Map<string, number> {
    return new Map(this.#places.map((place) => [place.name, this.#read(place)]));
  }
  #read({ address, field }: ReturnType<typeof ringFields>[number]): number {
    const at = address - BASE;
    if (field.bytes === 2) return this.#view.getUint16(at, true);
    return field.bytes === 4 ? this.#view.getUint32(at, true) : Number(this.#view.getBigUint64(at, true));
  }
  write(name: string, value: number): void {
    const place = this.#places.find((each) => each.name === name);
    if (!place) throw new RangeError(`a ring has no ${name}`);
    const at = place.address - BASE;
    if (place.field.bytes === 2) this.#view.setUint16(at, value, true);
    else if (place.field.bytes === 4) this.#view.setUint32(at, value, true);
    else this.#view.setBigUint64(at, BigInt(value), true);
  }

  /** Takes the stores to some fields back; returns what they would have changed. */
  withhold(names: readonly string[], before: ReadonlyMap<string, number>): Consequence['late'] {
    const now = this.read();
    const late = new Map<string, { seen: number; written: number }>();
    for (const name of names) {
      const [seen, written] = [before.get(name) ?? 0, now.get(name) ?? 0];
      if (seen !== written) late.set(name, { seen, written });
      this.write(name, seen);
    }
    return late;
  }
}

const hex = (value: number): string => `0x${value.toString(16)}`;

function staleLength(): Consequence {
  const small = new SmallRing();
  for (let lap = 0; lap < SIZE; lap++) small.round(1, SHORT);
  small.queue.addInbuf([small.arena.allocate(LONG)], 0);
  const chain = small.ring.pop() as Chain;
  const before = small.read();
  small.ring.push(chain, LONG);
  const late = small.withhold(['used.ring[0].len'], before);
  const got = small.queue.getBuf();
  return {
    size: SIZE,
    fields: small.read(),
    late,
    followed: [],
    happened:
      `The device has written ${LONG} bytes and said so. The driver takes the buffer home and is told ${got?.len}: the length ` +
      'that stood in this element a lap ago. The rest of the answer is thrown away, and nothing ever reports an error.',
  };
}

function halfWritten({ head, addr }: Outcome): Consequence {
  const small = new SmallRing();
  for (let round = 0; round < 2; round++) small.round(BUFFERS, SHORT);
  small.arena.allocate(BUFFERS * LONG); // somebody else's by now: where the buffers of those rounds were
  const before = small.read();
  const slot = (before.get('avail.idx') ?? 0) % SIZE;
  const buffer = small.arena.allocate(LONG);
  small.queue.addInbuf([buffer], 0);
  const own = small.read().get(`avail.ring[${slot}]`) ?? 0;
  const names = [...(head === 7 ? [] : [`avail.ring[${slot}]`]), ...(addr === 0x1000 ? [] : [`desc[${own}].addr`])];
  const late = small.withhold(names, before);
  const chain = small.ring.pop();
  const target = chain?.writableAt[0]?.[0] ?? 0;
  const happened = chain
    ? `The driver has put a buffer at ${hex(buffer.address)}. The device takes chain ${chain.id} and finds ${hex(target)} in its descriptor, ` +
      `where a buffer of a lap ago was. That memory is somebody else’s by now, and ${chain.writableBytes} bytes are about to be written there.`
    : `The device finds that ${small.ring.broken}. It sets DEVICE_NEEDS_RESET, and the driver, which has done everything but ` +
      'this in the right order, loses all its requests.';
  return { size: SIZE, fields: small.read(), late, followed: chain ? [`desc[${chain.id}].addr`] : [], happened };
}

function bothAsleep(): Consequence {
  const small = new SmallRing();
  for (let lap = 0; lap < SIZE; lap++) small.round(1, SHORT);
  // The device was busy, and is about to go to sleep: the mark that it left is an old one.
  small.ring.disableKicks();
  small.round(1, SHORT);
  small.queue.kickPrepare();
  const before = small.read();
  small.queue.addInbuf([small.arena.allocate(LONG)], 0);
  const added = small.read();
  const lateIdx = small.withhold(['avail.idx'], before);
  const found = small.ring.enableKicks();
  const lateMark = small.withhold(['avail_event'], before);
  const kick = small.queue.kickPrepare();
  for (const [name, { written }] of [...lateIdx, ...lateMark]) small.write(name, written);
  const fields = small.read();
  const waiting = ((added.get('avail.idx') ?? 0) - small.ring.position.avail) & 0xffff;
  return {
    size: SIZE,
    fields,
    late: new Map([...lateIdx, ...lateMark]),
    followed: [],
    happened:
      'Everything has arrived, and it is too late. The driver looked for the mark and found the old one: ' +
      `${kick ? 'it kicks' : 'no kick'}. The device looked for the index and found the old one: ` +
      `${found ? 'it looks again' : 'nothing to do'}. ${waiting} request is in the ring, and both wait for the other to say ` +
      'something.',
  };
}

/** What the end of a failing execution is to a ring. */
export function consequence(name: QuestionName, outcome: Outcome): Consequence {
  switch (name) {
    case 'used':
      return staleLength();
    case 'available':
      return halfWritten(outcome);
    case 'sleep':
      return bothAsleep();
  }
}

/** A deed in words. */
export function sentence({ name }: Pick<Asked, 'name'>, { processor, does, place, value }: Moment): string {
  const who = `The ${QUESTIONS[name].sides[processor]}`;
  const shown = value >= 0x1000 ? hex(value) : String(value);
  switch (does) {
    case 'store':
      return `${who} stores ${place} = ${shown}.`;
    case 'queue':
      return `${who} puts ${place} = ${shown} into its processor’s queue. Nobody else can see it yet.`;
    case 'arrive':
      return `${place} = ${shown} leaves the queue of the ${QUESTIONS[name].sides[processor]}’s processor and arrives in memory.`;
    case 'load':
      return `${who} loads ${place} and finds ${shown}.`;
    case 'fence':
      return `${who} passes its fence.`;
  }
}
