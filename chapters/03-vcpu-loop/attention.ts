// # Getting a processor's attention
//
// A VMM cannot push an interrupt into a guest whenever it likes. The processor takes one only with RFLAGS.IF set and outside the shadow of STI or
// MOV SS, and the kernel reports in the shared page whether that is so. If it is, KVM_INTERRUPT; if not, the VMM asks to be called back at the
// first moment when it will be. An NMI needs no permission.

import type { Vcpu } from '../02-kvm-objects/kvm.ts';
import type { RunPage } from '../02-kvm-objects/run-page.ts';
import { describe, field, kind, type SavedPart, savedPart } from './devices/state.ts';

/** Vectors that wait at most. A guest can ask for more of them than it ever takes; an interrupt controller, which has one bit for each, loses those too. */
const WAITING_LIMIT = 256;

/** What waits for one processor. */
export class Attention {
  halted = false;
  readonly #vectors: number[] = [];
  #nmi = false;
  #asked = false; // the kernel will say when the processor can take the next

  add(what: number | 'nmi'): void {
    if (what === 'nmi') this.#nmi = true;
    else if (this.#vectors.length < WAITING_LIMIT) this.#vectors.push(what);
  }

  /** Whether an external interrupt waits. */
  protected get requested(): boolean {
    return this.#vectors.length > 0;
  }

  /** The processor takes it now: its vector. */
  protected acknowledge(): number {
    return this.#vectors.shift() as number;
  }

  /** Whether something waits to be carried in by the loop, whatever the processor is doing. */
  get waits(): boolean {
    return this.#nmi || (this.requested && !this.#asked);
  }

  /** False while the processor executes nothing at all and waits to be started. */
  get started(): boolean {
    return true;
  }

  /** Forgets what waits: the machine has been reset. */
  clear(): void {
    this.halted = false;
    this.#vectors.length = 0;
    this.#nmi = false;
  }

  // A processor that halted with interrupts off stays halted whatever vectors wait; running it again would make it step over its HLT.
  /** Whether a processor that has just halted has a reason to go on. */
  wakes(page: RunPage): boolean {
    return this.#nmi || (this.requested && page.ifFlag);
  }

  /** Whether a processor that has halted could be woken by an interrupt to come. */
  hears(page: RunPage): boolean {
    return this.wakes(page) || page.ifFlag;
  }

  /** Before each KVM_RUN: hands over what can be handed over, and asks for a window for the rest. */
  offer(vcpu: Vcpu): void {
    if (this.#nmi) {
      this.#nmi = false;
      vcpu.nmi();
    }
    if (this.requested && vcpu.page.readyForInterruptInjection) vcpu.interrupt(this.acknowledge());
    this.#asked = this.requested;
    vcpu.page.requestInterruptWindow = this.#asked;
  }

  static readonly STATE = describe<Attention>('attention', 1, {
    waiting: field(
      kind.record({ halted: kind.flag, vectors: kind.list(kind.u8, WAITING_LIMIT), nmi: kind.flag, asked: kind.flag }),
      (a) => ({ halted: a.halted, vectors: a.#vectors, nmi: a.#nmi, asked: a.#asked }),
      (a, v) => {
        a.#vectors.splice(0, a.#vectors.length, ...v.vectors);
        ({ halted: a.halted, nmi: a.#nmi, asked: a.#asked } = v);
      },
    ),
  });

  /** What is saved of it. */
  savedPart(name: string): SavedPart {
    return savedPart<Attention>(name, this, Attention.STATE);
  }
}
