// # Eventfds and writes that wait, on two kernels

import { describe, expect, it } from 'vitest';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import {
  IOEVENTFD_FLAG,
  IRQFD_FLAG,
  KvmCoalescedMmio,
  KvmCoalescedMmioRing,
  KvmCoalescedMmioZone,
  KvmIoeventfd,
  KvmIrqfd,
} from '../../02-kvm-objects/abi/eventfd.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import { IRQ_ROUTING, IRQCHIP, KvmIoapicState, KvmPicState } from '../../02-kvm-objects/abi/irqchip.ts';
import { KvmEnableCap } from '../../02-kvm-objects/abi/memory.ts';
import type { Vm } from '../../02-kvm-objects/kvm.ts';
import { APIC, CODE, DEVICE, EOI, HLT, IRET, kernels, laboratory, load, outb, outw, report, sleepLoop, store, view } from './laboratory.ts';

for (const which of kernels) {
  const { name, reason } = which;
  describe.skipIf(reason !== null)(`the ${name} kernel's platform${reason ? ` (skipped: ${reason})` : ''}`, () => {
    const { open, ask, machine, run, reported, setLapic, chip, setPic, setPin, endedEarly, routing, eventfd, count, ring, settle } =
      laboratory(which);

    describe('ioeventfds', () => {
      const { KVM_IOEVENTFD_FLAG_DATAMATCH: DATAMATCH, KVM_IOEVENTFD_FLAG_PIO: PIO, KVM_IOEVENTFD_FLAG_DEASSIGN: DEASSIGN } = IOEVENTFD_FLAG;
      const bind = (vm: Vm, arg: Parameters<typeof KvmIoeventfd.encode>[0]): string | number => ask(vm, 'KVM_IOEVENTFD', KvmIoeventfd.encode(arg));

      it('refuses what makes no sense', () => {
        const { kernel, vm } = open();
        const fd = eventfd(kernel);
        expect(bind(vm, { addr: 0x80n, len: 3, fd, flags: PIO })).toBe('EINVAL');
        expect(bind(vm, { addr: 0x80n, len: 16, fd, flags: PIO })).toBe('EINVAL');
        expect(bind(vm, { addr: 0x80n, len: 1, fd, flags: 0x20 })).toBe('EINVAL');
        expect(bind(vm, { addr: 0xffff_ffff_ffff_ffffn, len: 4, fd })).toBe('EINVAL');
        expect(bind(vm, { addr: 0x80n, len: 0, fd, flags: DATAMATCH })).toBe('EINVAL');
        expect(bind(vm, { addr: 0x80n, len: 1, fd: 9999, flags: PIO })).toBe('EBADF');
        expect(bind(vm, { addr: 0x80n, len: 1, fd: vm.fd, flags: PIO })).toBe('EINVAL'); // a descriptor, but no eventfd
      });
      it('has one for each address, width and value', () => {
        const { kernel, vm } = open();
        const [a, b] = [eventfd(kernel), eventfd(kernel)];
        const at = { addr: 0x100n, len: 2, flags: PIO | DATAMATCH };
        expect(bind(vm, { ...at, fd: a, datamatch: 1n })).toBe(0);
        expect(bind(vm, { ...at, fd: b, datamatch: 2n })).toBe(0);
        expect(bind(vm, { ...at, fd: b, datamatch: 1n })).toBe('EEXIST');
        expect(bind(vm, { ...at, fd: b, flags: PIO })).toBe('EEXIST'); // any value, among them the ones that are taken
        expect(bind(vm, { ...at, fd: b, len: 0, flags: PIO })).toBe('EEXIST');
        expect(bind(vm, { ...at, fd: b, len: 4, flags: PIO })).toBe(0);
        expect(bind(vm, { ...at, fd: b, flags: DATAMATCH, datamatch: 1n })).toBe(0); // the other bus
        expect(bind(vm, { ...at, fd: b, flags: 8 })).toBe(0); // a third, of another architecture: x86 never looks there
        expect(bind(vm, { ...at, fd: b, flags: 8 })).toBe('EEXIST');
        expect(bind(vm, { ...at, fd: b, datamatch: 1n, flags: at.flags | DEASSIGN })).toBe('ENOENT');
        expect(bind(vm, { ...at, fd: a, datamatch: 1n, flags: at.flags | DEASSIGN })).toBe(0);
        expect(bind(vm, { ...at, fd: a, datamatch: 1n, flags: at.flags | DEASSIGN })).toBe('ENOENT');
        expect(bind(vm, { ...at, fd: b, datamatch: 1n })).toBe(0);
      });
      it('counts writes to a port, by width and value, and lets the others through', () => {
        const { kernel, vm, vcpu } = machine({
          code: [...outw(0x100, 7), ...outw(0x100, 7), ...outb(0x100, 7), ...outw(0x100, 8), ...report(1), ...HLT],
          irqchip: 'none',
        });
        const fd = eventfd(kernel);
        expect(bind(vm, { addr: 0x100n, len: 2, datamatch: 7n, fd, flags: PIO | DATAMATCH })).toBe(0);
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_IO); // one byte
        expect([vcpu.page.ioPort, vcpu.page.ioSize]).toEqual([0x100, 1]);
        expect(count(kernel, fd)).toBe(2);
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_IO); // another value
        expect([vcpu.page.ioPort, vcpu.page.ioSize, vcpu.page.ioData()[0]]).toEqual([0x100, 2, 8]);
        expect(reported(vcpu)).toBe(1);
        expect(count(kernel, fd)).toBe('EAGAIN');
      });
      it('counts writes to memory, by width and value', () => {
        const { kernel, vm, vcpu } = machine({
          code: [...store(DEVICE, 5), ...store(DEVICE, 5), ...store(DEVICE, 6), ...load(DEVICE), ...report(1), ...HLT],
          irqchip: 'none',
        });
        const [five, six] = [eventfd(kernel), eventfd(kernel)];
        expect(bind(vm, { addr: BigInt(DEVICE), len: 4, datamatch: 5n, fd: five, flags: DATAMATCH })).toBe(0);
        expect(bind(vm, { addr: BigInt(DEVICE), len: 4, datamatch: 6n, fd: six, flags: DATAMATCH })).toBe(0);
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_MMIO); // the read: doorbells have nothing to read
        expect(vcpu.page.mmioWrite).toBe(false);
        expect(reported(vcpu)).toBe(1);
        expect([count(kernel, five), count(kernel, six)]).toEqual([2, 1]);
      });
      it('counts any write, where no length was given, until it is taken away', () => {
        const { kernel, vm, vcpu } = machine({
          code: [...store(DEVICE, 1), ...store(DEVICE, 2), ...report(1), ...store(DEVICE, 3), ...HLT],
          irqchip: 'none',
        });
        const fd = eventfd(kernel);
        expect(bind(vm, { addr: BigInt(DEVICE), len: 0, fd })).toBe(0);
        expect(reported(vcpu)).toBe(1);
        expect(count(kernel, fd)).toBe(2);
        expect(bind(vm, { addr: BigInt(DEVICE), len: 0, fd, flags: DEASSIGN })).toBe(0);
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_MMIO);
      });
    });

    describe('irqfds', () => {
      const { KVM_IRQFD_FLAG_DEASSIGN: DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE: RESAMPLE } = IRQFD_FLAG;
      const bind = (vm: Vm, arg: Parameters<typeof KvmIrqfd.encode>[0]): string | number => ask(vm, 'KVM_IRQFD', KvmIrqfd.encode(arg));

      it('refuses what makes no sense', () => {
        const { kernel, vm } = open();
        const fd = eventfd(kernel);
        expect(bind(vm, { fd, gsi: 5 })).toBe('EINVAL'); // nothing to interrupt with
        vm.ioctl('KVM_CREATE_IRQCHIP');
        expect(bind(vm, { fd, gsi: 5, flags: 4 })).toBe('EINVAL');
        expect(bind(vm, { fd: 9999, gsi: 5 })).toBe('EBADF');
        expect(bind(vm, { fd, gsi: 5, flags: RESAMPLE, resamplefd: 9999 })).toBe('EBADF');
        expect(bind(vm, { fd, gsi: 5 })).toBe(0);
        expect(bind(vm, { fd, gsi: 6 })).toBe('EBUSY');
        expect(bind(vm, { fd, gsi: 6, flags: DEASSIGN })).toBe(0); // not found, and no error
        expect(bind(vm, { fd, gsi: 6 })).toBe('EBUSY');
        expect(bind(vm, { fd, gsi: 5, flags: DEASSIGN })).toBe(0);
        expect(bind(vm, { fd, gsi: 6 })).toBe(0);
        const split = open();
        split.vm.ioctl('KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: CAP.KVM_CAP_SPLIT_IRQCHIP, arg0: 24n }));
        const [a, b] = [eventfd(split.kernel), eventfd(split.kernel)];
        expect(bind(split.vm, { fd: a, gsi: 5, flags: RESAMPLE, resamplefd: b })).toBe('EINVAL');
      });
      it('interrupts by a message, and consumes the count', () => {
        const { kernel, vm, vcpu } = machine({ code: sleepLoop, handlers: { 64: [...report(0x40), ...EOI, ...IRET] } });
        setLapic(vm, vcpu);
        routing(vm, [{ gsi: 30, type: IRQ_ROUTING.KVM_IRQ_ROUTING_MSI, address_lo: APIC, data: 0x40 }]);
        const fd = eventfd(kernel);
        expect(bind(vm, { fd, gsi: 30 })).toBe(0);
        ring(kernel, fd);
        settle(kernel);
        expect(count(kernel, fd)).toBe('EAGAIN');
        expect(reported(vcpu)).toBe(0x40);
        expect(run(vcpu, 3)).toBe(EXIT.KVM_EXIT_INTR);
        expect(bind(vm, { fd, gsi: 30, flags: DEASSIGN })).toBe(0);
        ring(kernel, fd);
        settle(kernel);
        expect(count(kernel, fd)).toBe(1);
      });
      it('interrupts by an edge of a line, and by what was counted before', () => {
        const { kernel, vm, vcpu } = machine({ code: sleepLoop, handlers: { 37: [...report(0x25), ...outb(0x20, 0x20), ...IRET] } });
        setPic(vm, { irq_base: 0x20 });
        const fd = eventfd(kernel, 3);
        expect(bind(vm, { fd, gsi: 5 })).toBe(0);
        settle(kernel);
        const { irr, last_irr } = KvmPicState.decode(chip(vm, IRQCHIP.KVM_IRQCHIP_PIC_MASTER));
        expect([irr & 0x20, last_irr & 0x20]).toEqual([0x20, 0]); // up, and down again
        expect(reported(vcpu)).toBe(0x25);
      });
      it('keeps a level up until the guest is done, and then asks', () => {
        const { kernel, vm, vcpu } = machine({ code: sleepLoop, handlers: { 96: [...report(1), ...EOI, ...report(2), ...IRET] } });
        setLapic(vm, vcpu);
        setPin(vm, 20, 0x8060n);
        const [fd, resamplefd] = [eventfd(kernel), eventfd(kernel)];
        expect(bind(vm, { fd, gsi: 20, flags: RESAMPLE, resamplefd })).toBe(0);
        ring(kernel, fd);
        settle(kernel);
        const lines = (): number => KvmIoapicState.decode(chip(vm, IRQCHIP.KVM_IRQCHIP_IOAPIC)).irr & (1 << 20);
        expect(lines()).toBe(1 << 20);
        expect(reported(vcpu)).toBe(1);
        if (endedEarly(vm, vcpu, 0x60)) return;
        expect(count(kernel, resamplefd)).toBe('EAGAIN');
        expect(reported(vcpu)).toBe(2);
        expect([lines(), count(kernel, resamplefd)]).toEqual([0, 1]);
        ring(kernel, fd); // the device had more to say
        settle(kernel);
        expect(reported(vcpu)).toBe(1);
      });
    });

    describe('writes that wait', () => {
      it('keeps writes of a zone in the ring', () => {
        const { kernel, vm, vcpu, kvm } = machine({
          code: [...store(DEVICE + 4, 0x11223344), ...outb(0x300, 0x55), ...store(DEVICE + 0x1000, 1), ...HLT],
          irqchip: 'none',
        });
        const zone = { addr: BigInt(DEVICE), size: 0x1000 };
        expect(ask(vm, 'KVM_REGISTER_COALESCED_MMIO', KvmCoalescedMmioZone.encode({ ...zone, pio: 2 }))).toBe('EINVAL');
        expect(ask(vm, 'KVM_REGISTER_COALESCED_MMIO', KvmCoalescedMmioZone.encode(zone))).toBe(0);
        expect(ask(vm, 'KVM_REGISTER_COALESCED_MMIO', KvmCoalescedMmioZone.encode({ addr: 0x300n, size: 1, pio: 1 }))).toBe(0);
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_MMIO); // outside
        expect(vcpu.page.mmioAddress).toBe(DEVICE + 0x1000);
        const page = kvm.checkExtension(CAP.KVM_CAP_COALESCED_MMIO);
        expect(page).toBe(2);
        const bytes = view(vcpu.page.bytes.subarray(page * 4096));
        expect(KvmCoalescedMmioRing.load(bytes)).toEqual({ first: 0, last: 2 });
        const entry = (n: number) => KvmCoalescedMmio.load(bytes, KvmCoalescedMmioRing.bytes + n * KvmCoalescedMmio.bytes);
        expect([entry(0).phys_addr, entry(0).len, entry(0).pio, [...entry(0).data.subarray(0, 4)]]).toEqual([
          BigInt(DEVICE + 4),
          4,
          0,
          [0x44, 0x33, 0x22, 0x11],
        ]);
        expect([entry(1).phys_addr, entry(1).len, entry(1).pio, entry(1).data[0]]).toEqual([0x300n, 1, 1, 0x55]);
        expect(ask(vm, 'KVM_UNREGISTER_COALESCED_MMIO', KvmCoalescedMmioZone.encode(zone))).toBe(0);
        expect(ask(vm, 'KVM_UNREGISTER_COALESCED_MMIO', KvmCoalescedMmioZone.encode(zone))).toBe(0);
        vcpu.setRegs({ rip: BigInt(CODE) });
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_MMIO);
        expect(vcpu.page.mmioAddress).toBe(DEVICE + 4);
        expect(kernel.name).toBe(name);
      });
      it('exits when the ring is full, or is not one', () => {
        const { vm, vcpu } = machine({ code: [...store(DEVICE, 1), 0xeb, 0xf2], irqchip: 'none' });
        vm.ioctl('KVM_REGISTER_COALESCED_MMIO', KvmCoalescedMmioZone.encode({ addr: BigInt(DEVICE), size: 0x1000 }));
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_MMIO);
        const bytes = view(vcpu.page.bytes.subarray(2 * 4096));
        expect(KvmCoalescedMmioRing.load(bytes)).toEqual({ first: 0, last: 169 });
        KvmCoalescedMmioRing.store(bytes, 0, { first: 0xffff_ffff, last: 0xffff_ffff });
        expect(run(vcpu)).toBe(EXIT.KVM_EXIT_MMIO);
        expect(KvmCoalescedMmioRing.load(bytes)).toEqual({ first: 0xffff_ffff, last: 0xffff_ffff });
      });
    });
  });
}
