// The worker's half: see `workshop.ts`.

import { type SentOrder, serveOrders } from '../../chapters/01-hardware-background/engine/translator/workshop.ts';

const fill = serveOrders((message) => postMessage(message));
addEventListener('message', ({ data }: MessageEvent<SentOrder>) => fill(data));
