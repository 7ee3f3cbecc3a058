import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Recorder, traceLine } from '../../chapters/01-hardware-background/trace.ts';
import { softKernel } from '../../chapters/03-vcpu-loop/kernel/index.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { findPayload } from '../../guest-payloads/index.ts';
import { BookSession, boundFor } from './book-session.ts';

const imageOf = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(`../../guest-payloads/images/${name}.elf`, import.meta.url)));
const vcpusOf = (name: string): number => findPayload(name)?.vcpus ?? 1;
const MOST = 2_500_000;

interface Ran {
  readonly lines: readonly string[];
  readonly console: string;
}

/** The run as the suite makes it: no session, no stops. */
function plainRun(name: string): Ran {
  const trace = new Recorder();
  const kernel = softKernel({ trace, instructionBound: boundFor(vcpusOf(name)) });
  const machine = new Machine({ kernel, ramBytes: 16 << 20, vcpus: vcpusOf(name), trace });
  machine.load(imageOf(name));
  const { console } = machine.run({ bounds: 500 });
  const lines = trace.events.map(traceLine); // disposing closes descriptors, which is no part of the run
  machine.dispose();
  return { lines, console: new TextDecoder().decode(console) };
}

function sessionRun(name: string, go: (session: BookSession) => void): Ran {
  const session = new BookSession({ machine: 'small', image: imageOf(name), vcpus: vcpusOf(name), input: '' });
  while (session.ending === null && session.instructions < MOST) go(session);
  const ran = { lines: session.events.map(traceLine), console: new TextDecoder().decode(session.console) };
  session.dispose();
  return ran;
}

// A guest of each kind: ends of every sort, all modes, interrupts and NMIs that wait for a window, and one that runs past KVM_RUN's own bound on instructions.
const GUESTS = ['hello', 'halt', 'triple-fault', 'mode-real', 'mode-long', 'interrupts-32', 'irq-window-64', 'nmi-64', 'serial-polled', 'compute-64'];

describe('a session', () => {
  it.each(GUESTS)('gives the trace of a run without one, however it is stepped: %s', (name) => {
    const plain = plainRun(name);
    const whole = sessionRun(name, (session) => session.advance(MOST));
    expect(whole.console).toBe(plain.console);
    expect(whole.lines).toEqual(plain.lines);
    const odd = name === 'compute-64' ? 99_991 : 97;
    expect(sessionRun(name, (session) => session.advance(odd)).lines).toEqual(whole.lines);
    expect(sessionRun(name, (session) => session.toExit(MOST)).lines).toEqual(whole.lines);
  });

  it('does not care about looks in between', () => {
    const whole = sessionRun('hello', (session) => session.advance(MOST));
    const single = sessionRun('hello', (session) => {
      session.registers();
      session.code();
      session.advance(1);
    });
    expect(single.lines).toEqual(whole.lines);
  });

  it('does not disturb a run that nobody stops, whatever the guest uses', () => {
    expect(sessionRun('single-step-32', (session) => session.go(20)).lines).toEqual(plainRun('single-step-32').lines);
  });

  it('lets processors take turns where they would', () => {
    const plain = plainRun('vcpu-pair-32');
    const cut = sessionRun('vcpu-pair-32', (session) => session.advance(33_331));
    const common = Math.min(plain.lines.length, cut.lines.length);
    expect(common).toBeGreaterThan(100);
    expect(cut.lines.slice(0, common)).toEqual(plain.lines.slice(0, common));
  });

  it('reaches a position from the beginning, and is the same machine there', () => {
    const walk = new BookSession({ machine: 'small', image: imageOf('mode-long'), vcpus: 1, input: '' });
    for (let n = 0; n < 5; n++) walk.toExit(MOST);
    for (let n = 0; n < 7; n++) walk.advance(1);
    const jump = new BookSession({ machine: 'small', image: imageOf('mode-long'), vcpus: 1, input: '' });
    jump.advance(walk.instructions);
    expect(jump.instructions).toBe(walk.instructions);
    expect(jump.registers()).toEqual(walk.registers());
    expect(jump.code()).toEqual(walk.code());
    expect(jump.events.map(traceLine)).toEqual(walk.events.map(traceLine));
  });

  it('stops one instruction at a time', () => {
    const session = new BookSession({ machine: 'small', image: imageOf('hello'), vcpus: 1, input: '' });
    const before = session.instructions;
    session.advance(1);
    expect(session.instructions).toBe(before + 1);
    session.advance(5);
    expect(session.instructions).toBe(before + 6);
  });

  it.each(['ide-dma', 'e1000', 'lapic-32'])('runs on the PC what needs one, and gives the same trace however it is stepped: %s', (name) => {
    const run = (go: (session: BookSession) => void): Ran => {
      const session = new BookSession({ machine: 'pc', image: imageOf(name), vcpus: 1, input: '' });
      while (session.ending === null && session.instructions < MOST) go(session);
      const ran = { lines: session.events.map(traceLine), console: new TextDecoder().decode(session.console) };
      session.dispose();
      return ran;
    };
    const whole = run((session) => session.advance(MOST));
    expect(whole.console).toMatch(/RB1 done\n$/);
    expect(run((session) => session.advance(997)).lines).toEqual(whole.lines);
    expect(run((session) => session.toExit(MOST)).lines).toEqual(whole.lines);
  });

  it('knows who is at an address', () => {
    const session = new BookSession({ machine: 'pc', image: imageOf('e1000'), vcpus: 1, input: '' });
    while (session.ending === null) session.advance(MOST);
    expect(session.lookup('memory', 0xd000_00c0)).toMatchObject({ device: 'e1000', register: 'ICR' });
    expect(session.lookup('port', 0x1f7)).toMatchObject({ device: 'ide', register: 'STATUS_COMMAND' });
    expect(session.lookup('port', 0x999)).toBeNull();
    session.dispose();
  });

  it('says what is wrong with an image that cannot be loaded', () => {
    expect(() => new BookSession({ machine: 'small', image: new Uint8Array(100), vcpus: 1, input: '' })).toThrow(/cannot be loaded/);
    expect(() => new BookSession({ machine: 'small', image: imageOf('hello').slice(0, 200), vcpus: 1, input: '' })).toThrow(/cannot be loaded/);
  });
});
