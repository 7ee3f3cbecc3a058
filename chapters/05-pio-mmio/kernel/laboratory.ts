// # Two kernels to try things on
//
// The same requests and the same small guests on the kernel of this book and on Linux's. Guests are in real mode with a data segment that reaches all of
// 4 GiB, so that they can touch the APICs without page tables, and they use no instruction that a nested or emulating host lacks. Where the two kernels
// differ, the case says why.

import { afterAll, afterEach, expect } from 'vitest';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { KvmMpState } from '../../02-kvm-objects/abi/events.ts';
import { EXIT } from '../../02-kvm-objects/abi/exits.ts';
import { IOCTL, type RequestName } from '../../02-kvm-objects/abi/ioctls.ts';
import {
  IRQCHIP,
  KvmIoapicState,
  KvmIrqchip,
  KvmIrqLevel,
  KvmIrqRouting,
  KvmIrqRoutingEntry,
  KvmLapicState,
  KvmMsi,
  KvmPicState,
} from '../../02-kvm-objects/abi/irqchip.ts';
import { KvmEnableCap } from '../../02-kvm-objects/abi/memory.ts';
import { errnoName } from '../../02-kvm-objects/errno.ts';
import { HostKernel, hostKernelAvailable } from '../../02-kvm-objects/host/host-kernel.ts';
import { EFD, type Kernel } from '../../02-kvm-objects/kernel.ts';
import { Kvm, type Vcpu, type Vm } from '../../02-kvm-objects/kvm.ts';
import { LAPIC } from '../interrupts/lapic-registers.ts';
import { platformKernel } from './index.ts';

export const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
export const named = (result: number): string | number => (result < 0 ? errnoName(-result) : result);

export const RAM_BYTES = 0x20000;
export const CODE = 0x1000;
export const HANDLER = 0x2000;
export const SECOND = 0x3000;
export const REPORT = 0x10; // a port that nobody serves
export const DEVICE = 0xd000_0000;
export const APIC = 0xfee0_0000;
export const IOAPIC = 0xfec0_0000;

// ## A very small assembler

export const u16 = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff];
export const u32 = (n: number): number[] => [...u16(n & 0xffff), ...u16(n >>> 16)];
export const CLI = [0xfa];
export const STI = [0xfb];
export const HLT = [0xf4];
export const IRET = [0xcf];
export const PUSH_AX = [0x50];
export const POP_AX = [0x58];
export const WRMSR = [0x0f, 0x30];
export const RDTSC = [0x0f, 0x31];
export const report = (value: number): number[] => [0xb0, value, 0xe6, REPORT];
export const reportAl = [0xe6, REPORT];
export const eax = (value: number): number[] => [0x66, 0xb8, ...u32(value)];
export const ecx = (value: number): number[] => [0x66, 0xb9, ...u32(value)];
export const edx = (value: number): number[] => [0x66, 0xba, ...u32(value)];
export const addEax = (value: number): number[] => [0x66, 0x05, ...u32(value), 0x66, 0x83, 0xd2, 0x00]; // with carry into EDX
export const store = (at: number, value: number): number[] => [...eax(value), 0x67, 0x66, 0xa3, ...u32(at)];
export const load = (at: number): number[] => [0x67, 0x66, 0xa1, ...u32(at)];
export const outb = (port: number, value: number): number[] => [0xb0, value, 0xba, ...u16(port), 0xee];
export const inb = (port: number): number[] => [0xba, ...u16(port), 0xec];
export const outw = (port: number, value: number): number[] => [0xb8, ...u16(value), 0xba, ...u16(port), 0xef];
export const wrmsr = (index: number, low: number, high = 0): number[] => [...ecx(index), ...eax(low), ...edx(high), ...WRMSR];
/** A host whose KVM emulates real mode looks for events only when it leaves its emulator. This makes it do so, and is not counted as a report. */
export const SYNC_VALUE = 0xff;
export const SYNC = report(SYNC_VALUE);
export const EOI = store(APIC + LAPIC.EOI, 0);
/** Sleeps, and sleeps again after each interrupt. */
export const sleepLoop = [...STI, ...HLT, 0xeb, 0xfd];

const host = hostKernelAvailable();
export const kernels: { name: 'soft' | 'host'; make: () => Kernel; reason: string | null }[] = [
  { name: 'soft', make: () => platformKernel({ ramBytes: 8 << 20 }), reason: null },
  { name: 'host', make: () => new HostKernel(), reason: host.available ? null : host.reason },
];

/** An entry of a routing table. */
export type Entry = Parameters<typeof KvmIrqRoutingEntry.encode>[0];

/** What a case needs of one of the two. To be called within `describe`. */
export function laboratory({ name, make }: (typeof kernels)[number]) {
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

  return {
    open,
    ask,
    vcpuAsk,
    machine,
    run,
    reported,
    mpState,
    setLapic,
    lapic,
    chip,
    setChip,
    setPic,
    setPin,
    line,
    endedEarly,
    signal,
    routing,
    eventfd,
    count,
    ring,
    settle,
  };
}
