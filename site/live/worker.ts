// # The worker
//
// Runs a session in slices, between which it listens: a pause takes effect within a slice. Positions in a link are reached here too, by running to them.

import { accessesTo, crossings, exitOf, nextAccess, routeAt } from '../../chapters/05-pio-mmio/route.ts';
import { BookSession } from './book-session.ts';
import type { Command, Report, Snapshot } from './protocol.ts';
import type { Session } from './session.ts';
import { traceHash } from './trace-hash.ts';

/** Instructions at once on the way to a position. */
const SLICE = 1_000_000;
/** A guest that has retired this many is running for ever; the page says so rather than heating the room. */
const MOST_INSTRUCTIONS = 200_000_000;
const FRAME_MS = 50;
/** Events in one report: a trace of a million is handed over in pieces. */
const PIECE = 20_000;

const post = (report: Report): void => postMessage(report);

let session: Session | null = null;
let sentEvents = 0;
let sentConsole = 0;
let running = false;
let perSecond = 0;
let owed = 0; // instructions that a slow run may still execute
let exits = 0;
let userExits = 0;

function snapshot(of: Session): Snapshot {
  return {
    instructions: of.instructions,
    idle: of.idle,
    events: of.events.length,
    exits,
    userExits,
    ending: of.ending,
    vcpu: of.vcpu,
    vcpus: of.vcpus,
    groups: of.registers(),
    code: of.code(),
    queues: of.queues(),
  };
}

/** Sends what is new. */
function report(): void {
  if (!session) return;
  do {
    const from = sentEvents;
    const events = session.events.slice(from, from + PIECE);
    for (const event of events) {
      if (event.kind === 'kvm_exit') exits++;
      if (event.kind === 'kvm_userspace_exit' && event.reason !== 'EINTR') userExits++;
    }
    sentEvents += events.length;
    const console = session.console.slice(sentConsole);
    sentConsole += console.length;
    post({ say: 'state', running, snapshot: snapshot(session), from, events, console });
  } while (sentEvents < session.events.length);
}

async function finish(): Promise<void> {
  running = false;
  report();
  const of = session;
  if (!of) return;
  const hash = await traceHash(of.events, of.dropped);
  if (session === of) post({ say: 'hash', hash });
}

function slice(): void {
  if (!session || !running) return;
  if (session.ending === null) {
    if (perSecond > 0) {
      owed += (perSecond * FRAME_MS) / 1000;
      const whole = Math.floor(owed);
      owed -= whole;
      if (whole > 0) session.advance(whole);
    } else session.go(FRAME_MS);
  }
  if (session.ending !== null) {
    void finish();
    return;
  }
  if (session.instructions - session.idle >= MOST_INSTRUCTIONS) {
    running = false;
    report();
    post({ say: 'failed', message: `The guest has run ${MOST_INSTRUCTIONS.toLocaleString('en')} instructions without an end; paused.` });
    return;
  }
  report();
  setTimeout(slice, perSecond > 0 ? FRAME_MS : 0);
}

/** Runs to a position. */
function seek(to: Session, at: number, events: number): void {
  while (to.ending === null && to.instructions < at) to.advance(Math.min(SLICE, at - to.instructions));
  // The same instruction count may stand before and after an exit; the number of events tells which.
  while (to.ending === null && to.events.length < events && to.instructions <= at) to.toExit(1);
}

/** Follows an access: the one that an event belongs to, or a neighbour of it. */
function follow(of: Session, event: number, step: -1 | 0 | 1): void {
  const { events } = of;
  const from = step === 0 ? exitOf(events, event) : nextAccess(events, event, step);
  const route = from === null ? null : routeAt(events, from, of.lookup);
  const same = route?.access ? accessesTo(events, route.access) : { kernel: 0, user: 0 };
  post({ say: 'route', route, same, all: crossings(events), step });
}

function obey(command: Command): void {
  if (command.do === 'load') {
    running = false;
    session?.dispose();
    session = null;
    [sentEvents, sentConsole, owed, exits, userExits] = [0, 0, 0, 0, 0];
    const fresh = new BookSession(command);
    seek(fresh, command.at, command.events);
    session = fresh;
    if (fresh.ending === null) report();
    else void finish();
    return;
  }
  if (!session) return;
  if (command.do === 'route') {
    follow(session, command.event, command.step);
  } else if (command.do === 'pause') {
    if (running) {
      running = false;
      report();
    }
  } else if (session.ending !== null) {
    return;
  } else if (command.do === 'run') {
    perSecond = command.perSecond;
    if (!running) {
      running = true;
      slice();
    }
  } else {
    running = false;
    if (command.do === 'step') session.advance(1);
    else session.toExit(MOST_INSTRUCTIONS);
    if (session.ending === null) report();
    else void finish();
  }
}

addEventListener('message', ({ data }: MessageEvent<Command>) => {
  try {
    obey(data);
  } catch (error) {
    running = false;
    post({ say: 'failed', message: error instanceof Error ? error.message : String(error) });
  }
});
post({ say: 'ready' });
