// # Which machine
//
// A target's name says what to judge. The built-in ones are loaded only when asked for, because loading one may need what the host does not have.

import { fileURLToPath } from 'node:url';
import type { Adapter } from '../types.ts';
import { ExecAdapter } from './exec.ts';

export const BUILT_IN = ['ringbook', 'ringbook-shadow', 'host-kvm', 'qemu'] as const;
export type BuiltIn = (typeof BUILT_IN)[number];

export const isBuiltIn = (name: string): name is BuiltIn => (BUILT_IN as readonly string[]).includes(name);

/** A built-in machine in this process, or null for a name that is none. */
export async function makeBuiltIn(name: string): Promise<Adapter | null> {
  if (name === 'ringbook') return new (await import('./ringbook.ts')).RingbookAdapter('ept');
  if (name === 'ringbook-shadow') return new (await import('./ringbook.ts')).RingbookAdapter('shadow');
  if (name === 'host-kvm') return new (await import('./host-kvm.ts')).HostKvmAdapter();
  if (name === 'qemu') return new (await import('./qemu.ts')).QemuAdapter();
  return null;
}

const isCommand = (name: string): boolean => name.startsWith('exec:') && name.slice(5).trim() !== '';

/** @throws RangeError for a name that is no target. */
export function checkTarget(name: string): void {
  if (!isBuiltIn(name) && !isCommand(name)) throw new RangeError(`no target '${name}'; there are ${BUILT_IN.join(', ')}, all, and exec:<command>`);
}

export interface TargetOptions {
  readonly onLog?: (text: string) => void;
}

/**
 * The adapter for a target's name. Our own machine and `host-kvm` run in a process of their own, because a synchronous machine that loops cannot be
 * interrupted from within; QEMU already is a process.
 * @throws RangeError for a name that is no target.
 */
export async function makeTarget(name: string, options: TargetOptions = {}): Promise<Adapter> {
  checkTarget(name);
  if (isCommand(name)) return new ExecAdapter({ command: name.slice(5), ...options });
  if (name === 'qemu') return (await makeBuiltIn(name)) as Adapter;
  const program = fileURLToPath(new URL('serve.ts', import.meta.url));
  return new ExecAdapter({ command: [process.execPath, '--disable-warning=ExperimentalWarning', program, name], ...options });
}
