import { createHash } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { build, compare, findToolchain } from './build.ts';
import { readImage, readManifest } from './host/images.ts';
import { BOOT_SOURCES, PAYLOADS, RUNTIME_SOURCES } from './index.ts';

const HERE = import.meta.dirname;
const LOAD_ADDRESS = 0x100000;
const MULTIBOOT_MAGIC = 0x1badb002;
const manifest = readManifest();

describe('the list of payloads', () => {
  it('has each name once, and a source for each', () => {
    expect(new Set(PAYLOADS.map(({ name }) => name)).size).toBe(PAYLOADS.length);
    for (const { source } of PAYLOADS) expect(existsSync(join(HERE, source)), source).toBe(true);
    for (const source of [...RUNTIME_SOURCES, ...BOOT_SOURCES]) expect(existsSync(join(HERE, source)), source).toBe(true);
  });

  it('uses every source file', () => {
    const used = new Set(PAYLOADS.map(({ source }) => source));
    for (const file of readdirSync(join(HERE, 'src'))) expect(used.has(`src/${file}`), file).toBe(true);
  });

  it('has an image, a disk and a manifest entry for each, and no others', () => {
    const expected = PAYLOADS.flatMap(({ name }) => [`${name}.elf`, `${name}.img`]).concat('manifest.json');
    expect(readdirSync(join(HERE, 'images')).sort()).toEqual(expected.sort());
    expect(Object.keys(manifest!.images)).toEqual(PAYLOADS.map(({ name }) => name));
  });
});

describe.each(PAYLOADS.map(({ name }) => name))('%s', (name) => {
  const image = readImage(name);
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const record = manifest!.images[name]!;
  const inside = (address: number): boolean => address >= LOAD_ADDRESS && address < LOAD_ADDRESS + image.length;

  it('is what the manifest says', () => {
    expect(createHash('sha256').update(image).digest('hex')).toBe(record.sha256);
    expect(image.length).toBe(record.bytes);
    expect(image.length).toBeLessThan(32 * 1024);
  });

  it('is an ELF file that loads as one piece', () => {
    expect([...image.subarray(0, 7)]).toEqual([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
    expect(view.getUint16(18, true)).toBe(62);
    expect(Number(view.getBigUint64(24, true))).toBe(record.doors.long);
    const headers = Number(view.getBigUint64(32, true));
    expect(view.getUint16(56, true)).toBe(2);
    expect(view.getUint32(headers, true)).toBe(1);
    expect(Number(view.getBigUint64(headers + 8, true))).toBe(0);
    expect(Number(view.getBigUint64(headers + 24, true))).toBe(LOAD_ADDRESS);
    expect(Number(view.getBigUint64(headers + 32, true))).toBe(image.length);
    expect(Number(view.getBigUint64(headers + 40, true))).toBe(record.memoryBytes);
    expect(record.memoryBytes).toBeGreaterThanOrEqual(image.length);
  });

  it('has a multiboot header with addresses that agree with the ELF headers', () => {
    let at = -1;
    for (let i = 0; i + 12 <= Math.min(image.length, 8192) && at < 0; i += 4) if (view.getUint32(i, true) === MULTIBOOT_MAGIC) at = i;
    expect(at).toBeGreaterThanOrEqual(0);
    const [magic, flags, checksum, header, load, loadEnd, bssEnd, entry] = Array.from({ length: 8 }, (_, i) => view.getUint32(at + 4 * i, true));
    expect((magic! + flags! + checksum!) >>> 0).toBe(0);
    expect(flags! & 0x10000).not.toBe(0);
    expect(header).toBe(LOAD_ADDRESS + at);
    expect(load).toBe(LOAD_ADDRESS);
    expect(loadEnd).toBe(LOAD_ADDRESS + image.length);
    expect(bssEnd).toBe(LOAD_ADDRESS + record.memoryBytes);
    expect(entry).toBe(record.doors.multiboot);
  });

  it('has a PVH note', () => {
    const header = Number(view.getBigUint64(32, true)) + 56;
    expect(view.getUint32(header, true)).toBe(4);
    const note = Number(view.getBigUint64(header + 8, true));
    expect([view.getUint32(note, true), view.getUint32(note + 4, true), view.getUint32(note + 8, true)]).toEqual([4, 4, 18]);
    expect(new TextDecoder().decode(image.subarray(note + 12, note + 16))).toBe('Xen\0');
    expect(view.getUint32(note + 16, true)).toBe(record.doors.pvh);
  });

  it('has doors inside itself, and a disk that holds it behind a boot sector', () => {
    for (const door of Object.values(record.doors)) expect(inside(door)).toBe(true);
    const disk = readImage(name, 'disk');
    expect(disk.length % 512).toBe(0);
    expect([disk[510], disk[511]]).toEqual([0x55, 0xaa]);
    expect(Buffer.compare(disk.subarray(512, 512 + image.length), image)).toBe(0);
  });
});

// `npm run check` builds them all; here it is the building that is tested.
const SAMPLE = PAYLOADS.filter((_, at) => at % 16 === 0);

describe('building again', () => {
  const toolchain = findToolchain();
  it.skipIf(toolchain === null)(
    `gives the committed bytes, on a sample${toolchain === null ? ' (skipped: no gcc)' : ''}`,
    { timeout: 120_000 },
    (context) => {
      const result = compare(build(SAMPLE), manifest, toolchain!);
      const other = [...result].filter(([, what]) => what === 'not comparable');
      expect([...result].filter(([, what]) => what === 'different' || what === 'missing')).toEqual([]);
      if (other.length > 0) context.skip(`${other.length} files are not comparable: committed ones were built by ${manifest!.toolchain}`);
    },
  );

  it.skipIf(toolchain === null)('notices a changed source: another payload gives other bytes', { timeout: 60_000 }, () => {
    const halt = PAYLOADS.find(({ name }) => name === 'halt')!;
    const changed = build([{ ...halt, source: 'src/triple-fault.S' }]);
    expect([...compare(changed, manifest, manifest!.toolchain).values()]).toEqual(['different', 'different']);
    expect([...compare(changed, manifest, 'another compiler').values()]).toEqual(['not comparable', 'not comparable']);
  });
});
