// # From an exit to the emulator and back
//
// Three kinds of exit need an instruction emulated: a device access, a string port instruction, and a write to memory that the guest may only read.
// All go through one function that tries, and either finishes or leaves with a question for the VMM and a note on how to go on
// (`complete_userspace_io`).

import { VECTOR } from '../../01-hardware-background/faults.ts';
import { decode } from '../../01-hardware-background/isa/decoder.ts';
import { AR, EFER, MODE } from '../../01-hardware-background/state.ts';
import { FIELD } from '../../01-hardware-background/vmx/vmcs.ts';
import { EXIT, INTERNAL_ERROR, RunEmulationFailure, RunInternal, RunMmio } from '../../02-kvm-objects/abi/exits.ts';
import { pagingOf, walkGuest } from '../../02-kvm-objects/soft/guest-walk.ts';
import type { SoftVcpu } from '../../02-kvm-objects/soft/vcpu.ts';
import { singleStepAfterSkip, trapFlag } from './debug.ts';
import type { Emulator, MmioAccess, StringPort } from './emulator.ts';
import { queueException } from './events.ts';
import { kernelReads, kernelWrites, PIO_DATA, portExit, tracePio } from './pio.ts';
import type { VcpuRun } from './run.ts';
import { clearShadow } from './skip.ts';

const INSTRUCTION_BYTES_VALID = 1n; // KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
const MAX_INSTRUCTION = 15;
const mmio = RunMmio.fields;

/** Emulates the instruction at RIP. 1: go on; 0: to user space. Linux: `x86_emulate_instruction()`. */
export function emulate(run: VcpuRun, emulator: Emulator, answers: bigint[] = [], items: Uint8Array | null = null): number {
  const { vcpu } = run;
  const traps = trapFlag(vcpu);
  const result = emulator.attempt(vcpu, answers, items, (gpa, bytes) => kernelRead(vcpu, gpa, bytes));
  switch (result.kind) {
    case 'read':
      return readExit(run, result.access, (value) => emulate(run, emulator, [...answers, value], items));
    case 'in':
      return inputExit(run, result.port, (data) => emulate(run, emulator, answers, data));
    case 'fault': {
      const { vector, errorCode, cr2 } = result.fault;
      return run.queue(queueException(vcpu, vector, errorCode, vector === VECTOR.PF ? cr2 : null));
    }
    case 'unhandled':
      return emulationFailure(run);
    case 'done': {
      clearShadow(vcpu);
      const finish = (): number => (traps ? singleStepAfterSkip(vcpu) : 1);
      if (result.out) return outputExit(run, result.out, finish);
      return writeExits(run, result.writes, 0, finish);
    }
  }
}

// ## Device accesses

// @clause kvm.exit.mmio
function describe(vcpu: SoftVcpu, { gpa, bytes }: MmioAccess, write: boolean): void {
  const view = vcpu.runView;
  vcpu.exitReason = EXIT.KVM_EXIT_MMIO;
  view.setUint32(mmio.phys_addr.offset, gpa % 2 ** 32, true);
  view.setUint32(mmio.phys_addr.offset + 4, Math.floor(gpa / 2 ** 32), true);
  view.setBigUint64(mmio.data.offset, 0n, true);
  mmio.len.set(view, 0, bytes);
  mmio.is_write.set(view, 0, write ? 1 : 0);
}

// The kernel's own devices are asked first: the vCPU's local APIC, then the VM's bus.

// @clause kvm.exit.kernel-device
/** Linux: `vcpu_mmio_read()`. */
function kernelRead(vcpu: SoftVcpu, gpa: number, bytes: number): bigint | null {
  const answer = vcpu.interruptController?.page.read(gpa, bytes) ?? vcpu.vm.buses.mmio.read(gpa, bytes);
  if (answer === null) return null;
  const value = BigInt.asUintN(8 * bytes, answer);
  vcpu.trace?.emit({ kind: 'kvm_mmio', rw: 'read', gpa, len: bytes, value });
  return value;
}
/** Linux: `vcpu_mmio_write()`. */
const kernelWrite = ({ interruptController, vm }: SoftVcpu, { gpa, bytes, value }: MmioAccess): boolean =>
  interruptController?.page.write(gpa, bytes, value) || vm.buses.mmio.write(gpa, bytes, value);

function readExit(run: VcpuRun, access: MmioAccess, then: (value: bigint) => number): number {
  const { vcpu } = run;
  describe(vcpu, access, false);
  run.completion = () => {
    const value = BigInt.asUintN(8 * access.bytes, vcpu.runView.getBigUint64(mmio.data.offset, true));
    vcpu.trace?.emit({ kind: 'kvm_mmio', rw: 'read', gpa: access.gpa, len: access.bytes, value });
    return then(value);
  };
  return 0;
}

// @clause kvm.mmio.write-after-commit
/** The instruction is done; its device writes follow one by one. */
function writeExits(run: VcpuRun, writes: readonly MmioAccess[], index: number, finish: () => number): number {
  const access = writes[index];
  if (!access) return finish();
  const { vcpu } = run;
  if (kernelWrite(vcpu, access)) {
    vcpu.trace?.emit({ kind: 'kvm_mmio', rw: 'write', gpa: access.gpa, len: access.bytes, value: access.value });
    return writeExits(run, writes, index + 1, finish);
  }
  describe(vcpu, access, true);
  for (let n = 0; n < access.bytes; n++) vcpu.runView.setUint8(mmio.data.offset + n, Number((access.value >> BigInt(8 * n)) & 0xffn));
  vcpu.trace?.emit({ kind: 'kvm_mmio', rw: 'write', gpa: access.gpa, len: access.bytes, value: access.value });
  run.completion = () => writeExits(run, writes, index + 1, finish);
  return 0;
}

// ## String ports

function inputExit(run: VcpuRun, port: StringPort, then: (items: Uint8Array) => number): number {
  const { vcpu } = run;
  const complete = (): number => {
    tracePio(vcpu, 'in', port.port, port.size, port.count);
    return then(vcpu.run.slice(PIO_DATA, PIO_DATA + port.size * port.count));
  };
  if (kernelReads(vcpu, port)) return complete();
  run.completion = complete;
  return portExit(vcpu, { ...port, out: false });
}

function outputExit(run: VcpuRun, port: StringPort & { value: number }, finish: () => number): number {
  run.vcpu.runView.setUint32(PIO_DATA, port.value, true);
  if (kernelWrites(run.vcpu, port)) {
    tracePio(run.vcpu, 'out', port.port, port.size, port.count);
    return finish();
  }
  run.completion = finish;
  return portExit(run.vcpu, { ...port, out: true });
}

// ## Giving up
//
// Whose fault is an instruction that KVM cannot emulate? In user mode it is treated as the program's: #UD, and the guest's kernel deals with it. In
// the guest's kernel there is nobody left to deal with it, and the VMM gets the instruction's bytes, to print them and stop.

// @clause kvm.run.emulation-failure
/** Linux: `handle_emulation_failure()`. */
function emulationFailure(run: VcpuRun): number {
  const { vcpu } = run;
  const user = ((vcpu.vm.hardware.read32(FIELD.GUEST_SS_AR_BYTES) >> 5) & 3) !== 0;
  if (user) return run.queue(queueException(vcpu, VECTOR.UD));
  const bytes = instructionBytes(vcpu);
  const view = vcpu.runView;
  vcpu.exitReason = EXIT.KVM_EXIT_INTERNAL_ERROR;
  const known = bytes.length > 0;
  const at = known ? 3 : 1; // behind the flags and, when there is one, the instruction
  RunInternal.store(view, 0, { suberror: INTERNAL_ERROR.KVM_INTERNAL_ERROR_EMULATION, ndata: at + EXIT_INFO.length });
  RunEmulationFailure.store(view, 0, { flags: known ? INSTRUCTION_BYTES_VALID : 0n });
  if (known) {
    const room = new Uint8Array(MAX_INSTRUCTION);
    room.set(bytes);
    RunEmulationFailure.store(view, 0, { insn_size: bytes.length, insn_bytes: room });
  }
  EXIT_INFO.forEach((field, n) => {
    view.setBigUint64(RunInternal.fields.data.at(at + n), vcpu.vm.hardware.read(field), true);
  });
  return 0;
}

/** What the hardware said about the exit: it goes along, for whoever reads the report. */
const EXIT_INFO = [
  FIELD.VM_EXIT_REASON,
  FIELD.EXIT_QUALIFICATION,
  FIELD.IDT_VECTORING_INFO_FIELD,
  FIELD.VM_EXIT_INTR_INFO,
  FIELD.VM_EXIT_INTR_ERROR_CODE,
] as const;

// ## Skipping without executing
//
// The hardware reports an instruction's length only for exits that the instruction asked for. Where an exit has another cause, and nothing but the place of
// the next instruction is wanted, the decoder has to say it.

/** Goes past the instruction at RIP; null when it cannot be read or is none. Linux: `kvm_emulate_instruction(vcpu, EMULTYPE_SKIP)`. */
export function skipDecoded(vcpu: SoftVcpu): number | null {
  const bytes = instructionBytes(vcpu);
  const { hardware } = vcpu.vm;
  const code = hardware.read32(FIELD.GUEST_CS_AR_BYTES);
  const long = (vcpu.efer & BigInt(EFER.LMA)) !== 0n && (code & AR.L) !== 0;
  const decoded = decode(bytes, 0, bytes.length, long ? MODE.CODE64 : code & AR.DB ? MODE.CODE32 : MODE.CODE16);
  if (typeof decoded === 'string') return null;
  const traps = trapFlag(vcpu);
  const next = vcpu.rip + BigInt(decoded.insn.length);
  vcpu.rip = long ? next : next & 0xffff_ffffn;
  clearShadow(vcpu);
  return traps ? singleStepAfterSkip(vcpu) : 1;
}

/** The bytes at RIP, as far as they can be read. */
function instructionBytes(vcpu: SoftVcpu): Uint8Array {
  const out: number[] = [];
  const paging = pagingOf(vcpu);
  const start = vcpu.linearRip;
  for (let n = 0; n < MAX_INSTRUCTION; n++) {
    const walked = walkGuest(vcpu.vm, paging, start + BigInt(n), null);
    const hpa = 'gpa' in walked ? vcpu.vm.hpaOf(walked.gpa, false) : -1;
    if (hpa < 0) break;
    const { memory } = vcpu.vm.hardware;
    out.push(memory.u8[memory.offset(hpa)] as number);
  }
  return Uint8Array.from(out);
}
