// # Where bytes go
//
// A guest writes its console a byte at a time. Handing each byte on would be a system call for each, so they are collected and written when the machine
// lets the event loop have its turn.

import { createHash } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';
import type { Stream } from '../machine/config.ts';
import { ConfigError } from '../machine/device-types.ts';

/** One output of the machine. */
export interface Sink {
  byte(byte: number): void;
  flush(): void;
  close(): void;
}

const CHUNK_BYTES = 4096;

class Collecting implements Sink {
  readonly #chunk = new Uint8Array(CHUNK_BYTES);
  readonly #put: (bytes: Uint8Array) => void;
  readonly #end: () => void;
  #held = 0;

  constructor(put: (bytes: Uint8Array) => void, end: () => void = () => {}) {
    this.#put = put;
    this.#end = end;
  }
  byte(byte: number): void {
    this.#chunk[this.#held++] = byte;
    if (this.#held === CHUNK_BYTES) this.flush();
  }
  flush(): void {
    if (this.#held === 0) return;
    const bytes = this.#chunk.slice(0, this.#held);
    this.#held = 0; // written or not, it is not tried again
    this.#put(bytes);
  }
  close(): void {
    try {
      this.flush();
    } finally {
      this.#end();
    }
  }
}

/** @throws ConfigError when the file takes no more, a full disk for example */
function writeAll(fd: number, path: string, bytes: Uint8Array): void {
  try {
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
  } catch (error) {
    throw new ConfigError(`${path}: ${(error as Error).message}`);
  }
}

/** Opens the other end of a character device. @throws Error when the file cannot be written */
export function openSink(stream: Stream): Sink {
  if (stream === 'null') return { byte() {}, flush() {}, close() {} };
  if (stream === 'stdio') return new Collecting((bytes) => void process.stdout.write(bytes));
  const fd = openSync(stream.file, 'w');
  return new Collecting(
    (bytes) => writeAll(fd, stream.file, bytes),
    () => closeSync(fd),
  );
}

// ## A trace in a file

/** A guest that runs for a day must not fill the disk. */
const TRACE_LIMIT_BYTES = 256 << 20;

/** Writes lines of text to a file until it is full. */
export class LineFile {
  readonly #path: string;
  readonly #fd: number;
  #held: string[] = [];
  #bytes = 0;
  /** Lines that came after the file was full. */
  dropped = 0;

  constructor(path: string) {
    this.#path = path;
    this.#fd = openSync(path, 'w');
  }

  line(text: string): void {
    if (this.#bytes + text.length >= TRACE_LIMIT_BYTES) {
      this.dropped++;
      return;
    }
    this.#bytes += text.length + 1;
    if (this.#held.push(text) >= 1000) this.flush();
  }

  flush(): void {
    const lines = this.#held;
    this.#held = [];
    if (lines.length > 0) writeAll(this.#fd, this.#path, new TextEncoder().encode(`${lines.join('\n')}\n`));
  }

  close(): void {
    try {
      this.flush();
    } finally {
      closeSync(this.#fd);
    }
  }
}

// ## A trace that nobody keeps
//
// Two runs of one machine give the same trace. To see that it is so, one number for each is enough, and a run may be as long as it likes.

/** Lines held back, so that the hash is fed in pieces of some size. */
const DIGEST_LINES = 1000;

/** The SHA-256 of lines of text: that of the file which they would make. */
export class LineDigest {
  readonly #hash = createHash('sha256');
  #held: string[] = [];
  lines = 0;

  line(text: string): void {
    this.lines++;
    if (this.#held.push(text) >= DIGEST_LINES) this.#feed();
  }
  #feed(): void {
    if (this.#held.length > 0) this.#hash.update(`${this.#held.join('\n')}\n`);
    this.#held = [];
  }

  /** The digest, in hexadecimal. Once. */
  finish(): string {
    this.#feed();
    return this.#hash.digest('hex');
  }
}
