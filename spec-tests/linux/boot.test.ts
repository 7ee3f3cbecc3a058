// A kernel that nobody here compiled, to its first program. `npm run boots` has the other doors and machines.

import { describe, expect, it } from 'vitest';
import { boot, COMMAND_LINE, complaints, MARK, SHOW_MESSAGES } from './boot.ts';
import { debianLinux, imageFor, initramfsFile } from './debian.ts';

const linux = await debianLinux('cloud-amd64');
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
