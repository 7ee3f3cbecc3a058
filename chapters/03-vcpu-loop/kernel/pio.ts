// # Ports
//
// `out` to a port that the kernel does not serve is the archetype of an exit to user space. The kernel copies the data to the page behind `struct
// kvm_run`, writes direction, width, port and count into it, and returns from KVM_RUN. It does *not* move RIP on. That happens when the VMM calls
// KVM_RUN again: only then is the instruction complete, and only then may its effect (for `in`, a register) appear. A machine that is saved in
// between has to be entered once more first, with `immediate_exit` set, or it would do the access twice after it is restored.
//
// The simple forms take this short way (`kvm_fast_pio()`): the exit qualification says everything. String forms read or write memory as well, and go
// to the emulator.

import { lowHalf, PAGE_BYTES } from '../../01-hardware-background/physical-memory.ts';
import { SLOT } from '../../01-hardware-background/state.ts';
import { EXIT, IO_DIRECTION, RunIo } from '../../02-kvm-objects/abi/exits.ts';
import { PIO_PAGE_OFFSET, type SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import type { VcpuRun } from './run.ts';
import { skipInstruction } from './skip.ts';

/** Offset of the port data in the mapping. */
export const PIO_DATA = PIO_PAGE_OFFSET * PAGE_BYTES;

interface PortAccess {
  readonly port: number;
  readonly size: 1 | 2 | 4;
  readonly count: number;
  readonly out: boolean;
}

const io = RunIo.fields;

// @clause kvm.exit.io
/** Describes a port access in the shared page. The data of an `out` is already there. Linux: `emulator_pio_in_out()`. */
export function portExit(vcpu: SoftVcpu, { port, size, count, out }: PortAccess): 0 {
  const view = vcpu.runView;
  vcpu.exitReason = EXIT.KVM_EXIT_IO;
  io.direction.set(view, 0, out ? IO_DIRECTION.KVM_EXIT_IO_OUT : IO_DIRECTION.KVM_EXIT_IO_IN);
  io.size.set(view, 0, size);
  io.port.set(view, 0, port);
  io.count.set(view, 0, count);
  view.setUint32(io.data_offset.offset, PIO_DATA, true);
  view.setUint32(io.data_offset.offset + 4, 0, true);
  if (out) tracePio(vcpu, 'out', port, size, count);
  return 0;
}

export function tracePio(vcpu: SoftVcpu, rw: 'in' | 'out', port: number, size: 1 | 2 | 4, count: number): void {
  vcpu.trace?.emit({ kind: 'kvm_pio', rw, port, size, count, value: loadPort(vcpu, size) });
}

/** One item of the port data, unsigned. */
function loadPort({ runView }: SoftVcpu, size: 1 | 2 | 4, index = 0): number {
  const at = PIO_DATA + size * index;
  return size === 1 ? runView.getUint8(at) : size === 2 ? runView.getUint16(at, true) : runView.getUint32(at, true);
}

function storePort({ runView }: SoftVcpu, size: 1 | 2 | 4, index: number, value: number): void {
  const at = PIO_DATA + size * index;
  if (size === 1) runView.setUint8(at, value);
  else if (size === 2) runView.setUint16(at, value, true);
  else runView.setUint32(at, value, true);
}

const QUALIFICATION = { SIZE: 7, IN: 1 << 3, STRING: 1 << 4, PORT_SHIFT: 16 } as const;

/** True for INS and OUTS. */
export const isString = (qualification: number): boolean => (qualification & QUALIFICATION.STRING) !== 0;

/** `in` or `out` of one item: by the kernel, or out to user space with a note of what to do on the way back. Linux: `kvm_fast_pio()`. */
export function fastPio(run: VcpuRun, qualification: number): number {
  const { vcpu } = run;
  const size = ((qualification & QUALIFICATION.SIZE) + 1) as 1 | 2 | 4;
  const port = qualification >>> QUALIFICATION.PORT_SHIFT;
  const out = (qualification & QUALIFICATION.IN) === 0;
  const rax = lowHalf(vcpu.regs[SLOT.RAX] as bigint);
  if (out) vcpu.runView.setUint32(PIO_DATA, rax, true);
  const access = { port, size, count: 1, out };
  if (out ? kernelWrites(vcpu, access) : kernelReads(vcpu, access)) {
    tracePio(vcpu, out ? 'out' : 'in', port, size, 1);
    if (!out) vcpu.regs[SLOT.RAX] = merged(vcpu, size);
    return skipInstruction(vcpu);
  }
  const at = vcpu.rip;
  // @clause kvm.exit.completion
  run.completion = () => {
    if (vcpu.rip !== at) return 1; // the VMM moved RIP: the instruction is not ours to finish
    if (!out) {
      tracePio(vcpu, 'in', port, size, 1);
      vcpu.regs[SLOT.RAX] = merged(vcpu, size);
    }
    return skipInstruction(vcpu);
  };
  return portExit(vcpu, access);
}

/** RAX after an `in`: the upper bits stay, except that a 32-bit register clears its upper half. */
function merged(vcpu: SoftVcpu, size: 1 | 2 | 4): bigint {
  const value = BigInt(loadPort(vcpu, size));
  if (size === 4) return value;
  const mask = size === 1 ? 0xffn : 0xffffn;
  return ((vcpu.regs[SLOT.RAX] as bigint) & ~mask) | value;
}

// ## Ports that the kernel serves
//
// Linux asks its bus about the first item of a string. If nobody takes it, the whole instruction goes to user space; if somebody does, the rest stays in
// the kernel, even should the device refuse: it can only have gone away meanwhile, and then a write is lost and a read is zero.

type Ports = Omit<PortAccess, 'out'>;

/** Offers the port data to the kernel's devices. Linux: `emulator_pio_out()`. */
export function kernelWrites(vcpu: SoftVcpu, { port, size, count }: Ports): boolean {
  const { pio } = vcpu.vm.buses;
  for (let n = 0; n < count; n++) if (!pio.write(port, size, BigInt(loadPort(vcpu, size, n))) && n === 0) return false;
  return true;
}

/** Fills the port data from the kernel's devices. Linux: `emulator_pio_in()`. */
export function kernelReads(vcpu: SoftVcpu, { port, size, count }: Ports): boolean {
  const { pio } = vcpu.vm.buses;
  for (let n = 0; n < count; n++) {
    const value = pio.read(port, size);
    if (value === null && n === 0) return false;
    storePort(vcpu, size, n, Number(value ?? 0n));
  }
  return true;
}
