// # What a visitor may choose
//
// The machine's description, as far as the page asks for it, and its form in the address bar:
// `#machine=microvm&memory=512&cpus=2&paging=shadow&append=console%3DttyS0`. A link holds the options and never a file.

import type { MachineConfig } from '../../chapters/05-pio-mmio/machine/config.ts';

export const MACHINES = ['q35', 'pc', 'microvm'] as const;
export const PAGINGS = ['ept', 'shadow'] as const;
/** In MiB. The most is what a browser gives one WebAssembly memory, with room for the kernel of the book. */
export const MEMORY = { least: 16, most: 3072, usual: 256 } as const;
export const MOST_CPUS = 8;
/** A longer command line is no longer Linux's. */
export const APPEND_LIMIT = 2047;

export interface Options {
  readonly machine: (typeof MACHINES)[number];
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly paging: (typeof PAGINGS)[number];
  /** Whether there is a network card; what is at the other end gives it an address, and knows no other place. */
  readonly network: boolean;
  readonly append: string;
}

// Without the first word a kernel is silent. The others save it work that would be wasted here: testing ciphers, and defences against a processor that
// this is not.

export const USUAL: Options = {
  machine: 'q35',
  memoryMiB: MEMORY.usual,
  cpus: 1,
  paging: 'ept',
  network: false,
  append: 'console=ttyS0 cryptomgr.notests=1 mitigations=off',
};

const oneOf = <T extends string>(all: readonly T[], text: string | null, usual: T): T => all.find((each) => each === text) ?? usual;

/** A whole number within bounds; what is none becomes the usual. */
export function bounded(
  text: string | null,
  { least, most, usual }: { readonly least: number; readonly most: number; readonly usual: number },
): number {
  const n = text === null || !/^[0-9]{1,9}$/.test(text) ? usual : Number(text);
  return Math.min(most, Math.max(least, n));
}

/** What can stand on a command line that is passed on as ASCII. */
export const asciiOf = (text: string): string => text.replace(/[^ -~]/g, '').slice(0, APPEND_LIMIT);

/** Reads a link. Whatever it says, the result is a machine. */
export function readOptions(hash: string): Options {
  const fields = new URLSearchParams(hash.replace(/^#/, ''));
  return {
    machine: oneOf(MACHINES, fields.get('machine'), USUAL.machine),
    memoryMiB: bounded(fields.get('memory'), MEMORY),
    cpus: bounded(fields.get('cpus'), { least: 1, most: MOST_CPUS, usual: USUAL.cpus }),
    paging: oneOf(PAGINGS, fields.get('paging'), USUAL.paging),
    network: fields.get('network') === 'user',
    append: asciiOf(fields.get('append') ?? USUAL.append),
  };
}

/** The shortest link: what is usual is left out. */
export function writeOptions({ machine, memoryMiB, cpus, paging, network, append }: Options): string {
  const fields = new URLSearchParams();
  if (machine !== USUAL.machine) fields.set('machine', machine);
  if (memoryMiB !== USUAL.memoryMiB) fields.set('memory', String(memoryMiB));
  if (cpus !== USUAL.cpus) fields.set('cpus', String(cpus));
  if (paging !== USUAL.paging) fields.set('paging', paging);
  if (network) fields.set('network', 'user');
  if (append !== USUAL.append) fields.set('append', append);
  return fields.size > 0 ? `#${fields}` : '';
}

/** The description that the chapters know. `files` are the names of the kernel and the initramfs. */
export const configOf = (
  { machine, memoryMiB, cpus, paging, network, append }: Options,
  files: { kernel: string; initrd?: string },
): MachineConfig => ({
  machine: { type: machine },
  memoryMiB,
  cpus,
  memory: paging,
  kernel: files.kernel,
  append,
  ...(network && { netdevs: [{ type: 'user', id: 'nic0' }], devices: [{ type: 'e1000', netdev: 'nic0' }] }),
  ...(files.initrd !== undefined && { initrd: files.initrd }),
});

// ## Which file is which
//
// Whoever drops two files should not have to say which is the kernel. A saved machine and an archive say what they are in their first bytes; anything else is
// taken for a kernel, and the loader has its own words for what is none.

export type Slot = 'kernel' | 'initrd' | 'state';

const STATE_MAGIC = 'RINGBOOK-STATE';
// biome-ignore format: table
const ARCHIVES: readonly (readonly number[])[] = [
  [0x1f, 0x8b],                         // gzip
  [0x28, 0xb5, 0x2f, 0xfd],             // zstd
  [0xfd, 0x37, 0x7a, 0x58, 0x5a],       // xz
  [0x42, 0x5a, 0x68],                   // bzip2
  [0x5d, 0x00, 0x00],                   // lzma
  [0x02, 0x21, 0x4c, 0x18],             // lz4, as Linux has it
  [0x04, 0x22, 0x4d, 0x18],             // lz4
  [0x30, 0x37, 0x30, 0x37, 0x30],       // cpio: 07070
];
/** Bytes of a file that {@link slotOf} looks at. */
export const HEAD_BYTES = STATE_MAGIC.length;

export function slotOf(head: Uint8Array): Slot {
  if (String.fromCharCode(...head.subarray(0, STATE_MAGIC.length)) === STATE_MAGIC) return 'state';
  return ARCHIVES.some((magic) => magic.every((byte, at) => head[at] === byte)) ? 'initrd' : 'kernel';
}
