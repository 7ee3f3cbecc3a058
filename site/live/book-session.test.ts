import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { traceLine } from '../../chapters/01-hardware-background/trace.ts';
import { findPayload } from '../../guest-payloads/index.ts';
import { RingbookAdapter } from '../../spec-tests/adapters/ringbook.ts';
import { instancesOf } from '../../spec-tests/instances.ts';
import { ALL } from '../../spec-tests/quick.ts';
import type { Case } from '../../spec-tests/types.ts';
import { BookSession } from './book-session.ts';
import { type Devices, machinesOf } from './machines.ts';
import { traceHash } from './trace-hash.ts';

const fileOf = (name: string): string => fileURLToPath(new URL(`../../guest-payloads/images/${name}.elf`, import.meta.url));
const imageOf = (name: string): Uint8Array => new Uint8Array(readFileSync(fileOf(name)));
const needsOf = (name: string): readonly string[] => findPayload(name)?.needs ?? [];
const vcpusOf = (name: string): number => findPayload(name)?.vcpus ?? 1;
const open = (name: string, devices: Devices = []): BookSession =>
  new BookSession({ image: imageOf(name), vcpus: vcpusOf(name), needs: needsOf(name), devices, input: '' });
const MOST = 10_000_000;

interface Ran {
  readonly lines: readonly string[];
  readonly hash: string | null;
  readonly console: string;
}

/** The run as the suite makes it: no session, no stops. */
async function suiteRun(name: string, devices: Devices = []): Promise<Pick<Ran, 'hash' | 'console'>> {
  const image = fileOf(name);
  const sha256 = createHash('sha256').update(imageOf(name)).digest('hex');
  const guest = {
    payload: name,
    image,
    sha256,
    door: 'multiboot',
    vcpus: vcpusOf(name),
    memoryMiB: 16,
    input: '',
    needs: needsOf(name),
    devices,
  } as const;
  const reply = await new RingbookAdapter('ept').run({ type: 'run', id: '1', case: name, surface: 'guest', guest, limits: { timeoutMs: 120_000 } });
  if (reply.type !== 'ran' || reply.surface !== 'guest') throw new Error(JSON.stringify(reply));
  return { hash: reply.traceHash ?? null, console: Buffer.from(reply.console, 'base64').toString() };
}

async function sessionRun(name: string, go: (session: BookSession) => void, devices: Devices = []): Promise<Ran> {
  const session = open(name, devices);
  while (session.ending === null && session.instructions < MOST) go(session);
  const lines = session.events.map(traceLine); // disposing closes descriptors, which is no part of the run
  const ran = { lines, hash: await traceHash(session.events, session.dropped), console: new TextDecoder().decode(session.console) };
  session.dispose();
  return ran;
}

// A guest of each kind: ends of every sort, modes, interrupts and NMIs that wait for a window, one that runs past KVM_RUN's own bound on instructions,
// debug registers that are lent until the next exit; and every part of a PC that does something by itself.
// biome-ignore format: table
const GUESTS: readonly (readonly [name: string, cut: number])[] = [
  ['hello', 1], ['halt', 7], ['triple-fault', 7], ['mode-real', 97], ['mode-long', 97], ['irq-window-64', 997], ['nmi-64', 997],
  ['compute-64', 99_991], ['single-step-32', 997], ['pic', 997], ['lapic-64', 997], ['e1000', 9_973], ['ide-dma', 9_973],
];
const QUICK = ['hello', 'triple-fault', 'mode-long', 'nmi-64', 'lapic-64'];

describe('a session', () => {
  it.each(GUESTS.filter(([name]) => ALL || QUICK.includes(name)))(
    'gives the trace of the suite, however it is stepped: %s',
    async (name, cut) => {
      const suite = await suiteRun(name);
      const whole = await sessionRun(name, (session) => session.advance(MOST));
      expect(whole.console).toBe(suite.console);
      expect(whole.hash).toBe(suite.hash);
      // Line by line, so that a failure says where they part.
      expect((await sessionRun(name, (session) => session.advance(cut))).lines).toEqual(whole.lines);
      expect((await sessionRun(name, (session) => session.toExit(MOST))).lines).toEqual(whole.lines);
    },
    120_000,
  );

  // The longer ones: what is asked of them is that stops make no difference at all.
  it.each(ALL ? ['acpi-tables', 'smp-ipi-64', 'vcpu-pair-32'] : ['smp-ipi-64'])(
    'gives the trace of the suite: %s',
    async (name) => {
      expect((await sessionRun(name, (session) => session.advance(99_991))).hash).toBe((await suiteRun(name)).hash);
    },
    120_000,
  );

  // Every machine that the page offers for a payload with a virtio device.
  const MACHINES = ['virtio-entropy', 'virtio-interrupts', 'virtio-console', 'virtio-balloon', 'virtio-block'].flatMap((name) => {
    const file = new URL(`../../spec-tests/cases/06-virtio-rings/${name}.json`, import.meta.url);
    const machines = machinesOf(instancesOf(JSON.parse(readFileSync(file, 'utf8')) as Case), name);
    return machines.map((devices) => [name, `${devices[0]?.transport}.${devices[0]?.ring}`, devices] as const);
  });
  // Quickly: one payload on all of them, and all of them on one.
  it.each(MACHINES.filter(([name, machine]) => ALL || name === 'virtio-entropy' || machine === 'pci.packed'))(
    'gives the trace of the suite: %s on %s',
    async (name, _, devices) => {
      const suite = await suiteRun(name, devices);
      const ran = await sessionRun(name, (session) => session.advance(9_973), devices);
      expect(ran.console).toBe(suite.console);
      expect(ran.console).toContain('RB1 done');
      expect(ran.hash).toBe(suite.hash);
    },
    120_000,
  );
  it('has a machine for each transport and ring', () => {
    expect(MACHINES.map(([name, machine]) => `${name} ${machine}`).filter((text) => text.startsWith('virtio-block'))).toEqual(
      ['pci.split', 'pci.packed', 'transitional.split', 'mmio.split', 'mmio.packed', 'mmio-legacy.split'].map((machine) => `virtio-block ${machine}`),
    );
  });

  it('stops anywhere on the way of a buffer, and says where its rings are', () => {
    const [, , devices] = MACHINES.find(([name, machine]) => name === 'virtio-console' && machine === 'pci.packed') ?? [];
    const whole = open('virtio-console', devices);
    expect(whole.queues()).toEqual([]);
    while (whole.ending === null) whole.advance(MOST);
    const session = open('virtio-console', devices);
    while (session.ending === null) {
      session.queues();
      session.toExit(MOST);
    }
    expect(session.events.map(traceLine)).toEqual(whole.events.map(traceLine));
    const queues = session.queues();
    expect(queues).toEqual(whole.queues());
    const common = { device: 'virtio-serial', format: 'packed', size: 16, features: ['INDIRECT_DESC', 'EVENT_IDX'], failure: null };
    expect(queues).toMatchObject([
      { ...common, queue: 0 },
      { ...common, queue: 1 },
    ]);
    // Nothing is under way at the end: the device has given back all that it has taken.
    for (const { avail, used } of queues) expect(avail).toBe(used);
    session.dispose();
    whole.dispose();
  }, 60_000);

  it('does not care about looks in between', async () => {
    const whole = await sessionRun('hello', (session) => session.advance(MOST));
    const single = await sessionRun('hello', (session) => {
      session.registers();
      session.code();
      session.advance(1);
    });
    expect(single.lines).toEqual(whole.lines);
  });

  it('does not disturb a run that is stopped by the clock on the wall', async () => {
    expect((await sessionRun('single-step-32', (session) => session.go(1))).hash).toBe((await suiteRun('single-step-32')).hash);
  });

  it('counts time without instructions apart', () => {
    const session = open('pit');
    while (session.ending === null && session.idle === 0) session.advance(1_000_000);
    expect(session.idle).toBeGreaterThan(0);
    expect(session.instructions).toBeGreaterThan(session.idle);
    session.dispose();
  });

  it('reaches a position from the beginning, and is the same machine there', () => {
    const walk = open('mode-long');
    for (let n = 0; n < 5; n++) walk.toExit(MOST);
    for (let n = 0; n < 7; n++) walk.advance(1);
    const jump = open('mode-long');
    jump.advance(walk.instructions);
    expect(jump.instructions).toBe(walk.instructions);
    expect(jump.registers()).toEqual(walk.registers());
    expect(jump.code()).toEqual(walk.code());
    expect(jump.events.map(traceLine)).toEqual(walk.events.map(traceLine));
  });

  it('stops one instruction at a time', () => {
    const session = open('hello');
    const before = session.instructions;
    session.advance(1);
    expect(session.instructions).toBe(before + 1);
    session.advance(5);
    expect(session.instructions).toBe(before + 6);
  });

  it('knows who is at an address', () => {
    const session = open('e1000');
    while (session.ending === null) session.advance(MOST);
    expect(session.lookup('memory', 0xd000_00c0)).toMatchObject({ device: 'e1000', register: 'ICR' });
    expect(session.lookup('port', 0x1f7)).toMatchObject({ device: 'ide', register: 'STATUS_COMMAND' });
    expect(session.lookup('port', 0x999)).toBeNull();
    session.dispose();
  });

  it('says what is wrong with an image that cannot be loaded', () => {
    expect(() => new BookSession({ needs: [], image: new Uint8Array(100), vcpus: 1, input: '' })).toThrow(/cannot be loaded/);
    expect(() => new BookSession({ needs: [], image: imageOf('hello').slice(0, 200), vcpus: 1, input: '' })).toThrow(/cannot be loaded/);
  });
});
