// # A name server that knows no names
//
// Every guest asks for names sooner or later. Silence would be the worst answer: a resolver tries each server several times and waits seconds
// each time. There is a code for what we mean, REFUSED, and a resolver that gets it gives up at once.
//
// ::layout DnsHeader -- A query, and its answer.

import { layout, u16be } from '../../01-hardware-background/layout.ts';

export const DnsHeader = layout('dns', {
  id: u16be(0),
  flags: u16be(2),
  questions: u16be(4),
  answers: u16be(6),
  authorities: u16be(8),
  additional: u16be(10),
});

export const DNS_PORT = 53;

const RESPONSE = 0x8000;
const OPCODE = 0x7800;
const RECURSION_DESIRED = 0x0100;
const RCODE = { FORMAT_ERROR: 1, REFUSED: 5 } as const;
const LABEL_LIMIT = 63;
const NAME_LIMIT = 255;

/** Where the one question of a query ends; null when there is not one, or it does not end. */
function questionEnd(query: Uint8Array): number | null {
  let at = DnsHeader.bytes;
  for (;;) {
    const length = query[at];
    if (length === undefined || length > LABEL_LIMIT || at - DnsHeader.bytes >= NAME_LIMIT) return null; // a question has no pointers
    at += 1 + length;
    if (length === 0) return at + 4 <= query.length ? at + 4 : null; // type and class
  }
}

/** The answer to a query: no. Null for what is no query. */
export function refuseQuery(query: Uint8Array): Uint8Array | null {
  if (query.length < DnsHeader.bytes) return null;
  const { id, flags, questions } = DnsHeader.decode(query);
  if (flags & RESPONSE) return null;
  const end = questions === 1 ? questionEnd(query) : null;
  const answer = query.slice(0, end ?? DnsHeader.bytes);
  DnsHeader.store(new DataView(answer.buffer), 0, {
    id,
    flags: RESPONSE | (flags & (OPCODE | RECURSION_DESIRED)) | (end === null ? RCODE.FORMAT_ERROR : RCODE.REFUSED),
    questions: end === null ? 0 : 1,
    answers: 0,
    authorities: 0,
    additional: 0,
  });
  return answer;
}
