// # The qtest protocol, the machine's side
//
// QEMU's own tests of its devices run no guest. They start the machine with `-qtest`, and speak to it in lines of text: `outl 0xcf8 0x80000800`,
// and the answer is `OK`; `inl 0xcfc`, and the answer is `OK 0x10051af4`. A line that moves says so by itself, before the answer to whatever moved
// it: `IRQ raise 16`. There is a client library for it, a fuzzer, a record of two decades of driver bugs. A machine that understands the same dozen
// commands can be driven by all of them, so this one does.
//
// What follows is that conversation with nothing around it: lines go in, lines come out. QEMU's own implementation aborts on what it does not like,
// an argument that is no number for example; it is a tool for people who can read a core dump. Here the other end may be anybody, and the answer is
// `ERR`.

import type { Width } from '../../03-vcpu-loop/devices/bus.ts';
import type { PausedPc } from './paused-pc.ts';

/** The longest line that is understood. */
export const LINE_LIMIT = 4 << 20;
/** What a command may read or write at once. */
const BLOCK_LIMIT = 1 << 20;
const MEMSET_LIMIT = 16 << 20;
/** Nanoseconds, an hour. Timers fire on the way, and a step is not to take an hour of ours. */
const STEP_LIMIT = 3_600_000_000_000n;
/** Of an unknown command, as it is repeated. */
const ECHO_LIMIT = 80;
const PORTS = 0x1_0000;

// biome-ignore format: table
const WIDTHS: Readonly<Record<string, Width>> = { b: 1, w: 2, l: 4, q: 8 };

/** The chip whose inputs can be listened to. To QEMU's clients it is known by this name. */
const CHIP = 'ioapic';
const INPUTS = 'unnamed-gpio-in';

/** What a command was given that it cannot be given. */
class Misuse extends Error {}

/** A command, with its words. */
class Words {
  readonly #words: readonly string[];

  constructor(words: readonly string[]) {
    this.#words = words;
  }

  at(index: number): string {
    const word = this.#words[index];
    if (word === undefined) throw new Misuse('missing argument');
    return word;
  }

  has(index: number): boolean {
    return this.#words[index] !== undefined;
  }

  /** As `strtoull` with base 0 reads it: decimal, hexadecimal, octal; a minus sign wraps. */
  u64(index: number): bigint {
    const match = /^([+-]?)(?:(0x[0-9a-f]{1,16})|0([0-7]{0,22})|([1-9][0-9]{0,19}))$/i.exec(this.at(index));
    if (!match) throw new Misuse('invalid argument');
    const [, sign, hex, octal, decimal] = match;
    const value = BigInt(hex ?? decimal ?? (octal ? `0o${octal}` : 0));
    if (value >= 2n ** 64n) throw new Misuse('invalid argument');
    return BigInt.asUintN(64, sign === '-' ? -value : value);
  }

  /** An address. What lies beyond 2^53 is nowhere, and one such place is like another. */
  address(index: number): number {
    return Number(this.u64(index));
  }

  size(index: number, limit: number): number {
    const size = this.u64(index);
    if (size > BigInt(limit)) throw new Misuse(`size is more than 0x${limit.toString(16)}`);
    return Number(size);
  }

  port(): number {
    const port = this.u64(1);
    if (port >= BigInt(PORTS)) throw new Misuse('invalid argument');
    return Number(port);
  }
}

const ones = (width: Width): bigint => (1n << BigInt(8 * width)) - 1n;

/** Answers commands. One for each connection: what a client listens to, and its clock, are its own. */
export class QtestServer {
  readonly #machine: PausedPc;
  readonly #send: (line: string) => void;
  /** The client's clock, which it alone moves. The machine's own ticks are coarser, so it may be a little ahead. */
  #clock = 0n;
  #began: number;

  constructor(machine: PausedPc, send: (line: string) => void) {
    this.#machine = machine;
    this.#send = send;
    this.#began = machine.now;
  }

  /** One line, without its end. */
  line(text: string): void {
    const words = text.split(' ');
    const command = words[0] as string;
    try {
      const answer = text.length > LINE_LIMIT ? null : this.#answer(command, new Words(words));
      this.#send(answer ?? `FAIL Unknown command '${command.slice(0, ECHO_LIMIT)}'`);
    } catch (error) {
      if (!(error instanceof Misuse)) throw error;
      this.#send(`ERR ${error.message}`);
    }
  }

  /** The client has gone. */
  close(): void {
    this.#machine.onLine = () => {};
  }

  #answer(command: string, words: Words): string | null {
    const access = /^(in|out)([bwl])$|^(read|write)([bwlq])$/.exec(command);
    if (access) return this.#access((access[1] ?? access[3]) as string, WIDTHS[(access[2] ?? access[4]) as string] as Width, words);
    switch (command) {
      case 'read':
      case 'b64read':
        return this.#read(command, words);
      case 'write':
      case 'b64write':
        return this.#write(command, words);
      case 'memset':
        return this.#memset(words);
      case 'clock_step':
        return this.#clockStep(words);
      case 'clock_set':
        return this.#clockSet(words);
      case 'irq_intercept_in':
      case 'irq_intercept_out':
        return this.#intercept(command === 'irq_intercept_in', words);
      case 'set_irq_in':
        return this.#setIrq(words);
      case 'endianness':
        return 'OK little';
      case 'module_load':
        words.at(2);
        return 'FAIL'; // there are no modules
      default:
        return null;
    }
  }

  // ## Accesses
  //
  // The widths of answers are QEMU's: a port's value in four digits at least, memory's in sixteen, whatever was read.

  #access(what: string, width: Width, words: Words): string {
    const machine = this.#machine;
    switch (what) {
      case 'in':
        return `OK 0x${machine.in(words.port(), width).toString(16).padStart(4, '0')}`;
      case 'read':
        return `OK 0x${machine.load(words.address(1), width).toString(16).padStart(16, '0')}`;
      case 'out':
        machine.out(words.port(), width, words.u64(2) & ones(width));
        return 'OK';
      default:
        machine.store(words.address(1), width, words.u64(2) & ones(width));
        return 'OK';
    }
  }

  #read(command: string, words: Words): string {
    const bytes = new Uint8Array(words.size(2, BLOCK_LIMIT));
    if (command === 'read' && bytes.length === 0) throw new Misuse('invalid argument size'); // `0x` and no digit is no number
    this.#machine.read(words.address(1), bytes);
    return `OK ${command === 'read' ? `0x${toHex(bytes)}` : toBase64(bytes)}`;
  }

  #write(command: string, words: Words): string {
    const bytes = new Uint8Array(words.size(2, BLOCK_LIMIT));
    const data = words.at(3);
    if (data.length < 3) throw new Misuse('invalid argument size');
    if (command === 'write') {
      // Data that is shorter is followed by zeros.
      bytes.set(fromHex(data).subarray(0, bytes.length));
      this.#machine.write(words.address(1), bytes);
    } else {
      this.#machine.write(words.address(1), fromBase64(data).subarray(0, bytes.length));
    }
    return 'OK';
  }

  #memset(words: Words): string {
    const size = words.size(2, MEMSET_LIMIT);
    const gpa = words.address(1);
    const block = new Uint8Array(Math.min(size, BLOCK_LIMIT)).fill(Number(words.u64(3) & 0xffn));
    for (let at = 0; at < size; at += block.length) this.#machine.write(gpa + at, block.subarray(0, size - at));
    return 'OK';
  }

  // ## Time

  /** Lets the machine come to where the client's clock is now. */
  #moveTo(clock: bigint): void {
    this.#clock = clock;
    this.#machine.advanceTo(this.#began + Number(clock));
  }

  #clockStep(words: Words): string {
    let ns: bigint;
    if (words.has(1)) {
      ns = BigInt.asIntN(64, words.u64(1));
    } else {
      const { next } = this.#machine;
      if (next === null) return 'FAIL cannot advance clock to the next deadline because there is no pending deadline';
      ns = BigInt(Math.ceil(next - this.#began)) - this.#clock;
      if (ns <= 0n) ns = 1n;
    }
    if (ns <= 0n || ns > STEP_LIMIT) return 'FAIL could not advance time';
    this.#moveTo(this.#clock + ns);
    return `OK ${this.#clock}`;
  }

  #clockSet(words: Words): string {
    const clock = BigInt.asIntN(64, words.u64(1));
    if (clock >= this.#clock && clock - this.#clock <= STEP_LIMIT) this.#moveTo(clock);
    return `${clock === this.#clock ? 'OK' : 'FAIL'} ${this.#clock}`;
  }

  // ## Interrupts

  #intercept(inputs: boolean, words: Words): string {
    if (words.at(1) !== CHIP) return 'FAIL Unknown device';
    if (!inputs) return 'FAIL No intercepts installed';
    if (words.has(2)) return 'FAIL Interception of named in-GPIOs not yet supported';
    this.#machine.onLine = (gsi, level) => this.#send(`IRQ ${level ? 'raise' : 'lower'} ${gsi}`);
    return 'OK';
  }

  #setIrq(words: Words): string {
    if (words.at(1) !== CHIP) return 'FAIL Unknown device';
    const gsi = words.size(3, 23);
    if (words.at(2) !== INPUTS) throw new Misuse('invalid argument');
    this.#machine.setLine(gsi, words.u64(4) !== 0n);
    return 'OK';
  }
}

// ## Bytes as text

const toHex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');

function fromHex(text: string): Uint8Array {
  if (!/^0x[0-9a-f]*$/i.test(text)) throw new Misuse('invalid argument');
  return Uint8Array.from({ length: (text.length - 2) >> 1 }, (_, index) => Number.parseInt(text.slice(2 * index + 2, 2 * index + 4), 16));
}

function toBase64(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 0x6000) text += btoa(String.fromCharCode(...bytes.subarray(at, at + 0x6000))); // a multiple of three
  return text;
}

function fromBase64(text: string): Uint8Array {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) throw new Misuse('invalid argument');
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    throw new Misuse('invalid argument'); // a number of characters that no bytes have
  }
}
