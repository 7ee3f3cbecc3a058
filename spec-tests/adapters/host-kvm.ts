// # The host's /dev/kvm
//
// Chapter 3's monitor on the real kernel. What this particular kernel can do is found out by trying (`probe.ts`), never by asking what machine it is:
// a nested or para-virtual KVM may lack things that every processor has.

import { release } from 'node:os';
import { HostKernel, hostKernelAvailable } from '../../chapters/02-kvm-objects/host/host-kernel.ts';
import type { BoardOptions } from '../../chapters/03-vcpu-loop/board.ts';
import { HostMachine } from '../../chapters/03-vcpu-loop/host/host-machine.ts';
import { Machine } from '../../chapters/03-vcpu-loop/vmm.ts';
import type { Started, Unavailable } from '../types.ts';
import { MachineAdapter, MONITOR } from './machine.ts';
import { probeKernel } from './probe.ts';

// Known failures are filed by implementation, and there are two kinds of KVM. One lets the processor run the guest's kernel code; the other, nested where
// no hardware help is passed on, emulates it instruction by instruction, and its emulator has deviations of its own. Which kind this is shows in whether an
// exception can be delivered in protected mode: an emulator gives up there.

export class HostKvmAdapter extends MachineAdapter {
  constructor() {
    super({ probe: look, makeKernel: () => new HostKernel(), makeMachine, deterministic: false });
  }
}

// A thread for each processor means that every exit is handed to another thread and back. One processor does without: its thread is ours.
const makeMachine = (options: BoardOptions): Machine | Promise<HostMachine> =>
  options.vcpus === 1 ? new Machine(options) : HostMachine.create({ ...options, kernel: options.kernel as HostKernel });

function look(): Unavailable | Omit<Started, 'type' | 'protocol'> {
  const here = hostKernelAvailable();
  if (!here.available) return { type: 'unavailable', reason: here.reason };
  const { capabilities, missing } = probeKernel(new HostKernel());
  return {
    name: capabilities.includes('protected-interrupts') ? 'host-kvm' : 'host-kvm-emulated',
    version: release(),
    surfaces: ['guest', 'kvm'],
    capabilities: [...MONITOR.capabilities, ...capabilities],
    missing: { ...MONITOR.missing, ...missing },
  };
}
