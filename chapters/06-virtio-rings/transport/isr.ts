// # Why the line was pulled
//
// A pin says only "somebody". The interrupt status register says what: bit 0, a queue; bit 1, the configuration. Reading it clears it and lets go of
// the line, all in one access, so that a driver with a single interrupt needs a single exit. With messages each event has its own vector and nobody
// reads here.

import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';

/** Bits of the interrupt status. */
export const ISR = { QUEUE: 1, CONFIG: 2 } as const;

export class IsrStatus {
  #bits = 0;
  readonly #line: (level: boolean) => void;

  /** `line` is told whether any bit is set, after each change. */
  constructor(line: (level: boolean) => void) {
    this.#line = line;
  }

  get bits(): number {
    return this.#bits;
  }

  raise(bit: number): void {
    this.#bits |= bit;
    this.#line(true);
  }

  // @clause virtio.pci.dev.reading-isr-clears
  /** What a driver's read gives. */
  take(): number {
    const bits = this.#bits;
    this.clear();
    return bits;
  }

  /** Clears the bits that are given, and only those. */
  acknowledge(bits: number): void {
    this.#bits &= ~bits;
    this.#line(this.#bits !== 0);
  }

  clear(): void {
    this.#bits = 0;
    this.#line(false);
  }

  /** The register of a modern device: one byte. */
  get registers(): Registers {
    return { name: 'virtio-pci-isr', read: (offset) => (offset === 0 ? BigInt(this.take()) : 0n), write() {} };
  }

  /** The line is somebody else's, and remembers its own level. */
  static readonly STATE = describe<IsrStatus>('interrupt status', 1, {
    bits: field(
      kind.u8,
      (isr) => isr.#bits,
      (isr, bits) => {
        isr.#bits = bits;
      },
    ),
  });
}
