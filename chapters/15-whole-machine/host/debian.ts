// # Debian's packages, on this machine
//
// The kernels of this chapter are Debian's, unmodified, and none of them is a part of this program. Where `apt-get` exists it downloads them, without installing
// anything; what was downloaded and unpacked is kept in the user's cache.

import { execFile, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { readLinux } from '../linux/header.ts';
import { type ModuleSource, moduleName } from '../linux/initramfs/modules.ts';
import { ArchiveError, readAr, TarReader } from '../linux/initramfs/packages.ts';
import { isLz4, unpackLz4 } from '../linux/lz4.ts';

const run = promisify(execFile);

/** Something that is not to be had here, and why. */
export class Unavailable extends Error {
  override name = 'Unavailable';
}

const LIMIT_BYTES = 2 ** 30;

/** Where packages are kept. */
const cacheFolder = (): string => join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'ringbook', 'debian');

// ## Unpacking

/** What a compressed file is inflated by, from its first bytes. */
function decompressor(bytes: Uint8Array): 'xz' | 'zstd' | 'gzip' | 'lz4' | null {
  const starts = (...magic: readonly number[]): boolean => magic.every((byte, at) => bytes[at] === byte);
  if (starts(0xfd, 0x37, 0x7a, 0x58, 0x5a)) return 'xz';
  if (starts(0x28, 0xb5, 0x2f, 0xfd)) return 'zstd';
  if (isLz4(bytes)) return 'lz4';
  return starts(0x1f, 0x8b) ? 'gzip' : null;
}

/** The whole of a file, inflated. @throws Unavailable when what that takes is not installed */
function inflated(bytes: Uint8Array): Uint8Array {
  switch (decompressor(bytes)) {
    case 'gzip':
      return gunzipSync(bytes, { maxOutputLength: LIMIT_BYTES });
    case 'zstd':
      return zstdDecompressSync(bytes, { maxOutputLength: LIMIT_BYTES });
    case 'xz': {
      // Behind a kernel's payload stands its size, which is no part of the stream; what xz has written by then is right, so its complaint is not asked.
      const { stdout, error } = spawnSync('xz', ['--decompress', '--stdout', '--single-stream'], { input: bytes, maxBuffer: LIMIT_BYTES });
      if (error || stdout.length === 0) throw new Unavailable(`xz is needed to unpack this, and could not: ${error?.message ?? 'it wrote nothing'}`);
      return stdout;
    }
    case 'lz4':
      return unpackLz4(bytes, LIMIT_BYTES);
    default:
      return bytes;
  }
}

/** Reads a package's files as they are inflated. @throws ArchiveError, Unavailable */
async function readPackage(path: string, wanted: (name: string) => boolean, take: (name: string, bytes: Uint8Array) => void): Promise<void> {
  const data = readAr(readFileSync(path)).find(({ name }) => name.startsWith('data.tar'));
  if (!data) throw new ArchiveError(`${path} has no data.tar: it is no package with files`);
  const tar = new TarReader(wanted, take);
  if (decompressor(data.bytes) !== 'xz') tar.push(inflated(data.bytes));
  else {
    const xz = spawn('xz', ['--decompress', '--stdout'], { stdio: ['pipe', 'pipe', 'ignore'] });
    const failed = new Promise<never>((_, reject) =>
      xz.once('error', (error) => reject(new Unavailable(`xz is needed to unpack ${path}: ${error.message}`))),
    );
    xz.stdin.on('error', () => {}); // it has ended: the exit says why
    xz.stdin.end(data.bytes);
    const read = async (): Promise<void> => {
      for await (const chunk of xz.stdout) tar.push(chunk as Uint8Array);
    };
    try {
      await Promise.race([read(), failed]);
    } finally {
      xz.kill();
    }
  }
  tar.finish();
}

/** One file of a package. @throws ArchiveError when it is not there */
export async function fileOfPackage(path: string, name: string): Promise<Uint8Array> {
  let found: Uint8Array | null = null;
  await readPackage(
    path,
    (each) => each === name || each === `usr/${name}`,
    (_, bytes) => {
      found = bytes;
    },
  );
  if (!found) throw new ArchiveError(`${path} has no ${name}`);
  return found;
}

// ## A kernel, unpacked

/** A folder with `boot/vmlinuz-…` and `lib/modules/…`, as the package has them. */
export class KernelFolder implements ModuleSource {
  readonly vmlinuz: string;
  readonly #modules = new Map<string, string>();
  readonly #builtIn = new Set<string>();

  /** @throws Error when it is no such folder */
  constructor(folder: string) {
    const boot = join(folder, 'boot');
    const image = existsSync(boot) ? readdirSync(boot).find((name) => name.startsWith('vmlinuz')) : undefined;
    if (!image) throw new Error(`${folder} has no boot/vmlinuz-…: it is no unpacked kernel package`);
    this.vmlinuz = join(boot, image);
    const modules = [join(folder, 'lib/modules'), join(folder, 'usr/lib/modules')].find((path) => existsSync(path));
    if (!modules) return;
    for (const file of readdirSync(modules, { recursive: true, encoding: 'utf8' })) {
      if (/\.ko(\.[a-z]+)?$/.test(file)) this.#modules.set(moduleName(file), join(modules, file));
      else if (basename(file) === 'modules.builtin')
        for (const line of readFileSync(join(modules, file), 'utf8').split('\n')) if (line !== '') this.#builtIn.add(moduleName(line));
    }
  }

  read(name: string): Uint8Array | null {
    const path = this.#modules.get(name);
    return path === undefined ? null : inflated(readFileSync(path));
  }

  isBuiltIn(name: string): boolean {
    return this.#builtIn.has(name);
  }

  /** The kernel as an ELF file, for the PVH door: what the image would unpack itself to. @throws Error */
  vmlinux(): Uint8Array {
    return payloadOf(readFileSync(this.vmlinuz));
  }

  /** The same as a file beside the image, written once. */
  get vmlinuxFile(): string {
    const path = this.vmlinuz.replace(/vmlinuz(?=[^/]*$)/, 'vmlinux');
    if (!existsSync(path)) {
      writeFileSync(`${path}.${process.pid}`, this.vmlinux());
      renameSync(`${path}.${process.pid}`, path);
    }
    return path;
  }
}

const [PAYLOAD_OFFSET, PAYLOAD_LENGTH] = [0x248, 0x24c];

function payloadOf(file: Uint8Array): Uint8Array {
  const image = readLinux(file);
  if (!image) throw new Error('this is no Linux kernel');
  const view = new DataView(image.setup.buffer, image.setup.byteOffset, image.setup.length);
  const at = view.getUint32(PAYLOAD_OFFSET, true);
  return inflated(image.kernel.subarray(at, at + view.getUint32(PAYLOAD_LENGTH, true)));
}

/** Unpacks what of a kernel's package anybody here wants, once. Returns the folder. */
export async function unpackKernel(path: string): Promise<string> {
  const folder = join(cacheFolder(), 'unpacked', `${basename(path, '.deb')}-${statSync(path).size}`);
  if (existsSync(folder)) return folder;
  const unfinished = `${folder}.${process.pid}`;
  await readPackage(
    path,
    (name) => /^boot\/vmlinuz/.test(name) || /(^|\/)lib\/modules\/.*(\.ko(\.[a-z]+)?|modules\.builtin)$/.test(name),
    (name, bytes) => {
      const to = join(unfinished, name);
      mkdirSync(dirname(to), { recursive: true });
      writeFileSync(to, bytes);
    },
  );
  mkdirSync(unfinished, { recursive: true });
  try {
    renameSync(unfinished, folder);
  } catch {
    rmSync(unfinished, { recursive: true }); // somebody else was faster
  }
  return folder;
}

// ## Downloading

/** What is fetched unless a name ends in another, as in `busybox-static:i386`: the guest's, whatever this machine's is. */
const ARCHITECTURE = 'amd64';

/** The package that a meta-package such as `linux-image-cloud-amd64` stands for at present. */
async function concretePackage(name: string, architecture: string): Promise<string> {
  const { stdout } = await run('apt-cache', ['show', '--no-all-versions', `${name}:${architecture}`]).catch((error: Error) => {
    const said = error.message.split('\n').find((line) => /^[EN]:/.test(line)) ?? 'it has no such package';
    throw new Unavailable(`apt does not know ${name}: ${said}; has it been told of ${architecture} (dpkg --add-architecture, apt-get update)?`);
  });
  return /^Depends: .*?(linux-image-[0-9][^ ,]*)/m.exec(stdout)?.[1] ?? name;
}

/**
 * A package's file, from the cache or by `apt-get download`.
 * @throws Unavailable where that cannot be done, with the reason
 */
export async function fetchPackage(wanted: string): Promise<string> {
  const [name, architecture = ARCHITECTURE] = wanted.split(':') as [string, string?];
  if (spawnSync('apt-get', ['--version']).error)
    throw new Unavailable(`there is no apt-get here, so ${name} cannot be fetched; download the .deb and name it`);
  const concrete = await concretePackage(name, architecture);
  const folder = join(cacheFolder(), 'packages');
  mkdirSync(folder, { recursive: true });
  const before = readdirSync(folder)
    .filter((file) => file.startsWith(`${concrete}_`) && file.endsWith(`_${architecture}.deb`))
    .sort();
  if (before.length > 0) return join(folder, before.at(-1) as string);
  const into = join(folder, `fetching.${process.pid}`);
  mkdirSync(into, { recursive: true });
  try {
    await run('apt-get', ['download', '-q', `${concrete}:${architecture}`], { cwd: into, timeout: 300_000 }).catch((error: Error) => {
      const lines = error.message.split('\n');
      throw new Unavailable(`apt-get cannot download ${concrete}: ${lines.find((line) => line.startsWith('E:')) ?? lines[0]}`);
    });
    const file = readdirSync(into).find((each) => each.endsWith('.deb'));
    if (!file) throw new Unavailable(`apt-get downloaded nothing for ${concrete}`);
    renameSync(join(into, file), join(folder, file));
    return join(folder, file);
  } finally {
    rmSync(into, { recursive: true, force: true });
  }
}
