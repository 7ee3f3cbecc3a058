import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { ApicTimer, MIN_PERIOD_NS } from './apic-timer.ts';

const [ONE_SHOT, PERIODIC, TSC_DEADLINE] = [0, 1, 2];

function bench({ minPeriodNs = 0, khz = 100_000 } = {}) {
  let now = 1000;
  let fired = 0;
  let offset = 0n;
  const queue = new TimerQueue(() => now);
  const tsc = { now: (): bigint => (BigInt(now) * BigInt(khz)) / 1_000_000n + offset, khz };
  const timer = new ApicTimer({ clock: queue, tsc, minPeriodNs, onExpire: () => fired++ });
  timer.divide = 1;
  return {
    timer,
    queue,
    tsc,
    at: () => now,
    /** Lets time pass; how often it fired. */
    pass: (ns: number): number => {
      const end = now + ns;
      const before = fired;
      while (queue.next !== null && queue.next <= end) {
        now = Math.max(now, queue.next);
        queue.runDue();
      }
      now = end;
      return fired - before;
    },
    /** Nobody looks for so long. */
    oversleep: (ns: number): number => {
      now += ns;
      const before = fired;
      queue.runDue();
      return fired - before;
    },
    shiftTsc: (by: bigint) => {
      offset += by;
    },
  };
}

describe('the local APIC timer, counting', () => {
  it('fires once, at zero, and stays there', () => {
    const { timer, pass } = bench();
    timer.start(500);
    expect(timer.currentCount).toBe(500);
    expect([pass(1), timer.currentCount]).toEqual([0, 499]);
    expect([pass(498), timer.currentCount]).toEqual([0, 1]);
    expect([pass(1), timer.currentCount]).toEqual([1, 0]);
    expect([pass(5000), timer.currentCount]).toEqual([0, 0]);
  });

  it.each([1, 2, 4, 8, 16, 32, 64, 128])('divides by %d', (divide) => {
    const { timer, pass } = bench();
    timer.divide = divide;
    timer.start(100);
    pass(10 * divide);
    expect(timer.currentCount).toBe(90);
    expect(pass(90 * divide - 1)).toBe(0);
    expect(pass(1)).toBe(1);
  });

  it('repeats in periodic mode', () => {
    const { timer, pass } = bench();
    timer.mode = PERIODIC;
    timer.start(100);
    expect(pass(1050)).toBe(10);
    expect(timer.currentCount).toBe(50);
  });

  it('tells several missed rounds as one, and keeps its phase', () => {
    const { timer, oversleep, pass } = bench();
    timer.mode = PERIODIC;
    timer.start(100);
    expect(oversleep(1_000_000_030)).toBe(1);
    expect(timer.currentCount).toBe(70);
    expect(pass(69)).toBe(0);
    expect(pass(1)).toBe(1);
  });

  it('limits a period from below, as KVM does, but not a single shot', () => {
    const { timer, pass } = bench({ minPeriodNs: MIN_PERIOD_NS });
    timer.start(10);
    expect(pass(10)).toBe(1);
    timer.mode = PERIODIC;
    timer.start(10);
    expect(pass(1_000_000)).toBe(5);
  });

  it('stops when zero is written', () => {
    const { timer, pass, queue } = bench();
    timer.start(100);
    timer.start(0);
    expect([pass(1000), queue.next, timer.currentCount]).toEqual([0, null, 0]);
  });

  it('keeps its count when the divider changes, and goes on at the new speed', () => {
    const { timer, pass } = bench();
    timer.start(1000);
    pass(400);
    timer.divide = 4;
    expect(timer.currentCount).toBe(600);
    expect(pass(2399)).toBe(0);
    expect(pass(1)).toBe(1);
  });

  it('goes on when it changes between one-shot and periodic', () => {
    const { timer, pass } = bench();
    timer.start(100);
    pass(50);
    timer.mode = PERIODIC;
    expect(pass(250)).toBe(3);
    timer.mode = ONE_SHOT;
    expect(pass(1000)).toBe(1);
  });

  it('is restored with what was left of its round', () => {
    const { timer, pass } = bench();
    timer.mode = PERIODIC;
    timer.start(100, 30);
    expect(pass(29)).toBe(0);
    expect(pass(1 + 100)).toBe(2);
    timer.mode = ONE_SHOT;
    timer.start(100, 0); // had fired
    expect([pass(1000), timer.currentCount]).toEqual([0, 0]);
  });
});

describe('the local APIC timer, with a deadline', () => {
  it('fires when the counter passes it, and reads zero then', () => {
    const { timer, tsc, pass } = bench();
    timer.mode = TSC_DEADLINE;
    const deadline = tsc.now() + 50n; // 10 ns each
    timer.deadline = deadline;
    expect([timer.deadline, timer.currentCount]).toEqual([deadline, 0]);
    expect(pass(499)).toBe(0);
    expect(pass(1)).toBe(1);
    expect(timer.deadline).toBe(0n);
  });

  it('fires at once for a moment that has passed', () => {
    const { timer, tsc, pass } = bench();
    timer.mode = TSC_DEADLINE;
    timer.deadline = tsc.now();
    expect(timer.deadline).toBe(0n);
    expect(pass(100)).toBe(0);
  });

  it('is disarmed by zero and by another mode', () => {
    const { timer, tsc, pass } = bench();
    timer.mode = TSC_DEADLINE;
    timer.deadline = tsc.now() + 10n;
    timer.deadline = 0n;
    expect(pass(1000)).toBe(0);
    timer.deadline = tsc.now() + 10n;
    timer.mode = ONE_SHOT;
    timer.mode = TSC_DEADLINE;
    expect([pass(1000), timer.deadline]).toEqual([0, 0n]);
  });

  it('ignores a deadline in another mode, and a count in this one', () => {
    const { timer, tsc, pass, queue } = bench();
    timer.deadline = tsc.now() + 10n;
    timer.mode = TSC_DEADLINE;
    timer.start(10);
    expect([pass(1000), queue.next, timer.initialCount]).toEqual([0, null, 0]);
  });

  it('moves with the counter', () => {
    const { timer, tsc, pass, shiftTsc } = bench();
    timer.mode = TSC_DEADLINE;
    timer.deadline = tsc.now() + 100n;
    shiftTsc(50n);
    timer.tscChanged();
    expect(pass(499)).toBe(0);
    expect(pass(1)).toBe(1);
  });

  it('is never early, whatever the ratio, and holds the farthest moment', () => {
    const { timer, tsc, pass, queue } = bench({ khz: 2_999_999 });
    timer.mode = TSC_DEADLINE;
    const deadline = tsc.now() + 1n;
    timer.deadline = deadline;
    pass(2);
    expect([timer.deadline, tsc.now() >= deadline]).toEqual([0n, true]);
    timer.deadline = 2n ** 64n - 1n;
    expect([queue.next, timer.deadline]).toEqual([null, 2n ** 64n - 1n]);
  });
});
