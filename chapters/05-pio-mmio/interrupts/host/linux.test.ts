// # The same chips in Linux
//
// The host's kernel has these chips too, and shows their state. What can be done to them without a guest (lines, loaded states) and with a guest of a few
// instructions (port accesses, acknowledge cycles) is done to both.

import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { EXIT } from '../../../02-kvm-objects/abi/exits.ts';
import { IOCTL, type RequestName } from '../../../02-kvm-objects/abi/ioctls.ts';
import { IRQ_ROUTING, IRQCHIP, KvmIoapicState, KvmIrqchip, KvmIrqLevel, KvmLapicState, KvmPicState } from '../../../02-kvm-objects/abi/irqchip.ts';
import { TimerQueue } from '../../../02-kvm-objects/clock.ts';
import { HostKernel, hostKernelAvailable } from '../../../02-kvm-objects/host/host-kernel.ts';
import { Kvm, type Vcpu, type Vm } from '../../../02-kvm-objects/kvm.ts';
import { ApicBus } from '../apic-bus.ts';
import { IoApic } from '../ioapic.ts';
import { LocalApic } from '../lapic.ts';
import { LAPIC } from '../lapic-registers.ts';
import { Pic } from '../pic.ts';
import { routingTable } from '../routing-table.ts';

const here = hostKernelAvailable();
const reason = here.available ? null : here.reason;

/** Only the 8259s, or only the I/O APIC, on the lines. */
const ROUTES = {
  pic: Array.from({ length: 16 }, (_, gsi) => ({ gsi, type: IRQ_ROUTING.KVM_IRQ_ROUTING_IRQCHIP, irqchip: gsi >> 3, pin: gsi & 7 })),
  ioapic: Array.from({ length: 24 }, (_, gsi) => ({ gsi, type: IRQ_ROUTING.KVM_IRQ_ROUTING_IRQCHIP, irqchip: IRQCHIP.KVM_IRQCHIP_IOAPIC, pin: gsi })),
};

const CODE = 0x1000;
const STUBS = 0x4000;
const COMMON = 0x3f00;
const RESULTS = 0x2000;
const word = (value: number): number[] => [value & 0xff, value >> 8];

describe.skipIf(reason !== null)(`against Linux${reason ? ` (skipped: ${reason})` : ''}`, () => {
  let kernel: HostKernel | null = null;
  afterEach(() => {
    kernel?.dispose();
    kernel = null;
  });

  function machine(routes: keyof typeof ROUTES): { vm: Vm; vcpu: Vcpu; ram: Uint8Array; request(name: RequestName, arg: Uint8Array): number } {
    kernel = new HostKernel();
    const kvm = Kvm.open(kernel);
    const vm = kvm.createVm();
    vm.ioctl('KVM_CREATE_IRQCHIP');
    vm.ioctl('KVM_SET_GSI_ROUTING', routingTable(ROUTES[routes]));
    const { hva, bytes } = kvm.allocate(0x10000);
    vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: 0x10000, userspace_addr: hva });
    const vcpu = vm.createVcpu(0);
    return { vm, vcpu, ram: bytes, request: (name, arg) => (kernel as HostKernel).ioctl(vcpu.fd, IOCTL[name], arg) };
  }
  const line = (vm: Vm, irq: number, up: boolean): number => {
    const arg = KvmIrqLevel.encode({ irq, level: up ? 1 : 0 });
    vm.ioctl('KVM_IRQ_LINE_STATUS', arg);
    return new DataView(arg.buffer).getInt32(0, true);
  };
  const chip = (vm: Vm, chip_id: number): Uint8Array => {
    const arg = KvmIrqchip.encode({ chip_id });
    vm.ioctl('KVM_GET_IRQCHIP', arg);
    return KvmIrqchip.decode(arg).chip;
  };

  it('8259s: lines, ports and acknowledge cycles', () => {
    const { vm, vcpu, ram } = machine('pic');
    // Every vector leads to a stub that notes its number and returns with interrupts off, so that a window takes exactly one.
    for (let vector = 0; vector < 256; vector++) {
      ram.set([...word(STUBS + 8 * vector), 0, 0], 4 * vector);
      ram.set([0xc6, 0x06, ...word(RESULTS), vector, 0xe9, ...word((COMMON - (STUBS + 8 * vector + 8)) & 0xffff)], STUBS + 8 * vector);
    }
    ram.set([0x55, 0x89, 0xe5, 0x81, 0x66, 6, ...word(0xfdff), 0x5d, 0xcf], COMMON); // clear IF on the stack; iret
    const sregs = vcpu.getSregs();
    const data = { ...sregs.ds, base: 0n, selector: 0 };
    vcpu.setSregs({ cs: { ...sregs.cs, base: 0n, selector: 0 }, ds: data, ss: data, es: data });
    const execute = (code: readonly number[]): number => {
      ram[RESULTS] = 0;
      ram.set([...code, 0xe6, 0xf4], CODE);
      vcpu.setRegs({ rip: BigInt(CODE), rsp: 0x8000n, rflags: 2n });
      for (let tries = 0; tries < 100; tries++) {
        const exit = vcpu.run();
        if (exit === EXIT.KVM_EXIT_IO) return ram[RESULTS] as number;
        if (exit !== EXIT.KVM_EXIT_INTR) throw new Error(vcpu.page.describe());
      }
      throw new Error('the guest does not come back');
    };
    const pic = new Pic({ onOutput: () => {} });
    const at = (port: number) => pic.ports.find((window) => port >= window.port && port < window.port + window.bytes)!;
    const both = {
      out(port: number, ...values: number[]): void {
        for (const value of values) {
          execute([0xba, ...word(port), 0xb0, value, 0xee]);
          at(port).registers.write(port - at(port).port, 1, BigInt(value));
        }
      },
      read(port: number): void {
        const theirs = execute([0xba, ...word(port), 0xec, 0xa2, ...word(RESULTS)]);
        expect([port, Number(at(port).registers.read(port - at(port).port, 1))]).toEqual([port, theirs]);
      },
      irq(irq: number, up: boolean): void {
        expect([irq, up, pic.setIrq(irq, up)]).toEqual([irq, up, line(vm, irq, up)]);
      },
      acknowledge(): void {
        if (pic.output) expect(pic.acknowledge()).toBe(execute([0xfb, 0xf4, 0xfa])); // sti; hlt; cli
      },
      state(): void {
        for (const index of [0, 1] as const) {
          const [ours, theirs] = [pic.save(index), chip(vm, index).subarray(0, KvmPicState.bytes)].map((bytes) =>
            KvmPicState.decode(bytes as Uint8Array),
          );
          expect([index, ours]).toEqual([index, { ...theirs, read_reg_select: ours?.read_reg_select }]);
        }
      },
    };
    const init = (port: number, base: number, icw4: number): void => {
      // KVM keeps what is in service through an ICW1; here it is ended before, so that the two agree.
      for (let input = 0; input < 8; input++) both.out(port, 0x60 | input);
      both.out(port, 0x11);
      both.out(port + 1, base, port === 0x20 ? 4 : 2, icw4);
    };
    // Special mask mode and polls are left out: KVM stores the one and does not act on it, and its poll byte has no bit 7.
    const step = fc.oneof(
      {
        weight: 5,
        arbitrary: fc.tuple(
          fc.constant('irq'),
          fc.nat({ max: 15 }).filter((irq) => irq !== 2),
          fc.boolean(),
        ),
      },
      { weight: 3, arbitrary: fc.constant(['ack'] as const) },
      { weight: 3, arbitrary: fc.tuple(fc.constant('ocw2'), fc.constantFrom(0, 1, 1, 1, 2, 3, 4, 5, 6, 7), fc.nat({ max: 15 })) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('read'), fc.constantFrom(0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1)) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('ocw3'), fc.constantFrom(0x0a, 0x0b)) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('mask'), fc.constantFrom(0x21, 0xa1), fc.nat({ max: 255 })) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('elcr'), fc.constantFrom(0x4d0, 0x4d1), fc.nat({ max: 255 })) },
      { weight: 1, arbitrary: fc.tuple(fc.constant('init'), fc.constantFrom(0x20, 0xa0), fc.constantFrom(1, 3, 0x11)) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        both.out(0x4d0, 0);
        both.out(0x4d1, 0);
        for (let irq = 0; irq < 16; irq++) if (irq !== 2) both.irq(irq, false);
        init(0xa0, 0x28, 1);
        init(0x20, 0x20, 1);
        for (const port of [0x20, 0xa0]) both.out(port, 0x00, 0x0a);
        for (const port of [0x21, 0xa1]) both.out(port, 0);
        for (const [what, a, b] of steps as [string, number, number | boolean][]) {
          if (what === 'irq') both.irq(a, b as boolean);
          else if (what === 'ack') both.acknowledge();
          else if (what === 'ocw2') both.out((b as number) & 8 ? 0xa0 : 0x20, (a << 5) | ((b as number) & 7));
          else if (what === 'read') both.read(a);
          else if (what === 'ocw3') both.out(0x20, a);
          else if (what === 'init') init(a, a === 0x20 ? 0x40 : 0x48, b as number);
          else both.out(a, b as number);
          both.state();
        }
      }),
      { numRuns: 40, seed: 5 },
    );
  });

  it('the I/O APIC: lines against loaded entries', () => {
    const { vm } = machine('ioapic');
    const entry = fc.tuple(fc.boolean(), fc.boolean(), fc.integer({ min: 16, max: 255 }));
    const moves = fc.array(fc.tuple(fc.nat({ max: 23 }), fc.boolean()), { maxLength: 60 });
    fc.assert(
      fc.property(fc.array(entry, { minLength: 24, maxLength: 24 }), moves, (entries, lines) => {
        // No APIC with ID 5: nobody takes anything, and both must say so in the same way.
        const state = KvmIoapicState.encode({ base_address: 0xfec0_0000n });
        entries.forEach(([masked, level, vector], pin) => {
          const low = vector | (level ? 0x8000 : 0) | (masked ? 0x10000 : 0);
          new DataView(state.buffer).setBigUint64(KvmIoapicState.fields.redirtbl.at(pin), BigInt(low) | (5n << 56n), true);
        });
        const chip_bytes = new Uint8Array(512);
        chip_bytes.set(state);
        for (let pin = 0; pin < 24; pin++) line(vm, pin, false);
        vm.ioctl('KVM_SET_IRQCHIP', KvmIrqchip.encode({ chip_id: IRQCHIP.KVM_IRQCHIP_IOAPIC, chip: chip_bytes }));
        const bus = new ApicBus();
        const ours = new IoApic({ send: (message) => bus.deliver(message) });
        ours.load(state);
        for (const [pin, up] of lines) {
          expect([pin, up, ours.setIrq(pin, up)]).toEqual([pin, up, line(vm, pin, up)]);
          expect(ours.save()).toEqual(chip(vm, IRQCHIP.KVM_IRQCHIP_IOAPIC).subarray(0, KvmIoapicState.bytes));
        }
      }),
      { numRuns: 60, seed: 6 },
    );
  });

  const apic = (): LocalApic => {
    const none = (): void => {};
    return new LocalApic({ id: 0, clock: new TimerQueue(() => 0), bus: new ApicBus(), onWake: none, onNmi: none, onInit: none, onSipi: none });
  };
  const words = (bytes: Uint8Array): Record<string, string> => {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const out: Record<string, string> = {};
    for (const [name, offset] of Object.entries(LAPIC)) out[name] = view.getUint32(offset, true).toString(16);
    return out;
  };

  it('the local APIC: its state at power-on', () => {
    const { request } = machine('ioapic');
    const state = new Uint8Array(KvmLapicState.bytes);
    expect(request('KVM_GET_LAPIC', state)).toBe(0);
    expect(words(apic().save())).toEqual(words(state));
  });

  it('the local APIC: what it takes from lines and messages, and where it puts it', () => {
    const { vm, request } = machine('ioapic');
    const initial = new Uint8Array(KvmLapicState.bytes);
    request('KVM_GET_LAPIC', initial);
    const entry = fc.record({
      vector: fc.integer({ min: 16, max: 255 }),
      level: fc.boolean(),
      logical: fc.boolean(),
      destination: fc.nat({ max: 255 }),
      mode: fc.constantFrom(0, 1),
    });
    const apicState = fc.record({ bit: fc.nat({ max: 7 }), flat: fc.boolean(), enabled: fc.boolean(), tpr: fc.nat({ max: 255 }) });
    fc.assert(
      fc.property(apicState, fc.array(entry, { minLength: 1, maxLength: 20 }), ({ bit, flat, enabled, tpr }, entries) => {
        // One bit of one cluster: of an ID with more KVM keeps no map, and says -1 instead of 0 when nobody is addressed.
        const ldr = flat ? 1 << bit : (bit << 4) | (1 << (bit & 3));
        const state = initial.slice();
        const view = new DataView(state.buffer);
        view.setUint32(LAPIC.LDR, ldr << 24, true);
        view.setUint32(LAPIC.DFR, flat ? 0xffff_ffff : 0x0fff_ffff, true);
        view.setUint32(LAPIC.SVR, enabled ? 0x1ff : 0xff, true);
        view.setUint32(LAPIC.TPR, tpr, true);
        for (let pin = 0; pin < 24; pin++) line(vm, pin, false);
        expect(request('KVM_SET_LAPIC', state.slice())).toBe(0);
        const bus = new ApicBus();
        const none = (): void => {};
        const ours = new LocalApic({ id: 0, clock: new TimerQueue(() => 0), bus, onWake: none, onNmi: none, onInit: none, onSipi: none });
        expect(ours.load(state)).toBe(true);
        const ioapic = new IoApic({ send: (message) => bus.deliver(message) });
        const table = KvmIoapicState.encode({ base_address: 0xfec0_0000n });
        entries.forEach(({ vector, level, logical, destination, mode }, pin) => {
          // Of a logical set KVM picks the lowest-priority receiver among the bits of the set, whether there is a processor behind each or not.
          const low = vector | (logical ? 0 : mode << 8) | (logical ? 0x800 : 0) | (level ? 0x8000 : 0);
          new DataView(table.buffer).setBigUint64(
            KvmIoapicState.fields.redirtbl.at(pin),
            BigInt(low) | (BigInt(pin & 1 ? 0 : destination) << 56n),
            true,
          );
        });
        const chip_bytes = new Uint8Array(512);
        chip_bytes.set(table);
        vm.ioctl('KVM_SET_IRQCHIP', KvmIrqchip.encode({ chip_id: IRQCHIP.KVM_IRQCHIP_IOAPIC, chip: chip_bytes }));
        ioapic.load(table);
        entries.forEach((_, pin) => {
          expect([pin, ioapic.setIrq(pin, true)]).toEqual([pin, line(vm, pin, true)]);
        });
        expect(ioapic.save()).toEqual(chip(vm, IRQCHIP.KVM_IRQCHIP_IOAPIC).subarray(0, KvmIoapicState.bytes));
        const theirs = new Uint8Array(KvmLapicState.bytes);
        request('KVM_GET_LAPIC', theirs);
        const theirView = new DataView(theirs.buffer);
        const ourView = new DataView(ours.save().buffer);
        for (const set of [LAPIC.IRR, LAPIC.ISR, LAPIC.TMR]) {
          for (let index = 0; index < 8; index++) {
            const offset = set + 16 * index;
            expect([offset.toString(16), ourView.getUint32(offset, true)]).toEqual([offset.toString(16), theirView.getUint32(offset, true)]);
          }
        }
      }),
      { numRuns: 150, seed: 7 },
    );
  });
});
