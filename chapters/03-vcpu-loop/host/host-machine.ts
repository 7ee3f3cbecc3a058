// # A machine with real threads
//
// The same board, run as QEMU runs it: a thread for each processor, and one loop that owns the devices. An exit is handed from the vCPU's thread to
// the loop, answered there, and handed back; so device code never meets two processors at once, and needs no lock. The rule is: *a device is touched by
// the loop's thread alone*. Exits, timers, input and doorbells that the kernel keeps count of are all callbacks of the loop; each runs to its end before
// the next begins. What the threads do share is guest memory, and there a device and its driver are on their own, as in hardware: whoever publishes
// something there does so with an atomic store, after what it stands for.
//
// The price is that every exit crosses to another thread and back, and on a busy host each crossing waits for the scheduler. QEMU avoids it by
// letting the vCPU's thread run the device itself, under one big lock; a JavaScript object cannot be entered from two threads. A machine with one
// processor has no use for the crossing: `Machine` runs it in the thread of its devices.
//
// A real kernel has no instruction bound. Nothing that a guest does guarantees that KVM_RUN comes back, so every run has a watchdog, and the
// watchdog has a kick.

import type { TimerQueue } from '../../02-kvm-objects/clock.ts';
import type { HostKernel } from '../../02-kvm-objects/host/host-kernel.ts';
import type { Vcpu } from '../../02-kvm-objects/kvm.ts';
import { Board, type BoardOptions, type RunResult } from '../board.ts';
import type { Chassis, End } from '../chassis.ts';
import type { Platform } from '../platform.ts';
import { VcpuThread } from './vcpu-thread.ts';

interface HostMachineOptions<C extends Chassis> extends Omit<BoardOptions<C>, 'kernel'> {
  readonly kernel: HostKernel;
}

interface HostLimits {
  /** The watchdog. */
  readonly timeoutMs?: number;
  /** Exits over all processors. */
  readonly exits?: number;
  /** A guest that asks for a reset, or shuts down by a triple fault, gets its reset; otherwise that is an end. */
  readonly reboot?: boolean;
}

const DEFAULT_TIMEOUT_MS = 10_000;
/** When nothing has left the kernel for so long, the processors are called out and asked whether they can ever wake. */
const LOOK_MS = 200;
const NS_PER_MS = 1e6;
/** Three weeks and a bit: asked to wait longer, the event loop does not wait at all. */
export const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;
/** After so long without a pause the device loop lets timers and sockets have a turn. */
const YIELD_MS = 5;

interface Ending {
  readonly end: End;
  readonly exitCode: number | null;
  readonly detail: string;
}

const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A machine whose processors run at the same time, on the host's own KVM. */
export class HostMachine<C extends Chassis = Platform> extends Board<C> {
  #threads: VcpuThread[] = [];
  #ending: Ending | null = null;
  #wakers = new Map<number, () => void>();
  #exitsLeft = 0;
  #yieldAt = 0;
  #ring: NodeJS.Timeout | null = null;
  #ringAt: number | null = null;
  #running = false;
  /** Processors that the last look found asleep for ever. */
  readonly #lost = new Set<number>();
  #answered = 0;
  readonly #onProcessExit = (): void => this.#release();

  /** @throws Errno, RangeError as {@link Board}; Error when a thread cannot start */
  static async create<C extends Chassis = Platform>(options: HostMachineOptions<C>): Promise<HostMachine<C>> {
    const machine = new HostMachine<C>(options);
    try {
      for (const vcpu of machine.vcpus) machine.#threads.push(await VcpuThread.start(vcpu, options.kernel.libc));
    } catch (error) {
      await machine.shutdown();
      throw error;
    }
    // A worker inside KVM_RUN would keep the process from ending.
    process.once('exit', machine.#onProcessExit);
    return machine;
  }

  private constructor(options: HostMachineOptions<C>) {
    super(options);
  }

  /** Runs until the guest ends, the watchdog bites, or {@link stop}. Every processor is out of the guest when the promise is kept. */
  async run({ timeoutMs = DEFAULT_TIMEOUT_MS, exits = Number.POSITIVE_INFINITY, reboot = false }: HostLimits = {}): Promise<RunResult> {
    this.#exitsLeft = exits;
    this.#yieldAt = performance.now() + YIELD_MS;
    const finite = timeoutMs <= LONGEST_TIMEOUT_MS;
    const watchdog = finite && setTimeout(() => this.#finish({ end: 'timeout', exitCode: null, detail: `${timeoutMs} ms` }), timeoutMs);
    const look = this.platform.sleepsInKernel ? setInterval(() => this.#look(), LOOK_MS) : null;
    this.#running = true;
    try {
      for (;;) {
        this.#ending = null;
        this.#lost.clear();
        this.#keepRinging();
        await Promise.all(this.#threads.map((thread) => this.#drive(thread)));
        const { end, exitCode, detail } = (this.#ending as Ending | null) ?? { end: 'stopped', exitCode: null, detail: '' };
        if (!reboot || (end !== 'reset' && end !== 'triple-fault')) return this.result(end, exitCode, detail);
        this.reset(); // every processor has come out of the guest to get here
      }
    } finally {
      this.#running = false;
      if (watchdog) clearTimeout(watchdog);
      if (look) clearInterval(look);
      if (this.#ring) clearTimeout(this.#ring);
      this.#ringAt = null;
      for (const thread of this.#threads) thread.kickNow(); // after an error in one of them
    }
  }

  /** Ends the present run from outside. */
  stop(): void {
    this.#finish({ end: 'stopped', exitCode: null, detail: 'by the caller' });
  }

  /** Sends an external interrupt, or an NMI, to a processor. A running guest is called out to take it. */
  interrupt(what: number | 'nmi', id = 0): void {
    const attention = this.attention[id];
    if (!attention) throw new RangeError(`processor ${id} of ${this.vcpus.length}`);
    attention.add(what);
    this.#threads[id]?.kick();
    this.#wakers.get(id)?.();
  }

  override dispose(): void {
    void this.shutdown();
  }

  /** Ends the threads, then everything else. */
  override async shutdown(): Promise<void> {
    process.removeListener('exit', this.#onProcessExit);
    const threads = this.#threads;
    this.#threads = [];
    const ended = Promise.all(threads.map((thread) => thread.quit()));
    super.dispose();
    await ended;
  }

  async #drive(thread: VcpuThread): Promise<void> {
    const { vcpu } = thread;
    const attention = this.attention[vcpu.id]!;
    while (!this.#ending) {
      if (attention.halted) await this.#halt(vcpu);
      attention.offer(vcpu);
      if (!attention.started) {
        attention.halted = true;
        continue;
      }
      if (this.#ending) return;
      const running = thread.run();
      const result = typeof running === 'number' ? running : await running;
      if (this.#ending) return;
      const outcome = this.answer(vcpu, vcpu.ran(result));
      this.#answered++;
      this.#keepRinging();
      if (outcome.kind === 'end') this.#finish(outcome);
      else if (outcome.kind === 'interrupted' && this.platform.sleepsInKernel) this.#interrupted(vcpu);
      else if (--this.#exitsLeft <= 0) this.#finish({ end: 'timeout', exitCode: null, detail: 'the exit limit' });
      else if (outcome.kind === 'halted') await this.#halt(vcpu);
      if (performance.now() >= this.#yieldAt) {
        await pause();
        this.#yieldAt = performance.now() + YIELD_MS;
      }
    }
  }

  // ## Time and sleep
  //
  // The devices' timers are the event loop's: one timeout, for the earliest of them. An interrupt line that a timer pulls needs no kick, because the
  // controller in the kernel knows which processor to wake; only what waits in user space has to be carried in.

  #keepRinging(): void {
    const { timers } = this;
    if (!timers) return;
    timers.runDue();
    const wish = this.platform.takeWish();
    if (wish?.kind === 'end') this.#finish(wish);
    this.#carry();
    this.#setRing(timers);
  }

  // Not every timer is armed by an exit's answer: input came, or a device was called by an eventfd while its driver went on.

  protected override timersChanged(): void {
    if (this.#running && this.timers) this.#setRing(this.timers);
  }

  #setRing(timers: TimerQueue): void {
    if (timers.next === this.#ringAt) return;
    if (this.#ring) clearTimeout(this.#ring);
    this.#ringAt = timers.next;
    if (timers.next === null) return;
    const waitMs = Math.min(Math.max(0, Math.ceil((timers.next - timers.now()) / NS_PER_MS)), LONGEST_TIMEOUT_MS);
    this.#ring = setTimeout(() => {
      this.#ringAt = null;
      this.#keepRinging();
    }, waitMs);
  }

  /** Calls out the processors for which something waits. */
  #carry(): void {
    for (const [id, attention] of this.attention.entries()) {
      if (!attention.waits) continue;
      this.#threads[id]?.kick();
      this.#wakers.get(id)?.();
    }
  }

  #look(): void {
    if (this.#answered > 0 || this.platform.expectsInput) {
      this.#answered = 0;
      return;
    }
    for (const thread of this.#threads) thread.kick();
  }

  /** A run that was called out: it may have been asleep with nothing to wake it. */
  #interrupted(vcpu: Vcpu): void {
    this.#answered--;
    if (this.sleeps(vcpu) !== 'for ever') this.#lost.clear();
    else if (this.#lost.add(vcpu.id).size === this.vcpus.length) this.#finish({ end: 'halt', exitCode: null, detail: 'every processor has halted' });
  }

  /** Waits until a halted processor has a reason to go on. When all wait and nothing is to come, the machine has ended. */
  async #halt(vcpu: Vcpu): Promise<void> {
    const attention = this.attention[vcpu.id]!;
    while (!this.#ending && !attention.wakes(vcpu.page)) {
      attention.halted = true;
      if (this.#allLost()) {
        this.#finish({ end: 'halt', exitCode: null, detail: 'every processor has halted' });
        break;
      }
      await new Promise<void>((resolve) => this.#wakers.set(vcpu.id, resolve));
      this.#wakers.delete(vcpu.id);
    }
    attention.halted = !attention.wakes(vcpu.page);
  }

  #allLost(): boolean {
    if (!this.attention.every(({ halted }) => halted)) return false;
    const hears = this.vcpus.some(({ id, page }) => this.attention[id]!.hears(page));
    return !hears || (this.timers?.next == null && !this.platform.expectsInput);
  }

  #finish(ending: Ending): void {
    this.#ending ??= ending;
    for (const thread of this.#threads) thread.kick();
    for (const wake of [...this.#wakers.values()]) wake();
  }

  #release(): void {
    for (const thread of this.#threads) thread.kickNow();
  }
}
