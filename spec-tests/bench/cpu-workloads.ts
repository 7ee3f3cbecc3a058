// # The workloads of the processor's benchmark
//
// They are payloads, a few workloads in each image. Sixteen bytes in the image tell where to write which of them shall run, and how often, so the same bytes serve a
// machine that is a hundred times slower than another.

import { readManifest } from '../../guest-payloads/host/images.ts';

export type Width = 32 | 64;

/** What kind of thing a workload is mostly made of. */
export type Kind = 'integer' | 'memory' | 'floating point' | 'paging' | 'privilege and devices' | 'changing code';

export interface Workload {
  readonly name: string;
  readonly about: string;
  readonly kind: Kind;
  /** The payload's name without its width. */
  readonly payload: string;
  /** Its place in the payload's list. */
  readonly index: number;
  /** What each round comes to, in each width that there is. */
  readonly result: Readonly<Partial<Record<Width, number>>>;
  /** Iterations of string instructions in each round: each counts as an instruction, while the clock of the book counts 4,096 of them as one. */
  readonly iterations?: number;
}

const MESSAGE_CRC = 0xa98b64a7;
const both = (result: number): Workload['result'] => ({ 32: result, 64: result });

// biome-ignore format: table
export const WORKLOADS: readonly Workload[] = [
  { name: 'sieve', about: 'primes below 65,536', kind: 'integer', payload: 'bench-integer', index: 0, result: both(6542) },
  { name: 'recursion', about: 'Fibonacci, the slow way', kind: 'integer', payload: 'bench-integer', index: 1, result: both(17711) },
  { name: 'crc32', about: 'by table', kind: 'integer', payload: 'bench-integer', index: 2, result: both(MESSAGE_CRC) },
  { name: 'sha256', about: 'shifts and rotations', kind: 'integer', payload: 'bench-integer', index: 3, result: both(0x1c3f940e) },
  { name: 'bytecode', about: 'indirect jumps', kind: 'integer', payload: 'bench-integer', index: 4, result: both(0x3747) },
  { name: 'additions', about: 'numbers of 64 words', kind: 'integer', payload: 'bench-integer', index: 5, result: { 32: 0xa65f4f1f, 64: 0x3c173a93 } },
  { name: 'products', about: 'multiplication and division', kind: 'integer', payload: 'bench-integer', index: 6, result: { 32: 0x1e5bf5bc, 64: 0xe1a40a43 } },
  { name: 'copy', about: 'a loop of loads and stores', kind: 'memory', payload: 'bench-memory', index: 0, result: both(0xd87b1ae2) },
  { name: 'rep-movs', about: 'string copies', kind: 'memory', payload: 'bench-memory', index: 1, result: both(0xd87b1ae2), iterations: 32768 + 16384 + 8192 },
  { name: 'rep-stos', about: 'string fills', kind: 'memory', payload: 'bench-memory', index: 2, result: both(0x9febe2ce), iterations: 32768 + 8190 },
  { name: 'chains', about: 'a hash table of 32 MiB', kind: 'memory', payload: 'bench-memory', index: 3, result: both(8192) },
  { name: 'x87', about: 'sums, roots, the logistic map', kind: 'floating point', payload: 'bench-float', index: 0, result: both(0x2dd324ee) },
  { name: 'sse2-float', about: 'two doubles at a time', kind: 'floating point', payload: 'bench-float', index: 1, result: both(0xe4c1f425) },
  { name: 'sse2-integer', about: 'four lanes', kind: 'floating point', payload: 'bench-float', index: 2, result: both(0xfd9d6887) },
  { name: 'invlpg', about: 'pages remapped one by one', kind: 'paging', payload: 'bench-paging', index: 0, result: both(0x3c3c7400) },
  { name: 'cr3', about: 'pages remapped eight at a time', kind: 'paging', payload: 'bench-paging', index: 1, result: both(0x400f5c00) },
  { name: 'page-faults', about: 'pages on demand', kind: 'paging', payload: 'bench-paging', index: 2, result: both(0x58968000) },
  { name: 'int80', about: 'system calls by a gate', kind: 'privilege and devices', payload: 'bench-system', index: 0, result: both(0x49249482) },
  { name: 'sysenter', about: 'system calls', kind: 'privilege and devices', payload: 'bench-system', index: 1, result: { 32: 0x49249482 } },
  { name: 'syscall', about: 'system calls', kind: 'privilege and devices', payload: 'bench-system', index: 1, result: { 64: 0x49249482 } },
  { name: 'port-io', about: 'OUT to port 80h', kind: 'privilege and devices', payload: 'bench-system', index: 2, result: both(1024) },
  { name: 'mmio', about: 'an address where nothing lives', kind: 'privilege and devices', payload: 'bench-system', index: 3, result: both(512) },
  { name: 'immediates', about: 'a number in an instruction', kind: 'changing code', payload: 'bench-code', index: 0, result: both(0x4e546d00) },
  { name: 'fresh-code', about: 'new functions', kind: 'changing code', payload: 'bench-code', index: 1, result: both(1024) },
];

/** One workload in one width. */
export interface Task {
  readonly workload: Workload;
  readonly width: Width;
}

export const taskName = ({ workload, width }: Task): string => `${workload.name}/${width}`;
export const imageName = ({ workload, width }: Task): string => `${workload.payload}-${width}`;
export const resultOf = ({ workload, width }: Task): number => workload.result[width] as number;

/** Every workload in each of its widths. */
export const TASKS: readonly Task[] = ([32, 64] as const).flatMap((width) =>
  WORKLOADS.filter(({ result }) => result[width] !== undefined).map((workload) => ({ workload, width })),
);

/** As much as any workload needs. */
export const MEMORY_MIB = 64;
/** The two marks around what is measured. */
export const MARK = { port: 0xe9, begin: 0x42, end: 0x45 } as const;

const MAGIC = new TextEncoder().encode('RB1 parameters:\0');

/** The image, or the disk, with a workload and a number of rounds in it. */
export function withParameters(image: Uint8Array, index: number, rounds: number): Uint8Array {
  const bytes = Uint8Array.from(image);
  const at = bytes.findIndex((_, i) => MAGIC.every((byte, n) => bytes[i + n] === byte));
  if (at < 0) throw new Error('this image has no parameters');
  const view = new DataView(bytes.buffer);
  view.setUint32(at + MAGIC.length, index, true);
  view.setUint32(at + MAGIC.length + 4, rounds, true);
  return bytes;
}

/** Where an image is entered in 32-bit protected mode. */
export function multibootDoor(name: string): number {
  const record = readManifest()?.images[name];
  if (!record) throw new Error(`the manifest has no image ${name}`);
  return record.doors.multiboot;
}

/** The number that a run has reported for a workload; null when it has reported none. */
export function reported(output: string, { workload }: Task): number | null {
  const found = new RegExp(`^RB1 obs ${workload.name} ([0-9a-f]+)$`, 'm').exec(output);
  return found ? Number.parseInt(found[1] as string, 16) : null;
}
