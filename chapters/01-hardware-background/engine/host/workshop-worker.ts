// The thread's half: see `workshop-thread.ts`.

import { workerData } from 'node:worker_threads';
import { serveOrders } from '../translator/workshop.ts';
import type { WorkshopStart } from './workshop-thread.ts';

const { port, sent } = workerData as WorkshopStart;
const fill = serveOrders((message) => {
  port.postMessage(message);
  Atomics.add(sent, 0, 1);
});
port.on('message', fill);
