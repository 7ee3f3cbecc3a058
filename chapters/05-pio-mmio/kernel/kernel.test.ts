// # Chips, routes, processors and clocks, on two kernels

import { describe, expect, it } from 'vitest';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { KvmClockData, KvmReinjectControl } from '../../02-kvm-objects/abi/eventfd.ts';
import { KvmMpState, MP_STATE } from '../../02-kvm-objects/abi/events.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import {
  IRQ_ROUTING,
  IRQCHIP,
  KvmIoapicState,
  KvmIrqchip,
  KvmIrqLevel,
  KvmMsi,
  KvmPicState,
  KvmPitConfig,
  KvmPitState2,
} from '../../02-kvm-objects/abi/irqchip.ts';
import { KvmEnableCap } from '../../02-kvm-objects/abi/memory.ts';
import type { Vcpu } from '../../02-kvm-objects/kvm.ts';
import { LAPIC } from '../interrupts/lapic-registers.ts';
import { KVMCLOCK_MSR, PvclockTime, PvclockWall } from './kvmclock.ts';
import { APIC, type Entry, HLT, kernels, laboratory, report, reportAl, SECOND, store, view, wrmsr } from './laboratory.ts';

for (const which of kernels) {
  const { name, reason } = which;
  describe.skipIf(reason !== null)(`the ${name} kernel's platform${reason ? ` (skipped: ${reason})` : ''}`, () => {
    const { open, ask, vcpuAsk, machine, reported, mpState, setLapic, lapic, chip, setPic, line, routing } = laboratory(which);

    describe('making them', () => {
      it('makes the chips once, before the first vCPU', () => {
        const { vm } = open();
        expect(ask(vm, 'KVM_CREATE_IRQCHIP')).toBe(0);
        expect(ask(vm, 'KVM_CREATE_IRQCHIP')).toBe('EEXIST');
        expect(ask(vm, 'KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: CAP.KVM_CAP_SPLIT_IRQCHIP, arg0: 24n }))).toBe('EEXIST');
        const late = open().vm;
        late.createVcpu(0);
        expect(ask(late, 'KVM_CREATE_IRQCHIP')).toBe('EINVAL');
        expect(ask(late, 'KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: CAP.KVM_CAP_SPLIT_IRQCHIP, arg0: 24n }))).toBe('EEXIST');
      });
      it('makes the local APICs alone', () => {
        const { vm } = open();
        const split = (arg0: bigint, flags = 0): string | number =>
          ask(vm, 'KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: CAP.KVM_CAP_SPLIT_IRQCHIP, arg0, flags }));
        expect(split(4097n)).toBe('EINVAL');
        expect(split(24n, 1)).toBe('EINVAL');
        expect(split(24n)).toBe(0);
        expect(split(24n)).toBe('EEXIST');
        expect(ask(vm, 'KVM_CREATE_IRQCHIP')).toBe('EEXIST');
        expect(ask(vm, 'KVM_GET_IRQCHIP', KvmIrqchip.encode())).toBe('ENXIO');
        expect(ask(vm, 'KVM_CREATE_PIT2', KvmPitConfig.encode())).toBe('ENOENT');
      });
      it('makes the timer once, where there are chips', () => {
        const { vm } = open();
        expect(ask(vm, 'KVM_CREATE_PIT2', KvmPitConfig.encode())).toBe('ENOENT');
        expect(ask(vm, 'KVM_GET_PIT2', new Uint8Array(KvmPitState2.bytes))).toBe('ENXIO');
        expect(ask(vm, 'KVM_SET_PIT2', new Uint8Array(KvmPitState2.bytes))).toBe('ENXIO');
        expect(ask(vm, 'KVM_REINJECT_CONTROL', KvmReinjectControl.encode())).toBe('ENXIO');
        vm.ioctl('KVM_CREATE_IRQCHIP');
        expect(ask(vm, 'KVM_CREATE_PIT2', KvmPitConfig.encode())).toBe(0);
        expect(ask(vm, 'KVM_CREATE_PIT2', KvmPitConfig.encode())).toBe('EEXIST');
        expect(ask(vm, 'KVM_REINJECT_CONTROL', KvmReinjectControl.encode())).toBe(0);
        expect(ask(vm, 'KVM_REINJECT_CONTROL', 0)).toBe('EFAULT');
      });
      it('refuses what needs them', () => {
        const { vm } = open();
        const vcpu = vm.createVcpu(0);
        expect(ask(vm, 'KVM_IRQ_LINE', KvmIrqLevel.encode())).toBe('ENXIO');
        expect(ask(vm, 'KVM_SIGNAL_MSI', KvmMsi.encode())).toBe('EINVAL');
        expect(routing(vm, [])).toBe('EINVAL');
        expect(vcpuAsk(vm, vcpu, 'KVM_GET_LAPIC', new Uint8Array(1024))).toBe('EINVAL');
        expect(vcpuAsk(vm, vcpu, 'KVM_SET_LAPIC', new Uint8Array(1024))).toBe('EINVAL');
        for (const state of [MP_STATE.KVM_MP_STATE_HALTED, MP_STATE.KVM_MP_STATE_INIT_RECEIVED])
          expect(vcpuAsk(vm, vcpu, 'KVM_SET_MP_STATE', KvmMpState.encode({ mp_state: state }))).toBe('EINVAL');
      });
      it('knows three chips, and takes KVM_INTERRUPT only for those that it lacks', () => {
        const { vm } = open();
        vm.ioctl('KVM_CREATE_IRQCHIP');
        const vcpu = vm.createVcpu(0);
        expect(ask(vm, 'KVM_GET_IRQCHIP', KvmIrqchip.encode({ chip_id: 3 }))).toBe('EINVAL');
        expect(ask(vm, 'KVM_SET_IRQCHIP', KvmIrqchip.encode({ chip_id: 3 }))).toBe('EINVAL');
        expect(vcpuAsk(vm, vcpu, 'KVM_INTERRUPT', Uint8Array.from([0x40, 0, 0, 0]))).toBe('ENXIO');
        const { vm: split } = open();
        split.ioctl('KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: CAP.KVM_CAP_SPLIT_IRQCHIP, arg0: 24n }));
        const second = split.createVcpu(0);
        expect(vcpuAsk(split, second, 'KVM_INTERRUPT', Uint8Array.from([0x40, 0, 0, 0]))).toBe(0);
        expect(vcpuAsk(split, second, 'KVM_INTERRUPT', Uint8Array.from([0x41, 0, 0, 0]))).toBe('EEXIST');
      });
      it('lets another processor start first', () => {
        const { vm } = open();
        vm.ioctl('KVM_CREATE_IRQCHIP');
        expect(ask(vm, 'KVM_SET_BOOT_CPU_ID', 1)).toBe(0);
        const [first, second] = [vm.createVcpu(0), vm.createVcpu(1)];
        expect([mpState(vm, first), mpState(vm, second)]).toEqual([MP_STATE.KVM_MP_STATE_UNINITIALIZED, MP_STATE.KVM_MP_STATE_RUNNABLE]);
        expect(ask(vm, 'KVM_SET_BOOT_CPU_ID', 0)).toBe('EBUSY');
      });
    });

    describe('routing', () => {
      const IRQCHIP_ROUTE = IRQ_ROUTING.KVM_IRQ_ROUTING_IRQCHIP;
      const MSI_ROUTE = IRQ_ROUTING.KVM_IRQ_ROUTING_MSI;
      const pin = (gsi: number, irqchip: number, n: number): Entry => ({ gsi, type: IRQCHIP_ROUTE, irqchip, pin: n });
      const msi = (gsi: number): Entry => ({ gsi, type: MSI_ROUTE, address_lo: APIC, data: 0x40 });

      it('replaces the table, or leaves it as it was', () => {
        const { vm } = open();
        vm.ioctl('KVM_CREATE_IRQCHIP');
        expect(routing(vm, [])).toBe(0);
        expect(routing(vm, [pin(0, 0, 0), pin(0, 2, 2), pin(9, 1, 7), msi(4095)])).toBe(0);
        expect(routing(vm, [], { flags: 1 })).toBe('EINVAL');
        expect(routing(vm, [], { nr: 4097 })).toBe('EINVAL');
        for (const bad of [
          [msi(4096)],
          [pin(0, 0, 8)],
          [pin(0, 1, 8)],
          [pin(0, 2, 24)],
          [pin(0, 3, 0)],
          [{ gsi: 0, type: 99 }],
          [{ ...pin(0, 0, 0), flags: 1 }],
          [{ ...msi(0), flags: 2 }],
          [pin(0, 0, 0), pin(0, 0, 1)],
          [pin(0, 0, 0), msi(0)],
          [msi(0), msi(0)],
        ])
          expect([bad, routing(vm, bad)]).toEqual([bad, 'EINVAL']);
      });
      it('has no chips to route to when split', () => {
        const { vm } = open();
        vm.ioctl('KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: CAP.KVM_CAP_SPLIT_IRQCHIP, arg0: 24n }));
        expect(routing(vm, [pin(0, 2, 0)])).toBe('EINVAL');
        expect(routing(vm, [msi(0)])).toBe(0);
      });
      it('moves inputs of both chips, by default, and reports what came of it', () => {
        const { vm } = open();
        vm.ioctl('KVM_CREATE_IRQCHIP');
        vm.createVcpu(0);
        setPic(vm, { irq_base: 0x20 });
        expect(line(vm, 5, 1)).toBeGreaterThan(0);
        const master = KvmPicState.decode(chip(vm, IRQCHIP.KVM_IRQCHIP_PIC_MASTER));
        expect([master.irr & 0x20, master.last_irr & 0x20]).toEqual([0x20, 0x20]);
        expect(KvmIoapicState.decode(chip(vm, IRQCHIP.KVM_IRQCHIP_IOAPIC)).irr).toBe(1 << 5);
        expect(line(vm, 5, 0)).toBeGreaterThan(0);
        expect(KvmIoapicState.decode(chip(vm, IRQCHIP.KVM_IRQCHIP_IOAPIC)).irr).toBe(0);
        expect(line(vm, 23, 1)).toBeLessThan(0); // masked at the I/O APIC, and unknown to the 8259s
        expect(line(vm, 24, 1)).toBe(-1);
      });
      it('sends a message in place of a line', () => {
        const { vm, vcpu } = machine({ code: HLT });
        setLapic(vm, vcpu);
        expect(routing(vm, [msi(30)])).toBe(0);
        expect([line(vm, 30, 0), line(vm, 30, 1)]).toEqual([-1, 1]);
        expect(lapic(vm, vcpu, LAPIC.IRR + 0x20)).toBe(1);
        expect(line(vm, 5, 1)).toBe(-1); // the old routes are gone
      });
    });

    describe('a second processor', () => {
      const START = [
        ...store(APIC + LAPIC.SVR, 0x1ff),
        ...store(APIC + LAPIC.ICR2, 1 << 24),
        ...store(APIC + LAPIC.ICR, 0x4500),
        ...report(1),
        ...store(APIC + LAPIC.ICR, 0x4600 | (SECOND >> 12)),
        ...report(2),
        ...HLT,
      ];
      it('waits for INIT, then for SIPI, then runs where it is told', () => {
        const { vm, vcpus } = machine({ code: START, second: [0x8c, 0xc8, 0x88, 0xe0, ...reportAl, ...HLT], vcpus: 2 }); // mov ax, cs; mov al, ah
        const [first, second] = vcpus as [Vcpu, Vcpu];
        expect([mpState(vm, first), mpState(vm, second)]).toEqual([MP_STATE.KVM_MP_STATE_RUNNABLE, MP_STATE.KVM_MP_STATE_UNINITIALIZED]);
        expect(reported(first)).toBe(1);
        expect(mpState(vm, second)).toBe(MP_STATE.KVM_MP_STATE_INIT_RECEIVED);
        expect(reported(first)).toBe(2);
        expect(mpState(vm, second)).toBe(MP_STATE.KVM_MP_STATE_RUNNABLE);
        const { cs } = second.getSregs();
        expect([cs.selector, cs.base, second.getRegs().rip]).toEqual([SECOND >> 4, BigInt(SECOND), 0n]);
        expect(reported(second)).toBe(SECOND >> 12);
      });
      it('returns at once from KVM_RUN when told to, started or not', () => {
        const { vcpus } = machine({ code: HLT, vcpus: 2 });
        const [, second] = vcpus as [Vcpu, Vcpu];
        second.page.immediateExit = true;
        expect(second.run()).toBe(EXIT.KVM_EXIT_INTR);
      });
      it('is started by the VMM', () => {
        const { vm, vcpus } = machine({ code: HLT, second: [...report(5), ...HLT], vcpus: 2 });
        const [, second] = vcpus as [Vcpu, Vcpu];
        const sregs = second.getSregs();
        second.setSregs({ cs: { ...sregs.cs, base: BigInt(SECOND), selector: SECOND >> 4 } });
        second.setRegs({ rip: 0n });
        expect(vcpuAsk(vm, second, 'KVM_SET_MP_STATE', KvmMpState.encode({ mp_state: MP_STATE.KVM_MP_STATE_RUNNABLE }))).toBe(0);
        expect(reported(second)).toBe(5);
        for (const state of [MP_STATE.KVM_MP_STATE_HALTED, MP_STATE.KVM_MP_STATE_INIT_RECEIVED, MP_STATE.KVM_MP_STATE_UNINITIALIZED]) {
          expect(vcpuAsk(vm, second, 'KVM_SET_MP_STATE', KvmMpState.encode({ mp_state: state }))).toBe(0);
          expect(mpState(vm, second)).toBe(state);
        }
        expect(vcpuAsk(vm, second, 'KVM_SET_MP_STATE', KvmMpState.encode({ mp_state: MP_STATE.KVM_MP_STATE_STOPPED }))).toBe('EINVAL');
      });
      it('starts over at INIT', () => {
        const { vm, vcpus } = machine({ code: START, second: [...report(5), ...HLT], vcpus: 2 });
        const [first, second] = vcpus as [Vcpu, Vcpu];
        const sregs = second.getSregs();
        second.setSregs({ cs: { ...sregs.cs, base: BigInt(SECOND), selector: SECOND >> 4 } });
        second.setRegs({ rip: 0n, rax: 0x1234n, rsp: 0x4000n });
        vcpuAsk(vm, second, 'KVM_SET_MP_STATE', KvmMpState.encode({ mp_state: MP_STATE.KVM_MP_STATE_RUNNABLE }));
        expect(reported(second)).toBe(5);
        expect(reported(first)).toBe(1);
        expect(mpState(vm, second)).toBe(MP_STATE.KVM_MP_STATE_INIT_RECEIVED);
        const { rip, rax, rsp } = second.getRegs();
        expect([rip, rax, rsp, second.getSregs().cs.base]).toEqual([0xfff0n, 0n, 0n, 0xffff_0000n]);
      });
    });

    describe('clocks', () => {
      it('goes on from where it is set', () => {
        const { vm } = open();
        const get = () => {
          const data = KvmClockData.encode();
          expect(ask(vm, 'KVM_GET_CLOCK', data)).toBe(0);
          return KvmClockData.decode(data);
        };
        expect(ask(vm, 'KVM_SET_CLOCK', KvmClockData.encode({ clock: 5_000_000_000n }))).toBe(0);
        const { clock } = get();
        expect(clock >= 5_000_000_000n && clock < 10_000_000_000n).toBe(true);
        expect(get().clock >= clock).toBe(true);
        expect(ask(vm, 'KVM_SET_CLOCK', KvmClockData.encode({ flags: 0x100 }))).toBe('EINVAL');
      });
      it('says how fast the time stamp counter is', () => {
        const { vm } = open();
        const vcpu = vm.createVcpu(0);
        const khz = vcpuAsk(vm, vcpu, 'KVM_GET_TSC_KHZ') as number;
        expect(khz).toBeGreaterThan(0);
        expect(vcpuAsk(vm, vcpu, 'KVM_SET_TSC_KHZ', khz)).toBe(0);
      });
      it('writes the time where the guest wants it, with an even version', () => {
        const [time, wall] = [0x6000, 0x6100];
        const { vm, vcpu, ram } = machine({
          code: [...wrmsr(KVMCLOCK_MSR.SYSTEM_TIME_NEW, time | 1), ...wrmsr(KVMCLOCK_MSR.WALL_CLOCK_NEW, wall), ...report(1), ...HLT],
        });
        expect(vcpuAsk(vm, vcpu, 'KVM_KVMCLOCK_CTRL')).toBe('EINVAL'); // no page yet
        expect(reported(vcpu)).toBe(1);
        const page = () => PvclockTime.load(view(ram), time);
        const first = page();
        expect(first.version % 2).toBe(0);
        expect(first.version).toBeGreaterThan(0);
        const khz = BigInt(vcpuAsk(vm, vcpu, 'KVM_GET_TSC_KHZ'));
        const shift = (first.tsc_shift << 24) >> 24;
        const ticks = khz * 1000n; // a second
        const scaled = ((shift >= 0 ? ticks << BigInt(shift) : ticks >> BigInt(-shift)) * BigInt(first.tsc_to_system_mul)) >> 32n;
        expect(Math.abs(Number(scaled) - 1e9)).toBeLessThan(1e6);
        const { version, sec } = PvclockWall.load(view(ram), wall);
        expect([version > 0 && version % 2 === 0, sec > 0]).toEqual([true, true]);
        expect(vcpu.getMsrs([KVMCLOCK_MSR.SYSTEM_TIME_NEW])[0]).toBe(BigInt(time | 1));
      });
      it('tells the guest that it was stopped', () => {
        const { vm, vcpu, ram } = machine({ code: [...wrmsr(KVMCLOCK_MSR.SYSTEM_TIME_NEW, 0x6001), ...report(1), ...report(2), ...HLT] });
        expect(reported(vcpu)).toBe(1);
        expect(PvclockTime.load(view(ram), 0x6000).flags & 2).toBe(0);
        expect(vcpuAsk(vm, vcpu, 'KVM_KVMCLOCK_CTRL')).toBe(0);
        expect(reported(vcpu)).toBe(2);
        expect(PvclockTime.load(view(ram), 0x6000).flags & 2).toBe(2);
      });
      it('is announced by CPUID', () => {
        const { kvm } = open();
        const leaves = new Map(kvm.getSupportedCpuid().map((entry) => [entry.function, entry]));
        const signature = leaves.get(0x40000000);
        expect([signature?.ebx, signature?.ecx, signature?.edx]).toEqual([0x4b4d564b, 0x564b4d56, 0x4d]);
        expect((leaves.get(0x40000001)?.eax ?? 0) & 8).toBe(8); // CLOCKSOURCE2
        expect(kvm.checkExtension(CAP.KVM_CAP_TSC_DEADLINE_TIMER)).toBe(1);
      });
    });
  });
}
