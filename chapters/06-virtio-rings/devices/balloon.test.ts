import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bit, F, features, STATUS } from '../features.ts';
import { BalloonModel } from './balloon.ts';
import { BALLOON_F, BALLOON_S, queueRoles, queueSizes, rolesOf, VirtioBalloonStat } from './balloon-layout.ts';
import { cut, join, RAM_BYTES, Rig } from './laboratory.ts';

type BalloonOptions = ConstructorParameters<typeof BalloonModel>[0];

const PAGE = 4096;
const INFLATE = 0;
const DEFLATE = 1;
const STATS = 2;
const HINTS = 3;
const REPORTS = 4;

const make = (options: Partial<BalloonOptions> = {}) => {
  const calls: string[] = [];
  const rig = new Rig((clock) => new BalloonModel({ ramBytes: RAM_BYTES, clock, ...options }));
  const say = (what: string) => (address: number, bytes: number) => void calls.push(`${what} ${address / PAGE}+${bytes / PAGE}`);
  rig.model.onInflate = say('inflate');
  rig.model.onDeflate = say('deflate');
  rig.model.onReport = say('report');
  rig.model.hints.onHint = say('hint');
  return Object.assign(rig, { calls });
};

const ALL = { stats: true, hinting: true, poison: true, reporting: true, deflateOnOom: true, mustTellHost: true };

const le32 = (...numbers: number[]): Uint8Array => new Uint8Array(Uint32Array.from(numbers).buffer);
const stat = (tag: number, val: bigint): Uint8Array => VirtioBalloonStat.encode({ tag, val });

describe('which queue is which', () => {
  const exists =
    (...present: number[]) =>
    (feature: number) =>
      present.includes(feature);
  const { STATS_VQ, FREE_PAGE_HINT, PAGE_REPORTING } = BALLOON_F;

  it('has gaps by the text, and none by habit', () => {
    expect(queueRoles('specification', exists(STATS_VQ, PAGE_REPORTING))).toEqual(['inflateq', 'deflateq', 'statsq', null, 'reporting_vq']);
    expect(queueRoles('dense', exists(STATS_VQ, PAGE_REPORTING))).toEqual(['inflateq', 'deflateq', 'statsq', 'reporting_vq']);
    expect(queueRoles('specification', exists())).toEqual(['inflateq', 'deflateq']);
    expect(queueSizes('specification', exists(STATS_VQ, PAGE_REPORTING))).toEqual([128, 128, 128, 0, 32]);
    expect(queueSizes('dense', exists(STATS_VQ, PAGE_REPORTING))).toEqual([128, 128, 128, 32]);
    expect(queueSizes('either', exists(STATS_VQ, PAGE_REPORTING))).toEqual([128, 128, 128, 32, 32]);
    expect(queueSizes('either', exists(STATS_VQ))).toEqual([128, 128, 128]);
    expect(queueSizes('either', exists(STATS_VQ, FREE_PAGE_HINT, PAGE_REPORTING))).toEqual([128, 128, 128, 1024, 32]);
  });

  it('is found out from what the driver enables, for every choice of features of every device', () => {
    const optional = [STATS_VQ, FREE_PAGE_HINT, PAGE_REPORTING];
    const subsets = Array.from({ length: 8 }, (_, set) => optional.filter((_feature, index) => set & (1 << index)));
    for (const offered of subsets)
      for (const taken of subsets.filter((subset) => subset.every((feature) => offered.includes(feature))))
        for (const reading of ['specification', 'dense'] as const) {
          const roles = queueRoles(reading, exists(...taken));
          const enabled = roles.flatMap((role, index) => (role ? [index] : []));
          const sizes = queueSizes('either', exists(...offered));
          expect(enabled.every((index) => (sizes[index] ?? 0) > 0)).toBe(true);
          const found = rolesOf('either', exists(...taken), enabled);
          for (const index of enabled) expect(found[index]).toBe(roles[index]);
        }
  });

  for (const [reading, queue] of [
    ['text', 4],
    ['habit', 3],
  ] as const)
    it(`so that reports arrive from a driver that goes by ${reading}`, () => {
      const machine = make({ reporting: true }).start({ queues: [0, 1, 2, queue] });
      expect(machine.addPlaced(queue, [], [[0, PAGE]]).used).toBeNull();
      machine.kick(queue);
      expect(machine.calls).toEqual(['report 0+1']);
    });
});

describe('its configuration', () => {
  it('is as long as its features need, as in QEMU', () => {
    expect(make({ poison: false }).model.config.bytes).toBe(8);
    expect(make({ poison: false, hinting: true }).model.config.bytes).toBe(12);
    expect(make().model.config.bytes).toBe(16);
  });

  it('says how much the host wants, and tells the driver when that changes', () => {
    const machine = make().start();
    machine.model.target(RAM_BYTES - 10 * PAGE);
    expect([machine.model.config.read(0, 4), machine.configChanges]).toEqual([10, 1]);
    machine.model.target(RAM_BYTES - 10 * PAGE);
    expect(machine.configChanges).toBe(1);
    machine.model.target(RAM_BYTES * 2);
    expect([machine.model.config.read(0, 4), machine.configChanges]).toEqual([0, 2]);
    machine.model.target(PAGE + 1);
    expect(machine.model.config.read(0, 4)).toBe(RAM_BYTES / PAGE - 2 + 0);
    expect(() => machine.model.target(0)).toThrow('EINVAL');
    expect(() => machine.model.target(Number.NaN)).toThrow('EINVAL');
  });

  it('keeps the wish over a reset, and not what was in the balloon', () => {
    const machine = make().start();
    machine.model.target(RAM_BYTES / 2);
    machine.device.writeConfig(4, 4, 7);
    machine.start();
    expect([machine.model.config.read(0, 4), machine.model.config.read(4, 4), machine.model.actual]).toEqual([RAM_BYTES / 2 / PAGE, 0, RAM_BYTES]);
  });

  it('takes the actual size from the driver, a byte at a time if need be', () => {
    const machine = make().start({ features: 0n, legacy: true });
    const sizes: number[] = [];
    machine.model.onActual = (bytes) => void sizes.push(bytes / PAGE);
    [0x34, 0x12, 0, 0].forEach((byte, index) => {
      machine.device.writeConfig(4 + index, 1, byte);
    });
    expect(sizes).toEqual([0x1234]);
    machine.device.writeConfig(4, 4, 3);
    expect([sizes, machine.model.actual]).toEqual([[0x1234, 3], RAM_BYTES - 3 * PAGE]);
    machine.device.writeConfig(4, 4, 0xffff_ffff);
    expect(machine.model.actual).toBe(0);
  });

  it('has no other field for the driver to write, but poison_val until DRIVER_OK', () => {
    const machine = make(ALL);
    machine.start({ driverOk: false });
    for (const offset of [0, 8, 12]) machine.device.writeConfig(offset, 4, 0x1111_1111);
    expect([0, 8, 12].map((offset) => machine.device.readConfig(offset, 4))).toEqual([0, 0, 0x1111_1111]);
    machine.device.setStatus(machine.device.status | STATUS.DRIVER_OK);
    machine.device.writeConfig(12, 4, 0x2222_2222);
    expect(machine.device.readConfig(12, 4)).toBe(0x1111_1111);
    machine.start({ features: bit(F.VERSION_1), driverOk: false });
    machine.device.writeConfig(12, 4, 0x3333_3333);
    expect(machine.device.readConfig(12, 4)).toBe(0);
  });

  it('can insist on being told', () => {
    expect(() => make({ mustTellHost: 'required' }).start({ features: bit(F.VERSION_1) })).toThrow('refuses');
    make({ mustTellHost: 'required' }).start();
    make({ mustTellHost: true }).start({ features: bit(F.VERSION_1) });
    expect(make(ALL).model.features).toBe(features(0, 1, 2, 3, 4, 5));
    expect(make().model.features).toBe(features(BALLOON_F.STATS_VQ, BALLOON_F.PAGE_POISON));
  });
});

describe('inflating and deflating', () => {
  it('lets go of the pages, and of no other', () => {
    const machine = make().start();
    machine.memory.bytes.fill(0xaa, 100 * PAGE, 110 * PAGE);
    const request = machine.ask(INFLATE, [le32(101, 102, 105)]);
    expect([request.used, machine.notified, machine.calls]).toEqual([0, [INFLATE], ['inflate 101+2', 'inflate 105+1']]);
    const zero = Array.from({ length: 10 }, (_, page) =>
      machine.memory.bytes.subarray((100 + page) * PAGE, (101 + page) * PAGE).every((byte) => byte === 0),
    );
    expect(zero.flatMap((is, page) => (is ? [page] : []))).toEqual([1, 2, 5]);
    expect(machine.ask(DEFLATE, [le32(105, 101)]).used).toBe(0);
    expect(machine.calls.slice(2)).toEqual(['deflate 105+1', 'deflate 101+1']);
  });

  it('uses what the machine has for it', () => {
    const gone: number[] = [];
    const machine = make({ discard: { discard: (address, bytes) => void gone.push(address / PAGE, bytes / PAGE) } }).start();
    machine.memory.bytes.fill(0xaa, 50 * PAGE, 51 * PAGE);
    machine.ask(INFLATE, [le32(50)]);
    expect([gone, machine.memory.bytes[50 * PAGE]]).toEqual([[50, 1], 0xaa]);
  });

  it('passes over what is no RAM, takes a page twice, and drops what is left of a number', () => {
    const machine = make().start();
    const last = RAM_BYTES / PAGE - 1;
    const request = machine.ask(INFLATE, [le32(7, 7, last, last + 1, 0xffff_ffff, 0x000f_ffff, 6), Uint8Array.of(1, 2, 3)]);
    expect([request.used, machine.calls]).toEqual([0, ['inflate 7+1', 'inflate 7+1', `inflate ${last}+1`, 'inflate 6+1']]);
    expect(machine.device.failure).toBeNull();
    expect([machine.ask(INFLATE, [], [8]).used, machine.ask(INFLATE, [new Uint8Array(0)]).used]).toEqual([0, 0]);
  });

  it('does not depend on the framing', () => {
    const pages = fc.array(fc.nat({ max: RAM_BYTES / PAGE + 4 }), { maxLength: 40 });
    fc.assert(
      fc.property(pages, fc.array(fc.nat(), { maxLength: 12 }), (numbers, places) => {
        const run = (pieces: readonly Uint8Array[]): string[] => {
          const machine = make({ discard: { discard() {} } }).start();
          expect(machine.ask(INFLATE, pieces).used).toBe(0);
          return machine.calls;
        };
        const whole = run([le32(...numbers)]);
        expect(run(cut(le32(...numbers), places))).toEqual(whole);
        const listed = whole.flatMap((call) => {
          const [first, count] = (call.split(' ')[1] as string).split('+').map(Number) as [number, number];
          return Array.from({ length: count }, (_, index) => first + index);
        });
        expect(listed).toEqual(numbers.filter((page) => page < RAM_BYTES / PAGE));
      }),
    );
  });

  it('survives a list that is in a page of the list', () => {
    const machine = make().start();
    expect(machine.ask(INFLATE, [le32(0, 0, 1)]).used).toBe(0); // the rig's first buffer is in page 0
    expect(machine.device.failure).toBeNull();
  });

  it('takes turns when there is no end to it', () => {
    const machine = make({ discard: { discard() {} } }).start();
    let pages = 0;
    machine.model.onInflate = (_address, bytes) => {
      pages += bytes / PAGE;
    };
    const numbers = le32(...Array.from({ length: 16_384 }, (_, index) => index % 2));
    const request = machine.addPlaced(INFLATE, Array(3).fill(numbers), []);
    machine.kick(INFLATE);
    expect(request.used).toBeNull();
    expect(pages).toBeGreaterThan(0);
    expect(pages).toBeLessThan(3 * 16_384);
    machine.pass(0);
    machine.pass(0);
    expect([request.used, pages]).toEqual([0, 3 * 16_384]);
  });

  it('is finished with a list before it is suspended', () => {
    const machine = new Rig((clock) => new BalloonModel({ ramBytes: RAM_BYTES, clock, discard: { discard() {} } }), features(F.SUSPEND)).start();
    const numbers = le32(...Array.from({ length: 16_384 }, () => 1));
    const request = machine.addPlaced(INFLATE, Array(3).fill(numbers), []);
    machine.kick(INFLATE);
    machine.device.setStatus(machine.device.status | STATUS.SUSPEND);
    expect([request.used, machine.device.status & STATUS.SUSPEND]).toEqual([null, 0]);
    const next = machine.ask(INFLATE, [le32(1)]);
    for (let turn = 0; turn < 4; turn++) machine.pass(0);
    expect([request.used, next.used, machine.device.status & (STATUS.SUSPEND | STATUS.DRIVER_OK)]).toEqual([0, null, STATUS.SUSPEND]);
    machine.device.setStatus(machine.device.status | STATUS.DRIVER_OK);
    expect(next.used).toBe(0);
  });

  it('is told, when it wakes, what is wished for then', () => {
    const machine = new Rig((clock) => new BalloonModel({ ramBytes: RAM_BYTES, clock, hinting: true }), features(F.SUSPEND)).start();
    const config = () => [machine.device.readConfig(0, 4), machine.device.readConfig(8, 4)];
    const sleep = (): void => machine.device.setStatus(machine.device.status | STATUS.SUSPEND);
    sleep();
    machine.model.target(RAM_BYTES / 2);
    machine.model.target(RAM_BYTES);
    machine.device.setStatus(machine.device.status | STATUS.DRIVER_OK);
    expect(config()).toEqual([0, 0]);
    sleep();
    machine.model.target(RAM_BYTES / 2);
    machine.model.startHinting();
    machine.device.setStatus(0); // which ends a round of hints, and not the wish
    expect(config()).toEqual([RAM_BYTES / 2 / PAGE, 0]);
  });

  it('forgets a turn that is not over when the queue is reset', () => {
    const machine = make({ discard: { discard() {} } }).start({ features: make().device.offered & ~bit(F.NOTIFY_ON_EMPTY) & ~bit(F.ANY_LAYOUT) });
    const numbers = le32(...Array.from({ length: 16_384 }, () => 1));
    const request = machine.addPlaced(INFLATE, [numbers, numbers], []);
    machine.kick(INFLATE);
    machine.start();
    machine.pass(1);
    expect(request.used).toBeNull();
    expect(machine.ask(INFLATE, [le32(1)]).used).toBe(0);
  });
});

describe('statistics', () => {
  it('are kept with their buffer, which goes back when the host asks', () => {
    const machine = make().start();
    expect(machine.model.requestStats()).toBe(false);
    const first = machine.ask(STATS, [join([stat(BALLOON_S.MEMTOT, 1n << 40n), stat(BALLOON_S.MEMFREE, 5n)])]);
    expect([first.used, machine.model.stats()]).toEqual([null, { MEMTOT: 1n << 40n, MEMFREE: 5n }]);
    expect([machine.model.requestStats(), first.used, machine.notified]).toEqual([true, 0, [STATS]]);
    expect(machine.model.requestStats()).toBe(false);
    machine.ask(STATS, [stat(BALLOON_S.AVAIL, 9n)]);
    expect(machine.model.stats()).toEqual({ AVAIL: 9n });
  });

  it('come in any order and framing, with tags that nobody knows, and a tail', () => {
    const entries = fc.array(fc.tuple(fc.nat({ max: 20 }), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })), { maxLength: 20 });
    fc.assert(
      fc.property(entries, fc.array(fc.nat(), { maxLength: 8 }), fc.uint8Array({ maxLength: 9 }), (list, places, tail) => {
        const machine = make().start();
        machine.ask(STATS, cut(join([...list.map(([tag, val]) => stat(tag, val)), tail]), places));
        const names = Object.keys(BALLOON_S);
        expect(machine.model.stats()).toEqual(Object.fromEntries(list.flatMap(([tag, val]) => (names[tag] ? [[names[tag], val]] : []))));
      }),
    );
  });

  it('in a second buffer replace the first, which goes back', () => {
    const machine = make().start();
    const first = machine.ask(STATS, [stat(0, 1n)]);
    const second = machine.ask(STATS, [stat(1, 2n)]);
    expect([first.used, second.used, machine.model.stats()]).toEqual([0, null, { SWAP_OUT: 2n }]);
  });

  it('of the first buffer of a legacy driver are not believed', () => {
    const machine = make().start({ features: bit(BALLOON_F.STATS_VQ), legacy: true });
    machine.ask(STATS, [stat(0, 0xdeadn)]);
    expect([machine.model.stats(), machine.model.requestStats()]).toEqual([{}, true]);
    machine.ask(STATS, [stat(0, 1n)]);
    expect(machine.model.stats()).toEqual({ SWAP_IN: 1n });
  });

  it('are asked for at intervals', () => {
    const machine = make().start();
    machine.model.statistics.poll(1000);
    machine.pass(5e9); // there is no buffer yet
    let buffer = machine.ask(STATS, [stat(4, 1n)]);
    const started = machine.now;
    const answered: number[] = [];
    for (let round = 0; round < 3; round++) {
      while (buffer.used === null) machine.pass(1e8);
      answered.push(machine.now - started);
      machine.pass(5e8);
      buffer = machine.ask(STATS, [stat(4, 2n)]);
    }
    expect(answered).toEqual([1e9, 2.5e9, 4e9]);
    machine.model.statistics.poll(0);
    machine.pass(1e10);
    expect(buffer.used).toBeNull();
  });

  it('are nobody’s after a reset', () => {
    const machine = make().start();
    const held = machine.ask(STATS, [stat(0, 1n)]);
    machine.start();
    expect([machine.model.requestStats(), held.used, machine.model.stats()]).toEqual([false, null, {}]);
  });

  it('without the feature have no queue', () => {
    const machine = make({ reporting: true }).start({ features: bit(F.VERSION_1) });
    const nothing = machine.ask(STATS, [stat(0, 1n)]);
    expect([nothing.used, machine.model.stats()]).toEqual([null, {}]);
  });
});

describe('free page reporting', () => {
  const report = (machine: ReturnType<typeof make>, pieces: readonly (readonly [number, number])[]) => {
    const request = machine.addPlaced(REPORTS, [], pieces);
    machine.kick(REPORTS);
    return request;
  };

  it('lets go of whole pages', () => {
    const machine = make(ALL).start({
      features: make(ALL).device.offered & ~bit(BALLOON_F.PAGE_POISON) & ~bit(F.NOTIFY_ON_EMPTY) & ~bit(F.ANY_LAYOUT),
    });
    machine.memory.bytes.fill(0xaa);
    const request = report(machine, [
      [8 * PAGE, 2 * PAGE],
      [20 * PAGE + 1, PAGE],
      [30 * PAGE, PAGE - 1],
      [40 * PAGE, PAGE],
    ]);
    expect([request.used, machine.calls, machine.notified]).toEqual([0, ['report 8+2', 'report 40+1'], [REPORTS]]);
    const kept = [7, 8, 9, 10, 20, 21, 30, 40].map((page) => machine.memory.bytes[page * PAGE + 100]);
    expect(kept).toEqual([0xaa, 0, 0, 0xaa, 0xaa, 0xaa, 0xaa, 0]);
  });

  it('leaves pages alone that are poisoned with anything but zero', () => {
    for (const poison of [0, 0xaaaa_aaaa]) {
      const machine = make(ALL);
      const taken = machine.device.offered & ~bit(F.NOTIFY_ON_EMPTY) & ~bit(F.ANY_LAYOUT);
      machine.start({ features: taken, driverOk: false });
      machine.device.writeConfig(12, 4, poison);
      machine.device.setStatus(machine.device.status | STATUS.DRIVER_OK);
      machine.memory.bytes.fill(0xaa);
      expect(report(machine, [[PAGE, PAGE]]).used).toBe(0);
      expect([machine.memory.bytes[PAGE], machine.calls]).toEqual([poison === 0 ? 0 : 0xaa, ['report 1+1']]);
    }
  });

  it('is not there for a driver that did not take it', () => {
    const machine = make(ALL).start({ features: bit(F.VERSION_1) | bit(BALLOON_F.STATS_VQ) });
    expect(report(machine, [[PAGE, PAGE]]).used).toBeNull();
  });
});

describe('free page hinting', () => {
  const hinting = () => {
    const machine = make({ hinting: true }).start();
    const command = (id: number) => machine.ask(HINTS, [le32(id)]);
    const pages = (page: number, count = 1) => {
      const request = machine.addPlaced(HINTS, [], [[page * PAGE, count * PAGE]]);
      machine.kick(HINTS);
      return request;
    };
    const cmdId = () => machine.device.readConfig(8, 4);
    return { machine, command, pages, cmdId };
  };

  it('goes from a number to STOP, and what comes outside is not looked at', () => {
    const { machine, command, pages, cmdId } = hinting();
    expect(cmdId()).toBe(0);
    expect(pages(1).used).toBe(0);
    expect(machine.model.startHinting()).toBe(true);
    const id = cmdId();
    expect([id >= 2, machine.configChanges]).toEqual([true, 1]);
    pages(2);
    command(0); // the end of something older
    command(id - 1);
    pages(3);
    expect(machine.calls).toEqual([]);
    command(id);
    pages(4, 2);
    command(id); // once too often
    pages(6);
    expect(machine.calls).toEqual(['hint 4+2', 'hint 6+1']);
    let ends = 0;
    machine.model.hints.onEnd = () => void ends++;
    command(0);
    pages(7);
    expect([machine.calls.length, cmdId(), ends]).toEqual([2, 0, 1]);
    machine.model.startHinting();
    expect(cmdId()).not.toBe(id);
  });

  it('ends when the host says so, for now or for good', () => {
    const { machine, command, pages, cmdId } = hinting();
    machine.model.startHinting();
    const first = cmdId();
    command(first);
    machine.model.stopHinting();
    expect([cmdId(), machine.configChanges]).toEqual([0, 2]);
    pages(1);
    machine.model.startHinting();
    command(0);
    command(first);
    pages(2);
    expect(machine.calls).toEqual([]);
    command(cmdId());
    pages(3);
    machine.model.hints.finish();
    pages(4);
    expect([cmdId(), machine.calls]).toEqual([1, ['hint 3+1']]);
    machine.model.stopHinting();
    machine.model.hints.finish();
    expect([cmdId(), machine.configChanges]).toEqual([1, 4]);
  });

  it('takes no command that is not four bytes, and no part of a page', () => {
    const { machine, command, cmdId } = hinting();
    machine.model.startHinting();
    const id = le32(cmdId());
    for (const wrong of [new Uint8Array(0), id.subarray(0, 3), join([id, id])]) expect(machine.ask(HINTS, [wrong]).used).toBe(0);
    expect(machine.model.hints.state).toBe('requested');
    machine.ask(HINTS, [id.subarray(0, 1), id.subarray(1)]);
    expect(machine.model.hints.state).toBe('started');
    const odd = machine.addPlaced(
      HINTS,
      [],
      [
        [PAGE + 8, PAGE],
        [PAGE, 8],
      ],
    );
    machine.kick(HINTS);
    expect([odd.used, machine.calls, machine.device.failure]).toEqual([0, [], null]);
    command(0);
  });

  it('is not to be had from a driver that did not take it, and ends with a reset', () => {
    const { machine, cmdId } = hinting();
    machine.model.startHinting();
    machine.start();
    expect(cmdId()).toBe(0);
    machine.start({ features: bit(F.VERSION_1) });
    expect(machine.model.startHinting()).toBe(false);
  });

  it('never uses a number twice before all have been used', () => {
    const { machine, cmdId } = hinting();
    const seen = new Set<number>();
    for (let round = 0; round < 1000; round++) {
      machine.model.startHinting();
      expect(cmdId()).toBeGreaterThanOrEqual(2);
      seen.add(cmdId());
    }
    expect(seen.size).toBe(1000);
  });
});
