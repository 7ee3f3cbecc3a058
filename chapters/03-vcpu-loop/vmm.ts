// # The outer loop
//
// A guest is run by a loop in which almost nothing happens: call KVM_RUN, look why it came back, answer, call again. QEMU's is `kvm_cpu_exec()`;
// every monitor has one. This is it for kernels whose KVM_RUN is certain to return: the kernel of this book counts instructions and comes back when
// its bound is reached, the host's is interrupted by a clock. Several processors share the one thread and take turns; a turn ends when a run was
// interrupted or the processor halted. QEMU's TCG ran its processors so for years. It is slow, and on a kernel that counts instructions it is
// deterministic.

import { GUESTDBG } from '../02-kvm-objects/abi/events.ts';
import { EXIT } from '../02-kvm-objects/abi/exits.ts';
import type { Vcpu } from '../02-kvm-objects/kvm.ts';
import type { Attention } from './attention.ts';
import { Board, type RunResult } from './board.ts';
import { type Chassis, ending, type Outcome } from './chassis.ts';
import { describe, index, type SavedPart, savedPart } from './devices/state.ts';
import type { Platform } from './platform.ts';

/** When to give up on a guest that does not end by itself, and what to do about one that wants to begin again. */
interface Limits {
  /** Returns from KVM_RUN, of whatever reason. */
  readonly exits?: number;
  /** Runs that used up the kernel's bound without any other exit. */
  readonly bounds?: number;
  /** Asked after each return; true ends the run. For limits that only the caller can measure. */
  readonly expired?: () => boolean;
  /** A guest that asks for a reset, or shuts down by a triple fault, gets its reset; otherwise that is an end. */
  readonly reboot?: boolean;
}

/**
 * What the caller does between two returns of KVM_RUN: a promise is waited for, `undefined` costs nothing. When the machine is idle, nothing in it will
 * happen by itself; then `undefined` means that nothing will come from outside either.
 */
type Interlude = (idle: boolean) => Promise<void> | undefined;

const DEFAULT_EXITS = 10_000_000;
const DEFAULT_BOUNDS = 10_000;

const NOTHING_MORE = ending('halt', 'every processor has halted');

// @clause x86.smp.locked
// @clause x86.smp.ordering
/** A machine whose processors take turns in the calling thread. */
export class Machine<C extends Chassis = Platform> extends Board<C> {
  #turn = 0;
  #stopped = false;
  #interrupted = true;
  /** Processors in a row that were found asleep without any time between, and what the time was. */
  #asleep = 0;
  #asleepSince = 0;
  /** The present pause of the whole machine has been seen by whoever runs it. */
  #idle = false;

  /** The processor whose turn it is. */
  get current(): Vcpu {
    return this.vcpus[this.#turn] as Vcpu;
  }

  /** Sends an external interrupt, or an NMI, to a processor: delivered when it can take it. */
  interrupt(what: number | 'nmi', id = 0): void {
    this.#at(id).add(what);
    this.#wake();
  }

  /** Ends the present run before its next KVM_RUN. */
  stop(): void {
    this.#stopped = true;
  }

  /** Runs until the guest ends or a limit is reached. */
  run(limits: Limits = {}): RunResult {
    const watch = new Watch(this, limits);
    for (;;) {
      const outcome = this.advance();
      const end = watch.see(outcome) ?? (this.#idle ? NOTHING_MORE : null);
      if (end?.kind === 'end') return this.result(end.end, end.exitCode, end.detail);
    }
  }

  /** The same for callers with an event loop to serve. */
  async runAsync(interlude: Interlude, limits: Limits = {}): Promise<RunResult> {
    const watch = new Watch(this, { exits: Number.POSITIVE_INFINITY, bounds: Number.POSITIVE_INFINITY, ...limits });
    for (;;) {
      const outcome = this.advance();
      let end = watch.see(outcome);
      const pause = end ? undefined : interlude(this.#idle);
      if (pause) await pause;
      else if (this.#idle) end ??= NOTHING_MORE;
      if (this.#idle) this.#wake();
      if (end?.kind === 'end') return this.result(end.end, end.exitCode, end.detail);
    }
  }

  /** One KVM_RUN of the processor whose turn it is, answered. For callers that want to look in between. */
  advance(): Outcome {
    this.#idle = false;
    if (this.#stopped) {
      this.#stopped = false;
      return ending('stopped', 'by the caller');
    }
    this.keepTime(this.#interrupted);
    const wish = this.platform.takeWish(); // a timer may have had one
    if (wish) return wish;
    this.#wake();
    if (this.#at(this.#turn).halted && !this.#pass()) return this.#sleep();
    const vcpu = this.current;
    const attention = this.#at(this.#turn);
    attention.offer(vcpu);
    if (!attention.started) {
      attention.halted = true; // it has just been told to wait
      return { kind: 'halted' };
    }
    const outcome = this.answer(vcpu, this.enter(vcpu));
    this.#interrupted = outcome.kind === 'interrupted';
    if (outcome.kind === 'halted') {
      attention.halted = !attention.wakes(vcpu.page);
      return this.#pass() ? outcome : this.#sleep();
    }
    if (outcome.kind !== 'interrupted') this.#asleep = 0;
    else if (this.platform.sleepsInKernel) return this.#interruptedInKernel(vcpu, outcome);
    else this.#pass();
    return outcome;
  }

  /** Executes one guest instruction of the processor whose turn it is, by KVM_SET_GUEST_DEBUG, and returns how it came out. */
  step(): Outcome {
    const vcpu = this.current;
    vcpu.setGuestDebug(GUESTDBG.KVM_GUESTDBG_ENABLE | GUESTDBG.KVM_GUESTDBG_SINGLESTEP);
    const outcome = this.advance();
    vcpu.setGuestDebug(0);
    return outcome;
  }

  override reset(): void {
    super.reset();
    this.#turn = 0;
    this.#asleep = 0;
    this.#interrupted = true;
  }

  /** Whether the last {@link advance} used up a turn with computing, and not with sleep. */
  get computed(): boolean {
    return this.#asleep === 0;
  }

  // ## When every processor waits
  //
  // Without an interrupt controller in the kernel, HLT comes to user space, and a machine in which every processor waits is a loop over nothing:
  // it sleeps until its next timer. With none armed and no input to come, or with interrupts off everywhere, nothing can ever happen again.

  #sleep(): Outcome {
    const next = this.timers?.next ?? null;
    const deaf = this.vcpus.every((vcpu) => !this.#at(vcpu.id).hears(vcpu.page));
    if (deaf) return NOTHING_MORE;
    if (next === null) {
      this.#idle = this.platform.expectsInput;
      return this.#idle ? { kind: 'halted' } : NOTHING_MORE;
    }
    this.kernel.clock.sleep(next);
    this.keepTime(true);
    return { kind: 'halted' };
  }

  // With one, KVM_RUN itself sleeps, and what comes back is only that it was interrupted: by a signal, by our alarm, or because the kernel of this book
  // found nothing to wait for. The last shows in that a whole round of processors was asleep and no time has passed.

  #interruptedInKernel(vcpu: Vcpu, outcome: Outcome): Outcome {
    this.#turn = (this.#turn + 1) % this.vcpus.length;
    const sleep = this.sleeps(vcpu);
    if (sleep === 'no') {
      this.#asleep = 0;
      return outcome;
    }
    if (sleep === 'for ever' && this.vcpus.every((each) => this.sleeps(each) === 'for ever')) return NOTHING_MORE;
    const now = this.kernel.clock.now();
    this.#asleep = now === this.#asleepSince ? this.#asleep + 1 : 1;
    this.#asleepSince = now;
    if (this.#asleep <= this.vcpus.length || this.timers?.next != null) return outcome;
    this.#asleep = 1;
    this.#idle = this.platform.expectsInput;
    return this.#idle ? outcome : NOTHING_MORE;
  }

  #wake(): void {
    for (const vcpu of this.vcpus) {
      const attention = this.#at(vcpu.id);
      if (attention.halted) attention.halted = !attention.wakes(vcpu.page);
    }
  }

  /** Gives the turn to the next processor that is not halted; false when there is none. */
  #pass(): boolean {
    for (let step = 1; step <= this.vcpus.length; step++) {
      const next = (this.#turn + step) % this.vcpus.length;
      if (this.#at(next).halted) continue;
      this.#turn = next;
      return true;
    }
    return false;
  }

  #at(id: number): Attention {
    const attention = this.attention[id];
    if (!attention) throw new RangeError(`processor ${id} of ${this.vcpus.length}`);
    return attention;
  }

  // ## Between two turns
  //
  // A machine can be written down whenever its loop is between two turns, if one thing is done first. A processor may have left in the middle of an
  // instruction: its access has been answered, and the instruction goes on with the answer at the next KVM_RUN. No register says so. So each
  // processor is called once more, with the request to come back at once; a kernel finishes then what it has begun.

  /** Finishes every access that is half done. */
  settle(): void {
    for (const vcpu of this.vcpus) {
      vcpu.page.immediateExit = true;
      try {
        for (;;) {
          const reason = vcpu.run();
          if (reason === EXIT.KVM_EXIT_INTR) break;
          const outcome = this.answer(vcpu, reason);
          if (outcome.kind === 'end') this.platform.ask(outcome.end, outcome.detail, outcome.exitCode);
        }
      } finally {
        vcpu.page.immediateExit = false;
      }
    }
  }

  // What is not in the table only says when to look again; a machine that has been written down, or restored, looks at once.

  static readonly STATE = describe<Machine<Chassis>>(
    'machine',
    1,
    {
      turn: index(
        (machine) => machine.vcpus.length,
        (machine) => machine.#turn,
        (machine, turn) => {
          machine.#turn = turn;
        },
      ),
    },
    (machine) => {
      machine.#interrupted = true;
      machine.#asleep = 0;
      machine.#asleepSince = 0;
      machine.#idle = false;
    },
  );

  /** Everything but memory, processors and what is in the kernel. */
  get savedParts(): readonly SavedPart[] {
    return [
      savedPart<Machine<Chassis>>('machine', this as Machine<Chassis>, Machine.STATE),
      ...this.attention.map((attention, id) => attention.savedPart(`attention ${id}`)),
      ...this.platform.savedParts,
    ];
  }
}

/** Counts against the limits of one run. */
class Watch {
  readonly #machine: Machine<Chassis>;
  readonly #limits: Limits;
  #exits = 0;
  #bounds = 0;

  constructor(machine: Machine<Chassis>, limits: Limits) {
    this.#machine = machine;
    this.#limits = limits;
  }

  /** The end that an outcome is, or that it brings about. */
  see(outcome: Outcome): Outcome | null {
    const { exits = DEFAULT_EXITS, bounds = DEFAULT_BOUNDS, expired, reboot = false } = this.#limits;
    if (outcome.kind === 'end') {
      if (!reboot || (outcome.end !== 'reset' && outcome.end !== 'triple-fault')) return outcome;
      this.#machine.reset();
    }
    if (++this.#exits >= exits) return ending('timeout', `${exits} exits`);
    if (outcome.kind === 'interrupted' && this.#machine.computed && ++this.#bounds >= bounds)
      return ending('timeout', `${bounds} runs to the kernel's bound`);
    return expired?.() ? ending('timeout', 'the limit given by the caller') : null;
  }
}
