// # The address bar
//
// `#payload=halt&at=120&events=40&event=38&speed=10`: which guest, how far it has run, which event is chosen, how fast. Everything else follows from these.

export interface Place {
  readonly payload: string | null;
  /** The time, in instructions. */
  readonly at: number;
  /** Events of the trace: tells before from after an exit at the same instruction count. */
  readonly events: number;
  /** Index of the chosen event. */
  readonly event: number | null;
  readonly perSecond: number;
  readonly input: string;
}

const count = (text: string | null): number => {
  const n = Number(text ?? 0);
  return Number.isSafeInteger(n) && n >= 0 ? n : 0;
};

export function readPlace(hash: string): Place {
  const fields = new URLSearchParams(hash.replace(/^#/, ''));
  const event = fields.get('event');
  return {
    payload: fields.get('payload'),
    at: count(fields.get('at')),
    events: count(fields.get('events')),
    event: event === null ? null : count(event),
    perSecond: count(fields.get('speed')),
    input: fields.get('input') ?? '',
  };
}

/** The shortest hash for a place. */
export function writePlace({ payload, at, events, event, perSecond, input }: Place): string {
  const fields = new URLSearchParams();
  if (payload !== null) fields.set('payload', payload);
  if (at > 0) fields.set('at', String(at));
  if (events > 0) fields.set('events', String(events));
  if (event !== null) fields.set('event', String(event));
  if (perSecond > 0) fields.set('speed', String(perSecond));
  if (input !== '') fields.set('input', input);
  return `#${fields}`;
}
