import { trips } from './index.ts';
import { renderTrip } from './trips.ts';

/** A request through a split ring, store by store. */
export const render = (): string => renderTrip('A round trip in a split ring', trips.split);
