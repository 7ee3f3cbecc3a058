// QEMU's machine protocol, as much of it as starting, watching and ending a machine takes. Commands are answered in order; events come when
// they like. A peer that dies leaves nobody waiting: every outstanding command is rejected.

import type { Duplex } from 'node:stream';
import { lineSplitter } from './lines.ts';

const LINE_LIMIT_BYTES = 1 << 20;

export interface QmpEvent {
  readonly event: string;
  readonly data?: Readonly<Record<string, unknown>>;
}

interface Waiter {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class Qmp {
  readonly #stream: Duplex;
  readonly #waiting: Waiter[] = [];
  readonly #greeting: Promise<unknown>;
  #greeted: Waiter | null = null;
  #closed: Error | null = null;
  /** Events so far, in order. */
  readonly events: QmpEvent[] = [];

  constructor(stream: Duplex) {
    this.#stream = stream;
    this.#greeting = new Promise((resolve, reject) => {
      this.#greeted = { resolve, reject };
    });
    this.#greeting.catch(() => {}); // whoever awaits `greeting()` sees it; nobody else need
    stream.on(
      'data',
      lineSplitter(
        LINE_LIMIT_BYTES,
        (line) => this.#line(line),
        () => this.#close(new Error('QEMU sent an endless line')),
      ),
    );
    stream.on('error', (error: Error) => this.#close(error));
    stream.on('close', () => this.#close(new Error('QEMU closed its monitor')));
  }

  /** Resolves with QEMU's greeting. It comes before QEMU has read the image; the first command's answer comes after. */
  greeting(): Promise<unknown> {
    return this.#greeting;
  }

  command(execute: string, args?: Readonly<Record<string, unknown>>): Promise<unknown> {
    if (this.#closed) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#stream.write(`${JSON.stringify({ execute, ...(args && { arguments: args }) })}\n`);
    });
  }

  #line(line: string): void {
    let message: Record<string, unknown>;
    try {
      message = JSON.parse(line) as Record<string, unknown>;
    } catch {
      this.#close(new Error(`QEMU's monitor sent ${JSON.stringify(line.slice(0, 80))}`));
      return;
    }
    if ('QMP' in message) this.#greeted?.resolve(message.QMP);
    else if ('event' in message) this.events.push(message as unknown as QmpEvent);
    else if ('return' in message) this.#waiting.shift()?.resolve(message.return);
    else if ('error' in message) this.#waiting.shift()?.reject(new Error(JSON.stringify(message.error)));
  }

  #close(error: Error): void {
    if (this.#closed) return;
    this.#closed = error;
    this.#greeted?.reject(error);
    for (const waiter of this.#waiting.splice(0)) waiter.reject(error);
  }
}
