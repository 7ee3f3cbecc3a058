import { describe, expect, it } from 'vitest';
import { TX_CMD } from './descriptors.ts';
import { frame, MAC, PEER, rig, TX_RING } from './laboratory.ts';
import { CAUSE, CTRL, E1000, type E1000Register } from './registers.ts';

describe('interrupts', () => {
  it('are masked, set and cleared', () => {
    const r = rig();
    r.write('ICS', CAUSE.RXT0 | CAUSE.TXDW);
    expect(r.line).toEqual([]);
    r.write('IMS', CAUSE.RXT0);
    expect(r.line).toEqual([true]);
    r.write('IMC', CAUSE.RXT0);
    expect(r.line).toEqual([true, false]);
    r.write('IMS', CAUSE.TXDW);
    expect(r.read('IMS')).toBe(CAUSE.TXDW);
    r.write('ICR', CAUSE.TXDW);
    expect(r.line).toEqual([true, false, true, false]);
    expect(r.read('ICR')).toBe(CAUSE.RXT0);
    expect(r.read('ICR')).toBe(0);
  });

  it('are throttled', () => {
    const r = rig();
    r.write('ITR', 1000);
    r.write('IMS', CAUSE.RXT0);
    r.write('ICS', CAUSE.RXT0);
    r.read('ICR');
    const before = r.time();
    r.write('ICS', CAUSE.RXT0);
    expect(r.line).toEqual([true, false]);
    r.settle();
    expect(r.line).toEqual([true, false, true]);
    expect(r.time() - before).toBe(256_000);
  });

  it('a throttled interrupt whose cause has gone does not come', () => {
    const r = rig();
    r.write('ITR', 1000);
    r.write('IMS', CAUSE.RXT0);
    r.write('ICS', CAUSE.RXT0);
    r.read('ICR');
    r.write('ICS', CAUSE.RXT0);
    r.read('ICR');
    r.settle();
    expect(r.line).toEqual([true, false]);
  });

  it('for received frames wait for a pause, but not for ever', () => {
    const r = rig();
    r.write('RDTR', 100); // 102.4 µs after the last frame
    r.write('RADV', 150); // 153.6 µs after the first
    r.write('IMS', CAUSE.RXT0);
    for (const at of [0, 80_000, 160_000]) {
      r.until(at);
      r.far.send(frame(MAC)); // arrives 10 µs later
    }
    r.until(163_599);
    expect(r.line).toEqual([]);
    r.until(163_600);
    expect(r.line).toEqual([true]);
    r.read('ICR');
    r.until(170_000 + 102_399);
    expect(r.line).toEqual([true, false]);
    r.until(170_000 + 102_400);
    expect(r.line).toEqual([true, false, true]);
  });

  it('for sent frames wait only where the descriptor allows it', () => {
    const r = rig();
    r.write('TIDV', 100);
    r.write('IMS', CAUSE.TXDW);
    r.legacy(frame(PEER), { cmd: TX_CMD.EOP | TX_CMD.RS | TX_CMD.IDE });
    r.write('TDT', 1);
    expect(r.line).toEqual([]);
    r.settle();
    expect(r.line).toEqual([true]);
    r.read('ICR');
    r.legacy(frame(PEER));
    r.write('TDT', 2);
    expect(r.line).toEqual([true, false, true]);
  });
});

describe('registers', () => {
  it('statistics clear when read; octets are 64 bits', () => {
    const r = rig();
    r.legacy(frame(PEER, 96));
    r.legacy(frame(new Uint8Array(6).fill(255), 60));
    r.go();
    expect([r.read('GPTC'), r.read('GPTC')]).toEqual([2, 0]);
    expect([r.read('BPTC'), r.read('PTC64'), r.read('PTC127')]).toEqual([1, 1, 1]);
    expect([r.read('GOTCL'), r.read('GOTCH'), r.read('GOTCL')]).toEqual([164, 0, 0]);
  });

  it('a reset puts everything back and forgets what was waiting', () => {
    const r = rig();
    r.write('TIDV', 100);
    r.write('IMS', 0xffff);
    r.write('RAL', 1, 0);
    r.legacy(frame(PEER), { cmd: TX_CMD.EOP | TX_CMD.RS | TX_CMD.IDE });
    r.write('TDT', 1);
    r.write('CTRL', CTRL.RST);
    r.settle();
    expect(r.line.at(-1) ?? false).toBe(false);
    expect([r.read('IMS'), r.read('ICR'), r.read('TDT'), r.read('RCTL')]).toEqual([0, 0, 0, 0]);
    expect(r.read('RAL')).toBe(0x1200_5452);
    expect(r.read('RAH')).toBe(0x8000_5634);
    expect(r.read('CTRL') & CTRL.RST).toBe(0);
    r.init();
    r.arrive(frame(MAC));
    expect(r.read('RDH')).toBe(1);
  });

  it('are reached through two ports as well, which is how Linux resets this card', () => {
    const r = rig();
    r.nic.io.write(0, 4, BigInt(E1000.rows.RCTL.offset));
    expect(Number(r.nic.io.read(4, 4))).toBe(r.read('RCTL'));
    r.nic.io.write(0, 4, 0n);
    r.nic.io.write(4, 4, BigInt(CTRL.RST));
    expect(r.read('RCTL')).toBe(0);
    r.nic.io.write(0, 4, 0x000f_ffffn);
    expect(r.nic.io.read(4, 4)).toBe(0n);
  });

  it('gaps read as zero', () => {
    expect(rig().nic.registers.read(0x1_0000, 4)).toBe(0n);
  });
});

describe('hostile drivers', () => {
  it('rings outside memory, tails outside rings, endless packets: nothing moves, nothing hangs', () => {
    const r = rig();
    r.write('TDBAL', 0xffff_fff0);
    r.write('TDBAH', 0xffff_ffff);
    r.write('TDT', 5);
    expect(r.read('TDH')).toBe(0);
    r.write('TDBAL', TX_RING);
    r.write('TDBAH', 0);
    r.write('TDT', 0xffff);
    r.settle();
    r.write('RDBAL', 0xfff0_0000);
    r.arrive(frame(MAC));
    r.write('RDLEN', 0);
    r.arrive(frame(MAC));
    r.write('RDLEN', 128);
    r.write('RDH', 0xffff);
    r.arrive(frame(MAC));
    expect(r.memory.length).toBe(1 << 20);
  });

  it('random registers, rings and frames', () => {
    const r = rig({ ram: 1 << 18 });
    let seed = 99;
    const random = (limit: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) % limit;
    };
    const names = Object.keys(E1000.rows) as E1000Register[];
    const interesting: E1000Register[] = ['TDT', 'RDT', 'TCTL', 'RCTL', 'CTRL', 'TDH', 'RDH', 'TDLEN', 'RDLEN', 'IMS', 'ICR'];
    for (let step = 0; step < 20_000; step++) {
      const name = random(2) ? interesting[random(interesting.length)]! : names[random(names.length)]!;
      const value = random(3) === 0 ? random(1 << 24) * 256 : random(256);
      if (random(4) === 0) r.read(name);
      else if (name !== 'CTRL' || random(20) === 0) r.write(name, value);
      if (random(50) === 0) r.far.send(frame(random(2) ? MAC : PEER, 14 + random(1500)));
      if (random(50) === 0) r.memory[random(1 << 14)] = random(256);
      if (random(100) === 0) r.settle();
    }
    r.write('CTRL', CTRL.RST);
    r.settle();
    r.memory.fill(0);
    r.init();
    r.arrive(frame(MAC));
    expect(r.received(0).status & 3).toBe(3);
  });
});
