// The chapter's recorded runs, which its sentences and figures quote.

import { PORT_COUNT } from '../../03-vcpu-loop/devices/bus.ts';
import type { BenchRun } from '../bench.ts';
import { cardTraffic, diskRequests } from '../counts.ts';
import { askTally, doorbell, firstGuest, interruptsUnder, moveCard, TICKS } from '../index.ts';
import type { Arrangement } from '../interrupts/controller.ts';
import { LAPIC, LAPIC_BASE, LAPIC_BYTES } from '../interrupts/lapic-registers.ts';
import { CARD_BAR, FRAMES, framesThereAndBack, MASTER, readDisk, SECTORS, type Transfer } from '../operations.ts';
import { CONFIG_BYTES, EXTENDED_CONFIG_BYTES } from '../pci/config-space.ts';
import { crossings, settled } from '../route.ts';

export { FRAMES, SECTORS };
export const first = firstGuest();

/** A stretch of ports with one answer. */
export interface PortRange {
  readonly from: number;
  readonly to: number;
  readonly device: string;
}

/** Asks each port who is there. */
function portMap({ pc }: BenchRun): PortRange[] {
  const ranges: { from: number; to: number; device: string; start: number }[] = [];
  for (let port = 0; port < PORT_COUNT; port++) {
    const found = pc.ports.whoAnswers(port);
    if (!found) continue;
    const [start, last] = [port - found.offset, ranges.at(-1)];
    if (last && last.to === port - 1 && last.start === start && last.device === found.device.name) last.to = port;
    else ranges.push({ from: port, to: port, device: found.device.name, start });
  }
  return ranges;
}

export const portRanges = portMap(first);
export const ports = { regions: portRanges.length, claimed: portRanges.reduce((sum, { from, to }) => sum + to - from + 1, 0) };

const ASKED = 7;
export const asked = askTally(ASKED);
export const card = moveCard();
export const HEADER_0_BYTES = CONFIG_BYTES;
export const ECAM_FUNCTION_BYTES = EXTENDED_CONFIG_BYTES;
export const ecam = { base: first.pc.chipset.ecamPlan?.gpa ?? 0, bytes: (first.pc.chipset.ecamPlan?.buses ?? 0) << 20 };

// ## Interrupts

/** The three arrangements, as QEMU orders them. */
export const ARRANGEMENTS: readonly Arrangement[] = ['on', 'split', 'off'];
const interruptRuns = Object.fromEntries(ARRANGEMENTS.map((each) => [each, interruptsUnder(each)])) as Record<Arrangement, BenchRun>;
export const interruptExits = Object.fromEntries(ARRANGEMENTS.map((each) => [each, settled(interruptRuns[each].marked)])) as Record<
  Arrangement,
  ReturnType<typeof settled>
>;
export const arranged = Object.fromEntries(ARRANGEMENTS.map((each) => [each, crossings(interruptRuns[each].marked)])) as Record<
  Arrangement,
  ReturnType<typeof crossings>
>;

/** What a processor with virtual interrupts would have kept to itself. */
function withoutExits() {
  const { marked } = interruptRuns.on;
  const touched = marked.flatMap((event) =>
    event.kind === 'kvm_mmio' && event.gpa >= LAPIC_BASE && event.gpa < LAPIC_BASE + LAPIC_BYTES ? [event.gpa - LAPIC_BASE] : [],
  );
  const of = (register: keyof typeof LAPIC): number => touched.filter((offset) => offset === LAPIC[register]).length;
  const [eoi, self, timer] = [of('EOI'), of('ICR'), of('INITIAL')];
  const windows = interruptExits.on.find(({ reason }) => reason === 'INTERRUPT_WINDOW')?.kernel ?? 0;
  return { page: touched.length, eoi, self, timer, windows, left: arranged.on.exits - (eoi - TICKS) - self - windows };
}
export const saved = withoutExits();

export const bellRuns = { exit: doorbell('exit'), eventfd: doorbell('eventfd') };
export const bells = { rings: crossings(bellRuns.exit.run.marked).exits, counted: bellRuns.eventfd.counted };

// ## The disk and the card

type DiskRequest = ReturnType<typeof diskRequests>[number];
const request = (by: Transfer): DiskRequest => {
  const [found] = diskRequests(readDisk(by).marked, 'disk', MASTER);
  if (!found) throw new Error(`${by}: no request in the trace`);
  return found;
};
export const diskRuns: Readonly<Record<Transfer, DiskRequest>> = {
  'word by word': request('word by word'),
  string: request('string'),
  'bus master': request('bus master'),
};
const allOf = ({ handled }: DiskRequest): number => handled.kernel + handled.user;
export const diskCosts = {
  words: diskRuns['word by word'].exits,
  string: diskRuns.string.exits,
  master: { ...diskRuns['bus master'].exits, exits: allOf(diskRuns['bus master']) },
  perSector: { words: diskRuns['word by word'].exits.data / SECTORS, string: diskRuns.string.exits.data / SECTORS },
};

const frames = framesThereAndBack();
export const frameTraffic = cardTraffic(frames.marked, CARD_BAR);
export const frameExits = crossings(frames.marked);
export const frameCosts = { perFrame: frameExits.exits / FRAMES, userPerFrame: frameExits.user / FRAMES };
/** Exits of the run that touched the local APIC's page, and those by which the guest went to sleep. */
export const frameRest = {
  apic: frames.marked.filter((event) => event.kind === 'kvm_mmio' && event.gpa >= LAPIC_BASE && event.gpa < LAPIC_BASE + LAPIC_BYTES).length,
  sleep: settled(frames.marked).find(({ reason }) => reason === 'HLT')?.kernel ?? 0,
};
