import { linkSync, mkdtempSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { FileBlock } from './file-block.ts';

const folder = mkdtempSync(join(tmpdir(), 'file-block-'));
afterAll(() => rmSync(folder, { recursive: true }));
let made = 0;
const image = (bytes = 4096): string => {
  const path = join(folder, `disk-${made++}.raw`);
  writeFileSync(
    path,
    Uint8Array.from({ length: bytes }, (_, i) => i >> 9),
  );
  return path;
};

describe('a disk in a file', () => {
  it('reads and writes sectors, in the file', () => {
    const path = image();
    const disk = new FileBlock(path);
    expect([disk.sectors, disk.readOnly]).toEqual([8, false]);
    const into = new Uint8Array(1024);
    expect(disk.read(3, into)).toBe(true);
    expect([into[0], into[512]]).toEqual([3, 4]);
    expect(disk.write(7, new Uint8Array(512).fill(0x77))).toBe(true);
    expect(disk.flush()).toBe(true);
    disk.close();
    expect(readFileSync(path)[7 * 512]).toBe(0x77);
    expect(readFileSync(path).length).toBe(4096);
  });

  it('refuses what is outside, and never makes the file longer', () => {
    const disk = new FileBlock(image());
    expect(disk.read(8, new Uint8Array(512))).toBe(false);
    expect(disk.write(7, new Uint8Array(1024))).toBe(false);
    expect(disk.read(-1, new Uint8Array(512))).toBe(false);
    expect(disk.read(0.5, new Uint8Array(512))).toBe(false);
    expect(disk.read(0, new Uint8Array(100))).toBe(false);
    disk.close();
    expect(disk.read(0, new Uint8Array(512))).toBe(false);
  });

  it('a file that shrinks is a medium error', () => {
    const path = image();
    const disk = new FileBlock(path);
    truncateSync(path, 1024);
    expect(disk.read(1, new Uint8Array(512))).toBe(true);
    expect(disk.read(1, new Uint8Array(1024))).toBe(false);
    disk.close();
  });

  it('is opened for writing once, under whatever name; readers may share', () => {
    const path = image();
    const [soft, hard] = [join(folder, 'soft'), join(folder, 'hard')];
    symlinkSync(path, soft);
    linkSync(path, hard);
    const disk = new FileBlock(path);
    for (const name of [path, soft, hard]) {
      expect(() => new FileBlock(name)).toThrow('in use by another drive');
      expect(() => new FileBlock(name, { readOnly: true })).toThrow('in use by another drive');
    }
    disk.close();
    disk.close();
    const readers = [path, soft].map((name) => new FileBlock(name, { readOnly: true }));
    expect(readers[0]?.write(0, new Uint8Array(512))).toBe(false);
    expect(() => new FileBlock(hard)).toThrow('in use by another drive');
    for (const reader of readers) reader.close();
    new FileBlock(hard).close();
  });

  it('says what is wrong with a file', () => {
    expect(() => new FileBlock(image(1000))).toThrow('1000 bytes; a raw disk image is one or more whole sectors of 512 bytes');
    expect(() => new FileBlock(image(0))).toThrow('0 bytes');
    expect(() => new FileBlock(folder, { readOnly: true })).toThrow('regular file');
    expect(() => new FileBlock(join(folder, 'none'))).toThrow('ENOENT');
  });
});
