// # What is left of 1981
//
// The first PC moved data between memory and the floppy disk with two 8237 chips, and gave each channel a page register for the address bits that
// the chip lacks. No device of this machine asks for a transfer, so nothing ever moves; but firmware programs the cascade channel, and
// software reads back what it wrote. The page register of no channel, port 0x80, became the place where firmware says how far it is.

import type { Trace } from '../../01-hardware-background/trace.ts';
import type { Registers } from '../../03-vcpu-loop/devices/bus.ts';
import { array, describe, field, kind, parts } from '../../03-vcpu-loop/devices/state.ts';
import { RegisterFile, registerTable } from '../registers.ts';

/** The first chip; one port apart. */
export const DMA_LOW_PORT = 0x00;
export const DMA_LOW_PORTS = 16;
/** The second chip, for 16-bit channels; two ports apart. */
export const DMA_HIGH_PORT = 0xc0;
export const DMA_HIGH_PORTS = 32;
export const DMA_PAGE_PORT = 0x80;

// ::layout dmaTable -- One 8237. The second has its registers two ports apart.

export const dmaTable = registerTable('8237', 'Intel 8237A data sheet, Register Description', {
  ADDRESS: { offset: 0, bytes: 1, access: 'rw', text: 'current address of a channel, a byte at a time', count: 4, stride: 2 },
  COUNT: { offset: 1, bytes: 1, access: 'rw', text: 'what is left to move, a byte at a time', count: 4, stride: 2 },
  STATUS: { offset: 8, bytes: 1, access: 'rw', text: 'read: requests and ends; write: command' },
  REQUEST: { offset: 9, bytes: 1, access: 'wo', text: 'ask for a transfer by software' },
  MASK_ONE: { offset: 10, bytes: 1, access: 'wo', text: 'mask or unmask one channel' },
  MODE: { offset: 11, bytes: 1, access: 'wo', text: 'direction and kind, for one channel' },
  CLEAR_FLIP_FLOP: { offset: 12, bytes: 1, access: 'wo', text: 'the next byte is the lower one' },
  RESET: { offset: 13, bytes: 1, access: 'rw', text: 'read: the temporary register; write: master clear' },
  UNMASK: { offset: 14, bytes: 1, access: 'wo', text: 'unmask all channels' },
  MASK: { offset: 15, bytes: 1, access: 'rw', text: 'the mask of all channels' },
});

const ALL_MASKED = 0x0f;
const PAGES = 16;
/** How many of the firmware's progress codes are kept. */
const POST_CODES_KEPT = 4096;

/** One 8237: what it remembers. */
class Controller {
  readonly registers: RegisterFile<keyof typeof dmaTable.rows>;
  readonly #address = [0, 0, 0, 0];
  readonly #count = [0, 0, 0, 0];
  #upper = false; // the flip-flop: whether the next byte is the upper one
  #mask = ALL_MASKED;

  constructor() {
    const halves = (values: number[]) => ({
      read: (index: number) => (this.#flip() ? (values[index] as number) >> 8 : (values[index] as number) & 0xff),
      write: (value: number, index: number) => {
        const old = values[index] as number;
        values[index] = this.#flip() ? (old & 0x00ff) | (value << 8) : (old & 0xff00) | value;
      },
    });
    this.registers = new RegisterFile(dmaTable, {
      ADDRESS: halves(this.#address),
      COUNT: halves(this.#count),
      MASK_ONE: {
        write: (value) => {
          const bit = 1 << (value & 3);
          this.#mask = value & 4 ? this.#mask | bit : this.#mask & ~bit;
        },
      },
      CLEAR_FLIP_FLOP: {
        write: () => {
          this.#upper = false;
        },
      },
      RESET: { write: () => this.clear() },
      UNMASK: {
        write: () => {
          this.#mask = 0;
        },
      },
      MASK: {
        read: () => this.#mask,
        write: (value) => {
          this.#mask = value & ALL_MASKED;
        },
      },
    });
  }

  #flip(): boolean {
    const upper = this.#upper;
    this.#upper = !upper;
    return upper;
  }

  clear(): void {
    this.#upper = false;
    this.#mask = ALL_MASKED;
  }

  static readonly STATE = describe<Controller>('8237', 1, {
    address: array((controller) => controller.#address, kind.u16),
    count: array((controller) => controller.#count, kind.u16),
    mask: field(
      kind.record({ mask: kind.u8, upper: kind.flag }),
      (c) => ({ mask: c.#mask, upper: c.#upper }),
      (c, v) => {
        ({ mask: c.#mask, upper: c.#upper } = v);
      },
    ),
  });
}

export class Dma8237 {
  /** {@link DMA_LOW_PORTS} ports at {@link DMA_LOW_PORT}. */
  readonly low: Registers;
  /** {@link DMA_HIGH_PORTS} ports at {@link DMA_HIGH_PORT}. */
  readonly high: Registers;
  /** Sixteen ports at {@link DMA_PAGE_PORT}; port 0x92 is not among them. */
  readonly pages: Registers;
  /** Progress codes that the firmware has shown, the latest last. */
  readonly postCodes: number[] = [];
  readonly #controllers = [new Controller(), new Controller()] as const;
  readonly #pages = new Uint8Array(PAGES);

  constructor({ trace = null }: { trace?: Trace | null } = {}) {
    const [first, second] = this.#controllers;
    this.low = first.registers;
    this.high = {
      name: first.registers.name,
      read: (offset, width) => (width === 1 && offset % 2 === 0 ? second.registers.read(offset >> 1, 1) : 2n ** BigInt(8 * width) - 1n),
      write: (offset, width, value) => {
        if (width === 1 && offset % 2 === 0) second.registers.write(offset >> 1, 1, value);
      },
    };
    this.pages = {
      name: 'dma-page',
      read: (offset, width) => {
        let value = 0n;
        for (let index = 0; index < width; index++) value |= BigInt(this.#pages[offset + index] ?? 0xff) << BigInt(8 * index);
        return value;
      },
      write: (offset, width, value) => {
        for (let index = 0; index < width; index++) {
          const byte = Number((value >> BigInt(8 * index)) & 0xffn);
          if (offset + index < PAGES) this.#pages[offset + index] = byte;
        }
        if (offset !== 0) return;
        const code = this.#pages[0] as number;
        if (this.postCodes.length >= POST_CODES_KEPT) this.postCodes.shift();
        this.postCodes.push(code);
        trace?.emit({ kind: 'device', device: 'post', what: 'code', value: code });
      },
    };
  }

  reset(): void {
    for (const controller of this.#controllers) controller.clear();
    this.#pages.fill(0);
  }

  static readonly STATE = describe<Dma8237>('dma', 1, {
    controllers: parts((dma) => dma.#controllers, Controller.STATE),
    pages: array((dma) => dma.#pages),
  });
}
