// # A device that is a table
//
// To test the interpreter one needs a device that is simple enough to be obviously right. This one is a model of memory-mapped registers with a map of values, a RAM, and
// a queue that gives every buffer back filled with one byte. It keeps a list of everything that was done to it.

import { hex } from '../values.ts';
import { numberAt, numberBytes, type Script } from './bus.ts';
import type { DeviceOp, OpResult } from './wire.ts';

export const WINDOW_GPA = 0xfeb0_3000;
const R = {
  DEVICE_FEATURES: 0x10,
  FEATURES_SEL: 0x14,
  QUEUE_NUM_MAX: 0x34,
  QUEUE_NUM: 0x38,
  NOTIFY: 0x50,
  INTERRUPT_STATUS: 0x60,
  INTERRUPT_ACK: 0x64,
  STATUS: 0x70,
  DESC: 0x80,
  DRIVER: 0x90,
  DEVICE: 0xa0,
  CONFIG: 0x100,
} as const;

export interface TableOptions {
  readonly deviceId?: number;
  readonly offered?: bigint;
  /** The device never keeps these status bits. */
  readonly refuses?: number;
  /** Queue notifications are not heard. */
  readonly deaf?: boolean;
  readonly fill?: number;
}

/** Memory-mapped registers of version 2 with one queue of up to 8, split. */
export class TableMachine {
  readonly ram = new Uint8Array(2 << 20);
  readonly registers = new Map<number, bigint>();
  readonly log: DeviceOp[] = [];
  /** How many batches came. */
  accesses = 0;
  nanoseconds = 0n;
  readonly #options: Required<TableOptions>;
  #seen = 0;
  #used = 0;

  constructor({ deviceId = 4, offered = 1n << 32n, refuses = 0, deaf = false, fill = 0x5a }: TableOptions = {}) {
    this.#options = { deviceId, offered, refuses, deaf, fill };
  }

  /** Plays a script to its end. */
  play<T>(script: Script<T>): T {
    let step = script.next();
    while (!step.done) {
      this.accesses++;
      step = script.next(step.value.map((op) => this.#do(op)));
    }
    return step.value;
  }

  #do(op: DeviceOp): OpResult {
    this.log.push(op);
    switch (op.do) {
      case 'load':
        return { value: hex(this.#load(Number(op.gpa) - WINDOW_GPA, op.bytes)) };
      case 'store':
        this.#store(Number(op.gpa) - WINDOW_GPA, BigInt(op.value));
        return {};
      case 'read':
        return { data: Buffer.from(this.ram.subarray(Number(op.gpa), Number(op.gpa) + op.count)).toString('base64') };
      case 'write':
        this.ram.set(Buffer.from(op.data, 'base64'), Number(op.gpa));
        return {};
      case 'fill':
        this.ram.fill(op.byte, Number(op.gpa), Number(op.gpa) + op.count);
        return {};
      case 'advance':
        this.nanoseconds += BigInt(op.ns);
        return {};
      case 'in':
        return { value: hex((1n << BigInt(8 * op.bytes)) - 1n) };
      case 'lines':
        return {
          lines: [
            { gsi: 0, level: true },
            { gsi: 16, level: true },
            { gsi: 16, level: false },
            { gsi: 16, level: true },
          ],
        };
      case 'host':
        return { unsupported: `no ${op.action}` };
      default:
        return {};
    }
  }

  #load(at: number, bytes: number): bigint {
    if (at < 0 || at >= 0x200) return (1n << BigInt(8 * bytes)) - 1n;
    if (at === 0) return 0x7472_6976n;
    if (at === 4) return 2n;
    if (at === 8) return BigInt(this.#options.deviceId);
    if (at === R.QUEUE_NUM_MAX) return 8n;
    if (at === R.DEVICE_FEATURES) return (this.#options.offered >> (32n * (this.registers.get(R.FEATURES_SEL) ?? 0n))) & 0xffff_ffffn;
    return this.registers.get(at) ?? 0n;
  }

  #store(at: number, value: bigint): void {
    if (at === R.STATUS) value &= ~BigInt(this.#options.refuses);
    if (at === R.INTERRUPT_ACK) this.registers.set(R.INTERRUPT_STATUS, (this.registers.get(R.INTERRUPT_STATUS) ?? 0n) & ~value);
    this.registers.set(at, value);
    if (at === R.STATUS && value === 0n) {
      this.#seen = 0;
      this.#used = 0;
    }
    if (at === R.NOTIFY && !this.#options.deaf) this.#serve();
  }

  #serve(): void {
    const { ram, registers } = this;
    const [desc, driver, device, size] = [R.DESC, R.DRIVER, R.DEVICE, R.QUEUE_NUM].map((at) => Number(registers.get(at) ?? 0n)) as [
      number,
      number,
      number,
      number,
    ];
    while (this.#seen !== Number(numberAt(ram, driver + 2, 2))) {
      const head = Number(numberAt(ram, driver + 4 + 2 * (this.#seen % size), 2));
      let written = 0;
      for (let index = head, left = size; left > 0; left--) {
        const at = desc + 16 * index;
        const [addr, len, flags] = [numberAt(ram, at, 8), numberAt(ram, at + 8, 4), numberAt(ram, at + 12, 2)].map(Number) as [
          number,
          number,
          number,
        ];
        if (flags & 2) {
          ram.fill(this.#options.fill, addr, addr + len);
          written += len;
        }
        if (!(flags & 1)) break;
        index = Number(numberAt(ram, at + 14, 2));
      }
      ram.set(numberBytes(BigInt(head), 4), device + 4 + 8 * (this.#used % size));
      ram.set(numberBytes(BigInt(written), 4), device + 8 + 8 * (this.#used % size));
      this.#used = (this.#used + 1) & 0xffff;
      this.#seen = (this.#seen + 1) & 0xffff;
      ram.set(numberBytes(BigInt(this.#used), 2), device + 2);
      registers.set(R.INTERRUPT_STATUS, 1n);
    }
  }
}
