// # The real processor
//
// `oracle.c` runs as a child process. Cases and outcomes lie in two files that it has mapped; pipes carry only the word to begin and the word that all is
// done, so that a case costs little more than its own execution and, for those that end in an exception, the kernel's way to a signal handler.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BATCH_CASES, type Batch, CASE, LOCAL_DESCRIPTORS, OUTCOME, Records, WORLD_DATA } from './records.ts';
import { LOCAL, PLACE } from './world.ts';

const CHANGED_ROOM = 48 << 20; // a case can change two pages at most, and few change more than a line

/** True when the tools are here; otherwise why not. */
export function oracleMissing(): string | null {
  if (process.platform !== 'linux' || process.arch !== 'x64') return `needs x86-64 Linux, this is ${process.platform} ${process.arch}`;
  return spawnSync('gcc', ['--version']).status === 0 ? null : 'needs gcc to build the native runner';
}

/** What {@link NativeProcessor.run} gives back: outcomes, and the bytes that the cases have changed in the data pages. */
interface Outcomes {
  readonly records: Records;
  /** By the number in OUTCOME.CHANGED. */
  changed(at: number, bytes: number): Uint8Array;
}

/** The processor of the machine at hand. */
export class NativeProcessor implements Disposable {
  readonly #directory: string;
  readonly #child: ChildProcess;
  readonly #cases: number;
  readonly #results: number;
  readonly #outcomes = new Uint8Array(OUTCOME.BYTES * BATCH_CASES);
  #waiting: { resolve: (count: number) => void; reject: (why: Error) => void } | null = null;
  #gone: Error | null = null;

  constructor() {
    this.#directory = mkdtempSync(join(tmpdir(), 'ringbook-oracle-'));
    const [program, cases, results] = ['oracle', 'cases', 'results'].map((name) => join(this.#directory, name)) as [string, string, string];
    // Position-independent, so that it lies far above any address that a case is likely to reach; without a stack protector, which would need the FS
    // base that a case may have changed.
    const flags = ['-O2', '-pie', '-fPIE', '-fcf-protection=none', '-fno-stack-protector', '-o', program];
    const built = spawnSync('gcc', [...flags, new URL('oracle.c', import.meta.url).pathname], { encoding: 'utf8' });
    if (built.status !== 0) throw new Error(`the native runner does not build: ${built.stderr}`);
    this.#cases = openSync(cases, 'w+');
    this.#results = openSync(results, 'w+');
    ftruncateSync(this.#cases, WORLD_DATA + PLACE.DATA_BYTES + CASE.BYTES * BATCH_CASES);
    ftruncateSync(this.#results, OUTCOME.BYTES * BATCH_CASES + 64 + CHANGED_ROOM);
    writeSync(this.#cases, localDescriptors(), 0, undefined, 0);
    this.#child = spawn(program, [cases, results], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdout?.on('data', (data: Buffer) => {
      this.#waiting?.resolve(data.readUInt32LE(0));
      this.#waiting = null;
    });
    const gone = (why: string): void => {
      this.#gone = new Error(`the native runner ended with ${why}`);
      this.#waiting?.reject(this.#gone);
    };
    this.#child.on('exit', (code, signal) => gone(String(signal ?? code)));
    this.#child.stdin?.on('error', () => {});
  }

  /** Runs a batch. The result is valid until the next call. */
  async run(batch: Batch): Promise<Outcomes> {
    if (this.#gone) throw this.#gone;
    const { count } = batch;
    writeSync(this.#cases, batch.data, 0, PLACE.DATA_BYTES, WORLD_DATA);
    writeSync(this.#cases, batch.cases.bytes, 0, count * CASE.BYTES, WORLD_DATA + PLACE.DATA_BYTES);
    const order = new Uint8Array(4);
    new DataView(order.buffer).setUint32(0, count, true);
    await new Promise<number>((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#child.stdin?.write(order);
    });
    readSync(this.#results, this.#outcomes, 0, count * OUTCOME.BYTES, 0);
    return {
      records: new Records(OUTCOME.BYTES, this.#outcomes),
      changed: (at, bytes) => {
        const out = new Uint8Array(bytes);
        readSync(this.#results, out, 0, bytes, at);
        return out;
      },
    };
  }

  [Symbol.dispose](): void {
    this.#child.removeAllListeners('exit');
    this.#child.stdin?.end();
    this.#child.kill();
    closeSync(this.#cases);
    closeSync(this.#results);
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** `struct user_desc` of Linux, for each local descriptor. */
function localDescriptors(): Uint8Array {
  const table = new Uint32Array(4 * LOCAL_DESCRIPTORS);
  for (const [index, { base, limit, big, contents, restricted = false, absent = false }] of LOCAL.entries()) {
    const bits = Number(big) | (contents << 1) | (Number(restricted) << 3) | (Number(absent) << 5);
    table.set([index, base, limit, bits], 4 * index);
  }
  return new Uint8Array(table.buffer);
}
