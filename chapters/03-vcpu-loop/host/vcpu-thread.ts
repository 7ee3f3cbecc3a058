// # Driving a vCPU thread
//
// The main thread's half of the handshake. A run is started and awaited; in between the event loop is free, and a kick may come from anywhere in it.

import { Worker } from 'node:worker_threads';
import { KvmRun } from '../../02-kvm-objects/abi/exits.ts';
import type { Libc } from '../../02-kvm-objects/host/libc.ts';
import type { Vcpu } from '../../02-kvm-objects/kvm.ts';
import { KICK_SIGNAL, SPINS, STATE, type ThreadStart, WORD, WORDS } from './handshake.ts';

const IMMEDIATE_EXIT = KvmRun.fields.immediate_exit.offset;
/** A kick that has not been acknowledged is repeated at this interval. One should be enough; a guest must not depend on "should". */
const REKICK_MS = 10;

/** One Worker that runs one vCPU. */
export class VcpuThread {
  readonly vcpu: Vcpu;
  readonly #words = new Int32Array(new SharedArrayBuffer(WORDS * Int32Array.BYTES_PER_ELEMENT));
  readonly #worker: Worker;
  readonly #libc: Libc;
  readonly #ended: Promise<void>;
  #failure: Error | null = null;

  /** Starts the thread and waits until it has said its name. @throws Error when it cannot start */
  static async start(vcpu: Vcpu, libc: Libc): Promise<VcpuThread> {
    const thread = new VcpuThread(vcpu, libc);
    await thread.#until(STATE.STARTING);
    return thread;
  }

  private constructor(vcpu: Vcpu, libc: Libc) {
    this.vcpu = vcpu;
    this.#libc = libc;
    const handled = libc.handleNothing(KICK_SIGNAL);
    if (handled < 0) throw new Error(`sigaction: errno ${-handled}`);
    const start: ThreadStart = { fd: vcpu.fd, words: this.#words };
    this.#worker = new Worker(new URL('./vcpu-worker.ts', import.meta.url), {
      workerData: start,
      execArgv: ['--disable-warning=ExperimentalWarning'],
      name: `vcpu ${vcpu.id}`,
    });
    this.#worker.unref();
    this.#ended = new Promise((resolve) => {
      this.#worker.once('error', (error) => {
        this.#failure = error as Error;
      });
      this.#worker.once('exit', () => {
        Atomics.store(this.#words, WORD.STATE, STATE.QUIT);
        Atomics.notify(this.#words, WORD.STATE);
        resolve();
      });
    });
  }

  get running(): boolean {
    return Atomics.load(this.#words, WORD.STATE) === STATE.RUNNING;
  }

  /** Lets the thread call KVM_RUN and waits for it to come back. Resolves to the call's result, 0 or -errno. */
  run(): Promise<number> | number {
    Atomics.store(this.#words, WORD.STATE, STATE.RUNNING);
    Atomics.notify(this.#words, WORD.STATE);
    for (let spin = 0; spin < SPINS; spin++) if (!this.running) return this.#taken();
    return this.#until(STATE.RUNNING).then(() => this.#taken());
  }

  /** Makes the present run, or the one about to begin, return. The run's own awaiter sees the result. */
  kick(): void {
    if (!this.running) return;
    this.#kickOnce();
    const again = setInterval(() => {
      if (this.running) this.#kickOnce();
      else clearInterval(again);
    }, REKICK_MS);
    again.unref();
  }

  /** The same for a caller that cannot wait for the event loop: returns when the thread is out of KVM_RUN. */
  kickNow(): void {
    while (this.running) {
      this.#kickOnce();
      Atomics.wait(this.#words, WORD.STATE, STATE.RUNNING, REKICK_MS);
    }
  }

  /** Ends the thread. The promise is kept when it is gone. */
  quit(): Promise<void> {
    this.#worker.ref();
    this.kickNow();
    Atomics.store(this.#words, WORD.STATE, STATE.QUIT);
    Atomics.notify(this.#words, WORD.STATE);
    return this.#ended;
  }

  #kickOnce(): void {
    Atomics.store(this.vcpu.page.bytes, IMMEDIATE_EXIT, 1);
    this.#libc.tgkill(Atomics.load(this.#words, WORD.TID), KICK_SIGNAL);
  }

  async #until(left: number): Promise<void> {
    this.#worker.ref(); // a pending waitAsync does not keep the process alive; the thread that will end it does
    while (Atomics.load(this.#words, WORD.STATE) === left) {
      const wait = Atomics.waitAsync(this.#words, WORD.STATE, left);
      if (wait.async) await wait.value;
    }
    this.#worker.unref();
    if (this.#failure) throw this.#failure;
  }

  #taken(): number {
    Atomics.store(this.vcpu.page.bytes, IMMEDIATE_EXIT, 0); // WAITING has been seen: the kicked run is over
    return Atomics.load(this.#words, WORD.RESULT);
  }
}
