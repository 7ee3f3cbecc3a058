// # When delivery fails
//
// An exception's handler is found through tables in memory, and memory may be wrong. So the delivery of one exception can raise another. Usually
// that is harmless: the second is delivered, its handler repairs things, the first instruction is restarted and faults again. A page fault during
// the delivery of an INT 0x80 is of this kind. But some pairs cannot be unravelled, because the second fault shows that the way to the handlers is
// itself broken. For these there is the **double fault**: one more vector, a last attempt. And if even that cannot be delivered, the processor
// gives up. That **triple fault** is a shutdown; on a PC the chipset answers it with a reset, and under a hypervisor it is a VM exit.
//
// ::figure double-fault -- Which second exception makes a double fault of which first one.

import type { Cpu } from '../cpu.ts';
import { Fault, VECTOR } from '../faults.ts';
import { FLAG, OFFSET, SLOT } from '../state.ts';
import { type DeliveredEvent, EVENT_TYPE } from '../vmx/processor.ts';
import { debugDelivered } from './debug.ts';
import { deliver, type Event } from './delivery.ts';

/** Classes of exceptions for the purpose of double faults (Intel SDM vol. 3, "Interrupt 8 -- Double Fault Exception"). */
export type ExceptionClass = 'benign' | 'contributory' | 'page-fault' | 'double-fault';

const CONTRIBUTORY: ReadonlySet<number> = new Set([VECTOR.DE, VECTOR.TS, VECTOR.NP, VECTOR.SS, VECTOR.GP, VECTOR.CP]);

/** The class of an event. Interrupts, external or by software, are benign whatever their vector. */
export function classOf(vector: number, type: number): ExceptionClass {
  if (type !== EVENT_TYPE.HARDWARE_EXCEPTION) return 'benign';
  if (vector === VECTOR.DF) return 'double-fault';
  if (vector === VECTOR.PF || vector === VECTOR.VE) return 'page-fault';
  return CONTRIBUTORY.has(vector) ? 'contributory' : 'benign';
}

// @clause x86.exception.double-fault
// @clause x86.exception.serial
/** What becomes of a second exception met while delivering a first. */
export function combine(first: ExceptionClass, second: ExceptionClass): 'serial' | 'double' | 'triple' {
  if (first === 'benign' || second === 'benign') return 'serial';
  if (first === 'double-fault') return 'triple';
  if (first === 'page-fault') return 'double';
  return second === 'contributory' ? 'double' : 'serial';
}

/** Exceptions reported after the instruction: the handler returns to the next one. #DB can be either; see `raiseDebug`. */
export const TRAPS: ReadonlySet<number> = new Set([VECTOR.BP, VECTOR.OF]);

// @clause x86.exception.fault-rip
const faultEvent = (cpu: Cpu, { vector, errorCode }: Fault): Event => ({
  vector,
  type: EVENT_TYPE.HARDWARE_EXCEPTION,
  errorCode,
  returnTo: cpu.state.slot(TRAPS.has(vector) ? SLOT.NEXT_RIP : SLOT.RIP),
  resume: !TRAPS.has(vector),
});

/** Delivers a fault that the current instruction raised. */
export function raiseFault(cpu: Cpu, fault: Fault): void {
  cpu.intercepts?.exception(fault, 0, 0);
  // @clause x86.paging.error-code
  if (fault.vector === VECTOR.PF && fault.cr2 !== null) cpu.state.set64(OFFSET.CR2, BigInt.asUintN(64, fault.cr2));
  raise(cpu, faultEvent(cpu, fault));
}

/** Delivers #DB with the conditions `dr6`, as a trap (before the instruction at RIP, which has not run) or as a fault. */
export function raiseDebug(cpu: Cpu, dr6: number): void {
  const fault = new Fault(VECTOR.DB);
  cpu.intercepts?.exception(fault, 0, dr6);
  debugDelivered(cpu, dr6);
  const returnTo = cpu.state.slot(SLOT.RIP);
  // The image of RF is as it was: for an instruction breakpoint the handler must set it, or the breakpoint hits again.
  raise(cpu, { vector: VECTOR.DB, type: EVENT_TYPE.HARDWARE_EXCEPTION, errorCode: null, returnTo, resume: false });
}

/**
 * Delivers an event, and whatever becomes of it. `length`: of the instruction, for the types that stem from one.
 * @throws VmExit when the hypervisor wants one of the events on the way.
 */
export function raise(cpu: Cpu, event: Event, length = 0): void {
  let current = event;
  for (;;) {
    cpu.delivering = describe(current, length);
    report(cpu, current);
    try {
      deliver(cpu, current);
      cpu.delivering = null;
      cpu.eventDelivered();
      return;
    } catch (second) {
      if (!(second instanceof Fault)) throw second; // a VM exit; it reports the event in `delivering`
      const next = resolve(cpu, current, second);
      if (next === null) return;
      current = next;
      length = 0;
    }
  }
}

const describe = ({ vector, type, errorCode }: Event, instructionLength: number): DeliveredEvent => ({ vector, type, errorCode, instructionLength });

function report({ trace, state }: Cpu, { vector, type, errorCode }: Event): void {
  if (!trace) return;
  if (type === EVENT_TYPE.HARDWARE_EXCEPTION) {
    trace.emit({ kind: 'exception', vector, errorCode, cr2: vector === VECTOR.PF ? state.get64(OFFSET.CR2) : null, rip: state.slot(SLOT.RIP) });
  } else {
    const source = type === EVENT_TYPE.EXTERNAL ? 'external' : type === EVENT_TYPE.NMI ? 'nmi' : 'software';
    trace.emit({ kind: 'interrupt', vector, source });
  }
}

/** The event that replaces `current`, whose delivery raised `second`; null after a triple fault. */
function resolve(cpu: Cpu, current: Event, second: Fault): Event | null {
  const outcome = combine(classOf(current.vector, current.type), classOf(second.vector, EVENT_TYPE.HARDWARE_EXCEPTION));
  // @clause x86.exception.triple-fault
  if (outcome === 'triple') {
    cpu.trace?.emit({ kind: 'triple_fault' });
    cpu.intercepts?.tripleFault();
    cpu.delivering = null;
    cpu.shutdown();
    return null;
  }
  // The hypervisor is asked about the second exception before the two are combined: KVM relies on seeing it, and combines by itself.
  cpu.intercepts?.exception(second, 0, 0);
  if (second.vector === VECTOR.PF && second.cr2 !== null) cpu.state.set64(OFFSET.CR2, BigInt.asUintN(64, second.cr2));
  if (outcome === 'serial') return { ...faultEvent(cpu, second), returnTo: restart(cpu, current) };
  const double = new Fault(VECTOR.DF, 0);
  cpu.intercepts?.exception(double, 0, 0);
  return { vector: VECTOR.DF, type: EVENT_TYPE.HARDWARE_EXCEPTION, errorCode: 0, returnTo: restart(cpu, current), resume: true };
}

// The second event interrupts at the same place. A trap or an interrupt lies between instructions, so its own return address is the place; INT n,
// INT3 and INTO are instructions, and it is the instruction that is restarted.
function restart({ state }: Cpu, { type, returnTo }: Event): bigint {
  return type === EVENT_TYPE.SOFTWARE_INTERRUPT || type === EVENT_TYPE.SOFTWARE_EXCEPTION ? state.slot(SLOT.RIP) : returnTo;
}

// ## INT n and its kin
//
// The four instructions that raise events on purpose are not quite alike. INT n and INT3 look at the gate's DPL; INT1 does not, as it is meant for
// hardware debuggers. In virtual-8086 mode INT n needs IOPL 3, because the monitor wants to see DOS calls and play DOS; INT3 does not.

/** INT n, INT3, INTO and INT1. */
export function softwareInterrupt(cpu: Cpu, vector: number, type: number, length: number): void {
  const { state } = cpu;
  if (type !== EVENT_TYPE.SOFTWARE_INTERRUPT) {
    const fault = new Fault(vector);
    cpu.intercepts?.exception(fault, length, 0);
    if (vector === VECTOR.DB) debugDelivered(cpu, 0);
  }
  raise(cpu, { vector, type, errorCode: null, returnTo: state.slot(SLOT.NEXT_RIP), resume: false }, length);
}

/** True when INT n is sensitive: virtual-8086 mode with IOPL below 3. */
export const trapsIntN = ({ state }: Cpu): boolean => {
  const flags = state.get32(OFFSET.RFLAGS);
  return (flags & FLAG.VM) !== 0 && (flags & FLAG.IOPL) !== FLAG.IOPL;
};
