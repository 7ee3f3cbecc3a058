// # What the architecture allows
//
// A second opinion, written from the manual and not from the code under test: where does an access go, or which fault does it cause? With all
// entries as they are now there is one answer. When software has changed entries and not said INVLPG there can be several, because a processor may
// have kept any part of an old translation; then the answer is a *set*: every walk that can be put together from values that the entries have had
// since the last flush.

import { indexAt, LEVELS, type PagingMode } from './arena.ts';

/** The registers that matter. */
export interface OracleMode {
  readonly paging: PagingMode;
  readonly wp: boolean;
  readonly nx: boolean;
  readonly smep: boolean;
  readonly smap: boolean;
}
export interface OracleAccess {
  readonly kind: 'read' | 'write' | 'exec';
  readonly user: boolean;
  readonly ac: boolean;
}
/** Where an access goes, or the error code of its fault. */
export type Answer = { readonly gpa: number } | { readonly code: number };

/** Values of an entry, as low and high word; null where there is no memory. The first is the present one. */
export type EntryValues = (gpa: number) => readonly (readonly [number, number])[] | null;

const ADDRESS_HIGH = 0xff; // 40 bits
const bit = (word: number, n: number): boolean => ((word >>> n) & 1) !== 0;

/** Every answer that the values allow; one, when each entry has one value. At most `limit` are followed. */
export function answers(
  mode: OracleMode,
  cr3: number,
  pdptes: readonly (readonly [number, number])[],
  values: EntryValues,
  linear: bigint,
  access: OracleAccess,
  limit = 64,
): Answer[] {
  const { paging, nx } = mode;
  const wide = paging === 'pae' || paging === 'long';
  const out: Answer[] = [];
  const fetchBit = access.kind === 'exec' && (mode.smep || (wide && nx)) ? 16 : 0;
  const base = (access.kind === 'write' ? 2 : 0) | (access.user ? 4 : 0) | fetchBit;
  const levels = paging === 'pae' ? LEVELS.pae.slice(1) : LEVELS[paging];

  const follow = (depth: number, table: number, rw: boolean, us: boolean, execute: boolean): void => {
    if (out.length >= limit) return;
    const level = levels[depth] as (typeof levels)[number];
    const entries = values(table + indexAt(linear, level) * (wide ? 8 : 4));
    if (!entries) {
      out.push({ code: base });
      return;
    }
    for (const [lo, hi] of entries) {
      if (!bit(lo, 0)) {
        out.push({ code: base });
        continue;
      }
      const leaf = level.level === 1 || (bit(lo, 7) && level.level < 4 && paging !== 'bits32');
      if (reserved(paging, level.level, leaf, nx, lo, hi)) {
        out.push({ code: base | 9 });
        continue;
      }
      const writable = rw && bit(lo, 1);
      const user = us && bit(lo, 2);
      const runs = execute && !(wide && bit(hi, 31));
      const address = (wide ? (hi & ADDRESS_HIGH) * 2 ** 32 : 0) + ((lo & 0xfffff000) >>> 0);
      if (!leaf) {
        follow(depth + 1, address, writable, user, runs);
        continue;
      }
      if (!allowed(mode, access, writable, user, runs)) {
        out.push({ code: base | 1 });
        continue;
      }
      const size = 2 ** level.shift;
      const frame = !wide && level.level === 2 ? ((lo >>> 13) & 0xff) * 2 ** 32 + ((lo & 0xffc00000) >>> 0) : address - (address % size);
      out.push({ gpa: frame + Number(linear & BigInt(size - 1)) });
    }
  };

  if (paging === 'pae') {
    const [lo, hi] = pdptes[Number((linear >> 30n) & 3n)] as readonly [number, number];
    if (!bit(lo, 0)) return [{ code: base }];
    follow(0, (hi & ADDRESS_HIGH) * 2 ** 32 + ((lo & 0xfffff000) >>> 0), true, true, true);
  } else follow(0, cr3 - (cr3 % 4096), true, true, true);
  return out;
}

function reserved(paging: PagingMode, level: number, leaf: boolean, nx: boolean, lo: number, hi: number): boolean {
  if (paging === 'bits32') return false;
  if (paging === 'pse') return leaf && level === 2 && bit(lo, 21);
  if ((hi & (paging === 'pae' ? 0x7fffff00 : 0x000fff00)) !== 0 || (!nx && bit(hi, 31))) return true;
  if (level === 4) return bit(lo, 7);
  if (!leaf || level === 1) return false;
  return (lo & (level === 3 ? 0x3fffe000 : 0x001fe000)) !== 0;
}

function allowed({ wp, smep, smap }: OracleMode, { kind, user, ac }: OracleAccess, writable: boolean, userPage: boolean, runs: boolean): boolean {
  if (kind === 'exec') return runs && (user ? userPage : !(userPage && smep));
  if (user) return userPage && (kind === 'read' || writable);
  if (userPage && smap && !ac) return false;
  return kind === 'read' || writable || !wp;
}
