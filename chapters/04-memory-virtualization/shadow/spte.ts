// # A shadow entry
//
// Shadow tables are read by the processor, so their format is the processor's: the 8-byte entry of PAE and 4-level paging, whatever the guest itself
// uses. A 64-bit kernel always runs such tables, and a guest with 4-byte entries gets shadow tables of twice the number.
//
// Four kinds of entry occur. Nothing (zero): the first access will fault, and the fault builds what is missing. A *table*: the next shadow page,
// with all rights, because rights are judged in the last entry only. A *leaf*: a host page, with the rights that the whole guest path grants, and
// never more. And a *device*: a present entry with an address bit that the processor does not have. Touching it is a page fault whose error code
// says "reserved bit", which no entry made from the guest's tables can cause, so the fault says by itself that it was an access to a device. Linux
// does the same (`mark_mmio_spte()`).

import { ENTRY, NX_HIGH, PHYSICAL_ADDRESS_BITS } from '../../01-hardware-background/mmu/paging.ts';
import { ACCESS } from './guest-mode.ts';

const { mask: P } = ENTRY;

/** The highest physical-address bit of the architecture, which this processor does not implement: bit 51, in the high word. */
const BEYOND_HIGH = 2 ** (51 - 32);
const HIGH_ADDRESS = 2 ** (PHYSICAL_ADDRESS_BITS - 32) - 1;

/** Low words. A and D are set in advance: the processor has nothing to write into a table that is ours. */
export const SPTE = {
  TABLE: P.P | P.RW | P.US | P.A,
  LEAF: P.P | P.A | P.D,
  LARGE: P.PS,
  DEVICE: P.P,
  /** The entry of a PAE root: only presence and address are allowed in it. */
  ROOT: P.P,
} as const;

/** Low and high word of a leaf. */
export const leafLow = (hpa: number, access: number, large: boolean): number =>
  ((hpa % 2 ** 32) | SPTE.LEAF | (access & ACCESS.WRITE ? P.RW : 0) | (access & ACCESS.USER ? P.US : 0) | (large ? SPTE.LARGE : 0)) >>> 0;
export const leafHigh = (hpa: number, access: number): number => (Math.floor(hpa / 2 ** 32) | (access & ACCESS.EXECUTE ? 0 : NX_HIGH)) >>> 0;
export const DEVICE_HIGH = BEYOND_HIGH;

export const isPresent = (low: number): boolean => (low & P.P) !== 0;
export const isLarge = (low: number): boolean => (low & P.PS) !== 0;
export const isWritable = (low: number): boolean => (low & P.RW) !== 0;
export const isDevice = (high: number): boolean => (high & BEYOND_HIGH) !== 0;
/** Where an entry leads. */
export const addressIn = (low: number, high: number): number => (high & HIGH_ADDRESS) * 2 ** 32 + ((low & 0xfffff000) >>> 0);
/** The rights that a leaf grants. */
export const accessIn = (low: number, high: number): number =>
  (low & P.RW ? ACCESS.WRITE : 0) | (low & P.US ? ACCESS.USER : 0) | (high & NX_HIGH ? 0 : ACCESS.EXECUTE);

// ## The role of a shadow page
//
// One guest table can have several shadows: reached through a read-only path and a writable one, used as a last-level table and (by a guest that maps
// its tables into themselves) as a directory, read with CR0.WP set and clear. The *role* is everything that distinguishes them; together with the
// guest frame it is the key of the cache. Two shadows may share a frame, never a frame and a role. Linux: `union kvm_mmu_page_role`.

interface RoleParts {
  /** Of the shadow table: 1 to 4. */
  readonly level: number;
  /** For guests with 4-byte entries: which half (level 1) or quarter (level 2) of the guest's table. */
  readonly quadrant: number;
  /** Rights of the path that leads here. */
  readonly access: number;
  /** Made from a large guest page, or for a guest that does not page: there is no guest table. */
  readonly direct: boolean;
  /** Of a direct page: the large guest page is dirty. */
  readonly dirty: boolean;
  /** Everything about the guest's mode that changes how an entry is read: see `modeKey`. */
  readonly mode: number;
}

/** A role as a number. */
export const roleOf = ({ level, quadrant, access, direct, dirty, mode }: RoleParts): number =>
  level | (quadrant << 3) | (access << 5) | ((direct ? 1 : 0) << 8) | ((dirty ? 1 : 0) << 9) | (mode << 10);
export const levelOf = (role: number): number => role & 7;
export const quadrantOf = (role: number): number => (role >> 3) & 3;
export const isDirect = (role: number): boolean => (role & (1 << 8)) !== 0;
export const modeOfRole = (role: number): number => role >> 10;
