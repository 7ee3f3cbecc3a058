// # A vCPU's state, typed
//
// Each group of registers is one pair of requests and one structure. What is added here is shape: names instead of offsets, bigints for 64-bit
// registers, arrays where the structure has a tail. A setter that takes a part of a group reads the group first: the kernel has no partial
// writes.

import type { Fields, Layout, Nested, Values } from '../01-hardware-background/layout.ts';
import { KvmGuestDebug, KvmInterrupt, KvmMpState, KvmVcpuEvents } from './abi/events.ts';
import { IOCTL, type RequestName, requestOf } from './abi/ioctls.ts';
import { KvmTranslation } from './abi/memory.ts';
import {
  KvmCpuid2,
  KvmCpuidEntry2,
  KvmDebugregs,
  KvmDtable,
  KvmFpu,
  KvmMsrEntry,
  KvmMsrs,
  KvmRegs,
  KvmSegment,
  KvmSregs,
  KvmXcr,
  KvmXcrs,
  U64,
} from './abi/registers.ts';
import { ERRNO, Errno } from './errno.ts';

export type Regs = Values<typeof KvmRegs.fields>;
export type Segment = Values<typeof KvmSegment.fields>;
export type Dtable = Values<typeof KvmDtable.fields>;
type Fpu = Values<typeof KvmFpu.fields>;
type VcpuEvents = Values<typeof KvmVcpuEvents.fields>;
export type CpuidEntry = Values<typeof KvmCpuidEntry2.fields>;
type Translation = Values<typeof KvmTranslation.fields>;

const SEGMENTS = ['cs', 'ds', 'es', 'fs', 'gs', 'ss', 'tr', 'ldt'] as const;
const DTABLES = ['gdt', 'idt'] as const;

export type Sregs = Values<typeof KvmSregs.fields> &
  Record<(typeof SEGMENTS)[number], Segment> &
  Record<(typeof DTABLES)[number], Dtable> & { interrupt_bitmap: bigint[] };

interface Debugregs {
  db: bigint[];
  dr6: bigint;
  dr7: bigint;
}

interface Msr {
  readonly index: number;
  readonly data: bigint;
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

const loadWords = (view: DataView, { at, count }: Nested<typeof U64.fields>): bigint[] =>
  Array.from({ length: count }, (_, index) => U64.load(view, at(index)).value);
const storeWords = (view: DataView, { at }: Nested<typeof U64.fields>, words: readonly bigint[]): void => {
  words.forEach((value, index) => void U64.store(view, at(index), { value }));
};

/** A head and its tail in one buffer. */
function withTail<F extends Fields>(head: Uint8Array, of: Layout<F>, entries: readonly Partial<Values<F>>[]): Uint8Array {
  const out = new Uint8Array(head.length + entries.length * of.bytes);
  out.set(head);
  const view = viewOf(out);
  entries.forEach((entry, index) => void of.store(view, head.length + index * of.bytes, entry));
  return out;
}

/** The entries of a filled `struct kvm_cpuid2`. */
export function decodeCpuid(bytes: Uint8Array): CpuidEntry[] {
  const { nent } = KvmCpuid2.decode(bytes);
  const view = viewOf(bytes);
  return Array.from({ length: nent }, (_, index) => KvmCpuidEntry2.load(view, KvmCpuid2.bytes + index * KvmCpuidEntry2.bytes));
}

/** Every request of a vCPU descriptor that moves state. @throws Errno from each */
export class VcpuState {
  readonly #ioctl: (request: RequestName, arg?: number | Uint8Array) => number;

  constructor(ioctl: (request: RequestName, arg?: number | Uint8Array) => number) {
    this.#ioctl = ioctl;
  }

  #get(request: RequestName): Uint8Array {
    const bytes = new Uint8Array(requestOf(IOCTL[request])?.bytes ?? 0);
    this.#ioctl(request, bytes);
    return bytes;
  }

  getRegs(): Regs {
    return KvmRegs.decode(this.#get('KVM_GET_REGS'));
  }
  /** Registers not named keep their values. */
  setRegs(regs: Partial<Regs>): void {
    const bytes = this.#get('KVM_GET_REGS');
    KvmRegs.store(viewOf(bytes), 0, regs);
    this.#ioctl('KVM_SET_REGS', bytes);
  }

  getSregs(): Sregs {
    const view = viewOf(this.#get('KVM_GET_SREGS'));
    const { fields } = KvmSregs;
    const segments = Object.fromEntries(SEGMENTS.map((name) => [name, KvmSegment.load(view, fields[name].offset)]));
    const tables = Object.fromEntries(DTABLES.map((name) => [name, KvmDtable.load(view, fields[name].offset)]));
    return { ...KvmSregs.load(view), ...segments, ...tables, interrupt_bitmap: loadWords(view, fields.interrupt_bitmap) } as Sregs;
  }
  setSregs(sregs: Partial<Sregs>): void {
    const bytes = this.#get('KVM_GET_SREGS');
    const view = viewOf(bytes);
    const { fields } = KvmSregs;
    KvmSregs.store(view, 0, sregs);
    for (const name of SEGMENTS) if (sregs[name]) KvmSegment.store(view, fields[name].offset, sregs[name]);
    for (const name of DTABLES) if (sregs[name]) KvmDtable.store(view, fields[name].offset, sregs[name]);
    if (sregs.interrupt_bitmap) storeWords(view, fields.interrupt_bitmap, sregs.interrupt_bitmap);
    this.#ioctl('KVM_SET_SREGS', bytes);
  }

  getFpu(): Fpu {
    return KvmFpu.decode(this.#get('KVM_GET_FPU'));
  }
  setFpu(fpu: Partial<Fpu>): void {
    const bytes = this.#get('KVM_GET_FPU');
    KvmFpu.store(viewOf(bytes), 0, fpu);
    this.#ioctl('KVM_SET_FPU', bytes);
  }

  getDebugregs(): Debugregs {
    const view = viewOf(this.#get('KVM_GET_DEBUGREGS'));
    const { dr6, dr7 } = KvmDebugregs.load(view);
    return { db: loadWords(view, KvmDebugregs.fields.db), dr6, dr7 };
  }
  setDebugregs({ db, dr6, dr7 }: Debugregs): void {
    const bytes = KvmDebugregs.encode({ dr6, dr7 });
    storeWords(viewOf(bytes), KvmDebugregs.fields.db, db);
    this.#ioctl('KVM_SET_DEBUGREGS', bytes);
  }

  getXcrs(): Map<number, bigint> {
    const view = viewOf(this.#get('KVM_GET_XCRS'));
    const { nr_xcrs } = KvmXcrs.load(view);
    const entries = Array.from({ length: Math.min(nr_xcrs, KvmXcrs.fields.xcrs.count) }, (_, n) => KvmXcr.load(view, KvmXcrs.fields.xcrs.at(n)));
    return new Map(entries.map(({ xcr, value }) => [xcr, value]));
  }

  getVcpuEvents(): VcpuEvents {
    return KvmVcpuEvents.decode(this.#get('KVM_GET_VCPU_EVENTS'));
  }
  setVcpuEvents(events: Partial<VcpuEvents>): void {
    const bytes = this.#get('KVM_GET_VCPU_EVENTS');
    KvmVcpuEvents.store(viewOf(bytes), 0, events);
    this.#ioctl('KVM_SET_VCPU_EVENTS', bytes);
  }

  getMpState(): number {
    return KvmMpState.decode(this.#get('KVM_GET_MP_STATE')).mp_state;
  }
  setMpState(mp_state: number): void {
    this.#ioctl('KVM_SET_MP_STATE', KvmMpState.encode({ mp_state }));
  }

  /** The values, in the order asked. @throws Errno EINVAL naming the first MSR that the kernel would not give */
  getMsrs(indices: readonly number[]): bigint[] {
    const head = KvmMsrs.encode({ nmsrs: indices.length });
    const arg = withTail(
      head,
      KvmMsrEntry,
      indices.map((index) => ({ index })),
    );
    const done = this.#ioctl('KVM_GET_MSRS', arg);
    if (done < indices.length) throw new Errno('KVM_GET_MSRS', ERRNO.EINVAL, `MSR 0x${indices[done]?.toString(16)}`);
    const view = viewOf(arg);
    return indices.map((_, n) => KvmMsrEntry.load(view, head.length + n * KvmMsrEntry.bytes).data);
  }
  /** Writes them in order. @throws Errno EINVAL naming the first that was refused; those before it are written */
  setMsrs(msrs: readonly Msr[]): void {
    const done = this.#ioctl('KVM_SET_MSRS', withTail(KvmMsrs.encode({ nmsrs: msrs.length }), KvmMsrEntry, msrs));
    if (done < msrs.length) throw new Errno('KVM_SET_MSRS', ERRNO.EINVAL, `MSR 0x${msrs[done]?.index.toString(16)}`);
  }

  setCpuid2(entries: readonly CpuidEntry[]): void {
    this.#ioctl('KVM_SET_CPUID2', withTail(KvmCpuid2.encode({ nent: entries.length }), KvmCpuidEntry2, entries));
  }
  getCpuid2(room = 256): CpuidEntry[] {
    const arg = new Uint8Array(KvmCpuid2.bytes + room * KvmCpuidEntry2.bytes);
    KvmCpuid2.store(viewOf(arg), 0, { nent: room });
    this.#ioctl('KVM_GET_CPUID2', arg);
    return decodeCpuid(arg);
  }

  /** Queues an external interrupt for the next entry. Only without an in-kernel interrupt controller (ENXIO then). */
  interrupt(irq: number): void {
    this.#ioctl('KVM_INTERRUPT', KvmInterrupt.encode({ irq }));
  }
  nmi(): void {
    this.#ioctl('KVM_NMI');
  }

  /** `control` is GUESTDBG bits; `debugreg` replaces DR0–3 and DR7 when hardware breakpoints are asked for. */
  setGuestDebug(control: number, debugreg: readonly bigint[] = []): void {
    const bytes = KvmGuestDebug.encode({ control });
    storeWords(viewOf(bytes), KvmGuestDebug.fields.debugreg, debugreg);
    this.#ioctl('KVM_SET_GUEST_DEBUG', bytes);
  }

  /** Walks the vCPU's own page tables. */
  translate(linear_address: bigint): Translation {
    const bytes = KvmTranslation.encode({ linear_address });
    this.#ioctl('KVM_TRANSLATE', bytes);
    return KvmTranslation.decode(bytes);
  }
}
