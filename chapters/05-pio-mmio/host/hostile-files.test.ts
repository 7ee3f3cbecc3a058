import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { ImageError } from '../../03-vcpu-loop/elf.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import type { MachineConfig } from '../machine/config.ts';
import { ConfigError } from '../machine/device-types.ts';
import { mergeConfigs, readOptions } from '../machine/options.ts';
import { Pc } from '../machine/pc.ts';
import { machineKernel } from '../machine/soft-machine.ts';
import { checkedConfig } from './checked-config.ts';
import { FileBlock } from './file-block.ts';
import '../machine/devices.ts';
import { OpenMachine } from './open-machine.ts';
import { readRegularFile } from './read-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'ringbook-hostile-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);

/** A pipe that nobody writes to; null where the system has none. */
function pipe(): string | null {
  const path = at('pipe');
  try {
    execFileSync('mkfifo', [path], { stdio: 'ignore' });
  } catch {
    return null;
  }
  return path;
}
const fifo = pipe();

/** Either a machine, or a refusal in one line. */
function refusedOrDone(act: () => unknown): void {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    const { message } = error as Error;
    expect(message.length).toBeGreaterThan(0);
    expect(message.includes('\n')).toBe(false);
  }
}

describe('a description of a machine that may be anything', () => {
  const good: MachineConfig = {
    firmware: 'bios',
    memoryMiB: 64,
    cpus: 2,
    drives: [{ id: 'd', file: 'disk' }],
    netdevs: [{ id: 'n', type: 'echo' }],
    devices: [
      { type: 'ide-hd', drive: 'd', bus: 'ide.0', unit: 0 },
      { type: 'e1000', netdev: 'n', addr: '3.0' },
    ],
    serial: ['stdio', { file: 'x' }],
  };
  const names = ['__proto__', 'constructor', 'toString', '', 'd', 'n', 'ide-hd', 'e1000', 'ide.0', '3.0', '1f.7', '-1', '9'.repeat(400)];
  const value = fc.oneof(fc.anything({ maxDepth: 2, withBigInt: false }), fc.constantFrom<unknown>(null, -1, 2 ** 53, 0.5, [], {}, [null], ...names));

  it('is a machine or is refused', () => {
    fc.assert(
      fc.property(value, (document) => refusedOrDone(() => checkedConfig(document))),
      { numRuns: 300 },
    );
  });

  it('is one good machine with one thing changed', () => {
    const paths = [
      ...Object.keys(good),
      'drives.0.id',
      'drives.0',
      'netdevs.0.type',
      'devices.0.type',
      'devices.0.drive',
      'devices.0.unit',
      'devices.1.addr',
    ];
    paths.push('devices.1.mac', 'devices.1.__proto__', 'serial.0', 'serial.1.file', 'timeoutS', 'append', 'door', '__proto__', 'constructor');
    fc.assert(
      fc.property(fc.constantFrom(...paths), value, (path, to) => {
        const document = structuredClone(good) as unknown as Record<string, unknown>;
        const steps = path.split('.');
        const last = steps.pop() as string;
        const place = steps.reduce<Record<string, unknown>>((into, step) => into[step] as Record<string, unknown>, document);
        Object.defineProperty(place, last, { value: to, enumerable: true, configurable: true, writable: true });
        refusedOrDone(() => checkedConfig(document));
      }),
      { numRuns: 400 },
    );
  });

  it('is merged with the command line, whatever it calls its lists', () => {
    const { document } = readOptions(['-drive', 'file=a,if=none', '-netdev', 'echo,id=n', '-device', 'e1000,netdev=n', '-bios', 'b']);
    for (const wrong of [5, 'abc', { 0: 1 }, true])
      for (const key of ['drives', 'netdevs', 'devices']) {
        const base = { [key]: wrong } as unknown as MachineConfig;
        expect(() => checkedConfig(mergeConfigs(base, document))).toThrow(ConfigError);
        expect(() => checkedConfig(mergeConfigs(base, { firmware: 'b' }))).toThrow(ConfigError);
      }
  });

  it('comes from a command line of any words', () => {
    const words = [
      '-drive',
      '-device',
      '-netdev',
      '-m',
      '-smp',
      '-machine',
      '-bios',
      '-kernel',
      '-serial',
      '-accel',
      '-timeout',
      '-debugcon',
      '-door',
    ];
    const values = [
      'file=a',
      'file=a,index=4',
      'file=a,,b,unit=99999999999999999999',
      'e1000',
      'ide-hd,drive=',
      'e1000,__proto__=x',
      '__proto__',
      'q35,accel=kvm',
    ];
    values.push(
      '4294967296G',
      '1e9',
      '-1',
      '0x10',
      'stdio',
      'file:',
      'constructor',
      'echo,id=__proto__',
      ',',
      '=',
      ',,,=,',
      'e1000,addr=20',
      '\0',
      'NaN',
    );
    const word = fc.oneof(fc.constantFrom(...words), fc.constantFrom(...values), fc.string({ maxLength: 12 }));
    fc.assert(
      fc.property(fc.array(word, { maxLength: 8 }), (argv) => refusedOrDone(() => checkedConfig(readOptions(argv).document))),
      { numRuns: 500 },
    );
    expect(() => readOptions(['-device', 'e1000,__proto__=x'])).not.toThrow();
    expect(() => checkedConfig({ firmware: 'b', ...readOptions(['-device', 'e1000,__proto__=x']).document })).toThrow('__proto__');
  });
});

describe('a file that may be anything', () => {
  it('is a disk of any number of whole sectors, and nothing else', () => {
    for (const bytes of [0, 1, 511, 513, 1_000_000]) {
      writeFileSync(at('odd'), new Uint8Array(bytes));
      expect(() => new FileBlock(at('odd'))).toThrow('whole sectors');
    }
    writeFileSync(at('huge'), '');
    truncateSync(at('huge'), 2 ** 42); // nearly all of it a hole
    const huge = new FileBlock(at('huge'), { readOnly: true });
    const sector = new Uint8Array(512).fill(1);
    expect(huge.sectors).toBe(2 ** 33);
    expect([2 ** 33 - 1, 2 ** 33, 2 ** 48, 2 ** 55].map((n) => huge.read(n, sector))).toEqual([true, false, false, false]);
    huge.close();
    mkdirSync(at('folder'));
    for (const path of [at('folder'), '/dev/zero', ...(fifo ? [fifo] : [])])
      for (const readOnly of [true, false]) expect(() => new FileBlock(path, { readOnly })).toThrow();
  });

  it('is an image, a firmware or a description only when it is a file of a sensible size', () => {
    writeFileSync(at('large'), '');
    truncateSync(at('large'), 2 ** 40);
    for (const path of [at('large'), at('none'), folder, '/dev/zero', ...(fifo ? [fifo] : [])])
      expect(() => readRegularFile(path, 1 << 20)).toThrow();
    writeFileSync(at('small'), 'abc');
    expect(new TextDecoder().decode(readRegularFile(at('small'), 3))).toBe('abc');
    expect(() => readRegularFile(at('small'), 2)).toThrow('3 bytes');
  });

  it.each(['firmware', 'kernel'])('is refused as %s in one line, and nothing stays open', async (what) => {
    for (const path of [at('large'), folder, '/dev/zero', at('none')]) {
      const config = checkedConfig({ [what]: path, memoryMiB: 16, serial: ['null'] });
      await expect(OpenMachine.open(config)).rejects.toThrow(ConfigError);
    }
    writeFileSync(at('random'), new Uint8Array(5000).fill(0xa5)); // no whole page, and no image
    await expect(OpenMachine.open(checkedConfig({ [what]: at('random'), memoryMiB: 16, serial: ['null'] }))).rejects.toThrow(ConfigError);
  });

  it('is refused as a description by the program itself', () => {
    const main = fileURLToPath(new URL('run.ts', import.meta.url));
    for (const [name, text] of [
      ['null.json', 'null'],
      ['drives.json', '{"firmware":"b","drives":5}'],
    ] as const) {
      writeFileSync(at(name), text);
      const { status, stderr } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', main, '-config', at(name)], {
        encoding: 'utf8',
      });
      expect([name, status, stderr.trimEnd().split('\n').length]).toEqual([name, 2, 1]);
    }
  });
});

describe('input without end', () => {
  it('waits for a guest that does not read it', async () => {
    writeFileSync(at('forever'), Uint8Array.of(0xeb, 0xfe)); // jmp to itself
    const main = fileURLToPath(new URL('run.ts', import.meta.url));
    const args = ['--disable-warning=ExperimentalWarning', main, '-kernel', at('forever'), '-door', 'flat', '-m', '4', '-timeout', '2'];
    const child = spawn(process.execPath, args, { stdio: ['pipe', 'ignore', 'ignore'] });
    const chunk = new Uint8Array(1 << 16);
    let taken = 0;
    const more = (): void => {
      child.stdin.write(chunk, (error) => {
        if (error) return;
        taken += chunk.length;
        setImmediate(more);
      });
    };
    child.stdin.on('error', () => {}); // it has ended
    more();
    const status = await new Promise((resolve) => child.once('exit', resolve));
    expect(status).toBe(6);
    expect(taken).toBeLessThan(2 << 20);
  });
});

// The loader's own checks are tested beside it. Here what it accepts is also run: a damaged image is a program like any other.
describe('an image with damaged bytes', () => {
  const image = new Uint8Array(readFileSync(new URL('../../../guest-payloads/images/serial-polled.elf', import.meta.url)));

  it('is refused, or runs to some end', () => {
    const kernel = machineKernel({ memoryMiB: 4, cpus: 1, memory: 'ept' }, { instructionBound: 5000 });
    const damage = fc.array(fc.tuple(fc.oneof(fc.nat(0x140), fc.nat(image.length - 1)), fc.nat(255)), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(damage, fc.constantFrom(undefined, 'pvh' as const, 'long' as const, 'flat' as const), (changes, door) => {
        const damaged = image.slice();
        for (const [where, to] of changes) damaged[where] = to;
        const config = checkedConfig({ kernel: 'image', memoryMiB: 4, serial: ['null'], reboot: false });
        const pc = new Pc({ kernel, config });
        const machine = new Machine(pc.board);
        try {
          machine.load(damaged, { ...pc.handover, ...(door && { door }) });
          expect(typeof machine.run({ exits: 200, bounds: 20 }).end).toBe('string');
        } catch (error) {
          expect(error).toBeInstanceOf(ImageError);
        } finally {
          machine.dispose();
        }
      }),
      { numRuns: 25 },
    );
  });
});
