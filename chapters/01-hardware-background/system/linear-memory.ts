// # Linear memory, for TypeScript
//
// A debugger, a boot loader, an emulator, a test: all want to say "the word at this address". They get the same translation, the same rights and
// the same faults as the program that is running, or, when they ask for it, the rights of the system itself.

import type { Cpu } from '../cpu.ts';
import { PRIVILEGE } from '../mmu/mmu.ts';
import { privilegeOf } from './segmentation.ts';

/** `system`: with the authority of the processor itself, as descriptor tables are read. */
interface AccessOptions {
  readonly system?: boolean;
}

/** Reads and writes at linear addresses. All throw Fault, or VmExit. */
export class LinearMemory {
  readonly #cpu: Cpu;

  constructor(cpu: Cpu) {
    this.#cpu = cpu;
  }

  #privilege(options?: AccessOptions): number {
    return options?.system ? PRIVILEGE.SYSTEM : privilegeOf(this.#cpu.cpl);
  }

  read8(linear: bigint, options?: AccessOptions): number {
    return this.#cpu.mmu.read32(linear, 1, this.#privilege(options));
  }
  read16(linear: bigint, options?: AccessOptions): number {
    return this.#cpu.mmu.read32(linear, 2, this.#privilege(options));
  }
  read32(linear: bigint, options?: AccessOptions): number {
    return this.#cpu.mmu.read32(linear, 4, this.#privilege(options));
  }
  read64(linear: bigint, options?: AccessOptions): bigint {
    return this.#cpu.mmu.read(linear, 8, this.#privilege(options));
  }
  write8(linear: bigint, value: number, options?: AccessOptions): void {
    this.#cpu.mmu.write(linear, 1, BigInt(value & 0xff), this.#privilege(options));
  }
  write16(linear: bigint, value: number, options?: AccessOptions): void {
    this.#cpu.mmu.write(linear, 2, BigInt(value & 0xffff), this.#privilege(options));
  }
  write32(linear: bigint, value: number, options?: AccessOptions): void {
    this.#cpu.mmu.write(linear, 4, BigInt(value >>> 0), this.#privilege(options));
  }
  write64(linear: bigint, value: bigint, options?: AccessOptions): void {
    this.#cpu.mmu.write(linear, 8, value, this.#privilege(options));
  }
}
