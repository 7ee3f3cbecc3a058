import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { crc32 } from '../../chapters/15-whole-machine/saved-state/checksum.ts';
import { decodeFile, encodeFile } from '../../chapters/15-whole-machine/saved-state/file.ts';
import { echoGuest, sleepingGuest } from './linux-laboratory.ts';
import { type Options, USUAL } from './linux-options.ts';
import type { Files } from './linux-protocol.ts';
import { describeKernel, type Ended, LinuxSession, optionsOfState } from './linux-session.ts';

const imageOf = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(`../../guest-payloads/images/${name}.elf`, import.meta.url)));
const small: Options = { ...USUAL, memoryMiB: 16, append: '' };
const text = (bytes: readonly number[]): string => String.fromCharCode(...bytes);
const typed = (words: string): Uint8Array => new TextEncoder().encode(words);
const asKernel = (kernel: Uint8Array): Files => ({ kernel, initrd: null });

interface Running {
  readonly session: LinuxSession;
  readonly ended: Promise<Ended>;
  readonly console: number[];
  /** Resolves when the guest has said so. */
  said(words: string): Promise<void>;
}

async function start(files: Files, options = small): Promise<Running> {
  const console: number[] = [];
  let look = (): void => {};
  const session = await LinuxSession.open({
    options,
    files,
    startTime: 1e9,
    hooks: {
      onConsole(bytes) {
        console.push(...bytes);
        session.shown(bytes.length);
        look();
      },
      onBreath() {},
    },
  });
  const said = (words: string): Promise<void> =>
    new Promise((resolve) => {
      look = () => {
        if (text(console).includes(words)) resolve();
      };
      look();
    });
  return { session, ended: session.run(), console, said };
}

describe('a kernel of one’s own', () => {
  for (const machine of ['q35', 'pc'] as const)
    it(`runs to its end on ${machine}, and is counted`, async () => {
      const { session, ended, console } = await start(asKernel(imageOf('hello')), { ...small, machine });
      session.counts.listening = true;
      expect(await ended).toEqual({ end: 'debug-exit', detail: 'status 1' });
      expect(text(console)).toBe('hello\n');
      const { totals, traffic, events, instructions, steps } = session.figures;
      expect(Object.fromEntries(totals).IO_INSTRUCTION).toBeGreaterThan(6);
      expect(traffic.find(({ device }) => device === 'serial')?.writes).toBeGreaterThanOrEqual(6);
      expect(steps.flatMap(({ counts }) => counts).reduce((sum, n) => sum + n, 0)).toBe(totals.reduce((sum, [, n]) => sum + n, 0));
      expect(instructions).toBeGreaterThan(100);
      // Of the processor alone nothing is reported, and so it is as fast as without a trace.
      const kinds = new Set(events?.map(({ kind }) => kind));
      expect(kinds.has('kvm_exit')).toBe(true);
      expect(kinds.has('device')).toBe(true);
      for (const kind of ['walk', 'tlb_fill', 'mode'] as const) expect(kinds.has(kind), kind).toBe(false);
      session.dispose();
    });

  it('is refused in the words of the loader when it is none', async () => {
    const wrong = typed('This is a letter, and no kernel.\n');
    expect(() => describeKernel(wrong)).toThrow(/no multiboot header, no ELF entry and no boot signature/);
    await expect(
      LinuxSession.open({ options: small, files: asKernel(wrong), startTime: 0, hooks: { onConsole() {}, onBreath() {} } }),
    ).rejects.toThrow(/no boot signature/);
    expect(describeKernel(imageOf('hello'))).toBe('started by its multiboot door');
  });

  it('hears what is typed, as far as there is room', async () => {
    const { session, ended, console, said } = await start(asKernel(echoGuest()));
    expect(session.type(typed('abc'))).toBe(0);
    await said('abc');
    session.pause(true);
    const long = new Uint8Array(100_000).fill(0x78);
    expect(session.type(long)).toBeGreaterThan(30_000);
    session.type(typed('yy')); // what the chip itself has taken makes room
    expect(session.type(typed('z'))).toBe(1);
    session.pause(false);
    session.stop();
    expect((await ended).end).toBe('stopped');
    expect(text(console)).toMatch(/^abcx*y*$/);
    session.dispose();
  });
});

describe('virtual time', () => {
  it('is not ahead of real time while the guest sleeps', async () => {
    const began = performance.now();
    const { session, ended } = await start(asKernel(sleepingGuest()));
    for (let look = 0; look < 5; look++) {
      await new Promise((resolve) => setTimeout(resolve, 40));
      expect(session.figures.ns / 1e6).toBeLessThan(performance.now() - began + 50);
    }
    expect(session.figures.ns).toBeGreaterThan(0);
    session.stop();
    await ended;
    session.dispose();
  });

  it('flies where nobody watches', async () => {
    const session = await LinuxSession.open({
      options: small,
      files: asKernel(sleepingGuest()),
      startTime: 0,
      hooks: { onConsole() {}, onBreath: () => session.figures.ns > 1e11 && session.stop() },
      paced: false,
    });
    expect((await session.run()).end).toBe('stopped'); // a hundred seconds later
    session.dispose();
  });
});

describe('a saved machine', () => {
  it('goes on where it was, and so does the one that was saved', async () => {
    const first = await start(asKernel(echoGuest()), { ...small, memoryMiB: 20, network: true });
    first.session.type(typed('a'));
    await first.said('a');
    const file = await first.session.save();
    expect(optionsOfState(file)).toEqual({ machine: 'q35', paging: 'ept', network: true, cpus: 1, memoryMiB: 20 });
    const second = await start({ state: file }); // its options come from the file
    expect(second.session.config.memoryMiB).toBe(20);
    for (const { session, ended, said } of [first, second]) {
      session.type(typed('b'));
      await said('b');
      session.type(typed('q'));
      expect(await ended).toEqual({ end: 'debug-exit', detail: 'status 1' });
      session.dispose();
    }
    expect(text(first.console)).toBe('abq');
    expect(text(second.console)).toBe('bq');
  });

  it('is refused with the reason: damaged, none at all, or with what this page has not', async () => {
    const { session, ended } = await start(asKernel(echoGuest()));
    const file = await session.save();
    session.stop();
    await ended;
    session.dispose();
    const restore = (state: Uint8Array): Promise<Running> => start({ state });
    const damaged = file.slice();
    damaged[2000] = (damaged[2000] as number) ^ 1;
    await expect(restore(damaged)).rejects.toThrow(/damaged, or was cut short/);
    await expect(restore(typed('RINGBOOK-STATION'))).rejects.toThrow('this is no saved machine');
    const { header, sections } = decodeFile(file);
    const as = (changes: Record<string, string>): Uint8Array =>
      encodeFile({ header: JSON.stringify({ ...JSON.parse(header), ...changes }), sections });
    await expect(restore(as({ drives: '[{"id":"d"}]' }))).rejects.toThrow(/a drive, and what is on it is not in the file/);
    await expect(restore(as({ networks: '[{"type":"user","id":"n"}]', devices: '[{"type":"e1000","netdev":"n"}]' }))).rejects.toThrow(
      /the state of pci .* is missing/,
    );
    await expect(restore(as({ networks: '[{"type":"bridge","id":"n"}]' }))).rejects.toThrow(/bridge/);
    await expect(restore(as({ machine: '{"type":"sparc"}' }))).rejects.toThrow(/no machine/);
    await expect(restore(as({ 'bytes of memory': String(2 ** 40) }))).rejects.toThrow(/MiB of memory/);
    await expect(restore(as({ cpus: '2' }))).rejects.toThrow(/CPUID says other things/);
    await expect(restore(as({ cpus: '1000000' }))).rejects.toThrow(/1000000 processors/);
    await expect(restore(encodeFile({ header: '7', sections }))).rejects.toThrow(/no description of a machine/);
    expect(crc32(file.subarray(0, file.length - 4))).toBe(new DataView(file.buffer).getUint32(file.length - 4, true));
  });
});
