// # The runs that the text quotes

import { describe, expect, it } from 'vitest';
import { FRAMES, SECTORS } from '../operations.ts';
import { arranged, asked, bells, card, diskCosts, ecam, frameCosts, frameTraffic, interruptExits, ports, saved } from './index.ts';

describe('recorded runs', () => {
  it('find the ports that a PC has', () => {
    expect(ports.claimed).toBeGreaterThan(200);
    expect(ecam).toEqual({ base: 0xb000_0000, bytes: 256 << 20 });
  });

  it('change a register by reading it', () => expect(asked).toEqual({ count: 7, passed: true }));

  it('size a BAR, and find it in one place at a time', () => {
    expect(card.bytes).toBe(128 << 10);
    expect(card.moves.map(({ to, onBus }) => onBus.length === 1 && onBus[0] === to)).toEqual([true, true, true]);
    expect(card.moves.map(({ exits }) => exits)).toEqual([true, true, false]);
  });

  it('make the same exits wherever the controllers are, and settle them elsewhere', () => {
    expect(new Set([arranged.on.exits, arranged.split.exits, arranged.off.exits]).size).toBe(1);
    expect(arranged.off.kernel).toBe(0);
    expect(arranged.on.user).toBe(interruptExits.on.find(({ reason }) => reason === 'IO_INSTRUCTION')?.user);
    expect(arranged.split.user - arranged.on.user).toBe(10); // the level-triggered EOIs
  });

  it('count what virtual interrupts would save', () => {
    expect(saved).toMatchObject({ page: saved.eoi + saved.self + saved.timer, eoi: 30, windows: 10 });
    expect(saved.left).toBe(arranged.on.exits - 40);
  });

  it('ring a bell without anybody being called', () => expect(bells).toEqual({ rings: 100, counted: 101 }));

  it('read sectors at a price that depends on who moves the data', () => {
    expect([diskCosts.words.data, diskCosts.string.data, diskCosts.master.data]).toEqual([256 * SECTORS, SECTORS, 0]);
    expect(diskCosts.master.exits).toBeLessThan(20);
  });

  it('send frames for three accesses each', () => {
    expect(frameTraffic).toMatchObject({ sent: FRAMES, received: FRAMES, interrupts: FRAMES });
    expect(frameCosts).toEqual({ perFrame: 5, userPerFrame: 3 });
  });
});
