// # The machine around the processor
//
// What is left of a computer when the processor and the memory are the kernel's business: two buses, whatever hangs on them, and one function that
// answers an exit. It reads the shared page and nothing else of the processor, so it does not matter who ran the guest, on which thread, or in which kernel.
//
// This class has no device. A machine is made by deriving from it: the small one of this chapter, and later a whole PC.

import { EXIT, exitName, RunSystemEvent, SYSTEM_EVENT } from '../02-kvm-objects/abi/exits.ts';
import type { Vcpu } from '../02-kvm-objects/kvm.ts';
import type { RunPage } from '../02-kvm-objects/run-page.ts';
import { Attention } from './attention.ts';
import { Bus, loadValue, PORT_COUNT, storeValue, type Width } from './devices/bus.ts';
import { describe, field, kind, type SavedPart, type StateDescription, savedPart } from './devices/state.ts';

const ENDS = [
  'debug-exit', // the guest wrote its status to the debug-exit port
  'halt', // every processor waits for an interrupt that nothing can send
  'triple-fault',
  'timeout', // the caller's limit
  'stopped', // the caller asked
  'shutdown', // the guest asked for power off, reset, or reported a crash
  'reset',
  'crash',
  'fail-entry', // the hardware refused the guest's state
  'internal-error', // the kernel gave up; `detail` says on what
  'memory-fault',
  'unexpected-exit', // an exit that this machine did not ask for
] as const;

/** How a machine's run can end. */
export type End = (typeof ENDS)[number];

/** What the loop is to do after an exit: go on, pass the turn on, wait for an interrupt, look at a debug stop, or end. */
export type Outcome =
  | { readonly kind: 'continue' | 'interrupted' | 'halted' | 'debug' }
  | { readonly kind: 'end'; readonly end: End; readonly exitCode: number | null; readonly detail: string };

export const CONTINUE: Outcome = { kind: 'continue' };
const INTERRUPTED: Outcome = { kind: 'interrupted' };
const HALTED: Outcome = { kind: 'halted' };
const DEBUG: Outcome = { kind: 'debug' };

export const ending = (end: End, detail: string, exitCode: number | null = null): Outcome => ({ kind: 'end', end, exitCode, detail });

/** How a device wants the run to end. */
interface Wish {
  readonly end: End;
  readonly detail: string;
  readonly exitCode: number | null;
}

const isWidth = (bytes: number): bytes is Width => bytes === 1 || bytes === 2 || bytes === 4 || bytes === 8;

export abstract class Chassis {
  readonly ports = new Bus('ports', PORT_COUNT);
  readonly mmio = new Bus('memory');
  /** How often each exit reason was answered. */
  readonly exits: Record<string, number> = {};
  #wish: Outcome | null = null;

  /** Everything that came out of the first serial port. */
  abstract get console(): Uint8Array;

  /** Whether something may still come from outside: then a machine in which everything sleeps waits instead of ending. */
  get expectsInput(): boolean {
    return false;
  }

  /** Whether HLT is answered by the kernel, because the local interrupt controller is in it. */
  get sleepsInKernel(): boolean {
    return false;
  }

  /** What waits for a processor; a machine with an interrupt controller in user space has its own kind. */
  attentionFor(_vcpu: Vcpu): Attention {
    return new Attention();
  }

  /** Called when a processor that may be asleep has something to look at. Set by whoever can wake it. */
  onWake: (vcpu: number) => void = () => {};

  /** Called when the earliest of the devices' timers has become another. Set by the board. */
  onTimers: () => void = () => {};

  /** Sends an external interrupt, or an NMI, straight to the processor whose access is being answered. Set by the board. */
  onInject: (what: number | 'nmi') => void = () => {};

  /** Told after each return of KVM_RUN, before it is answered. */
  returned(_vcpu: Vcpu): void {}

  /** Called by a device that wants the machine to end: power off, reset, exit. The first wish counts; the loop grants it after the present access. */
  ask(end: End, detail: string, exitCode: number | null = null): void {
    this.#wish ??= ending(end, detail, exitCode);
  }

  /** The end that a device has asked for, once. */
  takeWish(): Outcome | null {
    const wish = this.#wish;
    this.#wish = null;
    return wish;
  }

  /** Every device back to its state at power-on. */
  reset(): void {}

  /** The machine goes away: whatever devices have of the kernel's is given back. The VM still exists. */
  dispose(): void {}

  /** Answers one return from KVM_RUN. `reason` is KVM_EXIT_INTR for an interrupted run; the rest is read from the page. */
  answer(reason: number, vcpu: Vcpu): Outcome {
    const { page } = vcpu;
    this.returned(vcpu);
    const name = exitName(reason);
    this.exits[name] = (this.exits[name] ?? 0) + 1;
    switch (reason) {
      case EXIT.KVM_EXIT_IO:
        this.#answerPort(page);
        return this.takeWish() ?? CONTINUE;
      case EXIT.KVM_EXIT_MMIO:
        this.#answerMmio(page);
        return this.takeWish() ?? CONTINUE;
      case EXIT.KVM_EXIT_INTR:
        return INTERRUPTED;
      case EXIT.KVM_EXIT_IRQ_WINDOW_OPEN:
      case EXIT.KVM_EXIT_SET_TPR:
        return CONTINUE;
      case EXIT.KVM_EXIT_HLT:
        return HALTED;
      case EXIT.KVM_EXIT_DEBUG:
        return DEBUG;
      case EXIT.KVM_EXIT_SHUTDOWN:
        return ending('triple-fault', page.describe());
      case EXIT.KVM_EXIT_FAIL_ENTRY:
        return ending('fail-entry', page.describe());
      case EXIT.KVM_EXIT_INTERNAL_ERROR:
        return ending('internal-error', page.describe());
      case EXIT.KVM_EXIT_MEMORY_FAULT:
        return ending('memory-fault', page.describe());
      case EXIT.KVM_EXIT_SYSTEM_EVENT:
        return ending(systemEvent(page), page.describe());
      default:
        return this.answerOther(reason, vcpu) ?? ending('unexpected-exit', page.describe());
    }
  }

  /** Exits that only a machine with more in it asks for. Null: unexpected. */
  protected answerOther(_reason: number, _vcpu: Vcpu): Outcome | null {
    return null;
  }

  // A string instruction with a repeat count is one exit and many accesses: the device sees each, in order, in the width that the guest used.
  #answerPort(page: RunPage): void {
    const { ioPort, ioSize, ioCount, ioOut } = page;
    const data = page.ioData();
    if (!isWidth(ioSize)) return;
    if (!ioOut) {
      this.ports.readString(ioPort, ioSize, data.subarray(0, ioCount * ioSize));
      return;
    }
    for (let item = 0; item < ioCount; item++) this.ports.write(ioPort, ioSize, loadValue(data, item * ioSize, ioSize));
  }

  // The kernel splits an access at a page boundary, so a length can be 3, 5, 6 or 7. No bus has such a width: those go byte by byte.
  #answerMmio(page: RunPage): void {
    const { mmioAddress, mmioLength, mmioWrite } = page;
    const data = page.mmioData();
    const width: Width = isWidth(mmioLength) ? mmioLength : 1;
    for (let at = 0; at + width <= data.length; at += width) {
      if (mmioWrite) this.mmio.write(mmioAddress + at, width, loadValue(data, at, width));
      else storeValue(data, at, width, this.mmio.read(mmioAddress + at, width));
    }
  }

  // ## What is saved
  //
  // Every device joins this list when it is put into the machine, with the table that says what its state is. Nobody else needs to know what there is.

  readonly #saved: (() => readonly SavedPart[])[] = [];

  /** Adds a device. No two have the same name. */
  keep<O>(name: string, object: O, table: StateDescription<O>): void {
    this.#saved.push(() => [savedPart(name, object, table)]);
  }

  readonly #busy: (() => string | null)[] = [];

  /** Adds somebody who may be in the middle of something that cannot be written down. A machine is saved when nobody is. */
  mayBeBusy(busy: () => string | null): void {
    this.#busy.push(busy);
  }

  /** What somebody is in the middle of; null: the machine can be saved now. */
  get busyNow(): string | null {
    for (const busy of this.#busy) {
      const what = busy();
      if (what !== null) return what;
    }
    return null;
  }

  /** Adds whatever somebody has, asked when it is needed. */
  keepAll(parts: () => readonly SavedPart[]): void {
    this.#saved.push(parts);
  }

  /** All of them, in the order of joining. */
  get savedParts(): readonly SavedPart[] {
    return [savedPart<Chassis>('chassis', this, Chassis.STATE), ...this.#saved.flatMap((parts) => parts())];
  }

  /** A wish that has not been granted yet is all that is left of an access that is over. */
  static readonly STATE = describe<Chassis>('chassis', 1, {
    wish: field(
      kind.maybe(kind.record<Wish>({ end: kind.oneOf(ENDS), detail: kind.text(1024), exitCode: kind.maybe(kind.i32) })),
      (chassis) => (chassis.#wish?.kind === 'end' ? chassis.#wish : null),
      (chassis, wish) => {
        chassis.#wish = wish && ending(wish.end, wish.detail, wish.exitCode);
      },
    ),
  });
}

function systemEvent(page: RunPage): End {
  const { type } = RunSystemEvent.load(page.view);
  if (type === SYSTEM_EVENT.KVM_SYSTEM_EVENT_SHUTDOWN) return 'shutdown';
  if (type === SYSTEM_EVENT.KVM_SYSTEM_EVENT_RESET) return 'reset';
  return type === SYSTEM_EVENT.KVM_SYSTEM_EVENT_CRASH ? 'crash' : 'unexpected-exit';
}
