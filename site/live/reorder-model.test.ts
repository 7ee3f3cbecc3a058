import { describe, expect, it } from 'vitest';
import type { Access, Machine } from '../../chapters/06-virtio-rings/litmus.ts';
import {
  type Asked,
  accessOf,
  answer,
  askedAsWritten,
  consequence,
  exchanged,
  hasOrder,
  MACHINES,
  type Moment,
  QUESTION_NAMES,
  QUESTIONS,
  readAsked,
  type Side,
  sentence,
  stripped,
  writeAsked,
} from './reorder-model.ts';

const breaks = (asked: Asked): boolean[] => MACHINES.map((machine) => answer(asked).breaks[machine]);
const broken = (asked: Asked): Machine[] => {
  const found = answer(asked).breaks;
  return MACHINES.filter((machine) => found[machine]);
};
/** All orders of a side. */
function orders(side: Side): Side[] {
  if (side.length < 2) return [side];
  return side.flatMap((first, at) => orders(side.filter((_, index) => index !== at)).map((rest) => [first, ...rest]));
}
/** Every arrangement of a question in which only one side was touched. */
function arrangements(name: Asked['name']): Asked[] {
  const plain = askedAsWritten(name);
  return ([0, 1] as const).flatMap((index) =>
    orders(plain.sides[index]).flatMap((side) => {
      const all = side.flatMap((placed, row) => (hasOrder(accessOf(plain, index, placed) as Access) ? [row] : []));
      const arranged: Asked = { ...plain, sides: index === 0 ? [side, plain.sides[1]] : [plain.sides[0], side] };
      return [arranged, ...all.map((row) => stripped(arranged, index, row))];
    }),
  );
}

describe('the address bar', () => {
  it('holds every arrangement', () => {
    for (const name of QUESTION_NAMES)
      for (const asked of arrangements(name))
        for (const machine of MACHINES) {
          const fields = new URLSearchParams();
          writeAsked({ ...asked, machine, step: 3 }, fields);
          expect(readAsked(new URLSearchParams(String(fields)))).toEqual({ ...asked, machine, step: 3 });
        }
  });
  it('cannot be given what does not exist', () => {
    const plain = askedAsWritten('used');
    for (const text of ['left=a', 'left=aa', 'left=abc', 'left=Ab', 'right=zz', 'ask=what', 'machine=vax', 'step=-1'])
      expect(readAsked(new URLSearchParams(text)), text).toEqual(plain); // the first access of `used` has no order to lose
  });
});

describe('a question', () => {
  it('is answered well as it is written, on every machine', () => {
    for (const name of QUESTION_NAMES) expect(breaks(askedAsWritten(name)), name).toEqual([false, false, false]);
  });
  it('about handing over: a lost release or acquire is seen on weak machines only', () => {
    expect(breaks(stripped(askedAsWritten('used'), 0, 1))).toEqual([false, false, true]);
    expect(breaks(stripped(askedAsWritten('used'), 1, 0))).toEqual([false, false, true]);
    expect(breaks(stripped(askedAsWritten('available'), 0, 2))).toEqual([false, false, true]);
  });
  it('about going to sleep: one lost fence is enough on x86', () => {
    for (const side of [0, 1] as const) expect(breaks(stripped(askedAsWritten('sleep'), side, 1))).toEqual([false, true, true]);
  });
  it('is answered badly everywhere when the index moves first', () => {
    const moved = exchanged(askedAsWritten('used'), 0, 0);
    expect(breaks(moved)).toEqual([true, true, true]);
    expect(exchanged(moved, 0, 0)).toEqual(askedAsWritten('used'));
    expect(exchanged(moved, 0, 1)).toEqual(moved); // nothing stands below the last
    expect(breaks(exchanged(askedAsWritten('available'), 0, 0))).toEqual([false, false, false]); // two stores that nothing counts yet
  });
});

describe('an execution that fails', () => {
  it('ends as it must not, whatever the arrangement, and means something to a ring', () => {
    let failing = 0;
    for (const name of QUESTION_NAMES)
      for (const arranged of arrangements(name))
        for (const machine of broken(arranged)) {
          const end = answer({ ...arranged, machine }).moments.at(-1) as Moment;
          failing++;
          expect(QUESTIONS[name].question.bad(end.loaded)).toBe(true);
          expect(end.queues.flat()).toEqual([]);
          const { late, happened, fields } = consequence(name, end.loaded);
          expect(late.size, JSON.stringify(end.loaded)).toBeGreaterThan(0);
          for (const place of late.keys()) expect(fields.has(place)).toBe(true);
          expect(happened).not.toContain('undefined');
        }
    expect(failing).toBeGreaterThan(50);
  });

  it('has a sentence for each step, in which queues exist on x86 only', () => {
    const tell = (machine: Machine): string[] => {
      const asked = { ...stripped(askedAsWritten('sleep'), 0, 1), machine };
      return answer(asked).moments.map((moment) => sentence(asked, moment));
    };
    expect(tell('x86').filter((text) => text.includes('queue'))).toHaveLength(4);
    expect(tell('weak').join(' ')).not.toContain('queue');
    expect(tell('weak').some((text) => text.includes('finds 0'))).toBe(true);
    expect(tell('in order')).toEqual([]);
  });
});

describe('what it means', () => {
  it('is a length of the lap before', () => {
    const { late, fields, happened } = consequence('used', { idx: 1, len: 0 });
    expect([...late]).toEqual([['used.ring[0].len', { seen: 16, written: 64 }]]);
    expect(fields.get('used.ring[0].len')).toBe(16);
    expect(happened).toContain('is told 16');
  });
  it('is a chain that leads elsewhere', () => {
    const stale = consequence('available', { idx: 1, head: 7, addr: 0 });
    expect([...stale.late.keys()]).toEqual(['desc[0].addr']);
    expect(stale.followed).toEqual(['desc[0].addr']);
    const wrong = consequence('available', { idx: 1, head: 0, addr: 0x1000 });
    expect([...wrong.late.keys()]).toEqual(['avail.ring[2]']);
    expect(wrong.followed).toEqual(['desc[2].addr']);
    for (const { happened } of [stale, wrong]) expect(happened).toContain('somebody else’s');
    expect(consequence('available', { idx: 1, head: 0, addr: 0 }).late.size).toBe(2);
  });
  it('is a request in the ring, and nobody awake', () => {
    const { late, happened } = consequence('sleep', { wanted: 0, seen: 0 });
    expect([...late.keys()].sort()).toEqual(['avail.idx', 'avail_event']);
    for (const words of ['no kick', 'nothing to do', '1 request is in the ring']) expect(happened).toContain(words);
  });
});
