import { trips } from './index.ts';
import { renderTrip } from './trips.ts';

/** The same request through a packed ring. */
export const render = (): string => renderTrip('A round trip in a packed ring', trips.packed);
