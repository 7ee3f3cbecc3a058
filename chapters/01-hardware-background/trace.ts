// # One trace
//
// A reader of this book wants to see what happened; a test wants to compare it; a figure wants to draw it; the prose wants to quote it. All
// four read the same stream of typed events. No layer logs by another way. Names are the ones Linux uses for its tracepoints, where it has
// them.
//
// Time in the stream is *virtual*: the number of guest instructions retired. So two runs of one image give the same bytes, in Node and in a
// browser alike, and a number in the text can be checked.

/** What every layer can report. `t` is added by the trace: instructions that the processor has executed so far, whichever vCPU they belong to. */
export type TraceEvent =
  // Hardware (chapter 1)
  | { kind: 'mode'; mode: 'real' | 'v86' | 'protected16' | 'protected32' | 'compat' | 'long' }
  | { kind: 'exception'; vector: number; errorCode: number | null; cr2: bigint | null; rip: bigint }
  | { kind: 'interrupt'; vector: number; source: 'external' | 'nmi' | 'software' }
  | { kind: 'triple_fault' }
  | { kind: 'walk'; stage: 1 | 2; level: number; entry: number; value: bigint }
  | { kind: 'tlb_fill'; linear: bigint; physical: number }
  | { kind: 'tlb_flush'; why: string }
  | { kind: 'vmx'; what: 'vmxon' | 'vmxoff' | 'vmptrld' | 'vmclear' | 'entry_failed'; detail?: string }
  // Kernel (chapters 2 and 3): Linux's tracepoint names
  | { kind: 'kvm_entry'; vcpu: number; rip: bigint }
  | { kind: 'kvm_exit'; vcpu: number; reason: string; rip: bigint; qualification: bigint }
  | { kind: 'kvm_userspace_exit'; vcpu: number; reason: string }
  | { kind: 'kvm_pio'; rw: 'in' | 'out'; port: number; size: number; count: number; value: number }
  | { kind: 'kvm_mmio'; rw: 'read' | 'write'; gpa: number; len: number; value: bigint }
  | { kind: 'kvm_inj_virq'; vector: number }
  | { kind: 'kvm_page_fault'; gpa: number; errorCode: number }
  // What lives in the kernel besides vCPUs (chapter 5)
  | { kind: 'kvm_set_irq'; gsi: number; level: number; source: number }
  | { kind: 'kvm_pic_set_irq'; chip: number; pin: number; coalesced: boolean }
  | { kind: 'kvm_ioapic_set_irq'; pin: number; coalesced: boolean }
  | { kind: 'kvm_msi_set_irq'; address: number; data: number }
  | { kind: 'kvm_apic_accept_irq'; apic: number; mode: number; vector: number; levelTriggered: boolean }
  | { kind: 'kvm_apic_ipi'; destination: number; vector: number; mode: number; shorthand: number }
  | { kind: 'kvm_eoi'; apic: number; vector: number }
  | { kind: 'kvm_ack_irq'; irqchip: string; pin: number }
  | { kind: 'kvm_fast_mmio'; gpa: number }
  | { kind: 'kvm_vcpu_wakeup'; ns: number; waited: boolean }
  // Virtio (chapter 6): QEMU's names
  | { kind: 'virtio_set_status'; device: string; status: number }
  | { kind: 'virtio_queue_notify'; device: string; queue: number }
  | { kind: 'virtqueue_pop'; device: string; queue: number; id: number; out: number; in: number }
  | { kind: 'virtqueue_fill'; device: string; queue: number; id: number; written: number }
  | { kind: 'virtio_notify'; device: string; queue: number }
  | { kind: 'virtio_error'; device: string; why: string }
  // User space
  | { kind: 'ioctl'; fd: string; request: string; result: number }
  | { kind: 'device'; device: string; what: string; value?: number }
  | { kind: 'console'; byte: number };

type TraceKind = TraceEvent['kind'];
export type Timed = TraceEvent & { readonly t: number };

/** Receives events. Callers test `trace !== null` first, so that a run without a trace pays nothing. */
export interface Trace {
  /** Virtual time: set by whoever runs the CPU, read by everyone who emits. */
  now: number;
  emit(event: TraceEvent): void;
}

/** Keeps events in memory, up to `limit`; then counts what it drops rather than growing without end. */
export class Recorder implements Trace {
  now = 0;
  readonly events: Timed[] = [];
  dropped = 0;
  readonly #limit: number;
  readonly #only: ReadonlySet<TraceKind> | null;

  constructor({ limit = 1_000_000, only }: { limit?: number; only?: Iterable<TraceKind> } = {}) {
    this.#limit = limit;
    this.#only = only ? new Set(only) : null;
  }

  emit(event: TraceEvent): void {
    if (this.#only && !this.#only.has(event.kind)) return;
    if (this.events.length >= this.#limit) this.dropped++;
    else this.events.push({ t: this.now, ...event });
  }

  /** Events of one kind, in order. */
  of<K extends TraceKind>(kind: K): (Extract<TraceEvent, { kind: K }> & { t: number })[] {
    return this.events.filter((event) => event.kind === kind) as (Extract<TraceEvent, { kind: K }> & { t: number })[];
  }
}

// A run has a million events, and each becomes a line wherever traces are compared. So the line is put together here: what `JSON.stringify` would give (which has to
// ask a function about each value, because it knows no bigints), in a fraction of the time.

/** One event as a line of JSON, keys in declaration order, bigints as hexadecimal strings: the form in which traces are compared byte by byte. */
export const traceLine = (event: Timed): string => lineAt(event.t, event);

/** The line of an event that happens at `t`, and need not know it. */
export function lineAt(t: number, event: TraceEvent): string {
  const fields = event as Readonly<Record<string, unknown>>;
  let line = `{"t":${t}`;
  for (const key in fields) {
    const value = fields[key];
    if (key === 't' || value === undefined) continue;
    if (typeof value === 'bigint') line += `,"${key}":"0x${value.toString(16)}"`;
    else line += `,"${key}":${typeof value === 'number' && Number.isFinite(value) ? value : JSON.stringify(value)}`;
  }
  return `${line}}`;
}
