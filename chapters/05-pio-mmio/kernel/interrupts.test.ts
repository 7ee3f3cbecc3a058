// # Interrupts, on two kernels

import { describe, expect, it } from 'vitest';
import { MP_STATE } from '../../02-kvm-objects/abi/events.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import {
  IRQ_ROUTING,
  IRQCHIP,
  KvmIoapicState,
  KvmMsi,
  KvmPicState,
  KvmPitChannelState,
  KvmPitConfig,
  KvmPitState2,
  RunEoi,
} from '../../02-kvm-objects/abi/irqchip.ts';
import type { Vm } from '../../02-kvm-objects/kvm.ts';
import { LAPIC } from '../interrupts/lapic-registers.ts';
import {
  APIC,
  addEax,
  CLI,
  type Entry,
  EOI,
  ecx,
  HLT,
  IOAPIC,
  IRET,
  inb,
  kernels,
  laboratory,
  load,
  outb,
  POP_AX,
  PUSH_AX,
  RDTSC,
  report,
  reportAl,
  STI,
  SYNC,
  sleepLoop,
  store,
  view,
  WRMSR,
  wrmsr,
} from './laboratory.ts';

for (const which of kernels) {
  const { name, reason } = which;
  describe.skipIf(reason !== null)(`the ${name} kernel's platform${reason ? ` (skipped: ${reason})` : ''}`, () => {
    const { ask, vcpuAsk, machine, run, reported, mpState, setLapic, lapic, chip, setPic, setPin, line, endedEarly, signal, routing } =
      laboratory(which);

    describe('interrupts', () => {
      it('wakes a halted processor by a message', () => {
        const { vm, vcpu } = machine({
          code: sleepLoop,
          handlers: { 64: [...report(0x40), ...EOI, ...IRET], 81: [...report(0x51), ...EOI, ...IRET] },
        });
        setLapic(vm, vcpu);
        expect(run(vcpu, 3)).toBe(EXIT.KVM_EXIT_INTR);
        expect(mpState(vm, vcpu)).toBe(MP_STATE.KVM_MP_STATE_HALTED);
        expect(signal(vm, 0x40)).toBe(1);
        expect(signal(vm, 0x51)).toBe(1);
        expect([reported(vcpu), reported(vcpu)]).toEqual([0x51, 0x40]); // the higher class first
        expect(run(vcpu, 3)).toBe(EXIT.KVM_EXIT_INTR);
        expect([lapic(vm, vcpu, LAPIC.ISR + 0x20), lapic(vm, vcpu, LAPIC.IRR + 0x20)]).toEqual([0, 0]);
      });
      it('sends a message to nobody', () => {
        const { vm, vcpu } = machine({ code: HLT });
        expect(signal(vm, 0x40)).toBe(0); // found, but switched off by software
        setLapic(vm, vcpu);
        expect(signal(vm, 0x40, { destination: 7 })).toBe(0);
        expect(ask(vm, 'KVM_SIGNAL_MSI', KvmMsi.encode({ address_lo: APIC, data: 0x40, flags: 2 }))).toBe('EINVAL');
      });
      it('holds back what the task priority forbids', () => {
        const { vm, vcpu } = machine({
          code: [...store(APIC + LAPIC.TPR, 0x50), ...STI, ...report(1), ...store(APIC + LAPIC.TPR, 0), ...SYNC, ...report(2), ...HLT],
          handlers: { 64: [...report(0x40), ...EOI, ...IRET] },
        });
        setLapic(vm, vcpu);
        signal(vm, 0x40);
        expect([reported(vcpu), reported(vcpu), reported(vcpu)]).toEqual([1, 0x40, 2]);
      });
      it('waits for the flag, without asking the VMM', () => {
        const { vm, vcpu } = machine({
          code: [...CLI, ...report(1), ...STI, ...HLT, ...report(2), ...HLT],
          handlers: { 64: [...report(0x40), ...EOI, ...IRET] },
        });
        setLapic(vm, vcpu);
        signal(vm, 0x40);
        vcpu.page.requestInterruptWindow = true; // with the chips in the kernel it means nothing
        expect([reported(vcpu), reported(vcpu), reported(vcpu)]).toEqual([1, 0x40, 2]);
        expect(vcpu.page.readyForInterruptInjection).toBe(true);
      });
      it("takes the 8259s' vector by way of LINT0", () => {
        const { vm, vcpu } = machine({ code: sleepLoop, handlers: { 35: [...report(0x23), ...outb(0x20, 0x20), ...report(9), ...IRET] } });
        setPic(vm, { irq_base: 0x20 });
        line(vm, 3, 1);
        line(vm, 3, 0);
        expect(reported(vcpu)).toBe(0x23);
        expect(KvmPicState.decode(chip(vm, IRQCHIP.KVM_IRQCHIP_PIC_MASTER)).isr).toBe(8);
        expect(reported(vcpu)).toBe(9);
        expect(KvmPicState.decode(chip(vm, IRQCHIP.KVM_IRQCHIP_PIC_MASTER)).isr).toBe(0);
      });
      it('asks a level again until it is down', () => {
        const { vm, vcpu } = machine({ code: sleepLoop, handlers: { 96: [...report(0x60), ...EOI, ...IRET] } });
        setLapic(vm, vcpu);
        setPin(vm, 20, 0x8060n); // level
        expect(line(vm, 20, 1)).toBe(1);
        expect(reported(vcpu)).toBe(0x60);
        if (endedEarly(vm, vcpu, 0x60)) return;
        expect(reported(vcpu)).toBe(0x60);
        line(vm, 20, 0);
        expect(run(vcpu, 3)).toBe(EXIT.KVM_EXIT_INTR);
        expect(view(chip(vm, IRQCHIP.KVM_IRQCHIP_IOAPIC)).getUint32(KvmIoapicState.fields.redirtbl.at(20), true)).toBe(0x8060);
      });
      it('wakes a processor by an NMI, flag or no flag', () => {
        const { vm, vcpu } = machine({ code: [...CLI, ...HLT, ...report(7), ...HLT], handlers: { 2: [...report(2), ...IRET] } });
        expect(run(vcpu, 3)).toBe(EXIT.KVM_EXIT_INTR);
        expect(vcpuAsk(vm, vcpu, 'KVM_NMI')).toBe(0);
        expect([reported(vcpu), reported(vcpu)]).toEqual([2, 7]);
      });
      it('reads the I/O APIC through its window', () => {
        const { vcpu } = machine({ code: [...store(IOAPIC, 1), ...load(IOAPIC + 0x10), ...reportAl, ...HLT] });
        expect(reported(vcpu)).toBe(0x11);
      });
      it('is interrupted by its own message, in x2APIC mode', () => {
        const { vm, vcpu } = machine({
          code: [...wrmsr(0x1b, 0xfee00d00), ...wrmsr(0x80f, 0x1ff), ...STI, ...wrmsr(0x83f, 0x44), ...SYNC, ...report(1), ...HLT],
          handlers: { 68: [...report(0x44), ...wrmsr(0x80b, 0), ...IRET] },
        });
        expect([reported(vcpu), reported(vcpu)]).toEqual([0x44, 1]);
        expect(lapic(vm, vcpu, LAPIC.ISR + 0x20)).toBe(0);
      });
    });

    describe('with the 8259s outside', () => {
      it('exits for the end of a vector that the table calls level-triggered, and for no other', () => {
        const { vm, vcpu } = machine({
          code: sleepLoop,
          irqchip: 'split',
          handlers: { 97: [...report(1), ...EOI, ...report(2), ...IRET], 98: [...report(3), ...EOI, ...report(4), ...IRET] },
        });
        setLapic(vm, vcpu);
        const entry = (gsi: number, data: number): Entry => ({ gsi, type: IRQ_ROUTING.KVM_IRQ_ROUTING_MSI, address_lo: APIC, data });
        expect(routing(vm, [entry(3, 0x8061), entry(4, 0x62)])).toBe(0);
        expect(signal(vm, 0x61, { level: true })).toBe(1);
        expect(reported(vcpu)).toBe(1);
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_IOAPIC_EOI);
        expect(RunEoi.load(vcpu.page.view).vector).toBe(0x61);
        expect(reported(vcpu)).toBe(2);
        expect(signal(vm, 0x62)).toBe(1);
        expect([reported(vcpu), reported(vcpu)]).toEqual([3, 4]);
      });
      it('exits for it also when the pin has another destination by then', () => {
        const { vm, vcpu } = machine({ code: sleepLoop, irqchip: 'split', handlers: { 97: [...report(1), ...EOI, ...report(2), ...IRET] } });
        setLapic(vm, vcpu);
        const entry = (processor: number): Entry => ({
          gsi: 3,
          type: IRQ_ROUTING.KVM_IRQ_ROUTING_MSI,
          address_lo: APIC + (processor << 12),
          data: 0x8061,
        });
        expect(routing(vm, [entry(0)])).toBe(0);
        expect(signal(vm, 0x61, { level: true })).toBe(1);
        expect(reported(vcpu)).toBe(1);
        expect(routing(vm, [entry(5)])).toBe(0);
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_IOAPIC_EOI);
        expect(RunEoi.load(vcpu.page.view).vector).toBe(0x61);
        expect(reported(vcpu)).toBe(2);
      });
      it('takes a vector from the VMM when the processor listens', () => {
        const { vm, vcpu } = machine({
          code: [...CLI, ...report(1), ...STI, ...SYNC, ...report(2), ...HLT],
          irqchip: 'split',
          handlers: { 48: [...PUSH_AX, ...report(0x30), ...POP_AX, ...IRET] },
        });
        expect(reported(vcpu)).toBe(1);
        expect(vcpu.page.readyForInterruptInjection).toBe(false);
        vcpu.page.requestInterruptWindow = true;
        // The window is an exit of its own, or another exit finds it open.
        for (let n = 0; n < 30 && !vcpu.page.readyForInterruptInjection; n++) vcpu.run();
        if (name === 'soft') expect(vcpu.page.exitReason).toBe(EXIT.KVM_EXIT_IRQ_WINDOW_OPEN);
        vcpu.page.requestInterruptWindow = false;
        expect(vcpuAsk(vm, vcpu, 'KVM_INTERRUPT', Uint8Array.from([0x30, 0, 0, 0]))).toBe(0);
        expect([reported(vcpu), reported(vcpu)]).toEqual([0x30, 2]);
      });
    });

    describe('the local APIC', () => {
      it('gives back the state that it was given', () => {
        const { vm, vcpu } = machine({ code: HLT });
        setLapic(vm, vcpu, {
          [LAPIC.TPR]: 0x20,
          [LAPIC.LDR]: 0x0300_0000,
          [LAPIC.DFR]: 0x0fff_ffff,
          [LAPIC.IRR + 0x40]: 0x8000_0000,
          [LAPIC.LINT1]: 0x400,
        });
        const registers = [
          LAPIC.ID,
          LAPIC.VERSION,
          LAPIC.TPR,
          LAPIC.PPR,
          LAPIC.LDR,
          LAPIC.DFR,
          LAPIC.SVR,
          LAPIC.IRR + 0x40,
          LAPIC.LINT0,
          LAPIC.LINT1,
        ];
        expect(registers.map((offset) => lapic(vm, vcpu, offset) & (offset === LAPIC.VERSION ? 0xff : -1))).toEqual([
          0,
          0x14,
          0x20,
          0x20,
          0x0300_0000,
          0x0fff_ffff,
          0x1ff,
          0x8000_0000 | 0,
          0x700,
          0x400,
        ]);
      });
      it('has CR8 and TPR in one', () => {
        const { vm, vcpu } = machine({ code: HLT });
        setLapic(vm, vcpu, { [LAPIC.TPR]: 0x60 });
        expect(vcpu.getSregs().cr8).toBe(6n);
        vcpu.setSregs({ cr8: 3n });
        expect(lapic(vm, vcpu, LAPIC.TPR)).toBe(0x30);
      });
      it('fires its timer once, and wakes the processor', () => {
        const { vm, vcpu } = machine({ code: sleepLoop, handlers: { 112: [...report(0x70), ...EOI, ...IRET] } });
        setLapic(vm, vcpu, { [LAPIC.TIMER]: 0x70, [LAPIC.DIVIDE]: 0xb, [LAPIC.INITIAL]: 2_000_000, [LAPIC.CURRENT]: 2_000_000 });
        expect(reported(vcpu)).toBe(0x70);
        expect(run(vcpu, 3)).toBe(EXIT.KVM_EXIT_INTR);
        expect(lapic(vm, vcpu, LAPIC.CURRENT)).toBe(0);
      });
      it('fires at a deadline of the time stamp counter', () => {
        const { vm, vcpu } = machine({
          code: [...RDTSC, ...addEax(100_000), ...ecx(0x6e0), ...WRMSR, ...sleepLoop],
          handlers: { 113: [...report(0x71), ...EOI, ...IRET] },
          deadline: true,
        });
        setLapic(vm, vcpu, { [LAPIC.TIMER]: 0x40071 });
        expect(reported(vcpu)).toBe(0x71);
        expect(vcpu.getMsrs([0x6e0])[0]).toBe(0n);
      });
    });

    describe('the alarm', () => {
      it('ends a run that would not end, and a sleep', () => {
        const spinning = machine({ code: [0xeb, 0xfe] });
        const { clock } = spinning.kernel;
        const at = clock.now() + 2e6;
        clock.alarm(at);
        expect(spinning.vcpu.run()).toBe(EXIT.KVM_EXIT_INTR);
        if (name === 'soft') expect(clock.now()).toBe(at); // to the instruction; a host is a little late, or interrupts for reasons of its own
        const asleep = machine({ code: [...STI, ...HLT] });
        const until = clock.now() + 5e6;
        clock.alarm(until);
        for (let n = 0; n < 30 && clock.now() < until; n++) {
          expect(asleep.vcpu.run()).toBe(EXIT.KVM_EXIT_INTR);
          if (clock.now() < until) clock.alarm(until);
        }
        expect(clock.now()).toBeGreaterThanOrEqual(until);
        clock.alarm(null);
      });
    });

    describe('the 8254', () => {
      const pit = (vm: Vm): Uint8Array => {
        const state = new Uint8Array(KvmPitState2.bytes);
        expect(ask(vm, 'KVM_GET_PIT2', state)).toBe(0);
        return state;
      };
      const channel = (state: Uint8Array, n: number) => KvmPitChannelState.load(view(state), KvmPitState2.fields.channels.at(n));

      it('is programmed by the guest, and read by the VMM', () => {
        const { vm, vcpu } = machine({ code: [...outb(0x43, 0xb6), ...outb(0x42, 0x34), ...outb(0x42, 0x12), ...inb(0x61), ...report(1), ...HLT] });
        vm.ioctl('KVM_CREATE_PIT2', KvmPitConfig.encode({ flags: 1 }));
        expect(reported(vcpu)).toBe(1);
        const { mode, count: loaded, rw_mode, bcd } = channel(pit(vm), 2);
        expect({ mode, loaded, rw_mode, bcd }).toEqual({ mode: 3, loaded: 0x1234, rw_mode: 3, bcd: 0 });
      });
      it('leaves port 0x61 to the VMM unless told otherwise', () => {
        const { vm, vcpu } = machine({ code: [...inb(0x61), ...HLT] });
        vm.ioctl('KVM_CREATE_PIT2', KvmPitConfig.encode());
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_IO);
        expect(vcpu.page.ioPort).toBe(0x61);
      });
      it('ticks through the 8259s, as often as it is acknowledged', () => {
        const { vm, vcpu } = machine({
          code: [...outb(0x43, 0x34), ...outb(0x40, 0xa9), ...outb(0x40, 0x04), ...sleepLoop], // 1193: a millisecond
          handlers: { 32: [...report(0x20), ...outb(0x20, 0x20), ...IRET] },
        });
        vm.ioctl('KVM_CREATE_PIT2', KvmPitConfig.encode({ flags: 1 }));
        setPic(vm, { irq_base: 0x20 });
        expect([reported(vcpu), reported(vcpu), reported(vcpu)]).toEqual([0x20, 0x20, 0x20]);
      });
      it('ticks through the I/O APIC, edge-triggered', () => {
        const { vm, vcpu } = machine({
          code: [...outb(0x43, 0x34), ...outb(0x40, 0xa9), ...outb(0x40, 0x04), ...sleepLoop],
          handlers: { 98: [...report(0x62), ...EOI, ...IRET] },
        });
        vm.ioctl('KVM_CREATE_PIT2', KvmPitConfig.encode({ flags: 1 }));
        setLapic(vm, vcpu);
        setPic(vm, { irq_base: 0x20, imr: 0xff });
        setPin(vm, 0, 0x62n);
        expect([reported(vcpu), reported(vcpu), reported(vcpu)]).toEqual([0x62, 0x62, 0x62]);
      });
    });
  });
}
