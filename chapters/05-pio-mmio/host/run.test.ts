// The command as people use it: a process, its exit status, its streams. Programs are a few bytes of real-mode code.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { hostKernelAvailable } from '../../02-kvm-objects/host/host-kernel.ts';
import { ConfigError } from '../machine/device-types.ts';
import { readOptions } from '../machine/options.ts';
import { checkedConfig } from './checked-config.ts';
import { Escape } from './escape.ts';
import { OpenMachine } from './open-machine.ts';

const RUN = fileURLToPath(new URL('run.ts', import.meta.url));
const NODE = ['--disable-warning=ExperimentalWarning', RUN];
const folder = mkdtempSync(join(tmpdir(), 'ringbook-run-'));
afterAll(() => rmSync(folder, { recursive: true }));

const PROGRAMS = {
  leave: 'b0 15 e6 f4 f4', // mov al, 21; out 0xf4, al
  halt: 'fa f4',
  spin: 'ba f8 03 b0 68 ee eb fe', // says that it is there, and computes
  sleep: 'ba f8 03 b0 68 ee fb f4 eb fd', // the same, and sti; hlt; again
  off: 'ba 04 06 b8 00 20 ef f4', // the sleep type of S5, and the bit that means it
  reset: 'ba f9 0c b0 06 ee f4',
  triple: '0f 01 1e 20 10 cc', // lidt of zeros; int3
  hello: 'ba f8 03 b0 68 ee b0 69 ee b0 01 e6 f4',
  storm: 'ba f8 03 b0 68 ee eb fd', // talks for ever
  echo: 'ba fd 03 ec a8 01 74 f8 ba f8 03 ec fe c0 ee e6 f4', // wait for a byte, add one, send it, leave with it
  disk: 'ba f6 01 b0 e0 ee b0 01 ba f2 01 ee 30 c0 42 ee 42 ee 42 ee ba f7 01 b0 20 ee ec a8 08 74 fb ba f0 01 ed e6 f4', // read sector 0, leave with its first byte
  // Writes the program itself to sector 0.
  store:
    'ba f6 01 b0 e0 ee b0 01 ba f2 01 ee 30 c0 42 ee 42 ee 42 ee ba f7 01 b0 30 ee ec a8 08 74 fb ' +
    'ba f0 01 be 00 10 b9 00 01 f3 6f ba f7 01 ec a8 80 75 fb b0 01 e6 f4',
} as const;

const image = (name: keyof typeof PROGRAMS): string => {
  const path = join(folder, name);
  writeFileSync(
    path,
    Uint8Array.from(PROGRAMS[name].split(' '), (byte) => Number.parseInt(byte, 16)),
  );
  return path;
};
const program = (name: keyof typeof PROGRAMS): string[] => ['-kernel', image(name), '-door', 'flat', '-m', '2'];

function run(args: readonly string[], input = ''): { status: number | null; out: string; err: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...NODE, ...args], { input, encoding: 'utf8', timeout: 60_000 });
  return { status, out: stdout, err: stderr };
}

describe('ringbook run', () => {
  it('writes to a disk, unless that is to forget', () => {
    const path = join(folder, 'written.raw');
    for (const [snapshot, first] of [
      ['on', 0],
      ['off', 0xba],
    ] as const) {
      writeFileSync(path, new Uint8Array(1024));
      const { status, err } = run([...program('store'), '-drive', `file=${path},format=raw,snapshot=${snapshot}`]);
      expect(`${status} ${err}`).toBe('3 ');
      expect(readFileSync(path)[0]).toBe(first);
    }
  });
  it.each([
    ['leave', [], (21 << 1) | 1],
    ['halt', [], 0],
    ['off', [], 0],
    ['reset', ['-no-reboot'], 0],
    ['triple', ['-no-reboot'], 4],
    ['triple', ['-timeout', '0.5'], 6], // it starts again for ever
    ['spin', ['-timeout', '0.5'], 6],
  ] as const)('%s %j ends with its status', (name, args, status) => {
    const { status: got, err } = run([...program(name), ...args]);
    expect({ got, err }).toMatchObject({ got: status });
    expect(err.split('\n').length).toBeLessThanOrEqual(2);
  });

  it('connects the serial port to standard input and output', () => {
    expect(run(program('hello'))).toMatchObject({ status: 3, out: 'hi', err: '' });
    expect(run(program('echo'), 'A')).toMatchObject({ status: (0x42 << 1) | 1, out: 'B' });
  });
  it('writes it to a file, and a trace', () => {
    const [serial, trace] = [join(folder, 'serial.txt'), join(folder, 'trace.jsonl')];
    expect(run([...program('hello'), '-serial', `file:${serial}`, '-trace', trace])).toMatchObject({ status: 3, out: '' });
    expect(readFileSync(serial, 'utf8')).toBe('hi');
    const events = readFileSync(trace, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { kind: string });
    expect(events.filter(({ kind }) => kind === 'console').length).toBe(2);
    expect(events.some(({ kind }) => kind === 'kvm_exit')).toBe(true);
  });
  it('says what the hash of a trace is: the same each time, and that of the file', () => {
    const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
    const digest = (kind: string): { hash?: string; events?: string } =>
      /sha256 is (?<hash>[0-9a-f]{64}) \((?<events>[0-9]+) events\)\n$/.exec(run([...program('hello'), '-trace-hash', kind]).err)?.groups ?? {};
    const [trace, all, kernel] = [join(folder, 'hashed.jsonl'), digest('all'), digest('kernel')];
    run([...program('hello'), '-trace', trace]);
    expect(all.hash).toBe(hashOf(readFileSync(trace)));
    expect(Number(kernel.events)).toBeGreaterThan(2);
    expect(Number(kernel.events)).toBeLessThan(Number(all.events));
  });
  it('reads a disk from a file, and does not change a read-only one', () => {
    const disk = join(folder, 'disk.img');
    writeFileSync(disk, new Uint8Array(1024).fill(0x2a));
    expect(run([...program('disk'), '-drive', `file=${disk},readonly=on`])).toMatchObject({ status: (0x2a << 1) | 1 });
  });

  it.each([
    [['-kernel', '/nonexistent'], 'ENOENT'],
    [['-bios', folder], 'not a regular file'],
    [[...program('halt'), '-drive', 'file=/nonexistent'], 'ENOENT'],
    [[...program('halt'), '-drive', `file=${RUN}`], 'whole sectors'],
    [[...program('halt'), '-serial', 'file:/nonexistent/x'], 'ENOENT'],
    [['-kernel', image('halt'), '-door', 'pvh'], 'the image has no pvh door'],
    [['-kernel', image('halt')], 'no way in'],
    [['-bios', image('halt')], 'firmware is a whole number'],
    [[...program('halt'), '-device', 'e1000,addr=0'], 'both want slot 0.0'],
  ])('%j cannot be opened', async (args, message) => {
    const opening = OpenMachine.open(checkedConfig(readOptions(args).document));
    await expect(opening).rejects.toThrow(ConfigError);
    await expect(opening).rejects.toThrow(message);
  });
  it.each([
    [['-kernel', '/nonexistent'], 'ENOENT'],
    [['-config', RUN], 'is not JSON'],
    [['-nonsense'], 'no option -nonsense'],
  ])('%j is refused in one line', (args, message) => {
    const { status, err, out } = run(args);
    expect({ status, out }).toEqual({ status: 2, out: '' });
    expect(err).toContain(message);
    expect(err.trimEnd().split('\n').length).toBe(1);
  });

  it('prints the machine, and takes it back', () => {
    const { out } = run([...program('leave'), '-smp', '2', '-device', 'e1000,addr=5', '-print-config']);
    const file = join(folder, 'machine.json');
    writeFileSync(file, out);
    expect(JSON.parse(out)).toMatchObject({ cpus: 2, memoryMiB: 2, devices: [{ type: 'e1000', addr: '5' }] });
    expect(run(['-config', file])).toMatchObject({ status: (21 << 1) | 1 });
    writeFileSync(file, run([...program('leave'), '-accel', 'kvm', '-print-config']).out);
    expect(run(['-config', file, '-print-config'])).toMatchObject({ status: 0, err: '' });
  });
  const full = existsSync('/dev/full') ? '' : ' (skipped: no /dev/full)';
  it.skipIf(full !== '').each([
    ['-serial', 'file:/dev/full'],
    ['-trace', '/dev/full'],
  ])(`says in one line that the file of %s %s is full${full}`, (option, where) => {
    const { status, err } = run([...program('hello'), option, where]);
    expect({ status, err }).toEqual({ status: 2, err: 'ringbook run: /dev/full: ENOSPC: no space left on device, write\n' });
  });
  it('explains itself', () => {
    expect(run(['-help'])).toMatchObject({ status: 0, out: expect.stringContaining('Exit status:') });
    expect(run(['-device', 'help']).out).toMatch(/^e1000: /m);
    expect(run(['-device', 'e1000,help']).out).toMatch(/^ {2}mac=mac: /m);
  });

  // A signal while the guest computes, and while it sleeps with input open. Nothing may be left running.
  const started = (args: readonly string[]): ChildProcess => spawn(process.execPath, [...NODE, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = (child: ChildProcess): Promise<number | null> => new Promise((resolve) => child.once('exit', resolve));
  it.each([
    ['spin', 'SIGTERM', 143],
    ['sleep', 'SIGINT', 130],
  ] as const)('stops a guest that does %s on %s', async (name, signal, status) => {
    const child = started(program(name));
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    child.kill(signal);
    expect(await ended(child)).toBe(status);
  });
  it('keeps its time limit while the guest waits for input that does not come', async () => {
    const child = started([...program('sleep'), '-timeout', '0.5']);
    expect(await ended(child)).toBe(6);
    child.stdin?.destroy();
  });
  it('ends when the reader of its output goes away', async () => {
    const child = started([...program('storm'), '-timeout', '60']);
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    child.stdout?.destroy();
    expect(await ended(child)).toBe(0);
  });

  const host = hostKernelAvailable();
  const reason = host.available ? '' : ` (skipped: ${host.reason})`;
  it.skipIf(reason !== '').each([1, 2])(`runs on the host's KVM with %i processor(s)${reason}`, (cpus) => {
    const at = [...program('leave'), '-accel', 'kvm', '-smp', String(cpus)];
    expect(run(at)).toMatchObject({ status: (21 << 1) | 1, err: '' });
    expect(run([...program('spin'), '-accel', 'kvm', '-smp', String(cpus), '-timeout', '0.5'])).toMatchObject({ status: 6 });
    expect(run([...program('halt'), '-accel', 'kvm', '-smp', String(cpus)])).toMatchObject({ status: 0 });
  });
});

describe('the way out', () => {
  const take = (keys: Escape, ...bytes: number[]): string => {
    const taken = keys.take(Uint8Array.from(bytes));
    return `${[...taken.bytes].join()}${taken.quit ? ' quit' : ''}`;
  };
  it('is Control-A and x', () => {
    const keys = new Escape();
    expect(take(keys, 65, 66)).toBe('65,66');
    expect(take(keys, 1, 1)).toBe('1');
    expect(take(keys, 1)).toBe('');
    expect(take(keys, 66)).toBe('66');
    expect(take(keys, 67, 1, 0x78, 68)).toBe('67 quit');
  });
});
