// # The host's /dev/kvm
//
// Chapter 5's PC on the real kernel. What this particular kernel can do is found out by trying (`probe.ts`), never by asking what machine it is:
// a nested or para-virtual KVM may lack things that every processor has.

import { release } from 'node:os';
import { HostKernel, hostKernelAvailable } from '../../chapters/02-kvm-objects/host/host-kernel.ts';
import type { BoardOptions } from '../../chapters/03-vcpu-loop/board.ts';
import type { Chassis } from '../../chapters/03-vcpu-loop/chassis.ts';
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
    super({ probe: look, makeKernel: () => new HostKernel(), makeMachine, executed: null });
  }
}

// A thread for each processor means that every exit is handed to another thread and back. One processor does without: its thread is ours.
const makeMachine = <C extends Chassis>(options: BoardOptions<C>): Machine<C> | Promise<HostMachine<C>> =>
  options.vcpus === 1 ? new Machine(options) : HostMachine.create({ ...options, kernel: options.kernel as HostKernel });

const SLOW = 'this kernel emulates the guest’s kernel code instruction by instruction, and firmware has millions';

function look(): Unavailable | Omit<Started, 'type' | 'protocol'> {
  const here = hostKernelAvailable();
  if (!here.available) return { type: 'unavailable', reason: here.reason };
  const { capabilities, missing } = probeKernel(new HostKernel());
  const emulated = !capabilities.includes('protected-interrupts');
  return {
    name: emulated ? 'host-kvm-emulated' : 'host-kvm',
    version: release(),
    surfaces: ['guest', 'kvm', 'device'],
    capabilities: [...MONITOR.capabilities.filter((name) => !(name === 'door-disk' && emulated)), ...capabilities],
    missing: { ...MONITOR.missing, ...missing, ...(emulated && { 'door-disk': SLOW }) },
  };
}
