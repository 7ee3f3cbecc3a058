// The chapter's recorded runs, which its sentences and figures quote.

import { EPT_QUALIFICATION } from '../../01-hardware-background/mmu/ept.ts';
import { dirtyRounds, fourAddresses, slotStory } from '../index.ts';
import { LEVEL } from '../kernel/ept-tables.ts';
import { memoryKernel } from '../kernel/index.ts';
import { recordShadowWalk } from '../shadow-walk.ts';
import { recordWalk } from '../walks.ts';
import { type Cost, measure, REMAPPED, SWITCHES } from '../workloads.ts';

export { PAGING_MODES } from '../fuzz/arena.ts';
export { references } from '../walks.ts';
export { SWITCHES, TOUCHED, WORKING_SET } from '../workloads.ts';

export const four = fourAddresses();
export const fourOnShadow = fourAddresses('shadow');
export const slots = slotStory(memoryKernel({ ramBytes: 8 << 20 }));

/** The first load of a guest whose tables are least like the processor's. */
export const shadowed = recordShadowWalk({ guest: '32-bit', page: '4M' }).attempts;

// ## Walks that fail

const NESTED = recordWalk({ nested: '4K' }).references;
const lastOf = (stage: 1 | 2): number => NESTED.findLast((reference) => reference.stage === stage)?.n ?? 0;
const firstLeaf = NESTED.find(({ stage, leaf }) => stage === 2 && leaf)?.n ?? 0;
const failing = (reference: number, clear: bigint) => recordWalk({ nested: '4K', edits: [{ reference, clear }] }).result;
const fault = failing(lastOf(1), 1n);
const exit = failing(lastOf(2), 7n);
const tableExit = failing(firstLeaf, 2n);
if (fault.kind !== 'fault' || exit.kind !== 'exit' || tableExit.kind !== 'exit') throw new Error('the bits that were cleared are needed');
export const [pageFault, violation, tableViolation] = [fault, exit, tableExit];
export const describeViolation = (qualification: bigint): string => EPT_QUALIFICATION.describe(Number(qualification));

// ## Workloads

export const eptTouch = measure('touch');
export const eptTouchSmall = measure('touch', { largest: LEVEL.PAGE_4K });
export const shadowTouch = measure('touch', { memory: 'shadow' });
export const eptSwitch = measure('switch');
export const shadowSwitch = measure('switch', { memory: 'shadow' });
export const eptRemap = measure('remap');
export const shadowRemap = measure('remap', { memory: 'shadow' });

export const total = (exits: Cost['exits']): number => Object.values(exits).reduce((sum, n) => sum + n, 0);
const referencesOf = ({ walks }: Cost): number => walks.stage1 + walks.stage2;
export const perWalk = (cost: Cost): number => Math.round(referencesOf(cost) / cost.walks.walks);
export const perSwitch = (cost: Cost): number => Math.round(referencesOf(cost) / SWITCHES);
/** Without the HLT. */
export const perPage = ({ exits }: Cost): number => Math.round((total(exits) - 1) / REMAPPED);

// ## The log

export const protect = dirtyRounds('protect');
export const bits = dirtyRounds('bits');
