import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { packCpio } from './cpio.ts';
import { makeInitramfs } from './initramfs.ts';
import { ModuleError, resolveModules } from './modules.ts';
import { ArchiveError, readAr, TarReader } from './packages.ts';

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

/** A header by hand, and its file. */
function tarred(name: string, body: string, { type = '0', prefix = '' } = {}): Uint8Array {
  const head = new Uint8Array(512);
  head.set(text(name), 0);
  head.set(text(`${body.length.toString(8).padStart(11, '0')}\0`), 124);
  head.set(text(type), 156);
  head.set(text('ustar\x0000'), 257);
  head.set(text(prefix), 345);
  head.fill(0x20, 148, 156);
  const sum = head.reduce((all, byte) => all + byte, 0);
  head.set(text(`${sum.toString(8).padStart(6, '0')}\0 `), 148);
  const out = new Uint8Array(512 + Math.ceil(body.length / 512) * 512);
  out.set(head);
  out.set(text(body), 512);
  return out;
}

const joined = (...pieces: readonly Uint8Array[]): Uint8Array => Uint8Array.from(pieces.flatMap((piece) => [...piece]));

function untarred(archive: Uint8Array, step: number, wanted: (name: string) => boolean = () => true): Record<string, string> {
  const found: Record<string, string> = {};
  const tar = new TarReader(wanted, (name, bytes) => {
    found[name] = new TextDecoder().decode(bytes);
  });
  for (let at = 0; at < archive.length; at += step) tar.push(archive.subarray(at, at + step));
  tar.finish();
  return found;
}

/** The least that is an ELF file with a `.modinfo`. */
function madeModule(lines: readonly string[]): Uint8Array {
  const info = text(lines.map((line) => `${line}\0`).join(''));
  const names = text('\0.modinfo\0');
  const file = new Uint8Array(64 + 2 * 64 + info.length + names.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setBigUint64(40, 64n, true);
  view.setUint16(58, 64, true);
  view.setUint16(60, 2, true);
  view.setUint16(62, 1, true);
  for (const [index, [name, at, length]] of [
    [1, 192, info.length],
    [0, 192 + info.length, names.length],
  ].entries() as IterableIterator<[number, [number, number, number]]>) {
    view.setUint32(64 + 64 * index, name, true);
    view.setBigUint64(64 + 64 * index + 24, BigInt(at), true);
    view.setBigUint64(64 + 64 * index + 32, BigInt(length), true);
  }
  file.set(info, 192);
  file.set(names, 192 + info.length);
  return file;
}

describe('packages', () => {
  it('gives the members of an ar archive', () => {
    const member = (name: string, body: string): string =>
      `${name.padEnd(16)}${'0'.padEnd(32)}${String(body.length).padEnd(10)}\`\n${body}${body.length % 2 ? '\n' : ''}`;
    const file = text(`!<arch>\n${member('debian-binary', '2.0\n')}${member('odd/', 'abc')}${member('data.tar', 'xy')}`);
    expect(readAr(file).map(({ name, bytes }) => [name, new TextDecoder().decode(bytes)])).toEqual([
      ['debian-binary', '2.0\n'],
      ['odd', 'abc'],
      ['data.tar', 'xy'],
    ]);
    expect(() => readAr(file.subarray(0, file.length - 1))).toThrow(/2 bytes at .* past the end/);
    expect(() => readAr(text('PK'))).toThrow(ArchiveError);
  });
  it('reads a tar archive in pieces of any size', () => {
    const long = `${'d/'.repeat(80)}file`;
    const archive = joined(
      tarred('./a/b', 'hello'),
      tarred('a/', '', { type: '5' }),
      tarred('name', 'x'.repeat(1000), { prefix: 'deep' }),
      tarred('././@LongLink', `${long}\0`, { type: 'L' }),
      tarred('cut off', 'long'),
      tarred('pax', '17 path=from/pax\n', { type: 'x' }),
      tarred('also cut off', 'named'),
      tarred('../../etc/passwd', 'no'),
      tarred('link', '', { type: '2' }),
      new Uint8Array(1024),
    );
    const all = { 'a/b': 'hello', 'deep/name': 'x'.repeat(1000), [long]: 'long', 'from/pax': 'named', 'etc/passwd': 'no' };
    for (const step of [1, 7, 511, 512, 513, 1 << 20]) expect(untarred(archive, step)).toEqual(all);
    expect(untarred(archive, 100, (name) => name === 'from/pax')).toEqual({ 'from/pax': 'named' });
    const damaged = archive.slice();
    damaged[0] = 0x7a;
    expect(() => untarred(damaged, 512)).toThrow(/wrong checksum/);
    expect(() => untarred(archive.subarray(0, 514), 512)).toThrow(/ends 3 bytes before/);
  });
  it('refuses any other bytes, or reads them, and does nothing else', () => {
    const archive = joined(tarred('./a/b', 'hello'), tarred('c', 'x'.repeat(600)));
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(archive.length - 1), fc.nat(255)), { maxLength: 4 }), (changes) => {
        const damaged = archive.slice();
        for (const [at, byte] of changes) damaged[at] = byte;
        try {
          untarred(damaged, 300);
        } catch (error) {
          expect(error).toBeInstanceOf(ArchiveError);
        }
      }),
      { numRuns: 300, seed: 15 },
    );
  });
});

describe('modules', () => {
  const files: Record<string, Uint8Array> = {
    e1000: madeModule(['license=GPL', 'depends=', 'name=e1000']),
    virtio_pci: madeModule(['depends=virtio,virtio-ring']),
    virtio: madeModule(['depends=virtio_ring']),
    virtio_ring: madeModule(['depends=']),
    ext4: madeModule(['softdep=pre: crc32c post: later', 'depends=jbd2,builtin']),
    jbd2: madeModule(['depends=']),
    crc32c_generic: madeModule(['alias=crc32c']),
    broken: madeModule(['depends=missing']),
    circle: madeModule(['depends=circle']),
  };
  const source = { read: (name: string) => files[name] ?? null, isBuiltIn: (name: string) => name === 'builtin' };
  it('come after what they need', () => {
    expect([...resolveModules(['virtio-pci', 'e1000'], source).keys()]).toEqual(['virtio_ring', 'virtio', 'virtio_pci', 'e1000']);
    expect([...resolveModules(['ext4', 'builtin'], source).keys()]).toEqual(['crc32c_generic', 'jbd2', 'ext4']);
    expect([...resolveModules(['circle'], source).keys()]).toEqual(['circle']);
  });
  it('that do not exist are named', () => {
    expect(() => resolveModules(['broken'], source)).toThrow('there is no module missing, which broken needs');
    expect(() => resolveModules(['nothing'], source)).toThrow(ModuleError);
  });
  it('may be any bytes', () => {
    const good = files.virtio_pci as Uint8Array;
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 6 }), fc.nat(good.length), (changes, length) => {
        const file = good.slice(0, length);
        for (const [at, byte] of changes) if (at < length) file[at] = byte;
        try {
          const damaged = { ...source, read: (name: string) => (name === 'damaged' ? file : source.read(name)) };
          expect(resolveModules(['damaged'], damaged).size).toBeLessThan(10);
        } catch (error) {
          expect(error).toBeInstanceOf(ModuleError);
        }
      }),
      { numRuns: 500, seed: 15 },
    );
  });
});

describe('an initramfs', () => {
  const contents = { busybox: text('#!busybox'), modules: new Map([['virtio', text('module')]]), script: 'echo hello\n' };
  it('is the same bytes for the same files, in whatever order they were given', () => {
    const [a, b] = [text('a'), text('b')];
    const one = packCpio(
      new Map([
        ['x/a', { kind: 'file', bytes: a }],
        ['b', { kind: 'file', bytes: b }],
      ]),
    );
    const two = packCpio(
      new Map([
        ['b', { kind: 'file', bytes: b }],
        ['x/a', { kind: 'file', bytes: a }],
      ]),
    );
    expect(Buffer.compare(one, two)).toBe(0);
    expect(one.length % 512).toBe(0);
    // The format's own example: magic, inode, mode, and the size, in hexadecimal.
    expect(new TextDecoder().decode(one.subarray(0, 110 + 2))).toBe(
      `070701${['1', '81a4', '0', '0', '1', '0', '1', '0', '0', '0', '0', '2', '0'].map((field) => field.padStart(8, '0')).join('')}b\0`,
    );
  });
  it('passes to each module what the command line says to it', (context) => {
    if (spawnSync('sh', ['-c', 'true']).error) context.skip('there is no sh here');
    const init = /^read -r line[\s\S]*?^done <.*$/m.exec(new TextDecoder().decode(makeInitramfs(contents)))?.[0] ?? '';
    const here = (...lines: readonly string[]): string => `<<EOF\n${lines.join('\n')}\nEOF`;
    const said = here('quiet libata.dma=0 libata.force=1.0:pio4 lib.x=1 root=libata.dma');
    const loop = init.replace('</proc/cmdline', said).replace('</etc/modules', here('libata', 'ata_piix'));
    const { stdout } = spawnSync('sh', ['-c', `insmod() { echo "$@"; }\n${loop}`], { encoding: 'utf8' });
    expect(stdout).toBe('/lib/modules/libata.ko dma=0 force=1.0:pio4\n/lib/modules/ata_piix.ko\n');
  });
  it('is unpacked by cpio to what was put in', (context) => {
    if (spawnSync('cpio', ['--version']).error) context.skip('there is no cpio here');
    const folder = mkdtempSync(join(tmpdir(), 'initramfs-'));
    try {
      // The console is a device, which only root may make.
      const { status, stderr } = spawnSync('cpio', ['-i', '-d', '--quiet', '--nonmatching', 'dev/console'], {
        cwd: folder,
        input: makeInitramfs(contents),
      });
      expect(`${status} ${stderr}`).toBe('0 ');
      expect(readFileSync(join(folder, 'bin/busybox'), 'utf8')).toBe('#!busybox');
      expect(statSync(join(folder, 'bin/busybox')).mode & 0o777).toBe(0o755);
      expect(readFileSync(join(folder, 'lib/modules/virtio.ko'), 'utf8')).toBe('module');
      expect(readFileSync(join(folder, 'etc/modules'), 'utf8')).toBe('virtio\n');
      expect(readFileSync(join(folder, 'script'), 'utf8')).toBe('echo hello\n');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
