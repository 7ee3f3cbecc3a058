// # What the loop adds, on both kernels
//
// The requests of a vCPU that only make sense when it runs. As in the chapter before, a case holds what Linux measurably answers.

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CAP } from '../02-kvm-objects/abi/capabilities.ts';
import { GUESTDBG, KvmGuestDebug, KvmInterrupt, KvmSignalMask, KvmVcpuEvents } from '../02-kvm-objects/abi/events.ts';
import { EXIT } from '../02-kvm-objects/abi/exits.ts';
import { IOCTL, type RequestName } from '../02-kvm-objects/abi/ioctls.ts';
import { errnoName } from '../02-kvm-objects/errno.ts';
import { HostKernel, hostKernelAvailable } from '../02-kvm-objects/host/host-kernel.ts';
import type { Kernel } from '../02-kvm-objects/kernel.ts';
import { Kvm, type Vcpu, type Vm } from '../02-kvm-objects/kvm.ts';
import { softKernel } from './kernel/index.ts';

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
const named = (result: number): string | number => (result < 0 ? errnoName(-result) : result);

const host = hostKernelAvailable();
const kernels: { name: string; make: () => Kernel; reason: string | null }[] = [
  { name: 'soft', make: () => softKernel(), reason: null },
  { name: 'host', make: () => new HostKernel(), reason: host.available ? null : host.reason },
];

for (const { name, make, reason } of kernels) {
  describe.skipIf(reason !== null)(`a vCPU that runs, on the ${name} kernel${reason ? ` (skipped: ${reason})` : ''}`, () => {
    let kvm: Kvm;
    let vm: Vm;
    let processor: Vcpu;
    let vcpu: number;
    const ioctl = (fd: number, request: RequestName, arg: number | Uint8Array = 0): string | number =>
      named(kvm.kernel.ioctl(fd, IOCTL[request], arg));
    beforeAll(() => {
      kvm = Kvm.open(make());
      vm = kvm.createVm();
      processor = vm.createVcpu(0);
      vcpu = processor.fd;
    });
    afterAll(() => {
      processor.close();
      vm.close();
      kvm.close();
    });

    it.each(['KVM_CAP_IMMEDIATE_EXIT', 'KVM_CAP_SET_GUEST_DEBUG', 'KVM_CAP_USER_NMI'] as const)('has %s', (cap) => {
      expect(kvm.checkExtension(CAP[cap])).toBeGreaterThan(0);
    });
    it('does not take an argument for KVM_RUN', () => expect(ioctl(vcpu, 'KVM_RUN', 1)).toBe('EINVAL'));
    it('queues one interrupt below 256', () => {
      expect(ioctl(vcpu, 'KVM_INTERRUPT', KvmInterrupt.encode({ irq: 256 }))).toBe('EINVAL');
      expect(ioctl(vcpu, 'KVM_INTERRUPT', KvmInterrupt.encode({ irq: 0x20 }))).toBe(0);
      const events = new Uint8Array(KvmVcpuEvents.bytes);
      expect(ioctl(vcpu, 'KVM_GET_VCPU_EVENTS', events)).toBe(0);
      expect(KvmVcpuEvents.decode(events)).toMatchObject({ interrupt_injected: 1, interrupt_nr: 0x20, interrupt_soft: 0 });
      expect(ioctl(vcpu, 'KVM_SET_VCPU_EVENTS', new Uint8Array(KvmVcpuEvents.bytes))).toBe(0);
    });
    it('can be debugged', () => {
      const { KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP } = GUESTDBG;
      for (const control of [KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, 0])
        expect(ioctl(vcpu, 'KVM_SET_GUEST_DEBUG', KvmGuestDebug.encode({ control }))).toBe(0);
    });
    it("takes a signal mask of the kernel's size, or none", () => {
      const mask = (len: number): Uint8Array => {
        const arg = new Uint8Array(KvmSignalMask.bytes + 16);
        KvmSignalMask.store(view(arg), 0, { len });
        return arg;
      };
      expect(ioctl(vcpu, 'KVM_SET_SIGNAL_MASK', mask(8))).toBe(0);
      expect(ioctl(vcpu, 'KVM_SET_SIGNAL_MASK', mask(4))).toBe('EINVAL');
      expect(ioctl(vcpu, 'KVM_SET_SIGNAL_MASK', mask(16))).toBe('EINVAL');
      expect(ioctl(vcpu, 'KVM_SET_SIGNAL_MASK', 0)).toBe(0);
    });
    it('takes an NMI', () => expect(ioctl(vcpu, 'KVM_NMI')).toBe(0));
    it('returns at once when immediate_exit is set, and has told the page how the processor stands', () => {
      const second = vm.createVcpu(1);
      second.page.immediateExit = true;
      expect(second.run()).toBe(EXIT.KVM_EXIT_INTR);
      expect(second.getRegs().rip).toBe(0xfff0n);
      expect(second.page.ifFlag).toBe(false);
      expect(second.page.readyForInterruptInjection).toBe(false);
      second.close();
    });
  });
}
