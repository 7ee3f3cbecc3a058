// # A guest with one page
//
// The programs of this chapter need a guest in 64-bit mode with tables that a reader can hold in the head: four of them on the way to one page, and two
// more that map the first 2 MiB to themselves, where the guest has its code and where it can write to its own tables.

import { PAGE_BYTES } from '../01-hardware-background/physical-memory.ts';
import type { Vcpu } from '../02-kvm-objects/kvm.ts';

/** Guest physical address of the first table; the others follow. */
export const TABLES = 0x10000;

/** Four page tables of a 64-bit guest that map one page, and below them the first 2 MiB to themselves, where its code is. */
export function writeTables(ram: Uint8Array, gva: bigint, gpa: number): void {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.length);
  const index = (level: number): number => Number((gva >> BigInt(12 + 9 * (level - 1))) & 511n);
  const entry = (table: number, n: number, to: number, bits = 3): void =>
    view.setBigUint64(TABLES + table * PAGE_BYTES + 8 * n, BigInt(to + bits), true);
  for (const level of [4, 3, 2]) entry(4 - level, index(level), TABLES + (5 - level) * PAGE_BYTES);
  entry(3, index(1), gpa - (gpa % PAGE_BYTES));
  entry(0, 0, TABLES + 4 * PAGE_BYTES);
  entry(4, 0, TABLES + 5 * PAGE_BYTES);
  entry(5, 0, 0, 0x83);
}

/** Puts a vCPU into 64-bit mode on tables at {@link TABLES}. */
export function startLong(vcpu: Vcpu): void {
  const { ds } = vcpu.getSregs();
  const flat = { ...ds, base: 0n, limit: 0xffffffff, g: 1, db: 1, l: 0, selector: 16, type: 3, s: 1, present: 1, unusable: 0 };
  const cs = { ...flat, type: 0xb, selector: 8, db: 0, l: 1 };
  vcpu.setSregs({ cr0: 0x80010031n, cr3: BigInt(TABLES), cr4: 0x20n, efer: 0x500n, cs, ds: flat, es: flat, ss: flat });
}
