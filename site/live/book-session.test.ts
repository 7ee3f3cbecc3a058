import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Recorder, traceLine } from '../../chapters/01-hardware-background/trace.ts';
import { softKernel } from '../../chapters/03-vcpu-loop/kernel/index.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { PAYLOADS } from '../../guest-payloads/index.ts';
import { BookSession } from './book-session.ts';
import { traceHash } from './trace-hash.ts';

const imageOf = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(`../../guest-payloads/images/${name}.elf`, import.meta.url)));
const MOST = 3_000_000;

/** The run as the suite makes it: no session, no stops. */
function plainRun(name: string, vcpus: number): { lines: string[]; console: string } {
  const trace = new Recorder();
  const machine = new Machine({ kernel: softKernel({ trace }), ramBytes: 16 << 20, vcpus, trace });
  machine.load(imageOf(name));
  const { console } = machine.run({ bounds: MOST / 1_000_000 });
  machine.dispose();
  return { lines: trace.events.map(traceLine), console: new TextDecoder().decode(console) };
}

function sessionRun(name: string, vcpus: number, go: (session: BookSession) => void): { lines: string[]; console: string; hash: Promise<string | null> } {
  const session = new BookSession({ image: imageOf(name), vcpus, input: '' });
  while (session.ending === null && session.instructions < MOST) go(session);
  expect(session.ending, `${name} ends`).not.toBeNull();
  const result = { lines: session.events.map(traceLine), console: new TextDecoder().decode(session.console), hash: traceHash(session.events, session.dropped) };
  session.dispose();
  return result;
}

const built = PAYLOADS.filter(({ name }) => existsSync(new URL(`../../guest-payloads/images/${name}.elf`, import.meta.url)));

describe('a session', () => {
  it('gives the same trace as a run without one, for every payload', () => {
    for (const { name, vcpus } of built) {
      const plain = plainRun(name, vcpus);
      // Closing descriptors is not part of the run; the session's trace ends with the machine.
      const whole = sessionRun(name, vcpus, (session) => session.advance(MOST));
      expect(whole.console, name).toBe(plain.console);
      expect(whole.lines, name).toEqual(plain.lines.slice(0, whole.lines.length));
      expect(plain.lines.length - whole.lines.length, name).toBe(0);
    }
  });

  it('does not care how it was stepped', () => {
    for (const { name, vcpus } of built.filter(({ name: n }) => /hello|halt|exceptions-64|interrupt|mmio|pio|smp|pair/.test(n)).slice(0, 12)) {
      const whole = sessionRun(name, vcpus, (session) => session.advance(MOST));
      if (whole.lines.length > 40_000) continue;
      const odd = sessionRun(name, vcpus, (session) => session.advance(97));
      expect(odd.lines, `${name} in steps of 97`).toEqual(whole.lines);
      const exits = sessionRun(name, vcpus, (session) => session.toExit(MOST));
      expect(exits.lines, `${name} exit by exit`).toEqual(whole.lines);
    }
    const whole = sessionRun('hello', 1, (session) => session.advance(MOST));
    const single = sessionRun('hello', 1, (session) => {
      session.registers();
      session.code();
      session.advance(1);
    });
    expect(single.lines).toEqual(whole.lines);
  });

  it('reaches a position from the beginning, and is the same machine there', () => {
    const walk = new BookSession({ image: imageOf('mode-long'), vcpus: 1, input: '' });
    for (let n = 0; n < 5; n++) walk.toExit(MOST);
    for (let n = 0; n < 7; n++) walk.advance(1);
    const jump = new BookSession({ image: imageOf('mode-long'), vcpus: 1, input: '' });
    jump.advance(walk.instructions);
    expect(jump.instructions).toBe(walk.instructions);
    expect(jump.registers()).toEqual(walk.registers());
    expect(jump.code()).toEqual(walk.code());
    expect(jump.events.map(traceLine)).toEqual(walk.events.map(traceLine));
  });

  it('stops one instruction at a time', () => {
    const session = new BookSession({ image: imageOf('hello'), vcpus: 1, input: '' });
    const before = session.instructions;
    session.advance(1);
    expect(session.instructions).toBe(before + 1);
    session.advance(5);
    expect(session.instructions).toBe(before + 6);
  });

  it('says what is wrong with an image that cannot be loaded', () => {
    expect(() => new BookSession({ image: new Uint8Array(100), vcpus: 1, input: '' })).toThrow(/cannot be loaded/);
    expect(() => new BookSession({ image: imageOf('hello').slice(0, 200), vcpus: 1, input: '' })).toThrow(/cannot be loaded/);
  });
});
