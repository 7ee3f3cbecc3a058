// # Lines that are shared
//
// A PC has two dozen interrupt lines and more sources than that. A line with several sources is a *wired OR*: it is asserted while any of them
// asserts it, and none of them can tell who else does. Each source gets a wire of its own here, so that one that lets go does not let go for all.

import { array, describe, field, kind, parts } from '../../03-vcpu-loop/devices/state.ts';
import type { Wire } from '../wires.ts';

/** Global system interrupts of a PC with one I/O APIC. */
const GSI_COUNT = 24;

/** One source's end of whichever line it is connected to. */
export class MovableWire implements Wire {
  readonly #lines: SharedLines;
  #gsi: number | null;
  #level = false;

  constructor(lines: SharedLines, gsi: number | null) {
    this.#lines = lines;
    this.#gsi = gsi;
  }

  set(level: boolean): void {
    if (level === this.#level) return;
    this.#level = level;
    if (this.#gsi !== null) this.#lines.change(this.#gsi, level);
  }

  connect(gsi: number | null): void {
    if (gsi === this.#gsi) return;
    if (this.#level && this.#gsi !== null) this.#lines.change(this.#gsi, false);
    this.#gsi = gsi;
    if (this.#level && gsi !== null) this.#lines.change(gsi, true);
  }

  static readonly STATE = describe<MovableWire>('line', 1, {
    end: field(
      kind.record({ gsi: kind.maybe(kind.upTo(GSI_COUNT - 1)), level: kind.flag }),
      (wire) => ({ gsi: wire.#gsi, level: wire.#level }),
      (wire, v) => {
        ({ gsi: wire.#gsi, level: wire.#level } = v);
      },
    ),
  });
}

export class SharedLines {
  readonly #line: (gsi: number) => Wire;
  readonly #sources = new Uint16Array(GSI_COUNT);
  readonly #wires: MovableWire[] = [];

  /** `line` gives the input of the interrupt controller. */
  constructor(line: (gsi: number) => Wire) {
    this.#line = line;
  }

  /** One source more, or one less, asserts the line. */
  change(gsi: number, level: boolean): void {
    const before = this.#sources[gsi] as number;
    const after = before + (level ? 1 : -1);
    this.#sources[gsi] = after;
    if ((before === 0) !== (after === 0)) this.#line(gsi).set(after !== 0);
  }

  /** A source that can be moved from line to line while it is asserted; null is nowhere. */
  source(gsi: number | null): MovableWire {
    const wire = new MovableWire(this, gsi);
    this.#wires.push(wire);
    return wire;
  }

  static readonly STATE = describe<SharedLines>('lines', 1, {
    counts: array((lines) => lines.#sources, kind.u16),
    wires: parts((lines) => lines.#wires, MovableWire.STATE),
  });
}
