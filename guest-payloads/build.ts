// # Building the payloads
//
// The images are committed, so that a reader needs Node alone. This program makes them again with gcc and binutils, and with `--check` compares
// the result with what is committed, byte for byte. Assembly gives the same bytes with any recent assembler; C does not with any compiler, so
// the manifest records which compiler made the images, and another compiler's different result is reported as *not comparable*, not as a fault.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { type ImageRecord, type Manifest, readManifest } from './host/images.ts';
import { diskPath, imagePath, PAYLOADS, type Payload, RUNTIME_SOURCES } from './index.ts';

const HERE = dirname(fileURLToPath(import.meta.url));

const ASSEMBLE = ['-c', '-x', 'assembler-with-cpp', '-nostdinc', '-Irt', '-g0', '-Wa,--fatal-warnings', '-Wa,--noexecstack'];
const COMPILE = [
  ...['-S', '-std=gnu17', '-O1', '-ffreestanding', '-nostdinc', '-Irt', '-g0', '-Wall', '-Wextra', '-Werror', '-fno-ident', '-fno-pic', '-fno-pie'],
  ...['-mgeneral-regs-only', '-fno-stack-protector', '-fno-asynchronous-unwind-tables', '-fno-unwind-tables', '-fcf-protection=none'],
  ...['-fno-builtin', '-fno-tree-loop-distribute-patterns', '-fno-jump-tables', '-march=x86-64', '-mtune=generic'],
];
const COMPILE_WIDTH = { 16: ['-m16', '-march=i686'], 32: ['-m32', '-march=i686'], 64: ['-m64', '-mno-red-zone'] } as const;

/** A tool's first line of `--version`, or null where the tool is missing. */
function version(tool: string): string | null {
  try {
    return execFileSync(tool, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split('\n', 1)[0]!;
  } catch {
    return null;
  }
}

/** The compiler and the binutils in use, or null where the payloads cannot be built. */
export function findToolchain(): string | null {
  const gcc = version('gcc');
  const ld = version('ld');
  return gcc !== null && ld !== null && version('objcopy') !== null ? `${gcc}; ${ld}` : null;
}

// ## One payload
//
// Everything is assembled as 64-bit ELF objects, whatever the width of the code in them, because only then can 16-, 32- and 64-bit code be linked
// into one image. gcc cannot be asked for that, so C goes through its assembly text.

class Builder {
  readonly #scratch: string;
  readonly #objects = new Map<string, string>();

  constructor(scratch: string) {
    this.#scratch = scratch;
  }

  #run(tool: string, args: string[]): void {
    try {
      execFileSync(tool, args, { cwd: HERE, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    } catch (error) {
      const { stderr } = error as { stderr?: string };
      throw new Error(`${tool} failed\n${stderr || (error as Error).message}`);
    }
  }

  /** Assembles or compiles `source` once for each set of definitions. Objects of 16-bit C end in `.low.o`: the linker script puts them low. */
  #object(source: string, defines: Record<string, number>): string {
    const flags = [...Object.entries(defines).map(([name, value]) => `-D${name}=${value}`), `-DFILE=${basename(source)}`];
    const key = [source, ...flags].join(' ');
    const known = this.#objects.get(key);
    if (known !== undefined) return known;
    const isC = source.endsWith('.c');
    const stem = join(this.#scratch, `${basename(source).replace(/\W/g, '_')}-${this.#objects.size}`);
    const object = `${stem}${isC && defines.MODE === 16 ? '.low' : ''}.o`;
    if (isC) {
      const width = COMPILE_WIDTH[defines.MODE as 16 | 32 | 64];
      this.#run('gcc', [...COMPILE, ...width, ...flags, source, '-o', `${stem}.s`]);
      const text = readFileSync(`${stem}.s`, 'utf8');
      writeFileSync(`${stem}.s`, defines.MODE === 32 ? `.code32\n${text}` : text);
      this.#run('as', ['--64', '--noexecstack', `${stem}.s`, '-o', object]);
    } else {
      this.#run('gcc', [...ASSEMBLE, ...flags, source, '-o', object]);
    }
    this.#objects.set(key, object);
    return object;
  }

  image({ name, room, source, defines }: Payload): Uint8Array {
    const rt = (file: string, mode: number): string => this.#object(`rt/${file}`, { MODE: mode, ROOM: 0 });
    const objects = [
      this.#object('rt/start.S', { MODE: 32, ROOM: room }),
      this.#object(source, { MODE: room, ROOM: room, ...defines }),
      ...[16, 32, 64].map((mode) => rt('records.S', mode)),
      ...[32, 64].flatMap((mode) => [rt('once.S', mode), rt('traps.S', mode)]),
      ...[16, 32, 64].map((mode) => rt('c.S', mode)),
      rt('state.S', 32),
      rt('trampoline.S', 32),
    ];
    const linked = join(this.#scratch, `${name}.linked`);
    const flat = join(this.#scratch, `${name}.elf`);
    const options = ['-T', 'rt/payload.ld', '--gc-sections', '-nostdlib', '-z', 'noexecstack', '--build-id=none', '--no-warn-rwx-segments'];
    this.#run('ld', [...options, '-o', linked, ...objects]);
    this.#run('objcopy', ['-O', 'binary', linked, flat]);
    return readFileSync(flat);
  }

  bootSector(): Uint8Array {
    const linked = join(this.#scratch, 'boot.linked');
    const flat = join(this.#scratch, 'boot.bin');
    this.#run('ld', ['-T', 'rt/boot.ld', '-e', 'boot', '--build-id=none', '-o', linked, this.#object('rt/boot.S', { MODE: 16, ROOM: 0 })]);
    this.#run('objcopy', ['-O', 'binary', linked, flat]);
    return readFileSync(flat);
  }
}

/** A disk: the boot sector, the image, zeros up to a whole sector. */
function disk(boot: Uint8Array, image: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(512 + Math.ceil(image.length / 512) * 512);
  bytes.set(boot, 0);
  bytes.set(image, 512);
  return bytes;
}

/** A source and the files of ours that it includes, directly or not. */
function withIncludes(source: string): string[] {
  const text = readFileSync(join(HERE, source), 'utf8');
  return [source, ...[...text.matchAll(/^#include "(.+)"$/gm)].flatMap(([, file]) => withIncludes(`rt/${file}`))];
}

/** What the manifest says of an image: enough to find the doors without reading the file's headers. */
function describe(entry: Payload, image: Uint8Array): ImageRecord {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  return {
    sha256: createHash('sha256').update(image).digest('hex'),
    bytes: image.length,
    memoryBytes: Number(view.getBigUint64(64 + 40, true)),
    doors: { multiboot: view.getUint32(0xb0 + 28, true), pvh: view.getUint32(0xd0 + 16, true), long: Number(view.getBigUint64(24, true)) },
    sources: [...new Set([...withIncludes(entry.source), ...RUNTIME_SOURCES])],
  };
}

export interface Built {
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly records: Readonly<Record<string, ImageRecord>>;
}

/** Builds payloads in a scratch folder, which is gone afterwards; the result is by path relative to this folder. */
export function build(payloads: readonly Payload[]): Built {
  const scratch = mkdtempSync(join(tmpdir(), 'payloads-'));
  try {
    const builder = new Builder(scratch);
    const files = new Map<string, Uint8Array>();
    const records: Record<string, ImageRecord> = {};
    const boot = builder.bootSector();
    for (const entry of payloads) {
      const image = builder.image(entry);
      files.set(imagePath(entry.name), image);
      files.set(diskPath(entry.name), disk(boot, image));
      records[entry.name] = describe(entry, image);
    }
    return { files, records };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

export type Comparison = 'same' | 'different' | 'missing' | 'not comparable';

/** Compares freshly built files with the committed ones. */
export function compare(built: Built, manifest: Manifest | null, toolchain: string): Map<string, Comparison> {
  const result = new Map<string, Comparison>();
  for (const [path, bytes] of built.files) {
    let committed: Uint8Array;
    try {
      committed = readFileSync(join(HERE, path));
    } catch {
      result.set(path, 'missing');
      continue;
    }
    if (Buffer.compare(committed, bytes) === 0) result.set(path, 'same');
    else result.set(path, manifest !== null && manifest.toolchain !== toolchain ? 'not comparable' : 'different');
  }
  return result;
}

function main(): number {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { check: { type: 'boolean' }, list: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help) {
    console.log(
      'usage: ringbook payloads [--check | --list] [name ...]\n\nBuilds the images from their sources; --check compares instead of writing.',
    );
    return 0;
  }
  const unknown = positionals.filter((name) => !PAYLOADS.some((entry) => entry.name.includes(name)));
  if (unknown.length > 0) {
    console.error(`payloads: no payload's name contains '${unknown[0]}'`);
    return 2;
  }
  const chosen = PAYLOADS.filter((entry) => positionals.length === 0 || positionals.some((name) => entry.name.includes(name)));
  if (values.list) {
    for (const { name, room, title, needs } of chosen)
      console.log(`${name.padEnd(20)} ${room}-bit  ${title}${needs.length ? `  [${needs.join(', ')}]` : ''}`);
    return 0;
  }

  const toolchain = findToolchain();
  if (toolchain === null) {
    console.log('payloads: skipped: no gcc (the committed images are used as they are; gcc and binutils are needed only to build them again)');
    return values.check ? 0 : 1;
  }
  const built = build(chosen);
  const manifest = readManifest();
  if (values.check) {
    const result = compare(built, manifest, toolchain);
    const bad = [...result].filter(([, what]) => what !== 'same');
    for (const [path, what] of bad) console.log(`${what.padEnd(15)} ${path}`);
    if (bad.some(([, what]) => what === 'not comparable')) console.log(`built by   ${manifest?.toolchain}\ncompared by ${toolchain}`);
    console.log(`payloads: ${result.size - bad.length} of ${result.size} files are what their sources give`);
    return bad.some(([, what]) => what === 'different' || what === 'missing') ? 1 : 0;
  }
  for (const [path, bytes] of built.files) writeFileSync(join(HERE, path), bytes);
  const images = { ...manifest?.images, ...built.records };
  const sorted = Object.fromEntries(PAYLOADS.filter(({ name }) => images[name] !== undefined).map(({ name }) => [name, images[name]!]));
  writeFileSync(join(HERE, 'images/manifest.json'), `${JSON.stringify({ toolchain, images: sorted }, null, 2)}\n`);
  console.log(`payloads: wrote ${built.files.size} files, ${[...built.files.values()].reduce((sum, bytes) => sum + bytes.length, 0)} bytes`);
  return 0;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    process.exitCode = main();
  } catch (error) {
    console.error(`payloads: ${(error as Error).message}`);
    process.exitCode = 1;
  }
}
