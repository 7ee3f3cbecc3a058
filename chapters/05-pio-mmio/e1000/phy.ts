// # The other chip on the card
//
// The controller moves frames; turning bits into voltages is the *PHY*'s work. It negotiates the speed with whoever is at the other end of the
// cable, and the driver watches through a register that passes on reads and writes. The 82540EM's is a Marvell 88E1011. Here the other end
// always agrees, {{NEGOTIATION_NS / 1000}} µs after it was asked.
//
// ::layout PHY -- The PHY's registers, sixteen bits each; the number of a register is half its offset here.

import type { Clock, Timer } from '../../02-kvm-objects/clock.ts';
import { array, describe, field, kind, timer } from '../../03-vcpu-loop/devices/state.ts';
import { registerTable } from '../registers.ts';

/** A driver polls for up to 4.5 seconds; real negotiation takes about two. */
export const NEGOTIATION_NS = 500_000;
export const PHY_ADDRESS = 1;

// Offsets count registers of sixteen bits, not bytes; a table of bytes has them doubled.
const at = (register: number): number => 2 * register;

// biome-ignore format: table
export const PHY = registerTable('e1000-phy', 'IEEE 802.3 clause 22; Marvell 88E1011', {
  CONTROL:        { offset: at(0), bytes: 2, access: 'rw', reset: 0x1140, text: 'reset, loopback, negotiate; 1000 Mb/s, full duplex' },
  STATUS:         { offset: at(1), bytes: 2, access: 'ro', reset: 0x7949, text: 'abilities; bit 5: negotiated; bit 2: link, and if it was lost since' },
  ID_1:           { offset: at(2), bytes: 2, access: 'ro', reset: 0x0141, text: 'Marvell' },
  ID_2:           { offset: at(3), bytes: 2, access: 'ro', reset: 0x0c20, text: '88E1011' },
  ADVERTISEMENT:  { offset: at(4), bytes: 2, access: 'rw', reset: 0x0de1, text: 'what we offer: 10, 100, pause' },
  PARTNER:        { offset: at(5), bytes: 2, access: 'ro', reset: 0x4de1, text: 'what the partner offers' },
  EXPANSION:      { offset: at(6), bytes: 2, access: 'ro', reset: 0x0003, text: 'the partner negotiates' },
  GIGABIT:        { offset: at(9), bytes: 2, access: 'rw', reset: 0x0300, text: 'we offer 1000 Mb/s' },
  GIGABIT_STATUS: { offset: at(10), bytes: 2, access: 'ro', reset: 0x3c00, text: 'the partner offers 1000 Mb/s; both receivers are well' },
  EXTENDED:       { offset: at(15), bytes: 2, access: 'ro', reset: 0x3000, text: '1000BASE-T' },
  SPECIFIC:       { offset: at(16), bytes: 2, access: 'rw', reset: 0x0360, text: 'crossover, and other settings of this chip' },
  SPECIFIC_STATUS:{ offset: at(17), bytes: 2, access: 'ro', reset: 0xa800, text: 'speed and duplex as resolved; bit 10: link' },
  INTERRUPTS:     { offset: at(18), bytes: 2, access: 'rw', text: 'which changes interrupt' },
  INTERRUPTED:    { offset: at(19), bytes: 2, access: 'ro', text: 'which changes there were' },
  SPECIFIC_2:     { offset: at(20), bytes: 2, access: 'rw', reset: 0x0d60, text: 'clock delays' },
  ERRORS:         { offset: at(21), bytes: 2, access: 'ro', text: 'receive errors' },
  PAGE:           { offset: at(29), bytes: 2, access: 'rw', text: 'page of the next' },
  PAGED:          { offset: at(30), bytes: 2, access: 'rw', text: 'a register by page' },
});

const CONTROL = { RESET: 0x8000, LOOPBACK: 0x4000, NEGOTIATE: 0x1000, POWER_DOWN: 0x0800, RESTART: 0x0200 } as const;
const STATUS = { NEGOTIATED: 0x0020, LINK: 0x0004 } as const;
const SPECIFIC_LINK = 0x0400;

export class Phy {
  readonly #registers = new Uint16Array(32);
  readonly #clock: Clock;
  readonly #timer: Timer;
  readonly #changed: () => void;
  /** The cable carries frames. */
  link = false;
  #lost = true; // since the status was last read

  constructor(clock: Clock, changed: () => void) {
    this.#clock = clock;
    this.#changed = changed;
    this.#timer = clock.timer(() => this.#set(true));
    this.reset();
    this.#timer.cancel();
    this.link = true; // both ends have been on for a while
    this.#lost = false;
  }

  get loopback(): boolean {
    return ((this.#registers[0] as number) & CONTROL.LOOPBACK) !== 0;
  }

  reset(): void {
    for (const { offset, reset = 0 } of Object.values(PHY.rows) as { offset: number; reset?: number }[]) this.#registers[offset / 2] = reset;
    this.#negotiate();
  }

  #negotiate(): void {
    this.#set(false);
    this.#timer.cancel();
    if (!((this.#registers[0] as number) & CONTROL.POWER_DOWN)) this.#timer.arm(this.#clock.now() + NEGOTIATION_NS);
  }

  #set(link: boolean): void {
    if (!link) this.#lost = true;
    if (link === this.link) return;
    this.link = link;
    this.#changed();
  }

  /** Null where there is no register. */
  read(register: number): number | null {
    const found = PHY.at(at(register));
    if (!found) return null;
    const value = this.#registers[register] as number;
    if (found.name === 'STATUS') {
      const seen = this.link && !this.#lost;
      this.#lost = !this.link;
      return value | (this.link ? STATUS.NEGOTIATED : 0) | (seen ? STATUS.LINK : 0);
    }
    if (found.name === 'SPECIFIC_STATUS') return value | (this.link ? SPECIFIC_LINK : 0);
    return value;
  }

  write(register: number, value: number): boolean {
    const found = PHY.at(at(register));
    if (!found) return false;
    if (found.row.access !== 'rw') return true;
    if (found.name !== 'CONTROL') {
      this.#registers[register] = value;
      return true;
    }
    const before = this.#registers[0] as number;
    if (value & CONTROL.RESET) {
      this.reset();
      return true;
    }
    this.#registers[0] = value & ~CONTROL.RESTART; // both bits clear themselves
    if (value & CONTROL.RESTART || (before ^ value) & (CONTROL.POWER_DOWN | CONTROL.NEGOTIATE)) this.#negotiate();
    return true;
  }

  static readonly STATE = describe<Phy>('PHY', 1, {
    registers: array((phy) => phy.#registers),
    link: field(
      kind.record({ link: kind.flag, lost: kind.flag }),
      (phy) => ({ link: phy.link, lost: phy.#lost }),
      (phy, v) => {
        ({ link: phy.link, lost: phy.#lost } = v);
      },
    ),
    negotiated: timer((phy) => phy.#timer),
  });
}
