// # The judgement
//
// Rights are ANDed along the path: a page is writable only if every level says so. What the levels say is then read in the light of who asks, and
// the answer differs in surprising ways. A supervisor may write to read-only pages unless CR0.WP is set (the 386 had no such bit, and copy-on-write
// kernels suffered for it). SMEP and SMAP turn *user* from a permission into a prohibition.

import { CR0, CR4, FLAG } from '../state.ts';
import { ENTRY } from './paging.ts';

const { mask: P } = ENTRY;

/** What somebody may do with a page. LIFTED: SMAP would have forbidden it, had not EFLAGS.AC been set. */
export const MAY = { READ: 1, WRITE: 2, EXECUTE: 4, LIFTED: 8 } as const;

/** Who asks. */
interface Asker {
  /** In user mode. */
  readonly user: boolean;
  /** On the processor's own behalf, as when it reads a descriptor: AC does not count then. */
  readonly implicit: boolean;
  readonly cr0: number;
  readonly cr4: number;
  readonly rflags: number;
}

// @clause x86.paging.permissions
/** Bits of {@link MAY}, of a page whose entries have `rights` in common. `noExecute`: one of them forbids fetches. */
export function judge(rights: number, noExecute: boolean, { user: userAccess, implicit, cr0, cr4, rflags }: Asker): number {
  const wp = (cr0 & CR0.WP) !== 0;
  const userPage = (rights & P.US) !== 0;
  const writablePage = (rights & P.RW) !== 0;
  let data: boolean;
  let may = 0;
  if (userAccess) data = userPage;
  else {
    // @clause x86.paging.smap
    const barred = userPage && (cr4 & CR4.SMAP) !== 0;
    const lifted = !implicit && (rflags & FLAG.AC) !== 0;
    data = !barred || lifted;
    if (barred && lifted) may |= MAY.LIFTED;
  }
  if (data) may |= MAY.READ;
  if (data && (writablePage || (!userAccess && !wp))) may |= MAY.WRITE;
  // @clause x86.paging.smep
  if (!noExecute && (userAccess ? userPage : !(userPage && (cr4 & CR4.SMEP) !== 0))) may |= MAY.EXECUTE;
  return may;
}
