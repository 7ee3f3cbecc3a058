// # One boot
//
// The machine is the command that people use, in a process of its own, so that what is tested is what they get. The kernel's messages are read for anything
// that it holds against the machine.

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const RUN = fileURLToPath(new URL('../../chapters/15-whole-machine/host/run.ts', import.meta.url));

/** What every boot here says to the kernel: no self-tests of ciphers, no defences against a processor that this is not. */
export const COMMAND_LINE = 'console=ttyS0 cryptomgr.notests=1 mitigations=off init_on_alloc=0 panic=-1';
export const MARK = 'ringbook-boot-mark';

/** What a script in the initramfs begins with: after this line the kernel's messages follow. */
export const SHOW_MESSAGES = `echo "${MARK} $(uname -r) $(uname -m) $(nproc)"\ndmesg\n`;

export interface Boot {
  readonly status: number | null;
  readonly console: string;
  readonly errors: string;
  /** Real time, from start to end. */
  readonly seconds: number;
  /** The kernel's own clock at the first program. */
  readonly guestSeconds: number | null;
}

/** Starts a machine and waits until it ends. */
export async function boot(args: readonly string[], { timeoutS = 900 }: { readonly timeoutS?: number } = {}): Promise<Boot> {
  const began = performance.now();
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', RUN, '-no-reboot', '-timeout', String(timeoutS), '-serial', 'stdio', ...args],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let [console, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    console += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const started = /\[ *([0-9.]+)\] Run \/init as init process/.exec(console)?.[1];
  return {
    status,
    console,
    errors,
    seconds: (performance.now() - began) / 1000,
    guestSeconds: started === undefined ? null : Number(started),
  };
}

// biome-ignore format: table
const COMPLAINTS = [
  'warning', String.raw`\bstall`, 'lockup', 'unstable', String.raw`\bskew`, String.raw`\bwarp`, 'nobody cared', 'disabling irq',
  'blocked for more', 'kernel panic', String.raw`\bbug\b`, 'error', 'fail', 'unable', 'cannot', "can't",
  'invalid', 'not found', 'timed? ?out', 'unexpected', 'conflict', 'broken', 'illegal', 'call trace',
  'firmware bug', 'fatal', 'spurious', 'mismatch', 'corrupt', 'bogus', String.raw`\boops`, String.raw`\blost\b`, 'ignoring',
];
const COMPLAINT = new RegExp(COMPLAINTS.join('|'), 'i');
/** What the kernel says on any machine, or of something that a machine need not have. */
const HARMLESS: readonly RegExp[] = [
  /if necessary, use "pci=nocrs" and report a bug/, // of every host bridge that ACPI describes
  /This is not a bug/,
  /fail to add MMCONFIG information/, // of a chipset that has none
  /invalidation policy/,
  /DMI not present or invalid/, // no SMBIOS, and none is claimed
  /PCI: Fatal: No config space access function found/, // of a machine without PCI
  /PM: hibernation/,
  /hash table entries/,
  /Early table checksum verification disabled/,
  /ERST|GHES|BERT|HEST/,
  /Correctable Errors collector/,
  /PCIe error|AER/,
];

/** Lines of the kernel's log that hold something against the machine. */
export const complaints = (console: string): string[] =>
  console
    .split(/\r?\n/)
    .filter((line) => /^(<[0-9]+>)?\[ *[0-9]+\.[0-9]+\]/.test(line) && COMPLAINT.test(line) && !HARMLESS.some((known) => known.test(line)));
