// # Lines that are shared
//
// A PC has two dozen interrupt lines and more sources than that. A line with several sources is a *wired OR*: it is asserted while any of them
// asserts it, and none of them can tell who else does. Each source gets a wire of its own here, so that one that lets go does not let go for all.

import type { Wire } from '../wires.ts';

/** Global system interrupts of a PC with one I/O APIC. */
const GSI_COUNT = 24;

export class SharedLines {
  readonly #line: (gsi: number) => Wire;
  readonly #sources = new Uint16Array(GSI_COUNT);

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
    return new MovableWire(this, gsi);
  }
}

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
}
