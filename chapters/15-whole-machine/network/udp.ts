// # UDP
//
// Two ports, a length and a checksum: the least that a program needs to talk to another program and not only to a machine. The checksum may be
// left out, and then its field is 0; a sum that comes out as 0 is sent as its other representation.
//
// ::layout UdpHeader -- All of it.

import { layout, u16be } from '../../01-hardware-background/layout.ts';
import type { Ipv4 } from './addresses.ts';
import { MTU } from './ethernet.ts';
import { Ipv4Header, type Packet, PROTOCOL, transportSum } from './ipv4.ts';

export const UdpHeader = layout('udp', {
  sourcePort: u16be(0),
  destinationPort: u16be(2),
  length: u16be(4),
  checksum: u16be(6),
});

/** The most that one datagram carries without being cut. */
export const DATAGRAM_LIMIT = MTU - Ipv4Header.bytes - UdpHeader.bytes;

export interface Datagram {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly data: Uint8Array;
}

/** Takes a datagram apart; null when its length or checksum is wrong. */
export function parseDatagram({ source, destination, payload }: Packet): Datagram | null {
  if (payload.length < UdpHeader.bytes) return null;
  const { sourcePort, destinationPort, length, checksum } = UdpHeader.decode(payload);
  if (length < UdpHeader.bytes || length > payload.length) return null;
  const datagram = payload.subarray(0, length);
  // @clause udp.checksum
  if (checksum !== 0 && transportSum(source, destination, PROTOCOL.UDP, datagram) !== 0xffff) return null;
  return { sourcePort, destinationPort, data: datagram.subarray(UdpHeader.bytes) };
}

export function buildDatagram(source: Ipv4, destination: Ipv4, { sourcePort, destinationPort, data }: Datagram): Uint8Array {
  const datagram = new Uint8Array(UdpHeader.bytes + data.length);
  const view = new DataView(datagram.buffer);
  UdpHeader.store(view, 0, { sourcePort, destinationPort, length: datagram.length });
  datagram.set(data, UdpHeader.bytes);
  UdpHeader.fields.checksum.set(view, 0, ~transportSum(source, destination, PROTOCOL.UDP, datagram) & 0xffff || 0xffff);
  return datagram;
}
