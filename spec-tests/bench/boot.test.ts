// The counters of `ringbook bench boot`, around a guest whose accesses are known.

import { describe, expect, it } from 'vitest';
import { NS_PER_TICK } from '../../chapters/02-kvm-objects/soft/virtual-clock.ts';
import type { SoftVm } from '../../chapters/02-kvm-objects/soft/vm.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import { out, place, startState, store, times } from '../../chapters/05-pio-mmio/guest-program.ts';
import { LAPIC_BASE } from '../../chapters/05-pio-mmio/interrupts/lapic-registers.ts';
import { completeConfig } from '../../chapters/05-pio-mmio/machine/config.ts';
import '../../chapters/05-pio-mmio/machine/devices.ts';
import { Pc } from '../../chapters/05-pio-mmio/machine/pc.ts';
import { ACCESS_TICKS, machineKernel } from '../../chapters/05-pio-mmio/machine/soft-machine.ts';
import { BootCounts, byFrequency } from './boot-counts.ts';

const [SERIAL_SCRATCH, PIC_MASK, NOBODY] = [0x3ff, 0x21, 0x9999];
const [IOAPIC, TPR, SVR, ICR] = [0xfec0_0000, LAPIC_BASE + 0x80, LAPIC_BASE + 0xf0, LAPIC_BASE + 0x300];
const SHORTHAND_SELF = 1 << 18;

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
    expect(Object.fromEntries(Object.entries(counts.devices).map(([name, { kernel, user }]) => [name, [kernel, user]]))).toEqual({
      serial: [0, 5],
      PIC: [4, 0],
      nobody: [0, 3],
      'I/O APIC': [2, 0],
      'local APIC': [1, 0],
    });
    // An access of the machine's costs a trip; what the loop around it takes comes on top, and is little. The last device of all has no end.
    const occupied = (name: string): number => counts.devices[name]?.nanoseconds ?? 0;
    const trip = ACCESS_TICKS * NS_PER_TICK;
    for (const [name, trips] of [
      ['serial', 5],
      ['PIC', 0],
      ['nobody', 3],
      ['I/O APIC', 0],
    ] as const) {
      expect(occupied(name)).toBeGreaterThan(trips * trip);
      expect(occupied(name)).toBeLessThan(trips * trip + 400);
    }
    expect(occupied('local APIC')).toBe(0);
    expect(counts.exits).toMatchObject({ IO_INSTRUCTION: 12, HLT: 1 });
    expect(Object.values(counts.exits).reduce((sum, each) => sum + each, 0)).toBe(counts.exitCount);
  });

  it('counts the messages that a processor’s APIC is sent', () => {
    const config = completeConfig({ kernel: 'a guest that writes to itself', memoryMiB: 2, reboot: false, serial: ['null'] });
    const kernel = machineKernel({ memoryMiB: 2, cpus: 1, memory: 'ept' });
    const counts = new BootCounts(kernel);
    const vms: SoftVm[] = [];
    kernel.vmCreated.push((vm) => void vms.push(vm));
    const machine = new Machine(new Pc({ kernel, config }).board);
    try {
      counts.watchApics(vms);
      const self = SHORTHAND_SELF | 0x41;
      place(machine.ram, { code: [store(SVR, 0x1ff), times(3, store(ICR, self))], data: {} });
      machine.current.setSregs(startState.sregs);
      machine.current.setRegs(startState.regs);
      expect(machine.run().end).toBe('halt');
    } finally {
      machine.dispose();
    }
    expect(counts.messages).toEqual([{ '0x41': 3 }]);
  });

  it('lists the most frequent first, and equals by name', () => {
    expect(Object.keys(byFrequency({ b: 1, a: 1, c: 7 }, (count) => count))).toEqual(['c', 'a', 'b']);
  });
});
