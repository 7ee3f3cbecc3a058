// # A thread that translates
//
// A running guest seldom lets the event loop come round. So this side does not wait for events: a shared word counts what the thread has sent, and the messages are taken
// out of the port by hand.

import { availableParallelism } from 'node:os';
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { RemoteWorkshop, type SentMade, type SentOrder } from '../translator/workshop.ts';

/** What the thread is started with. */
export interface WorkshopStart {
  readonly port: MessagePort;
  /** One word: how many messages it has sent. */
  readonly sent: Int32Array;
}

class ThreadWorkshop extends RemoteWorkshop {
  readonly #sent = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  readonly #channel = new MessageChannel();
  #received = 0;

  protected start(): void {
    const { port1, port2 } = this.#channel;
    port1.unref();
    const start: WorkshopStart = { port: port2, sent: this.#sent };
    const worker = new Worker(new URL('./workshop-worker.ts', import.meta.url), {
      workerData: start,
      transferList: [port2],
      execArgv: ['--disable-warning=ExperimentalWarning'],
      name: 'translator',
    });
    worker.unref();
    worker.on('error', (error) => {
      throw error;
    });
  }
  protected send(message: SentOrder): void {
    this.#channel.port1.postMessage(message);
  }
  deliver(): void {
    while (Atomics.load(this.#sent, 0) !== this.#received) {
      const got = receiveMessageOnPort(this.#channel.port1);
      if (!got) return;
      this.#received++;
      this.received(got.message as SentMade);
    }
  }
}

let shared: RemoteWorkshop | null = null;
/** The workshop of this process. Null where there is no processor to spare. */
export function threadWorkshop(): RemoteWorkshop | null {
  if (availableParallelism() < 2) return null;
  shared ??= new ThreadWorkshop();
  return shared;
}
