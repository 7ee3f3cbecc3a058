// A kernel that nobody here compiled, to its first program. `npm run boots` has the other doors and machines.

import { describe, expect, it } from 'vitest';
import { ALL } from '../quick.ts';
import { boot, COMMAND_LINE, complaints, MARK, SHOW_MESSAGES } from './boot.ts';
import { debianLinux, imageFor, initramfsFile } from './debian.ts';
import { HEAD, lines } from './table.ts';

const linux = ALL ? await debianLinux('cloud-amd64') : { reason: 'left to npm run test:all' };
const absent = 'reason' in linux ? ` (skipped: ${linux.reason})` : '';

describe('what counts as a complaint', () => {
  it('is what the kernel holds against the machine, and nothing else', () => {
    const log = [
      '[    0.512345] ACPI BIOS Error (bug): Could not resolve symbol',
      '[    1.000000] PCI: Using host bridge windows from ACPI; if necessary, use "pci=nocrs" and report a bug',
      'echo of an error',
      '[   12.000001] ata1.00: failed command: READ DMA',
      '[    2.000000] serio: i8042 KBD port at 0x60,0x64 irq 1',
    ].join('\r\n');
    expect(complaints(log).map((line) => line.slice(15))).toEqual([
      'ACPI BIOS Error (bug): Could not resolve symbol',
      'ata1.00: failed command: READ DMA',
    ]);
  });
});

describe('complaints about time and interrupts', () => {
  it.each([
    'watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [swapper/1:0]',
    'rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:',
    "clocksource: Marking clocksource 'tsc' as unstable because the skew is too large",
    'Measured 123456 cycles TSC warp between CPUs, turning off TSC clock.',
    'irq 9: nobody cared (try booting with the "irqpoll" option)',
    'Disabling IRQ #9',
    'APIC error on CPU0: 00(40)',
    'mce: [Hardware Error]: Machine check events logged',
    'INFO: task swapper/0:1 blocked for more than 120 seconds.',
    'Kernel panic - not syncing: Attempted to kill init!',
    'APIC: Stale IRR: spurious APIC interrupt through vector ff on CPU#0, should never happen.',
    'i8042: Warning: Keylock active',
    'hrtimer: Oops, lost ticks',
    '..MP-BIOS bug: 8254 timer not connected to IO-APIC',
  ])('%s', (text) => {
    expect(complaints(`[    1.000000] ${text}`)).toHaveLength(1);
  });
  it.each([
    'sched_clock: Marking stable (4576015180, 3692140)->(4587227130, -7519810)',
    'Kernel command line: console=ttyS0 panic=-1 quiet',
    'acpi: installed 3 handlers',
    'PCI: Fatal: No config space access function found',
  ])('but not: %s', (text) => {
    expect(complaints(`[    1.000000] ${text}`)).toEqual([]);
  });
});

describe('a row of the matrix', () => {
  it('stands under the head, with what there is to say below it', () => {
    const row = { well: false, kernel: 'cloud-amd64', machine: 'microvm', memory: 'shadow', cpus: '4', door: 'linux64', seconds: 181.4 };
    const [first = '', ...rest] = lines({ ...row, guestSeconds: 4.79, remarks: ['exit status 6'] });
    for (const [head, cell] of [
      ['kernel', 'cloud-amd64'],
      ['memory', 'shadow'],
      ['door', 'linux64'],
      ['time', '181 s'],
      ['to the', '4.8 s'],
    ] as const)
      expect(first.indexOf(cell), head).toBe(HEAD.indexOf(head));
    expect(first).toMatch(/^NOT OK /);
    expect(rest).toEqual(['  exit status 6']);
    expect(lines({ ...row, well: true, guestSeconds: null, remarks: [] })[0]).toMatch(/^ok .* never$/);
  });
});

describe.skipIf(absent !== '')(`Debian's cloud kernel${absent}`, () => {
  it('boots to its first program, and has nothing against the machine', { timeout: 1_000_000 }, async () => {
    if ('reason' in linux) return;
    const initramfs = initramfsFile(linux, { script: SHOW_MESSAGES });
    try {
      const { status, console, errors } = await boot(
        ['-kernel', imageFor(linux, 'linux64'), '-initrd', initramfs.path, '-m', '256M', '-append', `${COMMAND_LINE} quiet`],
        { timeoutS: 900 },
      );
      expect(`${status} ${errors}`).toBe('0 ');
      expect(console).toMatch(new RegExp(`${MARK} [0-9.]+-[0-9]+-cloud-amd64 x86_64 1\r?\n`));
      expect(complaints(console)).toEqual([]);
      expect(console).toContain('ACPI: Interpreter enabled');
      expect(console).toContain('Hypervisor detected: KVM');
    } finally {
      initramfs.remove();
    }
  });
});
