// # Which format
//
// Linux calls this `vring_create_virtqueue`: the features decide, and nobody above ever asks again.

import { PackedVirtqueue } from './packed-virtqueue.ts';
import { SplitVirtqueue } from './split-virtqueue.ts';
import type { Virtqueue, VirtqueueOptions } from './virtqueue.ts';

/** The driver's end of a queue, in the negotiated format. @throws Errno ENOMEM */
export const makeVirtqueue = <T>(options: VirtqueueOptions): Virtqueue<T> =>
  options.features.packed ? new PackedVirtqueue<T>(options) : new SplitVirtqueue<T>(options);
