import { describe, expect, it } from 'vitest';
import { TimerQueue } from '../../02-kvm-objects/clock.ts';
import { PM_TIMER_HZ, type PmChip, PowerManagement } from './pm.ts';
import { nsAtTick, ticksAt } from './ticks.ts';

function block(timerBits: 24 | 32 = 24, chip: PmChip = 'ich9') {
  let now = 0;
  let off = 0;
  const clock = new TimerQueue(() => now);
  const levels: boolean[] = [];
  const pm = new PowerManagement({ clock, sci: { set: (level) => levels.push(level) }, onPowerOff: () => void off++, timerBits, chip });
  return {
    pm,
    levels,
    clock,
    get off() {
      return off;
    },
    get: (offset: number, width: 1 | 2 | 4 = 2) => Number(pm.registers.read(offset, width)),
    set: (offset: number, value: number, width: 1 | 2 | 4 = 2) => pm.registers.write(offset, width, BigInt(value)),
    at(ns: number) {
      now = ns;
      clock.runDue();
    },
  };
}

describe('ticks', () => {
  it('are exact both ways for days', () => {
    for (const hz of [PM_TIMER_HZ, 32_768, 1_193_182])
      for (const tick of [0, 1, 2, 8_388_607, 8_388_608, hz, hz * 86_400 * 100 + 12_345]) {
        const ns = nsAtTick(tick, hz);
        expect(ticksAt(ns, hz)).toBe(tick);
        if (ns > 0) expect(ticksAt(ns - 1, hz)).toBe(tick - 1);
      }
  });
});

describe('the PM timer', () => {
  it('counts at its frequency, in 24 bits or 32', () => {
    for (const [bits, seconds, value] of [
      [24, 1, PM_TIMER_HZ],
      [24, 5, (5 * PM_TIMER_HZ) % 2 ** 24],
      [32, 5, 5 * PM_TIMER_HZ],
      [32, 1300, (1300 * PM_TIMER_HZ) % 2 ** 32],
    ] as const) {
      const { get, at } = block(bits);
      at(seconds * 1e9);
      expect(get(8, 4)).toBe(value);
    }
  });
  it('marks each change of its highest bit, and only then', () => {
    const { get, set, at } = block();
    const carry = nsAtTick(2 ** 23, PM_TIMER_HZ);
    at(carry - 1);
    expect(get(0)).toBe(0);
    at(carry);
    expect([get(8, 4), get(0)]).toEqual([2 ** 23, 1]);
    set(0, 1);
    expect(get(0)).toBe(0);
    at(2 * carry + 10);
    expect(get(0)).toBe(1); // back to zero is a change too
  });
  it('interrupts when asked, and needs no waking otherwise', () => {
    const { get, set, at, levels, clock } = block();
    set(4, 1);
    expect(clock.next).toBe(null);
    set(2, 1);
    const carry = nsAtTick(2 ** 23, PM_TIMER_HZ);
    expect(clock.next).toBe(carry);
    at(carry);
    expect([levels, clock.next, get(0)]).toEqual([[true], null, 1]);
    set(0, 1);
    expect([levels, clock.next]).toEqual([[true, false], nsAtTick(2 ** 24, PM_TIMER_HZ)]);
  });
});

describe('power', () => {
  it('goes off by the sleep type of "off", old or new, and by nothing else', () => {
    const { set, get, off } = block();
    expect(off).toBe(0);
    for (let type = 0; type < 8; type++) {
      const machine = block();
      machine.set(4, 0x2001 | (type << 10));
      expect([type, machine.off]).toEqual([type, type === 0 || type === 7 ? 1 : 0]);
      expect(machine.get(4)).toBe(0x0001 | (type << 10)); // SLP_EN reads as zero
    }
    set(4, 0x1c00);
    expect(get(4)).toBe(0x1c00);
    const bytewise = block();
    bytewise.set(5, 0x20, 1); // the upper byte alone, type 0
    expect(bytewise.off).toBe(1);
  });
  it('has a button, which is a request', () => {
    const { pm, set, get, levels } = block();
    pm.apm.write(0, 1, 2n); // ACPI_ENABLE
    expect(get(4)).toBe(1);
    pm.pressPowerButton();
    expect([get(0), levels]).toEqual([0x100, []]);
    set(2, 0x100);
    expect(levels).toEqual([true]);
    set(0, 0x001); // clears something else
    expect([get(0), levels]).toEqual([0x100, [true]]);
    set(0, 0x100);
    expect([get(0), levels]).toEqual([0, [true, false]]);
  });
  it('raises SCI only in ACPI mode', () => {
    const { pm, set, levels } = block();
    set(2, 0x100);
    pm.pressPowerButton();
    expect(levels).toEqual([]);
    pm.apm.write(0, 1, 2n);
    pm.apm.write(0, 1, 3n);
    expect(levels).toEqual([true, false]);
  });
});

describe('the rest of the block', () => {
  it('says that SMM is set up, whatever is written', () => {
    const { get, set } = block();
    set(0x30, 0, 4);
    expect(get(0x30, 4)).toBe(0x20);
  });
  it('has general-purpose events', () => {
    const { pm, get, set, levels } = block();
    set(4, 1);
    pm.raiseGpe(33);
    set(0x2c, 2, 4);
    expect([get(0x24, 4), levels]).toEqual([2, [true]]);
    set(0x24, 2, 1);
    expect([get(0x24, 4), levels]).toEqual([0, [true, false]]);
  });
  it('has a watchdog that bites nobody', () => {
    const { get, set, clock } = block();
    expect([get(0x72), get(0x6a), get(0x70, 1)]).toEqual([4, 8, 3]);
    set(0x72, 0x123);
    set(0x68, 0);
    expect([get(0x72), clock.next]).toEqual([0x123, null]);
  });
  it('comes back from a reset as it was', () => {
    const machine = block();
    const before = Array.from({ length: 128 }, (_, offset) => machine.get(offset, 1));
    for (let offset = 0; offset < 128; offset++) if (offset !== 5) machine.set(offset, 0xff, 1);
    machine.pm.pressPowerButton();
    machine.pm.reset();
    expect(Array.from({ length: 128 }, (_, offset) => machine.get(offset, 1))).toEqual(before);
  });
  it('remembers two bytes at the APM ports', () => {
    const { pm } = block();
    pm.apm.write(0, 2, 0x1234n);
    expect([pm.apm.read(0, 1), pm.apm.read(1, 1), pm.apm.read(0, 2)]).toEqual([0x34n, 0x12n, 0x1234n]);
  });
});

describe('the older chip', () => {
  it('has its events in sixteen bits, elsewhere', () => {
    const machine = block(24, 'piix4');
    machine.set(4, 1);
    machine.pm.raiseGpe(3);
    machine.set(0x0e, 0xffff);
    expect([machine.get(0x0c), machine.get(0x0c, 4), machine.get(0x20), machine.levels]).toEqual([8, 0xffff_0008, 0, [true]]);
    machine.set(0x0c, 8);
    expect([machine.get(0x0c), machine.levels]).toEqual([0, [true, false]]);
  });
  it('counts, and goes off, where the younger does', () => {
    const machine = block(24, 'piix4');
    machine.at(nsAtTick(1000, PM_TIMER_HZ));
    expect(machine.get(8, 4)).toBe(1000);
    machine.set(4, 0x2000);
    expect([machine.off, machine.get(4)]).toEqual([1, 0]);
  });
  it('keeps what has no consequence, until a reset', () => {
    const machine = block(24, 'piix4');
    machine.set(0x28, 0x1234_5678, 4);
    machine.set(0x36, 0x5a, 1);
    expect([machine.get(0x28, 4), machine.get(0x34, 4), machine.get(0x30, 1)]).toEqual([0x1234_5678, 0x005a_0000, 0]);
    machine.pm.reset();
    expect([machine.get(0x28, 4), machine.get(0x34, 4)]).toEqual([0, 0]);
  });
});
