// # A walk to step through
//
// Everything about the explorable of chapter 4 that is not drawing: which walk is shown, how far, with which bits changed, and the sentences about it. The
// walks are performed by the chapter's own benches, in the page.

import { EPT_ENTRY, EPT_QUALIFICATION } from '../../chapters/01-hardware-background/mmu/ept.ts';
import { ENTRY, PF } from '../../chapters/01-hardware-background/mmu/paging.ts';
import { recordShadowWalk, type ShadowWalk } from '../../chapters/04-memory-virtualization/shadow-walk.ts';
import {
  type GuestFormat,
  MODES,
  type PageSize,
  type Reference,
  recordWalk,
  SECOND_STAGES,
  type Walk,
  type WalkConfig,
  type WalkResult,
} from '../../chapters/04-memory-virtualization/walks.ts';

type Nested = Exclude<(typeof SECOND_STAGES)[number], null>;
export const GUEST_FORMATS = Object.keys(MODES) as GuestFormat[];
export const NESTED_SIZES = SECOND_STAGES.filter((size): size is Nested => size !== null);
export const ACCESSES = ['read', 'write', 'fetch'] as const;
export const PRIVILEGES = ['supervisor', 'user'] as const;

/** One entry whose bits differ from what the bench wrote. `reference`: the number of its first reference in the walk without changes. */
export interface Edit {
  readonly reference: number;
  readonly set: bigint;
  readonly clear: bigint;
}

/** All that the page shows follows from this, and the address bar holds it. */
export interface Shown {
  readonly guest: GuestFormat;
  readonly page: PageSize;
  readonly nested: Nested;
  readonly access: (typeof ACCESSES)[number];
  readonly privilege: (typeof PRIVILEGES)[number];
  /** How many references are filled in. */
  readonly at: number;
  readonly edits: readonly Edit[];
}

export const START: Shown = { guest: '4-level', page: '4K', nested: '4K', access: 'read', privilege: 'supervisor', at: 1, edits: [] };

// ## The address bar

const oneOf = <T extends string>(text: string | null, allowed: readonly T[], otherwise: T): T =>
  allowed.includes(text as T) ? (text as T) : otherwise;
const MOST_EDITS = 32;

/** A hash as {@link writeShown} wrote it; what makes no sense is left at its default. */
export function readShown(hash: string): Shown {
  const fields = new URLSearchParams(hash.replace(/^#/, ''));
  const guest = oneOf(fields.get('guest'), GUEST_FORMATS, START.guest);
  const at = Number(fields.get('at') ?? START.at);
  const edits = (fields.get('edits') ?? '')
    .split(',')
    .map((edit) => /^(\d{1,3})-([0-9a-f]{1,16})-([0-9a-f]{1,16})$/.exec(edit))
    .filter((match) => match !== null)
    .slice(0, MOST_EDITS)
    .map(([, n, set, clear]) => ({ reference: Number(n), set: BigInt(`0x${set}`), clear: BigInt(`0x${clear}`) }));
  return {
    guest,
    page: oneOf(fields.get('page'), MODES[guest].sizes, '4K'),
    nested: oneOf(fields.get('nested'), NESTED_SIZES, START.nested),
    access: oneOf(fields.get('access'), ACCESSES, START.access),
    privilege: oneOf(fields.get('as'), PRIVILEGES, START.privilege),
    at: Number.isSafeInteger(at) && at >= 0 ? at : START.at,
    edits,
  };
}

/** The shortest hash. */
export function writeShown({ guest, page, nested, access, privilege, at, edits }: Shown): string {
  const fields = new URLSearchParams();
  if (guest !== START.guest) fields.set('guest', guest);
  if (page !== START.page) fields.set('page', page);
  if (nested !== START.nested) fields.set('nested', nested);
  if (access !== START.access) fields.set('access', access);
  if (privilege !== START.privilege) fields.set('as', privilege);
  if (at !== START.at) fields.set('at', String(at));
  if (edits.length > 0)
    fields.set('edits', edits.map(({ reference, set, clear }) => `${reference}-${set.toString(16)}-${clear.toString(16)}`).join(','));
  return `#${fields}`;
}

// ## Performing it

/** The three walks of one access. */
export interface Walks {
  readonly nested: Walk;
  /** The same as it is without changed bits. */
  readonly unedited: Walk;
  readonly native: Walk;
  readonly shadow: ShadowWalk;
}

/** The same with each changed entry named once, by its first reference, and nothing changed that is not there. */
export function settled(shown: Shown): Shown {
  if (shown.edits.length === 0) return shown;
  const { guest, page, nested, access, privilege } = shown;
  const unedited = recordWalk({ guest, page, nested, access, privilege });
  const edits = new Map<number, Edit>();
  for (const { reference, set, clear } of shown.edits) {
    const named = unedited.references[reference - 1];
    const first = named && editable({ unedited }, named);
    if (first) edits.set(first, { reference: first, set, clear: clear & ~set });
  }
  return { ...shown, edits: [...edits.values()].sort((one, other) => one.reference - other.reference) };
}

/** A change of an entry of the guest is one in all three; the second stage's exist in one. */
export function perform({ guest, page, nested, access, privilege, edits }: Shown): Walks {
  const common = { guest, page, access, privilege } satisfies WalkConfig;
  const unedited = recordWalk({ ...common, nested });
  const plain = recordWalk(common).references;
  const own = edits.flatMap(({ reference, set, clear }) => {
    const edited = unedited.references[reference - 1] as Reference;
    const same = edited.stage === 1 ? plain.find(({ level }) => level === edited.level) : undefined;
    return same ? [{ reference: same.n, set, clear }] : [];
  });
  return {
    unedited,
    nested: recordWalk({ ...common, nested, edits }),
    native: recordWalk({ ...common, edits: own }),
    shadow: recordShadowWalk({ ...common, edits: own }),
  };
}

// ## Bits

export interface Bit {
  readonly name: string;
  readonly mask: bigint;
  readonly meaning: string;
}
const NX = { name: 'NX', mask: 1n << 63n, meaning: 'no instruction fetches' };
const BEYOND = { name: '51', mask: 1n << 51n, meaning: 'an address bit that this processor does not have: reserved' };
const big = (mask: number): bigint => BigInt(mask >>> 0);

/** The bits of an entry that can be changed here. */
export function bitsOf({ stage, level, register, leaf }: Reference, { guest }: Shown): Bit[] {
  const { mask: P } = ENTRY;
  const { mask: E } = EPT_ENTRY;
  const dirty = { name: 'D', meaning: 'dirty' };
  const large = { name: 'PS', meaning: 'maps a large page' };
  const mayBeLarge = level === 2 || (level === 3 && guest === '4-level');
  if (register) return [{ name: 'P', mask: big(P.P), meaning: 'present' }];
  if (stage === 2)
    return [
      { name: 'R', mask: big(E.R), meaning: 'data reads' },
      { name: 'W', mask: big(E.W), meaning: 'data writes' },
      { name: 'X', mask: big(E.X), meaning: 'instruction fetches' },
      ...(level === 2 || level === 3 ? [{ ...large, mask: big(E.PS) }] : []),
      { name: 'A', mask: big(E.A), meaning: 'accessed' },
      ...(leaf ? [{ ...dirty, mask: big(E.D) }] : []),
      BEYOND,
    ];
  return [
    { name: 'P', mask: big(P.P), meaning: 'present' },
    { name: 'RW', mask: big(P.RW), meaning: 'writable' },
    { name: 'US', mask: big(P.US), meaning: 'user' },
    ...(mayBeLarge ? [{ ...large, mask: big(P.PS) }] : []),
    { name: 'A', mask: big(P.A), meaning: 'accessed' },
    ...(leaf ? [{ ...dirty, mask: big(P.D) }] : []),
    ...(guest === '32-bit' ? [] : [NX, BEYOND]),
  ];
}

/** The number by which an entry's changes are kept; null for one that the walk without changes does not read. */
export const editable = ({ unedited }: Pick<Walks, 'unedited'>, { stage, entry, register }: Reference): number | null =>
  unedited.references.find((other) => other.stage === stage && other.entry === entry && other.register === register)?.n ?? null;

/** The edits after a bit of an entry was turned over. `original`: the entry without edits. */
export function toggled(edits: readonly Edit[], reference: number, original: bigint, mask: bigint): Edit[] {
  const old = edits.find((edit) => edit.reference === reference) ?? { reference, set: 0n, clear: 0n };
  const wasEdited = ((old.set | old.clear) & mask) !== 0n;
  const set = wasEdited || original & mask ? old.set & ~mask : old.set | mask;
  const clear = wasEdited || !(original & mask) ? old.clear & ~mask : old.clear | mask;
  const rest = edits.filter((edit) => edit.reference !== reference);
  return set === 0n && clear === 0n ? rest : [...rest, { reference, set, clear }].sort((a, b) => a.reference - b.reference);
}

// ## Sentences

export const hex = (n: number | bigint): string => `0x${n.toString(16)}`;
const PAGE_NAMES: Readonly<Record<number, string>> = { 12: '4 KiB', 21: '2 MiB', 22: '4 MiB', 30: '1 GiB' };

/** How a walk ended: in a word, and in a sentence. */
export function ending(result: WalkResult): { readonly word: string; readonly sentence: string } {
  switch (result.kind) {
    case 'translated':
      return { word: 'translated', sentence: `The byte is at host physical address ${hex(result.hpa)}.` };
    case 'fault': {
      const { mask } = PF;
      const { errorCode } = result;
      const said = [
        errorCode & mask.RSVD ? 'a reserved bit is set' : errorCode & mask.P ? 'the page is present and forbids it' : 'not present',
        errorCode & mask.W ? 'a write' : errorCode & mask.ID ? 'a fetch' : 'not a write',
        errorCode & mask.U ? 'by user mode' : 'by the supervisor',
      ];
      return {
        word: '#PF',
        sentence: `Page fault for the guest, error code ${hex(errorCode)}: ${said.join(', ')}. The guest’s own handler is entered; no hypervisor needs to know.`,
      };
    }
    case 'exit': {
      const { gpa, qualification } = result;
      if (result.reason === 'EPT_MISCONFIG')
        return {
          word: 'EPT misconfiguration',
          sentence: `VM exit: EPT misconfiguration at guest physical ${hex(gpa)}. The entry makes no sense; there is no qualification.`,
        };
      const said = EPT_QUALIFICATION.describe(Number(qualification));
      return {
        word: 'EPT violation',
        sentence: `VM exit: EPT violation at guest physical ${hex(gpa)}, qualification ${hex(qualification)}: ${said}. The guest does not learn of it.`,
      };
    }
  }
}

/** What a reference is for, and what came of it. */
export function about({ stage, structure, register, translates, bits, index, entry, value, leaf, target }: Reference, { unedited }: Walks): string {
  const served = unedited.references.find((other) => other.stage === 1 && BigInt(other.entry) === translates);
  const sought = served ? `the guest’s ${served.structure} entry` : translates === BigInt(unedited.gpa) ? 'the byte' : 'an entry';
  const why =
    stage === 1 ? `The guest’s own walk of linear address ${hex(translates)}.` : `To find where ${sought} is, guest physical ${hex(translates)}.`;
  const where = register
    ? `Bits ${bits[0]}–${bits[1]} are ${index}; PAE keeps these four entries in registers, so this is no memory reference.`
    : `Bits ${bits[0]}–${bits[1]} are ${index}: the ${structure} entry at ${hex(entry)}.`;
  const what = leaf ? `maps a page of ${PAGE_NAMES[bits[1]] ?? ''} at ${hex(target)}` : `leads to the table at ${hex(target)}`;
  return `${why} ${where} It holds ${hex(value)}${value === 0n ? '' : ` and ${what}`}.`;
}
