import { type Cell, table } from '../../01-hardware-background/figures/drawing.ts';
import { ENTRY } from '../../01-hardware-background/mmu/paging.ts';
import { recordShadowWalk } from '../shadow-walk.ts';
import { recordWalk, type WalkConfig } from '../walks.ts';

const { mask: P } = ENTRY;
const ENTRIES = recordWalk().references.length;
const TABLE = ENTRIES;
const DIRECTORY = ENTRIES - 1;
const NX = 1n << 63n;

interface Row extends Pick<WalkConfig, 'access' | 'privilege'> {
  readonly says: string;
  readonly edits?: WalkConfig['edits'];
}
const without = (reference: number, bits: number): WalkConfig['edits'] => [{ reference, clear: BigInt(bits) }];
const ROWS: readonly Row[] = [
  { says: 'everything', access: 'read' },
  { says: 'everything', access: 'write' },
  { says: 'dirty already', access: 'read', edits: [{ reference: TABLE, set: BigInt(P.D) }] },
  { says: 'read-only', access: 'read', edits: without(TABLE, P.RW) },
  { says: 'read-only', access: 'write', edits: without(TABLE, P.RW) },
  { says: 'read-only in the directory', access: 'read', edits: without(DIRECTORY, P.RW) },
  { says: 'supervisor', access: 'read', edits: without(TABLE, P.US) },
  { says: 'supervisor in the directory', access: 'read', privilege: 'user', edits: without(DIRECTORY, P.US) },
  { says: 'no execution', access: 'read', edits: [{ reference: TABLE, set: NX }] },
  { says: 'no execution', access: 'fetch', edits: [{ reference: TABLE, set: NX }] },
  { says: 'not present', access: 'read', edits: without(TABLE, P.P) },
];

/** What the shadow's leaf grants, by what the guest's tables say and what was done. */
export function render(): string {
  const yes = (granted: boolean): Cell => (granted ? { text: 'yes', ink: 'pass' } : { text: 'no', ink: 'ink-3' });
  return table(
    'Rights of a shadow entry after one access',
    ['guest’s tables say', 'access', 'as', 'writable', 'user', 'executable', 'the guest sees'],
    ROWS.map(({ says, ...config }) => {
      const { attempts, result } = recordShadowWalk(config);
      const last = attempts.at(-1)?.references.at(-1);
      const leaf = last?.leaf && result.kind === 'translated' ? last.value : null;
      const bit = (mask: bigint): Cell => (leaf === null ? '–' : yes((leaf & mask) !== 0n));
      const seen: Cell = result.kind === 'fault' ? { text: `#PF, error code ${result.errorCode}`, ink: 'fail' } : 'the byte';
      const executable = leaf === null ? '–' : yes((leaf & NX) === 0n);
      return [says, config.access ?? 'read', config.privilege ?? 'supervisor', bit(BigInt(P.RW)), bit(BigInt(P.US)), executable, seen];
    }),
  );
}
