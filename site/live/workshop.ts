// # A worker that translates
//
// The worker that runs the guest has one of its own, which is gone when it is.

import { RemoteWorkshop, type SentMade, type SentOrder } from '../../chapters/01-hardware-background/engine/translator/workshop.ts';

class WorkerWorkshop extends RemoteWorkshop {
  #worker: Worker | null = null;

  protected start(): void {
    this.#worker = new Worker(new URL('./workshop-worker.ts', import.meta.url), { type: 'module' });
    this.#worker.onmessage = ({ data }: MessageEvent<SentMade>) => this.received(data);
  }
  protected send(message: SentOrder): void {
    this.#worker?.postMessage(message);
  }
  /** Messages come between two turns of the event loop. */
  deliver(): void {}
}

/** Null where there is no processor to spare. */
export const workerWorkshop = (): RemoteWorkshop | null => (navigator.hardwareConcurrency < 2 ? null : new WorkerWorkshop());
