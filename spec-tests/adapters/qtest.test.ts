// One client, two machines: QEMU's devices and this book's, driven by the same accesses. What differs is listed here, or it does not differ.

import { execFileSync } from 'node:child_process';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import type { AccessBytes, DeviceOp, DeviceSession, OpResult, WireDevice } from '../device-script/wire.ts';
import { probeQemu, type QemuFound } from './qemu-probe.ts';
import { Qtest, QtestRefusal } from './qtest.ts';
import { QtestMachine, type QtestProgram } from './qtest-machine.ts';

const RINGBOOK: QtestProgram = {
  command: [
    process.execPath,
    '--disable-warning=ExperimentalWarning',
    fileURLToPath(new URL('../../chapters/06-virtio-rings/host/run.ts', import.meta.url)),
  ],
  isQemu: false,
  properties: null,
};

const QEMU = 'qemu-system-x86_64';
let found: QemuFound | null = null;
let absent = '';
try {
  execFileSync(QEMU, ['--version']);
  found = await probeQemu(QEMU);
} catch (error) {
  absent = (error as Error).message;
}

const PROGRAMS: readonly (readonly [string, QtestProgram])[] = [
  ['ringbook', RINGBOOK],
  ...(found ? [['qemu', { command: [QEMU], isQemu: true, properties: (type: string) => (found as QemuFound).properties(type) }] as const] : []),
];

// ## A driver, as short as can be

const REGION = 0xe000_0000;
const QUEUE = { desc: 0x10_0000, driver: 0x10_1000, device: 0x10_2000, buffer: 0x10_3000 } as const;
const SIZE = 4;

class Driver {
  readonly #session: DeviceSession;
  readonly seen: string[] = [];
  #common = 0;
  #notify = 0;

  constructor(session: DeviceSession) {
    this.#session = session;
  }

  async do(op: DeviceOp): Promise<OpResult> {
    return (await this.#session.access([op]))[0] as OpResult;
  }

  async config(slot: number, offset: number, bytes: 1 | 2 | 4, value?: number): Promise<number> {
    await this.do({ do: 'out', port: '0xcf8', bytes: 4, value: `0x${(0x8000_0000 + (slot << 11) + (offset & ~3)).toString(16)}` });
    const port = `0x${(0xcfc + (offset & 3)).toString(16)}`;
    if (value === undefined) return Number((await this.do({ do: 'in', port, bytes })).value);
    await this.do({ do: 'out', port, bytes, value: `0x${value.toString(16)}` });
    return value;
  }

  async load(gpa: number, bytes: AccessBytes): Promise<number> {
    return Number((await this.do({ do: 'load', gpa: `0x${gpa.toString(16)}`, bytes })).value);
  }

  async store(gpa: number, bytes: AccessBytes, value: number): Promise<void> {
    await this.do({ do: 'store', gpa: `0x${gpa.toString(16)}`, bytes, value: `0x${value.toString(16)}` });
  }

  /** Finds the device with that identifier, places its region and looks at its capabilities. */
  async find(deviceId: number): Promise<void> {
    let slot = -1;
    for (let at = 0; at < 32 && slot < 0; at++) if ((await this.config(at, 0, 4)) === ((deviceId << 16) | 0x1af4) >>> 0) slot = at;
    expect(slot).toBe(2);
    await this.config(slot, 0x20, 4, REGION);
    await this.config(slot, 0x24, 4, 0);
    await this.config(slot, 0x04, 2, 0x406); // memory, bus master, no INTx
    for (let at = (await this.config(slot, 0x34, 1)) & 0xfc; at !== 0; at = await this.config(slot, at + 1, 1)) {
      if ((await this.config(slot, at, 1)) !== 9) continue;
      const [type, bar] = [await this.config(slot, at + 3, 1), await this.config(slot, at + 4, 1)];
      const [offset, length] = [await this.config(slot, at + 8, 4), await this.config(slot, at + 12, 4)];
      this.seen.push(`capability ${type}: bar ${bar}, ${offset.toString(16)}`);
      if (type === 1) this.#common = REGION + offset;
      if (type === 2) this.#notify = REGION + offset;
      if (type === 1) expect(length).toBeGreaterThanOrEqual(56);
    }
  }

  /** Up to DRIVER_OK, with VERSION_1 and nothing else, and one queue. */
  async start(): Promise<void> {
    const common = this.#common;
    const status = async (value: number): Promise<void> => {
      await this.store(common + 0x14, 1, value);
      this.seen.push(`status ${await this.load(common + 0x14, 1)}`);
    };
    for (const value of [0, 1, 3]) await status(value);
    await this.store(common, 4, 1);
    this.seen.push(`VERSION_1 ${(await this.load(common + 4, 4)) & 1}`);
    for (const [window, value] of [
      [0, 0],
      [1, 1],
    ] as const) {
      await this.store(common + 8, 4, window);
      await this.store(common + 12, 4, value);
    }
    await status(11);
    await this.store(common + 0x16, 2, 0);
    this.seen.push(`queue size at least ${SIZE}: ${(await this.load(common + 0x18, 2)) >= SIZE}`);
    await this.store(common + 0x18, 2, SIZE);
    for (const [offset, gpa] of [
      [0x20, QUEUE.desc],
      [0x28, QUEUE.driver],
      [0x30, QUEUE.device],
    ] as const) {
      await this.store(common + offset, 4, gpa);
      await this.store(common + offset + 4, 4, 0);
    }
    await this.store(common + 0x1c, 2, 1);
    await status(15);
  }

  /** Makes one chain of the buffers available, kicks, and waits. Returns what the used ring says. */
  async exchange(buffers: readonly { readonly gpa: number; readonly bytes: number; readonly write: boolean }[]): Promise<string> {
    for (const [index, { gpa, bytes, write }] of buffers.entries()) {
      const at = QUEUE.desc + 16 * index;
      const next = index + 1 < buffers.length;
      await this.store(at, 8, gpa);
      await this.store(at + 8, 4, bytes);
      await this.store(at + 12, 2, (next ? 1 : 0) | (write ? 2 : 0));
      await this.store(at + 14, 2, next ? index + 1 : 0);
    }
    await this.store(QUEUE.driver + 4, 2, 0);
    await this.store(QUEUE.driver + 2, 2, 1);
    await this.store(this.#notify, 2, 0);
    for (let patience = 0; patience < 100 && (await this.load(QUEUE.device + 2, 2)) === 0; patience++)
      await this.do({ do: 'advance', ns: '0xf4240' });
    return `used ${await this.load(QUEUE.device + 2, 2)}: id ${await this.load(QUEUE.device + 4, 4)}, ${await this.load(QUEUE.device + 8, 4)} bytes`;
  }

  async read(gpa: number, count: number): Promise<Uint8Array> {
    return Buffer.from((await this.do({ do: 'read', gpa: `0x${gpa.toString(16)}`, count })).data as string, 'base64');
  }
}

const device = (wanted: Partial<WireDevice> & Pick<WireDevice, 'type'>): WireDevice => ({ transport: 'pci', ring: 'split', ...wanted });

let open: QtestMachine | null = null;
afterEach(async () => {
  await open?.end();
  open = null;
});

async function machine(program: QtestProgram, ...devices: WireDevice[]): Promise<Driver> {
  open = await QtestMachine.start(program, { memoryMiB: 16, devices });
  return new Driver(open);
}

const expectedSeen = [...['status 0', 'status 1', 'status 3', 'VERSION_1 1', 'status 11', `queue size at least ${SIZE}: true`, 'status 15']];

if (!found) it.skip(`on QEMU: ${absent}`, () => {});

describe.each(PROGRAMS)('%s behind qtest', (_, program) => {
  it('fills a buffer with random bytes', { timeout: 60_000 }, async () => {
    const driver = await machine(program, device({ type: 'entropy' }));
    await driver.find(0x1044);
    expect(driver.seen).toEqual(expect.arrayContaining(['capability 1: bar 4, 0', 'capability 2: bar 4, 3000', 'capability 3: bar 4, 1000']));
    driver.seen.length = 0;
    await driver.start();
    expect(driver.seen).toEqual(expectedSeen);
    expect(await driver.exchange([{ gpa: QUEUE.buffer, bytes: 64, write: true }])).toBe('used 1: id 0, 64 bytes');
    expect(new Set(await driver.read(QUEUE.buffer, 64)).size).toBeGreaterThan(8);
    expect(await driver.read(QUEUE.buffer + 64, 8)).toEqual(Buffer.alloc(8));
  });

  it('reads a sector of a disk', { timeout: 60_000 }, async () => {
    const driver = await machine(program, device({ type: 'block', sectors: 64, content: 'pattern' }));
    await driver.find(0x1042);
    await driver.start();
    await driver.store(QUEUE.buffer, 4, 0);
    await driver.store(QUEUE.buffer + 4, 4, 0);
    await driver.store(QUEUE.buffer + 8, 8, 5);
    await driver.store(QUEUE.buffer + 0x800, 1, 0xff);
    const used = await driver.exchange([
      { gpa: QUEUE.buffer, bytes: 16, write: false },
      { gpa: QUEUE.buffer + 0x200, bytes: 512, write: true },
      { gpa: QUEUE.buffer + 0x800, bytes: 1, write: true },
    ]);
    expect(used).toBe('used 1: id 0, 513 bytes');
    expect(await driver.load(QUEUE.buffer + 0x800, 1)).toBe(0);
    expect(await driver.load(QUEUE.buffer + 0x200 + 4, 4)).toBe(Math.imul(5 * 128 + 1, 2_654_435_761) >>> 0);
  });

  it('answers each kind of access', { timeout: 60_000 }, async () => {
    const driver = await machine(program);
    await driver.do({ do: 'fill', gpa: '0x1000', count: 0x3000, byte: 0xa5 });
    await driver.do({ do: 'write', gpa: '0x1ffd', data: Buffer.from([1, 2, 3, 4, 5, 6]).toString('base64') });
    expect(await driver.load(0x1ffc, 8)).toBe(Number(0xa506_0504_0302_01a5n));
    expect(await driver.load(0x1fff, 4)).toBe(0x0605_0403);
    expect([...(await driver.read(0x1ffc, 8))]).toEqual([0xa5, 1, 2, 3, 4, 5, 6, 0xa5]);
    await driver.store(0x2001, 2, 0xbeef);
    expect(await driver.load(0x2000, 4)).toBe(0xa5be_ef04);
    expect((await driver.do({ do: 'lines' })).lines).toEqual([]);
    expect(await driver.do({ do: 'host', device: 0, action: 'output', port: 0 })).toHaveProperty('unsupported');
  });
});

describe('the client', () => {
  const pair = (): { readonly client: Qtest; readonly says: (text: string) => void; readonly heard: () => string } => {
    const [input, output] = [new PassThrough(), new PassThrough()];
    let heard = '';
    output.on('data', (chunk: Buffer) => {
      heard += chunk.toString();
    });
    return { client: new Qtest(input, output), says: (text) => void input.write(text), heard: () => heard };
  };

  it('keeps lines that move apart from answers', async () => {
    const { client, says, heard } = pair();
    const answer = client.in(0x60, 1);
    says('IRQ raise 16\nIRQ low');
    says('er 16\nOK 0x00ff\n');
    expect(await answer).toBe(0xffn);
    expect(client.takeChanges()).toEqual([
      { gsi: 16, level: true },
      { gsi: 16, level: false },
    ]);
    expect(client.takeChanges()).toEqual([]);
    expect(heard()).toBe('inb 96\n');
  });

  it('tells a refusal from an end', async () => {
    const { client, says } = pair();
    const refused = client.command('nonsense');
    says("FAIL Unknown command 'nonsense'\n");
    await expect(refused).rejects.toThrow(QtestRefusal);
    const stepped = client.clockStep(5n);
    says("FAIL Unknown command 'clock_step'\n");
    expect(await stepped).toBeNull();
    const broken = client.load(0n, 4);
    says('Bail out! ERROR: assertion failed\n');
    await expect(broken).rejects.toThrow(/is no answer/);
    await expect(client.load(0n, 4)).rejects.toThrow(/is no answer/);
  });

  it.each([
    ['a number that is none', 'OK zebra\n', (client: Qtest) => client.load(0n, 4)],
    ['too few bytes', 'OK AAAA\n', (client: Qtest) => client.read(0n, 4)],
    ['an answer to nothing', 'OK\nOK\n', async (client: Qtest) => [await client.command('x'), await client.command('y')]],
  ])('does not believe %s', async (_, text, ask) => {
    const { client, says } = pair();
    const answer = ask(client);
    says(text);
    await expect(answer).rejects.toThrow(/answer/);
  });
});
