import { describe, expect, it } from 'vitest';
import type { Timed } from '../01-hardware-background/trace.ts';
import { mark, runOnBench } from './bench.ts';
import { type Code, cpuid, input, inputWords, load, out, store } from './guest-program.ts';
import { crossings, exitOf, type Route, routeAt, settled } from './route.ts';

const PIC_MASK = 0x21;
const SCRATCH = 0xfeb0_0000;
const APIC_ID = 0xfee0_0020;

/** The routes of all that a guest does, in order. */
function routesOf(code: readonly Code[], irqchip: 'on' | 'off' = 'off'): Route[] {
  const { marked, lookup } = runOnBench({ code: [mark, ...code, mark] }, { irqchip });
  return marked.flatMap((event, at) => (event.kind === 'kvm_exit' ? [routeAt(marked, at, lookup) as Route] : []));
}
const worlds = ({ stops }: Route): string => stops.map(({ world }) => world[0]).join('');
const titles = ({ stops }: Route): string[] => stops.map(({ title }) => title);

describe('the route of one access', () => {
  it('leads through every world and back, for a port', () => {
    const [route] = routesOf([out(0x3f8, 0x41)]);
    expect(route?.access).toEqual({ space: 'port', write: true, address: 0x3f8, bytes: 1, count: 1, value: 0x41n });
    expect(route?.settledBy).toBe('user');
    expect(worlds(route as Route)).toMatch(/^gpk+u+g$/);
    expect(titles(route as Route)).toContain('the port bus: serial');
    expect(titles(route as Route)).toContain('register RBR_THR');
  });

  it('names the value of a read, which comes last', () => {
    const [route] = routesOf([input(0x3fd)]);
    expect(route?.access).toMatchObject({ write: false, address: 0x3fd, value: 0x60n });
    expect(titles(route as Route)).toContain('register LSR');
    expect(worlds(route as Route)).toMatch(/^gpku+kg$/);
  });

  it('counts the items of a string', () => {
    const [route] = routesOf([inputWords(0x5e0, 0x3_0000, 4)]);
    expect(route?.access).toMatchObject({ space: 'port', bytes: 2, count: 4 });
  });

  it('ends in the kernel where the kernel has the device', () => {
    const code = [input(PIC_MASK), load(APIC_ID)];
    expect(routesOf(code, 'on').map((route) => [route.settledBy, worlds(route).includes('u')])).toEqual([
      ['kernel', false],
      ['kernel', false],
    ]);
    expect(routesOf(code, 'on').flatMap(titles)).toEqual(expect.arrayContaining(['local APIC: ID']));
    expect(routesOf(code, 'off').map(({ settledBy }) => settledBy)).toEqual(['user', 'user']);
  });

  it('finds nobody where nobody is', () => {
    const [port, memory] = routesOf([input(0x999), load(0xf000_0000)]);
    expect(titles(port as Route)).toContain('the port bus: nobody');
    expect(titles(memory as Route)).toContain('the memory bus: nobody');
    expect(memory?.access?.value).toBe(0xffff_ffffn);
  });

  it('is no access when the guest wanted something else', () => {
    const [route] = routesOf([cpuid(0)]);
    expect(route).toMatchObject({ access: null, reason: 'CPUID', settledBy: 'kernel' });
  });
});

describe('counting', () => {
  it('gives every exit to one who settled it', () => {
    const { marked } = runOnBench({ code: [mark, out(0x3f8, 1), cpuid(0), cpuid(0), store(SCRATCH, 1), mark] });
    expect(settled(marked)).toEqual([
      { reason: 'CPUID', kernel: 2, user: 0 },
      { reason: 'IO_INSTRUCTION', kernel: 0, user: 1 },
      { reason: 'EPT_VIOLATION', kernel: 0, user: 1 },
    ]);
    expect(crossings(marked)).toEqual({ exits: 4, kernel: 2, user: 2 });
    expect(marked.filter(({ kind }) => kind === 'kvm_exit')).toHaveLength(4);
  });

  it('knows to which exit an event belongs', () => {
    const exit: Timed = { t: 1, kind: 'kvm_exit', vcpu: 0, reason: 'CPUID', rip: 0n, qualification: 0n };
    const entry: Timed = { t: 1, kind: 'kvm_entry', vcpu: 0, rip: 2n };
    const console: Timed = { t: 1, kind: 'console', byte: 65 };
    const events = [console, exit, console, entry, console];
    expect(events.map((_, at) => exitOf(events, at))).toEqual([null, 1, 1, 1, null]);
    expect(routeAt(events, 0)).toBeNull();
  });
});
