// # The platform, on two kernels
//
// The same requests and the same small guests on the kernel of this book and on Linux's. Guests are in real mode with a data segment that reaches all of
// 4 GiB, so that they can touch the APICs without page tables, and they use no instruction that a nested or emulating host lacks. Where the two kernels
// differ, the case says why.

import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import {
  IOEVENTFD_FLAG,
  IRQFD_FLAG,
  KvmClockData,
  KvmCoalescedMmio,
  KvmCoalescedMmioRing,
  KvmCoalescedMmioZone,
  KvmIoeventfd,
  KvmIrqfd,
  KvmReinjectControl,
} from '../../02-kvm-objects/abi/eventfd.ts';
import { KvmMpState, MP_STATE } from '../../02-kvm-objects/abi/events.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import { IOCTL, type RequestName } from '../../02-kvm-objects/abi/ioctls.ts';
import {
  IRQ_ROUTING,
  IRQCHIP,
  KvmIoapicState,
  KvmIrqchip,
  KvmIrqLevel,
  KvmIrqRouting,
  KvmIrqRoutingEntry,
  KvmLapicState,
  KvmMsi,
  KvmPicState,
  KvmPitChannelState,
  KvmPitConfig,
  KvmPitState2,
  RunEoi,
} from '../../02-kvm-objects/abi/irqchip.ts';
import { KvmEnableCap } from '../../02-kvm-objects/abi/memory.ts';
import { errnoName } from '../../02-kvm-objects/errno.ts';
import { HostKernel, hostKernelAvailable } from '../../02-kvm-objects/host/host-kernel.ts';
import { EFD, type Kernel } from '../../02-kvm-objects/kernel.ts';
import { Kvm, type Vcpu, type Vm } from '../../02-kvm-objects/kvm.ts';
import { LAPIC } from '../interrupts/lapic-registers.ts';
import { platformKernel } from './index.ts';
import { KVMCLOCK_MSR, PvclockTime, PvclockWall } from './kvmclock.ts';

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
const named = (result: number): string | number => (result < 0 ? errnoName(-result) : result);

const RAM_BYTES = 0x20000;
const CODE = 0x1000;
const HANDLER = 0x2000;
const SECOND = 0x3000;
const REPORT = 0x10; // a port that nobody serves
const DEVICE = 0xd000_0000;
const APIC = 0xfee0_0000;
const IOAPIC = 0xfec0_0000;

// ## A very small assembler

const u16 = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff];
const u32 = (n: number): number[] => [...u16(n & 0xffff), ...u16(n >>> 16)];
const CLI = [0xfa];
const STI = [0xfb];
const HLT = [0xf4];
const IRET = [0xcf];
const PUSH_AX = [0x50];
const POP_AX = [0x58];
const WRMSR = [0x0f, 0x30];
const RDTSC = [0x0f, 0x31];
const report = (value: number): number[] => [0xb0, value, 0xe6, REPORT];
const reportAl = [0xe6, REPORT];
const eax = (value: number): number[] => [0x66, 0xb8, ...u32(value)];
const ecx = (value: number): number[] => [0x66, 0xb9, ...u32(value)];
const edx = (value: number): number[] => [0x66, 0xba, ...u32(value)];
const addEax = (value: number): number[] => [0x66, 0x05, ...u32(value), 0x66, 0x83, 0xd2, 0x00]; // with carry into EDX
const store = (at: number, value: number): number[] => [...eax(value), 0x67, 0x66, 0xa3, ...u32(at)];
const load = (at: number): number[] => [0x67, 0x66, 0xa1, ...u32(at)];
const outb = (port: number, value: number): number[] => [0xb0, value, 0xba, ...u16(port), 0xee];
const inb = (port: number): number[] => [0xba, ...u16(port), 0xec];
const outw = (port: number, value: number): number[] => [0xb8, ...u16(value), 0xba, ...u16(port), 0xef];
const wrmsr = (index: number, low: number, high = 0): number[] => [...ecx(index), ...eax(low), ...edx(high), ...WRMSR];
/** A host whose KVM emulates real mode looks for events only when it leaves its emulator. This makes it do so, and is not counted as a report. */
const SYNC_VALUE = 0xff;
const SYNC = report(SYNC_VALUE);
const EOI = store(APIC + LAPIC.EOI, 0);
/** Sleeps, and sleeps again after each interrupt. */
const sleepLoop = [...STI, ...HLT, 0xeb, 0xfd];

const host = hostKernelAvailable();
const kernels: { name: 'soft' | 'host'; make: () => Kernel; reason: string | null }[] = [
  { name: 'soft', make: () => platformKernel({ ramBytes: 8 << 20 }), reason: null },
  { name: 'host', make: () => new HostKernel(), reason: host.available ? null : host.reason },
];

for (const { name, make, reason } of kernels) {
  describe.skipIf(reason !== null)(`the ${name} kernel's platform${reason ? ` (skipped: ${reason})` : ''}`, () => {
    let kernel: Kernel | null = null;
    let undo: (() => void)[] = [];
    afterAll(() => {
      if (kernel instanceof HostKernel) kernel.dispose();
    });
    afterEach(() => {
      for (const step of undo.reverse()) step();
      undo = [];
    });

    const open = (): { kernel: Kernel; kvm: Kvm; vm: Vm } => {
      kernel ??= make();
      const kvm = Kvm.open(kernel);
      undo.push(() => kvm.close());
      const vm = kvm.createVm();
      undo.push(() => vm.close());
      const create = vm.createVcpu.bind(vm);
      vm.createVcpu = (id) => {
        const vcpu = create(id);
        undo.push(() => vcpu.close());
        return vcpu;
      };
      return { kernel, kvm, vm };
    };
    const ask = (vm: Vm, request: RequestName, arg: number | Uint8Array = 0): string | number => named(vm.tryIoctl(request, arg));
    const vcpuAsk = (vm: Vm, vcpu: Vcpu, request: RequestName, arg: number | Uint8Array = 0): string | number =>
      named(vm.kernel.ioctl(vcpu.fd, IOCTL[request], arg));

    interface Guest {
      readonly code: readonly number[];
      readonly handlers?: Readonly<Record<number, readonly number[]>>;
      readonly second?: readonly number[];
      readonly irqchip?: 'kernel' | 'split' | 'none';
      readonly vcpus?: number;
      readonly deadline?: boolean;
    }

    /** A machine with one guest, ready to run. */
    function machine({ code, handlers = {}, second = [], irqchip = 'kernel', vcpus = 1, deadline = false }: Guest) {
      const { kernel, kvm, vm } = open();
      const { hva, bytes: ram } = kvm.allocate(RAM_BYTES);
      undo.unshift(() => void kernel.free(hva)); // when the VM is gone
      vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: RAM_BYTES, userspace_addr: hva });
      vm.tryIoctl('KVM_SET_TSS_ADDR', 0xfffbd000);
      if (irqchip === 'kernel') vm.ioctl('KVM_CREATE_IRQCHIP');
      if (irqchip === 'split') vm.ioctl('KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: CAP.KVM_CAP_SPLIT_IRQCHIP, arg0: 24n }));
      const supported = kvm.getSupportedCpuid();
      ram.set(code, CODE);
      ram.set(second, SECOND);
      let at = HANDLER;
      for (const [vector, body] of Object.entries(handlers)) {
        ram.set(body, at);
        view(ram).setUint32(4 * Number(vector), at, true);
        at += 0x80;
      }
      const made = Array.from({ length: vcpus }, (_, id) => {
        const vcpu = vm.createVcpu(id);
        vcpu.setCpuid2(
          supported.map((entry) =>
            entry.function === 1
              ? { ...entry, ebx: (entry.ebx & 0xffffff) | (id << 24), ecx: (entry.ecx | (deadline ? 1 << 24 : 0)) >>> 0, edx: entry.edx | (1 << 9) }
              : entry,
          ),
        );
        return vcpu;
      });
      const [vcpu] = made as [Vcpu];
      const sregs = vcpu.getSregs();
      const flat = { ...sregs.ds, base: 0n, selector: 0, limit: 0xffff_ffff, g: 1 };
      vcpu.setSregs({ cs: { ...sregs.cs, base: 0n, selector: 0 }, ds: flat, es: flat });
      vcpu.setRegs({ rip: BigInt(CODE), rsp: 0x8000n, rflags: 2n });
      return { kernel, kvm, vm, ram, vcpu, vcpus: made };
    }

    /** Runs until something other than an interruption happens, or the guest has had its chance. */
    function run(vcpu: Vcpu, tries = 30): number {
      for (let n = 0; n < tries; n++) {
        const exit = vcpu.run();
        const sync = exit === EXIT.KVM_EXIT_IO && vcpu.page.ioPort === REPORT && vcpu.page.ioData()[0] === SYNC_VALUE;
        if (exit !== EXIT.KVM_EXIT_INTR && !sync) return exit;
      }
      return EXIT.KVM_EXIT_INTR;
    }
    /** What the guest reports next; the name of the exit if it does something else. */
    function reported(vcpu: Vcpu, tries?: number): number | string {
      const exit = run(vcpu, tries);
      if (exit === EXIT.KVM_EXIT_IO && vcpu.page.ioPort === REPORT && vcpu.page.ioOut) return vcpu.page.ioData()[0] as number;
      return vcpu.page.describe();
    }
    const mpState = (vm: Vm, vcpu: Vcpu): number => {
      const state = KvmMpState.encode();
      expect(vcpuAsk(vm, vcpu, 'KVM_GET_MP_STATE', state)).toBe(0);
      return KvmMpState.decode(state).mp_state;
    };
    /** Switches a local APIC on by software, and sets more registers. */
    function setLapic(vm: Vm, vcpu: Vcpu, registers: Readonly<Record<number, number>> = {}): void {
      const state = new Uint8Array(KvmLapicState.bytes);
      expect(vcpuAsk(vm, vcpu, 'KVM_GET_LAPIC', state)).toBe(0);
      for (const [offset, value] of Object.entries({ [LAPIC.SVR]: 0x1ff, ...registers })) view(state).setUint32(Number(offset), value, true);
      expect(vcpuAsk(vm, vcpu, 'KVM_SET_LAPIC', state)).toBe(0);
    }
    const lapic = (vm: Vm, vcpu: Vcpu, offset: number): number => {
      const state = new Uint8Array(KvmLapicState.bytes);
      expect(vcpuAsk(vm, vcpu, 'KVM_GET_LAPIC', state)).toBe(0);
      return view(state).getUint32(offset, true);
    };
    const chip = (vm: Vm, chip_id: number): Uint8Array => {
      const state = KvmIrqchip.encode({ chip_id });
      expect(ask(vm, 'KVM_GET_IRQCHIP', state)).toBe(0);
      return state.slice(KvmIrqchip.fields.chip.offset);
    };
    const setChip = (vm: Vm, chip_id: number, state: Uint8Array): void => {
      const whole = KvmIrqchip.encode({ chip_id });
      whole.set(state, KvmIrqchip.fields.chip.offset);
      expect(ask(vm, 'KVM_SET_IRQCHIP', whole)).toBe(0);
    };
    const setPic = (vm: Vm, state: Parameters<typeof KvmPicState.encode>[0]): void =>
      setChip(vm, IRQCHIP.KVM_IRQCHIP_PIC_MASTER, KvmPicState.encode({ elcr_mask: 0xf8, ...state }));
    /** Programs one pin of the I/O APIC: fixed, physical, processor 0. */
    const setPin = (vm: Vm, pin: number, entry: bigint): void => {
      const state = chip(vm, IRQCHIP.KVM_IRQCHIP_IOAPIC);
      view(state).setBigUint64(KvmIoapicState.fields.redirtbl.at(pin), entry, true);
      setChip(vm, IRQCHIP.KVM_IRQCHIP_IOAPIC, state);
    };
    const line = (vm: Vm, irq: number, level: number): number => {
      const arg = KvmIrqLevel.encode({ irq, level });
      expect(ask(vm, 'KVM_IRQ_LINE_STATUS', arg)).toBe(0);
      return view(arg).getInt32(0, true);
    };
    // A host kernel without VT-x (page tables and binary interfaces instead) was seen to end a vector by itself as soon as it has delivered it. What
    // follows from an EOI of the guest cannot be observed there.
    const endedEarly = (vm: Vm, vcpu: Vcpu, vector: number): boolean =>
      name === 'host' && (lapic(vm, vcpu, LAPIC.ISR + 16 * (vector >> 5)) & (1 << (vector & 31))) === 0;
    const signal = (vm: Vm, vector: number, { destination = 0, level = false } = {}): string | number =>
      ask(vm, 'KVM_SIGNAL_MSI', KvmMsi.encode({ address_lo: APIC | (destination << 12), data: vector | (level ? 0x8000 : 0) }));
    type Entry = Parameters<typeof KvmIrqRoutingEntry.encode>[0];
    const routing = (vm: Vm, entries: readonly Entry[], { nr = entries.length, flags = 0 } = {}): string | number => {
      const table = new Uint8Array(KvmIrqRouting.bytes + entries.length * KvmIrqRoutingEntry.bytes);
      table.set(KvmIrqRouting.encode({ nr, flags }));
      for (const [n, entry] of entries.entries()) table.set(KvmIrqRoutingEntry.encode(entry), KvmIrqRouting.bytes + n * KvmIrqRoutingEntry.bytes);
      return ask(vm, 'KVM_SET_GSI_ROUTING', table);
    };
    const eventfd = (kernel: Kernel, initial = 0): number => {
      const fd = kernel.eventfd(initial, EFD.EFD_NONBLOCK | EFD.EFD_CLOEXEC);
      expect(fd).toBeGreaterThanOrEqual(0);
      return fd;
    };
    const count = (kernel: Kernel, fd: number): number | string => {
      const bytes = new Uint8Array(8);
      const result = kernel.read(fd, bytes);
      return result < 0 ? errnoName(-result) : Number(view(bytes).getBigUint64(0, true));
    };
    const ring = (kernel: Kernel, fd: number): void => void expect(kernel.write(fd, new Uint8Array(BigUint64Array.of(1n).buffer))).toBe(8);
    // Linux injects an irqfd's interrupt from a work queue, or at once: whoever looks has to wait a little.
    const settle = (kernel: Kernel): void => kernel.clock.sleep(kernel.clock.now() + 3e6);

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
