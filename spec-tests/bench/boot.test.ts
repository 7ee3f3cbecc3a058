// The counters of `ringbook bench boot`, around a guest whose accesses are known.

import { describe, expect, it } from 'vitest';
import type { SoftVm } from '../../chapters/02-kvm-objects/soft/vm.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { out, place, startState, store, times } from '../../chapters/05-pio-mmio/guest-program.ts';
import { LAPIC_BASE } from '../../chapters/05-pio-mmio/interrupts/lapic-registers.ts';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import { Pc } from '../../chapters/05-pio-mmio/machine/pc.ts';
import { machineKernel } from '../../chapters/05-pio-mmio/machine/soft-machine.ts';
import { BootCounts, byFrequency } from './boot-counts.ts';

const [SERIAL_SCRATCH, PIC_MASK, NOBODY] = [0x3ff, 0x21, 0x9999];
const [IOAPIC, TPR] = [0xfec0_0000, LAPIC_BASE + 0x80];

describe('counting a run', () => {
  it('finds every access, at the device that has answered, and every exit', () => {
    const config = completeConfig({ kernel: 'a guest made of accesses', memoryMiB: 2, reboot: false, serial: ['null'] });
    const kernel = machineKernel({ memoryMiB: 2, cpus: 1, memory: 'ept' });
    const counts = new BootCounts(kernel);
    const vms: SoftVm[] = [];
    kernel.vmCreated.push((vm) => void vms.push(vm));
    const board = new Pc({ kernel, config });
    counts.watchMachine(board);
    const machine = new Machine(board.board);
    try {
      counts.watchApics(vms);
      place(machine.ram, {
        code: [
          times(5, out(SERIAL_SCRATCH, 1)),
          times(4, out(PIC_MASK, 0xff)),
          times(3, out(NOBODY, 1)),
          times(2, store(IOAPIC, 0x10)),
          store(TPR, 0),
        ],
        data: {},
      });
      machine.current.setSregs(startState.sregs);
      machine.current.setRegs(startState.regs);
      expect(machine.run().end).toBe('halt');
    } finally {
      machine.dispose();
    }
    expect(counts.devices).toEqual({
      serial: { kernel: 0, user: 5 },
      PIC: { kernel: 4, user: 0 },
      nobody: { kernel: 0, user: 3 },
      'I/O APIC': { kernel: 2, user: 0 },
      'local APIC': { kernel: 1, user: 0 },
    });
    expect(counts.exits).toMatchObject({ IO_INSTRUCTION: 12, HLT: 1 });
    expect(Object.values(counts.exits).reduce((sum, each) => sum + each, 0)).toBe(counts.exitCount);
  });

  it('lists the most frequent first, and equals by name', () => {
    expect(Object.keys(byFrequency({ b: 1, a: 1, c: 7 }, (count) => count))).toEqual(['c', 'a', 'b']);
  });
});
