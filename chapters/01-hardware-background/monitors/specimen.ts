// # The specimen
//
// A kernel small enough to see through. It does the things that made virtualization hard: it turns interrupts off and on again in the two ways
// that x86 has, looks where its descriptor table is, speaks to a device, computes a little, and halts. And it keeps notes: what it saw is in
// memory when it ends, so that "it did what it would do on the bare machine" is a comparison, not an opinion.
//
// It is 32-bit code with flat segments and no paging, written as bytes because chapter 1 has no assembler.

import type { PhysicalMemory } from '../physical-memory.ts';
import { FLAG } from '../state.ts';

/** One instruction: its bytes, how a person writes it, and what kind of trouble it is. */
interface Line {
  readonly bytes: readonly number[];
  readonly text: string;
  /** Sensitive: reads or changes state that a monitor must own. */
  readonly sensitive?: true;
}

const NOTES_GPA = 0x2000;
const LOOPS = 100;

// biome-ignore format: table
const LISTING: readonly Line[] = [
  { bytes: [0xfa],                                     text: 'cli', sensitive: true },
  { bytes: [0x9c],                                     text: 'pushf', sensitive: true },
  { bytes: [0x8f, 0x05, 0x00, 0x20, 0x00, 0x00],       text: 'pop [0x2000]        ; first note: is IF clear?' },
  { bytes: [0x9c],                                     text: 'pushf', sensitive: true },
  { bytes: [0x81, 0x0c, 0x24, 0x00, 0x02, 0x00, 0x00], text: 'or dword [esp], 0x200' },
  { bytes: [0x9d],                                     text: 'popf                ; IF on, the other way', sensitive: true },
  { bytes: [0x9c],                                     text: 'pushf', sensitive: true },
  { bytes: [0x8f, 0x05, 0x04, 0x20, 0x00, 0x00],       text: 'pop [0x2004]        ; second note: is IF set?' },
  { bytes: [0x0f, 0x01, 0x05, 0x08, 0x20, 0x00, 0x00], text: 'sgdt [0x2008]       ; third note: limit and base', sensitive: true },
  { bytes: [0xb0, 0x21],                               text: "mov al, '!'" },
  { bytes: [0xe6, 0xe9],                               text: 'out 0xe9, al', sensitive: true },
  { bytes: [0xb9, LOOPS, 0x00, 0x00, 0x00],            text: `mov ecx, ${LOOPS}` },
  { bytes: [0x49],                                     text: 'dec ecx' },
  { bytes: [0x75, 0xfd],                               text: 'jnz -1' },
  { bytes: [0xf4],                                     text: 'hlt', sensitive: true },
];

/** The guest kernel, and where it expects things. */
export const specimen = {
  code: LISTING.flatMap(({ bytes }) => bytes),
  listing: LISTING,
  instructions: LISTING.length,
  /** Instructions that a run retires when nothing goes wrong. */
  retired: LISTING.length - 2 + 2 * LOOPS,
  sensitive: LISTING.filter(({ sensitive }) => sensitive).length,
  entry: 0x1000,
  stackTop: 0x1ff0,
  /** The size of its own descriptor table: what its SGDT should find. */
  gdtLimit: 0x2f,
} as const;

/** What the specimen noted, and what it said. */
export interface Notes {
  readonly interruptsAfterCli: boolean;
  readonly interruptsAfterPopf: boolean;
  readonly gdtLimit: number;
  readonly output: string;
}

/** The notes that a machine of its own would have led to. */
const TRUTH: Notes = { interruptsAfterCli: false, interruptsAfterPopf: true, gdtLimit: specimen.gdtLimit, output: '!' };

/** Reads the notes out of guest memory, which begins at host physical `base`; `output` is what reached the debug port. */
export function readNotes(memory: PhysicalMemory, output: string, base = 0): Notes {
  const at = memory.offset(base + NOTES_GPA, 16);
  return {
    interruptsAfterCli: (memory.view.getUint32(at, true) & FLAG.IF) !== 0,
    interruptsAfterPopf: (memory.view.getUint32(at + 4, true) & FLAG.IF) !== 0,
    gdtLimit: memory.view.getUint16(at + 8, true),
    output,
  };
}

/** Which notes differ from {@link TRUTH}: none, if the monitor kept its first promise. */
export const lies = (notes: Notes): string[] => (Object.keys(TRUTH) as (keyof Notes)[]).filter((key) => notes[key] !== TRUTH[key]);

// Of its {{specimen.instructions}} instructions {{specimen.sensitive}} are sensitive; it retires {{specimen.retired}} in a run, nearly all of them in the loop.
