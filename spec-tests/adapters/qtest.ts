// # The qtest protocol, the client's side
//
// QEMU can be driven without a guest: it reads commands from a stream, a line each, and answers each with a line. `outl 0xcf8 0x80000800` is an
// access that a processor would have made. Whoever tests device models by it writes the driver, and nothing else is in the way. The commands are a
// handful, and Ringbook answers the same ones.
//
// An answer begins with `OK`, `FAIL` or `ERR`. Between answers come lines that nobody asked for: an interrupt line that moved says `IRQ raise 16`.
// An answer that is none of these means that whoever is at the other end does not speak the protocol, and what it says is all that there is to
// report.

import type { Readable, Writable } from 'node:stream';
import type { AccessBytes, LineChange } from '../device-script/wire.ts';
import { lineSplitter } from './lines.ts';

/** The longest answer is a block of memory in base64. */
const LINE_LIMIT_BYTES = 4 << 20;
/** What travels in one line. */
const BLOCK_BYTES = 64 << 10;
/** Nobody asks for so many changes at once; a device that makes more of them is broken, and its machine with it. */
const CHANGES_LIMIT = 100_000;

const LETTER: Readonly<Record<AccessBytes, string>> = { 1: 'b', 2: 'w', 4: 'l', 8: 'q' };

/** The other end refused a command. The connection is as good as before. */
export class QtestRefusal extends Error {
  override name = 'QtestRefusal';
}

interface Waiter {
  resolve(answer: string): void;
  reject(error: Error): void;
}

export class Qtest {
  readonly #output: Writable;
  readonly #waiting: Waiter[] = [];
  #changes: LineChange[] = [];
  #closed: Error | null = null;

  constructor(input: Readable, output: Writable) {
    this.#output = output;
    const overflow = (): void => this.#close(new Error('an endless line instead of an answer'));
    input.on(
      'data',
      lineSplitter(LINE_LIMIT_BYTES, (line) => this.#line(line), overflow),
    );
    for (const stream of new Set([input, output])) {
      stream.on('error', (error: Error) => this.#close(error));
      stream.on('close', () => this.#close(new Error('the machine has ended')));
    }
  }

  #line(line: string): void {
    const irq = /^IRQ (raise|lower) ([0-9]{1,3})$/.exec(line);
    if (irq) {
      this.#changes.push({ gsi: Number(irq[2]), level: irq[1] === 'raise' });
      if (this.#changes.length > CHANGES_LIMIT) this.#close(new Error(`more than ${CHANGES_LIMIT} changes of interrupt lines`));
      return;
    }
    const answer = /^(OK|FAIL|ERR)(?: (.*))?$/.exec(line);
    const waiter = this.#waiting.shift();
    if (!answer || !waiter) this.#close(new Error(`${JSON.stringify(line.slice(0, 200))} is no answer`), waiter);
    else if (answer[1] === 'OK') waiter.resolve(answer[2] ?? '');
    else waiter.reject(new QtestRefusal(line.slice(0, 200)));
  }

  #close(error: Error, ...more: (Waiter | undefined)[]): void {
    this.#closed ??= error;
    for (const waiter of [...more, ...this.#waiting.splice(0)]) waiter?.reject(this.#closed);
  }

  /**
   * Sends a command and waits for its answer: what comes after `OK`.
   * @throws QtestRefusal when the other end refuses; Error when it is gone
   */
  command(...words: (string | number | bigint)[]): Promise<string> {
    if (this.#closed) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#output.write(`${words.join(' ')}\n`);
    });
  }

  async #number(...words: (string | number | bigint)[]): Promise<bigint> {
    const answer = await this.command(...words);
    if (!/^(0x[0-9a-f]{1,16}|[0-9]{1,20})$/i.test(answer)) throw this.#garbled(words[0], answer);
    return BigInt(answer);
  }

  #garbled(command: unknown, answer: string): Error {
    const error = new Error(`${command} was answered with ${JSON.stringify(answer.slice(0, 80))}`);
    this.#close(error);
    return error;
  }

  // ## Accesses of a processor

  in(port: number, bytes: 1 | 2 | 4): Promise<bigint> {
    return this.#number(`in${LETTER[bytes]}`, port);
  }

  async out(port: number, bytes: 1 | 2 | 4, value: bigint): Promise<void> {
    await this.command(`out${LETTER[bytes]}`, port, `0x${value.toString(16)}`);
  }

  load(gpa: bigint, bytes: AccessBytes): Promise<bigint> {
    return this.#number(`read${LETTER[bytes]}`, gpa);
  }

  async store(gpa: bigint, bytes: AccessBytes, value: bigint): Promise<void> {
    await this.command(`write${LETTER[bytes]}`, gpa, `0x${value.toString(16)}`);
  }

  // ## Blocks of memory

  async read(gpa: bigint, count: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(count);
    for (let at = 0; at < count; at += BLOCK_BYTES) {
      const block = Math.min(BLOCK_BYTES, count - at);
      const answer = await this.command('b64read', gpa + BigInt(at), block);
      const read = Buffer.from(answer, 'base64');
      if (read.length !== block) throw this.#garbled('b64read', answer);
      bytes.set(read, at);
    }
    return bytes;
  }

  async write(gpa: bigint, bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
      const block = Buffer.from(bytes.subarray(at, at + BLOCK_BYTES));
      await this.command('b64write', gpa + BigInt(at), block.length, block.toString('base64'));
    }
  }

  async fill(gpa: bigint, count: number, byte: number): Promise<void> {
    if (count > 0) await this.command('memset', gpa, count, byte);
  }

  // ## Interrupts and time

  /** From now on changes of the chip's inputs are collected. */
  async interceptIn(chip: string): Promise<void> {
    await this.command('irq_intercept_in', chip);
  }

  /** What has changed since this was last asked. */
  takeChanges(): readonly LineChange[] {
    const changes = this.#changes;
    this.#changes = [];
    return changes;
  }

  /** Puts the clock forward. Null where time is not the client's to move: QEMU without its qtest accelerator. */
  async clockStep(ns: bigint): Promise<bigint | null> {
    try {
      return await this.#number('clock_step', ns);
    } catch (error) {
      if (error instanceof QtestRefusal) return null;
      throw error;
    }
  }
}
