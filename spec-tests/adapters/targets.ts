// # Which machine
//
// A target's name says what to judge. The built-in ones are loaded only when asked for, because loading one may need what the host does not have.

import { fileURLToPath } from 'node:url';
import type { Adapter } from '../types.ts';
import { ExecAdapter } from './exec.ts';
import type { QemuMachine } from './qemu-devices.ts';
import type { Way } from './ringbook.ts';

export const BUILT_IN = ['ringbook', 'ringbook-shadow', 'host-kvm', 'qemu', 'v86', 'bochs'] as const;
export type BuiltIn = (typeof BUILT_IN)[number];

// Most of what a processor does between two instructions has a short way for when nobody watches (INT, IRET, SYSCALL, faults), and a trace is somebody. A
// guest in the field has none. So `ringbook` runs its guests without, `ringbook-shadow` with one, and the others have the trace for who wants to read it.

/**
 * Our own machine with a trace, and its translator as it is, off, impatient, or in another thread: no parts of `all`, because they must do the same to the last
 * instruction. And on other boards.
 */
const WAYS: Readonly<Record<string, Way>> = {
  'ringbook-traced': {},
  'ringbook-interpreted': { translate: false },
  'ringbook-translated': { heat: 16 },
  'ringbook-threaded': { heat: 16, threaded: true },
  'ringbook-pc': { traced: false, boardName: 'pc' },
  'ringbook-microvm': { traced: false, boardName: 'microvm' },
};

/** QEMU with the choice of its machine already made; no part of `all`, where it chooses by itself. */
const QEMU_MACHINES: Readonly<Record<string, QemuMachine>> = { 'qemu:pc': 'pc', 'qemu:q35': 'q35', 'qemu:microvm': 'microvm' };

const isBuiltIn = (name: string): name is BuiltIn => (BUILT_IN as readonly string[]).includes(name);

/** A built-in machine in this process, or null for a name that is none. */
export async function makeBuiltIn(name: string): Promise<Adapter | null> {
  if (name === 'ringbook') return new (await import('./ringbook.ts')).RingbookAdapter('ept', { traced: false });
  if (name === 'ringbook-shadow') return new (await import('./ringbook.ts')).RingbookAdapter('shadow');
  const way = WAYS[name];
  if (way) return new (await import('./ringbook.ts')).RingbookAdapter('ept', way);
  if (name === 'host-kvm') return new (await import('./host-kvm.ts')).HostKvmAdapter();
  if (name === 'qemu' || Object.hasOwn(QEMU_MACHINES, name))
    return new (await import('./qemu.ts')).QemuAdapter(undefined, QEMU_MACHINES[name] ?? null);
  if (name === 'bochs') return new (await import('./bochs.ts')).BochsAdapter();
  if (name === 'v86') return new (await import('./v86.ts')).V86Adapter();
  return null;
}

const isCommand = (name: string): boolean => name.startsWith('exec:') && name.slice(5).trim() !== '';

/** @throws RangeError for a name that is no target. */
export function checkTarget(name: string): void {
  if (isBuiltIn(name) || isCommand(name) || Object.hasOwn(QEMU_MACHINES, name) || Object.hasOwn(WAYS, name)) return;
  throw new RangeError(
    `no target '${name}'; there are ${[...BUILT_IN, ...Object.keys(QEMU_MACHINES), ...Object.keys(WAYS)].join(', ')}, all, and exec:<command>`,
  );
}

// Each case has a machine of its own, so a serving process throws away some tens of megabytes every moment, and the threads that help to collect them cost more
// processor time than all of the rest of a short case.

const SERVING = ['--disable-warning=ExperimentalWarning', '--single-threaded-gc'];

export interface TargetOptions {
  readonly onLog?: (text: string) => void;
  /** How long a machine of our own may take until it is there. */
  readonly startTimeoutMs?: number;
  /** A module that the process of a machine of our own loads before all others, by its URL. */
  readonly preload?: string;
}

/**
 * The adapter for a target's name. Our own machine, `host-kvm` and v86 run in a process of their own, because a machine that loops cannot be
 * interrupted from within; QEMU and Bochs already are processes.
 * @throws RangeError for a name that is no target.
 */
export async function makeTarget(name: string, { preload, ...options }: TargetOptions = {}): Promise<Adapter> {
  checkTarget(name);
  if (isCommand(name)) return new ExecAdapter({ command: name.slice(5), ...options });
  if (name === 'bochs' || name === 'qemu' || Object.hasOwn(QEMU_MACHINES, name)) return (await makeBuiltIn(name)) as Adapter;
  const program = fileURLToPath(new URL('serve.ts', import.meta.url));
  const first = preload === undefined ? [] : [`--import=${preload}`];
  return new ExecAdapter({ command: [process.execPath, ...SERVING, ...first, program, name], ...options });
}
