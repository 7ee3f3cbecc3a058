// # The outer loop
//
// A guest is run by a loop in which almost nothing happens: call KVM_RUN, look why it came back, answer, call again. QEMU's is `kvm_cpu_exec()`;
// every monitor has one. This is it for kernels whose KVM_RUN is certain to return: the kernel of this book counts instructions and comes back when its
// bound is reached, the host's is interrupted by a clock. Several processors share the one thread and take turns; a turn ends when a run was interrupted or the processor
// halted. QEMU's TCG ran its processors so for years. It is slow, and on a kernel that
// counts instructions it is deterministic.

import { GUESTDBG } from '../02-kvm-objects/abi/events.ts';
import type { Vcpu } from '../02-kvm-objects/kvm.ts';
import type { Attention } from './attention.ts';
import { Board, type RunResult } from './board.ts';
import type { Outcome } from './platform.ts';

/** When to give up on a guest that does not end by itself. */
interface Limits {
  /** Returns from KVM_RUN, of whatever reason. */
  readonly exits?: number;
  /** Runs that used up the kernel's bound without any other exit. */
  readonly bounds?: number;
  /** Asked after each return; true ends the run. For limits that only the caller can measure. */
  readonly expired?: () => boolean;
}

const DEFAULT_EXITS = 10_000_000;
const DEFAULT_BOUNDS = 10_000;

// @clause x86.smp.locked
// @clause x86.smp.ordering
/** A machine whose processors take turns in the calling thread. */
export class Machine extends Board {
  #turn = 0;

  /** The processor whose turn it is. */
  get current(): Vcpu {
    return this.vcpus[this.#turn] as Vcpu;
  }

  /** Sends an external interrupt, or an NMI, to a processor: delivered when it can take it. */
  interrupt(what: number | 'nmi', id = 0): void {
    this.#at(id).add(what);
    this.#wake();
  }

  /** Runs until the guest ends or a limit is reached. */
  run({ exits = DEFAULT_EXITS, bounds = DEFAULT_BOUNDS, expired }: Limits = {}): RunResult {
    for (let exit = 0, bound = 0; exit < exits; exit++) {
      const outcome = this.advance();
      if (outcome.kind === 'end') return this.result(outcome.end, outcome.exitCode, outcome.detail);
      if (outcome.kind === 'interrupted' && ++bound >= bounds) return this.#timeout(`${bounds} runs to the kernel's bound`);
      if (expired?.()) return this.#timeout('the limit given by the caller');
    }
    return this.#timeout(`${exits} exits`);
  }

  /** One KVM_RUN of the processor whose turn it is, answered. For callers that want to look in between. */
  advance(): Outcome {
    const vcpu = this.current;
    const attention = this.#at(this.#turn);
    attention.offer(vcpu);
    const outcome = this.answer(vcpu, vcpu.run());
    if (outcome.kind === 'halted') {
      attention.halted = !attention.wakes(vcpu.page);
      return this.#pass() ? outcome : { kind: 'end', end: 'halt', exitCode: null, detail: 'every processor has halted' };
    }
    if (outcome.kind === 'interrupted') this.#pass();
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

  #timeout(detail: string): RunResult {
    return this.result('timeout', null, detail);
  }
}
