// # The driver's side
//
// What firmware and every operating system do with configuration space, in three functions. `sizeBar` keeps notes, for those who want to see the steps.

import type { Bus } from '../../03-vcpu-loop/devices/bus.ts';
import { CONFIG_PORT } from './config-access.ts';
import { barOffset, COMMAND, HEADER_0 } from './header.ts';

/** Configuration mechanism 1, on bus 0. */
export class ConfigDriver {
  readonly ports: Bus;
  readonly log: { readonly what: string; readonly value: number }[] = [];

  constructor(ports: Bus) {
    this.ports = ports;
  }

  #select(device: number, fn: number, register: number): void {
    this.ports.write(CONFIG_PORT, 4, BigInt((0x8000_0000 | (device << 11) | (fn << 8) | register) >>> 0));
  }
  read(device: number, fn: number, register: number): number {
    this.#select(device, fn, register);
    return Number(this.ports.read(CONFIG_PORT + 4, 4));
  }
  write(device: number, fn: number, register: number, value: number): void {
    this.#select(device, fn, register);
    this.ports.write(CONFIG_PORT + 4, 4, BigInt(value >>> 0));
  }

  /** How much room a memory BAR wants: the classic dance, noted step by step. */
  sizeBar(device: number, fn: number, index: number): number {
    const register = barOffset(index);
    const note = (what: string, value: number): number => {
      this.log.push({ what, value });
      return value;
    };
    const command = note('read the command register', this.read(device, fn, HEADER_0.rows.COMMAND.offset) & 0xffff);
    this.write(device, fn, HEADER_0.rows.COMMAND.offset, note('write it without the decode bits', command & ~(COMMAND.IO | COMMAND.MEMORY)));
    const before = note('read the BAR', this.read(device, fn, register));
    this.write(device, fn, register, note('write all ones', 0xffff_ffff));
    const mask = note('read what stuck', this.read(device, fn, register));
    this.write(device, fn, register, note('write the old value back', before));
    this.write(device, fn, HEADER_0.rows.COMMAND.offset, note('and the command register', command));
    return note('so the size is', (~(mask & ~0xf) + 1) >>> 0);
  }
}
