// Every payload of the suite, on both methods: the same bytes on the console, the same end.

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { memoryKernel } from '../kernel/index.ts';

const path = (relative: string): string => fileURLToPath(new URL(`../../../${relative}`, import.meta.url));

interface Case {
  readonly id: string;
  readonly guest: { readonly payload: string; readonly door?: string; readonly memoryMiB?: number; readonly vcpus?: number; readonly input?: string };
  readonly allowed: { readonly observations?: Readonly<Record<string, { readonly oneOf?: readonly string[] }>> };
}
const cases: readonly Case[] = ['01-hardware-background', '03-vcpu-loop', '04-memory-virtualization'].flatMap((chapter) => {
  let names: string[];
  try {
    names = readdirSync(path(`spec-tests/cases/${chapter}`));
  } catch {
    return [];
  }
  return names.map((name) => JSON.parse(readFileSync(path(`spec-tests/cases/${chapter}/${name}`), 'utf8'))).filter((one) => one.surface === 'guest');
});
const DOORS = new Set(['multiboot', 'pvh', 'long']);
/** Payloads that need more of a machine than chapter 3 has, and wait for it until the limit: a short run compares as well. */
const BOUNDS = 130;

function run({ guest }: Case, memory: 'ept' | 'shadow'): { end: string; console: string } {
  const vcpus = guest.vcpus ?? 1;
  const kernel = memoryKernel({ memory, ramBytes: 64 << 20, instructionBound: vcpus > 1 ? 10_000 : 1_000_000 });
  const machine = new Machine({ kernel, ramBytes: (guest.memoryMiB ?? 16) << 20, vcpus, input: Buffer.from(guest.input ?? '', 'utf8') });
  try {
    machine.load(new Uint8Array(readFileSync(path(`guest-payloads/images/${guest.payload}.elf`))), {
      door: (guest.door ?? 'multiboot') as 'multiboot',
    });
    const { end, console: bytes } = machine.run({ bounds: BOUNDS, exits: 400_000 });
    return { end, console: Buffer.from(bytes).toString('latin1') };
  } finally {
    machine.dispose();
  }
}

/** The console without the values that the architecture leaves open. */
const comparable = (text: string, { allowed }: Case): string =>
  text.replace(/obs (\S+) (\S+)/g, (line, name: string) => (allowed.observations?.[name]?.oneOf ? `obs ${name} open` : line));

describe('payloads under shadow paging and under EPT', () => {
  const runnable = cases.filter(({ guest }) => DOORS.has(guest.door ?? 'multiboot'));
  it('are there', () => expect(runnable.length).toBeGreaterThan(50));
  for (const one of runnable)
    it(one.id, { timeout: 120_000 }, () => {
      const ept = run(one, 'ept');
      const shadow = run(one, 'shadow');
      expect(comparable(shadow.console, one)).toBe(comparable(ept.console, one));
      expect(shadow.end).toBe(ept.end);
    });
});
