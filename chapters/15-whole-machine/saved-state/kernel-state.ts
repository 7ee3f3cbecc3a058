// # What is in the kernel
//
// Processors, and whatever else lives in the kernel, are asked for by KVM's own requests: for each part of a processor there is one that gives a structure and
// one that takes it. The structures go into the file as they are. So this module knows names and an order, and nothing of what is in them.
//
// The order is not free. CPUID decides which bits registers may have. Memory comes before the registers, because under PAE a write of CR3 reads it. The clocks
// come before memory, because a kernel that is told a clock writes it into the guest's. SREGS hold the task priority in four bits and the APIC's page in eight,
// so the page comes later; and the deadline after the page, whose timer mode decides whether there is such a thing. Events come after general
// registers, since whoever writes RIP has decided what happens next. QEMU's `kvm_arch_put_registers()` has the same order for the same reasons.

import { CAP } from '../../02-kvm-objects/abi/capabilities.ts';
import { KvmClockData } from '../../02-kvm-objects/abi/eventfd.ts';
import { KvmRun } from '../../02-kvm-objects/abi/exits.ts';
import { IOCTL, type RequestName, requestOf } from '../../02-kvm-objects/abi/ioctls.ts';
import { IRQCHIP, KvmIrqchip } from '../../02-kvm-objects/abi/irqchip.ts';
import { KvmEnableCap } from '../../02-kvm-objects/abi/memory.ts';
import { ERRNO, Errno } from '../../02-kvm-objects/errno.ts';
import type { Vcpu, Vm } from '../../02-kvm-objects/kvm.ts';
import { kind, StateError, StateReader, StateWriter } from '../../03-vcpu-loop/devices/state.ts';

/** Structures of a vCPU, in the order in which they are restored. LAPIC is missing where no local APIC is in the kernel. */
const BEFORE_MSRS = ['XSAVE', 'XCRS', 'SREGS2'] as const;
const AFTER_MSRS = ['LAPIC'] as const;
const LAST = ['DEBUGREGS', 'REGS', 'VCPU_EVENTS', 'MP_STATE'] as const;
type Structure = (typeof BEFORE_MSRS | typeof AFTER_MSRS | typeof LAST)[number];
/** MP_STATE is asked first: a start-up message that is on its way arrives then. */
const ALL: readonly Structure[] = ['MP_STATE', ...BEFORE_MSRS, ...AFTER_MSRS, ...LAST.slice(0, -1)];

const MSR = { TSC: 0x10, TSC_DEADLINE: 0x6e0 } as const;
/** kvmclock's, under old numbers and new. */
const CLOCK_MSRS: readonly number[] = [0x11, 0x12, 0x4b56_4d00, 0x4b56_4d01];
const isEarly = (index: number): boolean => index === MSR.TSC || CLOCK_MSRS.includes(index);

interface SavedMsr {
  readonly index: number;
  readonly data: bigint;
}
const MSRS = kind.list(kind.record<SavedMsr>({ index: kind.u32, data: kind.u64 }), 4096);
const STRUCTURE_LIMIT_BYTES = 1 << 16;

/** The fields of the shared page that say something between two runs. */
const PAGE = ['request_interrupt_window', 'ready_for_interrupt_injection', 'if_flag'] as const;
const PAGE_WORDS = ['cr8', 'apic_base'] as const;

const absent = (error: unknown): boolean =>
  error instanceof Errno && (error.errno === ERRNO.EINVAL || error.errno === ERRNO.ENXIO || error.errno === ERRNO.ENOTTY);

// ## A processor

/** One processor's state, taken apart and not yet believed. */
interface ProcessorState {
  readonly cpuid: Uint8Array;
  readonly structures: ReadonlyMap<Structure, Uint8Array>;
  readonly msrs: readonly SavedMsr[];
  readonly page: readonly number[];
  readonly pageWords: readonly bigint[];
}

const cpuidBytes = (vcpu: Vcpu): Uint8Array => new TextEncoder().encode(JSON.stringify(vcpu.getCpuid2()));

/** Writes a processor down. */
export function saveProcessor(vm: Vm, vcpu: Vcpu, msrIndices: readonly number[]): Uint8Array {
  const out = new StateWriter();
  out.blob(cpuidBytes(vcpu));
  for (const name of ALL) {
    const bytes = new Uint8Array(requestOf(IOCTL[`KVM_GET_${name}`])?.bytes ?? 0);
    const result = vm.kernel.ioctl(vcpu.fd, IOCTL[`KVM_GET_${name}`], bytes);
    if (result < 0 && name !== 'LAPIC') throw new Errno(`KVM_GET_${name}`, -result);
    out.blob(result < 0 ? new Uint8Array(0) : bytes);
  }
  MSRS.write(
    out,
    msrIndices.flatMap((index) => readMsr(vcpu, index)),
  );
  const { view } = vcpu.page;
  for (const field of PAGE) out.u8(KvmRun.fields[field].get(view, 0));
  for (const field of PAGE_WORDS) out.u64(KvmRun.fields[field].get(view, 0));
  return out.written;
}

function readMsr(vcpu: Vcpu, index: number): SavedMsr[] {
  try {
    return vcpu.getMsrs([index]).map((data) => ({ index, data }));
  } catch (error) {
    if (absent(error)) return []; // the list may have what a processor does not
    throw error;
  }
}

/** @throws StateError for what is no processor, or another one */
export function readProcessor(vcpu: Vcpu, payload: Uint8Array): ProcessorState {
  const from = new StateReader(payload);
  const cpuid = from.blob(STRUCTURE_LIMIT_BYTES);
  const own = cpuidBytes(vcpu);
  if (cpuid.length !== own.length || own.some((byte, at) => byte !== cpuid[at]))
    throw new StateError('the processor is another one: CPUID says other things');
  const structures = new Map(ALL.map((name) => [name, from.blob(STRUCTURE_LIMIT_BYTES)] as const));
  for (const [name, bytes] of structures) {
    const expected = requestOf(IOCTL[`KVM_SET_${name}`])?.bytes ?? 0;
    if (bytes.length !== expected && !(name === 'LAPIC' && bytes.length === 0))
      throw new StateError(`${name} has ${bytes.length} bytes, not ${expected}`);
  }
  const msrs = MSRS.read(from);
  const page = PAGE.map(() => from.u8());
  const pageWords = PAGE_WORDS.map(() => from.u64());
  from.end();
  return { cpuid, structures, msrs, page, pageWords };
}

function put(vm: Vm, vcpu: Vcpu, { structures }: ProcessorState, name: Structure): void {
  const bytes = structures.get(name) as Uint8Array;
  if (bytes.length === 0) return;
  const result = vm.kernel.ioctl(vcpu.fd, IOCTL[`KVM_SET_${name}`], bytes.slice());
  if (result < 0) throw new StateError(`the kernel refuses ${name} of processor ${vcpu.id} (errno ${-result})`);
}

// A list may hold registers that can be read and not written: they must have the right value already.
function putMsrs(vcpu: Vcpu, msrs: readonly SavedMsr[]): void {
  for (const msr of msrs) {
    try {
      vcpu.setMsrs([msr]);
    } catch (error) {
      if (!absent(error)) throw error;
      if (readMsr(vcpu, msr.index)[0]?.data !== msr.data)
        throw new StateError(`the kernel refuses MSR 0x${msr.index.toString(16)} of processor ${vcpu.id}`);
    }
  }
}

/** The first half, before memory is in place: what makes the kernel write there. */
export function placeClocks(vcpu: Vcpu, { msrs }: ProcessorState): void {
  putMsrs(
    vcpu,
    msrs.filter(({ index }) => isEarly(index)),
  );
}

/** The second half. */
export function placeProcessor(vm: Vm, vcpu: Vcpu, state: ProcessorState): void {
  for (const name of BEFORE_MSRS) put(vm, vcpu, state, name);
  putMsrs(
    vcpu,
    state.msrs.filter(({ index }) => !isEarly(index) && index !== MSR.TSC_DEADLINE),
  );
  for (const name of AFTER_MSRS) put(vm, vcpu, state, name);
  putMsrs(
    vcpu,
    state.msrs.filter(({ index }) => index === MSR.TSC_DEADLINE),
  );
  for (const name of LAST) put(vm, vcpu, state, name);
  const { view } = vcpu.page;
  for (const [n, field] of PAGE.entries()) KvmRun.fields[field].set(view, 0, state.page[n] as number);
  for (const [n, field] of PAGE_WORDS.entries()) KvmRun.fields[field].set(view, 0, state.pageWords[n] as bigint);
}

/** Asks for those parts of a vCPU's events that a VMM has to ask for. A kernel without them has nothing to say there. */
export function askForEvents(vm: Vm): void {
  for (const cap of [CAP.KVM_CAP_EXCEPTION_PAYLOAD, CAP.KVM_CAP_X86_TRIPLE_FAULT_EVENT])
    vm.tryIoctl('KVM_ENABLE_CAP', KvmEnableCap.encode({ cap, arg0: 1n }));
}

// ## The VM's own devices

const CHIPS = Object.values(IRQCHIP);

/** The chips and the timer, as far as they are in the kernel. */
export function saveChips(vm: Vm): Uint8Array {
  const out = new StateWriter();
  const one = (request: RequestName, bytes: Uint8Array): void => {
    const result = vm.kernel.ioctl(vm.fd, IOCTL[request], bytes);
    out.blob(result < 0 ? new Uint8Array(0) : bytes);
  };
  for (const chip_id of CHIPS) one('KVM_GET_IRQCHIP', KvmIrqchip.encode({ chip_id }));
  one('KVM_GET_PIT2', new Uint8Array(requestOf(IOCTL.KVM_GET_PIT2)?.bytes ?? 0));
  return out.written;
}

/** @throws StateError */
export function readChips(payload: Uint8Array): Uint8Array[] {
  const from = new StateReader(payload);
  const chips = [...CHIPS, null].map(() => from.blob(STRUCTURE_LIMIT_BYTES));
  from.end();
  for (const [n, chip_id] of CHIPS.entries()) {
    const bytes = chips[n] as Uint8Array;
    if (bytes.length === 0) continue;
    if (bytes.length !== KvmIrqchip.bytes) throw new StateError(`a chip of ${bytes.length} bytes`);
    if (KvmIrqchip.decode(bytes).chip_id !== chip_id) throw new StateError('the interrupt controllers are in another order');
  }
  return chips;
}

export function placeChips(vm: Vm, chips: readonly Uint8Array[]): void {
  for (const [n, bytes] of chips.entries()) {
    if (bytes.length === 0) continue;
    const request = n < CHIPS.length ? 'KVM_SET_IRQCHIP' : 'KVM_SET_PIT2';
    const result = vm.kernel.ioctl(vm.fd, IOCTL[request], bytes.slice());
    if (result < 0) throw new StateError(`the kernel refuses ${request} (errno ${-result})`);
  }
}

/** The guest's clock, in nanoseconds; null where the kernel has none. */
export function guestClock(vm: Vm): bigint | null {
  const bytes = new Uint8Array(KvmClockData.bytes);
  return vm.kernel.ioctl(vm.fd, IOCTL.KVM_GET_CLOCK, bytes) < 0 ? null : KvmClockData.decode(bytes).clock;
}

export function setGuestClock(vm: Vm, clock: bigint | null): void {
  if (clock !== null && vm.kernel.ioctl(vm.fd, IOCTL.KVM_SET_CLOCK, KvmClockData.encode({ clock })) < 0)
    throw new StateError('the kernel refuses the clock');
}
