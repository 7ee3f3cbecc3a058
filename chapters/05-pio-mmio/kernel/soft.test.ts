// # What only the soft kernel can promise
//
// Its time is the guest's instructions, so the moment of an interrupt can be foretold, and the trace shows each step on the way.

import { describe, expect, it } from 'vitest';
import { PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { Recorder, traceLine } from '../../01-hardware-background/trace.ts';
import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { IOCTL } from '../../02-kvm-objects/abi/ioctls.ts';
import { KvmLapicState } from '../../02-kvm-objects/abi/irqchip.ts';
import { KVM_DIRTY_LOG_PAGE_OFFSET, KVM_MEM, KvmDirtyGfn, KvmEnableCap } from '../../02-kvm-objects/abi/memory.ts';
import { KvmMsrEntry, KvmMsrs } from '../../02-kvm-objects/abi/registers.ts';
import { ERRNO } from '../../02-kvm-objects/errno.ts';
import { Kvm } from '../../02-kvm-objects/kvm.ts';
import { LAPIC } from '../interrupts/lapic-registers.ts';
import { COALESCED_PAGE } from './coalesced.ts';
import { platformKernel } from './index.ts';
import { KVMCLOCK_MSR } from './kvmclock.ts';

const PERIOD_NS = 1_000_000;
const ROUNDS = 5;
/** sti; hlt; jmp back. The handler of vector 0x70 adds 1 to a byte of memory and ends the interrupt; with five it leaves. */
// biome-ignore format: table
const HANDLER = [
  0xfe, 0x06, 0x00, 0x60, // inc byte [0x6000]
  0x66, 0x31, 0xc0, 0x67, 0x66, 0xa3, 0xb0, 0x00, 0xe0, 0xfe, // xor eax, eax; mov [0xfee000b0], eax
  0x80, 0x3e, 0x00, 0x60, ROUNDS, 0x75, 0x02, // cmp byte [0x6000], 5; jne +2
  0xe6, 0x10, // out 0x10, al
  0xcf,
];

function periodic(memory: 'ept' | 'shadow') {
  const trace = new Recorder();
  const kernel = platformKernel({ ramBytes: 8 << 20, trace, memory });
  const kvm = Kvm.open(kernel);
  const vm = kvm.createVm();
  vm.ioctl('KVM_CREATE_IRQCHIP');
  const { hva, bytes: ram } = kvm.allocate(0x10000);
  vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: 0x10000, userspace_addr: hva });
  ram.set([0xfb, 0xf4, 0xeb, 0xfd], 0x1000);
  ram.set(HANDLER, 0x2000);
  new DataView(ram.buffer, ram.byteOffset).setUint32(4 * 0x70, 0x2000, true);
  const vcpu = vm.createVcpu(0);
  const { cs, ds } = vcpu.getSregs();
  vcpu.setSregs({ cs: { ...cs, base: 0n, selector: 0 }, ds: { ...ds, limit: 0xffff_ffff, g: 1 } });
  vcpu.setRegs({ rip: 0x1000n, rsp: 0x8000n, rflags: 2n });
  const state = new Uint8Array(KvmLapicState.bytes);
  kernel.ioctl(vcpu.fd, IOCTL.KVM_GET_LAPIC, state);
  const registers = new DataView(state.buffer);
  for (const [offset, value] of [
    [LAPIC.SVR, 0x1ff],
    [LAPIC.TIMER, 0x20070],
    [LAPIC.DIVIDE, 0xb],
    [LAPIC.INITIAL, PERIOD_NS],
    [LAPIC.CURRENT, PERIOD_NS],
  ] as const)
    registers.setUint32(offset, value, true);
  const start = kernel.clock.now();
  expect(kernel.ioctl(vcpu.fd, IOCTL.KVM_SET_LAPIC, state)).toBe(0);
  vcpu.run();
  expect(vcpu.page.describe()).toBe('KVM_EXIT_IO: out port 0x10, 1 of 1 bytes');
  return { kernel, trace, elapsed: kernel.clock.now() - start };
}

describe.each(['ept', 'shadow'] as const)('a periodic timer, with memory by %s', (memory) => {
  it('fires in time, all within one KVM_RUN, and costs next to no instructions', () => {
    const { kernel, trace, elapsed } = periodic(memory);
    expect(elapsed).toBeGreaterThanOrEqual(ROUNDS * PERIOD_NS);
    expect(elapsed).toBeLessThan(ROUNDS * PERIOD_NS + PERIOD_NS / 100);
    expect(kernel.hardware.instructions).toBeLessThan(200);
    expect(trace.of('kvm_apic_accept_irq').map(({ vector }) => vector)).toEqual(Array(ROUNDS).fill(0x70));
    expect(trace.of('kvm_eoi')).toHaveLength(ROUNDS);
    // More often: a delivery that met a page without a translation is made again.
    expect(trace.of('kvm_inj_virq').length).toBeGreaterThanOrEqual(ROUNDS);
    expect(trace.of('kvm_vcpu_wakeup')).toHaveLength(ROUNDS);
    expect(trace.of('kvm_userspace_exit')).toHaveLength(1);
  });
  it('happens the same way each time', () => {
    const lines = () => periodic(memory).trace.events.map(traceLine).join('\n');
    expect(lines()).toBe(lines());
  });
});

describe('a program that asks for too much', () => {
  it('loses what a dirty ring cannot hold, and nothing breaks', () => {
    const kernel = platformKernel({ ramBytes: 4 << 20 });
    const kvm = Kvm.open(kernel);
    const vm = kvm.createVm();
    vm.ioctl('KVM_ENABLE_CAP', KvmEnableCap.encode({ cap: CAP.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, arg0: BigInt(PAGE_BYTES) }));
    const { hva } = kvm.allocate(0x10000);
    vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: 0x10000, userspace_addr: hva, flags: KVM_MEM.KVM_MEM_LOG_DIRTY_PAGES });
    const vcpu = vm.createVcpu(0);
    const clock = new Uint8Array(KvmMsrs.bytes + KvmMsrEntry.bytes);
    const view = new DataView(clock.buffer);
    KvmMsrs.store(view, 0, { nmsrs: 1 });
    KvmMsrEntry.store(view, KvmMsrs.bytes, { index: KVMCLOCK_MSR.SYSTEM_TIME_NEW, data: 0x3001n });
    // Each time the kernel writes the guest's page, and the guest never runs.
    const entries = PAGE_BYTES / KvmDirtyGfn.bytes;
    for (let n = 0; n < entries + 1; n++) expect(kernel.ioctl(vcpu.fd, IOCTL.KVM_SET_MSRS, clock)).toBe(1);
    const ring = kernel.mmap(vcpu.fd, PAGE_BYTES, KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_BYTES) as Uint8Array;
    const last = KvmDirtyGfn.load(new DataView(ring.buffer, ring.byteOffset, ring.length), (entries - 1) * KvmDirtyGfn.bytes);
    expect(last).toMatchObject({ slot: 0, offset: 3n, flags: 1 });
  });

  it('has no ring of waiting writes in the memory of a processor that could not be made', () => {
    const kernel = platformKernel({ ramBytes: 8 << 20 });
    const kvm = Kvm.open(kernel);
    const vm = kvm.createVm();
    const fds: number[] = [];
    for (let fd = kernel.eventfd(0, 0); fd >= 0; fd = kernel.eventfd(0, 0)) fds.push(fd);
    expect(kernel.ioctl(vm.fd, IOCTL.KVM_CREATE_VCPU, 0)).toBe(-ERRNO.EMFILE);
    for (const fd of fds) kernel.close(fd);
    kvm.createVm(); // takes the pages that have become free
    const vcpu = vm.createVcpu(0);
    const ring = kernel.mmap(vcpu.fd, PAGE_BYTES, COALESCED_PAGE * PAGE_BYTES) as Uint8Array;
    const mapped = kernel.mmap(vcpu.fd, kvm.vcpuMmapBytes()) as Uint8Array;
    expect(ring.byteOffset).toBe(mapped.byteOffset + COALESCED_PAGE * PAGE_BYTES);
  });
});
