// # Which instructions are the trouble
//
// Each candidate is executed in ring 3 of a 32-bit system, and the question is only whether the monitor hears of it. Those that trap could be emulated.
// Those that do not either show the guest something of the monitor's, or quietly leave out what they were told to do.

import { specimen } from './specimen.ts';
import { Stage } from './stage.ts';

interface Candidate {
  readonly text: string;
  readonly bytes: readonly number[];
  /** What it touches that a monitor must own. */
  readonly touches: string;
}

// biome-ignore format: table
const CANDIDATES: readonly Candidate[] = [
  { text: 'cli',               bytes: [0xfa],                   touches: 'the interrupt flag' },
  { text: 'hlt',               bytes: [0xf4],                   touches: 'the processor as a whole' },
  { text: 'in al, 0x60',       bytes: [0xe4, 0x60],             touches: 'a device' },
  { text: 'out 0xe9, al',      bytes: [0xe6, 0xe9],             touches: 'a device' },
  { text: 'lgdt [0x2000]',     bytes: [0x0f, 0x01, 0x15, 0, 0x20, 0, 0], touches: 'the descriptor table register' },
  { text: 'lidt [0x2000]',     bytes: [0x0f, 0x01, 0x1d, 0, 0x20, 0, 0], touches: 'the interrupt table register' },
  { text: 'lldt ax',           bytes: [0x0f, 0x00, 0xd0],       touches: 'the local descriptor table' },
  { text: 'ltr ax',            bytes: [0x0f, 0x00, 0xd8],       touches: 'the task register' },
  { text: 'mov eax, cr0',      bytes: [0x0f, 0x20, 0xc0],       touches: 'a control register' },
  { text: 'mov cr3, eax',      bytes: [0x0f, 0x22, 0xd8],       touches: 'the address space' },
  { text: 'mov eax, dr7',      bytes: [0x0f, 0x21, 0xf8],       touches: 'a debug register' },
  { text: 'clts',              bytes: [0x0f, 0x06],             touches: 'a control register' },
  { text: 'lmsw ax',           bytes: [0x0f, 0x01, 0xf0],       touches: 'a control register' },
  { text: 'invlpg [0x2000]',   bytes: [0x0f, 0x01, 0x3d, 0, 0x20, 0, 0], touches: 'the TLB' },
  { text: 'rdmsr',             bytes: [0x0f, 0x32],             touches: 'a model-specific register' },
  { text: 'wbinvd',            bytes: [0x0f, 0x09],             touches: 'the caches' },
  { text: 'sgdt [0x2000]',     bytes: [0x0f, 0x01, 0x05, 0, 0x20, 0, 0], touches: 'the descriptor table register' },
  { text: 'sidt [0x2000]',     bytes: [0x0f, 0x01, 0x0d, 0, 0x20, 0, 0], touches: 'the interrupt table register' },
  { text: 'sldt ax',           bytes: [0x0f, 0x00, 0xc0],       touches: 'the local descriptor table' },
  { text: 'str ax',            bytes: [0x0f, 0x00, 0xc8],       touches: 'the task register' },
  { text: 'smsw ax',           bytes: [0x0f, 0x01, 0xe0],       touches: 'a control register' },
  { text: 'pushf',             bytes: [0x9c],                   touches: 'the interrupt flag' },
  { text: 'popf',              bytes: [0x9d],                   touches: 'the interrupt flag' },
  { text: 'lar eax, ecx',      bytes: [0x0f, 0x02, 0xc1],       touches: 'a descriptor' },
  { text: 'lsl eax, ecx',      bytes: [0x0f, 0x03, 0xc1],       touches: 'a descriptor' },
  { text: 'verr cx',           bytes: [0x0f, 0x00, 0xe1],       touches: 'a descriptor' },
  { text: 'verw cx',           bytes: [0x0f, 0x00, 0xe9],       touches: 'a descriptor' },
  { text: 'mov ax, cs',        bytes: [0x8c, 0xc8],             touches: 'the privilege level' },
  { text: 'push cs',           bytes: [0x0e],                   touches: 'the privilege level' },
];

/** What one candidate did in ring 3. `vector` is the exception that told the monitor; null when nothing did. */
interface Verdict {
  readonly text: string;
  readonly touches: string;
  readonly vector: number | null;
}

/** After the candidate, the stage's own callout: reaching it means that nothing trapped. */
const CALLOUT = 0x20;

/** Executes every candidate in ring 3. */
export function sensitiveInstructions(): readonly Verdict[] {
  return CANDIDATES.map(({ text, bytes, touches }) => {
    const stage = new Stage(3);
    stage.machine.load(specimen.entry, [...bytes, 0xcd, CALLOUT]);
    const vector = stage.next()?.vector ?? null;
    return { text, touches, vector: vector === CALLOUT ? null : vector };
  });
}

/** How many of the candidates are sensitive and say nothing. */
export const silentCount = (): number => sensitiveInstructions().filter(({ vector }) => vector === null).length;
export const sensitiveCount = (): number => CANDIDATES.length;
