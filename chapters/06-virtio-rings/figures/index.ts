// The chapter's recorded runs, which its sentences and figures quote.

import { type BenchRun, mark, runOnBench } from '../../05-pio-mmio/bench.ts';
import { bellRuns, diskCosts, frameCosts } from '../../05-pio-mmio/figures/index.ts';
import { out, times } from '../../05-pio-mmio/guest-program.ts';
import { crossings } from '../../05-pio-mmio/route.ts';
import { runBurst } from '../burst.ts';
import { BURST, requestCosts } from '../counts.ts';
import { lettersSent } from '../index.ts';
import { type Load, type Notifications, notifications, type Suppression } from '../notifications.ts';
import { type Format, linesWritten, roundTrip } from '../round-trip.ts';

/** What chapter 5's devices cost. */
export const emulated = { disk: diskCosts.master.exits, frame: frameCosts.perFrame };

export const LETTERS = 100;
export const letters = lettersSent(LETTERS);

export const RING_EXAMPLE = 4;
export const trips = { split: roundTrip('split'), packed: roundTrip('packed') };
const linesOf = (format: Format) => ({ driver: linesWritten(trips[format], 'driver'), device: linesWritten(trips[format], 'device') });
export const lines = { split: linesOf('split'), packed: linesOf('packed') };

const LOAD: Load = { requests: 400, burst: 8, pause: 24, latency: 2 };
export const burst = { requests: LOAD.requests, size: LOAD.burst };
export const SUPPRESSIONS: readonly Suppression[] = ['none', 'flags', 'event index'];
export const told: Readonly<Record<Suppression, Readonly<Record<Format, Notifications>>>> = Object.fromEntries(
  SUPPRESSIONS.map((how) => [how, { split: notifications('split', how, LOAD), packed: notifications('packed', how, LOAD) }]),
) as Record<Suppression, Record<Format, Notifications>>;

// ## What a request costs

export { BURST };
export const request = { pci: requestCosts('block', { transport: 'pci' }), mmio: requestCosts('block', { transport: 'mmio' }) };
/** With all that can be had: an eventfd behind the doorbell, and the event index. */
export const bell = runBurst({ eventIdx: true, ioeventfd: true, irqfd: true });

// ## A doorbell by port and by memory

const SCRATCH_PORT = 0x5e0;
const RINGS = crossings(bellRuns.exit.run.marked).exits;
const byPort = runOnBench({ code: [out(SCRATCH_PORT, 1), mark, times(RINGS, out(SCRATCH_PORT, 1)), mark] });
/** References to page tables that the processor made. */
const walked = ({ marked }: BenchRun): number => marked.filter(({ kind }) => kind === 'walk').length;
export const kickRuns = { port: byPort, memory: bellRuns.exit.run };
export const kicks = { rings: RINGS, port: walked(byPort) / RINGS, memory: walked(bellRuns.exit.run) / RINGS };
