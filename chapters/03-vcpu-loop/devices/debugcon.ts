// # The debug console
//
// One port, write a byte. Bochs gave it number 0xE9, and reading it back yields the number, which is how a guest finds out that it is there.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Registers } from './bus.ts';

export const DEBUGCON_PORT = 0xe9;
const OUTPUT_LIMIT_BYTES = 1 << 20;

export class DebugConsole implements Registers {
  readonly name = 'debugcon';
  readonly #trace: Trace | null;
  readonly #onByte: ((byte: number) => void) | null;
  readonly #output: number[] = [];

  constructor({ trace = null, onByte = null }: { trace?: Trace | null; onByte?: ((byte: number) => void) | null } = {}) {
    this.#trace = trace;
    this.#onByte = onByte;
  }

  get output(): Uint8Array {
    return Uint8Array.from(this.#output);
  }

  read(): bigint {
    return BigInt(DEBUGCON_PORT);
  }

  write(_offset: number, _width: number, value: bigint): void {
    if (this.#output.length < OUTPUT_LIMIT_BYTES) this.#output.push(Number(value & 0xffn));
    this.#trace?.emit({ kind: 'device', device: this.name, what: 'write', value: Number(value & 0xffn) });
    this.#onByte?.(Number(value & 0xffn));
  }
}
