// # Steps: queues and what is in them

import { hex } from '../values.ts';
import { bytesOf, type Script, Stuck } from './bus.ts';
import type { Driver } from './driver.ts';
import type { Play } from './interpret.ts';
import { DESC_BYTES, type DescPlan, descBytes, F_AVAIL, F_INDIRECT, F_NEXT, F_USED, F_WRITE, indirectTable } from './rings.ts';
import { SplitRing } from './split.ts';
import { type Buffer, ScriptError, type StepOf, type Value } from './steps.ts';
import { queuePlan } from './steps-device.ts';

const FLAGS: Readonly<Record<string, number>> = { next: F_NEXT, write: F_WRITE, indirect: F_INDIRECT, avail: F_AVAIL, used: F_USED };

function flagsOf(play: Play, flags: readonly string[] | Value): number {
  if (!Array.isArray(flags)) return play.number(flags as Value);
  return (flags as readonly string[]).reduce((bits, name) => bits | (FLAGS[name] as number), 0);
}

function addressOf(play: Play, { memory, offset = 0, addr }: Pick<Buffer, 'memory' | 'offset' | 'addr'>): bigint {
  if (addr !== undefined) return play.value(addr);
  if (memory === undefined) throw new ScriptError("a buffer is in some 'memory' or at some 'addr'");
  return BigInt(play.memory.at(memory).gpa) + play.value(offset);
}

const planOf = (play: Play, buffer: Buffer): DescPlan => ({
  addr: addressOf(play, buffer),
  len: play.value(buffer.bytes),
  writable: buffer.writable ?? false,
  ...(buffer.flags !== undefined && { flags: flagsOf(play, buffer.flags) }),
  ...(buffer.next !== undefined && { next: play.value(buffer.next) }),
});

function* chain(play: Play, step: StepOf<'chain'>): Script<void> {
  const driver = yield* play.driver(step);
  const { ring } = driver.at(step.queue);
  const options = { publish: step.publish ?? true, ...(step.id !== undefined && { id: play.number(step.id) }) };
  for (let round = 0; round < (step.repeat ?? 1); round++) {
    let descs: readonly DescPlan[] = step.buffers.map((buffer) => planOf(play, buffer));
    if (step.indirect) {
      const table = yield* play.memory.take(play.bus, null, descs.length * DESC_BYTES);
      yield* play.bus.write(table.gpa, indirectTable(descs, driver.packed));
      descs = [{ addr: BigInt(table.gpa), len: BigInt(table.bytes), writable: false, flags: F_INDIRECT }];
    }
    yield* ring.chain(descs, options);
  }
}

function* desc(play: Play, step: StepOf<'desc'>): Script<void> {
  const driver = yield* play.driver(step);
  const link = play.value(step.next ?? step.id ?? 0);
  const parts = { addr: play.value(step.addr), len: play.value(step.bytes), flags: flagsOf(play, step.flags), link };
  const index = play.number(step.index);
  if (step.table === undefined) yield* driver.at(step.queue).ring.raw({ index, ...parts });
  else yield* play.bus.write(play.memory.place(step.table, index * DESC_BYTES, DESC_BYTES), descBytes(parts, driver.packed));
}

/** @throws ScriptError for a packed ring, which has no such area */
function splitRing(driver: Driver, queue: number): SplitRing {
  const { ring } = driver.at(queue);
  if (!(ring instanceof SplitRing)) throw new ScriptError('a packed ring has no available ring');
  return ring;
}

function* used(play: Play, step: StepOf<'used'>): Script<void> {
  const { ring } = (yield* play.driver(step)).at(step.queue);
  yield* ring.poll();
  const { as, get = step.element === undefined ? ['count'] : ['chain', 'len'] } = step;
  if (get.includes('count')) play.observe(`${as}.count`, ring.used.length);
  if (step.element === undefined) return;
  const element = ring.used[Number(step.element)];
  if (!element) throw new Stuck(`used element ${step.element} is not there: ${ring.used.length} have come back`);
  if (get.includes('chain')) play.observe(`${as}.chain`, element.chain ?? -1);
  if (get.includes('id')) play.observe(`${as}.id`, element.id);
  if (get.includes('len') && element.len !== null) play.observe(`${as}.len`, element.len);
}

// ## What a driver that polls would see
//
// Which of two stores comes first is nothing that a script can see from outside: when its access ends, both are done. A host that knows its device's
// stores can help: it keeps what memory holds at the moment at which the device announces a buffer. All that the announcement promises must be there
// by then.

function* watch(play: Play, step: StepOf<'watch'>): Script<void> {
  const { ring } = (yield* play.driver(step)).at(step.queue);
  yield* ring.poll();
  const { announced, described } = ring.next;
  const ranges = [described, ...(step.memory === undefined ? [] : [play.memory.at(step.memory)])];
  play.watched = ranges;
  yield* play.bus.ask({
    do: 'host',
    device: step.device ?? 0,
    action: 'watch',
    gpa: hex(announced.gpa),
    bytes: announced.bytes,
    ranges: ranges.map(({ gpa, bytes }) => ({ gpa: hex(gpa), count: bytes })),
  });
}

function* watched(play: Play, step: StepOf<'watched'>): Script<void> {
  const result = yield* play.bus.ask({ do: 'host', device: step.device ?? 0, action: 'watched' });
  if (result.data === undefined) throw new Stuck(`queue ${step.queue} has announced nothing`);
  const names = ['described', 'written'];
  const then = bytesOf(
    result,
    play.watched.reduce((sum, { bytes }) => sum + bytes, 0),
  );
  let at = 0;
  for (const [i, { gpa, bytes }] of play.watched.entries()) {
    const now = yield* play.bus.read(gpa, bytes);
    const from = at;
    play.observe(`${step.as}.${names[i]}`, now.every((byte, j) => byte === then[from + j]) ? 1 : 0);
    at += bytes;
  }
}

export const RING_STEPS = {
  watch,
  watched,
  *queue(play: Play, step: StepOf<'queue'>): Script<void> {
    yield* (yield* play.driver(step)).queue(queuePlan(play, step));
  },
  desc,
  chain,
  *publish(play: Play, step: StepOf<'publish'>): Script<void> {
    yield* (yield* play.driver(step)).at(step.queue).ring.publish();
  },
  *avail(play: Play, step: StepOf<'avail'>): Script<void> {
    const ring = splitRing(yield* play.driver(step), step.queue);
    if (step.flags !== undefined) yield* play.bus.writeNumber(ring.areas.driver.gpa, 2, play.value(step.flags));
    if (step.heads === undefined && step.idx === undefined) return;
    yield* ring.avail(
      (step.heads ?? []).map((head) => play.number(head)),
      step.idx === undefined ? undefined : play.number(step.idx),
    );
  },
  *kick(play: Play, step: StepOf<'kick'>): Script<void> {
    const driver = yield* play.driver(step);
    yield* driver.kick(step.queue, step.value === undefined ? null : play.value(step.value), step.bytes);
  },
  *wait(play: Play, step: StepOf<'wait'>): Script<void> {
    const driver = yield* play.driver(step);
    const came = yield* driver.waitUsed(step.queue, Number(step.used));
    if (step.as !== undefined) play.observe(step.as, came ? 1 : 0);
    else if (!came) {
      const { used: back } = driver.at(step.queue).ring;
      throw new Stuck(`queue ${step.queue} gave back ${back.length} buffers, where ${step.used} were waited for`);
    }
  },
  used,
  *event(play: Play, step: StepOf<'event'>): Script<void> {
    const driver = yield* play.driver(step);
    const { want } = step;
    if (want !== undefined) yield* driver.want(step.queue, want === 'always' || want === 'never' ? want : play.value(want));
    if (step.as === undefined) return;
    const { flags, event } = yield* driver.at(step.queue).ring.wanted();
    play.observe(`${step.as}.flags`, flags);
    play.observe(`${step.as}.event`, event);
  },
  *'queue-reset'(play: Play, step: StepOf<'queue-reset'>): Script<void> {
    const value = yield* (yield* play.driver(step)).resetQueue(step.queue);
    if (step.as !== undefined) play.observe(step.as, value);
    else if (value !== 0n) throw new Stuck(`queue_reset of queue ${step.queue} stays ${value}`);
  },
};
