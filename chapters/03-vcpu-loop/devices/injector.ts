// # Interrupts on request
//
// A test of interrupt delivery needs an interrupt at a known moment. Real machines have timers for that, which makes the moment depend on how fast the
// machine is. Here the guest asks: a byte written to the first port is the vector of an external interrupt, delivered as soon as the guest can take it; a
// byte to the second port is an NMI.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Registers } from './bus.ts';

export const INJECT_PORT = 0x5f0;
export const INJECT_PORTS = 2;

export class Injector implements Registers {
  readonly name = 'injector';
  readonly #trace: Trace | null;
  /** What to do about a request: a vector, or an NMI. Set by whoever runs the processors. */
  onRequest: (what: number | 'nmi') => void = () => {};

  constructor({ trace = null }: { trace?: Trace | null } = {}) {
    this.#trace = trace;
  }

  read(): bigint {
    return 0n;
  }

  write(offset: number, _width: number, value: bigint): void {
    const vector = Number(value & 0xffn);
    this.#trace?.emit({ kind: 'device', device: this.name, what: offset === 0 ? 'interrupt' : 'nmi', value: vector });
    this.onRequest(offset === 0 ? vector : 'nmi');
  }
}
