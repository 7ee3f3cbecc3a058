// # The machine around the processor
//
// What is left of a computer when the processor and the memory are the kernel's business: two buses, a few small devices, and one function that
// answers an exit. It is given the shared page and nothing else, so it does not matter who ran the guest, on which thread, or in which kernel.

import type { Trace } from '../01-hardware-background/trace.ts';
import { EXIT, exitName, RunSystemEvent, SYSTEM_EVENT } from '../02-kvm-objects/abi/exits.ts';
import type { RunPage } from '../02-kvm-objects/run-page.ts';
import { Bus, loadValue, storeValue, type Width } from './devices/bus.ts';
import { DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit } from './devices/debug-exit.ts';
import { DEBUGCON_PORT, DebugConsole } from './devices/debugcon.ts';
import { INJECT_PORT, INJECT_PORTS, Injector } from './devices/injector.ts';
import { SCRATCH_BYTES, SCRATCH_GPA, SCRATCH_PORT, SCRATCH_PORTS, Scratch } from './devices/scratch.ts';
import { COM1_PORT, SERIAL_PORTS, Serial } from './devices/serial.ts';

/** How a machine's run can end. */
export type End =
  | 'debug-exit' // the guest wrote its status to the debug-exit port
  | 'halt' // every processor waits for an interrupt that nothing can send
  | 'triple-fault'
  | 'timeout' // the caller's limit
  | 'stopped' // the caller asked
  | 'shutdown' // the guest asked for power off, reset, or reported a crash
  | 'reset'
  | 'crash'
  | 'fail-entry' // the hardware refused the guest's state
  | 'internal-error' // the kernel gave up; `detail` says on what
  | 'memory-fault'
  | 'unexpected-exit'; // an exit that this machine did not ask for

/** What the loop is to do after an exit: go on, pass the turn on, wait for an interrupt, look at a debug stop, or end. */
export type Outcome =
  | { readonly kind: 'continue' | 'interrupted' | 'halted' | 'debug' }
  | { readonly kind: 'end'; readonly end: End; readonly exitCode: number | null; readonly detail: string };

const CONTINUE: Outcome = { kind: 'continue' };
const INTERRUPTED: Outcome = { kind: 'interrupted' };
const HALTED: Outcome = { kind: 'halted' };
const DEBUG: Outcome = { kind: 'debug' };

const ending = (end: End, detail: string, exitCode: number | null = null): Outcome => ({ kind: 'end', end, exitCode, detail });

const isWidth = (bytes: number): bytes is Width => bytes === 1 || bytes === 2 || bytes === 4 || bytes === 8;

export class Platform {
  readonly ports = new Bus('ports');
  readonly mmio = new Bus('memory');
  readonly serial: Serial;
  readonly debugcon: DebugConsole;
  readonly debugExit: DebugExit;
  readonly injector: Injector;
  readonly scratchPio: Scratch;
  readonly scratchMmio: Scratch;
  /** How often each exit reason was answered. */
  readonly exits: Record<string, number> = {};

  constructor({ trace = null, onByte = null }: { trace?: Trace | null; onByte?: ((byte: number) => void) | null } = {}) {
    this.serial = new Serial({ trace, onByte });
    this.debugcon = new DebugConsole({ trace });
    this.debugExit = new DebugExit({ trace });
    this.injector = new Injector({ trace });
    this.scratchPio = new Scratch('scratch-pio', SCRATCH_PORTS, { trace });
    this.scratchMmio = new Scratch('scratch-mmio', SCRATCH_BYTES, { trace });
    this.ports.attach(COM1_PORT, SERIAL_PORTS, this.serial);
    this.ports.attach(DEBUGCON_PORT, 1, this.debugcon);
    this.ports.attach(DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, this.debugExit);
    this.ports.attach(INJECT_PORT, INJECT_PORTS, this.injector);
    this.ports.attach(SCRATCH_PORT, SCRATCH_PORTS, this.scratchPio);
    this.mmio.attach(SCRATCH_GPA, SCRATCH_BYTES, this.scratchMmio);
  }

  /** Answers one return from KVM_RUN. `reason` is KVM_EXIT_INTR for an interrupted run; the rest is read from the page. */
  answer(reason: number, page: RunPage): Outcome {
    const name = exitName(reason);
    this.exits[name] = (this.exits[name] ?? 0) + 1;
    switch (reason) {
      case EXIT.KVM_EXIT_IO:
        this.#answerPort(page);
        return this.#leaving() ?? CONTINUE;
      case EXIT.KVM_EXIT_MMIO:
        this.#answerMmio(page);
        return this.#leaving() ?? CONTINUE;
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
        return ending(this.#systemEvent(page), page.describe());
      default:
        return ending('unexpected-exit', page.describe());
    }
  }

  #leaving(): Outcome | null {
    const { status } = this.debugExit;
    return status === null ? null : ending('debug-exit', `status ${status}`, status);
  }

  #systemEvent(page: RunPage): End {
    const { type } = RunSystemEvent.load(page.view);
    if (type === SYSTEM_EVENT.KVM_SYSTEM_EVENT_SHUTDOWN) return 'shutdown';
    if (type === SYSTEM_EVENT.KVM_SYSTEM_EVENT_RESET) return 'reset';
    return type === SYSTEM_EVENT.KVM_SYSTEM_EVENT_CRASH ? 'crash' : 'unexpected-exit';
  }

  // A string instruction with a repeat count is one exit and many accesses: the device sees each, in order, in the width that the guest used.
  #answerPort(page: RunPage): void {
    const { ioPort, ioSize, ioCount, ioOut } = page;
    const data = page.ioData();
    if (!isWidth(ioSize)) return;
    for (let item = 0; item < ioCount; item++) {
      if (ioOut) this.ports.write(ioPort, ioSize, loadValue(data, item * ioSize, ioSize));
      else storeValue(data, item * ioSize, ioSize, this.ports.read(ioPort, ioSize));
    }
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
}
