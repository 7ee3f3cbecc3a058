// # A way out
//
// A guest that has finished has nowhere to go: HLT only waits. QEMU's `isa-debug-exit` gives test programs an exit status. The value written is
// doubled and made odd, so that no write can produce 0, which a shell would take for success without the guest having said anything.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Registers } from './bus.ts';
import { describe, kind, own } from './state.ts';

export const DEBUG_EXIT_PORT = 0xf4;
export const DEBUG_EXIT_PORTS = 4;

export class DebugExit implements Registers {
  readonly name = 'debug-exit';
  readonly #trace: Trace | null;
  /** The status, once the guest has asked to leave. */
  status: number | null = null;

  constructor({ trace = null }: { trace?: Trace | null } = {}) {
    this.#trace = trace;
  }

  read(): bigint {
    return 0n;
  }

  // @clause payload.debug-exit
  write(_offset: number, _width: number, value: bigint): void {
    this.status = (Number(value & 0x7fn) << 1) | 1; // an exit status has eight bits
    this.#trace?.emit({ kind: 'device', device: this.name, what: 'exit', value: this.status });
  }

  static readonly STATE = describe<DebugExit>('debug-exit', 1, { status: own(kind.maybe(kind.u32), 'status') });
}
