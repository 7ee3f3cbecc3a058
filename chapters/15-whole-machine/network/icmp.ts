// # ICMP
//
// The protocol in which IP talks about itself: *are you there*, and *this did not work*. It is what makes a network that refuses something pleasant
// to use. A program whose packets vanish waits for a minute; one that is told "prohibited" says
// so at once.
//
// ::layout IcmpHeader -- The header of an echo.

import { layout, u8, u16be } from '../../01-hardware-background/layout.ts';
import { onesSum } from '../../05-pio-mmio/e1000/offload.ts';
import type { Packet } from './ipv4.ts';

export const IcmpHeader = layout('icmp', {
  type: u8(0),
  code: u8(1),
  checksum: u16be(2),
  identifier: u16be(4), // of an echo; of an error, zero
  sequence: u16be(6),
});

const TYPE = { ECHO_REPLY: 0, UNREACHABLE: 3, ECHO: 8, TIME_EXCEEDED: 11 } as const;

/** What ICMP can say about a packet that went nowhere (RFC 792, RFC 1812). */
export const ICMP_ERROR = {
  PROTOCOL_UNREACHABLE: { type: TYPE.UNREACHABLE, code: 2 },
  PORT_UNREACHABLE: { type: TYPE.UNREACHABLE, code: 3 },
  PROHIBITED: { type: TYPE.UNREACHABLE, code: 13 },
  REASSEMBLY_TIME: { type: TYPE.TIME_EXCEEDED, code: 1 },
} as const;

function sealed(message: Uint8Array): Uint8Array {
  const view = new DataView(message.buffer);
  IcmpHeader.fields.checksum.set(view, 0, 0);
  IcmpHeader.fields.checksum.set(view, 0, ~onesSum(message, 0, message.length) & 0xffff);
  return message;
}

// @clause icmp.echo
/** The answer to an echo request; null for any other message, and for a damaged one. */
export function echoReply(message: Uint8Array): Uint8Array | null {
  if (message.length < IcmpHeader.bytes || onesSum(message, 0, message.length) !== 0xffff) return null;
  const { type, code } = IcmpHeader.decode(message);
  if (type !== TYPE.ECHO || code !== 0) return null;
  const reply = message.slice();
  reply[0] = TYPE.ECHO_REPLY;
  return sealed(reply);
}

/** The sender finds its socket by the ports, which are the first thing behind the header. */
const QUOTED_BYTES = 8;

// An error is never sent about an error. Two hosts that disagree would keep each other busy for good.
// @clause icmp.no-error-about-error
/** An error about a packet: its header and the beginning of what is inside. Null where RFC 1122 forbids one. */
export function icmpError({ type, code }: { readonly type: number; readonly code: number }, about: Packet): Uint8Array | null {
  if (about.fragment === 'later') return null;
  if (about.protocol === 1 && !isQuery(about.payload)) return null;
  const quoted = about.payload.subarray(0, QUOTED_BYTES);
  const message = new Uint8Array(IcmpHeader.bytes + about.header.length + quoted.length);
  IcmpHeader.store(new DataView(message.buffer), 0, { type, code });
  message.set(about.header, IcmpHeader.bytes);
  message.set(quoted, IcmpHeader.bytes + about.header.length);
  return sealed(message);
}

const isQuery = (message: Uint8Array): boolean => message[0] === TYPE.ECHO;
