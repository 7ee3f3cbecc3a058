// # Moments drawn by lot
//
// A test that saves at moments that its author chose finds the mistakes that its author thought of. Here a seed draws the moment: how long a turn is, so that
// it ends between any two instructions, and after how many turns the machine is saved.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { MachineConfig } from '../../05-pio-mmio/machine/config.ts';
import { twoFutures } from './laboratory.ts';

const PAYLOADS: readonly (readonly [payload: string, config: MachineConfig])[] = [
  ['exceptions-32', {}],
  ['paging-pae', { memory: 'shadow' }],
  ['pit', { irqchip: 'off' }],
  ['rtc', {}],
  ['ioapic', { machine: { type: 'pc' } }],
  ['serial-irq', { irqchip: 'split' }],
  ['keyboard', { memory: 'shadow' }],
  ['sse-state-64', {}],
  ['task-switch', {}],
  ['self-modifying-32', {}],
  ['vcpu-sipi-32', { cpus: 2 }],
  ['smp-ipi-64', { cpus: 2 }],
  ['x2apic', {}],
  ['irq-window-64', { irqchip: 'off' }],
];

const SEED = 85;
const MOST_TURNS = 60;
const BOUNDS = [97, 331, 1009, 4001];
/** A guest that ends before its moment gets an earlier one. */
const DRAWS = 6;

/** A number that belongs to a text, and to nothing else. */
const drawn = (text: string): number => {
  let hash = 0x811c_9dc5;
  for (const letter of text) hash = Math.imul(hash ^ (letter.codePointAt(0) ?? 0), 0x0100_0193);
  return (hash ^ (hash >>> 15)) >>> 0;
};

describe('two futures from a moment drawn by lot', () => {
  it.each(PAYLOADS)(
    '%s, %j',
    async (payload, config) => {
      const image = readFileSync(new URL(`../../../guest-payloads/images/${payload}.elf`, import.meta.url));
      let most = MOST_TURNS;
      for (let draw = 0; draw < DRAWS; draw++) {
        const lot = drawn(`${payload} ${SEED} ${draw}`);
        const bound = BOUNDS[lot % BOUNDS.length] as number;
        const after = 1 + ((lot >>> 8) % most);
        const futures = await twoFutures({ config: { memoryMiB: 16, ...config }, image, bound, turns: 100 }, after);
        if (futures.ended) {
          most = Math.max(1, after >> 1);
          continue;
        }
        const moment = `after ${after} turns of ${bound}`;
        expect([moment, futures.difference, futures.sameState]).toEqual([moment, null, true]);
        expect(futures.ends[0]).toBe(futures.ends[1]);
        return;
      }
      expect.fail('it ended each time before it could be saved');
    },
    60_000,
  );
});
