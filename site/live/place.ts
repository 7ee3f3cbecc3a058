// # The address bar
//
// `#payload=virtio-block&transport=mmio&ring=packed&at=120&events=40&event=38&speed=10`: which guest, how it reaches its device, how far it has run,
// which event is chosen, how fast. Everything else follows from these.

export interface Place {
  readonly payload: string | null;
  /** How its virtio device is reached, and which ring they share; null: the first that there is. */
  readonly transport: string | null;
  readonly ring: string | null;
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
    transport: fields.get('transport'),
    ring: fields.get('ring'),
    at: count(fields.get('at')),
    events: count(fields.get('events')),
    event: event === null ? null : count(event),
    perSecond: count(fields.get('speed')),
    input: fields.get('input') ?? '',
  };
}

/** The shortest hash for a place. */
export function writePlace({ payload, transport, ring, at, events, event, perSecond, input }: Place): string {
  const fields = new URLSearchParams();
  if (payload !== null) fields.set('payload', payload);
  if (transport !== null) fields.set('transport', transport);
  if (ring !== null) fields.set('ring', ring);
  if (at > 0) fields.set('at', String(at));
  if (events > 0) fields.set('events', String(events));
  if (event !== null) fields.set('event', String(event));
  if (perSecond > 0) fields.set('speed', String(perSecond));
  if (input !== '') fields.set('input', input);
  return `#${fields}`;
}
