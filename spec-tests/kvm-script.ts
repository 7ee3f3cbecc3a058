// # Scripts on the system-call surface
//
// A `kvm` case is a list of system calls. Its author writes names: `KVM_SET_REGS`, `rip`, `KVM_EXIT_IO`. An implementer of a KVM-like kernel,
// in C or anything else, should not need our tables to take part, so what travels to the adapter has no names in it: a request number, the
// bytes of the argument, where in them an address belongs. The adapter makes the call and sends back the result and the bytes. This module
// does both translations, from chapter 2's tables.

import type { Field, Fields, Layout } from '../chapters/01-hardware-background/layout.ts';
import { CAP } from '../chapters/02-kvm-objects/abi/capabilities.ts';
import * as eventfds from '../chapters/02-kvm-objects/abi/eventfd.ts';
import * as events from '../chapters/02-kvm-objects/abi/events.ts';
import * as exits from '../chapters/02-kvm-objects/abi/exits.ts';
import { IOCTL } from '../chapters/02-kvm-objects/abi/ioctls.ts';
import * as irqchip from '../chapters/02-kvm-objects/abi/irqchip.ts';
import * as memory from '../chapters/02-kvm-objects/abi/memory.ts';
import * as registers from '../chapters/02-kvm-objects/abi/registers.ts';
import { errnoName } from '../chapters/02-kvm-objects/errno.ts';
import type { Case, FieldValue, FieldValues, ScriptStep, WireOffset, WireOp, WireStep } from './types.ts';
import { hex, numberOf } from './values.ts';

/** A mistake in a script: an unknown request, field or name. The case is at fault, not the implementation. */
export class ScriptError extends Error {
  override name = 'ScriptError';
}

/** An eventfd is read and written as one 64-bit number. */
const EVENTFD_BYTES = 8;

/** How many bytes of the shared mapping are read back after every KVM_RUN: the structure's page and the page of port data behind it. */
export const RUN_BYTES = 8192;

// ## Which structure a request takes
//
// Most are one record. Three end in an array whose length the caller chose, so they are a head and a tail.

interface Shape {
  readonly head: Layout<Fields>;
  /** The tail: its name in paths, and its element. */
  readonly tail?: { readonly name: string; readonly of: Layout<Fields> };
}

const shape = (head: unknown, tail?: { name: string; of: unknown }): Shape => ({ head, ...(tail && { tail }) }) as Shape;

const CPUID = shape(registers.KvmCpuid2, { name: 'entries', of: registers.KvmCpuidEntry2 });
const MSRS = shape(registers.KvmMsrs, { name: 'entries', of: registers.KvmMsrEntry });
const MSR_LIST = shape(registers.KvmMsrList, { name: 'indices', of: registers.U32 });

const SHAPES: Readonly<Record<string, Shape>> = {
  KVM_GET_MSR_INDEX_LIST: MSR_LIST,
  KVM_GET_MSR_FEATURE_INDEX_LIST: MSR_LIST,
  KVM_GET_SUPPORTED_CPUID: CPUID,
  KVM_GET_EMULATED_CPUID: CPUID,
  KVM_SET_CPUID2: CPUID,
  KVM_GET_CPUID2: CPUID,
  KVM_GET_MSRS: MSRS,
  KVM_SET_MSRS: MSRS,
  KVM_SET_USER_MEMORY_REGION: shape(memory.KvmUserspaceMemoryRegion),
  KVM_SET_USER_MEMORY_REGION2: shape(memory.KvmUserspaceMemoryRegion2),
  KVM_GET_DIRTY_LOG: shape(memory.KvmDirtyLog),
  KVM_CLEAR_DIRTY_LOG: shape(memory.KvmClearDirtyLog),
  KVM_PRE_FAULT_MEMORY: shape(memory.KvmPreFaultMemory),
  KVM_IRQFD: shape(eventfds.KvmIrqfd),
  KVM_IOEVENTFD: shape(eventfds.KvmIoeventfd),
  KVM_REGISTER_COALESCED_MMIO: shape(eventfds.KvmCoalescedMmioZone),
  KVM_UNREGISTER_COALESCED_MMIO: shape(eventfds.KvmCoalescedMmioZone),
  KVM_GET_CLOCK: shape(eventfds.KvmClockData),
  KVM_SET_CLOCK: shape(eventfds.KvmClockData),
  KVM_REINJECT_CONTROL: shape(eventfds.KvmReinjectControl),
  KVM_IRQ_LINE: shape(irqchip.KvmIrqLevel),
  KVM_IRQ_LINE_STATUS: shape(irqchip.KvmIrqLevel),
  KVM_SIGNAL_MSI: shape(irqchip.KvmMsi),
  KVM_SET_GSI_ROUTING: shape(irqchip.KvmIrqRouting, { name: 'entries', of: irqchip.KvmIrqRoutingEntry }),
  KVM_GET_IRQCHIP: shape(irqchip.KvmIrqchip),
  KVM_SET_IRQCHIP: shape(irqchip.KvmIrqchip),
  KVM_GET_LAPIC: shape(irqchip.KvmLapicState),
  KVM_SET_LAPIC: shape(irqchip.KvmLapicState),
  KVM_CREATE_PIT2: shape(irqchip.KvmPitConfig),
  KVM_GET_PIT2: shape(irqchip.KvmPitState2),
  KVM_SET_PIT2: shape(irqchip.KvmPitState2),
  KVM_TRANSLATE: shape(memory.KvmTranslation),
  KVM_ENABLE_CAP: shape(memory.KvmEnableCap),
  KVM_GET_REGS: shape(registers.KvmRegs),
  KVM_SET_REGS: shape(registers.KvmRegs),
  KVM_GET_SREGS: shape(registers.KvmSregs),
  KVM_SET_SREGS: shape(registers.KvmSregs),
  KVM_GET_SREGS2: shape(registers.KvmSregs2),
  KVM_SET_SREGS2: shape(registers.KvmSregs2),
  KVM_GET_FPU: shape(registers.KvmFpu),
  KVM_SET_FPU: shape(registers.KvmFpu),
  KVM_GET_XCRS: shape(registers.KvmXcrs),
  KVM_SET_XCRS: shape(registers.KvmXcrs),
  KVM_GET_DEBUGREGS: shape(registers.KvmDebugregs),
  KVM_SET_DEBUGREGS: shape(registers.KvmDebugregs),
  KVM_INTERRUPT: shape(events.KvmInterrupt),
  KVM_GET_MP_STATE: shape(events.KvmMpState),
  KVM_SET_MP_STATE: shape(events.KvmMpState),
  KVM_GET_VCPU_EVENTS: shape(events.KvmVcpuEvents),
  KVM_SET_VCPU_EVENTS: shape(events.KvmVcpuEvents),
  KVM_SET_GUEST_DEBUG: shape(events.KvmGuestDebug),
};

/** The members of `struct kvm_run`'s union, by the name that the kernel header gives them. */
const RUN_UNION: Readonly<Record<string, Layout<Fields>>> = {
  hw: exits.RunHw,
  fail_entry: exits.RunFailEntry,
  ex: exits.RunEx,
  io: exits.RunIo,
  debug: exits.RunDebug,
  mmio: exits.RunMmio,
  hypercall: exits.RunHypercall,
  internal: exits.RunInternal,
  emulation_failure: exits.RunEmulationFailure,
  system_event: exits.RunSystemEvent,
  msr: exits.RunMsr,
  memory_fault: exits.RunMemoryFault,
  eoi: irqchip.RunEoi,
};

const CONSTANTS: ReadonlyMap<string, number> = new Map(
  [
    CAP,
    exits.EXIT,
    exits.IO_DIRECTION,
    exits.INTERNAL_ERROR,
    exits.RUN_FLAG,
    exits.SYSTEM_EVENT,
    memory.KVM_MEM,
    memory.MANUAL_PROTECT,
    memory.KVM_DIRTY_GFN_F,
    eventfds.IRQFD_FLAG,
    eventfds.IOEVENTFD_FLAG,
    eventfds.CLOCK_FLAG,
    irqchip.IRQCHIP,
    irqchip.IRQ_ROUTING,
    irqchip.PIT_FLAGS,
    events.VCPUEVENT,
    events.INTERRUPT_SHADOW,
    events.MP_STATE,
    events.GUESTDBG,
  ].flatMap((table) => Object.entries(table)),
);

/** The number behind one of the ABI's names, or null. */
export const constant = (name: string): bigint | null => {
  const value = CONSTANTS.get(name);
  return value === undefined ? null : BigInt(value);
};

// ## Paths
//
// `cs.base`, `entries[2].eax`, `debugreg[7]`: a path walks from a record to one scalar and yields where it lies and how wide it is.

interface Place {
  readonly at: number;
  readonly bytes: number;
}

function place(record: Layout<Fields>, path: string, base = 0): Place {
  const match = /^([A-Za-z_][A-Za-z0-9_]*)(?:\[([0-9]+)\])?(?:\.(.+))?$/.exec(path);
  const field = match && (record.fields[match[1] as string] as Field | undefined);
  if (!match || !field) throw new ScriptError(`'${path}' is not a field of ${record.name}; it has ${Object.keys(record.fields).join(', ')}`);
  const index = match[2] === undefined ? null : Number(match[2]);
  const rest = match[3];
  if (field.kind === 'nested') {
    const { of } = field as { of: Layout<Fields> };
    const inner = rest ?? (Object.keys(of.fields).length === 1 ? (Object.keys(of.fields)[0] as string) : null);
    if (inner === null)
      throw new ScriptError(`'${path}' is a record of ${record.name}, not a field; name one of ${Object.keys(of.fields).join(', ')}`);
    return place(of, inner, base + field.at(index ?? 0));
  }
  if (rest !== undefined) throw new ScriptError(`'${path}' goes on past a plain field of ${record.name}`);
  if (field.kind === 'bytes') {
    if (index === null) {
      if (field.bytes > 8) throw new ScriptError(`'${path}' is ${field.bytes} bytes long; pick one, as ${match[1]}[0]`);
      return { at: base + field.offset, bytes: field.bytes };
    }
    if (index >= field.bytes) throw new ScriptError(`'${path}' is past the end of ${field.bytes} bytes`);
    return { at: base + field.offset + index, bytes: 1 };
  }
  if (index !== null) throw new ScriptError(`'${path}' indexes a plain field of ${record.name}`);
  return { at: base + field.offset, bytes: field.bytes };
}

function placeIn({ head, tail }: Shape, path: string): Place {
  const match = tail && new RegExp(`^${tail.name}\\[([0-9]+)\\](?:\\.(.+))?$`).exec(path);
  if (!tail || !match) return place(head, path);
  const only = Object.keys(tail.of.fields);
  const inner = match[2] ?? (only.length === 1 ? (only[0] as string) : null);
  if (inner === null) throw new ScriptError(`'${path}' is a record; name one of ${only.join(', ')}`);
  return place(tail.of, inner, head.bytes + Number(match[1]) * tail.of.bytes);
}

function placeInRun(path: string): Place {
  const dot = path.indexOf('.');
  const union = dot > 0 ? RUN_UNION[path.slice(0, dot)] : undefined;
  return union ? place(union, path.slice(dot + 1)) : place(exits.KvmRun as Layout<Fields>, path);
}

// ## Names to bytes

const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');

function littleEndian(value: bigint, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  for (let i = 0, rest = BigInt.asUintN(64, value); i < bytes; i++, rest >>= 8n) out[i] = Number(rest & 0xffn);
  return out;
}

function numericValue(value: number | string, what: string): bigint {
  const number = typeof value === 'number' ? BigInt(value) : numberOf(value, constant);
  if (number === null) throw new ScriptError(`${what}: '${value}' is neither a number nor a constant of the ABI`);
  return number;
}

interface Patch {
  readonly at: number;
  readonly bytes: Uint8Array;
}
interface Pointer {
  readonly at: number;
  readonly memory: string;
  readonly offset: number;
}

interface Descriptor {
  readonly at: number;
  readonly bytes: number;
  readonly fd: string;
}

interface Assembled {
  readonly patches: Patch[];
  readonly pointers: Pointer[];
  readonly descriptors: Descriptor[];
}

function assemble(fields: FieldValues, locate: (path: string) => Place): Assembled {
  const patches: Patch[] = [];
  const pointers: Pointer[] = [];
  const descriptors: Descriptor[] = [];
  for (const [path, value] of Object.entries(fields) as [string, FieldValue][]) {
    const { at, bytes } = locate(path);
    if (typeof value === 'object' && 'fd' in value) {
      descriptors.push({ at, bytes, fd: value.fd });
      continue;
    }
    if (typeof value === 'object') {
      if (bytes !== 8) throw new ScriptError(`'${path}' is ${bytes} bytes wide and cannot hold an address`);
      pointers.push({ at, memory: value.memory, offset: value.offset ?? 0 });
      continue;
    }
    const number = numericValue(value, path);
    if (bytes < 8 && number >> BigInt(8 * bytes) !== 0n) throw new ScriptError(`'${path}' is ${bytes} bytes wide; ${String(value)} does not fit`);
    patches.push({ at, bytes: littleEndian(number, bytes) });
  }
  return { patches, pointers, descriptors };
}

const parseHexBytes = (text: string): Uint8Array => Uint8Array.from(text.match(/[0-9a-f]{2}/g) ?? [], (pair) => Number.parseInt(pair, 16));

/** How one step's reply becomes observations. */
interface Reading {
  readonly as: string;
  /** What `ret` means: a plain number, a descriptor, or nothing worth reporting. */
  readonly ret: 'number' | 'fd' | 'silent';
  readonly fields: readonly { readonly key: string; readonly place: Place }[];
}

export interface CompiledScript {
  readonly ops: readonly WireOp[];
  /** One per op; null where the script reads nothing. */
  readonly readings: readonly (Reading | null)[];
}

/** Whether the script ends each mapped vCPU and descriptor itself does not matter: adapters close everything when a script ends. */
export function compileScript(testCase: Case): CompiledScript {
  const ops: WireOp[] = [];
  const readings: (Reading | null)[] = [];
  const indexOf = new Map<string, number>(); // step name -> op index, for `like` and for mmap's length
  const names = new Map<string, string>(); // descriptors, maps and memory: what kind of thing a name is

  const known = (name: string, kind: string, step: number): string => {
    if (names.get(name) !== kind) throw new ScriptError(`step ${step}: there is no ${kind} called '${name}' yet`);
    return name;
  };
  const declare = (name: string, kind: string, step: number): string => {
    if (names.has(name)) throw new ScriptError(`step ${step}: the name '${name}' is already taken`);
    names.set(name, kind);
    return name;
  };
  const target = (name: string, step: number): string => {
    const kind = names.get(name);
    if (kind !== 'map' && kind !== 'memory') throw new ScriptError(`step ${step}: '${name}' is neither a map nor memory`);
    return name;
  };
  const offset = (at: number | string | undefined): WireOffset => (typeof at === 'string' ? { in: placeInRun(at).at } : (at ?? 0));

  const emit = (op: WireOp, reading: Reading | null = null, as?: string): void => {
    if (as !== undefined) indexOf.set(as, ops.length);
    ops.push(op);
    readings.push(reading);
  };
  const reading = (
    as: string | undefined,
    ret: Reading['ret'],
    gets: readonly string[] = [],
    locate: (path: string) => Place = placeInRun,
  ): Reading | null => {
    if (as === undefined) {
      if (gets.length > 0) throw new ScriptError(`'get' needs a name for what it reads: give the step an 'as'`);
      return null;
    }
    return { as, ret, fields: gets.map((path) => ({ key: `${as}.${path}`, place: locate(path) })) };
  };

  const noFields =
    (request: string) =>
    (path: string): Place => {
      throw new ScriptError(`${request} returns no structure, so it has no '${path}'`);
    };

  for (const [i, step] of (testCase.kvm?.script ?? []).entries()) compileStep(step, i);

  function compileStep(step: ScriptStep, i: number): void {
    if (step.do === 'open') {
      emit({ do: 'open', path: step.path ?? '/dev/kvm', fd: declare(step.fd, 'descriptor', i) }, reading(step.as, 'fd'), step.as);
    } else if (step.do === 'close') {
      emit({ do: 'close', fd: known(step.fd, 'descriptor', i) }, reading(step.as, 'number'), step.as);
    } else if (step.do === 'allocate') {
      emit({ do: 'allocate', memory: declare(step.memory, 'memory', i), bytes: step.bytes });
    } else if (step.do === 'ioctl') {
      compileIoctl(step, i);
    } else if (step.do === 'mmap') {
      const fd = known(step.fd, 'descriptor', i);
      let bytes: number | { resultOf: number };
      if (typeof step.bytes === 'number') bytes = step.bytes;
      else {
        const from = indexOf.get(step.bytes ?? 'size');
        if (from === undefined)
          throw new ScriptError(`step ${i}: mmap takes its length from a step called '${step.bytes ?? 'size'}', and there is none`);
        bytes = { resultOf: from };
      }
      const at = step.offset === undefined ? {} : { offset: step.offset };
      emit({ do: 'mmap', fd, map: declare(step.map, 'map', i), bytes, ...at }, reading(step.as, 'number'), step.as);
    } else if (step.do === 'eventfd') {
      const { initial = 0, flags = 0 } = step;
      emit({ do: 'eventfd', fd: declare(step.fd, 'descriptor', i), initial, flags }, reading(step.as, 'fd'), step.as);
    } else if (step.do === 'read') {
      const value = { key: step.as, place: { at: 0, bytes: EVENTFD_BYTES } };
      emit({ do: 'read', fd: known(step.fd, 'descriptor', i), count: EVENTFD_BYTES }, { as: step.as, ret: 'number', fields: [value] }, step.as);
    } else if (step.do === 'write') {
      const bytes = toBase64(littleEndian(numericValue(step.value, 'write'), EVENTFD_BYTES));
      emit({ do: 'write', fd: known(step.fd, 'descriptor', i), bytes }, reading(step.as, 'number'), step.as);
    } else if (step.do === 'poke') {
      const to = target(step.target, i);
      if (step.bytes !== undefined) emit({ do: 'poke', target: to, at: offset(step.at), bytes: toBase64(parseHexBytes(step.bytes)) });
      else for (const { at, bytes } of assemble(step.fields ?? {}, placeInRun).patches) emit({ do: 'poke', target: to, at, bytes: toBase64(bytes) });
    } else if (step.do === 'peek') {
      const from = target(step.target, i);
      if (step.count !== undefined) {
        const value = { key: step.as, place: { at: 0, bytes: step.count } };
        emit({ do: 'peek', target: from, at: offset(step.at), count: step.count }, { as: step.as, ret: 'silent', fields: [value] }, step.as);
      } else emit({ do: 'peek', target: from, at: 0, count: RUN_BYTES }, reading(step.as, 'silent', step.get), step.as);
    } else {
      const fd = known(step.fd, 'descriptor', i);
      emit({ do: 'run', fd, map: known(step.map, 'map', i), resume: step.resume ?? true }, reading(step.as, 'number', step.get), step.as);
    }
  }

  function compileIoctl(step: Extract<ScriptStep, { do: 'ioctl' }>, i: number): void {
    const fd = known(step.fd, 'descriptor', i);
    const code = step.request.startsWith('0x') ? Number(step.request) : (IOCTL as Readonly<Record<string, number>>)[step.request];
    if (code === undefined) throw new ScriptError(`step ${i}: ${step.request} is not a request of this ABI`);
    const request = hex(code);
    const result = step.result === undefined ? {} : { result: declare(step.result, 'descriptor', i) };
    const ret = step.result === undefined ? 'number' : 'fd';
    const shaped = SHAPES[step.request];
    if (step.arg === undefined && step.like === undefined && !(shaped && step.get)) {
      if (!shaped) emit({ do: 'ioctl', fd, request, ...result }, reading(step.as, ret, step.get, noFields(step.request)), step.as);
      else emit({ do: 'ioctl', fd, request, bytes: toBase64(new Uint8Array(shaped.head.bytes)), ...result }, reading(step.as, ret), step.as);
      return;
    }
    if (typeof step.arg === 'number' || typeof step.arg === 'string') {
      emit(
        { do: 'ioctl', fd, request, number: hex(numericValue(step.arg, step.request)), ...result },
        reading(step.as, ret, step.get, noFields(step.request)),
        step.as,
      );
      return;
    }
    if (!shaped) throw new ScriptError(`step ${i}: ${step.request} takes no structure that the suite knows`);
    const locate = (path: string): Place => placeIn(shaped, path);
    const { patches, pointers, descriptors } = assemble(step.arg ?? {}, locate);
    for (const { fd: name } of descriptors) known(name, 'descriptor', i);
    const read = reading(step.as, ret, step.get, locate);
    const reach = [
      ...patches.map(({ at, bytes }) => at + bytes.length),
      ...pointers.map(({ at }) => at + 8),
      ...descriptors.map(({ at, bytes }) => at + bytes),
      ...(read?.fields ?? []).map((f) => f.place.at + f.place.bytes),
    ];
    const tail = shaped.tail ? shaped.tail.of.bytes : 0;
    const needed = Math.max(shaped.head.bytes, ...reach);
    const bytes = tail === 0 ? needed : shaped.head.bytes + Math.ceil((needed - shaped.head.bytes) / tail) * tail;
    const moved = { ...(pointers.length > 0 && { pointers }), ...(descriptors.length > 0 && { descriptors }) };
    if (step.like !== undefined) {
      const base = indexOf.get(step.like);
      if (base === undefined) throw new ScriptError(`step ${i}: there is no earlier step called '${step.like}'`);
      const onTop = patches.map(({ at, bytes: patch }) => ({ at, bytes: toBase64(patch) }));
      emit({ do: 'ioctl', fd, request, base, patches: onTop, ...moved, ...result }, read, step.as);
      return;
    }
    const image = new Uint8Array(bytes);
    for (const patch of patches) image.set(patch.bytes, patch.at);
    emit({ do: 'ioctl', fd, request, bytes: toBase64(image), ...moved, ...result }, read, step.as);
  }

  return { ops, readings };
}

// ## Bytes to names

export interface ScriptReport {
  readonly observations: readonly (readonly [string, string])[];
  /** Why a key was not observed: the first step that could not be made. */
  whyMissing(key: string): string | null;
  /** The adapter's reply does not fit the script: its mistake, said in a sentence; or null. */
  readonly malformed: string | null;
}

/** Reads the adapter's raw replies back into named observations. */
export function readSteps({ ops, readings }: CompiledScript, steps: readonly WireStep[]): ScriptReport {
  const observations: [string, string][] = [];
  const skipped = new Map<string, string>();
  const report = (malformed: string | null): ScriptReport => ({
    observations,
    malformed,
    whyMissing: (key) => skipped.get(key.split('.')[0] as string) ?? null,
  });
  if (steps.length > ops.length) return report(`the adapter answered ${steps.length} steps of ${ops.length}`);
  for (const [i, op] of ops.entries()) {
    const read = readings[i];
    const step = steps[i];
    if (!read) continue;
    if (step === undefined || 'skipped' in step) {
      skipped.set(read.as, step === undefined ? `the adapter did not get to this ${op.do}` : step.skipped);
      continue;
    }
    const ret = BigInt(step.ret);
    if (read.ret === 'number') observations.push([`${read.as}.ret`, ret < 0n ? errnoName(Number(-ret)) : hex(ret)]);
    if (read.ret === 'fd') observations.push([`${read.as}.ret`, ret < 0n ? errnoName(Number(-ret)) : 'fd']);
    if (read.fields.length === 0 || (op.do === 'read' && ret < 0n)) continue; // a read that failed has read nothing
    const bytes = Buffer.from(step.bytes ?? '', 'base64');
    for (const { key, place: at } of read.fields) {
      if (at.at + at.bytes > bytes.length) return report(`step ${i} (${op.do}) returned ${bytes.length} bytes, too few to hold ${key}`);
      let value = 0n;
      for (let b = at.bytes - 1; b >= 0; b--) value = (value << 8n) | BigInt(bytes[at.at + b] as number);
      observations.push([key, hex(value)]);
    }
  }
  return report(null);
}
