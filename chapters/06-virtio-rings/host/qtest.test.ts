import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import { completeConfig } from '../../05-pio-mmio/machine/config.ts';
import '../../05-pio-mmio/machine/devices.ts';
import '../machine/device-types.ts';
import { PausedPc } from '../qtest/paused-pc.ts';
import { LINE_LIMIT } from '../qtest/server.ts';
import { readQtestOptions } from './qtest.ts';
import { serveQtest } from './qtest-stream.ts';

describe('the command line', () => {
  it('understands how harnesses start a machine', () => {
    const line = '-machine q35,accel=qtest -nodefaults -display none -S -qtest-log none -net none -m 16M -device virtio-rng-pci,addr=2 -qtest';
    expect(readQtestOptions([...line.split(' '), 'stdio'])).toEqual({
      place: { kind: 'stdio' },
      document: { machine: { type: 'q35' }, memoryMiB: 16, devices: [{ type: 'virtio-rng-pci', addr: '2' }] },
    });
    expect(readQtestOptions(['-accel', 'qtest', '-accel', 'tcg', '-M', 'accel=qtest:tcg', '-qtest', 'unix:/a b/c'])?.place).toEqual({
      kind: 'unix',
      path: '/a b/c',
      server: false,
    });
    for (const server of ['server', 'server=on', 'server=on,wait=off', 'server,nowait'])
      expect(readQtestOptions(['-qtest', `unix:/s,${server}`])?.place).toEqual({ kind: 'unix', path: '/s', server: true });
    expect(readQtestOptions(['-m', '16M'])).toBeNull();
  });

  it.each([
    [['-qtest', 'tcp:1234'], /goes to stdio or unix:PATH/],
    [['-qtest'], /goes to stdio or unix:PATH/],
    [['-qtest', 'stdio', '-qtest', 'stdio'], /twice/],
    [['-qtest', 'stdio', '-qmp', 'unix:/q'], /no QMP/],
    [['-qtest', 'stdio', '-kernel', 'x'], /no processor runs/],
    [['-qtest', 'stdio', '-accel', 'kvm'], /no processor runs/],
    [['-qtest', 'stdio', '-display', 'gtk'], /-display with -qtest is none, not gtk/],
    [['-qtest', 'stdio', '-M', 'isapc'], /q35/],
    [['-qtest', 'stdio', '-device', 'virtio-gpu-pci'], /no device type virtio-gpu-pci/],
  ])('refuses %j', (argv, why) => {
    expect(() => readQtestOptions(argv)).toThrow(why);
  });
});

describe('a client that is not to be trusted', () => {
  async function say(text: string | Uint8Array[]): Promise<string> {
    const machine = new PausedPc({ config: completeConfig({ memoryMiB: 4, kernel: 'nothing', serial: ['null'] }) });
    const [input, output] = [new PassThrough(), new PassThrough()];
    let said = '';
    output.on('data', (chunk: Buffer) => {
      said += chunk.toString('latin1');
    });
    const served = serveQtest(machine, input, output);
    for (const part of typeof text === 'string' ? [text] : text) input.write(part);
    input.end();
    await served;
    machine.dispose();
    return said;
  }

  it('may end in the middle of a line, or cut lines where it likes', async () => {
    expect(await say('endianness\nendian')).toBe('OK little\n');
    expect(await say([...'readb 0x10\nendianness\n'].map((character) => Buffer.from(character)))).toBe('OK 0x0000000000000000\nOK little\n');
  });

  it('may send bytes of any kind', async () => {
    const bytes = Buffer.from(Array.from({ length: 20_000 }, (_, index) => (Math.imul(index, 2_654_435_761) >>> 13) & 0xff));
    const lines = (await say([bytes, Buffer.from('\nendianness\n')])).trimEnd().split('\n');
    expect(lines.at(-1)).toBe('OK little');
    for (const line of lines.slice(0, -1)) expect(line).toMatch(/^(FAIL|ERR) /);
  });

  it('may send a line without end, and pays for that line alone', async () => {
    const part = Buffer.alloc(1 << 20, 0x61);
    const parts = Array.from({ length: LINE_LIMIT / part.length + 2 }, () => part);
    expect(await say([...parts, Buffer.from('\nendianness\n')])).toBe('ERR line is too long\nOK little\n');
  });
});

describe('a socket', () => {
  const program = fileURLToPath(new URL('run.ts', import.meta.url));
  const folder = mkdtempSync(join(tmpdir(), 'ringbook-socket-'));
  let child: ChildProcess | null = null;
  afterEach(() => {
    child?.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });

  const start = (place: string): ChildProcess => {
    const options = ['-machine', 'q35,accel=qtest', '-m', '4M', '-device', 'virtio-rng-pci', '-qtest', place];
    child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, ...options], { stdio: ['ignore', 'ignore', 'inherit'] });
    return child;
  };

  async function talk(socket: Socket): Promise<void> {
    socket.write('outl 0xcf8 0x80000800\ninl 0xcfc\n');
    let heard = '';
    for await (const chunk of socket) {
      heard += String(chunk);
      if (heard.split('\n').length === 3) break;
    }
    expect(heard).toBe('OK\nOK 0x10051af4\n');
    socket.destroy();
  }

  /** The socket, once it is connected; null when nobody was there. */
  const reached = (socket: Socket): Promise<Socket | null> =>
    new Promise((resolve) => {
      socket.once('connect', () => resolve(socket));
      socket.once('error', () => setTimeout(() => resolve(null), 20));
    });

  it.skipIf(process.platform === 'win32')('is gone to where a client listens, and is made where it does not', { timeout: 60_000 }, async () => {
    const path = join(folder, 'client');
    const server = createServer();
    server.listen(path);
    await once(server, 'listening');
    let running = start(`unix:${path}`);
    const [met] = (await once(server, 'connection')) as [Socket];
    server.close();
    await talk(met);
    expect(await once(running, 'exit')).toEqual([0, null]);

    const own = join(folder, 'own');
    running = start(`unix:${own},server=on,wait=off`);
    let client: Socket | null = null;
    while (!client) client = await reached(connect(own)); // the name is there a moment before anybody listens
    await talk(client);
    expect(await once(running, 'exit')).toEqual([0, null]);
    expect(existsSync(own)).toBe(false);
  });
});
