// # What there is to write down
//
// The answer can be counted, on a machine with nothing but what every `q35` has. Memory is left out: it is as large as one likes.

import { StateWriter } from '../../03-vcpu-loop/devices/state.ts';
import { Machine } from '../../03-vcpu-loop/vmm.ts';
import { completeConfig } from '../../05-pio-mmio/machine/config.ts';
import '../../05-pio-mmio/machine/devices.ts';
import { buildMachine } from '../../05-pio-mmio/machine/machine-types.ts';
import { machineKernel } from '../../05-pio-mmio/machine/soft-machine.ts';
import { askForEvents, saveChips, saveProcessor } from './kernel-state.ts';

/** A part of a saved machine. */
interface Part {
  readonly name: string;
  /** Who knows what it says. */
  readonly keeper: 'kernel' | 'machine';
  readonly bytes: number;
}

/** The parts of a machine of this type with so many processors, but for its memory. */
export function partsOf(type: string, cpus: number): readonly Part[] {
  const config = completeConfig({ machine: { type }, cpus, memoryMiB: 2, kernel: 'none yet', serial: ['null'] });
  const board = buildMachine({ kernel: machineKernel(config), config });
  const machine = new Machine(board.board);
  try {
    askForEvents(machine.vm);
    const msrs = machine.kvm.getMsrIndexList();
    return [
      ...machine.vcpus.map((vcpu): Part => ({ name: `processor ${vcpu.id}`, keeper: 'kernel', bytes: saveProcessor(machine.vm, vcpu, msrs).length })),
      { name: 'chips', keeper: 'kernel', bytes: saveChips(machine.vm).length },
      ...machine.savedParts.map((part): Part => {
        const out = new StateWriter();
        part.save(out);
        return { name: part.name, keeper: 'machine', bytes: out.written.length };
      }),
    ];
  } finally {
    machine.dispose();
  }
}
