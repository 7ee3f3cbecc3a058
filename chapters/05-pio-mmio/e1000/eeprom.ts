// # The card's memory of itself
//
// A network card has to know its own address before any driver runs. It is in an EEPROM of 64 words, behind four wires: select, clock, data in,
// data out. A driver of the 82540EM moves them one at a time through a register, which is several hundred exits for one word; a later register
// reads a word in one access. Drivers use the wires all the same, since they also serve cards that have nothing else.
//
// Word {{CHECKSUM_WORD.toString(16)}}h makes all of them add up to {{CHECKSUM.toString(16).toUpperCase()}}h, and Linux refuses a card where they do not.

import { array, describe, field, kind } from '../../03-vcpu-loop/devices/state.ts';
import { EECD } from './registers.ts';

const EEPROM_WORDS = 64;
export const CHECKSUM = 0xbaba;
export const CHECKSUM_WORD = EEPROM_WORDS - 1;

/** The words that mean something to software (manual, "EEPROM Address Map"). */
const WORD = { MAC: 0x00, COMPATIBILITY: 0x03, INIT_1: 0x0a, SUBSYSTEM: 0x0b, SUBVENDOR: 0x0c, DEVICE: 0x0d, VENDOR: 0x0e, INIT_2: 0x0f } as const;

/** Commands of the Microwire protocol: a start bit, two bits of operation; write-enable and its opposite are told by the address. */
const OPERATION = { CONTROL: 0b100, WRITE: 0b101, READ: 0b110 } as const;
const COMMAND_BITS = 3;
const ADDRESS_BITS = 6;
const DATA_BITS = 16;
const WRITE_ENABLE = 0b11;
const WRITE_DISABLE = 0b00;

export class Eeprom {
  readonly words = new Uint16Array(EEPROM_WORDS);
  #wires = 0;
  #shifted = 0; // bits since the chip was selected
  #command = 0;
  #data = 0;
  #out = 1;
  #writable = false;

  constructor(mac: Uint8Array) {
    for (let word = 0; word < 3; word++) this.words[WORD.MAC + word] = (mac[2 * word] as number) | ((mac[2 * word + 1] as number) << 8);
    this.words[WORD.INIT_1] = 0x4408; // the signature of a valid image in bits 15:14
    this.words[WORD.SUBSYSTEM] = 0x001e;
    this.words[WORD.SUBVENDOR] = 0x8086;
    this.words[WORD.DEVICE] = 0x100e;
    this.words[WORD.VENDOR] = 0x8086;
    this.words[WORD.INIT_2] = 0x3040; // pause frames in both directions
    // @clause e1000.eeprom.checksum
    this.words[CHECKSUM_WORD] = CHECKSUM - this.words.reduce((sum, word) => sum + word, 0);
  }

  get mac(): Uint8Array {
    return new Uint8Array(this.words.slice(0, 3).buffer);
  }

  read(address: number): number {
    return this.words[address] ?? 0;
  }

  // ## The wires
  //
  // Everything happens at a rising edge of the clock while the chip is selected. Three bits of command and six of address go in; for a read, a zero
  // comes out with the last of them and then sixteen bits of data, the highest first.

  /** The data-out wire. */
  get out(): boolean {
    return this.#out !== 0;
  }

  // @clause e1000.eeprom.microwire
  drive(wires: number): void {
    const before = this.#wires;
    this.#wires = wires;
    if (!(wires & EECD.CS)) {
      if (before & EECD.CS) this.#deselected();
      return;
    }
    if (!(before & EECD.CS)) {
      this.#shifted = this.#command = this.#data = 0;
      this.#out = 1; // ready
    }
    if (wires & ~before & EECD.SK) this.#clock((wires & EECD.DI) !== 0 ? 1 : 0);
  }

  #clock(bit: number): void {
    if (this.#shifted === 0 && bit === 0) return; // waits for the start bit
    if (this.#shifted < COMMAND_BITS + ADDRESS_BITS) {
      this.#command = (this.#command << 1) | bit;
      this.#shifted++;
      if (this.#shifted === COMMAND_BITS + ADDRESS_BITS && this.#operation === OPERATION.READ) {
        this.#data = this.read(this.#address);
        this.#out = 0;
      }
      return;
    }
    const at = this.#shifted - COMMAND_BITS - ADDRESS_BITS;
    if (this.#operation === OPERATION.READ) {
      // Past the last bit the chip goes on with the next word.
      this.#out = (this.#data >> (DATA_BITS - 1 - (at % DATA_BITS))) & 1;
      if (at % DATA_BITS === DATA_BITS - 1) this.#data = this.read((this.#address + (at + 1) / DATA_BITS) % EEPROM_WORDS);
      this.#shifted = COMMAND_BITS + ADDRESS_BITS + ((at + 1) % (DATA_BITS * EEPROM_WORDS));
    } else if (at < DATA_BITS) {
      this.#data = ((this.#data << 1) | bit) & 0xffff;
      this.#shifted++;
    }
  }

  get #operation(): number {
    return this.#command >> ADDRESS_BITS;
  }
  get #address(): number {
    return this.#command & (EEPROM_WORDS - 1);
  }

  /** Deselecting is what starts a write. */
  #deselected(): void {
    if (this.#shifted < COMMAND_BITS + ADDRESS_BITS) return;
    const at = this.#shifted - COMMAND_BITS - ADDRESS_BITS;
    if (this.#operation === OPERATION.CONTROL) {
      const kind = this.#address >> (ADDRESS_BITS - 2);
      if (kind === WRITE_ENABLE) this.#writable = true;
      if (kind === WRITE_DISABLE) this.#writable = false;
    } else if (this.#operation === OPERATION.WRITE && at === DATA_BITS && this.#writable) {
      this.words[this.#address] = this.#data;
    }
    this.#shifted = 0;
  }

  static readonly STATE = describe<Eeprom>('EEPROM', 1, {
    words: array((eeprom) => eeprom.words),
    wires: field(
      kind.record({ wires: kind.word, shifted: kind.word, command: kind.word, data: kind.word, out: kind.word, writable: kind.flag }),
      (e) => ({ wires: e.#wires, shifted: e.#shifted, command: e.#command, data: e.#data, out: e.#out, writable: e.#writable }),
      (e, v) => {
        ({ wires: e.#wires, shifted: e.#shifted, command: e.#command, data: e.#data, out: e.#out, writable: e.#writable } = v);
      },
    ),
  });
}
