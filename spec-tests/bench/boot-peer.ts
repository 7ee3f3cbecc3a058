// # The same boot in QEMU
//
// Under its translator, on the machine of the same name, to the same mark. Its firmware is part of it: QEMU starts Linux by way of SeaBIOS, or of a smaller one.

import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { BootWish } from './boot-guest.ts';
import { peersEnvironment, qemuMissing } from './qemu-guest.ts';

const PROGRAM = 'qemu-system-x86_64';

/**
 * QEMU's description of a machine. Its microvm has no timer that Linux could measure the others by unless it is given the 8254, and with ACPI Linux does not find
 * the way from there to the I/O APIC.
 */
const DESCRIPTION: Readonly<Record<string, string>> = { microvm: 'microvm,pit=on,pic=on,acpi=off' };

export const peerMissing = qemuMissing;

/** A clock's tick in `/proc`, on every Linux of today. */
const TICKS_PER_SECOND = 100;

/** Seconds that a process has been running, by the system's account; null where there is none. */
function processorSeconds(pid: number | undefined): number | null {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /, '')
      .split(' '); // from the third field on
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  } catch {
    return null;
  }
}

export interface PeerBoot {
  readonly seconds: number;
  readonly processorSeconds: number | null;
}

/** Boots to the mark. @throws Error when it does not come */
export async function bootInQemu({ machine, kernel, initrd, commandLine, memoryMiB, mark, timeoutS }: BootWish): Promise<PeerBoot> {
  const began = performance.now();
  const board = ['-machine', DESCRIPTION[machine] ?? machine, '-accel', 'tcg', '-m', `${memoryMiB}M`];
  const bare = ['-nodefaults', '-display', 'none', '-no-reboot', '-serial', 'stdio'];
  const child = spawn(PROGRAM, [...board, ...bare, '-kernel', kernel, '-initrd', initrd, '-append', commandLine], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: peersEnvironment(),
  });
  let [console, complaint] = ['', ''];
  let limit: NodeJS.Timeout | undefined;
  try {
    return await new Promise<PeerBoot>((resolve, reject) => {
      limit = setTimeout(() => reject(new Error(`QEMU's ${machine} does not reach the first program in ${timeoutS} s`)), 1000 * timeoutS);
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        console += text;
        if (console.includes(mark)) resolve({ seconds: (performance.now() - began) / 1000, processorSeconds: processorSeconds(child.pid) });
      });
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        complaint = (complaint + text).slice(0, 500);
      });
      child.on('error', reject);
      child.on('exit', (status) => reject(new Error(`QEMU ended with ${status}: ${complaint.trim()}`)));
    });
  } finally {
    clearTimeout(limit);
    child.removeAllListeners('exit');
    child.kill('SIGKILL');
  }
}
