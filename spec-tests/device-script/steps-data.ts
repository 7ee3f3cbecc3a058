// # Steps: memory, time, the host

import { hex } from '../values.ts';
import { BadResult, bytesOf, type Script } from './bus.ts';
import type { Play } from './interpret.ts';
import { ScriptError, type StepOf, type Value } from './steps.ts';
import type { HostOp, OpResult } from './wire.ts';

const SECTOR_BYTES = 512;
const PATTERN_FACTOR = 2_654_435_761;
/** A comparison moves at most so many bytes at once. */
const PIECE_BYTES = 1 << 16;

const hexBytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'));
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');

/** What `content: "pattern"` puts at this byte of the disk. */
export function patternBytes(from: number, count: number): Uint8Array {
  const first = Math.floor(from / 4);
  const words = new DataView(new ArrayBuffer(4 * (Math.ceil((from + count) / 4) - first)));
  for (let i = 0; i < words.byteLength / 4; i++) words.setUint32(4 * i, Math.imul(first + i, PATTERN_FACTOR | 0) >>> 0, true);
  return new Uint8Array(words.buffer).subarray(from - 4 * first, from - 4 * first + count);
}

function literal({ hex: digits, text }: { readonly hex?: string; readonly text?: string }): Uint8Array | null {
  if (digits !== undefined) return hexBytes(digits);
  return text === undefined ? null : new TextEncoder().encode(text);
}

function* compare(play: Play, step: StepOf<'compare'>): Script<void> {
  const offset = play.number(step.offset ?? 0);
  const given = literal(step);
  const count = step.count === undefined ? (given?.length ?? play.memory.at(step.memory).bytes - offset) : play.number(step.count);
  const gpa = play.memory.place(step.memory, offset, count);
  let differ = false;
  for (let at = 0; at < count && !differ; at += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, count - at);
    const seen = yield* play.bus.read(gpa + at, length);
    const expected = yield* expectedAt(play, step, given, at, length);
    differ = seen.some((byte, i) => byte !== expected[i]);
  }
  play.observe(step.as, differ ? 0 : 1);
}

function* expectedAt(play: Play, step: StepOf<'compare'>, given: Uint8Array | null, at: number, length: number): Script<Uint8Array> {
  if (given) return given.subarray(at, at + length);
  if (step.byte !== undefined) return new Uint8Array(length).fill(step.byte);
  if (step.sector !== undefined) return patternBytes(Number(step.sector) * SECTOR_BYTES + at, length);
  if (step.with !== undefined) return yield* play.bus.read(play.memory.place(step.with, at, length), length);
  throw new ScriptError("'compare' says with what: byte, hex, text, sector or the name of other memory");
}

// ## The host

function hostOp(play: Play, step: StepOf<'host'>): HostOp {
  const { device = 0, port = 0, action, value = 0, sector = 0, count = 1 } = step;
  const head = { do: 'host', device } as const;
  switch (action) {
    case 'input':
      return { ...head, action, port, data: base64(literal(step) ?? new Uint8Array(0)) };
    case 'resize-console':
      return { ...head, action, port, cols: step.cols ?? 0, rows: step.rows ?? 0 };
    case 'target':
      return { ...head, action, bytes: hex(play.value(value)) };
    case 'resize':
      return { ...head, action, sectors: hex(play.value(value)) };
    case 'content':
      return { ...head, action, sector: hex(BigInt(sector)), count: Number(count) };
    case 'fail-zone':
      return { ...head, action, zone: step.zone ?? 0, state: step.state ?? 'offline' };
    case 'hint':
      return { ...head, action, round: step.round ?? 'start' };
    case 'actual':
    case 'hinted':
    case 'stats':
      return { ...head, action };
    default:
      return { ...head, action, port };
  }
}

function* host(play: Play, step: StepOf<'host'>): Script<void> {
  const result = yield* play.bus.ask(hostOp(play, step));
  const { as, action } = step;
  if (as === undefined) return;
  if (action === 'actual' || action === 'hinted') play.observe(as, BigInt(result.value ?? badResult('no value')));
  else if (action === 'stats')
    for (const [tag, value] of Object.entries(result.stats ?? badResult('no statistics'))) play.observe(`${as}.${tag}`, BigInt(value));
  else if (action === 'output' || action === 'content') yield* hostBytes(play, step, result, as);
  else throw new ScriptError(`the host's '${action}' returns nothing to observe`);
}

const badResult = (what: string): never => {
  throw new BadResult(`the host's answer has ${what}`);
};

/** What came out is observed by its length, and by whether it is what the step says that it should be. */
function* hostBytes(play: Play, step: StepOf<'host'>, result: OpResult, as: string): Script<void> {
  const seen = bytesOf(result, step.action === 'content' ? Number(step.count ?? 1) * SECTOR_BYTES : undefined);
  if (step.action === 'output') play.observe(`${as}.len`, seen.length);
  let expected = literal(step);
  if (!expected && step.memory !== undefined)
    expected = yield* play.bus.read(play.memory.place(step.memory, play.number(step.offset ?? 0), seen.length), seen.length);
  if (expected) play.observe(`${as}.same`, seen.length === expected.length && seen.every((byte, i) => byte === expected[i]) ? 1 : 0);
}

export const DATA_STEPS = {
  *memory(play: Play, { memory, bytes, align = 64, at, byte, hex: digits }: StepOf<'memory'>): Script<void> {
    let block = { gpa: Number(at ?? 0), bytes: Number(bytes) };
    if (at === undefined) block = yield* play.memory.take(play.bus, memory, block.bytes, Number(align));
    else play.memory.name(memory, block);
    if (byte !== undefined) yield* play.bus.fill(block.gpa, block.bytes, byte);
    if (digits !== undefined) yield* play.bus.write(block.gpa, hexBytes(digits));
  },
  *write(play: Play, step: StepOf<'write'>): Script<void> {
    const offset = play.number(step.offset ?? 0);
    const given = literal(step);
    if (given) yield* play.bus.write(play.memory.place(step.memory, offset, given.length), given);
    if (step.value === undefined) return;
    const bytes = step.bytes ?? 4;
    yield* play.bus.writeNumber(play.memory.place(step.memory, offset, bytes), bytes, play.value(step.value));
  },
  *fill(play: Play, step: StepOf<'fill'>): Script<void> {
    const offset = play.number(step.offset ?? 0);
    const count = step.count === undefined ? play.memory.at(step.memory).bytes - offset : play.number(step.count);
    yield* play.bus.fill(play.memory.place(step.memory, offset, count), count, step.byte);
  },
  *read(play: Play, step: StepOf<'read'>): Script<void> {
    const gpa = play.memory.place(step.memory, play.number((step.offset ?? 0) as Value), step.bytes);
    play.seen(step, yield* play.bus.readNumber(gpa, step.bytes));
  },
  compare,
  *same(play: Play, { left, right, as }: StepOf<'same'>): Script<void> {
    yield* play.bus.flush();
    play.observe(as, play.value(left) === play.value(right) ? 1 : 0);
  },
  host,
  *advance(play: Play, step: StepOf<'advance'>): Script<void> {
    yield* play.bus.advance(BigInt(step.ns));
  },
};
